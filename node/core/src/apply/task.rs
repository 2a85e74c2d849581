//! Tasks: from waiting to ended, and what the end of one means for others (PROTOCOL 4.1, 4.2).

use alloc::string::String;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{Decide, DecideOutcome};
use crate::effect::Effect;
use crate::id::{RunId, TaskId};
use crate::ir::{self, Json};
use crate::mutation::{Mutation, planted};
use crate::state::{
    FanOut, PastOutcome, RunState, State, TaskRow, TaskState, TransitionRow, TransitionState, WhyFailed,
    WhySkipped,
};
use crate::time::Timestamp;
use crate::trigger::{self, Counts, Verdict};

use super::{Applied, Step};

impl TaskRow {
    /// A task that waits.
    pub(super) fn waiting(since: Timestamp) -> Self {
        Self {
            state: TaskState::Waiting,
            attempts: 0,
            lost: 0,
            retries: 0,
            output: None,
            item: None,
            fan_out: None,
            since,
            started_at: None,
            taken_from: None,
        }
    }
}

impl State {
    /// What the definition says of a task.
    pub fn spec_of(&self, task: TaskId) -> Option<&ir::Task> {
        self.definition_of(task.run)?.workflow.tasks.get(usize::from(task.task))
    }

    /// The states of the tasks that a task needs, as its trigger rule counts them.
    pub fn upstream_counts(&self, task: TaskId) -> Counts {
        let mut counts = Counts::default();
        let Some(spec) = self.spec_of(task) else { return counts };
        for need in &spec.needs {
            let needed = TaskId { task: *need, item: None, ..task };
            match self.tasks.get(&needed).map(|row| &row.state) {
                Some(TaskState::Success) => counts.success += 1,
                Some(TaskState::Skipped(_)) => counts.skipped += 1,
                // LANGUAGE 1.11: for trigger rules a failure that is allowed counts as a success.
                Some(TaskState::Failed(_)) if self.spec_of(needed).is_some_and(|spec| spec.allow_failure) => {
                    counts.success += 1;
                }
                Some(TaskState::Failed(_) | TaskState::Cancelled) => counts.failed += 1,
                Some(TaskState::UpstreamFailed) => counts.upstream_failed += 1,
                Some(
                    TaskState::Waiting
                    | TaskState::WaitingForPast { .. }
                    | TaskState::Deciding
                    | TaskState::Queued
                    | TaskState::Expanded
                    | TaskState::Running { .. }
                    | TaskState::Stopping { .. }
                    | TaskState::Retrying { .. },
                )
                | None => counts.unfinished += 1,
            }
        }
        counts
    }

    /// What a decision about a task depends on: each task upstream, near or far, with its last attempt.
    pub fn inputs_of(&self, task: TaskId) -> Vec<(u16, u32)> {
        let Some(definition) = self.definition_of(task.run) else { return Vec::new() };
        let tasks = &definition.workflow.tasks;
        let mut is_input = alloc::vec![false; tasks.len()];
        let mut open = alloc::vec![task.task];
        while let Some(next) = open.pop() {
            for need in tasks.get(usize::from(next)).map_or(&[][..], |spec| &spec.needs) {
                if !core::mem::replace(&mut is_input[usize::from(*need)], true) {
                    open.push(*need);
                }
            }
        }
        let inputs = (0u16..).zip(is_input).filter(|(_, is_input)| *is_input);
        inputs
            .map(|(need, _)| (need, self.attempt_number(TaskId { task: need, item: None, ..task })))
            .collect()
    }

    /// The last attempt of a task; of a fan-out the number of all attempts of its items.
    fn attempt_number(&self, task: TaskId) -> u32 {
        match self.tasks.get(&task) {
            Some(row) if row.fan_out.is_some() => self.items_of(task).map(|(_, item)| item.attempts).sum(),
            Some(row) => row.attempts,
            None => 0,
        }
    }
}

impl Step<'_> {
    /// What the definition says of a task.
    pub(super) fn spec_of(&self, task: TaskId) -> Option<&ir::Task> {
        self.state.spec_of(task)
    }

    /// Brings a task into a state and notes it.
    pub(super) fn set_task(&mut self, task: TaskId, state: TaskState) {
        let now = self.now();
        let word = state.as_str();
        let detail = detail_of(&state);
        self.state.tasks.update(&task, |row| {
            row.state = state;
            row.since = now;
        });
        // Items fold into the counts of their fan-out (PROTOCOL 7).
        if task.item.is_none() {
            self.note(task.run, Some(task), word, &detail);
        }
        self.touch(2);
    }

    /// Notes what happened to a run. A run keeps its first transitions up to a bound, and counts the rest.
    pub(super) fn note(&mut self, run: RunId, task: Option<TaskId>, word: &str, detail: &str) {
        let attempt = task.and_then(|task| self.state.tasks.get(&task)).map_or(0, |row| row.attempts);
        let number = self.state.runs.update(&run, |row| {
            row.transitions += 1;
            row.transitions
        });
        let Some(number) = number else { return };
        if number <= self.state.cluster.settings.transitions_max {
            let state = TransitionState { word: word.into(), attempt, detail: detail.into() };
            let row = TransitionRow { index: self.state.index, at: self.now(), task, state };
            self.state.transitions.insert((run, number), row);
        }
        if self.effects.last() != Some(&Effect::Run(run)) {
            self.effects.push(Effect::Run(run));
        }
    }

    /// Looks whether a waiting task may go on: first its rule, then the past, then its condition (LANGUAGE 1.10).
    pub(super) fn evaluate(&mut self, task: TaskId) {
        let is_waiting = self.state.tasks.get(&task).is_some_and(|row| row.state == TaskState::Waiting);
        if !is_waiting {
            return;
        }
        if self.state.runs.get(&task.run).is_none_or(|run| run.state != RunState::Running) {
            return;
        }
        let Some(rule) = self.spec_of(task).map(|spec| spec.trigger_rule) else { return };
        match trigger::decide(rule, &self.state.upstream_counts(task)) {
            Verdict::Wait => {}
            Verdict::Run => self.check_past(task),
            Verdict::Skip => self.end_task(task, TaskState::Skipped(WhySkipped::Upstream)),
            Verdict::UpstreamFailed => self.end_task(task, TaskState::UpstreamFailed),
        }
    }

    /// LANGUAGE 1.25: a task that depends on the past waits for the run at the tick before.
    fn check_past(&mut self, task: TaskId) {
        match self.past_of(task) {
            Some(waiting) => {
                let (Some(schedule), TaskState::WaitingForPast { tick, .. }) =
                    (self.state.runs.get(&task.run).and_then(crate::state::RunRow::schedule_id), &waiting)
                else {
                    return;
                };
                self.state.past_waits.insert((schedule, *tick, task), ());
                self.set_task(task, waiting);
                self.give_up_place(task.run);
            }
            None => self.open_condition(task),
        }
    }

    /// A run that waits for the past holds no place at its gate: the run that it waits for, or the repair of one further back,
    /// would wait there for it for ever. It does not count again when it goes on (LANGUAGE 1.25).
    fn give_up_place(&mut self, run: RunId) {
        let Some(workflow) = self.state.runs.get(&run).map(|row| row.workflow.clone()) else { return };
        if self.state.active.remove(&(workflow.clone(), run)).is_some() {
            self.state.workflows.update(&workflow, |row| row.active_runs = row.active_runs.saturating_sub(1));
            self.gates.insert(workflow);
        }
    }

    /// What of the past a task has to wait for.
    fn past_of(&self, task: TaskId) -> Option<TaskState> {
        let spec = self.spec_of(task).filter(|spec| spec.depends_on_past)?;
        let run = self.state.runs.get(&task.run)?;
        let tick = run.interval_start;
        // The first tick of a calendar has itself as its past.
        if tick >= run.logical_time {
            return None;
        }
        let past = self.state.past.get(&(run.schedule_id()?, tick))?;
        match &past.ended {
            None => Some(TaskState::WaitingForPast { tick, failed: None }),
            Some(tasks) => match tasks.get(&spec.name) {
                Some(PastOutcome::Bad) => Some(TaskState::WaitingForPast { tick, failed: Some(past.run) }),
                Some(PastOutcome::Good) | None => None,
            },
        }
    }

    /// The run at a tick ended, or another took its place: those that waited for it look again.
    pub(super) fn wake_past_waiters(&mut self, schedule: &crate::id::ScheduleId, tick: Timestamp) {
        let first = TaskId { run: RunId(0), task: 0, item: None };
        let last = TaskId { run: RunId(u64::MAX), task: u16::MAX, item: Some(u32::MAX) };
        let waits =
            self.state.past_waits.range((schedule.clone(), tick, first)..=(schedule.clone(), tick, last));
        let waiting: Vec<TaskId> = waits.map(|((_, _, task), ())| *task).collect();
        for task in waiting {
            self.state.past_waits.remove(&(schedule.clone(), tick, task));
            self.check_past(task);
        }
    }

    /// Its rule and the past let it run: is there a condition or a list to work out?
    fn open_condition(&mut self, task: TaskId) {
        let Some(spec) = self.spec_of(task) else { return };
        if spec.when.is_some() || spec.for_each.is_some() {
            self.set_task(task, TaskState::Deciding);
            self.state.deciding.insert(task, ());
            self.effects.push(Effect::Deciding(task));
        } else {
            self.make_ready(task);
        }
    }

    /// The leader worked a condition or a list out. Refused unless all that it was worked out from still holds.
    pub(super) fn decide(&mut self, decide: Decide) -> Applied {
        let task = decide.task;
        let is_current =
            self.state.inputs_of(task) == decide.inputs || planted(Mutation::DecideWithStaleInputs);
        if !self.state.deciding.contains(&task) || !is_current {
            return Err(Refusal::Stale(Stale::Inputs(task)));
        }
        if let DecideOutcome::Items(items) = &decide.outcome {
            self.check_items(task, items)?;
        }
        self.state.deciding.remove(&task);
        match decide.outcome {
            DecideOutcome::Run => self.make_ready(task),
            DecideOutcome::Skip => self.end_task(task, TaskState::Skipped(WhySkipped::When)),
            DecideOutcome::Failed(error) => self.end_task(task, TaskState::Failed(WhyFailed::Decide(error))),
            DecideOutcome::Items(items) if items.is_empty() => {
                self.end_task(task, TaskState::Skipped(WhySkipped::NoItems));
            }
            DecideOutcome::Items(items) => self.expand(task, items),
        }
        Ok(Answer::Done)
    }

    /// An expansion waits when the state is nearly full; the oldest may use all but the last 5 % (PROTOCOL 6.3).
    fn check_items(&self, task: TaskId, items: &[Json]) -> Result<(), Refusal> {
        let items_max = self.state.cluster.settings.items_max;
        if items.len() > items_max as usize {
            return Err(Refusal::Limit {
                limit: "items of one fan-out".into(),
                value: u64::from(items_max),
                asked: items.len() as u64,
                hint: "give each item more work, or split the task".into(),
            });
        }
        let bytes_max = self.state.cluster.settings.state_bytes_max;
        let is_oldest = self.state.deciding.first().is_some_and(|(first, ())| *first == task);
        let share = if is_oldest { 95 } else { 90 };
        let asked = self.state.bytes() + items.iter().map(|item| item.len() as u64 + 64).sum::<u64>();
        if asked > bytes_max / 100 * share {
            return Err(Refusal::Limit {
                limit: alloc::format!("{share} % of the bytes of the state"),
                value: bytes_max / 100 * share,
                asked,
                hint: "wait for runs to finish, or raise the budget of the state".into(),
            });
        }
        Ok(())
    }

    /// A fan-out becomes its items.
    fn expand(&mut self, task: TaskId, items: Vec<Json>) {
        let fan_out = FanOut { items: items.len() as u32, ..FanOut::default() };
        self.state.tasks.update(&task, |row| row.fan_out = Some(fan_out));
        self.set_task(task, TaskState::Expanded);
        let now = self.now();
        for (number, item) in (0u32..).zip(items) {
            let id = TaskId { item: Some(number), ..task };
            let row = TaskRow { item: Some(item.into()), ..TaskRow::waiting(now) };
            self.state.tasks.insert(id, row);
            self.make_ready(id);
        }
    }

    /// A task has come to its end.
    pub(super) fn end_task(&mut self, task: TaskId, state: TaskState) {
        self.set_task(task, state);
        self.ended.push_back(task);
    }

    /// Lets everything go on that waited for a task that ended.
    pub(super) fn follow(&mut self, task: TaskId) {
        match task.item {
            Some(_) => self.item_ended(task),
            None => self.whole_task_ended(task),
        }
    }

    fn item_ended(&mut self, item: TaskId) {
        let Some(state) = self.state.tasks.get(&item).map(|row| row.state.clone()) else { return };
        let task = TaskId { item: None, ..item };
        let fan_out = self.state.tasks.update(&task, |row| {
            let fan_out = row.fan_out.get_or_insert_default();
            match state {
                TaskState::Success | TaskState::Skipped(_) => fan_out.success += 1,
                TaskState::Failed(_) | TaskState::UpstreamFailed => fan_out.failed += 1,
                TaskState::Cancelled
                | TaskState::Waiting
                | TaskState::WaitingForPast { .. }
                | TaskState::Deciding
                | TaskState::Queued
                | TaskState::Expanded
                | TaskState::Running { .. }
                | TaskState::Stopping { .. }
                | TaskState::Retrying { .. } => fan_out.cancelled += 1,
            }
            *fan_out
        });
        self.effects.push(Effect::Run(item.run));
        let Some(fan_out) = fan_out.filter(|fan_out| fan_out.open() == 0) else { return };
        let state = if fan_out.cancelled > 0 {
            TaskState::Cancelled
        } else if fan_out.failed > 0 {
            TaskState::Failed(WhyFailed::Items(fan_out.failed))
        } else {
            TaskState::Success
        };
        self.end_task(task, state);
    }

    fn whole_task_ended(&mut self, task: TaskId) {
        let counts = self.spec_of(task).is_none_or(|spec| !spec.allow_failure);
        let state = self.state.tasks.get(&task).map(|row| &row.state);
        let has_failed = counts && matches!(state, Some(TaskState::Failed(_)));
        let open = self.state.runs.update(&task.run, |run| {
            run.tasks_open = run.tasks_open.saturating_sub(1);
            run.has_failed |= has_failed;
            run.tasks_open
        });
        let Some(definition) = self.state.definition_of(task.run) else { return };
        let downstream = definition.downstream.clone();
        for next in downstream.get(usize::from(task.task)).map_or(&[][..], Vec::as_slice) {
            self.evaluate(TaskId { task: *next, item: None, ..task });
        }
        if open == Some(0) {
            self.end_run(task.run);
        }
    }

    /// A failed task of an active run is retried in place while nothing downstream of it has started (4.4).
    pub(super) fn retry_task(&mut self, task: TaskId) -> Applied {
        let row = self.state.tasks.get(&task).ok_or(Refusal::NotFound(Thing::Task(task)))?;
        let refuse = |why: &str, hint: &str| Err(super::conflict(Thing::Task(task), why, hint));
        if !matches!(row.state, TaskState::Failed(_)) {
            let why = alloc::format!("it is {}, not failed", row.state.as_str());
            return refuse(&why, "only a failed task can be retried in place");
        }
        if row.fan_out.is_some() {
            return refuse("it is a fan-out as a whole", "retry the items that failed, one by one");
        }
        if self.state.runs.get(&task.run).is_none_or(|run| run.state != RunState::Running) {
            return refuse("its run is not running", "`matins retry RUN` makes a new run of a finished one");
        }
        let followers =
            self.state.definition_of(task.run).map(|row| row.followers(task.task)).unwrap_or_default();
        let following: Vec<TaskId> =
            followers.into_iter().map(|follower| TaskId { task: follower, item: None, ..task }).collect();
        let started = |id: &TaskId| {
            let state = self.state.tasks.get(id).map(|row| (&row.state, row.attempts, row.fan_out));
            state.is_some_and(|(state, attempts, fan_out)| {
                attempts > 0 || fan_out.is_some() || matches!(state, TaskState::Success)
            })
        };
        if following.iter().any(started) {
            return refuse("a task downstream of it has started", "cancel the run, then `matins retry RUN`");
        }
        self.reopen(task, &following);
        Ok(Answer::Done)
    }

    /// Brings a failed task back to life, and what failed or was skipped through it back to waiting.
    fn reopen(&mut self, task: TaskId, following: &[TaskId]) {
        let mut reopened = 0;
        for follower in following {
            let state = self.state.tasks.get(follower).map(|row| row.state.clone());
            match state {
                Some(TaskState::UpstreamFailed | TaskState::Skipped(WhySkipped::Upstream)) => reopened += 1,
                Some(TaskState::Deciding) => {
                    self.state.deciding.remove(follower);
                }
                Some(TaskState::Queued) => self.leave_queue(*follower),
                Some(TaskState::WaitingForPast { tick, .. }) => {
                    let schedule = self.state.runs.get(&task.run).and_then(crate::state::RunRow::schedule_id);
                    if let Some(schedule) = schedule {
                        self.state.past_waits.remove(&(schedule, tick, *follower));
                    }
                }
                Some(
                    TaskState::Waiting
                    | TaskState::Expanded
                    | TaskState::Running { .. }
                    | TaskState::Stopping { .. }
                    | TaskState::Retrying { .. }
                    | TaskState::Success
                    | TaskState::Failed(_)
                    | TaskState::Skipped(_)
                    | TaskState::Cancelled,
                )
                | None => continue,
            }
            self.set_task(*follower, TaskState::Waiting);
        }
        let parent = TaskId { item: None, ..task };
        if task.item.is_some() {
            let was_over = self.state.tasks.get(&parent).is_some_and(|row| row.state.has_ended());
            self.state.tasks.update(&parent, |row| {
                let fan_out = row.fan_out.get_or_insert_default();
                fan_out.failed = fan_out.failed.saturating_sub(1);
            });
            if was_over {
                self.set_task(parent, TaskState::Expanded);
                reopened += 1;
            }
        } else {
            reopened += 1;
        }
        self.state.tasks.update(&task, |row| row.retries = 0);
        self.state.runs.update(&task.run, |run| run.tasks_open += reopened);
        self.recount_failures(task.run, parent);
        self.revive(task);
    }

    /// Whether anything else that counts has failed.
    fn recount_failures(&mut self, run: RunId, except: TaskId) {
        let failed = self.state.tasks_of(run).any(|(id, row)| {
            let counts = self.state.spec_of(*id).is_none_or(|spec| !spec.allow_failure);
            id.item.is_none() && *id != except && counts && matches!(row.state, TaskState::Failed(_))
        });
        self.state.runs.update(&run, |row| row.has_failed = failed);
    }

    /// A task that had failed starts over where it failed: at its condition, or at the queue.
    fn revive(&mut self, task: TaskId) {
        let was_undecided = self.state.tasks.get(&task).is_some_and(|row| {
            row.item.is_none() && matches!(&row.state, TaskState::Failed(WhyFailed::Decide(_)))
        });
        if was_undecided { self.open_condition(task) } else { self.make_ready(task) }
    }
}

/// What people are told beside the word of a state.
fn detail_of(state: &TaskState) -> String {
    match state {
        TaskState::Failed(WhyFailed::Decide(error) | WhyFailed::NoRoom(error)) => error.clone(),
        TaskState::Failed(WhyFailed::Items(failed)) => alloc::format!("{failed} items failed"),
        TaskState::Failed(WhyFailed::Attempt(outcome)) => alloc::format!("{outcome}"),
        TaskState::Skipped(WhySkipped::When) => "its `when` is false".into(),
        TaskState::Skipped(WhySkipped::NoItems) => "its list is empty".into(),
        TaskState::Skipped(WhySkipped::Upstream) => "what it needs was skipped".into(),
        TaskState::WaitingForPast { failed: Some(run), .. } => alloc::format!("past failed: {run}, retry it"),
        TaskState::WaitingForPast { failed: None, .. } => "the run before is active".into(),
        TaskState::Waiting
        | TaskState::Deciding
        | TaskState::Queued
        | TaskState::Expanded
        | TaskState::Running { .. }
        | TaskState::Stopping { .. }
        | TaskState::Retrying { .. }
        | TaskState::Success
        | TaskState::UpstreamFailed
        | TaskState::Cancelled => String::new(),
    }
}
