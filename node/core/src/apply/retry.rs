//! A new run from a finished one (PROTOCOL 4.4): a finished run is final.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{Retry, RetryScope, Tick};
use crate::history::RetiredRun;
use crate::id::{RunId, TaskId};
use crate::state::{FanOut, RunOrigin, TaskRow, TaskState};

use super::run::NewRun;
use super::{Applied, Step, conflict};

impl Step<'_> {
    /// Makes the run that retries a finished one and takes its results over.
    pub(super) fn retry(&mut self, retry: Retry) -> Applied {
        let old = self.old_run(&retry)?;
        if let Some(newer) = self.state.retries.get(&retry.run) {
            let why = alloc::format!("{newer} retries it already");
            return Err(conflict(
                Thing::Run(retry.run),
                why,
                "wait for that run, or retry it when it has ended",
            ));
        }
        let definition = retry.definition.unwrap_or(old.run.definition);
        let is_known =
            self.state.definitions.get(&definition).is_some_and(|row| row.workflow.name == old.run.workflow);
        if !is_known {
            return Err(Refusal::NotFound(Thing::Definition(definition)));
        }
        if retry.definition.is_some() && retry.scope != RetryScope::All {
            return Err(Refusal::Invalid(
                "another version takes nothing over: it goes with --all only".into(),
            ));
        }
        self.state.check_room_for_runs()?;
        let version = if retry.definition.is_some() {
            self.current_version(&old.run.workflow)
                .filter(|(_, digest)| *digest == definition)
                .map(|(number, _)| number)
        } else {
            old.run.version
        };
        let taken = self.taken_over(&retry, &old)?;
        let id = RunId(self.state.cluster.counters.run + 1);
        self.take_over(id, retry.run, taken);
        self.state.retries.insert(retry.run, id);
        let run = self.make_run(NewRun {
            workflow: old.run.workflow.clone(),
            definition,
            version,
            origin: if old.run.origin == RunOrigin::Submitted {
                RunOrigin::Submitted
            } else {
                RunOrigin::Retry
            },
            schedule: old.run.schedule.clone(),
            tick: Tick {
                logical_time: old.run.logical_time,
                interval_start: old.run.interval_start,
                params: Ok((*old.run.params).into()),
            },
            retry_of: Some((retry.run, old.run.retry_root)),
        });
        Ok(Answer::Run(run))
    }

    /// The finished run, from the state or as the command brought it from history.
    fn old_run(&self, retry: &Retry) -> Result<RetiredRun, Refusal> {
        let old = match &retry.retired {
            Some(retired) => {
                let (old, count) = &**retired;
                let now = self.state.retired_runs.get(&old.run.workflow).copied().unwrap_or(0);
                if *count != now || old.id != retry.run {
                    return Err(Refusal::Stale(Stale::History));
                }
                old.clone()
            }
            None => self.state.retired(retry.run).ok_or(Refusal::NotFound(Thing::Run(retry.run)))?,
        };
        if old.run.is_active() {
            return Err(conflict(
                Thing::Run(retry.run),
                alloc::format!("it is {}", old.run.state.as_str()),
                "`matins retry RUN/TASK` retries a failed task of an active run in place; or cancel the run first",
            ));
        }
        Ok(old)
    }

    /// The tasks whose results the new run starts with.
    fn taken_over(&self, retry: &Retry, old: &RetiredRun) -> Result<Vec<(TaskId, TaskRow)>, Refusal> {
        let again: BTreeSet<u16> = match &retry.scope {
            RetryScope::All => return Ok(Vec::new()),
            RetryScope::Failed => BTreeSet::new(),
            RetryScope::From(task) => {
                if usize::from(*task) >= old.task_names.len() {
                    return Err(Refusal::NotFound(Thing::Task(TaskId {
                        run: retry.run,
                        task: *task,
                        item: None,
                    })));
                }
                // A definition that is gone leaves nothing to take over.
                let definition = self.state.definitions.get(&old.run.definition);
                let mut again = definition.map(|row| row.followers(*task)).unwrap_or_default();
                again.insert(*task);
                again
            }
        };
        let mut taken = Vec::new();
        for (id, row) in &old.tasks {
            if again.contains(&id.task) {
                continue;
            }
            match &row.state {
                TaskState::Success | TaskState::Skipped(_) => taken.push((*id, row.clone())),
                // What succeeded of a fan-out is kept, its other items run again.
                TaskState::Failed(_) | TaskState::Cancelled if row.fan_out.is_some() => {
                    taken.push((*id, reopened_fan_out(row)));
                }
                TaskState::Failed(_) | TaskState::Cancelled if id.item.is_some() => {
                    taken.push((*id, TaskRow { item: row.item.clone(), ..TaskRow::waiting(self.now()) }));
                }
                TaskState::Failed(_)
                | TaskState::Cancelled
                | TaskState::UpstreamFailed
                | TaskState::Waiting
                | TaskState::WaitingForPast { .. }
                | TaskState::Deciding
                | TaskState::Queued
                | TaskState::Expanded
                | TaskState::Running { .. }
                | TaskState::Stopping { .. }
                | TaskState::Retrying { .. } => {}
            }
        }
        Ok(taken)
    }

    fn take_over(&mut self, run: RunId, from: RunId, taken: Vec<(TaskId, TaskRow)>) {
        for (old, mut row) in taken {
            if row.state.has_ended() {
                // Whoever did the work first is named, also by a retry of a retry.
                row.taken_from.get_or_insert(from);
            }
            row.attempts = 0;
            self.state.tasks.insert(TaskId { run, ..old }, row);
            self.touch(1);
        }
    }
}

/// A fan-out that goes on with the items that did not succeed.
fn reopened_fan_out(row: &TaskRow) -> TaskRow {
    let fan_out = row.fan_out.map(|old| FanOut { failed: 0, cancelled: 0, ..old });
    TaskRow { state: TaskState::Expanded, fan_out, retries: 0, lost: 0, ..row.clone() }
}
