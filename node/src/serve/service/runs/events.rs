//! What happened to a run, in the order of the log.

use std::collections::BTreeMap;

use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::TaskId;
use matins_core::state::TransitionRow;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{ListRunEventsRequest, ListRunEventsResponse, RunEvent};

use super::no_task;
use crate::serve::api::{Api, wire_time};
use crate::serve::error::ApiError;

pub(super) async fn list(
    api: &Api,
    request: ListRunEventsRequest,
) -> Result<ListRunEventsResponse, ApiError> {
    let read = api.read(request.stale).await?;
    let rows = api.find_run(&read.state, &request.run).await?.rows(&read.state);
    let rows = rows.ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &request.run))?;
    let only = match request.task.as_str() {
        "" => None,
        task => Some(rows.task_named(task).ok_or_else(|| no_task(&rows.id.to_string(), task))?),
    };
    let left_out = rows.run.transitions.saturating_sub(rows.transitions.len() as u32);
    Ok(ListRunEventsResponse { read_at: Some(read.at), events: events(&rows, &read.state, only), left_out })
}

/// Each change with the state before it; of one task only, if one is named.
fn events(run: &RetiredRun, state: &State, only: Option<TaskId>) -> Vec<RunEvent> {
    let mut before: BTreeMap<Option<TaskId>, &str> = BTreeMap::new();
    let mut events = Vec::with_capacity(run.transitions.len());
    for row in &run.transitions {
        let from = before.insert(row.task, &row.state.word).unwrap_or_default();
        if only.is_none() || row.task == only {
            events.push(event(run, state, (row, from)));
        }
    }
    events
}

fn event(run: &RetiredRun, state: &State, (row, from): (&TransitionRow, &str)) -> RunEvent {
    let name = |task: TaskId| run.task_names.get(usize::from(task.task)).map(ToString::to_string);
    let attempt = row.task.and_then(|task| {
        let key = (task, row.state.attempt);
        run.attempts.binary_search_by_key(&key, |(key, _)| *key).ok().map(|place| &run.attempts[place].1)
    });
    RunEvent {
        index: row.index.0,
        at: Some(wire_time(row.at)),
        task: row.task.and_then(name).unwrap_or_default(),
        attempt: row.state.attempt,
        from: from.to_owned(),
        to: row.state.word.to_string(),
        reason: row.state.detail.clone(),
        executor: attempt.map(|attempt| attempt.executor.to_string()).unwrap_or_default(),
        leader: state.leader_at(row.index).map(|node| node.to_string()).unwrap_or_default(),
    }
}
