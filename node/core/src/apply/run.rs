//! Runs: how they are made, pass their gate, and end (PROTOCOL 3.4, 4.1; LANGUAGE 1.11, 1.19).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Thing};
use crate::command::{Start, StopHow, Tick};
use crate::effect::Effect;
use crate::id::{Digest, RunId, ScheduleId, ScheduleName, TaskId, VersionNumber, WorkflowName};
use crate::ir::OnFull;
use crate::state::{PastOutcome, PastRow, RunOrigin, RunRow, RunState, State, TaskRow, TaskState, WorkKey};

use super::{Applied, Step, conflict};

/// A run that is about to be made.
pub(super) struct NewRun {
    pub(super) workflow: WorkflowName,
    pub(super) definition: Digest,
    pub(super) version: Option<VersionNumber>,
    pub(super) origin: RunOrigin,
    pub(super) schedule: Option<ScheduleName>,
    pub(super) tick: Tick,
    pub(super) retry_of: Option<(RunId, RunId)>,
}

impl State {
    /// Bytes of the state beyond which no new runs are made (PROTOCOL 6.3).
    fn bytes_for_runs_max(&self) -> u64 {
        self.cluster.settings.state_bytes_max / 100 * 80
    }

    /// Refuses a new run when the state is too full for it.
    pub(super) fn check_room_for_runs(&self) -> Result<(), Refusal> {
        if let Some(full) = &self.cluster.full_disk {
            return Err(Refusal::FullDisk(full.clone()));
        }
        let (value, asked) = (self.bytes_for_runs_max(), self.bytes());
        if asked <= value {
            return Ok(());
        }
        Err(Refusal::Limit {
            limit: "80 % of the bytes of the state".into(),
            value,
            asked,
            hint: "wait for runs to finish and leave for history, or raise the budget of the state".into(),
        })
    }

    /// The gate of a workflow: how many runs may be active, and what happens to one more.
    pub(crate) fn gate_of(&self, workflow: &WorkflowName) -> Option<(u32, OnFull)> {
        let number = self.workflows.get(workflow)?.current?;
        let version = self.versions.get(&(workflow.clone(), number))?;
        let concurrency = self.definitions.get(&version.definition)?.workflow.concurrency;
        Some((concurrency.active_runs_max?, concurrency.on_full))
    }

    /// Whether one more run finds the gate full. Those that wait already come first.
    pub(super) fn is_gate_full(&self, workflow: &WorkflowName) -> bool {
        let active = self.workflows.get(workflow).map_or(0, |row| row.active_runs);
        self.gate_of(workflow).is_some_and(|(max, _)| active >= max) || self.first_at_gate(workflow).is_some()
    }

    /// The run that passes next.
    fn first_at_gate(&self, workflow: &WorkflowName) -> Option<RunId> {
        let first = (workflow.clone(), crate::time::Timestamp::from_millis(i64::MIN), RunId(0));
        let ((name, _, run), ()) = self.gate.range(first..).next()?;
        (name == workflow).then_some(*run)
    }
}

impl Step<'_> {
    /// Makes a run by hand, or of a file that is not registered.
    pub(super) fn start(&mut self, start: Start) -> Applied {
        let version = self.check_start(&start)?;
        let run = self.make_run(NewRun {
            workflow: start.workflow,
            definition: start.definition,
            version,
            origin: start.origin,
            schedule: start.schedule,
            tick: start.tick,
            retry_of: None,
        });
        Ok(Answer::Run(run))
    }

    fn check_start(&self, start: &Start) -> Result<Option<VersionNumber>, Refusal> {
        let definition = self.state.definitions.get(&start.definition);
        let definition = definition.ok_or(Refusal::NotFound(Thing::Definition(start.definition)))?;
        if definition.workflow.name != start.workflow {
            return Err(Refusal::Invalid("the definition is of another workflow".into()));
        }
        self.check_params(&start.tick)?;
        self.state.check_room_for_runs()?;
        match start.origin {
            RunOrigin::Submitted => {
                self.check_pools(&definition.workflow, &[])?;
                Ok(None)
            }
            RunOrigin::Manual => {
                let version = self.version_with(&start.workflow, start.definition)?;
                self.check_gate_by_hand(&start.workflow)?;
                Ok(Some(version))
            }
            RunOrigin::Schedule | RunOrigin::Backfill(_) | RunOrigin::Retry => {
                Err(Refusal::Invalid("such a run is not started by hand".into()))
            }
        }
    }

    /// The newest version of a workflow that has this compiled form.
    fn version_with(&self, workflow: &WorkflowName, definition: Digest) -> Result<VersionNumber, Refusal> {
        let row = self.state.workflows.get(workflow).filter(|row| row.current.is_some());
        row.ok_or_else(|| Refusal::NotFound(Thing::Workflow(workflow.clone())))?;
        let versions =
            self.state.versions.range((workflow.clone(), 0)..=(workflow.clone(), VersionNumber::MAX));
        let found = versions.rev().find(|(_, version)| version.definition == definition);
        found.map(|((_, number), _)| *number).ok_or(Refusal::NotFound(Thing::Definition(definition)))
    }

    /// Parameters that could not be resolved, or are too large.
    pub(super) fn check_params(&self, tick: &Tick) -> Result<(), Refusal> {
        let params = tick.params.as_ref().map_err(|why| Refusal::Invalid(why.clone()))?;
        let max = self.state.cluster.settings.params_bytes_max;
        if params.len() > max as usize {
            return Err(Refusal::Limit {
                limit: "bytes of the parameters of one run".into(),
                value: u64::from(max),
                asked: params.len() as u64,
                hint: "put the data into a file and pass its path".into(),
            });
        }
        Ok(())
    }

    /// A person who starts a run of a workflow that skips when full is told so, rather than left without a run.
    fn check_gate_by_hand(&self, workflow: &WorkflowName) -> Result<(), Refusal> {
        match self.state.gate_of(workflow) {
            // A conflict and not a lack of room: it is the workflow's own rule, and an answer that is kept, so that a
            // repeat under the same request id cannot make the run after all (PROTOCOL 4.6).
            Some((max, OnFull::Skip)) if self.state.is_gate_full(workflow) => Err(conflict(
                Thing::Workflow(workflow.clone()),
                alloc::format!("its max_active_runs, {max}, are active, and on_full is skip"),
                "wait for an active run, cancel one, or raise max_active_runs",
            )),
            Some((_, OnFull::Skip | OnFull::Queue | OnFull::CancelRunning)) | None => Ok(()),
        }
    }

    /// Makes a run and lets it through its gate if there is room.
    pub(super) fn make_run(&mut self, new: NewRun) -> RunId {
        let id = self.insert_run(&new);
        if let Err(why) = &new.tick.params {
            self.fail_run_at_once(id, why.clone());
            return id;
        }
        match new.origin {
            RunOrigin::Schedule | RunOrigin::Manual | RunOrigin::Retry => self.arrive_at_gate(id, &new),
            // They have gates of their own: the backfill's `active_max`, and none.
            RunOrigin::Backfill(_) | RunOrigin::Submitted => self.begin_run(id),
        }
        id
    }

    fn insert_run(&mut self, new: &NewRun) -> RunId {
        self.state.cluster.counters.run += 1;
        let id = RunId(self.state.cluster.counters.run);
        let row = RunRow {
            workflow: new.workflow.clone(),
            definition: new.definition,
            version: new.version,
            origin: new.origin,
            schedule: new.schedule.clone(),
            logical_time: new.tick.logical_time,
            interval_start: new.tick.interval_start,
            params: new.tick.params.as_deref().unwrap_or("{}").into(),
            state: RunState::Queued,
            tasks_open: 0,
            has_failed: false,
            created_at: self.now(),
            started_at: None,
            ended_at: None,
            retry_of: new.retry_of.map(|(run, _)| run),
            retry_root: new.retry_of.map_or(id, |(_, root)| root),
            reason: None,
            transitions: 0,
            logs_open: 0,
        };
        let schedule = row.schedule_id();
        self.state.runs.insert(id, row);
        self.state.definitions.update(&new.definition, |row| row.uses += 1);
        self.state.workflows.update(&new.workflow, |row| row.latest_run = Some(id));
        if let Some(schedule) = schedule {
            let tick = new.tick.logical_time;
            self.state.runs_by_tick.insert((schedule.clone(), tick, id), ());
            self.open_past(id, &schedule, new);
        }
        self.note(id, None, RunState::Queued.as_str(), "");
        self.touch(5);
        id
    }

    fn fail_run_at_once(&mut self, run: RunId, why: alloc::string::String) {
        self.state.runs.update(&run, |row| {
            row.has_failed = true;
            row.reason = Some(why);
        });
        self.end_run(run);
    }

    fn arrive_at_gate(&mut self, run: RunId, new: &NewRun) {
        if !self.state.is_gate_full(&new.workflow) && self.rows_left > 0 {
            self.pass_gate(run, &new.workflow);
            return;
        }
        self.state.gate.insert((new.workflow.clone(), new.tick.logical_time, run), ());
        match self.state.gate_of(&new.workflow) {
            Some((_, OnFull::CancelRunning)) => self.cancel_oldest(&new.workflow),
            // Without a limit it waits only because this command has no rows left.
            None => self.leave(WorkKey::OpenGate(new.workflow.clone())),
            Some((_, OnFull::Queue | OnFull::Skip)) => {
                self.gates.insert(new.workflow.clone());
            }
        }
    }

    /// `cancel_running`: whoever is active makes room for the newest.
    fn cancel_oldest(&mut self, workflow: &WorkflowName) {
        let active =
            self.state.active.range((workflow.clone(), RunId(0))..=(workflow.clone(), RunId(u64::MAX)));
        let runs: Vec<RunId> = active.map(|((_, run), ())| *run).collect();
        for run in runs {
            if self.state.runs.get(&run).is_some_and(|row| row.state == RunState::Running) {
                self.stop_run(run, StopHow::Grace);
            }
        }
        self.gates.insert(workflow.clone());
    }

    /// Lets runs through a gate that has room, in order of logical time.
    pub(super) fn open_gate(&mut self, workflow: &WorkflowName) {
        while let Some(run) = self.state.first_at_gate(workflow) {
            let active = self.state.workflows.get(workflow).map_or(0, |row| row.active_runs);
            if self.state.gate_of(workflow).is_some_and(|(max, _)| active >= max) {
                return;
            }
            if self.rows_left == 0 {
                self.leave(WorkKey::OpenGate(workflow.clone()));
                return;
            }
            self.leave_gate(run);
            self.pass_gate(run, workflow);
        }
    }

    /// A run waits at its gate no more.
    pub(super) fn leave_gate(&mut self, run: RunId) {
        let Some(row) = self.state.runs.get(&run) else { return };
        let key = (row.workflow.clone(), row.logical_time, run);
        self.state.gate.remove(&key);
    }

    fn pass_gate(&mut self, run: RunId, workflow: &WorkflowName) {
        self.state.active.insert((workflow.clone(), run), ());
        self.state.workflows.update(workflow, |row| row.active_runs += 1);
        self.begin_run(run);
    }

    /// A run begins: its tasks come into being, and those that need nothing go on at once.
    pub(super) fn begin_run(&mut self, run: RunId) {
        let now = self.now();
        let Some(count) = self.state.definition_of(run).map(|row| row.workflow.tasks.len()) else { return };
        let ids: Vec<TaskId> = (0..count as u16).map(|task| TaskId { run, task, item: None }).collect();
        let mut open = 0;
        for id in &ids {
            // A retry comes with the tasks that it took over.
            if !self.state.tasks.contains(id) {
                self.state.tasks.insert(*id, TaskRow::waiting(now));
            }
            open += u32::from(self.state.tasks.get(id).is_none_or(|row| !row.state.has_ended()));
        }
        self.state.runs.update(&run, |row| {
            row.state = RunState::Running;
            row.started_at = Some(now);
            row.tasks_open = open;
        });
        self.note(run, None, RunState::Running.as_str(), "");
        self.touch(ids.len() as u32);
        if open == 0 {
            self.end_run(run);
            return;
        }
        for id in ids {
            self.evaluate(id);
            self.resume_items(id);
        }
    }

    /// Items of a fan-out that a retry did not take over.
    fn resume_items(&mut self, task: TaskId) {
        if self.state.tasks.get(&task).is_none_or(|row| row.state != TaskState::Expanded) {
            return;
        }
        let waiting = self.state.items_of(task).filter(|(_, row)| row.state == TaskState::Waiting);
        let waiting: Vec<TaskId> = waiting.map(|(id, _)| *id).collect();
        for item in waiting {
            self.make_ready(item);
        }
    }

    /// All tasks of a run have ended.
    pub(super) fn end_run(&mut self, run: RunId) {
        let now = self.now();
        let ended = self.state.runs.update(&run, |row| {
            row.state = match (row.state, row.has_failed) {
                (RunState::Stopping, _) => RunState::Cancelled,
                (_, true) => RunState::Failed,
                (_, false) => RunState::Success,
            };
            row.ended_at = Some(now);
            row.clone()
        });
        let Some(row) = ended else { return };
        self.note(run, None, row.state.as_str(), row.reason.as_deref().unwrap_or(""));
        if let Some(old) = row.retry_of {
            self.state.retries.remove(&old);
        }
        self.close_past(run, &row);
        if self.state.active.remove(&(row.workflow.clone(), run)).is_some() {
            self.state
                .workflows
                .update(&row.workflow, |row| row.active_runs = row.active_runs.saturating_sub(1));
            self.gates.insert(row.workflow.clone());
        }
        if let RunOrigin::Backfill(backfill) = row.origin {
            self.backfill_run_ended(backfill, row.state);
        }
        self.may_retire(run);
        self.touch(5);
    }

    /// A finished run whose logs are settled can leave for history (PROTOCOL 6.5).
    pub(super) fn may_retire(&mut self, run: RunId) {
        let Some(row) = self.state.runs.get(&run) else { return };
        if let (Some(ended_at), 0) = (row.ended_at, row.logs_open) {
            self.state.finished.insert((ended_at, run), ());
            self.effects.push(Effect::Run(run));
        }
    }

    /// A run of a workflow with `depends_on_past` becomes the newest at its tick: what comes after waits for it.
    fn open_past(&mut self, run: RunId, schedule: &ScheduleId, new: &NewRun) {
        let definition = self.state.definitions.get(&new.definition);
        if !definition.is_some_and(|row| row.workflow.tasks.iter().any(|task| task.depends_on_past)) {
            return;
        }
        let key = (schedule.clone(), new.tick.logical_time);
        self.state.past.insert(key, PastRow { run, ended: None });
        // Those that waited for a repair now wait for this run: the reason that they show changes.
        self.wake_past_waiters(schedule, new.tick.logical_time);
    }

    /// The newest run at a tick has ended: what waited for it looks at how it went.
    fn close_past(&mut self, run: RunId, row: &RunRow) {
        let Some(schedule) = row.schedule_id() else { return };
        let key = (schedule.clone(), row.logical_time);
        if self.state.past.get(&key).is_none_or(|past| past.run != run) {
            return;
        }
        let outcomes = self.past_outcomes(run);
        self.state.past.update(&key, |past| past.ended = Some(outcomes));
        self.wake_past_waiters(&schedule, row.logical_time);
        self.forget_past(&schedule, row.interval_start);
    }

    fn past_outcomes(&self, run: RunId) -> BTreeMap<crate::id::TaskName, PastOutcome> {
        let mut outcomes = BTreeMap::new();
        let Some(definition) = self.state.definition_of(run) else { return outcomes };
        for (number, spec) in (0u16..).zip(&definition.workflow.tasks) {
            if !spec.depends_on_past {
                continue;
            }
            let state = self.state.tasks.get(&TaskId { run, task: number, item: None }).map(|row| &row.state);
            outcomes.insert(spec.name.clone(), state.map_or(PastOutcome::Bad, PastOutcome::of));
        }
        outcomes
    }

    /// Outcomes that no live run can ask for any more are forgotten; the newest always stays (PROTOCOL 6.6), and so
    /// does a bad one, for it holds back until it is repaired.
    fn forget_past(&mut self, schedule: &ScheduleId, tick: crate::time::Timestamp) {
        let later = (schedule.clone(), tick + crate::time::Millis(1));
        let has_newer =
            self.state.past.range(later.clone()..).next().is_some_and(|((id, _), _)| id == schedule);
        let last = (schedule.clone(), crate::time::Timestamp::MAX, RunId(u64::MAX));
        let from = (schedule.clone(), tick, RunId(0));
        // Whoever asks for this tick is a run at a later one whose interval starts here.
        let mut asks = self.state.runs_by_tick.range(from..=last).filter(|((_, _, run), ())| {
            self.state.runs.get(run).is_some_and(|row| row.is_active() && row.interval_start == tick)
        });
        let is_asked_for = asks.next().is_some();
        let outcomes = self.state.past.get(&(schedule.clone(), tick)).and_then(|row| row.ended.as_ref());
        let is_good =
            outcomes.is_some_and(|tasks| tasks.values().all(|outcome| *outcome == PastOutcome::Good));
        if has_newer && !is_asked_for && is_good {
            self.state.past.remove(&(schedule.clone(), tick));
        }
    }
}
