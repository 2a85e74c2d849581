//! What a leader does about live attempts: starts, stops and ends (PROTOCOL 5.5, 5.7, 5.8).

use super::{
    Action, AttemptOutcome, AttemptState, BootTime, Command, Fence, Finish, Key, Leader, Message, Millis,
    Next, Output, Rendered, Report, message, render_start, v1,
};

impl Leader {
    pub(super) fn attempt(&self, fence: Fence) -> Option<&matins_core::state::AttemptRow> {
        self.state.attempts.get(self.state.live.get(&fence)?)
    }

    pub(super) fn is_running(&self, fence: Fence) -> bool {
        self.attempt(fence).is_some_and(|attempt| attempt.state == AttemptState::Running)
    }

    pub(super) fn unkillable(&self, fence: Fence) -> Option<Command> {
        let attempt = self.attempt(fence)?;
        matches!(attempt.state, AttemptState::Stopping { is_unkillable: false, .. })
            .then_some(Command::Unkillable { fence })
    }

    /// Sends a start over the stream of the very session that the lease hangs on (PROTOCOL 5.5).
    pub(super) fn start(&mut self, fence: Fence, boot: BootTime) -> Option<Command> {
        let attempt = self.attempt(fence).filter(|attempt| attempt.state == AttemptState::Running)?;
        let session = attempt.session;
        let conn = self.sessions.stream_of(attempt.executor, session)?;
        match self.sessions.start(conn, fence, boot) {
            Next::Do(()) => {}
            Next::LookAt(at) => {
                self.queue.look_at(Key::Start(fence), at);
                return None;
            }
            Next::Nothing => return None,
        }
        match render_start(&self.state, fence, &self.outputs) {
            Rendered::Job(job) => {
                let start = v1::Start { fence: fence.0, session: session.0, job: Some(*job) };
                self.actions.push(Action::Send(conn, message(Message::Start(start))));
                let again = self.sessions.start_sent(conn, fence, boot);
                self.queue.look_at(Key::Start(fence), again);
            }
            Rendered::Needs(digests) => self.read(digests, &Key::Start(fence)),
            // It was never sent under this session, and a task that held it would have said so: nothing runs.
            Rendered::Broken(why) => self.end(fence, AttemptOutcome::Broken(why)),
            Rendered::Over => {}
        }
        None
    }

    pub(super) fn stop(&mut self, fence: Fence, boot: BootTime) -> Option<Command> {
        let attempt = self.attempt(fence)?;
        let AttemptState::Stopping { how, .. } = attempt.state else { return None };
        let conn = self.sessions.stream_of(attempt.executor, attempt.session)?;
        match self.sessions.stop(conn, (fence, how), boot) {
            Next::Do(stop) => {
                self.actions.push(Action::Send(conn, stop));
                // Sent again until the attempt has ended (PROTOCOL 5.7).
                self.queue.look_at(Key::Stop(fence), boot + Millis::from_secs(2));
            }
            Next::LookAt(at) => self.queue.look_at(Key::Stop(fence), at),
            Next::Nothing => {}
        }
        None
    }

    /// The leader's own word that an attempt is over.
    pub(super) fn end(&mut self, fence: Fence, outcome: AttemptOutcome) {
        let finish = Finish { fence, outcome, output: None, started_at: None, log_bytes: 0 };
        self.reports.entry(fence).or_insert(Report { finish, is_published: true, from: None });
        self.queue.look(Key::Finish(fence));
    }

    pub(super) fn look_at_report(&mut self, fence: Fence) -> Option<Command> {
        let report = self.reports.get(&fence)?;
        let Some(attempt) = self.attempt(fence) else {
            // A report under any other fence than the live one changes nothing (PROTOCOL 5.8).
            self.settle_report(fence);
            return None;
        };
        let finish = report.finish.clone();
        match (&finish.output, report.is_published) {
            (Some(Output::Blob { digest, .. }), false) => {
                let is_running = attempt.state == AttemptState::Running;
                self.actions.push(Action::Publish(fence, *digest));
                if is_running {
                    self.queue.look(Key::Publishing(fence));
                }
                None
            }
            (Some(Output::Blob { .. } | Output::Inline(_)) | None, _) => Some(Command::Finish(finish)),
        }
    }
}
