//! Sessions of executors as the leader keeps them (PROTOCOL 5.3, 5.4, 5.6, 5.7). Pure.
//!
//! Which sessions exist is in `State`; when they were last heard, and over which stream, is not, and is lost with the
//! leadership. Start reading at [`Sessions::new`], then [`Sessions::opened`].

use std::collections::{BTreeMap, BTreeSet};

use matins_core::State;
use matins_core::command::{Command, OpenSession, StopHow};
use matins_core::id::{ExecutorId, Fence, JournalId, NodeId, SessionNumber};
use matins_core::lease::SessionKeeper;
use matins_core::mutation::{Mutation, planted};
use matins_core::state::settings::LeaseTerms;
use matins_core::time::{BootTime, Millis};
use matins_proto::v1;
use matins_proto::v1::leader_message::Message;

use super::queue::ConnId;

/// A start or a stop that was not answered for so long is sent again.
const RESEND_AFTER: Millis = Millis::from_secs(2);

/// Something to do for an executor now, or the next look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Now.
    Do(T),
    /// Not before this instant.
    LookAt(BootTime),
    /// Nothing, until something happens.
    Nothing,
}

/// All sessions and streams of one leadership.
#[derive(Clone, Debug, Hash)]
pub struct Sessions {
    keeper: SessionKeeper,
    streams: BTreeMap<ConnId, Stream>,
    /// The stream of the newest open session of each executor.
    open: BTreeMap<ExecutorId, ConnId>,
}

/// One stream, from its hello on.
#[derive(Clone, Debug, Hash)]
struct Stream {
    hello: OpenSession,
    /// Starts by fence: when each was sent, or that it need not be sent again.
    starts: BTreeMap<Fence, Start>,
    /// Stops by fence.
    stops: BTreeMap<Fence, (StopHow, BootTime)>,
}

#[derive(Clone, Copy, Debug, Hash)]
enum Start {
    SentAt(BootTime),
    Confirmed,
}

impl Sessions {
    /// Finds every session in the state: each counts from the instant this leader became ready (PROTOCOL 5.3).
    pub fn new(state: &State, ready_at: BootTime) -> Self {
        let mut keeper = SessionKeeper::new(ready_at);
        for ((executor, session), row) in state.sessions.iter() {
            keeper.take_over(*executor, *session, row.terms);
        }
        Self { keeper, streams: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// Notes a quorum round that succeeded: nothing is granted beyond it (PROTOCOL 5.3).
    pub fn quorum(&mut self, began: BootTime) {
        self.keeper.quorum(began);
    }

    /// The first message of a stream. `false`: it is not the first one, and is passed over.
    pub fn hello(&mut self, conn: ConnId, hello: v1::Hello) -> bool {
        if self.streams.contains_key(&conn) {
            return false;
        }
        let held: BTreeSet<Fence> = hello.held.iter().map(|held| Fence(held.fence)).collect();
        let hello = OpenSession {
            executor: NodeId(hello.node),
            session: SessionNumber(hello.session),
            boot: hello.boot_id,
            journal: JournalId(hello.journal),
            held: held.into_iter().collect(),
            name: hello.name,
            slots: hello.slots,
            labels: hello.labels,
            address: hello.address,
        };
        let starts = hello.held.iter().map(|fence| (*fence, Start::Confirmed)).collect();
        self.streams.insert(conn, Stream { hello, starts, stops: BTreeMap::new() });
        true
    }

    /// The command that a stream waits for.
    pub fn open_command(&self, conn: ConnId) -> Option<Command> {
        let stream = self.streams.get(&conn).filter(|_| self.session_of(conn).is_none())?;
        Some(Command::OpenSession(stream.hello.clone()))
    }

    /// Its `OpenSession` was applied. Gives the streams that it takes the place of, which are to be closed.
    pub fn opened(&mut self, conn: ConnId, terms: LeaseTerms, now: BootTime) -> Vec<ConnId> {
        let Some(stream) = self.streams.get(&conn) else { return Vec::new() };
        let (executor, session) = (stream.hello.executor, stream.hello.session);
        self.keeper.open(executor, session, terms, now);
        let is_newest = self.open_session(executor).is_none_or(|(_, newest)| newest < session);
        if is_newest {
            self.open.insert(executor, conn);
        }
        // Older streams of it are over, also those whose hello is still being answered.
        let is_older = |stream: &Stream| stream.hello.executor == executor && stream.hello.session < session;
        self.streams.iter().filter(|(_, stream)| is_older(stream)).map(|(conn, _)| *conn).collect()
    }

    /// A stream ended, whoever ended it.
    pub fn closed(&mut self, conn: ConnId) -> Option<ExecutorId> {
        let stream = self.streams.remove(&conn)?;
        let executor = stream.hello.executor;
        if self.open.get(&executor) == Some(&conn) {
            self.open.remove(&executor);
        }
        Some(executor)
    }

    /// The executor and session of a stream that is open.
    pub fn session_of(&self, conn: ConnId) -> Option<(ExecutorId, SessionNumber)> {
        let hello = &self.streams.get(&conn)?.hello;
        (self.open.get(&hello.executor) == Some(&conn)).then_some((hello.executor, hello.session))
    }

    /// The open stream of an executor, and its session.
    pub fn open_session(&self, executor: ExecutorId) -> Option<(ConnId, SessionNumber)> {
        let conn = *self.open.get(&executor)?;
        Some((conn, self.streams.get(&conn)?.hello.session))
    }

    /// The open stream of one session, unless that is being declared dead: then it gets no answer (PROTOCOL 5.4).
    pub fn stream_of(&self, executor: ExecutorId, session: SessionNumber) -> Option<ConnId> {
        if planted(Mutation::StartBeforeSessionIsOpen) {
            let mut streams = self.streams.iter().rev();
            return streams.find(|(_, stream)| stream.hello.executor == executor).map(|(conn, _)| *conn);
        }
        let (conn, newest) = self.open_session(executor)?;
        (newest == session && !self.keeper.is_expiring(executor, session)).then_some(conn)
    }

    /// A renewal: what it is granted, if anything.
    pub fn renew(&mut self, conn: ConnId, sequence: u64, now: BootTime) -> Option<v1::LeaderMessage> {
        let (executor, session) = self.session_of(conn)?;
        let granted = self.keeper.renew(executor, session, now)?;
        Some(message(Message::Grant(v1::Grant { sequence, length_ms: granted.0 })))
    }

    /// Brings the sessions of one executor in line with the state, and gives those there are.
    pub fn sync(&mut self, state: &State, executor: ExecutorId, now: BootTime) -> Vec<SessionNumber> {
        let all = (executor, SessionNumber(0))..=(executor, SessionNumber(u64::MAX));
        let mut sessions = Vec::new();
        for ((_, session), row) in state.sessions.range(all) {
            // All that were there when this leader became ready are known: this one was opened since, just now.
            if self.keeper.dies_at(executor, *session, Millis::ZERO).is_none() {
                self.keeper.open(executor, *session, row.terms, now);
            }
            sessions.push(*session);
        }
        sessions
    }

    /// Whether a session is dead: its expiry is proposed as long as something is bound to it. Each attempt ends by its
    /// own `on_disconnect` (PROTOCOL 5.9).
    pub fn expiry(
        &self,
        state: &State,
        (executor, session): (ExecutorId, SessionNumber),
        now: BootTime,
    ) -> Next<Command> {
        let Some(row) = state.sessions.get(&(executor, session)) else { return Next::Nothing };
        let Some(dead_at) = self.keeper.dies_at(executor, session, Millis::ZERO) else {
            return Next::Nothing;
        };
        let longer = state.bound.range((executor, session, Fence(0))..=(executor, session, Fence(u64::MAX)));
        let longer = longer.filter_map(|((_, _, fence), ())| state.attempts.get(state.live.get(fence)?));
        let next = match (row.is_expired, longer.map(|attempt| attempt.on_disconnect).min()) {
            (false, _) => dead_at,
            (true, Some(longer)) => dead_at + longer,
            (true, None) => return Next::Nothing,
        };
        if now < next {
            return Next::LookAt(next);
        }
        Next::Do(Command::ExpireSession { executor, session, dead_for: now.since(dead_at) })
    }

    /// The expiry of a session is being proposed: it gets no grant and no ack any more. Gives its stream, which is to be
    /// closed (PROTOCOL 5.4).
    pub fn expiring(&mut self, executor: ExecutorId, session: SessionNumber) -> Option<ConnId> {
        if planted(Mutation::SessionRevivedAfterExpiry) {
            return None;
        }
        let conn = self.stream_of(executor, session);
        self.keeper.expiring(executor, session);
        conn
    }

    /// A session that the state has no more.
    pub fn forget(&mut self, executor: ExecutorId, session: SessionNumber) {
        self.keeper.close(executor, session);
    }

    /// The difference between what is heard and what the state says of an executor (PROTOCOL 5.6).
    pub fn cordon(&self, state: &State, executor: ExecutorId, now: BootTime) -> Next<Command> {
        let Some(row) = state.executors.get(&executor) else { return Next::Nothing };
        let session = row.session;
        let silent_at =
            self.stream_of(executor, session).and_then(|_| self.silent_at(state, executor, session));
        let is_expired = state.sessions.get(&(executor, session)).is_none_or(|row| row.is_expired);
        match silent_at.filter(|at| now < *at && !is_expired) {
            Some(_) if row.is_cordoned() && !planted(Mutation::CordonedForEver) => {
                Next::Do(Command::Uncordon { executor, session })
            }
            Some(at) => Next::LookAt(at),
            None if !row.is_cordoned() => Next::Do(Command::Cordon { executor, session }),
            None => Next::Nothing,
        }
    }

    /// L/5 after it was heard last.
    fn silent_at(&self, state: &State, executor: ExecutorId, session: SessionNumber) -> Option<BootTime> {
        let terms = state.sessions.get(&(executor, session))?.terms;
        let dead_at = self.keeper.dies_at(executor, session, Millis::ZERO)?;
        Some(dead_at - terms.dead_after() + terms.cordon_after())
    }

    /// Whether a start is to be sent over a stream: resent inside its session until it is confirmed (PROTOCOL 5.5).
    pub fn start(&self, conn: ConnId, fence: Fence, now: BootTime) -> Next<()> {
        match self.streams.get(&conn).map(|stream| stream.starts.get(&fence)) {
            None | Some(Some(Start::Confirmed)) => Next::Nothing,
            Some(Some(Start::SentAt(at))) if now < *at + RESEND_AFTER => Next::LookAt(*at + RESEND_AFTER),
            Some(Some(Start::SentAt(_)) | None) => Next::Do(()),
        }
    }

    /// A start was sent. Gives the instant at which to look again.
    pub fn start_sent(&mut self, conn: ConnId, fence: Fence, now: BootTime) -> BootTime {
        if let Some(stream) = self.streams.get_mut(&conn) {
            stream.starts.insert(fence, Start::SentAt(now));
        }
        now + RESEND_AFTER
    }

    /// It is journaled under its fence.
    pub fn start_confirmed(&mut self, conn: ConnId, fence: Fence) {
        if let Some(stream) = self.streams.get_mut(&conn) {
            stream.starts.insert(fence, Start::Confirmed);
        }
    }

    /// Whether a stop is to be sent: until the attempt has ended, and at once when it becomes harder.
    pub fn stop(
        &mut self,
        conn: ConnId,
        (fence, how): (Fence, StopHow),
        now: BootTime,
    ) -> Next<v1::LeaderMessage> {
        let Some(stream) = self.streams.get_mut(&conn) else { return Next::Nothing };
        if let Some((sent, at)) = stream.stops.get(&fence)
            && *sent == how
            && now < *at + RESEND_AFTER
        {
            return Next::LookAt(*at + RESEND_AFTER);
        }
        stream.stops.insert(fence, (how, now));
        Next::Do(message(Message::Stop(v1::Stop { fence: fence.0, now: how == StopHow::Now })))
    }

    /// An attempt has ended: nothing is sent for it any more.
    pub fn ended(&mut self, executor: ExecutorId, fence: Fence) {
        let stream = self.open.get(&executor).and_then(|conn| self.streams.get_mut(conn));
        if let Some(stream) = stream {
            stream.starts.remove(&fence);
            stream.stops.remove(&fence);
        }
    }
}

/// The answer to a hello whose session is open.
pub fn session_opened(session: SessionNumber, bound: &[Fence], terms: LeaseTerms) -> v1::LeaderMessage {
    message(Message::Opened(v1::SessionOpened {
        session: session.0,
        bound: bound.iter().map(|fence| fence.0).collect(),
        length_ms: terms.length.0,
        kill_budget_ms: terms.kill_budget.0,
        rho_ppm: terms.rho_ppm,
    }))
}

/// The answer to a hello whose number is not higher than the last one.
pub fn session_refused(last: SessionNumber) -> v1::LeaderMessage {
    message(Message::Refused(v1::SessionRefused { last_session: last.0 }))
}

/// A message to an executor.
pub fn message(message: Message) -> v1::LeaderMessage {
    v1::LeaderMessage { message: Some(message) }
}
