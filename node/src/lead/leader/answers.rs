//! What executors say, and what proposals are answered.

use super::{
    Action, Answer, AttemptOutcome, AttemptState, ConnId, Fence, Key, Leader, Message, Now, Output, Refusal,
    Report, Said, Stale, finish_of, give_up_waiting_for_room, message, session_opened, session_refused, v1,
};
use matins_core::id::{ExecutorId, SessionNumber};
use matins_core::state::ExecutorRow;
use matins_core::state::settings::LeaseTerms;
use matins_core::time::BootTime;

impl Leader {
    pub(super) fn said(&mut self, conn: ConnId, said: Said, boot: BootTime) {
        if let Said::Hello(hello) = said {
            if self.sessions.hello(conn, hello) {
                self.queue.look(Key::Open(conn));
            }
            return;
        }
        // Before its `OpenSession` is applied, and after its expiry was proposed, a stream gets no answer (PROTOCOL 5.4).
        let Some((executor, session)) = self.sessions.session_of(conn) else { return };
        match said {
            Said::Hello(_) => {}
            Said::Renew(renew) => {
                if let Some(grant) = self.sessions.renew(conn, renew.sequence, boot) {
                    self.actions.push(Action::Send(conn, grant));
                }
                if self.state.executors.get(&executor).is_some_and(ExecutorRow::is_cordoned) {
                    self.queue.look(Key::Cordon(executor));
                }
            }
            Said::StartConfirmed(start) => self.sessions.start_confirmed(conn, Fence(start.fence)),
            Said::Started(started) => {
                tracing::debug!(fence = started.fence, "an attempt has its process");
            }
            Said::StartRefused(refused) => {
                let v1::StartRefused { fence, reason, .. } = refused;
                tracing::info!(fence, %executor, %session, reason, "a start was refused");
            }
            Said::Report(report) => self.reported(conn, report),
            Said::StopDead(dead) => self.stop_is_dead(Fence(dead.fence)),
            Said::Unkillable(it) => self.queue.look(Key::Unkillable(Fence(it.fence))),
        }
    }

    /// An end, reported until it is acknowledged.
    fn reported(&mut self, conn: ConnId, report: v1::AttemptReport) {
        let fence = Fence(report.fence);
        if self.attempt(fence).is_none() {
            self.ack(conn, fence);
            return;
        }
        let finish = finish_of(report);
        let is_published = !matches!(finish.output, Some(Output::Blob { .. }));
        // A repeat changes nothing about the first one, which may be under way.
        let from = self.sessions.session_of(conn).map(|(executor, _)| executor);
        self.reports.entry(fence).or_insert(Report { finish, is_published, from });
        self.queue.look(Key::Finish(fence));
    }

    /// The executor does not hold it and will take no later start of it (PROTOCOL 5.7). `apply` knows why it was stopped.
    fn stop_is_dead(&mut self, fence: Fence) {
        let is_stopping =
            self.attempt(fence).is_some_and(|attempt| matches!(attempt.state, AttemptState::Stopping { .. }));
        if is_stopping {
            self.end(fence, AttemptOutcome::Cancelled);
        }
    }

    fn ack(&mut self, conn: ConnId, fence: Fence) {
        self.actions.push(Action::Send(conn, message(Message::ReportAck(v1::ReportAck { fence: fence.0 }))));
    }

    pub(super) fn answered(&mut self, key: Key, answer: Option<Result<Answer, Refusal>>, now: Now) {
        if let Some(Err(refusal)) = &answer {
            tracing::debug!(?key, %refusal, "a proposal of the leader was refused");
        }
        if let Key::Open(conn) = key {
            self.open_answered(conn, answer, now.boot);
            // A hello is answered once: its executor comes again, with a higher number.
            self.queue.accepted(key);
            return;
        }
        match (&key, &answer) {
            (Key::Finish(fence), Some(Ok(_) | Err(Refusal::Stale(Stale::Fence(_))))) => {
                self.settle_report(*fence);
            }
            (Key::Decide(task), Some(Err(Refusal::Limit { limit, .. }))) => {
                if let Some(command) = give_up_waiting_for_room(&self.state, *task, now.at, limit) {
                    self.actions.push(Action::Propose(key, command));
                    return;
                }
            }
            _ => {}
        }
        match answer {
            Some(Ok(_)) => self.queue.accepted(key),
            Some(Err(_)) | None => self.queue.refused(key, now.boot),
        }
    }

    fn open_answered(&mut self, conn: ConnId, answer: Option<Result<Answer, Refusal>>, boot: BootTime) {
        match answer {
            Some(Ok(Answer::Session { bound, terms })) => self.opened(conn, &bound, terms, boot),
            Some(Err(Refusal::Stale(Stale::Session(last)))) => {
                self.actions.push(Action::Send(conn, session_refused(last)));
                self.close(conn);
            }
            Some(Ok(_) | Err(_)) | None => self.close(conn),
        }
    }

    fn opened(&mut self, conn: ConnId, bound: &[Fence], terms: LeaseTerms, boot: BootTime) {
        for older in self.sessions.opened(conn, terms, boot) {
            self.close(older);
        }
        let Some((executor, session)) = self.sessions.session_of(conn) else {
            // A newer stream was quicker.
            self.close(conn);
            return;
        };
        tracing::info!(%executor, %session, bound = bound.len(), "an executor opened a session");
        self.actions.push(Action::Send(conn, session_opened(session, bound, terms)));
        self.look_at_bound(executor, session);
        self.look_at_executor(executor, boot);
    }

    /// Starts and stops that the effects named before the stream was open.
    fn look_at_bound(&mut self, executor: ExecutorId, session: SessionNumber) {
        let state = self.state.clone();
        let first = (executor, session, Fence(0));
        for ((_, _, fence), ()) in state.bound.range(first..=(executor, session, Fence(u64::MAX))) {
            self.look_at_bound_attempt(*fence);
        }
    }

    pub(super) fn look_at_bound_attempt(&mut self, fence: Fence) {
        self.queue.look(Key::Start(fence));
        self.queue.look(Key::Stop(fence));
    }

    /// The end of an attempt is in the state, by this report or otherwise: its executor may forget it.
    pub(super) fn settle_report(&mut self, fence: Fence) {
        let from = self.reports.remove(&fence).and_then(|report| report.from);
        if let Some((conn, _)) = from.and_then(|executor| self.sessions.open_session(executor)) {
            self.ack(conn, fence);
        }
    }
}
