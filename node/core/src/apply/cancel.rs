//! Stopping runs (PROTOCOL 4.5, 5.7).

use alloc::vec::Vec;
use core::ops::Bound;

use crate::answer::{Answer, Refusal, Thing};
use crate::command::StopHow;
use crate::id::{RunId, TaskId};
use crate::state::{RunState, StopReason, TaskState, TimerKey, WorkKey};

use super::{Applied, Step, conflict};

impl Step<'_> {
    /// Stops a run. A second cancel may be harder than the first.
    pub(super) fn cancel(&mut self, run: RunId, how: StopHow) -> Applied {
        let row = self.state.runs.get(&run).ok_or(Refusal::NotFound(Thing::Run(run)))?;
        if !row.is_active() {
            let why = alloc::format!("it is {} already", row.state.as_str());
            return Err(conflict(
                Thing::Run(run),
                why,
                "a finished run is final; `matins retry` makes a new one",
            ));
        }
        self.stop_run(run, how);
        Ok(Answer::Done)
    }

    /// Ends a run that waits at its gate, begins to end one that runs.
    pub(super) fn stop_run(&mut self, run: RunId, how: StopHow) {
        let Some(before) = self.state.runs.update(&run, |row| {
            let before = row.state;
            row.state = RunState::Stopping;
            before
        }) else {
            return;
        };
        if before == RunState::Queued {
            self.leave_gate(run);
            self.end_run(run);
            return;
        }
        self.note(run, None, RunState::Stopping.as_str(), "");
        self.cancel_tasks(run, TaskId { run, task: 0, item: None }, how);
    }

    /// Ends the tasks of a run from one on, as far as this command's rows reach; the leader goes on with the rest.
    pub(super) fn cancel_tasks(&mut self, run: RunId, from: TaskId, how: StopHow) {
        let last = TaskId { run, task: u16::MAX, item: Some(u32::MAX) };
        let mut cursor = Bound::Included(from);
        loop {
            let next = self.state.tasks.range((cursor, Bound::Included(last))).next().map(|(id, _)| *id);
            let Some(task) = next else { return };
            if self.rows_left == 0 {
                self.leave(WorkKey::CancelRun { run, from: task, how });
                return;
            }
            self.cancel_task(task, how);
            self.touch(1);
            cursor = Bound::Excluded(task);
        }
    }

    fn cancel_task(&mut self, task: TaskId, how: StopHow) {
        let Some(state) = self.state.tasks.get(&task).map(|row| row.state.clone()) else { return };
        match state {
            TaskState::Running { fence } | TaskState::Stopping { fence } => {
                self.stop_attempt(fence, StopReason::Cancelled, how);
                return;
            }
            TaskState::Queued => self.leave_queue(task),
            TaskState::Deciding => {
                self.state.deciding.remove(&task);
            }
            TaskState::Retrying { due } => {
                self.state.timers.remove(&(due, TimerKey::Retry(task)));
            }
            TaskState::WaitingForPast { tick, .. } => {
                let schedule = self.state.runs.get(&task.run).and_then(crate::state::RunRow::schedule_id);
                if let Some(schedule) = schedule {
                    self.state.past_waits.remove(&(schedule, tick, task));
                }
            }
            TaskState::Waiting => {}
            // A fan-out ends when its items have.
            TaskState::Expanded
            | TaskState::Success
            | TaskState::Failed(_)
            | TaskState::UpstreamFailed
            | TaskState::Skipped(_)
            | TaskState::Cancelled => return,
        }
        self.end_task(task, TaskState::Cancelled);
    }

    /// Stops the runs of a backfill from one on.
    pub(super) fn cancel_runs_of(&mut self, backfill: crate::id::BackfillId, from: RunId, how: StopHow) {
        let origin = crate::state::RunOrigin::Backfill(backfill);
        let active = self.state.runs.range(from..).filter(|(_, row)| row.origin == origin && row.is_active());
        let runs: Vec<RunId> = active.map(|(id, _)| *id).collect();
        for run in runs {
            if self.rows_left == 0 {
                self.leave(WorkKey::CancelBackfill { backfill, from: run });
                return;
            }
            self.stop_run(run, how);
        }
    }
}
