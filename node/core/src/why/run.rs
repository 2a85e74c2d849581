//! Why a run waits, or ended as it did.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use super::{Help, Reason, View, Why, count, nothing, reason, several, task};
use crate::State;
use crate::history::RetiredRun;
use crate::id::{RunId, TaskId};
use crate::state::{RunRow, RunState, TaskRow, TaskState};
use crate::time::Timestamp;

/// Why a run is in its state; the state is that of now, for what it waits for around it.
pub fn of_run(run: &RetiredRun, state: &State) -> Why {
    explain(&View::new(run, state))
}

pub(super) fn explain(view: &View<'_>) -> Why {
    let row = &view.run.run;
    let (reason, Help { remedy, commands }) = match row.state {
        RunState::Queued => queued(view, row),
        RunState::Running | RunState::Stopping => open_tasks(view, None)
            .unwrap_or_else(|| (reason("running", "its tasks are about to begin"), nothing())),
        RunState::Failed => failed(view, row),
        RunState::Success => {
            (reason("done", "all its tasks that count succeeded or were skipped"), Help::default())
        }
        RunState::Cancelled => (reason("cancelled", "somebody cancelled it"), again(view)),
    };
    let subject = view.run.id.to_string();
    Why { subject, state: row.state.as_str(), since: since(view.run), reason, remedy, commands }
}

fn since(run: &RetiredRun) -> Option<Timestamp> {
    let row = &run.run;
    match row.state {
        RunState::Queued => Some(row.created_at),
        RunState::Running => row.started_at,
        RunState::Stopping => {
            let of_run = run.transitions.iter().rev().filter(|row| row.task.is_none());
            of_run.into_iter().find(|row| &*row.state.word == "stopping").map(|row| row.at)
        }
        RunState::Success | RunState::Failed | RunState::Cancelled => row.ended_at,
    }
}

/// At the gate of its workflow (LANGUAGE 1.19).
fn queued(view: &View<'_>, row: &RunRow) -> (Reason, Help) {
    let workflow = &row.workflow;
    let first = (workflow.clone(), RunId(0));
    let active = view.state.active.range(first..=(workflow.clone(), RunId(u64::MAX)));
    let active: Vec<String> = active.map(|((_, run), ())| run.to_string()).collect();
    let Some((max, _)) = view.state.gate_of(workflow) else {
        return (reason("concurrency", "it is about to begin"), nothing());
    };
    let first = (workflow.clone(), Timestamp::from_millis(i64::MIN), RunId(0));
    let own = (workflow.clone(), row.logical_time, view.run.id);
    let before = view.state.gate.range(first..own).count();
    let behind = if before > 0 { format!(", and {} before it", count(before, "run")) } else { String::new() };
    let text =
        format!("{} of {max} runs of `{workflow}` are active ({}){behind}", active.len(), several(&active));
    let help = Help::words("it begins when one of them has ended, in order of logical time");
    let commands = active.first().map(|run| format!("matins why {run}"));
    (reason("concurrency", text), commands.into_iter().fold(help, Help::and))
}

/// What the tasks of a run, or the items of one fan-out, wait for: the one that a person must look at first.
pub(super) fn open_tasks(view: &View<'_>, of: Option<TaskId>) -> Option<(Reason, Help)> {
    let is_meant = |id: &TaskId| match of {
        Some(fan_out) => id.task == fan_out.task && id.item.is_some(),
        None => id.item.is_none(),
    };
    let open = || {
        let open = view.run.tasks.iter().filter(|(id, row)| is_meant(id) && !row.state.has_ended());
        // What waits for others of the same run says nothing that they do not say.
        open.filter(|(_, row)| row.state != TaskState::Waiting)
    };
    let (first, _) = open().min_by_key(|(id, row)| (urgency(view, *id, row), *id))?;
    let why = task::explain(view, *first);
    let others = open().count() - 1;
    let more = if others > 0 { format!(" ({} besides)", count(others, "open task")) } else { String::new() };
    let text = format!("`{}` is {}{more}: {}", view.name(*first), why.state, why.reason.text);
    let reason = Reason { code: why.reason.code, text, until: why.reason.until };
    Some((reason, Help { remedy: why.remedy, commands: why.commands }))
}

/// What needs a person comes first, then what waits for others, then what runs.
fn urgency(view: &View<'_>, id: TaskId, row: &TaskRow) -> u8 {
    if let TaskState::Running { .. } | TaskState::Stopping { .. } = row.state
        && let Some(attempt) = view.last_attempt(id)
        && task::silent(view, attempt).is_some()
    {
        return 3;
    }
    let code = view.short(id).map_or("", |reason| reason.code);
    match code {
        "past_failed" => 0,
        "unkillable" => 1,
        "no_executor" | "labels" | "silent" | "drained" => 2,
        "pool" | "slots" | "max_parallel" => 4,
        "past_active" => 5,
        "delay" => 6,
        _ => 7,
    }
}

fn failed(view: &View<'_>, row: &RunRow) -> (Reason, Help) {
    if let Some(why) = &row.reason {
        let command = format!("matins start --like {} -p NAME=VALUE", view.run.id);
        let text = format!("its parameters could not be worked out: {why}");
        return (reason("params", text), Help::new("start it anew with parameters that fit", command));
    }
    let failed: Vec<TaskId> = view
        .run
        .tasks
        .iter()
        .filter(|(id, row)| {
            id.item.is_none() && matches!(row.state, TaskState::Failed(_)) && view.counts(*id)
        })
        .map(|(id, _)| *id)
        .collect();
    let Some(first) = failed.first() else { return (reason("task", "a task failed"), again(view)) };
    let why = task::explain(view, *first);
    let more = if failed.len() > 1 {
        format!(", and {} besides", count(failed.len() - 1, "task"))
    } else {
        String::new()
    };
    let text = format!("`{}` failed: {}{more}", view.name(*first), why.reason.text);
    (reason("task", text), Help { remedy: why.remedy, commands: why.commands })
}

/// A finished run is final: a retry makes a new one of it.
pub(super) fn again(view: &View<'_>) -> Help {
    let run = view.run.id;
    match view.state.retries.get(&run) {
        Some(retry) => {
            Help { remedy: format!("{retry} is retrying it"), commands: vec![format!("matins why {retry}")] }
        }
        None => Help::new("when its cause is mended, retry it", format!("matins retry {run}")),
    }
}
