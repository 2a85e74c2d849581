//! What is drawn once for a seed: how large the cluster is, how slow its network and disks, and which faults there are.
//!
//! Swarm testing: a seed has some kinds of fault and not others, some often and some rarely.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A process dies; what it wrote stays visible.
    Kill,
    /// A machine loses its power: what it had not synced is lost, in part.
    PowerCut,
    /// All machines lose their power at once.
    PowerCutAll,
    /// The leader's process dies.
    KillLeader,
    /// One machine is cut off from all others.
    Isolate,
    /// The leader's machine is cut off from all others.
    IsolateLeader,
    /// One pair of machines does not hear each other.
    CutPair,
    /// One machine does not hear another, which hears it.
    CutOneWay,
    /// Messages between two machines are kept, and come all at once later.
    Hold,
    /// The whole network is slow.
    SlowNetwork,
    /// A disk is slow.
    SlowDisk,
    /// A disk has no room left.
    FullDisk,
    /// A disk fails to sync.
    SyncError,
    /// A disk fails in the middle of a write.
    TornWrite,
    /// A wall clock is set elsewhere, by seconds or by years.
    ClockStep,
    /// An executor's process dies; its tasks go on under their supervisor.
    ExecutorKill,
    /// An executor's machine loses its power, and its tasks with it.
    ExecutorPowerCut,
    /// An executor is cut off from all nodes.
    ExecutorIsolate,
}

impl Kind {
    /// All there are.
    pub(super) const ALL: [Self; 18] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::KillLeader,
        Self::Isolate,
        Self::IsolateLeader,
        Self::CutPair,
        Self::CutOneWay,
        Self::Hold,
        Self::SlowNetwork,
        Self::SlowDisk,
        Self::FullDisk,
        Self::SyncError,
        Self::TornWrite,
        Self::ClockStep,
        Self::ExecutorKill,
        Self::ExecutorPowerCut,
        Self::ExecutorIsolate,
    ];

    /// Its name in a report.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "process killed",
            Self::PowerCut => "power cut",
            Self::PowerCutAll => "power cut of all",
            Self::KillLeader => "leader killed",
            Self::Isolate => "node cut off",
            Self::IsolateLeader => "leader cut off",
            Self::CutPair => "pair cut",
            Self::CutOneWay => "one way cut",
            Self::Hold => "messages held",
            Self::SlowNetwork => "network slow",
            Self::SlowDisk => "disk slow",
            Self::FullDisk => "disk full",
            Self::SyncError => "sync error",
            Self::TornWrite => "torn write",
            Self::ClockStep => "clock set",
            Self::ExecutorKill => "executor killed",
            Self::ExecutorPowerCut => "executor's power cut",
            Self::ExecutorIsolate => "executor cut off",
        }
    }
}

/// What is drawn once.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// How many nodes.
    pub(super) nodes: usize,
    /// How many executors.
    pub(super) executors: usize,
    /// How many clients.
    pub(super) clients: usize,
    /// How finely the network is simulated.
    pub(super) tick: Duration,
    /// How long a message takes, at least and at most.
    pub(super) latency: (Duration, Duration),
    /// How long a call of the disk takes, at least and at most.
    pub(super) disk_wait: (Duration, Duration),
    /// The most time between two faults.
    pub(super) fault_gap: Duration,
    /// How often each kind of fault is, beside the others.
    pub(super) weights: Vec<(Kind, u32)>,
    /// Between two checkpoints.
    pub(super) checkpoint_every: Duration,
}

impl Shape {
    /// Draws one.
    pub(super) fn draw(random: &mut StdRng) -> Self {
        let millis = Duration::from_millis;
        let tick = millis([2, 5, 5, 10][random.random_range(0..4)]);
        let mut weights: Vec<(Kind, u32)> =
            Kind::ALL.iter().map(|kind| (*kind, [0, 0, 1, 1, 4][random.random_range(0..5)])).collect();
        if weights.iter().all(|(_, weight)| *weight == 0) {
            weights[0].1 = 1;
        }
        Self {
            nodes: if random.random_ratio(1, 5) { 5 } else { 3 },
            executors: random.random_range(2..=3),
            clients: random.random_range(1..=3),
            tick,
            latency: (millis(0), millis(random.random_range(1..=25))),
            disk_wait: (millis(0), millis([0, 2, 10][random.random_range(0..3)])),
            fault_gap: Duration::from_secs(random.random_range(4..=40)),
            weights,
            checkpoint_every: Duration::from_secs(random.random_range(20..=180)),
        }
    }

    /// Draws a kind of fault.
    pub(super) fn draw_fault(&self, random: &mut StdRng) -> Kind {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = random.random_range(0..total);
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        unreachable!("a number below the sum of all weights lies within one of them")
    }
}
