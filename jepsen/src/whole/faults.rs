//! Who plays fate: begins faults, ends them, starts processes again, and in the end heals everything.
//!
//! Whatever ends a process is either a fault that was begun here or a broken promise.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use matins_core::time::Timestamp;
use matins_node::store::files::SyncsFail;
use matins_node::system::simulated::Machine;
use rand::Rng as _;
use rand::rngs::StdRng;
use turmoil::Sim;

use super::executor::Journal;
use super::host::name_of;
use super::observer::Observer;
use super::shape::{Kind, Shape};
use super::tasks::{LOOK_EVERY, Supervisor};

/// The exit code of a leader that gives up a lead it cannot use (PROTOCOL 2.3): it has done as it should.
const GAVE_UP: i32 = 75;

const SECOND: i64 = 1_000;
const YEAR: i64 = 365 * 86_400 * SECOND;

/// A node's place.
struct Seat {
    machine: Machine,
    /// When its process is started again; `None`: it runs.
    down_until: Option<Duration>,
    /// Its disk fails or is full, or was in this life of its process: that may end it.
    has_bad_disk: bool,
    /// Its disk failed so that what is in memory and what is on it differ: the machine must be started anew.
    is_disk_broken: bool,
    wall: Timestamp,
}

/// An executor's place.
pub(super) struct Worker {
    pub(super) supervisor: Supervisor,
    pub(super) journal: Rc<RefCell<Journal>>,
    down_until: Option<Duration>,
    is_cut_off: bool,
}

impl Worker {
    /// One that runs.
    pub(super) fn new(supervisor: &Supervisor, journal: &Rc<RefCell<Journal>>) -> Self {
        let (supervisor, journal) = (supervisor.clone(), Rc::clone(journal));
        Self { supervisor, journal, down_until: None, is_cut_off: false }
    }
}

/// The name of an executor on the simulated network.
pub(super) fn executor_name(number: usize) -> String {
    format!("x{}", number + 1)
}

/// What ends a fault.
enum Undo {
    Repair(Vec<(usize, usize)>),
    RepairOneWay(usize, usize),
    Release(usize, usize),
    Network,
    Disk(usize),
    Room(usize),
    Clock(usize),
    Worker(usize),
}

/// The faults of one seed.
pub(super) struct Faults {
    shape: Shape,
    observer: Observer,
    seats: Vec<Seat>,
    workers: Vec<Worker>,
    /// Faults that last, and when they end.
    active: Vec<(Duration, Undo)>,
    /// Pairs whose link is in some fault: one at a time.
    links: BTreeSet<(usize, usize)>,
    next_at: Duration,
    /// When supervisors look at their tasks again.
    look_at: Duration,
    pub(super) counts: BTreeMap<Kind, u64>,
    pub(super) crashes: u64,
    pub(super) gave_up: u64,
}

impl Faults {
    /// None yet.
    pub(super) fn new(
        shape: &Shape,
        observer: &Observer,
        (machines, workers): (&[Machine], Vec<Worker>),
    ) -> Self {
        let seat = |machine: &Machine| Seat {
            machine: machine.clone(),
            down_until: None,
            has_bad_disk: false,
            is_disk_broken: false,
            wall: machine.clocks().wall,
        };
        Self {
            shape: shape.clone(),
            observer: observer.clone(),
            seats: machines.iter().map(seat).collect(),
            workers,
            active: Vec::new(),
            links: BTreeSet::new(),
            next_at: Duration::ZERO,
            look_at: Duration::ZERO,
            counts: BTreeMap::new(),
            crashes: 0,
            gave_up: 0,
        }
    }

    /// Whether every process runs.
    pub(super) fn all_run(&self) -> bool {
        self.seats.iter().all(|seat| seat.down_until.is_none())
            && self.workers.iter().all(|worker| worker.down_until.is_none())
    }

    /// Sees to processes that ended themselves, and to those whose time has come.
    pub(super) fn tend(&mut self, sim: &mut Sim<'_>, random: &mut StdRng) {
        let now = sim.elapsed();
        for node in 0..self.seats.len() {
            let ended = self.seats[node].machine.ended().filter(|_| self.seats[node].down_until.is_none());
            if let Some((code, reason)) = ended {
                self.ended(sim, node, (code, &reason), random);
            }
            if self.seats[node].down_until.is_some_and(|until| until <= now) {
                self.seats[node].down_until = None;
                self.seats[node].has_bad_disk = false;
                sim.bounce(name_of(node));
            }
        }
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if worker.down_until.is_some_and(|until| until <= now) {
                worker.down_until = None;
                sim.bounce(executor_name(number));
            }
        }
        if self.look_at <= now {
            self.look_at = now + LOOK_EVERY;
            self.workers.iter().for_each(|worker| worker.supervisor.look(now));
        }
        let (over, active): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.active).into_iter().partition(|(end, _)| *end <= now);
        self.active = active;
        for (_, undo) in over {
            self.undo(sim, undo);
        }
    }

    /// Begins a fault now and then.
    pub(super) fn play(&mut self, sim: &mut Sim<'_>, random: &mut StdRng) {
        let now = sim.elapsed();
        if now < self.next_at {
            return;
        }
        self.next_at = now + random.random_range(Duration::from_millis(200)..self.shape.fault_gap);
        let kind = self.shape.draw_fault(random);
        if self.begin(kind, sim, random) {
            self.observer.trace_at(now, kind.name());
            *self.counts.entry(kind).or_default() += 1;
        }
    }

    /// Ends all faults and starts all processes.
    pub(super) fn heal(&mut self, sim: &mut Sim<'_>) {
        for (_, undo) in std::mem::take(&mut self.active) {
            self.undo(sim, undo);
        }
        let now = sim.elapsed();
        for seat in &mut self.seats {
            seat.down_until = seat.down_until.map(|_| now);
        }
        for worker in &mut self.workers {
            worker.down_until = worker.down_until.map(|_| now);
        }
    }

    /// A process has ended itself.
    fn ended(&mut self, sim: &mut Sim<'_>, node: usize, (code, reason): (i32, &str), random: &mut StdRng) {
        let now = sim.elapsed();
        self.observer.trace_at(now, &format!("n{node} ended itself: {code}"));
        if code == GAVE_UP {
            self.gave_up += 1;
        } else if !self.seats[node].has_bad_disk {
            self.observer.fail_at(now, format!("n{} ended itself without a fault: {reason}", node + 1));
        }
        let down = Duration::from_millis(random.random_range(500..3_000));
        if self.seats[node].is_disk_broken {
            self.cut_power(sim, node, down, random);
        } else {
            self.kill(sim, node, down);
        }
    }

    fn kill(&mut self, sim: &mut Sim<'_>, node: usize, down: Duration) {
        sim.crash(name_of(node));
        self.seats[node].machine.disk().kill();
        self.is_down(sim.elapsed() + down, node);
    }

    fn cut_power(&mut self, sim: &mut Sim<'_>, node: usize, down: Duration, random: &mut StdRng) {
        sim.crash(name_of(node));
        self.seats[node].machine.disk().crash(random.random());
        self.seats[node].is_disk_broken = false;
        self.is_down(sim.elapsed() + down, node);
    }

    fn is_down(&mut self, until: Duration, node: usize) {
        self.crashes += 1;
        self.seats[node].down_until = Some(until);
        // A crash ends what was injected into its disk.
        self.observer.with(|inner| inner.leading.remove(&node));
    }

    /// Begins a fault of this kind. `false`: it cannot be now.
    fn begin(&mut self, kind: Kind, sim: &mut Sim<'_>, random: &mut StdRng) -> bool {
        let node = random.random_range(0..self.seats.len());
        let leader = self.leader();
        let until = sim.elapsed() + Duration::from_millis(random.random_range(300..20_000));
        let down = Duration::from_millis(random.random_range(200..15_000));
        match kind {
            Kind::Kill => self.if_up(node, |faults| faults.kill(sim, node, down)),
            Kind::PowerCut => self.if_up(node, |faults| faults.cut_power(sim, node, down, random)),
            Kind::PowerCutAll => {
                for node in 0..self.seats.len() {
                    self.if_up(node, |faults| faults.cut_power(sim, node, down, random));
                }
                true
            }
            Kind::KillLeader => {
                leader.is_some_and(|leader| self.if_up(leader, |faults| faults.kill(sim, leader, down)))
            }
            Kind::Isolate => self.isolate(sim, node, until),
            Kind::IsolateLeader => leader.is_some_and(|leader| self.isolate(sim, leader, until)),
            Kind::CutPair | Kind::CutOneWay | Kind::Hold => {
                let other = (node + random.random_range(1..self.seats.len())) % self.seats.len();
                self.disturb(kind, sim, (node, other), until)
            }
            Kind::SlowNetwork => {
                sim.set_max_message_latency(Duration::from_millis(random.random_range(50..400)));
                self.active.push((until, Undo::Network));
                true
            }
            Kind::SlowDisk => {
                let most = Duration::from_millis(random.random_range(50..1_500));
                self.seats[node].machine.set_disk_wait(Duration::ZERO, most);
                self.active.push((until, Undo::Disk(node)));
                true
            }
            Kind::FullDisk | Kind::SyncError | Kind::TornWrite => self.spoil_disk(kind, node, until, random),
            Kind::ClockStep => self.step_clock(node, until, random),
            Kind::ExecutorKill | Kind::ExecutorPowerCut | Kind::ExecutorIsolate => {
                let number = random.random_range(0..self.workers.len());
                self.disturb_worker(kind, sim, number, (until, down))
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        self.observer.with(|inner| inner.leading.iter().max_by_key(|(_, term)| **term).map(|(node, _)| *node))
    }

    fn if_up(&mut self, node: usize, act: impl FnOnce(&mut Self)) -> bool {
        let is_up = self.seats[node].down_until.is_none();
        if is_up {
            act(self);
        }
        is_up
    }

    fn isolate(&mut self, sim: &Sim<'_>, node: usize, until: Duration) -> bool {
        let pairs: Vec<(usize, usize)> = (0..self.seats.len())
            .filter(|other| *other != node)
            .map(|other| (node.min(other), node.max(other)))
            .filter(|pair| self.links.insert(*pair))
            .collect();
        for (one, other) in &pairs {
            sim.partition(name_of(*one), name_of(*other));
        }
        let is_cut = !pairs.is_empty();
        self.active.push((until, Undo::Repair(pairs)));
        is_cut
    }

    fn disturb(&mut self, kind: Kind, sim: &Sim<'_>, (from, to): (usize, usize), until: Duration) -> bool {
        let pair = (from.min(to), from.max(to));
        if !self.links.insert(pair) {
            return false;
        }
        let undo = if kind == Kind::CutPair {
            sim.partition(name_of(from), name_of(to));
            Undo::Repair(vec![pair])
        } else if kind == Kind::Hold {
            sim.hold(name_of(from), name_of(to));
            Undo::Release(from, to)
        } else {
            sim.partition_oneway(name_of(from), name_of(to));
            Undo::RepairOneWay(from, to)
        };
        self.active.push((until, undo));
        true
    }

    fn disturb_worker(
        &mut self,
        kind: Kind,
        sim: &mut Sim<'_>,
        number: usize,
        (until, down): (Duration, Duration),
    ) -> bool {
        let executor = executor_name(number);
        let worker = &mut self.workers[number];
        if worker.down_until.is_some() || worker.is_cut_off {
            return false;
        }
        if kind == Kind::ExecutorIsolate {
            for node in 0..self.seats.len() {
                sim.partition(executor.as_str(), name_of(node));
            }
            worker.is_cut_off = true;
            self.active.push((until, Undo::Worker(number)));
            return true;
        }
        sim.crash(executor.as_str());
        worker.supervisor.connect(false);
        if kind == Kind::ExecutorPowerCut {
            worker.supervisor.lose_power(sim.elapsed());
            worker.journal.borrow_mut().lose_power();
        }
        worker.down_until = Some(sim.elapsed() + down);
        true
    }

    fn spoil_disk(&mut self, kind: Kind, node: usize, until: Duration, random: &mut StdRng) -> bool {
        let seat = &mut self.seats[node];
        if seat.down_until.is_some() {
            return false;
        }
        seat.has_bad_disk = true;
        let disk = seat.machine.disk();
        if kind == Kind::FullDisk {
            disk.set_room(Some(random.random_range(0..20_000)));
            self.active.push((until, Undo::Room(node)));
        } else if kind == Kind::SyncError {
            seat.is_disk_broken = true;
            disk.fail_syncs(SyncsFail::Always);
        } else {
            seat.is_disk_broken = true;
            disk.fail_after(random.random_range(0..20));
        }
        true
    }

    /// Never more than one clock at a time: a majority is right (PROTOCOL 1.1).
    fn step_clock(&mut self, node: usize, until: Duration, random: &mut StdRng) -> bool {
        if self.active.iter().any(|(_, undo)| matches!(undo, Undo::Clock(_))) {
            return false;
        }
        let by =
            [-3_600 * SECOND, -30 * SECOND, -2 * SECOND, 2 * SECOND, 30 * SECOND, 3_600 * SECOND, 10 * YEAR];
        let seat = &self.seats[node];
        let mut clocks = seat.machine.clocks();
        clocks.wall = Timestamp::from_millis(seat.wall.as_millis() + by[random.random_range(0..by.len())]);
        seat.machine.set_clocks(clocks);
        self.active.push((until, Undo::Clock(node)));
        true
    }

    fn undo(&mut self, sim: &Sim<'_>, undo: Undo) {
        match undo {
            Undo::Repair(pairs) => {
                for (one, other) in pairs {
                    sim.repair(name_of(one), name_of(other));
                    self.links.remove(&(one, other));
                }
            }
            Undo::RepairOneWay(from, to) => {
                sim.repair_oneway(name_of(from), name_of(to));
                self.links.remove(&(from.min(to), from.max(to)));
            }
            Undo::Release(from, to) => {
                sim.release(name_of(from), name_of(to));
                self.links.remove(&(from.min(to), from.max(to)));
            }
            Undo::Network => sim.set_max_message_latency(self.shape.latency.1),
            Undo::Disk(node) => {
                let (least, most) = self.shape.disk_wait;
                self.seats[node].machine.set_disk_wait(least, most);
            }
            Undo::Room(node) => self.seats[node].machine.disk().set_room(None),
            Undo::Worker(number) => {
                for node in 0..self.seats.len() {
                    sim.repair(executor_name(number), name_of(node));
                }
                self.workers[number].is_cut_off = false;
            }
            Undo::Clock(node) => {
                let seat = &self.seats[node];
                let clocks = seat.machine.clocks();
                seat.machine.set_clocks(matins_node::system::simulated::Clocks { wall: seat.wall, ..clocks });
            }
        }
    }
}
