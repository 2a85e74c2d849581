//! Tasks, items and attempts on the wire.

use std::collections::BTreeMap;

use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::TaskId;
use matins_core::ir::{self, TriggerRule};
use matins_core::state::{
    AttemptOutcome, AttemptRow, AttemptState, LogPlace, LogState, Output, TaskRow, TaskState,
};
use matins_core::why::{Around, of_attempt, reason_of_task};
use matins_proto::Json;
use matins_proto::v1::{Attempt, Task, TaskCounts, attempt, task};

use super::reason::wire;
use super::wire_time;

/// Which parts of tasks are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All attempts and the outputs.
    Full,
    /// All attempts, no outputs.
    NoOutputs,
    /// The last attempt only, no outputs.
    Brief,
}

/// A run taken apart, so that its tasks can be shown.
pub(crate) struct TaskViews<'a> {
    state: Option<&'a State>,
    definition: Option<&'a ir::Workflow>,
    run: &'a RetiredRun,
    by_place: Vec<Option<&'a TaskRow>>,
    attempts: BTreeMap<TaskId, Vec<&'a AttemptRow>>,
    changed: BTreeMap<TaskId, u64>,
    executors: BTreeMap<matins_core::id::ExecutorId, String>,
}

impl<'a> TaskViews<'a> {
    /// `state` has the names of executors and definitions; `is_live` says whether the run is still in it.
    pub(crate) fn new(run: &'a RetiredRun, state: &'a State) -> Self {
        let definition = state.definitions.get(&run.run.definition).map(|row| &*row.workflow);
        let places = definition.map_or(run.task_names.len(), |ir| ir.tasks.len());
        let mut by_place = vec![None; places];
        for (id, row) in &run.tasks {
            if let (None, Some(place)) = (id.item, by_place.get_mut(usize::from(id.task))) {
                *place = Some(row);
            }
        }
        let mut attempts: BTreeMap<TaskId, Vec<&AttemptRow>> = BTreeMap::new();
        for ((id, _), row) in &run.attempts {
            attempts.entry(*id).or_default().push(row);
        }
        let changed = run.transitions.iter().filter_map(|row| Some((row.task?, row.index.0))).collect();
        let executors = state.executors.iter().map(|(id, row)| (*id, row.name.clone())).collect();
        let is_live = state.runs.contains(&run.id);
        Self { state: is_live.then_some(state), definition, run, by_place, attempts, changed, executors }
    }

    /// Places of the graph's tasks, none before what it needs.
    pub(crate) fn in_order(&self) -> Vec<u16> {
        let count = self.by_place.len() as u16;
        let Some(definition) = self.definition else { return (0..count).collect() };
        let mut order = Vec::with_capacity(usize::from(count));
        let mut is_placed = vec![false; usize::from(count)];
        // The graph has no ring, so each round places one task at least.
        while order.len() < usize::from(count) {
            let before = order.len();
            for (place, spec) in (0..count).zip(&definition.tasks) {
                let is_ready = spec.needs.iter().all(|need| is_placed[usize::from(*need)]);
                if is_ready && !is_placed[usize::from(place)] {
                    is_placed[usize::from(place)] = true;
                    order.push(place);
                }
            }
            if order.len() == before {
                return (0..count).collect();
            }
        }
        order
    }

    /// The task's name.
    pub(crate) fn name(&self, place: u16) -> String {
        let spec = self.definition.and_then(|ir| ir.tasks.get(usize::from(place)));
        let name = spec.map(|spec| &spec.name).or_else(|| self.run.task_names.get(usize::from(place)));
        name.map_or_else(|| format!("#{place}"), ToString::to_string)
    }

    /// The place and item that an address such as `extract.3` names.
    pub(crate) fn find(&self, address: &str) -> Option<TaskId> {
        let (name, item) = match address.split_once('.') {
            Some((name, item)) => (name, Some(item.parse().ok()?)),
            None => (address, None),
        };
        let place = (0..self.by_place.len() as u16).find(|place| self.name(*place) == name)?;
        let id = TaskId { run: self.run.id, task: place, item };
        (item.is_none() || self.row(id).is_some()).then_some(id)
    }

    /// The row of a task or item. A task that was not reached has none where its run failed before it began.
    pub(crate) fn row(&self, id: TaskId) -> Option<&'a TaskRow> {
        self.run.tasks.binary_search_by_key(&id, |(id, _)| *id).ok().map(|place| &self.run.tasks[place].1)
    }

    /// The items of a fan-out, in order.
    pub(crate) fn items(&self, place: u16) -> impl DoubleEndedIterator<Item = (TaskId, &'a TaskRow)> {
        let items = self.run.tasks.iter().filter(move |(id, _)| id.task == place && id.item.is_some());
        items.map(|(id, row)| (*id, row))
    }

    /// The attempts of a task or item, by number.
    pub(crate) fn attempts(&self, id: TaskId) -> &[&'a AttemptRow] {
        self.attempts.get(&id).map_or(&[], Vec::as_slice)
    }

    /// How the items of a fan-out stand. `None`: it is none, or not expanded.
    fn item_counts(&self, id: TaskId, row: &TaskRow) -> Option<TaskCounts> {
        row.fan_out?;
        let mut counts = TaskCounts::default();
        self.items(id.task).for_each(|(_, item)| count(&mut counts, &item.state));
        Some(counts)
    }

    /// A task or an item, without its items.
    pub(crate) fn task(&self, id: TaskId, detail: Detail) -> Option<Task> {
        let row = self.row(id)?;
        let spec = self.definition.and_then(|ir| ir.tasks.get(usize::from(id.task)));
        let attempts = self.attempts(id);
        let around = Around { state: self.state, definition: self.definition, tasks: &self.by_place };
        let name = self.name(id.task);
        let output = row.output.as_ref();
        let first = (1..).zip(attempts);
        let shown: Vec<Attempt> = match detail {
            Detail::Full | Detail::NoOutputs => {
                first.map(|(number, row)| self.attempt(number, row)).collect()
            }
            Detail::Brief => {
                first.last().map(|(number, row)| self.attempt(number, row)).into_iter().collect()
            }
        };
        Some(Task {
            address: id.item.map_or_else(|| name.clone(), |item| format!("{name}.{item}")),
            name,
            item_index: id.item,
            item: row.item.as_deref().map(json),
            state: state_of(&row.state).into(),
            reason: reason_of_task(id, row, attempts.last().copied(), &around).map(wire),
            needs: spec
                .map_or_else(Vec::new, |spec| spec.needs.iter().map(|need| self.name(*need)).collect()),
            trigger_rule: spec.map_or("", |spec| rule_word(spec.trigger_rule)).to_owned(),
            allow_failure: spec.is_some_and(|spec| spec.allow_failure),
            started_at: row.started_at.map(wire_time),
            finished_at: row.state.has_ended().then(|| wire_time(row.since)),
            attempts: shown,
            attempt_count: row.attempts,
            retries_left: spec.map_or(0, |spec| spec.retry.limit.saturating_sub(row.retries)),
            outputs: match (detail, output) {
                (Detail::Full, Some(Output::Inline(text))) => Some(json(text)),
                (Detail::Full, Some(Output::Blob { .. }) | None) | (Detail::NoOutputs | Detail::Brief, _) => {
                    None
                }
            },
            outputs_size: match output {
                Some(Output::Inline(text)) => text.len() as u64,
                Some(Output::Blob { bytes, .. }) => *bytes,
                None => 0,
            },
            taken_from: row.taken_from.map(|run| run.to_string()),
            item_counts: self.item_counts(id, row),
            items: Vec::new(),
            changed_index: self.changed.get(&id).copied().unwrap_or(0),
        })
    }

    fn attempt(&self, number: u32, row: &AttemptRow) -> Attempt {
        let (exit_code, signal, ended) = match &row.state {
            AttemptState::Ended { outcome, at } => {
                let (exit, signal) = match outcome {
                    AttemptOutcome::Success => (Some(0), None),
                    AttemptOutcome::Exit(code) => (Some(*code), None),
                    AttemptOutcome::Signal(signal) => (None, Some(*signal)),
                    AttemptOutcome::Error(_)
                    | AttemptOutcome::Broken(_)
                    | AttemptOutcome::TimedOut
                    | AttemptOutcome::Cancelled
                    | AttemptOutcome::Lost(_) => (None, None),
                };
                (exit, signal, Some(*at))
            }
            AttemptState::Running | AttemptState::Publishing | AttemptState::Stopping { .. } => {
                (None, None, None)
            }
        };
        Attempt {
            number,
            fence: row.fence.0,
            executor: row.executor.to_string(),
            executor_name: self.executors.get(&row.executor).cloned().unwrap_or_default(),
            state: attempt_state(&row.state).into(),
            reason: of_attempt(row).map(wire),
            granted_at: Some(wire_time(row.granted_at)),
            started_at: row.started_at.map(wire_time),
            finished_at: ended.map(wire_time),
            exit_code,
            signal,
            counts: counts_as_retry(&row.state),
            log: log_of(row).into(),
            log_size: row.log_bytes,
        }
    }
}

/// A JSON document on the wire.
pub(crate) fn json(text: &str) -> Json {
    Json { text: text.to_owned() }
}

/// The state that the wire has for a task's state.
pub(crate) const fn state_of(state: &TaskState) -> task::State {
    match state {
        TaskState::Waiting | TaskState::WaitingForPast { .. } | TaskState::Deciding => task::State::Waiting,
        TaskState::Queued => task::State::Queued,
        TaskState::Expanded | TaskState::Running { .. } => task::State::Running,
        TaskState::Stopping { .. } => task::State::Stopping,
        TaskState::Retrying { .. } => task::State::Retrying,
        TaskState::Success => task::State::Success,
        TaskState::Failed(_) => task::State::Failed,
        TaskState::UpstreamFailed => task::State::UpstreamFailed,
        TaskState::Skipped(_) => task::State::Skipped,
        TaskState::Cancelled => task::State::Cancelled,
    }
}

/// Counts one more task in this state.
pub(crate) fn count(counts: &mut TaskCounts, state: &TaskState) {
    counts.total += 1;
    let place = match state {
        TaskState::Waiting | TaskState::WaitingForPast { .. } | TaskState::Deciding => &mut counts.waiting,
        TaskState::Queued => &mut counts.queued,
        TaskState::Expanded | TaskState::Running { .. } => &mut counts.running,
        TaskState::Stopping { .. } => &mut counts.stopping,
        TaskState::Retrying { .. } => &mut counts.retrying,
        TaskState::Success => &mut counts.success,
        TaskState::Failed(_) => &mut counts.failed,
        TaskState::UpstreamFailed => &mut counts.upstream_failed,
        TaskState::Skipped(_) => &mut counts.skipped,
        TaskState::Cancelled => &mut counts.cancelled,
    };
    *place += 1;
}

/// The language's word for a rule.
pub(crate) const fn rule_word(rule: TriggerRule) -> &'static str {
    match rule {
        TriggerRule::AllSuccess => "all_success",
        TriggerRule::AllDone => "all_done",
        TriggerRule::NoneFailed => "none_failed",
        TriggerRule::OneFailed => "one_failed",
        TriggerRule::OneSuccess => "one_success",
    }
}

const fn attempt_state(state: &AttemptState) -> attempt::State {
    match state {
        AttemptState::Running | AttemptState::Publishing => attempt::State::Running,
        AttemptState::Stopping { .. } => attempt::State::Stopping,
        AttemptState::Ended { outcome, .. } => match outcome {
            AttemptOutcome::Success => attempt::State::Success,
            AttemptOutcome::Cancelled => attempt::State::Cancelled,
            AttemptOutcome::Lost(_) => attempt::State::Lost,
            AttemptOutcome::Exit(_)
            | AttemptOutcome::Signal(_)
            | AttemptOutcome::Error(_)
            | AttemptOutcome::Broken(_)
            | AttemptOutcome::TimedOut => attempt::State::Failed,
        },
    }
}

/// LANGUAGE 1.17: one lost with its executor does not count, nor does one that was cancelled.
fn counts_as_retry(state: &AttemptState) -> bool {
    attempt_state(state) == attempt::State::Failed
}

fn log_of(row: &AttemptRow) -> attempt::Log {
    match &row.log {
        LogState::At(_) => match row.state {
            AttemptState::Ended { .. } => attempt::Log::Pending,
            AttemptState::Running | AttemptState::Publishing | AttemptState::Stopping { .. } => {
                attempt::Log::Live
            }
        },
        LogState::Attached(LogPlace::Pack { .. }) | LogState::Empty => attempt::Log::Stored,
        LogState::Attached(LogPlace::Lost) | LogState::Lost => attempt::Log::Lost,
        LogState::Expired => attempt::Log::Expired,
    }
}
