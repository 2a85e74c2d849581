//! Conditions and fan-out lists of tasks that are deciding (PROTOCOL 4.2).
//!
//! Pure. First `when`, then `for_each` (LANGUAGE 1.10). What cannot be evaluated fails the task, and is never retried.

use matins_core::command::{Command, Decide, DecideOutcome};
use matins_core::id::{Digest, TaskId};
use matins_core::ir;
use matins_core::state::State;
use matins_core::time::{Millis, Timestamp};
use matins_workflow::template::{RenderError, Scope, eval_condition, eval_for_each};

use super::scope::{NoScope, Outputs, scope_of};

/// Items of one list, as text: the entry that carries them has 1 MiB (DESIGN 5).
const ITEMS_BYTES_MAX: usize = 900 * 1024;
/// A list that found no room in the state for so long fails (PROTOCOL 6.3).
pub const ROOM_WAIT_MAX: Millis = Millis::from_mins(10);

/// What a look at a deciding task came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// To be proposed.
    Propose(Command),
    /// These outputs have to be read first.
    Needs(Vec<Digest>),
    /// It is not deciding any more.
    Over,
}

/// Works out the condition or the list of a task.
pub fn decide(state: &State, task: TaskId, outputs: &dyn Outputs) -> Decided {
    if !state.deciding.contains(&task) {
        return Decided::Over;
    }
    let outcome = match scope_of(state, task, outputs) {
        Ok(scope) => match state.spec_of(task) {
            Some(spec) => evaluate(spec, &scope, state.cluster.settings.items_max),
            None => return Decided::Over,
        },
        Err(NoScope::Never(why)) => DecideOutcome::Failed(why),
        Err(NoScope::Needs(digests)) => return Decided::Needs(digests),
        Err(NoScope::Gone) => return Decided::Over,
    };
    Decided::Propose(Command::Decide(Decide { task, inputs: state.inputs_of(task), outcome }))
}

/// A task whose list found no room: fails it once it has waited for ten minutes, and names the limit.
pub fn give_up_waiting_for_room(state: &State, task: TaskId, now: Timestamp, limit: &str) -> Option<Command> {
    let since = state.tasks.get(&task).filter(|_| state.deciding.contains(&task))?.since;
    if now.since(since) < ROOM_WAIT_MAX {
        return None;
    }
    let why = format!("its items found no room for {ROOM_WAIT_MAX}: {limit}");
    let inputs = state.inputs_of(task);
    Some(Command::Decide(Decide { task, inputs, outcome: DecideOutcome::Failed(why) }))
}

fn evaluate(spec: &ir::Task, scope: &Scope, items_max: u32) -> DecideOutcome {
    match try_evaluate(spec, scope, items_max) {
        Ok(outcome) => outcome,
        Err(error) => DecideOutcome::Failed(in_words(&error)),
    }
}

fn try_evaluate(spec: &ir::Task, scope: &Scope, items_max: u32) -> Result<DecideOutcome, RenderError> {
    if let Some(when) = &spec.when
        && !eval_condition(when, scope)?
    {
        return Ok(DecideOutcome::Skip);
    }
    let Some(for_each) = &spec.for_each else { return Ok(DecideOutcome::Run) };
    let items: Vec<String> = eval_for_each(for_each, scope)?.iter().map(ToString::to_string).collect();
    let bytes: usize = items.iter().map(String::len).sum();
    let too_much = |what: &str, value: usize, limit: usize| {
        DecideOutcome::Failed(format!("`for_each` gives {value} {what}, and {limit} is the limit"))
    };
    Ok(if items.len() > items_max as usize {
        too_much("items", items.len(), items_max as usize)
    } else if bytes > ITEMS_BYTES_MAX {
        too_much("bytes of items", bytes, ITEMS_BYTES_MAX)
    } else {
        DecideOutcome::Items(items)
    })
}

/// An error of a template in one line.
pub fn in_words(error: &RenderError) -> String {
    match &error.hint {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    }
}
