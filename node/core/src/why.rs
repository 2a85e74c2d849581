//! Why something waits, or ended as it did: what a person asks first, answered from the state alone.
//!
//! Pure, and the one place that decides it: lists show the short [`Reason`] of each line, and `matins why` the whole
//! [`Why`], with what would unblock it and the command for that. Never looks at what only the leader's memory knows.
//! Start reading at [`of_run`] and [`of_task`]; `reason` has the short reasons, `task` and `run` the long answers,
//! `schedule` those of workflows and backfills.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::State;
use crate::history::RetiredRun;
use crate::id::TaskId;
use crate::ir;
use crate::state::{AttemptRow, TaskRow};
use crate::time::Timestamp;

mod reason;
mod run;
mod schedule;
mod task;

pub use reason::{Around, of_attempt, of_run as reason_of_run, of_task as reason_of_task, past_failed};
pub use run::of_run;
pub use schedule::{of_backfill, of_workflow};
pub use task::of_task;

/// So many things are named, and the others counted.
const NAMED_MAX: usize = 3;

/// Why something is in the state it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable, lower case, for programs: the codes of `StateReason` in `common.proto`.
    pub code: &'static str,
    /// One clause for people, which names what is meant.
    pub text: String,
    /// When that changes by itself, if it is known; the text ends so that this instant can follow.
    pub until: Option<Timestamp>,
}

/// The whole answer to "why": one sentence in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// What was asked about: `run-42`, `run-42/load.3`, `backfill-7`, `warehouse/nightly`.
    pub subject: String,
    /// The state it is in, in the language's word.
    pub state: &'static str,
    /// Since when; `None` where that is not remembered.
    pub since: Option<Timestamp>,
    /// Why.
    pub reason: Reason,
    /// What would unblock it; empty where nothing is to be done.
    pub remedy: String,
    /// What a person can type, the most helpful first.
    pub commands: Vec<String>,
}

/// A reason without a time.
pub fn reason(code: &'static str, text: impl Into<String>) -> Reason {
    Reason { code, text: text.into(), until: None }
}

impl Reason {
    fn until(self, until: Timestamp) -> Self {
        Self { until: Some(until), ..self }
    }
}

/// What can be done, in words and as a command.
#[derive(Default)]
struct Help {
    remedy: String,
    commands: Vec<String>,
}

impl Help {
    fn new(remedy: impl Into<String>, command: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), commands: vec![command.into()] }
    }

    fn words(remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), commands: Vec::new() }
    }

    fn and(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

/// A run taken apart: its tasks by place, and the state around it.
struct View<'a> {
    run: &'a RetiredRun,
    state: &'a State,
    /// The run is in the state and not in history.
    is_live: bool,
    definition: Option<&'a ir::Workflow>,
    by_place: Vec<Option<&'a TaskRow>>,
}

impl<'a> View<'a> {
    fn new(run: &'a RetiredRun, state: &'a State) -> Self {
        let definition = state.definitions.get(&run.run.definition).map(|row| &*row.workflow);
        let places = definition.map_or(run.task_names.len(), |definition| definition.tasks.len());
        let mut by_place = vec![None; places];
        for (id, row) in &run.tasks {
            if let (None, Some(place)) = (id.item, by_place.get_mut(usize::from(id.task))) {
                *place = Some(row);
            }
        }
        Self { run, state, is_live: state.runs.contains(&run.id), definition, by_place }
    }

    fn around(&self) -> Around<'_> {
        let state = self.is_live.then_some(self.state);
        Around { state, definition: self.definition, tasks: &self.by_place }
    }

    fn row(&self, id: TaskId) -> Option<&'a TaskRow> {
        let tasks = &self.run.tasks;
        tasks.binary_search_by_key(&id, |(id, _)| *id).ok().map(|place| &tasks[place].1)
    }

    /// The number and row of the newest attempt.
    fn last_attempt(&self, id: TaskId) -> Option<(u32, &'a AttemptRow)> {
        let of_it = self.run.attempts.iter().rev().find(|((task, _), _)| *task == id);
        of_it.map(|((_, number), row)| (*number, row))
    }

    /// `extract.3`.
    fn name(&self, id: TaskId) -> String {
        let name = self.run.task_names.get(usize::from(id.task));
        let name = name.map_or_else(|| format!("#{}", id.task), ToString::to_string);
        id.item.map_or_else(|| name.clone(), |item| format!("{name}.{item}"))
    }

    /// `run-42/extract.3`.
    fn address(&self, id: TaskId) -> String {
        format!("{}/{}", self.run.id, self.name(id))
    }

    fn short(&self, id: TaskId) -> Option<Reason> {
        let attempt = self.last_attempt(id).map(|(_, row)| row);
        reason_of_task(id, self.row(id)?, attempt, &self.around())
    }

    /// Whether a failure of this task fails its run.
    fn counts(&self, id: TaskId) -> bool {
        let spec = self.definition.and_then(|definition| definition.tasks.get(usize::from(id.task)));
        spec.is_none_or(|spec| !spec.allow_failure)
    }
}

/// The address of a live task of any run, as far as the state knows it.
pub fn address(state: &State, id: TaskId) -> String {
    let name = state.spec_of(id).map_or_else(|| format!("#{}", id.task), |spec| spec.name.to_string());
    let item = id.item.map_or_else(String::new, |item| format!(".{item}"));
    format!("{}/{name}{item}", id.run)
}

/// A few of several things: `a, b, c and 4 more`.
fn several<T: AsRef<str>>(things: &[T]) -> String {
    let shown: Vec<&str> = things.iter().take(NAMED_MAX).map(AsRef::as_ref).collect();
    match (things.len().saturating_sub(NAMED_MAX), shown.as_slice()) {
        (0, [first @ .., last]) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        (0, shown) => shown.join(", "),
        (more, shown) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 task`, `2 tasks`.
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn nothing() -> Help {
    Help::words("nothing has to be done".to_owned())
}
