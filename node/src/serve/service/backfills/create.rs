//! Making a backfill, or saying what one would do.

use std::collections::BTreeMap;

use matins_core::command::{Command, CreateBackfill};
use matins_core::id::{RunId, ScheduleId};
use matins_core::state::{Reprocess, RunState, ScheduleRow};
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Refusal, State};
use matins_proto::v1::backfill_tick::Action;
use matins_proto::v1::create_backfill_request::Reprocess as WireReprocess;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{
    Backfill, BackfillCounts, BackfillTick, CreateBackfillRequest, CreateBackfillResponse, backfill,
};
use matins_workflow::calendar::{Calendar, UserTime, moment};
use matins_workflow::template::Times;

use crate::serve::api::{
    Api, committed, find_schedule, find_workflow, not_committed, wire_time, workflow_name,
};
use crate::serve::error::{ApiError, fault_of};
use crate::serve::plan::{given, params};
use crate::serve::service::schedules::calendar_of;
use crate::serve::view::backfill::{backfill, reprocess};
use crate::serve::view::task::json;

/// Ticks that a dry run lists.
const TICKS_MAX: usize = 10_000;
/// Active runs that are named.
const ACTIVE_MAX: usize = 1_000;
/// The most runs that one backfill may have active.
const MAX_ACTIVE: u32 = 1_000;

/// A backfill that was worked out.
struct Plan {
    calendar: Calendar,
    create: CreateBackfill,
}

/// What the newest run of a tick is, and whether any succeeded or is active.
#[derive(Clone, Copy, Default)]
struct There {
    newest: Option<(RunId, RunState)>,
    has_success: bool,
    has_active: bool,
}

pub(super) async fn create(
    api: &Api,
    request: CreateBackfillRequest,
) -> Result<CreateBackfillResponse, ApiError> {
    let ask = api.ask(&request.request_id, request.not_after)?;
    let workflow = workflow_name(&request.workflow)?;
    let read = api.read(false).await?;
    find_workflow(&read.state, &workflow)?;
    let (id, row) = find_schedule(&read.state, &workflow, &request.schedule)?;
    let Plan { calendar, mut create } = plan(&read.state, (&id, row), &request)?;
    let active_runs = active_runs(&read.state, &create);
    if request.dry_run {
        check(&read.state, &create)?;
        let there = there(api, &read.state, &create).await?;
        let (ticks, counts) = list(&calendar, &create, &there);
        let committed = Some(not_committed(read.state.now));
        let backfill = Some(would_be(&create, counts));
        return Ok(CreateBackfillResponse { committed, backfill, ticks, active_runs });
    }
    let (mut answered, mut answer) = api.propose(&ask, Command::CreateBackfill(create.clone())).await?;
    // The mark moved on since, so that the range of a repeat ends later: it is meant for the range of the first one.
    if answer == Err(Refusal::RequestReused)
        && let Some(Answer::Backfill(made)) = api.remembered(&ask, answered.index).await
        && let Some(row) = api.state().backfills.get(&made).filter(|row| row.to <= create.to)
    {
        create.to = row.to;
        (answered, answer) = api.propose(&ask, Command::CreateBackfill(create)).await?;
    }
    let answer = answer.map_err(|refusal| ApiError::refused(&refusal, &api.state()))?;
    let Answer::Backfill(made) = answer else {
        return Err(fault_of("answer to a backfill", &format!("{answer:?}")));
    };
    let state = api.state_at(answered.index.0).await;
    let backfill = state.backfills.get(&made).map(|row| backfill(made, row));
    let committed = Some(committed(&ask, &answered));
    Ok(CreateBackfillResponse { committed, backfill, ticks: Vec::new(), active_runs })
}

fn plan(
    state: &State,
    (id, row): (&ScheduleId, &ScheduleRow),
    request: &CreateBackfillRequest,
) -> Result<Plan, ApiError> {
    let calendar = calendar_of(id, &row.spec)?;
    let time = |field: &str, text: &str| {
        UserTime::parse(text, calendar.zone())
            .map_err(|error| ApiError::bad_field(field, error.to_string()).hint(error.hint))
    };
    let from = time("from", &request.from)?.first();
    let asked_to = time("to", &request.to)?.last();
    if from > asked_to {
        return Err(ApiError::bad_field("to", format!("`{}` is before `{}`", request.to, request.from))
            .hint("swap them: `from` is the older end, whatever the order of the runs"));
    }
    // Ticks that are not decided yet are the schedule's own (PROTOCOL 3.4).
    let to = asked_to.min(row.mark);
    if from > to {
        return Err(ApiError::new(
            Reason::BadArgument,
            format!(
                "no tick of `{id}` in that range is decided yet: it is decided up to {}",
                wire_time(row.mark)
            ),
        )
        .field("from", "the range is empty")
        .hint("end the range later than it begins, and in the past; later ticks are the schedule's own"));
    }
    if request.max_active > MAX_ACTIVE {
        let asked = u64::from(request.max_active);
        return Err(ApiError::limit("max_active of a backfill", u64::from(MAX_ACTIVE), asked));
    }
    let given = given(request.params.as_ref())?;
    let (_, definition) = find_workflow(state, &id.workflow)?;
    // Faults that the first run would meet are told now.
    let interval_start = calendar.previous_before(from).map_or(from, |tick| tick.at);
    params(&definition.workflow, Some(&row.spec), &given, Times { logical: from, interval_start })?;
    let create = CreateBackfill {
        schedule: id.clone(),
        from,
        to,
        reprocess: match request.reprocess() {
            WireReprocess::Unspecified | WireReprocess::Missing => Reprocess::Missing,
            WireReprocess::Failed => Reprocess::Failed,
            WireReprocess::All => Reprocess::All,
        },
        active_max: request.max_active.max(1),
        newest_first: request.newest_first,
        params: serde_json::Value::Object(given).to_string(),
    };
    Ok(Plan { calendar, create })
}

/// Refuses what the cluster would refuse, by asking a copy of its state.
fn check(state: &State, create: &CreateBackfill) -> Result<(), ApiError> {
    use matins_core::command::{Entry, Proposal};
    let mut copy = state.clone();
    let command = Command::CreateBackfill(create.clone());
    let proposals = vec![Proposal { request: None, leadership: None, command }];
    let (index, at) = (matins_core::id::LogIndex(copy.index.0 + 1), copy.now);
    let outcome = matins_core::apply(&mut copy, index, Entry { level: matins_core::LEVEL, at, proposals });
    match outcome.answers.into_iter().next() {
        Some(Err(refusal)) => Err(ApiError::refused(&refusal, state)),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// What is there for the ticks of the range, in the state and in history.
async fn there(
    api: &Api,
    state: &State,
    create: &CreateBackfill,
) -> Result<BTreeMap<Timestamp, There>, ApiError> {
    let past = api.history.runs_for(&create.schedule, (create.from, create.to)).await?;
    let past = past.into_iter().map(|run| (run.logical_time, run.run, run.state));
    let mut runs: Vec<(Timestamp, RunId, RunState)> = past.chain(live(state, create)).collect();
    runs.sort_by_key(|(_, run, _)| *run);
    let mut there: BTreeMap<Timestamp, There> = BTreeMap::new();
    for (at, run, state) in runs {
        let tick = there.entry(at).or_default();
        tick.newest = Some((run, state));
        tick.has_success |= state == RunState::Success;
        tick.has_active |= is_active(state);
    }
    Ok(there)
}

fn live(state: &State, create: &CreateBackfill) -> impl Iterator<Item = (Timestamp, RunId, RunState)> {
    let id = &create.schedule;
    let range = (id.clone(), create.from, RunId(0))..=(id.clone(), create.to, RunId(u64::MAX));
    let runs = state.runs_by_tick.range(range);
    runs.filter_map(|((_, at, run), ())| Some((*at, *run, state.runs.get(run)?.state)))
}

fn is_active(state: RunState) -> bool {
    match state {
        RunState::Queued | RunState::Running | RunState::Stopping => true,
        RunState::Success | RunState::Failed | RunState::Cancelled => false,
    }
}

fn active_runs(state: &State, create: &CreateBackfill) -> Vec<String> {
    let active = live(state, create).filter(|(_, _, state)| is_active(*state));
    active.take(ACTIVE_MAX).map(|(_, run, _)| run.to_string()).collect()
}

/// The ticks of the range in the backfill's order, and how many become runs.
fn list(
    calendar: &Calendar,
    create: &CreateBackfill,
    there: &BTreeMap<Timestamp, There>,
) -> (Vec<BackfillTick>, BackfillCounts) {
    let after = create.from - Millis(1);
    let mut ticks: Vec<_> = if create.newest_first {
        let mut newest = calendar.newest(after, create.to, TICKS_MAX);
        newest.reverse();
        newest
    } else {
        calendar.ticks(after, create.to, TICKS_MAX).collect()
    };
    let is_counted = ticks.len() < TICKS_MAX;
    let mut counts = BackfillCounts { counted: is_counted, ..BackfillCounts::default() };
    let lines = ticks.drain(..).map(|tick| {
        let found = there.get(&tick.at).copied().unwrap_or_default();
        let action = action(create.reprocess, &found);
        match action {
            Action::Run => {
                counts.total += 1;
                counts.waiting += 1;
            }
            Action::Done => counts.left_out += 1,
            Action::Active => counts.left_alone += 1,
            Action::Unspecified => {}
        }
        let before = calendar.previous_before(tick.at).map_or(tick.at, |before| before.at);
        BackfillTick {
            logical_time: Some(wire_time(tick.at)),
            interval_start: Some(wire_time(before)),
            interval_end: Some(wire_time(tick.at)),
            local: moment::datetime(tick.at, calendar.zone()),
            action: action.into(),
            run_id: found.newest.map(|(run, _)| run.to_string()),
        }
    });
    let lines = lines.collect();
    (lines, counts)
}

/// What a backfill does with a tick, by the rule of `apply` (LANGUAGE 1.20).
fn action(reprocess: Reprocess, found: &There) -> Action {
    if found.has_active {
        return Action::Active;
    }
    let is_done = match (reprocess, found.newest) {
        (Reprocess::Missing, _) => found.has_success,
        (Reprocess::Failed, newest) => newest.is_none_or(|(_, state)| state != RunState::Failed),
        (Reprocess::All, _) => false,
    };
    if is_done { Action::Done } else { Action::Run }
}

fn would_be(create: &CreateBackfill, counts: BackfillCounts) -> Backfill {
    Backfill {
        id: String::new(),
        workflow: create.schedule.workflow.to_string(),
        schedule: create.schedule.schedule.to_string(),
        from: Some(wire_time(create.from)),
        to: Some(wire_time(create.to)),
        reprocess: reprocess(create.reprocess).into(),
        max_active: create.active_max,
        newest_first: create.newest_first,
        params: Some(json(&create.params)),
        state: backfill::State::Unspecified.into(),
        counts: Some(counts),
        ..Backfill::default()
    }
}
