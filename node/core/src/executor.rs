//! What an executor decides (PROTOCOL 5.4 to 5.8): how a session opens, when to renew, what to start, stop and report.
//!
//! The machine knows neither streams nor processes nor files. It is told what happened and at which instant of the
//! boot-time clock, and answers with actions, to be carried out in order: that order is part of the rules (the stops
//! of a new session come before its first deadline). Start reading at [`Event`] and
//! [`Action`] (what it is told and what it says), then [`Machine::handle`].

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::id::{Fence, SessionNumber};
use crate::mutation::{Mutation, planted};
use crate::state::settings::LeaseTerms;
use crate::supervisor::Held;
use crate::time::{BootTime, Millis};

mod attempts;
mod words;

pub use attempts::Journaled;
use attempts::{Attempt, Attempts};
pub use words::{Action, Event, HeldAs, SpawnAnswer, StartRefusal, StopHow, SupervisorId};

/// How long supervisors and leader have to answer what opens a session; then it is tried anew.
const ANSWER_MAX: Millis = Millis::from_secs(5);

/// How far the present session has come.
#[derive(Clone, Debug, Hash)]
enum Phase {
    /// No stream.
    Apart,
    /// The supervisors are given the number; some have not answered.
    Announced { since: BootTime, missing: BTreeSet<SupervisorId> },
    /// `Hello` was sent.
    Asked { since: BootTime },
    /// Open.
    Open(Session),
}

/// An open session.
#[derive(Clone, Debug, Hash)]
struct Session {
    params: LeaseTerms,
    /// The last grant, or the opening.
    heard_at: BootTime,
    next_renewal: BootTime,
    sequence: u64,
    /// When each renewal that is not answered yet was sent.
    sent: BTreeMap<u64, BootTime>,
    /// `None` until the first grant.
    valid_until: Option<BootTime>,
}

/// The state of one incarnation of an executor.
#[derive(Clone, Debug, Hash)]
pub struct Machine {
    supervisors: BTreeSet<SupervisorId>,
    /// The number of the present session, or the last one used or heard of.
    number: SessionNumber,
    phase: Phase,
    attempts: Attempts,
    /// Stopped before they were started, in this session: no later Start of them is taken.
    ///
    /// A new session may forget them, since a Start carries the session it was made for.
    dead: BTreeSet<Fence>,
}

impl Machine {
    /// Begins an incarnation with what the journal holds. `last` is the last session number that is known.
    pub fn new(
        last: SessionNumber,
        supervisors: impl IntoIterator<Item = SupervisorId>,
        journal: impl IntoIterator<Item = (Fence, Journaled)>,
    ) -> Self {
        Self {
            supervisors: supervisors.into_iter().collect(),
            number: last,
            phase: Phase::Apart,
            attempts: Attempts::from_journal(journal),
            dead: BTreeSet::new(),
        }
    }

    /// The number of the present session, or the last one used or heard of: to be kept beside the journal.
    pub const fn number(&self) -> SessionNumber {
        self.number
    }

    /// Whether the session is open and holds.
    pub fn is_valid(&self, now: BootTime) -> bool {
        matches!(&self.phase, Phase::Open(session) if session.valid_until.is_some_and(|at| now < at))
    }

    /// Takes a supervisor of an older binary out, once it holds nothing more.
    pub fn retire(&mut self, supervisor: SupervisorId) {
        self.supervisors.remove(&supervisor);
    }

    /// Whether this attempt is held, ended or not.
    pub fn holds(&self, fence: Fence) -> bool {
        self.attempts.get(fence).is_some()
    }

    /// How many attempts are held, ended ones included.
    pub fn held(&self) -> usize {
        self.attempts.len()
    }

    /// Takes one event, which happened at `now`, and says what to do, in this order.
    pub fn handle(&mut self, now: BootTime, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.pass_time(now, &mut actions);
        match event {
            Event::StreamOpened => self.announce(now, SessionNumber(0), &mut actions),
            Event::StreamClosed => self.phase = Phase::Apart,
            Event::Outnumbered { highest } => self.outnumbered(now, highest, &mut actions),
            Event::Listed { supervisor, number, held } if number == self.number => {
                self.listed(now, supervisor, held, &mut actions);
            }
            Event::Opened { number, params, bound } if number == self.number => {
                self.opened(now, params, &bound, &mut actions);
            }
            Event::Refused { last } => self.refused(now, last, &mut actions),
            Event::Granted { sequence, length } => self.granted(now, sequence, length, &mut actions),
            Event::Start { session, fence } => self.start(session, fence, &mut actions),
            Event::Stop { fence, how } => self.stop(fence, how, &mut actions),
            Event::Answered { fence, answer } => self.answered(fence, answer, &mut actions),
            Event::Ended { fence } => self.attempts.ended(fence, &mut actions),
            Event::Reported { fence } => self.reported(now, fence, &mut actions),
            Event::Acknowledged { fence } => {
                if self.attempts.forget(fence) {
                    actions.push(Action::Forget(self.number, fence));
                }
            }
            // An answer to a number that was given up since is no more than a tick.
            Event::Listed { .. } | Event::Opened { .. } | Event::Tick => {}
        }
        actions
    }

    /// The next instant at which `handle` has something to do without being told. `None`: never.
    pub fn next_wake(&self) -> Option<BootTime> {
        match &self.phase {
            Phase::Apart => None,
            Phase::Announced { since, .. } | Phase::Asked { since } => Some(*since + ANSWER_MAX),
            Phase::Open(session) => {
                let resend = self.attempts.next_resend().map(|sent| sent + resend_after(&session.params));
                [Some(session.next_renewal), Some(session.ends_at()), resend].into_iter().flatten().min()
            }
        }
    }

    /// Takes the next number and gives it to the supervisors first, which then spawn nothing for an older one.
    fn announce(&mut self, now: BootTime, above: SessionNumber, actions: &mut Vec<Action>) {
        self.number = SessionNumber(self.number.max(above).0 + 1);
        self.phase = Phase::Announced { since: now, missing: self.supervisors.clone() };
        self.attempts.expect_lists();
        actions.push(Action::Announce(self.number));
    }

    fn outnumbered(&mut self, now: BootTime, highest: SessionNumber, actions: &mut Vec<Action>) {
        match self.phase {
            // An answer to a number that was given up since says nothing new.
            Phase::Announced { .. } if highest >= self.number => self.announce(now, highest, actions),
            Phase::Announced { .. } | Phase::Asked { .. } | Phase::Open(_) | Phase::Apart => {}
        }
    }

    fn listed(
        &mut self,
        now: BootTime,
        supervisor: SupervisorId,
        held: Vec<(Fence, Held)>,
        actions: &mut Vec<Action>,
    ) {
        let Phase::Announced { missing, .. } = &mut self.phase else { return };
        if !missing.remove(&supervisor) {
            return;
        }
        self.attempts.listed(held, actions);
        if missing.is_empty() {
            // What no supervisor knows is lost: they all said under this number what they hold.
            self.attempts.lose_unlisted(actions);
            self.phase = Phase::Asked { since: now };
            actions.push(Action::Hello(self.number, self.attempts.held()));
        }
    }

    fn opened(&mut self, now: BootTime, params: LeaseTerms, bound: &[Fence], actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Asked { .. }) {
            return;
        }
        self.dead.clear();
        // All that is not bound stops before the first deadline of this session can be passed on (5.4).
        let must_stop = |fence: &Fence| !bound.contains(fence) && !planted(Mutation::DeadlineBeforeStops);
        for fence in self.attempts.running().filter(must_stop) {
            actions.push(Action::StopGroup(self.number, fence, StopHow::Lost));
        }
        self.attempts.resend(now, actions);
        let mut session = Session {
            params,
            heard_at: now,
            next_renewal: now,
            sequence: 0,
            sent: BTreeMap::new(),
            valid_until: None,
        };
        session.renew(now, actions);
        self.phase = Phase::Open(session);
    }

    fn refused(&mut self, now: BootTime, last: SessionNumber, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Asked { .. }) {
            self.announce(now, last, actions);
        }
    }

    fn granted(&mut self, now: BootTime, sequence: u64, length: Millis, actions: &mut Vec<Action>) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(sent) = session.sent.remove(&sequence) else { return };
        session.heard_at = now;
        // Older renewals that were never answered promise less than this one.
        session.sent = session.sent.split_off(&sequence);
        let sent = if planted(Mutation::RenewalCountedFromAnswer) { now } else { sent };
        let at = session.params.valid_until(sent, length);
        if at <= now {
            // An answer too late to be of use. The session's own end is watched in `pass_time`.
            return;
        }
        session.valid_until = session.valid_until.max(Some(at));
        let kill_after = session.params.kill_after();
        actions.push(Action::PassDeadline { session: self.number, at, kill_after });
    }

    fn start(&mut self, session: SessionNumber, fence: Fence, actions: &mut Vec<Action>) {
        if session != self.number || !matches!(self.phase, Phase::Open(_)) {
            actions.push(Action::RefuseStart(fence, StartRefusal::OtherSession));
            return;
        }
        if self.dead.contains(&fence) {
            actions.push(Action::RefuseStart(fence, StartRefusal::Dead));
            return;
        }
        if let Some(attempt) = self.attempts.get(fence) {
            // It was journaled before: say so again.
            actions.push(Action::Confirm(fence));
            if attempt == Attempt::Running {
                actions.push(Action::Started(fence));
            }
            return;
        }
        self.attempts.start(fence);
        actions.extend([Action::Journal(fence), Action::Confirm(fence), Action::Spawn(session, fence)]);
    }

    fn stop(&mut self, fence: Fence, how: StopHow, actions: &mut Vec<Action>) {
        match self.attempts.get(fence) {
            None => {
                if !planted(Mutation::StopOfUnheldForgotten) {
                    self.dead.insert(fence);
                }
                actions.push(Action::SendDead(fence));
            }
            Some(Attempt::Starting | Attempt::Running) => {
                actions.push(Action::StopGroup(self.number, fence, how));
            }
            // It has ended, and its report says so.
            Some(Attempt::Collecting | Attempt::Reported { .. }) => {}
        }
    }

    fn answered(&mut self, fence: Fence, answer: SpawnAnswer, actions: &mut Vec<Action>) {
        match answer {
            SpawnAnswer::Started => {
                if self.attempts.started(fence) {
                    actions.push(Action::Started(fence));
                }
            }
            SpawnAnswer::Refused => {
                // What was found to be lost meanwhile is reported as that.
                if self.attempts.get(fence) == Some(Attempt::Starting) {
                    self.attempts.forget(fence);
                    actions.push(Action::Forget(self.number, fence));
                    actions.push(Action::RefuseStart(fence, StartRefusal::SessionOver));
                    self.give_session_up(actions);
                }
            }
            SpawnAnswer::Unkillable => actions.push(Action::Unkillable(fence)),
        }
    }

    /// A supervisor that stood still past its deadline spawns nothing until a new session (5.1), whatever was granted to
    /// this one meanwhile. The new one ends what was not taken, since it is not held.
    fn give_session_up(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Open(_)) {
            self.phase = Phase::Apart;
            actions.push(Action::CloseStream);
        }
    }

    fn reported(&mut self, now: BootTime, fence: Fence, actions: &mut Vec<Action>) {
        let is_open = matches!(self.phase, Phase::Open(_));
        self.attempts.reported(fence, is_open.then_some(now));
        if is_open {
            actions.push(Action::SendReport(fence));
        }
    }

    fn pass_time(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        let is_over = match &self.phase {
            Phase::Apart => false,
            Phase::Announced { since, .. } | Phase::Asked { since } => *since + ANSWER_MAX <= now,
            Phase::Open(session) => session.ends_at() <= now,
        };
        if is_over {
            self.phase = Phase::Apart;
            actions.push(Action::CloseStream);
        }
        let Phase::Open(session) = &mut self.phase else { return };
        if session.next_renewal <= now {
            session.renew(now, actions);
        }
        if self.attempts.next_resend().is_some_and(|sent| sent + resend_after(&session.params) <= now) {
            self.attempts.resend(now, actions);
        }
    }
}

impl Session {
    fn renew(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        self.sequence += 1;
        self.sent.insert(self.sequence, now);
        self.next_renewal = now + self.params.renew_every();
        actions.push(Action::Renew(self.sequence));
    }

    /// When this session is given up: at its deadline, or when the leader has granted nothing for L/3.
    ///
    /// A leader without a quorum has given up itself by then (PROTOCOL 2.3), and one that proposes the expiry of this
    /// session acknowledges nothing more (5.4). Waiting for the deadline would cost the tasks; a new session with
    /// whoever leads now costs a command.
    fn ends_at(&self) -> BootTime {
        let silent_at = self.heard_at + self.params.give_up_after();
        self.valid_until.map_or(silent_at, |at| at.min(silent_at))
    }
}

/// A report that is not acknowledged is sent again; half a session is far above any commit.
const fn resend_after(params: &LeaseTerms) -> Millis {
    Millis(params.length.0 / 2)
}

#[cfg(test)]
mod tests;
