//! Attempts: how they are ended and what follows (PROTOCOL 5.7, 5.8, 6.7).

use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{Finish, StopHow};
use crate::effect::Effect;
use crate::id::{Fence, TaskId};
use crate::mutation::{Mutation, planted};
use crate::state::{
    AttemptOutcome, AttemptState, LogPlace, LogState, LostReason, Output, RunState, StopReason, TaskState,
    TimerKey, WhyFailed,
};
use crate::time::{Millis, Timestamp};

use super::{Applied, Step, conflict};

impl Step<'_> {
    /// A report, or the leader's own word that an attempt cannot start. Under any fence but the live one it
    /// changes nothing (PROTOCOL 5.8).
    pub(super) fn finish(&mut self, finish: Finish) -> Applied {
        let finish = if planted(Mutation::FenceNotChecked) { self.under_any_fence(finish) } else { finish };
        let Some(key) = self.state.live.get(&finish.fence).copied() else {
            return Err(Refusal::Stale(Stale::Fence(finish.fence)));
        };
        self.state.attempts.update(&key, |attempt| {
            attempt.started_at = finish.started_at;
            attempt.log_bytes = finish.log_bytes;
            if finish.log_bytes == 0 {
                attempt.log = LogState::Empty;
            }
        });
        self.end_live(finish.fence, finish.outcome, finish.output);
        Ok(Answer::Done)
    }

    /// What a report would end if its fence did not matter.
    fn under_any_fence(&self, mut finish: Finish) -> Finish {
        let task =
            self.state.attempts.iter().find(|(_, row)| row.fence == finish.fence).map(|((task, _), _)| *task);
        let live = task.and_then(|task| self.state.tasks.get(&task)).and_then(|row| row.state.fence());
        finish.fence = live.unwrap_or(finish.fence);
        finish
    }

    /// Ends a live attempt. An attempt that was stopping ends as it was stopped, whatever is reported.
    pub(super) fn end_live(&mut self, fence: Fence, reported: AttemptOutcome, output: Option<Output>) {
        let Some(key) = self.state.live.remove(&fence) else { return };
        let (task, _) = key;
        let now = self.now();
        let Some((outcome, executor, session, timeout_at, log)) =
            self.state.attempts.update(&key, |attempt| {
                let outcome = match &attempt.state {
                    AttemptState::Stopping { reason: StopReason::Cancelled, .. } => AttemptOutcome::Cancelled,
                    AttemptState::Stopping { reason: StopReason::TimedOut, .. } => AttemptOutcome::TimedOut,
                    AttemptState::Running | AttemptState::Publishing | AttemptState::Ended { .. } => reported,
                };
                attempt.state = AttemptState::Ended { outcome: outcome.clone(), at: now };
                (outcome, attempt.executor, attempt.session, attempt.timeout_at, attempt.log.clone())
            })
        else {
            return;
        };
        self.state.timers.remove(&(timeout_at, TimerKey::Timeout(fence)));
        self.state.bound.remove(&(executor, session, fence));
        self.drop_session_if_empty(executor, session);
        self.release(task, executor);
        if planted(Mutation::PoolSlotFreedTwice) {
            self.release(task, executor);
        }
        self.await_log(fence, key, log);
        self.effects.push(Effect::Ended { fence, executor });
        self.touch(8);
        self.after_attempt(task, outcome, output);
    }

    /// What an attempt wrote is attached later, in bulk, or given up (PROTOCOL 6.7).
    fn await_log(&mut self, fence: Fence, (task, number): (TaskId, u32), log: LogState) {
        let LogState::At(executor) = log else { return };
        self.state.logs_open.insert(fence, (executor, task, number));
        self.state.runs.update(&task.run, |run| run.logs_open += 1);
        let due = self.now() + self.state.cluster.settings.log_wait_max;
        self.set_timer(due, TimerKey::LogGivenUp(fence));
    }

    /// What an ended attempt means for its task.
    fn after_attempt(&mut self, task: TaskId, outcome: AttemptOutcome, output: Option<Output>) {
        let is_stopping = self.state.runs.get(&task.run).is_none_or(|run| run.state == RunState::Stopping);
        let Some(retry) = self.spec_of(task).map(|spec| spec.retry) else { return };
        let Some(row) = self.state.tasks.get(&task).cloned() else { return };
        match outcome {
            AttemptOutcome::Success => {
                self.state.tasks.update(&task, |row| row.output = output);
                self.end_task(task, TaskState::Success);
            }
            AttemptOutcome::Cancelled => self.end_task(task, TaskState::Cancelled),
            _ if is_stopping => self.end_task(task, TaskState::Cancelled),
            AttemptOutcome::Lost(_) if row.lost < retry.lost_limit => {
                self.state.tasks.update(&task, |row| row.lost += 1);
                self.make_ready(task);
            }
            AttemptOutcome::Exit(_)
            | AttemptOutcome::Signal(_)
            | AttemptOutcome::Error(_)
            | AttemptOutcome::TimedOut
                if row.retries < retry.limit =>
            {
                let due = self.now() + delay(&retry, row.retries, task);
                self.state.tasks.update(&task, |row| row.retries += 1);
                self.set_task(task, TaskState::Retrying { due });
                self.set_timer(due, TimerKey::Retry(task));
            }
            AttemptOutcome::Lost(_)
            | AttemptOutcome::Exit(_)
            | AttemptOutcome::Signal(_)
            | AttemptOutcome::Error(_)
            | AttemptOutcome::Broken(_)
            | AttemptOutcome::TimedOut => self.end_task(task, TaskState::Failed(WhyFailed::Attempt(outcome))),
        }
    }

    /// Begins to end a live attempt: its outcome is fixed, and it keeps all it holds until it is gone (5.7).
    pub(super) fn stop_attempt(&mut self, fence: Fence, reason: StopReason, how: StopHow) {
        let Some(key) = self.state.live.get(&fence).copied() else { return };
        let executor = self.state.attempts.update(&key, |attempt| {
            attempt.state = match attempt.state {
                // A cancel may become harder, never softer, and does not change why.
                AttemptState::Stopping { reason, how: before, is_unkillable } => {
                    AttemptState::Stopping { reason, how: before.max(how), is_unkillable }
                }
                AttemptState::Running | AttemptState::Publishing | AttemptState::Ended { .. } => {
                    AttemptState::Stopping { reason, how, is_unkillable: false }
                }
            };
            attempt.executor
        });
        if planted(Mutation::StoppingFreesItsSlot)
            && let Some(executor) = executor
        {
            self.release(key.0, executor);
        }
        self.set_task(key.0, TaskState::Stopping { fence });
        if let Some(executor) = executor {
            self.send_stop(fence, executor, how);
        }
    }

    /// A large output is being copied; the attempt stays live until it is (PROTOCOL 6.7).
    pub(super) fn publishing(&mut self, fence: Fence) -> Applied {
        let key = self.state.live.get(&fence).copied().ok_or(Refusal::Stale(Stale::Fence(fence)))?;
        self.state.attempts.update(&key, |attempt| {
            if attempt.state == AttemptState::Running {
                attempt.state = AttemptState::Publishing;
            }
        });
        self.effects.push(Effect::Run(key.0.run));
        Ok(Answer::Done)
    }

    /// KILL did not help: an alarm.
    pub(super) fn unkillable(&mut self, fence: Fence) -> Applied {
        let key = self.state.live.get(&fence).copied().ok_or(Refusal::Stale(Stale::Fence(fence)))?;
        self.state.attempts.update(&key, |attempt| match &mut attempt.state {
            AttemptState::Stopping { is_unkillable, .. } => *is_unkillable = true,
            AttemptState::Running | AttemptState::Publishing | AttemptState::Ended { .. } => {}
        });
        self.effects.push(Effect::Run(key.0.run));
        Ok(Answer::Done)
    }

    /// A person declares an attempt gone. From here on nothing but the fence keeps its processes from doing harm.
    pub(super) fn abandon(&mut self, task: TaskId) -> Applied {
        let row = self.state.tasks.get(&task).ok_or(Refusal::NotFound(Thing::Task(task)))?;
        let Some(fence) = row.state.fence() else {
            return Err(conflict(
                Thing::Task(task),
                alloc::format!("it is {} and has no live attempt", row.state.as_str()),
                "only a running or stopping attempt can be abandoned",
            ));
        };
        self.note(task.run, Some(task), "abandoned", "by order");
        self.end_live(fence, AttemptOutcome::Lost(LostReason::Abandoned), None);
        Ok(Answer::Done)
    }

    /// Logs of ended attempts have their copies.
    pub(super) fn attach_logs(&mut self, logs: Vec<(Fence, LogPlace)>) -> Applied {
        for (fence, place) in logs {
            let log = match place {
                LogPlace::Lost => LogState::Lost,
                LogPlace::Pack { .. } => LogState::Attached(place),
            };
            self.settle_log(fence, log);
        }
        Ok(Answer::Done)
    }

    /// A log is attached or given up: its run may leave for history.
    pub(super) fn settle_log(&mut self, fence: Fence, log: LogState) {
        let Some((executor, task, number)) = self.state.logs_open.remove(&fence) else { return };
        self.state.attempts.update(&(task, number), |attempt| attempt.log = log);
        let open = self.state.runs.update(&task.run, |run| {
            run.logs_open = run.logs_open.saturating_sub(1);
            run.logs_open
        });
        if open == Some(0) {
            self.may_retire(task.run);
        }
        self.effects.push(Effect::LogsSettled(executor, alloc::vec![fence]));
        self.touch(4);
    }

    /// Fires timers that are due. One that is no longer set, or not due, is passed over (PROTOCOL 1.5).
    pub(super) fn fire_timers(&mut self, timers: Vec<(Timestamp, TimerKey)>) -> Applied {
        for timer in timers {
            if timer.0 > self.now() || self.state.timers.remove(&timer).is_none() {
                continue;
            }
            match timer.1 {
                TimerKey::Retry(task) => self.retry_is_due(task),
                TimerKey::Timeout(fence) => self.stop_attempt(fence, StopReason::TimedOut, StopHow::Grace),
                TimerKey::LogGivenUp(fence) => self.settle_log(fence, LogState::Lost),
                TimerKey::DropDefinition(digest) => self.drop_definition_if_unused(digest),
            }
            self.touch(2);
        }
        Ok(Answer::Done)
    }

    fn retry_is_due(&mut self, task: TaskId) {
        let row = self.state.tasks.get(&task);
        if row.is_some_and(|row| matches!(row.state, TaskState::Retrying { .. })) {
            self.make_ready(task);
        }
    }

    /// Sets a timer.
    pub(super) fn set_timer(&mut self, due: Timestamp, timer: TimerKey) {
        self.state.timers.insert((due, timer), ());
        self.effects.push(Effect::Timer);
    }
}

/// How long after a failure the next attempt is due (LANGUAGE 1.17): the delay grows by the factor up to its
/// bound, and a hash of the task moves it by the jitter, so that equal replicas agree and equal tasks spread.
fn delay(retry: &crate::ir::Retry, retries_used: u32, task: TaskId) -> Millis {
    let mut delay = retry.delay.0.min(retry.delay_max.0);
    for _ in 0..retries_used {
        if delay >= retry.delay_max.0 {
            break;
        }
        delay = delay.saturating_mul(u64::from(retry.factor_permille)) / 1_000;
        delay = delay.min(retry.delay_max.0);
    }
    let span = delay / 1_000 * u64::from(retry.jitter_permille)
        + delay % 1_000 * u64::from(retry.jitter_permille) / 1_000;
    let hash = Fnv::new().add(task.run.0).add(u64::from(task.task)).add(task.item.map_or(0, u64::from) + 1);
    let hash = hash.add(u64::from(retries_used)).0;
    // Between delay - span and delay + span.
    Millis(delay.saturating_sub(span).saturating_add(hash % (2 * span + 1)))
}

/// FNV-1a over numbers: spreads retries, protects nothing.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(self, number: u64) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(number.to_le_bytes().into_iter().fold(self.0, step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;
    use crate::ir::Retry;

    #[test]
    fn delays_double_up_to_their_bound_and_jitter_stays_inside_it() {
        let retry = Retry { limit: 9, jitter_permille: 100, ..Retry::default() };
        let task = TaskId { run: RunId(1), task: 0, item: None };
        for (used, base) in [(0, 10_000u64), (1, 20_000), (2, 40_000), (5, 300_000), (60, 300_000)] {
            let delay = delay(&retry, used, task).0;
            assert!(delay >= base - base / 10 && delay <= base + base / 10, "{used}: {delay}");
        }
        let exact = Retry { jitter_permille: 0, ..retry };
        assert_eq!(delay(&exact, 1, task), Millis::from_secs(20));
    }
}
