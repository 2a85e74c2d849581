//! What became of the ticks of a schedule: runs of the state and of history, and the record of skips, merged by time.
//!
//! Every tick has exactly one decision (I1), so a logical time is enough to say where a page ends.

use std::ops::Bound;

use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::{LogIndex, RunId, ScheduleId};
use matins_core::state::{RunOrigin, RunRow, SkipRow};
use matins_core::time::Timestamp;
use matins_proto::v1::{ListDecisionsRequest, ListDecisionsResponse, TickDecision};

use crate::serve::api::{Api, core_time, find_schedule, find_workflow, page_size, wire_time, workflow_name};
use crate::serve::error::ApiError;
use crate::serve::page::{Query, invalid};

/// Runs read from history at once.
const BATCH: usize = 200;

pub(super) async fn list(
    api: &Api,
    request: ListDecisionsRequest,
) -> Result<ListDecisionsResponse, ApiError> {
    let query = Query::new("decisions", &(&request.workflow, &request.schedule, &request.since));
    let size = page_size(request.page_size, 50)?;
    let last =
        query.last(&request.page_token)?.map(|last| last.parse().map_err(|_| invalid())).transpose()?;
    let before = last.map_or(Timestamp::MAX, Timestamp::from_millis);
    let name = workflow_name(&request.workflow)?;
    let read = api.read(request.stale).await?;
    find_workflow(&read.state, &name)?;
    let (id, row) = find_schedule(&read.state, &name, &request.schedule)?;
    let since = request.since.map_or(Timestamp::from_millis(i64::MIN), core_time);
    // One more than asked for, to know whether there is a next page.
    let mut found = in_state(&read.state, &id, (since, before), size + 1);
    found.extend(in_history(api, &read.state, &id, (since, before, size + 1)).await?);
    found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    found.dedup_by_key(|(at, _)| *at);
    let is_cut = found.len() > size;
    found.truncate(size);
    let end = found.last().map(|(at, _)| *at).filter(|_| is_cut);
    let kept: u64 = skips_of(&read.state, &id, Timestamp::MAX).map(|(_, row)| u64::from(row.count)).sum();
    Ok(ListDecisionsResponse {
        read_at: Some(read.at),
        decisions: found.into_iter().map(|(_, decision)| decision).collect(),
        next_page_token: end.map(|at| query.token(&at.as_millis().to_string())).unwrap_or_default(),
        skips_forgotten: row.counts.skips.iter().sum::<u64>().saturating_sub(kept),
    })
}

type Dated = (Timestamp, TickDecision);

fn in_state(
    state: &State,
    id: &ScheduleId,
    (since, before): (Timestamp, Timestamp),
    limit: usize,
) -> Vec<Dated> {
    let first = (id.clone(), since, RunId(0));
    let runs = state.runs_by_tick.range(first..(id.clone(), before, RunId(0))).rev();
    let runs = runs.filter_map(|((_, at, run), ())| {
        let row = state.runs.get(run).filter(|row| is_decision(row))?;
        let index = state.transitions.get(&(*run, 1)).map(|first| first.index);
        Some((*at, of_run(state, (*run, row), index)))
    });
    let skips = skips_of(state, id, before).take_while(|(to, _)| *to >= since);
    let skips = skips.map(|(to, row)| (to, of_skip(state, to, row)));
    runs.take(limit).chain(skips.take(limit)).collect()
}

/// Skips whose last tick lies before this instant, the newest first.
fn skips_of<'s>(
    state: &'s State,
    id: &ScheduleId,
    before: Timestamp,
) -> impl Iterator<Item = (Timestamp, &'s SkipRow)> + use<'s> {
    let first = Bound::Included((id.clone(), Timestamp::from_millis(i64::MIN)));
    let skips = state.skips.range((first, Bound::Excluded((id.clone(), before))));
    skips.rev().map(|((_, to), row)| (*to, row))
}

async fn in_history(
    api: &Api,
    state: &State,
    id: &ScheduleId,
    (since, before, limit): (Timestamp, Timestamp, usize),
) -> Result<Vec<Dated>, ApiError> {
    let (mut found, mut before) = (Vec::new(), (before, RunId(0)));
    while found.len() < limit {
        let runs = api.history.runs_of(id, before, BATCH.min(limit)).await?;
        let Some(oldest) = runs.last().map(|run| (run.run.logical_time, run.id)) else { break };
        let meant = runs.iter().filter(|run| run.run.logical_time >= since && is_decision(&run.run));
        found.extend(meant.map(|run| (run.run.logical_time, of_retired(state, run))));
        if oldest.0 < since {
            break;
        }
        before = oldest;
    }
    Ok(found)
}

/// Whether this run is what became of its tick: not a backfill, nor a retry, nor started by hand.
fn is_decision(row: &RunRow) -> bool {
    row.origin == RunOrigin::Schedule && row.retry_of.is_none()
}

fn of_retired(state: &State, run: &RetiredRun) -> TickDecision {
    of_run(state, (run.id, &run.run), run.transitions.first().map(|first| first.index))
}

fn of_run(state: &State, (id, row): (RunId, &RunRow), index: Option<LogIndex>) -> TickDecision {
    TickDecision {
        first: Some(wire_time(row.logical_time)),
        count: 1,
        run_id: Some(id.to_string()),
        run_state: row.state.as_str().to_owned(),
        ..decided(state, row.logical_time, (index, row.created_at))
    }
}

fn of_skip(state: &State, to: Timestamp, row: &SkipRow) -> TickDecision {
    TickDecision {
        first: Some(wire_time(row.from)),
        count: row.count,
        skip_reason: row.reason.as_str().to_owned(),
        ..decided(state, to, (Some(row.index), row.at))
    }
}

fn decided(state: &State, tick: Timestamp, (index, at): (Option<LogIndex>, Timestamp)) -> TickDecision {
    let late = i64::try_from(at.since(tick).0).unwrap_or(i64::MAX);
    TickDecision {
        logical_time: Some(wire_time(tick)),
        decided_at: Some(wire_time(at)),
        lateness: Some(matins_proto::Duration::from_millis(late)),
        index: index.map_or(0, |index| index.0),
        leader: index
            .and_then(|index| state.leader_at(index))
            .map(|node| node.to_string())
            .unwrap_or_default(),
        ..TickDecision::default()
    }
}
