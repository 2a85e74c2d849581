//! One seed from its beginning to its end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use matins_core::time::{BootTime, Timestamp};
use matins_node::system::simulated::{Clocks, Machine};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use turmoil::Sim;

use super::client::Client;
use super::executor::Executor;
use super::faults::{Faults, Worker, executor_name};
use super::host::{Host, name_of};
use super::observer::{Observer, Phase};
use super::shape::Shape;
use super::tasks::Supervisor;
use super::{audit, starter};

/// When each simulation begins, in seconds since 1970.
const EPOCH_SECS: u64 = 1_780_000_000;
/// How long making the cluster may take.
const FOUNDED_WITHIN: Duration = Duration::from_secs(300);
/// Once all is healed, new work of every client must be done so soon.
const DONE_WITHIN: Duration = Duration::from_secs(180);
/// How long the healed cluster is looked at, at least.
const HEALED_FOR: Duration = Duration::from_secs(20);
/// How long the nodes may take to come to one index.
const AUDITED_WITHIN: Duration = Duration::from_secs(60);
/// The rate of a boot-time clock is off by this at most, in millionths: half of what leases allow for (PROTOCOL 5.3).
const PPM_MAX: i64 = 500;

/// What one seed came to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Story {
    pub(super) seed: u64,
    /// Of every applied entry with its simulated time, every answer and every fault.
    pub(super) digest: String,
    pub(super) simulated_ms: u64,
    pub(super) cpu_ms: u64,
    pub(super) commits: u64,
    pub(super) leaders: u64,
    pub(super) crashes: u64,
    pub(super) gave_up: u64,
    pub(super) acknowledged: u64,
    pub(super) reads: u64,
    pub(super) attempts: u64,
    pub(super) checkpoints: u64,
    pub(super) blocks: u64,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) failure: Option<String>,
}

/// Everything of one seed.
struct World<'a> {
    sim: Sim<'a>,
    random: StdRng,
    shape: Shape,
    observer: Observer,
    faults: Faults,
}

/// Tells the story of a seed, with so long a time under faults.
pub(super) fn tell(seed: u64, under_faults: Duration) -> Story {
    let mut world = World::new(seed);
    world.live(under_faults);
    let observer = &world.observer;
    let digest = observer.digest();
    let faults = world.faults.counts.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect();
    observer.with(|inner| Story {
        seed,
        digest,
        simulated_ms: world.sim.elapsed().as_millis() as u64,
        cpu_ms: cpu_time().as_millis() as u64,
        commits: inner.commits,
        leaders: inner.leaders,
        crashes: world.faults.crashes,
        gave_up: world.faults.gave_up,
        acknowledged: inner.acknowledged,
        reads: inner.reads,
        attempts: inner.attempts,
        checkpoints: inner.checkpoints,
        blocks: inner.blocks,
        faults,
        failure: inner.failure.clone(),
    })
}

/// All who ask something of the cluster. They share one host: each host costs as much as all links to it, at each tick.
#[derive(Clone)]
struct Asking {
    machine: Machine,
    clients: Vec<Client>,
    observer: Observer,
    nodes: usize,
}

impl Asking {
    async fn run(self) -> turmoil::Result {
        self.machine.enter();
        for client in self.clients {
            tokio::task::spawn_local(client.run());
        }
        starter::found(self.observer, self.nodes).await;
        std::future::pending().await
    }
}

impl World<'_> {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (shape, observer) = (Shape::draw(&mut random), Observer::default());
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(random.random())
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECS))
            .simulation_duration(Duration::from_secs(1 << 30))
            .tick_duration(shape.tick)
            .min_message_latency(shape.latency.0)
            .max_message_latency(shape.latency.1)
            .tcp_capacity(1 << 14)
            .enable_random_order();
        let mut sim = builder.build();
        let machines: Vec<Machine> = (0..shape.nodes).map(|_| machine(&shape, &mut random)).collect();
        for (number, machine) in machines.iter().enumerate() {
            let host = Host {
                number,
                machine: machine.clone(),
                observer: observer.clone(),
                checkpoint_every: shape.checkpoint_every,
            };
            let lives = Rc::new(Cell::new(0));
            sim.host(name_of(number), move || {
                lives.set(lives.get() + 1);
                host.clone().run(lives.get())
            });
        }
        let workers: Vec<Worker> = (0..shape.executors)
            .map(|number| {
                let machine = machine(&shape, &mut random);
                let supervisor = Supervisor::new(&machine, random.random(), &observer);
                let journal = Rc::default();
                let worker = Worker::new(&supervisor, &journal);
                let executor = Executor { number, nodes: shape.nodes, machine, supervisor, journal };
                sim.host(executor_name(number), move || executor.clone().run());
                worker
            })
            .collect();
        let asking = Asking {
            machine: machine(&shape, &mut random),
            clients: (1..=shape.clients)
                .map(|number| Client {
                    number,
                    nodes: shape.nodes,
                    observer: observer.clone(),
                    seed: random.random(),
                })
                .collect(),
            observer: observer.clone(),
            nodes: shape.nodes,
        };
        sim.host("asking", move || asking.clone().run());
        let faults = Faults::new(&shape, &observer, (&machines, workers));
        Self { sim, random, shape, observer, faults }
    }

    /// All phases, until one of them breaks something.
    fn live(&mut self, under_faults: Duration) {
        if !self.until(FOUNDED_WITHIN, |world| world.observer.phase() == Phase::Faults) {
            return self.too_late("the cluster is not made");
        }
        let over = self.sim.elapsed() + under_faults;
        while self.sim.elapsed() < over && self.step() {
            self.faults.play(&mut self.sim, &mut self.random);
        }
        self.faults.heal(&mut self.sim);
        self.observer.with(|inner| inner.phase = Phase::Healed);
        let healed = self.sim.elapsed();
        let is_done = |world: &mut Self| {
            let clients = world.observer.with(|inner| inner.acknowledged_healed.len());
            let rested = world.sim.elapsed() >= healed + HEALED_FOR;
            let is_asked = rested && clients == world.shape.clients && world.faults.all_run();
            is_asked && world.observer.with(|inner| inner.all_ended(EPOCH_SECS, healed))
        };
        if !self.until(DONE_WITHIN, is_done) {
            return self.too_late("I15: after everything was healed not all that was asked for is done");
        }
        self.observer.with(|inner| inner.phase = Phase::Audit);
        self.observer.with(|inner| inner.audit = 1);
        let is_audited = |world: &mut Self| {
            let audits = world.observer.with(|inner| inner.audits.len());
            if audits < world.shape.nodes {
                return false;
            }
            let is_judged = audit::judge(&world.observer, world.sim.elapsed());
            if !is_judged {
                world.observer.with(|inner| {
                    inner.audits.clear();
                    inner.audit += 1;
                });
            }
            is_judged
        };
        if !self.until(AUDITED_WITHIN, is_audited) {
            self.too_late("I15: the nodes do not come to the same index");
        }
    }

    fn too_late(&self, what: &str) {
        self.observer.fail_at(self.sim.elapsed(), what);
    }

    /// Goes on until something is so. `false`: it was not in time, or something broke.
    fn until(&mut self, within: Duration, is_so: impl Fn(&mut Self) -> bool) -> bool {
        let deadline = self.sim.elapsed() + within;
        while !is_so(self) {
            if self.sim.elapsed() > deadline || !self.step() {
                return false;
            }
        }
        true
    }

    /// One tick. `false`: something broke.
    fn step(&mut self) -> bool {
        if let Err(error) = self.sim.step() {
            self.observer.fail_at(self.sim.elapsed(), format!("a process ended badly: {error}"));
        }
        self.faults.tend(&mut self.sim, &mut self.random);
        self.observer.with(|inner| inner.failure.is_none())
    }
}

/// What this process has used of its processor.
fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec as u32)
}

/// A machine whose clocks are good enough.
fn machine(shape: &Shape, random: &mut StdRng) -> Machine {
    let clocks = Clocks {
        boot: BootTime(random.random_range(1..1_000_000) * 1_000_000_000),
        boot_ppm: random.random_range(-PPM_MAX..=PPM_MAX),
        wall: Timestamp::from_millis(EPOCH_SECS as i64 * 1_000 + random.random_range(-200..=200)),
    };
    let machine = Machine::new(random.random(), clocks);
    machine.set_disk_wait(shape.disk_wait.0, shape.disk_wait.1);
    machine
}
