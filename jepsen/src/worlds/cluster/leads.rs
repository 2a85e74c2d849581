//! Those that lead, or think that they do, and what they have proposed.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use matins_core::State;
use matins_core::command::Command;
use matins_core::executor;
use matins_core::id::{Fence, Leadership, LogIndex, ScheduleId};
use matins_core::state::{PastRow, RunState};
use matins_core::supervisor::Exit;
use matins_core::time::{BootTime, Timestamp};
use matins_node::execute::wire;
use matins_node::lead::backfill::{History, NoHistory};
use matins_node::lead::leader::{Action, Disks, Event, Leader, Now, Outside};
use matins_node::lead::queue::Key;
use matins_node::lead::scope::Params;
use matins_proto::v1;
use matins_proto::v1::executor_message::Message as ToLeaderMessage;

use super::super::fingerprint;
use super::super::host::{Hello, ToLeader};
use super::{AT, Cluster};

/// One leadership.
#[derive(Clone)]
pub(super) struct Lead {
    pub(super) leader: Leader,
    pub(super) leadership: Leadership,
    /// Fingerprint of the newest state it was told of.
    pub(super) seen: u64,
    /// Its index.
    pub(super) seen_at: LogIndex,
    /// Before its last quorum round began.
    quorum: BootTime,
}

impl Hash for Lead {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.leader, self.seen, self.quorum).hash(hasher);
    }
}

/// A proposal that is under way.
#[derive(Clone)]
pub(super) struct Pending {
    pub(super) node: usize,
    pub(super) leadership: Leadership,
    pub(super) key: Key,
    pub(super) command: Arc<Command>,
    /// Fingerprint of key and command.
    pub(super) print: u64,
    pub(super) wants_answer: bool,
    /// Steps of time since it was made.
    pub(super) age: u8,
}

impl Lead {
    pub(super) fn new(state: &Arc<State>, seen: u64, now: BootTime) -> Self {
        let leadership = state.cluster.leader.as_ref().map(|leader| leader.leadership);
        Self {
            leader: Leader::new(Arc::clone(state), now),
            leadership: leadership.expect("its LeaderReady was applied"),
            seen,
            seen_at: state.index,
            quorum: now,
        }
    }
}

/// These worlds have no history.
struct NoRuns;

impl History for NoRuns {
    fn runs_at(
        &self,
        _: &ScheduleId,
        _: Timestamp,
    ) -> Result<Vec<(matins_core::id::RunId, RunState)>, NoHistory> {
        Ok(Vec::new())
    }

    fn past_at(&self, _: &ScheduleId, _: Timestamp) -> Result<Option<PastRow>, NoHistory> {
        Ok(None)
    }
}

impl Cluster {
    pub(super) fn lead_now(&self) -> Now {
        Now { at: AT, boot: self.lead_clock() }
    }

    /// Whoever made a proposal hears what came of it, if it still is what it was.
    pub(super) fn answer(&mut self, node: usize, leadership: Leadership, answered: Event) {
        let now = self.lead_now();
        let lead = self.leads[node].as_mut().filter(|lead| lead.leadership == leadership);
        if let Some(lead) = lead {
            Arc::make_mut(lead).leader.event(answered, now);
        }
    }

    /// A leader does what is to be done now.
    pub(super) fn run_lead(&mut self, node: usize) -> Result<(), String> {
        let now = self.lead_now();
        let is_leading = self.leading == Some(node);
        let Some(lead) = &mut self.leads[node] else { return Ok(()) };
        let lead = Arc::make_mut(lead);
        if is_leading {
            lead.quorum = now.boot;
        }
        let outside = Outside {
            history: &NoRuns,
            resolve: &Params,
            durable_block: 0,
            log_bytes: 0,
            readings: None,
            quorum: Some(lead.quorum),
            disks: Disks::default(),
        };
        let leadership = lead.leadership;
        let actions = lead.leader.run(now, &outside);
        actions.into_iter().try_for_each(|action| self.act(node, leadership, action))
    }

    fn act(&mut self, node: usize, leadership: Leadership, action: Action) -> Result<(), String> {
        match action {
            Action::Propose(key, command) => {
                let print = fingerprint::of(&key, self.lead_clock()) ^ fingerprint::of_rows(&command);
                let command = Arc::new(command);
                let (wants_answer, age) = (true, 0);
                self.pending.push(Pending { node, leadership, key, command, print, wants_answer, age });
                self.sort_pending();
                Ok(())
            }
            Action::Send(conn, message) => self.send(conn.0 as u8, &message),
            Action::Close(conn) => {
                if let Some(stream) = self.stream_mut(conn.0 as u8) {
                    stream.leader_end = false;
                    stream.up.clear();
                }
                self.drop_dead_streams();
                Ok(())
            }
            Action::Read(_) | Action::Publish(..) => Err("tasks of these worlds have no outputs".into()),
        }
    }

    /// The order of proposals that are under way says nothing: they are applied in any order.
    pub(super) fn sort_pending(&mut self) {
        self.pending.sort_by_key(|it| (it.node, it.leadership, it.print, it.wants_answer, it.age));
    }

    fn send(&mut self, id: u8, message: &v1::LeaderMessage) -> Result<(), String> {
        let Some(stream) = self.stream(id) else { return Ok(()) };
        let opened = stream.opened;
        let Some(event) = message.message.as_ref().and_then(wire::heard) else { return Ok(()) };
        if let executor::Event::Granted { length, .. } = &event
            && opened.is_none()
        {
            return Err(format!("5.4: stream {id} is granted {} ms before its session is open", length.0));
        }
        if let executor::Event::Start { session, .. } = &event
            && opened != Some(*session)
        {
            return Err(format!(
                "5.4: a start of session {} is sent on stream {id}, on which {opened:?} is open",
                session.0
            ));
        }
        let Some(stream) = self.stream_mut(id) else { return Ok(()) };
        if let executor::Event::Opened { number, .. } = &event {
            stream.opened = Some(*number);
        }
        if stream.executor_end {
            stream.down.push_back(event);
        }
        Ok(())
    }

    /// What an executor says, as it stands on the wire.
    pub(super) fn in_wire_words(&self, host: usize, message: ToLeader) -> ToLeaderMessage {
        match message {
            ToLeader::Hello(hello) => ToLeaderMessage::Hello(self.hello(host, hello)),
            ToLeader::Renew(sequence) => ToLeaderMessage::Renew(v1::Renew { sequence }),
            ToLeader::Confirm(fence) => {
                ToLeaderMessage::StartConfirmed(v1::StartConfirmed { fence: fence.0 })
            }
            ToLeader::Report(fence, exit) => ToLeaderMessage::Report(report(fence, exit)),
            ToLeader::Dead(fence) => ToLeaderMessage::StopDead(v1::StopDead { fence: fence.0 }),
            ToLeader::Unkillable(fence) => ToLeaderMessage::Unkillable(v1::Unkillable { fence: fence.0 }),
        }
    }

    fn hello(&self, host: usize, hello: Hello) -> v1::Hello {
        let held = hello.held.into_iter().map(|(fence, has_ended)| {
            let state = if has_ended { v1::HeldState::Ended } else { v1::HeldState::Running };
            v1::HeldFence { fence: fence.0, state: state.into() }
        });
        v1::Hello {
            node: host as u64 + 1,
            session: hello.number.0,
            boot_id: hello.identity.boot.to_string(),
            journal: hello.identity.journal.into(),
            held: held.collect(),
            slots: self.shape.slots,
            labels: BTreeMap::new().into_iter().collect(),
            name: format!("E{}", host + 1),
            level: 1,
            address: String::new(),
            cluster: 0,
        }
    }
}

fn report(fence: Fence, exit: Exit) -> v1::AttemptReport {
    use v1::attempt_report::Outcome;
    let outcome = match exit {
        Exit::Code(code) => Outcome::ExitCode(code),
        Exit::Signal(signal) => Outcome::Signal(signal),
        Exit::NotStarted(why) => Outcome::CouldNotStart(why),
        Exit::LeaseEnded => {
            Outcome::Lost(v1::Lost { cause: v1::LostCause::LeaseEnded.into(), reason: String::new() })
        }
    };
    // A log that is not attached keeps the run in the state, so that nothing retires.
    v1::AttemptReport { fence: fence.0, outcome: Some(outcome), log_bytes: 1, ..Default::default() }
}
