//! Drives the real [`Leader`] of a node, as the shell of `matins_node::lead` does: entries, streams and answers in,
//! proposals and messages out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use matins_core::command::{Command, Proposal};
use matins_core::id::{ExecutorId, Leadership, RunId, ScheduleId, SessionNumber, TaskId};
use matins_core::state::{PastOutcome, PastRow, RunState, State};
use matins_core::time::Timestamp;
use matins_core::{Answer, Effect, Refusal};
use matins_node::lead::backfill::{History, NoHistory};
use matins_node::lead::leader::{Action, Disks, Event as Told, Leader, Now, Outside};
use matins_node::lead::queue::{ConnId, Key};
use matins_node::lead::scope::{Fetched, Params};
use matins_proto::v1::leader_message::Message;

use super::agenda::{Alarm, Instant};
use super::consensus::{Caller, Waiting};
use super::network::{Body, Direction};
use super::world::{Event, Proc, World};

/// A node that is ready to lead.
pub(super) struct Reign {
    pub(super) leadership: Leadership,
    pub(super) leader: Leader,
    pub(super) conns: BTreeSet<ConnId>,
    alarm: Alarm,
    /// Proposals that were not answered yet.
    open: BTreeMap<u64, Key>,
    /// Sessions whose expiry was proposed: they get no grant any more (PROTOCOL 5.4).
    expiring: BTreeSet<(ExecutorId, SessionNumber)>,
    /// Effects that were missed, and are found in the state at the next look.
    pub(super) lags: bool,
}

/// What has left the state, as far as backfills ask for it.
#[derive(Default)]
pub(super) struct Past {
    runs: BTreeMap<(ScheduleId, Timestamp), Vec<(RunId, RunState)>>,
    rows: BTreeMap<(ScheduleId, Timestamp), PastRow>,
    pub(super) ended: BTreeMap<RunId, RunState>,
}

impl Past {
    /// Notes a run that leaves for history.
    pub(super) fn retire(&mut self, state: &State, run: RunId) {
        let Some(row) = state.runs.get(&run) else { return };
        self.ended.insert(run, row.state);
        let Some(schedule) = row.schedule_id() else { return };
        let key = (schedule, row.logical_time);
        let runs = self.runs.entry(key.clone()).or_default();
        runs.push((run, row.state));
        runs.sort_unstable();
        let Some(definition) = state.definition_of(run) else { return };
        let ended = (0u16..).zip(&definition.workflow.tasks).filter_map(|(number, spec)| {
            let task = state.tasks.get(&TaskId { run, task: number, item: None })?;
            Some((spec.name.clone(), PastOutcome::of(&task.state)))
        });
        let row = PastRow { run, ended: Some(ended.collect()) };
        let known = self.rows.entry(key).or_insert_with(|| row.clone());
        if known.run < run {
            *known = row;
        }
    }
}

impl History for Past {
    fn runs_at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Vec<(RunId, RunState)>, NoHistory> {
        Ok(self.runs.get(&(schedule.clone(), tick)).cloned().unwrap_or_default())
    }

    fn past_at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Option<PastRow>, NoHistory> {
        Ok(self.rows.get(&(schedule.clone(), tick)).cloned())
    }
}

impl World {
    /// An entry was applied on the leader's node, and its callers are answered, in either order.
    pub(super) fn leader_hears(
        &mut self,
        state: &Arc<State>,
        effects: &[Effect],
        heard: Vec<(Caller, Result<Answer, Refusal>)>,
    ) {
        let proc = self.consensus.leader.filter(|proc| self.lives(*proc) && self.is_awake(proc.node));
        let answers_first = self.random_bool();
        if let Some(proc) = proc.filter(|_| !answers_first) {
            self.leader_applies(proc.node, state, effects);
        }
        for (caller, answer) in heard {
            match caller {
                Caller::Leader(id, key) => {
                    if let Some(proc) = proc {
                        self.leader_answered(proc.node, id, key, answer);
                    }
                }
                Caller::Ready => {
                    if let Some(proc) = proc {
                        self.ready(proc, &answer);
                    }
                }
                Caller::Client(number) => self.client_answered(number, answer),
                Caller::Nobody => {}
            }
        }
        if let Some(proc) = proc {
            if answers_first {
                self.leader_applies(proc.node, state, effects);
            }
            self.run_leader(proc.node);
        }
    }

    fn random_bool(&mut self) -> bool {
        self.draw(2) == 0
    }

    fn leader_applies(&mut self, node: usize, state: &Arc<State>, effects: &[Effect]) {
        let now = self.now_of(node);
        let Some(reign) = self.reign(node) else { return };
        if std::mem::take(&mut reign.lags) {
            reign.leader.set_state(Arc::clone(state), now.boot);
            reign.leader.find_all(now.boot);
        } else {
            reign.leader.applied(Arc::clone(state), effects, now);
        }
    }

    fn leader_answered(&mut self, node: usize, id: u64, key: Key, answer: Result<Answer, Refusal>) {
        let (now, state) = (self.now_of(node), self.state());
        self.counts.refused += u64::from(answer.is_err());
        let Some(reign) = self.reign(node) else { return };
        if reign.open.remove(&id).is_some() {
            reign.leader.set_state(state, now.boot);
            reign.leader.event(Told::Answered(key, Some(answer)), now);
        }
    }

    /// The `LeaderReady` of this process was applied.
    fn ready(&mut self, proc: Proc, answer: &Result<Answer, Refusal>) {
        let term = self.consensus.term;
        let Ok(Answer::Ready(leadership)) = *answer else {
            let at = self.agenda.now() + 200 * super::agenda::MS;
            self.agenda.at(at, Event::GetReady(proc, term));
            return;
        };
        let (state, boot) = (self.state(), self.boot(proc.node));
        self.counts.leaderships += 1;
        let Some(lead) = self.nodes[proc.node].lead.as_mut() else { return };
        lead.reign = Some(Reign {
            leadership,
            leader: Leader::new(state, boot),
            conns: BTreeSet::new(),
            alarm: Alarm::default(),
            open: BTreeMap::new(),
            expiring: BTreeSet::new(),
            lags: false,
        });
    }

    pub(super) fn reign(&mut self, node: usize) -> Option<&mut Reign> {
        self.nodes[node].lead.as_mut()?.reign.as_mut()
    }

    pub(super) fn is_ready(&self, node: usize) -> bool {
        self.nodes[node].lead.as_ref().is_some_and(|lead| lead.reign.is_some())
    }

    pub(super) fn now_of(&mut self, node: usize) -> Now {
        Now { at: self.leader_time(node), boot: self.boot(node) }
    }

    pub(super) fn no_answer(&mut self, proc: Proc, id: u64) {
        if !self.lives(proc) {
            return;
        }
        let now = self.now_of(proc.node);
        let Some(reign) = self.reign(proc.node) else { return };
        if let Some(key) = reign.open.remove(&id) {
            reign.leader.event(Told::Answered(key, None), now);
            self.run_leader(proc.node);
        }
    }

    pub(super) fn leader_wakes(&mut self, proc: Proc, at: Instant) {
        if self.lives(proc) && self.reign(proc.node).is_some_and(|reign| reign.alarm.rings(at)) {
            self.run_leader(proc.node);
        }
    }

    /// Something happened to the leader; it says what is to be done.
    pub(super) fn tell_leader(&mut self, node: usize, event: Told) {
        let now = self.now_of(node);
        if let Some(reign) = self.reign(node) {
            reign.leader.event(event, now);
            self.run_leader(node);
        }
    }

    /// Looks at everything that wants a look, does what is to be done, and sets the next look.
    pub(super) fn run_leader(&mut self, node: usize) {
        if !self.is_ready(node) {
            return;
        }
        let now = self.now_of(node);
        let quorum = self.anchor(node);
        let state = self.state();
        let needs_readings = now.at.since(state.now) >= matins_core::time::Millis::from_secs(30);
        let readings = needs_readings
            .then(|| self.nodes[node].clock.now_with_readings(now.boot))
            .flatten()
            .map(|(_, readings)| readings);
        let outside = Outside {
            history: &self.past,
            resolve: &Params,
            durable_block: u64::MAX,
            log_bytes: 0,
            readings,
            quorum,
            disks: Disks::default(),
        };
        let Some(reign) = self.nodes[node].lead.as_mut().and_then(|lead| lead.reign.as_mut()) else { return };
        let actions = reign.leader.run(now, &outside);
        let next = reign.leader.next_run(now);
        let next = self.nodes[node].clocks.when(next);
        let (at, proc) = (self.agenda.now(), self.proc(node));
        if self.reign(node).is_some_and(|reign| reign.alarm.set(at, next)) {
            self.agenda.at(next, Event::LeaderWake(proc, next));
        }
        for action in actions {
            self.leader_acts(node, action);
        }
    }

    fn leader_acts(&mut self, node: usize, action: Action) {
        match action {
            Action::Propose(key, command) => self.leader_proposes(node, key, command),
            Action::Send(conn, message) => {
                let Some(message) = message.message else { return };
                self.check_grant(node, conn, &message);
                self.send(conn, Direction::ToExecutor, Body::ToExecutor(Box::new(message)));
            }
            Action::Close(conn) => {
                if let Some(reign) = self.reign(node) {
                    reign.conns.remove(&conn);
                }
                self.close(conn, Direction::ToExecutor);
            }
            // No output of a simulated task is large.
            Action::Read(digest) => {
                self.tell_leader(node, Told::Read(digest, Fetched::Lost));
            }
            Action::Publish(fence, _) => self.tell_leader(node, Told::Published(fence, true)),
        }
    }

    fn leader_proposes(&mut self, node: usize, key: Key, command: Command) {
        let id = self.next_id();
        if let Command::Time(readings) = &command {
            let carried = &mut self.nodes[node].carried;
            *carried = (*carried).max(readings.majority);
        }
        let Some(reign) = self.reign(node) else { return };
        if let Command::ExpireSession { executor, session, .. } = &command {
            reign.expiring.insert((*executor, *session));
        }
        reign.open.insert(id, key.clone());
        let proposal = Proposal { request: None, leadership: Some(reign.leadership), command };
        self.propose(node, Waiting { proposals: vec![proposal], caller: Caller::Leader(id, key) });
    }

    /// PROTOCOL 5.4: from the moment an expiry is proposed that session gets no ack.
    fn check_grant(&mut self, node: usize, conn: ConnId, message: &Message) {
        if !matches!(message, Message::Grant(_)) {
            return;
        }
        let session = self.conns.get(&conn).and_then(|conn| conn.session);
        let Some(reign) = self.reign(node) else { return };
        if let Some((executor, number)) = session.filter(|session| reign.expiring.contains(session)) {
            self.breaks(format!(
                "5.4: {number} of {executor} was granted a renewal after its expiry was proposed"
            ));
        }
    }

    /// A node believes no more that it leads.
    pub(super) fn end_lead(&mut self, node: usize) {
        let Some(lead) = self.nodes[node].lead.take() else { return };
        self.nodes[node].clock.follow();
        self.nodes[node].queue.clear();
        let conns = lead.reign.map(|reign| reign.conns).unwrap_or_default();
        for conn in conns {
            self.close(conn, Direction::ToExecutor);
        }
    }
}
