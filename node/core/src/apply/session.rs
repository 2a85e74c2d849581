//! Executors and their sessions (PROTOCOL 5.4, 5.6).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{OpenSession, StopHow};
use crate::effect::Effect;
use crate::id::{ExecutorId, Fence, SessionNumber};
use crate::mutation::{Mutation, planted};
use crate::state::{AttemptOutcome, AttemptState, ExecutorRow, LostReason, SessionRow};
use crate::time::Millis;

use super::{Applied, Step, conflict};

impl Step<'_> {
    /// An executor comes, or comes back. What it holds is bound to its new session if it is the same incarnation.
    pub(super) fn open_session(&mut self, open: OpenSession) -> Applied {
        let known = self.state.executors.get(&open.executor).cloned();
        let is_lower =
            |last: &SessionNumber| open.session <= *last && !planted(Mutation::SessionNumberNotChecked);
        if let Some(last) = known.as_ref().map(|row| row.session).filter(is_lower) {
            return Err(Refusal::Stale(Stale::Session(last)));
        }
        if known.as_ref().is_some_and(|row| row.is_leaving && row.used == 0) {
            return Err(conflict(
                Thing::Executor(open.executor),
                "it was dismissed, and holds nothing any more",
                "`matins executor undrain` takes that back",
            ));
        }
        let terms = self.state.cluster.settings.lease;
        let session = SessionRow {
            boot: open.boot.clone(),
            journal: open.journal,
            terms,
            opened_at: self.now(),
            is_expired: false,
        };
        self.state.sessions.insert((open.executor, open.session), session);
        let (used, is_drained, is_leaving) =
            known.map_or((0, false, false), |row| (row.used, row.is_drained, row.is_leaving));
        let row = ExecutorRow {
            name: open.name.clone(),
            session: open.session,
            slots: open.slots,
            used,
            labels: open.labels.clone(),
            address: open.address.clone(),
            cordoned_at: None,
            is_drained,
            is_leaving,
            seen_at: self.now(),
        };
        self.state.executors.insert(open.executor, row);
        self.rebind(&open);
        self.freed_executors.insert(open.executor);
        self.effects.push(Effect::Executor(open.executor));
        Ok(Answer::Session { bound: self.fences_of(open.executor, open.session), terms })
    }

    /// Takes over what the same incarnation still holds and ends what it does not. Attempts of another incarnation
    /// are left to end by the expiry of their own session: a changed id is no proof of death.
    fn rebind(&mut self, open: &OpenSession) {
        let held: BTreeSet<Fence> = open.held.iter().copied().collect();
        for session in self.older_sessions(open) {
            for fence in self.fences_of(open.executor, session) {
                if held.contains(&fence) {
                    self.bind(fence, open.executor, open.session);
                } else {
                    self.end_live(fence, AttemptOutcome::Lost(LostReason::NotHeld), None);
                }
            }
            self.drop_session_if_empty(open.executor, session);
        }
    }

    /// Older sessions of the same incarnation.
    fn older_sessions(&self, open: &OpenSession) -> Vec<SessionNumber> {
        let all = (open.executor, SessionNumber(0))..(open.executor, open.session);
        let same = self.state.sessions.range(all);
        let is_same = |row: &SessionRow| row.boot == open.boot && row.journal == open.journal;
        let same = same.filter(|(_, row)| is_same(row) || planted(Mutation::ChangedIdIsProofOfDeath));
        same.map(|((_, session), _)| *session).collect()
    }

    fn bind(&mut self, fence: Fence, executor: ExecutorId, session: SessionNumber) {
        let Some((task, number)) = self.state.live.get(&fence).copied() else { return };
        let before = self.state.attempts.update(&(task, number), |attempt| {
            let before = attempt.session;
            attempt.session = session;
            let stop = match attempt.state {
                AttemptState::Stopping { how, .. } => Some(how),
                AttemptState::Running | AttemptState::Publishing | AttemptState::Ended { .. } => None,
            };
            (before, stop)
        });
        let Some((before, stop)) = before else { return };
        self.state.bound.remove(&(executor, before, fence));
        self.state.bound.insert((executor, session, fence), ());
        if let Some(how) = stop {
            self.effects.push(Effect::Stop { fence, executor, how });
        }
    }

    /// A session is dead: its attempts end, but for those that may go on without the cluster for longer (5.9).
    pub(super) fn expire_session(
        &mut self,
        executor: ExecutorId,
        session: SessionNumber,
        dead_for: Millis,
    ) -> Applied {
        if self.state.sessions.update(&(executor, session), |row| row.is_expired = true).is_none() {
            let newest = self.state.executors.get(&executor).map(|row| row.session);
            return Err(match newest {
                Some(newest) => Refusal::Stale(Stale::Session(newest)),
                None => Refusal::NotFound(Thing::Executor(executor)),
            });
        }
        let newest = self.state.executors.get(&executor).map(|row| row.session);
        if newest == Some(session) {
            self.fall_silent(executor);
        }
        for fence in self.fences_of(executor, session) {
            if self.on_disconnect_of(fence) <= dead_for {
                self.end_live(fence, AttemptOutcome::Lost(LostReason::Expired), None);
            }
        }
        self.drop_session_if_empty(executor, session);
        self.effects.push(Effect::Executor(executor));
        Ok(Answer::Done)
    }

    fn on_disconnect_of(&self, fence: Fence) -> Millis {
        let attempt = self.state.live.get(&fence).and_then(|key| self.state.attempts.get(key));
        attempt.map_or(Millis::ZERO, |attempt| attempt.on_disconnect)
    }

    /// An older or dead session is remembered only as long as something is bound to it.
    pub(super) fn drop_session_if_empty(&mut self, executor: ExecutorId, session: SessionNumber) {
        let newest = self.state.executors.get(&executor).map(|row| row.session);
        let is_over = self.state.sessions.get(&(executor, session)).is_some_and(|row| row.is_expired);
        if (is_over || newest != Some(session)) && self.fences_of(executor, session).is_empty() {
            self.state.sessions.remove(&(executor, session));
        }
        self.forget_if_gone(executor);
    }

    /// An executor that was dismissed is remembered only as long as a session of it is.
    fn forget_if_gone(&mut self, executor: ExecutorId) {
        let is_leaving = self.state.executors.get(&executor).is_some_and(|row| row.is_leaving);
        let all = (executor, SessionNumber(0))..=(executor, SessionNumber(u64::MAX));
        if is_leaving && self.state.sessions.range(all).next().is_none() {
            self.state.executors.remove(&executor);
            self.effects.push(Effect::Executor(executor));
        }
    }

    /// Fences bound to a session, ascending.
    pub(super) fn fences_of(&self, executor: ExecutorId, session: SessionNumber) -> Vec<Fence> {
        let first = (executor, session, Fence(0));
        let bound = self.state.bound.range(first..=(executor, session, Fence(u64::MAX)));
        bound.map(|((_, _, fence), ())| *fence).collect()
    }

    /// It fell silent: no new attempts.
    pub(super) fn cordon(&mut self, executor: ExecutorId, session: SessionNumber) -> Applied {
        self.check_session(executor, session)?;
        self.fall_silent(executor);
        self.effects.push(Effect::Executor(executor));
        Ok(Answer::Done)
    }

    fn fall_silent(&mut self, executor: ExecutorId) {
        let now = self.now();
        self.state.executors.update(&executor, |row| _ = row.cordoned_at.get_or_insert(now));
    }

    /// It is heard again.
    pub(super) fn uncordon(&mut self, executor: ExecutorId, session: SessionNumber) -> Applied {
        self.check_session(executor, session)?;
        // A session whose expiry was applied is never revived; its executor opens a new one.
        if self.state.sessions.get(&(executor, session)).is_none_or(|row| row.is_expired) {
            return Err(Refusal::Stale(Stale::Session(session)));
        }
        self.state.executors.update(&executor, |row| row.cordoned_at = None);
        self.freed_executors.insert(executor);
        self.effects.push(Effect::Executor(executor));
        Ok(Answer::Done)
    }

    fn check_session(&self, executor: ExecutorId, session: SessionNumber) -> Result<(), Refusal> {
        match self.state.executors.get(&executor) {
            None => Err(Refusal::NotFound(Thing::Executor(executor))),
            Some(row) if row.session != session => Err(Refusal::Stale(Stale::Session(row.session))),
            Some(_) => Ok(()),
        }
    }

    /// A person's switch.
    pub(super) fn drain(&mut self, executor: ExecutorId) -> Applied {
        let found = self.state.executors.update(&executor, |row| row.is_drained = true);
        found.ok_or(Refusal::NotFound(Thing::Executor(executor)))?;
        self.effects.push(Effect::Executor(executor));
        Ok(Answer::Done)
    }

    /// It is to be forgotten: it gets nothing new, and its row goes with its last session. What it runs goes on.
    pub(super) fn dismiss(&mut self, executor: ExecutorId) -> Applied {
        let found = self.state.executors.update(&executor, |row| row.is_leaving = true);
        found.ok_or(Refusal::NotFound(Thing::Executor(executor)))?;
        self.effects.push(Effect::Executor(executor));
        self.forget_if_gone(executor);
        Ok(Answer::Done)
    }

    /// Takes both back.
    pub(super) fn undrain(&mut self, executor: ExecutorId) -> Applied {
        let take_back = |row: &mut ExecutorRow| (row.is_drained, row.is_leaving) = (false, false);
        let found = self.state.executors.update(&executor, take_back);
        found.ok_or(Refusal::NotFound(Thing::Executor(executor)))?;
        self.freed_executors.insert(executor);
        self.effects.push(Effect::Executor(executor));
        Ok(Answer::Done)
    }

    /// Tells the executor of a live attempt to end it.
    pub(super) fn send_stop(&mut self, fence: Fence, executor: ExecutorId, how: StopHow) {
        self.effects.push(Effect::Stop { fence, executor, how });
    }
}
