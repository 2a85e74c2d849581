//! Runs on the wire.

use std::cmp::Reverse;

use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::{RunId, TaskId};
use matins_core::state::{RunOrigin, RunRow, RunState};
use matins_core::why::{past_failed, reason_of_run};
use matins_proto::v1::{Run, TaskCounts, run, run_origin};

use super::reason::wire;
use super::task::{Detail, TaskViews, count, json};
use super::wire_time;

/// A run as a line of a list.
pub(crate) fn live_summary(id: RunId, row: &RunRow, state: &State) -> Run {
    let mut counts = TaskCounts::default();
    let places = state.definition_of(id).map_or(0, |row| row.workflow.tasks.len()) as u16;
    let mut held = None;
    for task in 0..places {
        if let Some(row) = state.tasks.get(&TaskId { run: id, task, item: None }) {
            count(&mut counts, &row.state);
            // A wait for a person is shown in every list (LANGUAGE 1.25).
            held = held.or_else(|| past_failed(&row.state));
        }
    }
    let kept = row.transitions.min(state.cluster.settings.transitions_max);
    let changed = match state.transitions.get(&(id, kept)) {
        // Changes beyond those that are kept have no index of their own.
        Some(last) if kept == row.transitions => last.index,
        Some(_) | None => state.index,
    };
    let head = head(id, row, state);
    let reason = head.reason.clone().or(held.map(wire));
    Run { task_counts: Some(counts), changed_index: changed.0, reason, ..head }
}

/// A run of history as a line of a list.
pub(crate) fn retired_summary(retired: &RetiredRun, state: &State) -> Run {
    let mut counts = TaskCounts::default();
    let tasks = retired.tasks.iter().filter(|(id, _)| id.item.is_none());
    tasks.for_each(|(_, row)| count(&mut counts, &row.state));
    let changed = retired.transitions.last().map_or(0, |last| last.index.0);
    let labels = retired.labels.clone();
    Run { task_counts: Some(counts), changed_index: changed, labels, ..head(retired.id, &retired.run, state) }
}

/// A run with its tasks; of each fan-out `items_max` items: those not ended or failed before others.
pub(crate) fn whole(rows: &RetiredRun, state: &State, (detail, items_max): (Detail, usize)) -> Run {
    let views = TaskViews::new(rows, state);
    let summary = match state.runs.get(&rows.id) {
        Some(row) => live_summary(rows.id, row, state),
        None => retired_summary(rows, state),
    };
    let mut tasks = Vec::new();
    for place in views.in_order() {
        let id = TaskId { run: rows.id, task: place, item: None };
        let Some(mut task) = views.task(id, detail) else { continue };
        let mut items: Vec<_> = views.items(place).map(|(id, row)| (importance(&row.state), id)).collect();
        items.sort_by_key(|(importance, id)| (Reverse(*importance), *id));
        items.truncate(items_max);
        items.sort_by_key(|(_, id)| *id);
        task.items = items.into_iter().filter_map(|(_, id)| views.task(id, Detail::Brief)).collect();
        tasks.push(task);
    }
    Run { tasks, ..summary }
}

/// Which items a person looks at first.
fn importance(state: &matins_core::state::TaskState) -> u8 {
    use super::task::state_of;
    use matins_proto::v1::task::State;
    match state_of(state) {
        State::Failed => 3,
        State::Running | State::Stopping | State::Retrying => 2,
        State::Waiting | State::Queued => 1,
        State::Unspecified | State::Success | State::UpstreamFailed | State::Skipped | State::Cancelled => 0,
    }
}

fn head(id: RunId, row: &RunRow, state: &State) -> Run {
    let definition = state.definitions.get(&row.definition).map(|row| &row.workflow);
    let (origin, backfill) = match row.origin {
        RunOrigin::Schedule => (run_origin::Kind::Schedule, None),
        RunOrigin::Manual => (run_origin::Kind::Start, None),
        RunOrigin::Submitted => (run_origin::Kind::Submit, None),
        RunOrigin::Backfill(backfill) => (run_origin::Kind::Backfill, Some(backfill.to_string())),
        RunOrigin::Retry => (run_origin::Kind::Retry, None),
    };
    Run {
        id: id.to_string(),
        workflow: row.workflow.to_string(),
        version: row.version,
        origin: if row.retry_of.is_some() { run_origin::Kind::Retry } else { origin }.into(),
        schedule: row.schedule.as_ref().map(ToString::to_string),
        backfill,
        logical_time: Some(wire_time(row.logical_time)),
        interval_start: Some(wire_time(row.interval_start)),
        interval_end: Some(wire_time(row.logical_time)),
        params: Some(json(&row.params)),
        labels: definition.map(|workflow| workflow.labels.clone()).unwrap_or_default(),
        state: run_state(row.state).into(),
        reason: reason_of_run(row, state).map(wire),
        created_at: Some(wire_time(row.created_at)),
        started_at: row.started_at.map(wire_time),
        finished_at: row.ended_at.map(wire_time),
        retry_of: row.retry_of.map(|run| run.to_string()),
        retries: Vec::new(),
        priority: definition.map_or(0, |workflow| workflow.priority),
        task_counts: None,
        tasks: Vec::new(),
        changed_index: 0,
    }
}

/// The state that the wire has for a run's state.
pub(crate) const fn run_state(state: RunState) -> run::State {
    match state {
        RunState::Queued => run::State::Queued,
        RunState::Running => run::State::Running,
        RunState::Stopping => run::State::Stopping,
        RunState::Success => run::State::Success,
        RunState::Failed => run::State::Failed,
        RunState::Cancelled => run::State::Cancelled,
    }
}

/// Whether a run on the wire has ended.
pub(crate) fn has_ended(run: &Run) -> bool {
    match run.state() {
        run::State::Success | run::State::Failed | run::State::Cancelled => true,
        run::State::Unspecified | run::State::Queued | run::State::Running | run::State::Stopping => false,
    }
}
