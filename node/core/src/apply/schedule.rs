//! Changes of schedules: pause, resume, new specs (PROTOCOL 3.5).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::effect::Effect;
use crate::id::{ScheduleId, WorkflowName};
use crate::ir;
use crate::mutation::{Mutation, planted};
use crate::state::{DecisionCounts, Next, ScheduleRow, SkipReason};
use crate::time::Timestamp;

use super::{Applied, Step};

impl Step<'_> {
    /// Pauses one schedule. Works at once: ticks before it stay due, later ones are skipped.
    pub(super) fn pause_schedule(&mut self, id: &ScheduleId) -> Applied {
        self.find_schedule(id)?;
        let now = self.now();
        self.change_pause(id, |row| {
            row.paused_at.get_or_insert(now);
        });
        Ok(Answer::Done)
    }

    /// Ends a pause. The ticks of the pause are decided first, so that they cannot become runs.
    pub(super) fn resume_schedule(&mut self, id: &ScheduleId) -> Applied {
        let row = self.find_schedule(id)?;
        if row.paused_at.is_none() {
            return Ok(Answer::Done);
        }
        self.check_not_due([id])?;
        self.state.schedules.update(id, |row| row.paused_at = None);
        self.renew_schedule(id);
        Ok(Answer::Done)
    }

    /// Pauses all schedules of a workflow, those that come later too.
    pub(super) fn pause_workflow(&mut self, workflow: &WorkflowName) -> Applied {
        self.find_workflow(workflow)?;
        let now = self.now();
        let since = self.state.workflows.update(workflow, |row| *row.paused_at.get_or_insert(now));
        for id in self.schedules_of(workflow) {
            self.change_pause(&id, |row| row.workflow_paused_at = since);
        }
        self.effects.push(Effect::Definitions);
        Ok(Answer::Done)
    }

    /// Ends that pause.
    pub(super) fn resume_workflow(&mut self, workflow: &WorkflowName) -> Applied {
        let row = self.find_workflow(workflow)?;
        if row.paused_at.is_none() {
            return Ok(Answer::Done);
        }
        let ids = self.schedules_of(workflow);
        self.check_not_due(&ids)?;
        self.state.workflows.update(workflow, |row| row.paused_at = None);
        for id in ids {
            self.state.schedules.update(&id, |row| row.workflow_paused_at = None);
            self.renew_schedule(&id);
        }
        self.effects.push(Effect::Definitions);
        Ok(Answer::Done)
    }

    pub(super) fn find_schedule(&self, id: &ScheduleId) -> Result<&ScheduleRow, Refusal> {
        self.state.schedules.get(id).ok_or_else(|| Refusal::NotFound(Thing::Schedule(id.clone())))
    }

    /// The schedules of a registered workflow.
    pub(super) fn schedules_of(&self, workflow: &WorkflowName) -> Vec<ScheduleId> {
        self.state.schedules_of(workflow).map(|(id, _)| id.clone()).collect()
    }

    /// Refuses a change while ticks are due or unknown: the leader fires them first (PROTOCOL 3.5).
    pub(super) fn check_not_due<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i ScheduleId>,
    ) -> Result<(), Refusal> {
        let is_due = |id: &&ScheduleId| {
            let row = self.state.schedules.get(id);
            row.and_then(|row| row.next.due_at()).is_some_and(|due| due <= self.state.now)
        };
        let due: Vec<ScheduleId> = ids.into_iter().filter(is_due).cloned().collect();
        if due.is_empty() || planted(Mutation::ChangeWhileDue) { Ok(()) } else { Err(Refusal::TicksDue(due)) }
    }

    /// A pause raises the version, so that a Fire computed before it is refused, and leaves the mark alone.
    fn change_pause(&mut self, id: &ScheduleId, change: impl FnOnce(&mut ScheduleRow)) {
        let version = self.next_schedule_version();
        self.state.schedules.update(id, |row| {
            change(row);
            row.version = if planted(Mutation::PauseKeepsVersion) { row.version } else { version };
        });
        self.effects.push(Effect::Schedule(id.clone()));
        self.touch(1);
    }

    fn next_schedule_version(&mut self) -> u64 {
        self.state.cluster.counters.schedule_version += 1;
        self.state.cluster.counters.schedule_version
    }

    /// An accepted change: a new version, everything before now is decided, `next` is to be worked out.
    pub(super) fn renew_schedule(&mut self, id: &ScheduleId) {
        let version = self.next_schedule_version();
        let next = self.state.schedules.update(id, |row| {
            row.version = version;
            row.quarantine = None;
            if row.spec.is_enabled { Next::Unknown } else { Next::Never }
        });
        let now = self.now();
        self.move_mark(id, now, next.unwrap_or(Next::Never));
    }

    /// Puts the schedules of a new version in the place of the old ones. Those whose spec is the same go on untouched.
    pub(super) fn replace_schedules(&mut self, workflow: &WorkflowName, specs: &[ir::Schedule]) {
        for id in self.schedules_of(workflow) {
            if !specs.iter().any(|spec| spec.name == id.schedule) {
                self.remove_schedule(&id);
            }
        }
        let paused_at = self.state.workflows.get(workflow).and_then(|row| row.paused_at);
        for spec in specs {
            let id = ScheduleId { workflow: workflow.clone(), schedule: spec.name.clone() };
            match self.state.schedules.get(&id) {
                Some(row) if *row.spec == *spec => continue,
                Some(_) => {
                    self.state.schedules.update(&id, |row| row.spec = Arc::new(spec.clone()));
                }
                None => {
                    self.state.schedules.insert(id.clone(), new_row(spec, paused_at));
                }
            }
            self.renew_schedule(&id);
        }
    }

    /// Takes a schedule out.
    pub(super) fn remove_schedule(&mut self, id: &ScheduleId) {
        if let Some(due) = self.state.schedules.remove(id).and_then(|row| row.next.due_at()) {
            self.state.due.remove(&(due, id.clone()));
        }
        let first = (id.clone(), Timestamp::from_millis(i64::MIN));
        let skips = self.state.skips.range(first..=(id.clone(), Timestamp::MAX));
        let skips: Vec<_> = skips.map(|(key, _)| key.clone()).collect();
        for key in &skips {
            self.state.skips.remove(key);
        }
        self.effects.push(Effect::Schedule(id.clone()));
        self.touch(2 + skips.len() as u32);
    }

    /// Schedules of a workflow that a set of new specs would change or take out.
    pub(super) fn schedules_changed_by(
        &self,
        workflow: &WorkflowName,
        specs: &[ir::Schedule],
    ) -> Vec<ScheduleId> {
        let is_changed = |id: &ScheduleId| {
            let spec = specs.iter().find(|spec| spec.name == id.schedule);
            self.state.schedules.get(id).is_some_and(|row| spec.is_none_or(|spec| *row.spec != *spec))
        };
        self.schedules_of(workflow).into_iter().filter(is_changed).collect()
    }

    /// Decides what is due of a schedule as skipped, where it cannot be fired (PROTOCOL 3.5).
    pub(super) fn skip_due(&mut self, id: &ScheduleId, count: u32) {
        let now = self.now();
        let row = self.state.schedules.get(id);
        let due = row.and_then(|row| Some(row.next.due_at()?.max(row.mark))).unwrap_or(now);
        self.skip(id, (due.min(now), now), (count, SkipReason::Changed));
        self.move_mark(id, now, Next::Unknown);
    }

    /// The leader's zone tables differ: `next` of these schedules is worked out anew.
    pub(super) fn recalculate(&mut self, schedules: &[(ScheduleId, u64)], tables: String) -> Applied {
        for (id, version) in schedules {
            if self.find_schedule(id)?.version != *version {
                return Err(Refusal::Stale(Stale::Schedule(id.clone())));
            }
        }
        self.check_not_due(schedules.iter().map(|(id, _)| id))?;
        for (id, _) in schedules {
            self.renew_schedule(id);
        }
        self.state.cluster.zone_tables = tables;
        Ok(Answer::Done)
    }
}

fn new_row(spec: &ir::Schedule, workflow_paused_at: Option<Timestamp>) -> ScheduleRow {
    ScheduleRow {
        spec: Arc::new(spec.clone()),
        version: 0,
        mark: Timestamp::ZERO,
        next: Next::Never,
        paused_at: None,
        workflow_paused_at,
        quarantine: None,
        counts: DecisionCounts::default(),
    }
}
