//! The whole cluster of one seed, and the loop that takes it from event to event.
//!
//! Each part has a file: `consensus` orders commands, `leading` drives the real leader, `hosts` the real executors and
//! supervisors, `network` what lies between them, `clients` what people ask for, `outside` and `ledger` what must hold.
//! Start reading at [`World::run`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use matins_core::State;
use matins_core::clock::LeaderClock;
use matins_core::command::Entry;
use matins_core::executor;
use matins_core::id::{Digest, ExecutorId, Fence, NodeId, RequestId, SessionNumber, TaskId};
use matins_core::supervisor;
use matins_core::time::{BootTime, Timestamp};
use matins_node::lead::queue::ConnId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::agenda::{Agenda, Instant, MS, SEC};
use super::ceiling::Ceiling;
use super::clients::Clients;
use super::clocks::Clocks;
use super::consensus::{Consensus, Waiting};
use super::counts::Counts;
use super::happening::{Happening, What};
use super::hosts::{Driver, Host};
use super::knobs::Knobs;
use super::leading::{Past, Reign};
use super::ledger::Ledger;
use super::network::{Body, Conn, Direction};
use super::outside::Processes;
use super::stories::Story;
use super::supervisors::Supervisor;

/// One process of a server: a node, and how often it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Proc {
    pub(super) node: usize,
    pub(super) life: u32,
}

/// What comes at its time.
pub(super) enum Event {
    Happen(usize),
    /// The end of a fault.
    Over(Over),
    // Consensus.
    Enqueue(Proc, Waiting),
    Written(Proc),
    Commit(u64),
    Elect,
    GetReady(Proc, u64),
    StepDown(Proc, u64),
    Watchdog(Proc, u64, Instant),
    // Leading.
    NoAnswer(Proc, u64),
    LeaderWake(Proc, Instant),
    // The link between executors and the leader.
    Connect(Proc),
    Moved(Proc),
    Arrives(ConnId, Direction, Body),
    Breaks(ConnId),
    // Executors and supervisors.
    ExecutorWake(Proc, Instant),
    Incarnate(Proc),
    ToSupervisor(usize, supervisor::Event),
    Announced(Proc, u32, usize, SessionNumber),
    FromSupervisor(Proc, u32, FromSupervisor),
    SupervisorWake(usize, Instant),
    Prepared(Proc, u32, SessionNumber, Fence),
    Collected(Proc, u32, Fence),
    FirstExits(Fence, supervisor::Exit),
    GroupGoes(Fence),
    // Clients.
    Try(usize),
    ArrivesAt(Proc, usize),
    Hears(usize),
    Packs,
}

/// What a supervisor says to the executor.
pub(super) enum FromSupervisor {
    Outnumbered(SessionNumber),
    Listed(usize, SessionNumber, Vec<(Fence, supervisor::Held)>),
    Answered(Fence, executor::SpawnAnswer),
    Ended(Fence, supervisor::Exit),
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    Down(usize),
    Asleep(usize),
    Cut(usize, usize),
    Stall(usize, usize, u64),
    Wall(usize, i64),
}

/// Whose event it is: a sleeper takes it when it wakes.
#[derive(Clone, Copy)]
enum Owner {
    Nobody,
    Server(usize),
    Machine(usize),
}

/// One machine with its server process.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) clocks: Clocks,
    pub(super) life: u32,
    pub(super) is_up: bool,
    pub(super) frozen_until: Instant,
    pub(super) suspended_until: Instant,
    pub(super) clock: LeaderClock,
    pub(super) carried: Timestamp,
    pub(super) observed_at: Option<Instant>,
    /// When it heard each node's wall clock last.
    pub(super) heard_at: Vec<Instant>,
    /// How many entries were applied here, and whether what comes is live.
    pub(super) applied: u64,
    pub(super) lead: Option<Lead>,
    pub(super) queue: VecDeque<Waiting>,
    pub(super) is_writing: bool,
    pub(super) host: Host,
    pub(super) driver: Option<Driver>,
    /// What came while it slept.
    pub(super) asleep: Vec<Event>,
}

/// That a node believes to lead.
pub(super) struct Lead {
    pub(super) term: u64,
    pub(super) reign: Option<Reign>,
    /// Since when quorum rounds succeed; `None`: they do not.
    pub(super) healthy_since: Option<Instant>,
    pub(super) unhealthy_since: Instant,
    pub(super) anchor: Option<BootTime>,
}

impl Node {
    pub(super) const fn awake_at(&self) -> Instant {
        if self.frozen_until > self.suspended_until { self.frozen_until } else { self.suspended_until }
    }
}

/// Everything of one seed.
pub(super) struct World {
    pub(super) knobs: Knobs,
    pub(super) random: StdRng,
    pub(super) agenda: Agenda<Event>,
    pub(super) nodes: Vec<Node>,
    /// How many faults cut each link, from and to.
    pub(super) cuts: BTreeMap<(usize, usize), u32>,
    pub(super) stalls: BTreeMap<(usize, usize), Instant>,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    pub(super) conns_made: u64,
    pub(super) consensus: Consensus,
    pub(super) supervisors: Vec<Supervisor>,
    pub(super) processes: Processes,
    pub(super) clients: Clients,
    pub(super) ledger: Ledger,
    pub(super) past: Past,
    pub(super) stories: BTreeMap<Digest, Story>,
    pub(super) granted: BTreeMap<Fence, TaskId>,
    pub(super) answers: BTreeMap<RequestId, String>,
    pub(super) happenings: Vec<Happening>,
    pub(super) counts: Counts,
    pub(super) ids: u64,
    pub(super) is_calm: bool,
    /// Nodes that are well for good in the second phase.
    pub(super) healed: Vec<usize>,
    pub(super) ceiling: Ceiling,
    /// The first broken promise.
    pub(super) broken: Option<String>,
}

/// A whole seed may not take more events than this: a loop without end is a fault, not a long wait.
const EVENTS_MAX: u64 = 30_000_000;

impl World {
    /// A cluster that is about to be founded.
    pub(super) fn new(seed: u64, knobs: Knobs, happenings: Vec<Happening>) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x6d61_7469_6e73);
        let nodes: Vec<Node> = (0..knobs.nodes).map(|number| node(number, &knobs, &mut random)).collect();
        Self {
            consensus: Consensus::default(),
            nodes,
            random,
            agenda: Agenda::default(),
            cuts: BTreeMap::new(),
            stalls: BTreeMap::new(),
            conns: BTreeMap::new(),
            conns_made: 0,
            supervisors: Vec::new(),
            processes: Processes::default(),
            clients: Clients::default(),
            ledger: Ledger::default(),
            past: Past::default(),
            stories: BTreeMap::new(),
            granted: BTreeMap::new(),
            answers: BTreeMap::new(),
            happenings,
            counts: Counts::default(),
            ids: 0,
            is_calm: false,
            healed: Vec::new(),
            ceiling: Ceiling::new(knobs.starts_at),
            broken: None,
            knobs,
        }
    }

    /// Both phases. An error is a broken promise.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for number in 0..self.nodes.len() {
            self.start_server(number);
        }
        self.agenda.at(SEC, Event::Elect);
        self.prepare_founding();
        for number in 0..self.happenings.len() {
            self.agenda.at(self.happenings[number].at, Event::Happen(number));
        }
        self.agenda.at(60 * SEC, Event::Packs);
        self.go_on_until(self.knobs.faulty)?;
        self.heal_for_good();
        self.await_ends()?;
        self.close_the_books()
    }

    /// Takes events until an instant.
    pub(super) fn go_on_until(&mut self, until: Instant) -> Result<(), String> {
        while let Some(event) = self.agenda.next_before(until) {
            self.take(event);
            if let Some(broken) = self.broken.take() {
                let at = self.agenda.now() / MS;
                return Err(format!("{broken} (at {}.{:03} s)", at / 1_000, at % 1_000));
            }
            if self.agenda.asked() > EVENTS_MAX {
                return Err("I15: the cluster is busy for ever with nothing".into());
            }
        }
        self.agenda.skip_to(until);
        Ok(())
    }

    /// The first thing that goes wrong is what a seed reports.
    pub(super) fn breaks(&mut self, what: impl Into<String>) {
        if self.broken.is_none() {
            self.broken = Some(what.into());
        }
    }

    fn take(&mut self, event: Event) {
        let now = self.agenda.now();
        let awake_at = match owner(&event, self) {
            Owner::Nobody => 0,
            Owner::Server(node) => self.nodes[node].awake_at(),
            Owner::Machine(node) => self.nodes[node].suspended_until,
        };
        if awake_at > now {
            // Whoever sleeps takes it afterwards, in the same order.
            if let Owner::Server(node) | Owner::Machine(node) = owner(&event, self) {
                self.nodes[node].asleep.push(event);
            }
            return;
        }
        self.dispatch(event);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Happen(number) => self.happen(number),
            Event::Over(over) => self.over(over),
            Event::Enqueue(proc, waiting) => self.enqueue_late(proc, waiting),
            Event::Written(proc) => self.written(proc),
            Event::Commit(term) => self.commit(term),
            Event::Elect => self.hold_election(),
            Event::GetReady(proc, term) => self.get_ready(proc, term),
            Event::StepDown(proc, term) => self.step_down(proc, term),
            Event::Watchdog(proc, term, since) => self.watchdog(proc, term, since),
            Event::NoAnswer(proc, id) => self.no_answer(proc, id),
            Event::LeaderWake(proc, at) => self.leader_wakes(proc, at),
            Event::Connect(proc) => self.connect(proc),
            Event::Moved(proc) => self.moved(proc),
            Event::Arrives(conn, direction, body) => self.arrives(conn, direction, body),
            Event::Breaks(conn) => self.breaks_off(conn),
            Event::ExecutorWake(proc, at) => self.executor_wakes(proc, at),
            Event::Incarnate(proc) => self.incarnate(proc),
            Event::ToSupervisor(number, event) => self.supervisor_hears(number, event),
            Event::Announced(proc, incarnation, number, session) => {
                self.announced(proc, incarnation, number, session);
            }
            Event::FromSupervisor(proc, incarnation, said) => self.executor_hears(proc, incarnation, said),
            Event::SupervisorWake(number, at) => self.supervisor_wakes(number, at),
            Event::Prepared(proc, incarnation, session, fence) => {
                self.prepared(proc, incarnation, session, fence);
            }
            Event::Collected(proc, incarnation, fence) => self.collected(proc, incarnation, fence),
            Event::FirstExits(fence, exit) => self.first_exits(fence, exit),
            Event::GroupGoes(fence) => self.group_goes(fence),
            Event::Try(number) => self.client_tries(number),
            Event::ArrivesAt(proc, number) => self.client_arrives(proc, number),
            Event::Hears(number) => self.client_hears(number),
            Event::Packs => self.packs(),
        }
    }

    /// Whether this very process runs.
    pub(super) fn lives(&self, proc: Proc) -> bool {
        let node = &self.nodes[proc.node];
        node.is_up && node.life == proc.life
    }

    /// The process that runs on a node, or ran last.
    pub(super) fn proc(&self, node: usize) -> Proc {
        Proc { node, life: self.nodes[node].life }
    }

    pub(super) fn is_awake(&self, node: usize) -> bool {
        self.nodes[node].is_up && self.nodes[node].awake_at() <= self.agenda.now()
    }

    pub(super) fn boot(&self, node: usize) -> BootTime {
        self.nodes[node].clocks.boot(self.agenda.now())
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.consensus.state)
    }

    pub(super) fn node_of(&self, executor: ExecutorId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == executor)
    }

    pub(super) fn draw(&mut self, most: u64) -> u64 {
        self.random.random_range(0..most.max(1))
    }

    pub(super) fn happens(&mut self, percent: u32) -> bool {
        percent > 0 && self.random.random_range(0..100) < percent
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Whoever slept takes what came meanwhile.
    pub(super) fn wake_up(&mut self, node: usize) {
        let now = self.agenda.now();
        for event in std::mem::take(&mut self.nodes[node].asleep) {
            self.agenda.at(now, event);
        }
    }

    fn happen(&mut self, number: usize) {
        let what = self.happenings[number].what.clone();
        if let What::Wish(wish) = &what { self.wish(wish) } else { self.fault(&what) }
    }
}

fn owner(event: &Event, world: &World) -> Owner {
    let of_process = |fence| world.processes.node_of(fence).map_or(Owner::Nobody, Owner::Machine);
    match event {
        Event::Happen(_)
        | Event::Over(_)
        | Event::Commit(_)
        | Event::Elect
        | Event::Breaks(_)
        | Event::Try(_)
        | Event::Hears(..)
        | Event::Packs => Owner::Nobody,
        Event::Enqueue(proc, _)
        | Event::Written(proc)
        | Event::GetReady(proc, _)
        | Event::StepDown(proc, _)
        | Event::Watchdog(proc, ..)
        | Event::NoAnswer(proc, _)
        | Event::LeaderWake(proc, _)
        | Event::Connect(proc)
        | Event::Moved(proc)
        | Event::ExecutorWake(proc, _)
        | Event::Incarnate(proc)
        | Event::FromSupervisor(proc, ..)
        | Event::Prepared(proc, ..)
        | Event::Collected(proc, ..)
        | Event::ArrivesAt(proc, _) => Owner::Server(proc.node),
        Event::Arrives(conn, direction, _) => {
            world.conns.get(conn).map_or(Owner::Nobody, |conn| Owner::Server(conn.to(*direction).node))
        }
        Event::ToSupervisor(number, _)
        | Event::SupervisorWake(number, _)
        | Event::Announced(_, _, number, _) => Owner::Machine(world.supervisors[*number].node),
        Event::FirstExits(fence, _) | Event::GroupGoes(fence) => of_process(*fence),
    }
}

fn node(number: usize, knobs: &Knobs, random: &mut StdRng) -> Node {
    let rho = i64::from(knobs.lease.rho_ppm);
    let bound = if knobs.keeps_rho { rho } else { 5 * rho };
    let boot_ppm = match random.random_range(0..3) {
        0 => 0,
        // At the bound, where it matters most.
        1 => [-bound, bound][random.random_range(0..2)],
        _ => random.random_range(-bound..=bound),
    };
    let clocks = Clocks {
        booted_at: 0,
        boot_base: random.random_range(0..1_000_000 * SEC),
        boot_ppm,
        wall_base: knobs.starts_at + random.random_range(-2_000..2_000),
        wall_ppm: random.random_range(-200..200),
        wall_step: 0,
    };
    let voters: BTreeSet<NodeId> = (0..knobs.nodes).map(node_id).collect();
    let mut clock = LeaderClock::new();
    clock.set_voters(vec![voters]);
    Node {
        id: node_id(number),
        clocks,
        life: 0,
        is_up: false,
        frozen_until: 0,
        suspended_until: 0,
        clock,
        carried: Timestamp::ZERO,
        observed_at: None,
        heard_at: vec![0; knobs.nodes],
        applied: 0,
        lead: None,
        queue: VecDeque::new(),
        is_writing: false,
        host: Host::new(random.random_range(1..=knobs.slots)),
        driver: None,
        asleep: Vec::new(),
    }
}

/// Nodes are numbered from 1 in the cluster.
pub(super) fn node_id(number: usize) -> NodeId {
    NodeId(number as u64 + 1)
}

/// Entries that the second replica has still to apply.
pub(super) type Backlog = Vec<Entry>;
