//! The reason of one thing by itself, short enough for a line of a list: a stable code and a clause.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::{Reason, reason, several};
use crate::State;
use crate::id::{RunId, TaskId};
use crate::ir;
use crate::state::{
    AttemptOutcome, AttemptRow, AttemptState, ExecutorRow, FanOut, LimitId, LostReason, RunRow, RunState,
    StopReason, TaskRow, TaskState, WhyFailed, WhySkipped,
};
use crate::time::Timestamp;

/// Where a task stands among others: what its reason may have to name.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// The state, if the run is still in it.
    pub state: Option<&'a State>,
    /// The compiled form, if it is still there.
    pub definition: Option<&'a ir::Workflow>,
    /// The tasks of the run by their place, without items.
    pub tasks: &'a [Option<&'a TaskRow>],
}

/// Why a run is in its state.
pub fn of_run(row: &RunRow, state: &State) -> Option<Reason> {
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
pub fn of_task(
    id: TaskId,
    row: &TaskRow,
    attempt: Option<&AttemptRow>,
    around: &Around<'_>,
) -> Option<Reason> {
    match &row.state {
        TaskState::Waiting => Some(reason("upstream", waits_for(id, around))),
        TaskState::WaitingForPast { tick, failed } => Some(past(id, (*tick, *failed), around.state)),
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
            Some(Reason { until: Some(*due), ..reason("delay", text) })
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
pub fn of_attempt(attempt: &AttemptRow) -> Option<Reason> {
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

fn of_outcome(outcome: &AttemptOutcome) -> Option<Reason> {
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

fn failed(why: &WhyFailed) -> Reason {
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

fn past(id: TaskId, (tick, failed): (Timestamp, Option<RunId>), state: Option<&State>) -> Reason {
    let Some(failed) = failed else {
        let active = state.and_then(|state| past_run(id, tick, state));
        let active = active.map_or_else(|| "an earlier run".to_owned(), |run| run.to_string());
        return reason("past_active", format!("{active}, the run before it, is still active"));
    };
    past_failed_at(failed)
}

/// The newest run at the tick that a task waits for (LANGUAGE 1.25).
pub(super) fn past_run(id: TaskId, tick: Timestamp, state: &State) -> Option<RunId> {
    let schedule = state.runs.get(&id.run)?.schedule_id()?;
    state.past.get(&(schedule, tick)).map(|row| row.run)
}

fn past_failed_at(run: RunId) -> Reason {
    reason("past_failed", format!("past failed: {run}, retry it"))
}

/// Why a task waits, if it is for a person to retry a run of its past (LANGUAGE 1.25).
pub fn past_failed(state: &TaskState) -> Option<Reason> {
    match state {
        TaskState::WaitingForPast { failed: Some(run), .. } => Some(past_failed_at(*run)),
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
    let meant = needs_of(id, around).filter(|(_, row)| row.is_none_or(&is_meant));
    meant
        .filter_map(|(place, _)| definition.tasks.get(usize::from(place)))
        .map(|spec| format!("`{}`", spec.name))
        .collect()
}

/// What a task needs: the place of each in the definition, and its row if it has one.
pub(super) fn needs_of<'a>(
    id: TaskId,
    around: &Around<'a>,
) -> impl Iterator<Item = (u16, Option<&'a TaskRow>)> + use<'a> {
    let tasks = around.tasks;
    let spec = around.definition.and_then(|definition| definition.tasks.get(usize::from(id.task)));
    let needs = spec.map_or(&[][..], |spec| &spec.needs[..]);
    needs.iter().map(move |need| (*need, tasks.get(usize::from(*need)).copied().flatten()))
}

fn held_back(id: TaskId, state: &State) -> Option<Reason> {
    let limit = state.held_back_by(id)?;
    let used = state.limits.get(limit).copied().unwrap_or(0);
    Some(match limit {
        LimitId::FanOut(_) => {
            reason("max_parallel", format!("max_parallel of its fan-out is reached ({used} items run)"))
        }
        LimitId::Pool(pool) => {
            let slots = state.pools.get(pool).map_or(0, |row| row.slots);
            let asked = asked_of(id, limit, state);
            if asked > slots {
                reason("pool", format!("it takes {asked} slots of pool `{pool}`, which has only {slots}"))
            } else {
                reason("pool", format!("pool `{pool}` is full ({used} of {slots} slots)"))
            }
        }
        LimitId::Slots(wanted) => no_slot(wanted, state),
    })
}

/// How much of a limit a task takes.
pub(super) fn asked_of(id: TaskId, limit: &LimitId, state: &State) -> u32 {
    let class = state.class_of(id).unwrap_or_default();
    class.iter().find(|(of, _)| of == limit).map_or(1, |(_, amount)| *amount)
}

/// Why no executor can take a task that wants these labels.
fn no_slot(wanted: &BTreeMap<String, String>, state: &State) -> Reason {
    let labels: Vec<String> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (labels, with) = (labels.join(", "), if wanted.is_empty() { "" } else { " with " });
    if state.is_split() {
        return reason(
            "state_differs",
            "nodes differ in their state and no majority agrees: nothing is lent",
        );
    }
    if state.executors.is_empty() {
        return reason("no_executor", "no executor has ever been connected");
    }
    let able: Vec<_> = state.executors.iter().filter(|(_, row)| row.matches(wanted)).collect();
    if able.is_empty() {
        return reason("labels", format!("no executor has {labels}"));
    }
    let standing: Vec<String> =
        able.iter().map(|(id, row)| format!("{} is {}", executor_name(row, **id), standing(row))).collect();
    let code = match () {
        () if able.iter().all(|(_, row)| row.is_cordoned()) => "silent",
        () if able.iter().all(|(_, row)| row.is_cordoned() || row.is_drained || row.is_leaving) => "drained",
        () => "slots",
    };
    let text = format!("no executor{with}{labels} has a free slot: {}", several(&standing));
    reason(code, text)
}

/// Why an executor gets no more.
fn standing(row: &ExecutorRow) -> String {
    match (row.is_cordoned(), row.is_drained) {
        (true, _) => "silent".to_owned(),
        (false, true) => "drained".to_owned(),
        (false, false) if row.is_leaving => "leaving".to_owned(),
        (false, false) if row.used >= row.slots => format!("full ({} of {})", row.used, row.slots),
        (false, false) => "free".to_owned(),
    }
}

/// An executor's name for people, or its id if it has none.
pub(super) fn executor_name(row: &ExecutorRow, id: crate::id::ExecutorId) -> String {
    if row.name.is_empty() { id.to_string() } else { row.name.clone() }
}
