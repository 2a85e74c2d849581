//! Why a run or task waits, failed or was left out: a stable code and one sentence (`StateReason` in `common.proto`).

use matins_core::State;
use matins_core::id::TaskId;
use matins_core::ir;
use matins_core::state::{
    AttemptOutcome, AttemptRow, AttemptState, FanOut, LimitId, LostReason, RunRow, RunState, StopReason,
    TaskRow, TaskState, WhyFailed, WhySkipped,
};
use matins_core::time::Timestamp;
use matins_proto::v1::StateReason;

use super::wire_time;

/// A reason without a time.
pub(crate) fn reason(code: &str, text: impl Into<String>) -> StateReason {
    StateReason { code: code.to_owned(), text: text.into(), until: None }
}

/// Where a task stands among others: what its reason may have to name.
pub(crate) struct Around<'a> {
    /// The state, if the run is still in it.
    pub(crate) state: Option<&'a State>,
    /// The compiled form, if it is still there.
    pub(crate) definition: Option<&'a ir::Workflow>,
    /// The tasks of the run by their place, without items.
    pub(crate) tasks: &'a [Option<&'a TaskRow>],
}

/// Why a run is in its state.
pub(crate) fn of_run(row: &RunRow, state: &State) -> Option<StateReason> {
    match row.state {
        RunState::Queued => {
            let active = state.workflows.get(&row.workflow).map_or(0, |row| row.active_runs);
            Some(reason(
                "concurrency",
                format!(
                    "waits for a place among the active runs of `{}` ({active} are active)",
                    row.workflow
                ),
            ))
        }
        RunState::Stopping => Some(reason("cancelled", "it was cancelled, and tasks are still being ended")),
        RunState::Failed => Some(match &row.reason {
            Some(why) => reason("params", why.clone()),
            None => reason("task", "a task failed"),
        }),
        RunState::Cancelled => row.reason.clone().map(|why| reason("restored", why)),
        RunState::Running | RunState::Success => None,
    }
}

/// Why a task is in its state.
pub(crate) fn of_task(
    id: TaskId,
    row: &TaskRow,
    attempt: Option<&AttemptRow>,
    around: &Around<'_>,
) -> Option<StateReason> {
    match &row.state {
        TaskState::Waiting => Some(reason("upstream", waits_for(id, around))),
        TaskState::WaitingForPast { tick, failed } => Some(past(*tick, *failed)),
        TaskState::Deciding => Some(reason("deciding", "`when` or `for_each` is being evaluated")),
        TaskState::Queued => around.state.and_then(|state| held_back(id, state)),
        TaskState::Expanded => row.fan_out.map(|fan_out| reason("items", items(&fan_out))),
        TaskState::Running { .. } => match attempt.map(|attempt| &attempt.state) {
            Some(AttemptState::Publishing) => {
                Some(reason("publishing", "its output is being copied to a majority of the nodes"))
            }
            Some(AttemptState::Running | AttemptState::Stopping { .. } | AttemptState::Ended { .. })
            | None => None,
        },
        TaskState::Stopping { .. } => attempt.and_then(of_attempt),
        TaskState::Retrying { due } => {
            let text = match attempt.and_then(of_attempt) {
                Some(last) => format!("{}; it is tried again", last.text),
                None => "it is tried again".to_owned(),
            };
            Some(StateReason { until: Some(wire_time(*due)), ..reason("delay", text) })
        }
        TaskState::Failed(why) => Some(failed(why)),
        TaskState::UpstreamFailed => Some(reason("upstream", not_done(id, around, "failed"))),
        TaskState::Skipped(WhySkipped::When) => Some(reason("when", "its condition was false")),
        TaskState::Skipped(WhySkipped::NoItems) => Some(reason("empty", "there were no items")),
        TaskState::Skipped(WhySkipped::Upstream) => {
            Some(reason("upstream", not_done(id, around, "was skipped")))
        }
        TaskState::Success | TaskState::Cancelled => None,
    }
}

/// Why an attempt is in its state.
pub(crate) fn of_attempt(attempt: &AttemptRow) -> Option<StateReason> {
    match &attempt.state {
        AttemptState::Running => None,
        AttemptState::Publishing => {
            Some(reason("publishing", "its output is being copied to a majority of the nodes"))
        }
        AttemptState::Stopping { is_unkillable: true, .. } => Some(reason(
            "unkillable",
            "its processes are still there after KILL; `matins attempt abandon` gives it up",
        )),
        AttemptState::Stopping { reason: StopReason::Cancelled, .. } => {
            Some(reason("cancelled", "it is being ended since its run was cancelled"))
        }
        AttemptState::Stopping { reason: StopReason::TimedOut, .. } => {
            Some(reason("timeout", "it is being ended by its timeout"))
        }
        AttemptState::Ended { outcome, .. } => of_outcome(outcome),
    }
}

fn of_outcome(outcome: &AttemptOutcome) -> Option<StateReason> {
    let code = match outcome {
        AttemptOutcome::Success | AttemptOutcome::Cancelled => return None,
        AttemptOutcome::Exit(_) => "exit",
        AttemptOutcome::Signal(_) => "signal",
        AttemptOutcome::Error(_) => "error",
        AttemptOutcome::Broken(_) => "broken",
        AttemptOutcome::TimedOut => "timeout",
        AttemptOutcome::Lost(LostReason::Abandoned) => "abandoned",
        AttemptOutcome::Lost(
            LostReason::Expired | LostReason::NotHeld | LostReason::Deadline | LostReason::Restored,
        ) => "lost",
    };
    Some(reason(code, outcome.to_string()))
}

fn failed(why: &WhyFailed) -> StateReason {
    match why {
        WhyFailed::Attempt(outcome) => {
            of_outcome(outcome).unwrap_or_else(|| reason("error", outcome.to_string()))
        }
        WhyFailed::Decide(why) => reason("condition", why.clone()),
        WhyFailed::Items(1) => reason("items", "1 item failed"),
        WhyFailed::Items(count) => reason("items", format!("{count} items failed")),
        WhyFailed::NoRoom(limit) => reason("limit", format!("there was no room: {limit}")),
    }
}

fn past(tick: Timestamp, failed: Option<matins_core::id::RunId>) -> StateReason {
    match failed {
        Some(run) => reason("past_failed", format!("past failed: {run}, retry it")),
        None => reason("past_active", format!("the run of {} is still active", wire_time(tick))),
    }
}

/// Why a task waits, if it is for a person to retry a run of its past (LANGUAGE 1.25).
pub(crate) fn past_failed(state: &TaskState) -> Option<StateReason> {
    match state {
        TaskState::WaitingForPast { tick, failed: Some(run) } => Some(past(*tick, Some(*run))),
        TaskState::WaitingForPast { failed: None, .. }
        | TaskState::Waiting
        | TaskState::Deciding
        | TaskState::Queued
        | TaskState::Expanded
        | TaskState::Running { .. }
        | TaskState::Stopping { .. }
        | TaskState::Retrying { .. }
        | TaskState::Success
        | TaskState::Failed(_)
        | TaskState::UpstreamFailed
        | TaskState::Skipped(_)
        | TaskState::Cancelled => None,
    }
}

fn items(fan_out: &FanOut) -> String {
    format!("{} of {} items have ended", fan_out.items - fan_out.open(), fan_out.items)
}

fn waits_for(id: TaskId, around: &Around<'_>) -> String {
    let open = upstream(id, around, |row| !row.state.has_ended());
    if open.is_empty() { "waits for its needs".to_owned() } else { format!("waits for {}", open.join(", ")) }
}

/// Names those upstream that kept a task from running.
fn not_done(id: TaskId, around: &Around<'_>, what: &str) -> String {
    let names = upstream(id, around, |row| row.state.has_ended() && row.state != TaskState::Success);
    match names.as_slice() {
        [] => "by its trigger rule".to_owned(),
        names => format!("{} {what}", names.join(", ")),
    }
}

fn upstream(id: TaskId, around: &Around<'_>, is_meant: impl Fn(&TaskRow) -> bool) -> Vec<String> {
    let Some(definition) = around.definition else { return Vec::new() };
    let Some(spec) = definition.tasks.get(usize::from(id.task)) else { return Vec::new() };
    let row = |need: &u16| around.tasks.get(usize::from(*need)).copied().flatten();
    let meant = spec.needs.iter().filter(|need| row(need).is_none_or(&is_meant));
    meant
        .filter_map(|need| definition.tasks.get(usize::from(*need)))
        .map(|spec| format!("`{}`", spec.name))
        .collect()
}

fn held_back(id: TaskId, state: &State) -> Option<StateReason> {
    let limit = state.held_back_by(id)?;
    let used = state.limits.get(limit).copied().unwrap_or(0);
    Some(match limit {
        LimitId::FanOut(_) => {
            reason("max_parallel", format!("max_parallel of its fan-out is reached ({used} items run)"))
        }
        LimitId::Pool(pool) => {
            let slots = state.pools.get(pool).map_or(0, |row| row.slots);
            reason("pool", format!("pool `{pool}` is full ({used} of {slots} slots)"))
        }
        LimitId::Slots(labels) if labels.is_empty() => reason("slots", "no live executor has a free slot"),
        LimitId::Slots(wanted) => {
            let labels: Vec<String> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let labels_said = labels.join(", ");
            if state.executors.iter().any(|(_, row)| row.matches(wanted)) {
                reason("slots", format!("no live executor with {labels_said} has a free slot"))
            } else {
                reason("labels", format!("no executor has {labels_said}"))
            }
        }
    })
}
