//! The world of sessions: leaders, executors, supervisors, and everything that is under way between them.
//!
//! Leaders, executors and supervisors are the machines of production, and entries go through `apply`. What happens next
//! is one [`Step`]; faults are steps that a [`Budget`] counts. Streams are in order and may break at any time; entries
//! are applied in any order. Start reading at [`Cluster::take`].

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use matins_core::command::{Command, Entry, Proposal, Readings, StopHow};
use matins_core::executor::SupervisorId;
use matins_core::id::{Fence, LogIndex, NodeId, RunId};
use matins_core::time::{BootTime, Millis, Timestamp};
use matins_core::{Outcome, Refusal, State, apply};
use matins_node::lead::leader::Event;
use matins_node::lead::queue::{ConnId, Key};

use super::fingerprint::{self, EPOCH, Fingerprint};
use super::host::{Host, LocalLink, Said};
use super::search::World;
use super::shapes::{Budget, Cordons, Shape};

mod checks;
mod founding;
mod leads;
mod steps;
mod streams;
mod telling;

use leads::{Lead, Pending};
use streams::Stream;

/// Leader time of all these worlds: nothing in them waits for it.
const AT: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A leader whose proposal is not applied for L/3 gives up (PROTOCOL 2.3), which is less than two steps of time.
const AGE_MAX: u8 = 1;

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Time goes on by one step of the shape.
    Time,
    /// A node is elected and its `LeaderReady` is applied.
    Elect(usize),
    /// A leader's process ends, and its streams with it.
    LeaderDies(usize),
    /// An executor opens a stream to a leader, or to who still thinks that it is one.
    Connect(usize, usize),
    /// The leader takes the next message of a stream, or hears that it has ended.
    Up(u8),
    /// The executor takes the next message of a stream, or hears that it has ended.
    Down(u8),
    /// The executor takes the second message of a stream before the first.
    DownLate(u8),
    /// The executor takes the next message of a stream, which will come once more.
    DownTwice(u8),
    /// A stream breaks; what the executor said may still arrive.
    Cut(u8),
    /// A proposal is applied.
    Enter(usize),
    /// A proposal gets no answer; it may still be applied.
    Unanswered(usize),
    /// A supervisor takes the next message of its executor.
    ToSupervisor(usize, SupervisorId),
    /// An executor takes the next message of a supervisor.
    FromSupervisor(usize),
    /// The files of a start are ready.
    Prepared(usize, Fence),
    /// A first process exits; `true`: a child of it lives on.
    Exit(usize, Fence, bool),
    /// What a first process left behind exits.
    RestExits(usize, Fence),
    /// The executor's process dies.
    Crash(usize),
    /// It is started again.
    StartExecutor(usize),
    /// The machine goes down and comes back.
    Reboot(usize),
    /// The data directory is wiped under a dead executor; `true`: the socket of the supervisor is still found.
    Wipe(usize, bool),
    /// The socket of the supervisor is removed under a dead executor.
    LoseSupervisor(usize),
    /// Somebody cancels the run.
    Cancel,
}

/// The agreed state, and its fingerprint.
#[derive(Debug)]
struct Agreed {
    state: Arc<State>,
    key: u64,
}

/// A small cluster and all that is under way in it.
#[derive(Clone)]
pub(crate) struct Cluster {
    shape: Arc<Shape>,
    elapsed: Millis,
    agreed: Arc<Agreed>,
    /// Leaderships by node: those that think that they lead.
    leads: [Option<Arc<Lead>>; 2],
    /// The node that leads.
    leading: Option<usize>,
    pending: Vec<Pending>,
    hosts: Vec<Arc<Host>>,
    streams: Vec<Arc<Stream>>,
    streams_made: u8,
    left: Budget,
    /// No fault comes any more, and time is not bounded.
    is_fair: bool,
}

impl Cluster {
    fn host_clock(&self) -> BootTime {
        self.shape.clock(self.elapsed, self.shape.host_ppm)
    }

    fn lead_clock(&self) -> BootTime {
        self.shape.clock(self.elapsed, self.shape.lead_ppm)
    }

    fn state(&self) -> &State {
        &self.agreed.state
    }

    /// Applies one entry, checks what must hold after it, and tells the leader of it.
    fn enter(&mut self, proposal: Proposal) -> Result<Outcome, String> {
        let before = self.agreed.clone();
        let mut state = (*before.state).clone();
        let index = LogIndex(state.index.0 + 1);
        let outcome = apply(&mut state, index, Entry { level: 1, at: AT, proposals: vec![proposal] });
        checks::after_entry(&before.state, &state, &outcome.effects)?;
        let key = fingerprint::of_state(&state);
        self.agreed = Arc::new(Agreed { state: Arc::new(state), key });
        if let Some(node) = self.leading {
            let (state, now) = (self.agreed.state.clone(), self.lead_now());
            if let Some(lead) = &mut self.leads[node] {
                let lead = Arc::make_mut(lead);
                lead.leader.applied(state, &outcome.effects, now);
                lead.seen = key;
            }
        }
        Ok(outcome)
    }

    fn client(&mut self, command: Command) -> Result<Outcome, String> {
        let outcome = self.enter(Proposal { request: None, leadership: None, command })?;
        self.leading.map_or(Ok(()), |node| self.run_lead(node))?;
        Ok(outcome)
    }

    fn pass_time(&mut self) -> Result<(), String> {
        self.elapsed += self.shape.step;
        for pending in &mut self.pending {
            pending.age = pending.age.saturating_add(1).min(AGE_MAX);
        }
        self.sort_pending();
        let now = self.host_clock();
        for host in 0..self.hosts.len() {
            let said = Arc::make_mut(&mut self.hosts[host]).pass_time(now);
            self.said(host, said);
        }
        (0..self.leads.len()).try_for_each(|node| self.run_lead(node))
    }

    /// A machine takes part in a step, and what it says goes on its way.
    fn on_host(&mut self, host: usize, act: impl FnOnce(&mut Host, BootTime) -> Said) {
        let now = self.host_clock();
        let said = act(Arc::make_mut(&mut self.hosts[host]), now);
        self.said(host, said);
    }

    fn apply_pending(&mut self, place: usize) -> Result<(), String> {
        let pending = self.pending.remove(place);
        let Pending { node, leadership, key, command, wants_answer, .. } = pending;
        let proposal = Proposal { request: None, leadership: Some(leadership), command: (*command).clone() };
        let outcome = self.enter(proposal)?;
        let answer: Option<Result<_, Refusal>> = outcome.answers.into_iter().next();
        if wants_answer {
            self.answer(node, leadership, Event::Answered(key, answer));
        }
        if let Some(leading) = self.leading.filter(|leading| *leading != node) {
            self.run_lead(leading)?;
        }
        self.run_lead(node)
    }

    /// Where they are not what the world is about, cordons are applied as soon as they are proposed.
    fn settle_cordons(&mut self) -> Result<(), String> {
        let is_cordon = |pending: &Pending| {
            matches!(pending.key, Key::Cordon(_))
                && Some(pending.node) == self.leading
                && pending.wants_answer
        };
        if self.shape.cordons != Cordons::AtOnce {
            return Ok(());
        }
        match self.pending.iter().position(is_cordon) {
            Some(place) => {
                self.apply_pending(place)?;
                self.settle_cordons()
            }
            None => Ok(()),
        }
    }

    fn unanswered(&mut self, place: usize) -> Result<(), String> {
        let pending = &mut self.pending[place];
        pending.wants_answer = false;
        let (node, leadership, key) = (pending.node, pending.leadership, pending.key.clone());
        self.sort_pending();
        self.answer(node, leadership, Event::Answered(key, None));
        self.run_lead(node)
    }

    fn elect(&mut self, node: usize) -> Result<(), String> {
        self.lead_dies(node);
        // Whoever led before has no quorum from here on; it may not know yet.
        self.leading = None;
        let readings = Readings { majority: AT, by_node: Vec::new() };
        let nonce = self.state().index.0;
        let ready = Command::LeaderReady { node: NodeId(node as u64 + 1), nonce, readings };
        self.enter(Proposal { request: None, leadership: None, command: ready })?;
        let lead = Lead::new(&self.agreed.state, self.agreed.key, self.lead_clock());
        self.leads[node] = Some(Arc::new(lead));
        self.leading = Some(node);
        self.run_lead(node)
    }

    fn lead_dies(&mut self, node: usize) {
        self.leads[node] = None;
        if self.leading == Some(node) {
            self.leading = None;
        }
        for stream in self.streams.iter_mut().filter(|stream| stream.node == node && stream.leader_end) {
            let stream = Arc::make_mut(stream);
            stream.leader_end = false;
            stream.up.clear();
        }
        self.drop_dead_streams();
    }

    fn connect(&mut self, host: usize, node: usize) {
        self.streams_made += 1;
        self.streams.push(Arc::new(Stream::new(self.streams_made, host, node)));
        self.on_host(host, Host::stream_opened);
    }

    fn crash(&mut self, host: usize) {
        Arc::make_mut(&mut self.hosts[host]).crash_executor();
        self.executor_lets_go(host);
    }

    fn cancel(&mut self) -> Result<(), String> {
        self.client(Command::Cancel { run: RunId(1), how: StopHow::Grace }).map(drop)
    }
}

impl World for Cluster {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        self.all_steps()
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        self.pay(step);
        match step {
            Step::Time => self.pass_time()?,
            Step::Elect(node) => self.elect(node)?,
            Step::LeaderDies(node) => self.lead_dies(node),
            Step::Connect(host, node) => self.connect(host, node),
            Step::Up(id) => self.up(id)?,
            Step::Down(id) => self.down(id, streams::Take::First),
            Step::DownLate(id) => self.down(id, streams::Take::Second),
            Step::DownTwice(id) => self.down(id, streams::Take::Copy),
            Step::Cut(id) => self.cut(id),
            Step::Enter(place) => self.apply_pending(place)?,
            Step::Unanswered(place) => self.unanswered(place)?,
            Step::ToSupervisor(host, id) => self.on_host(host, |host, now| host.supervisor_hears(now, id)),
            Step::FromSupervisor(host) => self.on_host(host, Host::executor_hears),
            Step::Prepared(host, fence) => self.on_host(host, |host, now| host.prepared(now, fence)),
            Step::Exit(host, fence, leaves) => self.on_host(host, |host, now| host.exit(now, fence, leaves)),
            Step::RestExits(host, fence) => self.on_host(host, |host, now| host.rest_exits(now, fence)),
            Step::Crash(host) => self.crash(host),
            Step::StartExecutor(host) => Arc::make_mut(&mut self.hosts[host]).start_executor(),
            Step::Reboot(host) => {
                Arc::make_mut(&mut self.hosts[host]).reboot();
                self.executor_lets_go(host);
            }
            Step::Wipe(host, finds) => Arc::make_mut(&mut self.hosts[host]).wipe(finds),
            Step::LoseSupervisor(host) => Arc::make_mut(&mut self.hosts[host]).lose_supervisors(),
            Step::Cancel => self.cancel()?,
        }
        self.settle_cordons()?;
        self.check_processes()
    }

    fn key(&self) -> u64 {
        let (host_clock, lead_clock) = (self.host_clock(), self.lead_clock());
        let mut hasher = Fingerprint::at(host_clock);
        hasher.write_u64(self.agreed.key);
        self.left.hash(&mut hasher);
        (self.leading, self.is_fair).hash(&mut hasher);
        for host in &self.hosts {
            host.hash(&mut hasher);
        }
        for stream in &self.streams {
            stream.hash(&mut hasher);
        }
        for lead in &self.leads {
            hasher.write_u64(lead.as_ref().map_or(0, |lead| fingerprint::of(lead, lead_clock)));
        }
        let newest = self.state().cluster.leader.as_ref().map(|leader| leader.leadership);
        for pending in &self.pending {
            (pending.node, pending.print, pending.wants_answer, pending.age).hash(&mut hasher);
            (Some(pending.leadership) == newest).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn tell(&self, step: Step) -> String {
        self.told(step)
    }

    fn fair_step(&self) -> Option<Step> {
        self.next_fair_step()
    }

    fn without_faults(&self) -> Self {
        Self { left: Budget::NONE, is_fair: true, ..self.clone() }
    }
}

/// So that a clock that runs at another rate can be read at any elapsed time.
impl Shape {
    fn clock(&self, elapsed: Millis, ppm: i64) -> BootTime {
        let nanos = i128::from(elapsed.0) * i128::from(1_000_000 + ppm);
        BootTime(EPOCH + nanos as u64)
    }
}

/// The number of a stream, as the leader knows it.
const fn conn(id: u8) -> ConnId {
    ConnId(id as u64)
}

/// How a shape wants its local sockets.
const fn is_slow(link: LocalLink) -> bool {
    matches!(link, LocalLink::Slow)
}
