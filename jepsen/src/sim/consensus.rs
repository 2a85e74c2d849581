//! Consensus as an abstract model, with all the freedom that PROTOCOL 2 leaves it and no more.
//!
//! There is one order of committed entries. Who was elected last may add to it while it reaches a majority; what it
//! wrote and could not commit is kept or cut off, from some entry on, when another is elected, and its callers hear
//! nothing. A node that was deposed believes in its lead until it hears of the other one or its watchdog ends it.

use std::collections::VecDeque;
use std::sync::Arc;

use matins_core::clock::AppliedFrom;
use matins_core::command::{Command, Entry, Proposal};
use matins_core::id::LogIndex;
use matins_core::state::Settings;
use matins_core::time::Timestamp;
use matins_core::{LEVEL, Outcome, State, apply};
use matins_node::lead::queue::Key;
use rand::Rng as _;

use super::agenda::{Instant, MS, SEC};
use super::world::{Backlog, Event, Lead, Proc, World};

/// Commands of one caller, which stand together.
pub(super) struct Waiting {
    pub(super) proposals: Vec<Proposal>,
    pub(super) caller: Caller,
}

/// Who wants the answer.
#[derive(Clone)]
pub(super) enum Caller {
    /// The leader that this process was, about one of its keys; the number names the proposal.
    Leader(u64, Key),
    /// Whoever has won an election.
    Ready,
    /// A command of a client.
    Client(usize),
    Nobody,
}

/// An entry that is written and not committed.
struct Pending {
    entry: Entry,
    callers: Vec<(usize, Caller)>,
    /// It is on a majority then, if that is reached.
    due: Instant,
}

/// What the cluster agreed on, and what it may agree on next.
#[derive(Default)]
pub(super) struct Consensus {
    pub(super) term: u64,
    pub(super) leader: Option<Proc>,
    tail: VecDeque<Pending>,
    pub(super) state: Arc<State>,
    /// A second replica, and the entries that it has not applied yet.
    replica: State,
    backlog: Backlog,
    election_at: Option<Instant>,
}

/// Between quorum rounds.
const ROUND_EVERY: u64 = 250 * MS;
/// Between questions about the other nodes' clocks.
const STATUS_EVERY: u64 = SEC;

impl World {
    /// Whether a node reaches a majority, both ways.
    pub(super) fn has_quorum(&self, node: usize) -> bool {
        if !self.is_awake(node) {
            return false;
        }
        let reaches = |other: &usize| {
            *other == node
                || (self.is_awake(*other) && self.is_open(node, *other) && self.is_open(*other, node))
        };
        (0..self.nodes.len()).filter(reaches).count() > self.nodes.len() / 2
    }

    /// Whether a node leads in fact and not only in its own belief.
    fn is_healthy(&self, node: usize) -> bool {
        let term = self.nodes[node].lead.as_ref().map(|lead| lead.term);
        term == Some(self.consensus.term)
            && self.consensus.leader == Some(self.proc(node))
            && self.has_quorum(node)
    }

    /// Something about who reaches whom has changed.
    pub(super) fn topology(&mut self) {
        for node in 0..self.nodes.len() {
            self.note_health(node);
            if self.nodes[node].is_up && self.hears_leader(node) {
                self.catch_up(node);
            }
        }
        let leader = self.consensus.leader;
        if leader.is_none_or(|proc| !self.lives(proc) || !self.is_healthy(proc.node)) {
            self.ask_for_election();
        }
        self.depose_the_others();
    }

    fn hears_leader(&self, node: usize) -> bool {
        let leader = self.consensus.leader.filter(|proc| self.lives(*proc));
        leader.is_some_and(|proc| {
            self.is_awake(node)
                && self.is_awake(proc.node)
                && (proc.node == node || self.is_open(proc.node, node))
        })
    }

    fn note_health(&mut self, node: usize) {
        let (now, is_healthy, proc) = (self.agenda.now(), self.is_healthy(node), self.proc(node));
        self.anchor(node);
        let terms = self.knobs.lease;
        let clocks = self.nodes[node].clocks.clone();
        let Some(lead) = &mut self.nodes[node].lead else { return };
        match (lead.healthy_since, is_healthy) {
            (None, true) => {
                lead.healthy_since = Some(now);
                let term = lead.term;
                self.agenda.at(now + self.knobs.latency, Event::Commit(term));
            }
            (Some(_), false) => {
                lead.healthy_since = None;
                lead.unhealthy_since = now;
                let term = lead.term;
                let until = clocks.when(clocks.boot(now) + terms.give_up_after());
                self.agenda.at(until, Event::Watchdog(proc, term, now));
                self.expect_no_answers(proc);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Whoever waits for an entry that is stuck hears nothing in time.
    fn expect_no_answers(&mut self, proc: Proc) {
        let at = self.agenda.now() + self.knobs.answer_within;
        for pending in &self.consensus.tail {
            for (_, caller) in &pending.callers {
                if let Caller::Leader(id, _) = caller {
                    self.agenda.at(at, Event::NoAnswer(proc, *id));
                }
            }
        }
    }

    /// A leader that is none any more hears of it when the new one reaches it.
    fn depose_the_others(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(term) = self.nodes[node].lead.as_ref().map(|lead| lead.term) else { continue };
            if term < self.consensus.term && self.hears_leader(node) {
                let at = self.agenda.now() + self.delay();
                self.agenda.at(at, Event::StepDown(self.proc(node), term));
            }
        }
    }

    pub(super) fn step_down(&mut self, proc: Proc, term: u64) {
        let leads = self.nodes[proc.node].lead.as_ref().is_some_and(|lead| lead.term == term);
        if self.lives(proc) && leads && term < self.consensus.term {
            self.end_lead(proc.node);
        }
    }

    /// A leader that had no quorum for L/3, or did not come round for so long, exits (PROTOCOL 2.3).
    pub(super) fn watchdog(&mut self, proc: Proc, term: u64, since: Instant) {
        let lead = self.nodes[proc.node].lead.as_ref();
        let is_still = lead.is_some_and(|lead| {
            lead.term == term && lead.unhealthy_since == since && lead.healthy_since.is_none()
        });
        if self.lives(proc) && is_still {
            let down = self.knobs.latency + self.draw(self.knobs.lease.length.0 * MS / 10);
            self.kill_server(proc.node, down);
        }
    }

    pub(super) fn ask_for_election(&mut self) {
        let now = self.agenda.now();
        if self.consensus.election_at.is_some_and(|at| at > now) {
            return;
        }
        let at = now + self.knobs.election / 2 + self.draw(self.knobs.election);
        self.consensus.election_at = Some(at);
        self.agenda.at(at, Event::Elect);
    }

    /// Elects one that reaches a majority, if the leader does not.
    pub(super) fn hold_election(&mut self) {
        self.consensus.election_at = None;
        let leader = self.consensus.leader;
        if leader.is_some_and(|proc| self.lives(proc) && self.is_healthy(proc.node)) {
            return;
        }
        let electable: Vec<usize> = (0..self.nodes.len()).filter(|node| self.has_quorum(*node)).collect();
        if let Some(place) = (!electable.is_empty()).then(|| self.draw(electable.len() as u64)) {
            self.elect(electable[place as usize]);
        }
    }

    /// A node wins an election.
    pub(super) fn elect(&mut self, node: usize) {
        let now = self.agenda.now();
        // What the last leader could not commit: the new one has a first part of it, the rest is cut off.
        let kept = self.random.random_range(0..=self.consensus.tail.len());
        let tail: Vec<Pending> = self.consensus.tail.drain(..).collect();
        self.end_lead(node);
        for pending in tail.into_iter().take(kept) {
            let callers = pending.callers.into_iter().map(|(count, _)| (count, Caller::Nobody)).collect();
            self.commit_one(Pending { callers, ..pending });
        }
        self.consensus.term += 1;
        let (term, proc) = (self.consensus.term, self.proc(node));
        self.consensus.leader = Some(proc);
        self.catch_up(node);
        self.nodes[node].lead =
            Some(Lead { term, reign: None, healthy_since: None, unhealthy_since: now, anchor: None });
        self.topology();
        let at = now + self.delay() + self.delay();
        self.agenda.at(at, Event::GetReady(proc, term));
        for other in 0..self.nodes.len() {
            if self.hears_leader(other) {
                let at = now + self.delay();
                self.agenda.at(at, Event::Moved(self.proc(other)));
            }
        }
    }

    /// Proposes the `LeaderReady` of a leadership, as soon as a majority's clocks are known (PROTOCOL 1.2, 2.1).
    pub(super) fn get_ready(&mut self, proc: Proc, term: u64) {
        let node = proc.node;
        let is_wanted =
            self.nodes[node].lead.as_ref().is_some_and(|lead| lead.term == term && lead.reign.is_none());
        if !self.lives(proc) || !is_wanted {
            return;
        }
        self.nodes[node].observed_at = None;
        self.observe(node);
        let boot = self.boot(node);
        let leading = &mut self.nodes[node];
        let readings = leading.clock.lead(boot).then(|| leading.clock.now_with_readings(boot)).flatten();
        let Some((_, readings)) = readings else {
            self.agenda.at(self.agenda.now() + 200 * MS, Event::GetReady(proc, term));
            return;
        };
        leading.carried = leading.carried.max(readings.majority);
        let nonce = self.next_id();
        let mut commands = vec![Command::LeaderReady { node: self.nodes[node].id, nonce, readings }];
        if self.consensus.state.cluster.id.is_none() {
            let settings = Settings { lease: self.knobs.lease, ..Settings::default() };
            commands.insert(0, Command::Init { cluster: 1, settings });
        }
        let proposals = commands
            .into_iter()
            .map(|command| Proposal { request: None, leadership: None, command })
            .collect();
        self.nodes[node].queue.push_front(Waiting { proposals, caller: Caller::Ready });
        self.write(node);
    }

    /// A proposal of this process's leader, now or after it was delayed inside the node.
    pub(super) fn propose(&mut self, node: usize, waiting: Waiting) {
        if !self.is_calm
            && self.knobs.late_proposal_ppm > 0
            && self.random.random_range(0..1_000_000) < self.knobs.late_proposal_ppm
        {
            let at = self.agenda.now() + self.draw(self.knobs.lease.length.0 * MS);
            self.agenda.at(at, Event::Enqueue(self.proc(node), waiting));
            return;
        }
        self.nodes[node].queue.push_back(waiting);
        self.write(node);
    }

    pub(super) fn enqueue_late(&mut self, proc: Proc, waiting: Waiting) {
        let is_ready = self.nodes[proc.node].lead.as_ref().is_some_and(|lead| lead.reign.is_some());
        if self.lives(proc) && is_ready {
            self.nodes[proc.node].queue.push_back(waiting);
            self.write(proc.node);
        }
    }

    pub(super) fn written(&mut self, proc: Proc) {
        if self.lives(proc) {
            self.nodes[proc.node].is_writing = false;
            self.write(proc.node);
        }
    }

    /// Puts together all that waits, as one entry.
    fn write(&mut self, node: usize) {
        let proc = self.proc(node);
        let Some(lead) = &self.nodes[node].lead else {
            self.nodes[node].queue.clear();
            return;
        };
        let (term, is_ready) = (lead.term, lead.reign.is_some());
        if self.nodes[node].is_writing || self.nodes[node].queue.is_empty() {
            return;
        }
        let mut gathered = Vec::new();
        while let Some(waiting) = self.nodes[node].queue.pop_front() {
            let founds = matches!(waiting.caller, Caller::Ready);
            if founds || is_ready {
                gathered.push(waiting);
            }
            if founds {
                break;
            }
        }
        if gathered.is_empty() {
            return;
        }
        let (mut proposals, mut callers) = (Vec::new(), Vec::new());
        for waiting in gathered {
            callers.push((waiting.proposals.len(), waiting.caller));
            proposals.extend(waiting.proposals);
        }
        let entry = Entry { level: LEVEL, at: self.leader_time(node), proposals };
        let now = self.agenda.now();
        self.nodes[node].is_writing = true;
        let on_disk = now + self.knobs.latency / 2 + self.draw(2 * MS);
        self.agenda.at(on_disk, Event::Written(proc));
        let due = on_disk + self.delay() + self.delay();
        if self.consensus.leader == Some(proc) && self.consensus.term == term {
            let due = self.consensus.tail.back().map_or(due, |last| last.due.max(due));
            self.consensus.tail.push_back(Pending { entry, callers, due });
            self.agenda.at(due, Event::Commit(term));
            if self.is_healthy(node) {
                return;
            }
            self.expect_no_answers(proc);
        } else {
            // It goes into a log that another leader will cut off.
            for (_, caller) in callers {
                if let Caller::Leader(id, _) = caller {
                    self.agenda.at(now + self.knobs.answer_within, Event::NoAnswer(proc, id));
                }
            }
        }
    }

    /// Commits what is on a majority.
    pub(super) fn commit(&mut self, term: u64) {
        while self.consensus.term == term {
            let now = self.agenda.now();
            let healthy =
                self.consensus.leader.is_some_and(|proc| self.lives(proc) && self.is_healthy(proc.node));
            let is_due = self.consensus.tail.front().is_some_and(|pending| pending.due <= now);
            if !healthy || !is_due || self.broken.is_some() {
                return;
            }
            if let Some(pending) = self.consensus.tail.pop_front() {
                self.commit_one(pending);
            }
        }
    }

    fn commit_one(&mut self, pending: Pending) {
        let Pending { entry, callers, .. } = pending;
        let before = self.state();
        let mut state = State::clone(&before);
        let index = LogIndex(before.index.0 + 1);
        let outcome = apply(&mut state, index, entry.clone());
        self.counts.entries += 1;
        let faults = state.check();
        if let Some(fault) = faults.first() {
            self.breaks(format!("{fault}, after {}", told(&entry)));
        }
        if state.now < before.now {
            self.breaks("I13: the time of the cluster fell");
        }
        let after = Arc::new(state);
        self.consensus.state = Arc::clone(&after);
        self.check_time(&after);
        self.note_entry((&before, &after), &entry, &outcome);
        self.compare(entry);
        for node in 0..self.nodes.len() {
            if self.hears_leader(node) {
                self.catch_up(node);
            }
        }
        self.deliver(&after, outcome, callers);
    }

    /// The second replica follows in fits and starts, and sometimes begins again from a snapshot (I11).
    fn compare(&mut self, entry: Entry) {
        self.consensus.backlog.push(entry);
        let is_time = self.random.random_range(0..1_000) < self.knobs.compare_permille;
        if is_time || self.consensus.backlog.len() >= 1_000 {
            self.compare_now();
        }
    }

    pub(super) fn compare_now(&mut self) {
        for entry in std::mem::take(&mut self.consensus.backlog) {
            let index = LogIndex(self.consensus.replica.index.0 + 1);
            apply(&mut self.consensus.replica, index, entry);
        }
        let bytes = self.consensus.replica.encode();
        self.counts.hashes += 1;
        if bytes != self.consensus.state.encode() {
            self.breaks("I11: two replicas that applied the same entries differ");
        }
        if self.random.random_range(0..4) == 0 {
            match State::decode(&bytes) {
                Some(state) => self.consensus.replica = state,
                None => self.breaks("I11: a snapshot does not read back"),
            }
        }
    }

    /// A node applies all that is committed.
    pub(super) fn catch_up(&mut self, node: usize) {
        let state = self.state();
        let boot = self.boot(node);
        let follower = &mut self.nodes[node];
        if follower.applied < state.index.0 {
            follower.applied = state.index.0;
            follower.clock.applied(state.now, state.cluster.time_accepted, boot, AppliedFrom::Live);
        }
    }

    /// Takes new readings of the wall clocks that a node reaches, once a second.
    pub(super) fn observe(&mut self, node: usize) {
        let now = self.agenda.now();
        if self.nodes[node].observed_at.is_some_and(|at| now < at + STATUS_EVERY) {
            return;
        }
        self.nodes[node].observed_at = Some(now);
        for other in 0..self.nodes.len() {
            let reaches = other == node
                || (self.is_awake(other) && self.is_open(node, other) && self.is_open(other, node));
            if reaches {
                let (wall, id) = (self.nodes[other].clocks.wall(now), self.nodes[other].id);
                let boot = self.boot(node);
                self.nodes[node].clock.heard(id, wall, boot);
                self.nodes[node].heard_at[other] = now;
            }
        }
    }

    /// Leader time as a node reckons it.
    pub(super) fn leader_time(&mut self, node: usize) -> Timestamp {
        self.observe(node);
        let boot = self.boot(node);
        let carried = self.nodes[node].carried;
        self.nodes[node].clock.now_carrying(boot, carried)
    }

    /// The instant before the last successful quorum round began, on the node's boot-time clock (PROTOCOL 5.3).
    pub(super) fn anchor(&mut self, node: usize) -> Option<matins_core::time::BootTime> {
        let lag = self.knobs.latency * 2 + self.draw(ROUND_EVERY);
        let now = self.agenda.now();
        let clocks = &self.nodes[node].clocks;
        let began = now.checked_sub(lag);
        let boot = began.map(|began| clocks.boot(began));
        let lead = self.nodes[node].lead.as_mut()?;
        if let (Some(since), Some(began)) = (lead.healthy_since, began)
            && began >= since
        {
            lead.anchor = lead.anchor.max(boot);
        }
        lead.anchor
    }

    fn deliver(&mut self, state: &Arc<State>, outcome: Outcome, callers: Vec<(usize, Caller)>) {
        let mut answers = outcome.answers.into_iter();
        let mut heard = Vec::new();
        for (count, caller) in callers {
            let mine: Vec<_> = answers.by_ref().take(count).collect();
            if let Some(last) = mine.into_iter().next_back() {
                heard.push((caller, last));
            }
        }
        self.leader_hears(state, &outcome.effects, heard);
    }
}

/// An entry in a few words, for a person.
pub(super) fn told(entry: &Entry) -> String {
    let commands: Vec<String> =
        entry.proposals.iter().map(|proposal| format!("{:?}", proposal.command)).collect();
    commands.join("; ").chars().take(600).collect()
}
