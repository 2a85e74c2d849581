//! Nemeses: what they do to the cluster, and the proof that they did it.
//!
//! Each acts, is seen from outside to act, and heals. One that is not seen to act makes the run invalid: a promise that was
//! kept under a fault that was not there says nothing. Start at [`Nemesis`]; `haunt` has the order of things.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::runtime::Handle;

use super::faults::Faults;
use super::nodes::Nodes;
use super::observer::{Leader, Observer};
use super::workload::Trouble;

mod clock;
mod corrupt;
mod disk;
pub(crate) mod haunt;
mod kill;
mod members;
mod network;
mod pause;
mod supervisor;

pub(crate) use clock::seen_ahead;

/// A leader is found within this, on a cluster that is whole.
const LEADER_MAX: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// A node's process is killed, and started again after a while
    Kill,
    /// A node's process is stopped for longer than a lease, and goes on
    Pause,
    /// As kill, of the leader
    KillLeader,
    /// As pause, of the leader
    PauseLeader,
    /// All nodes are killed at once
    KillAll,
    /// Every node is restarted, one after the other, as fast as it goes
    RollingRestart,
    /// The leader is cut off from all others
    IsolateLeader,
    /// A minority is cut off from the majority
    IsolateMinority,
    /// Each node reaches only its neighbours in a ring
    Ring,
    /// A node's packets reach nobody, while it hears everybody; or the other way round
    OneWay,
    /// Everything between nodes takes its time
    Slow,
    /// A node's wall clock is off by minutes to years
    ClockOffset,
    /// A node's wall clock runs too fast or too slow
    ClockDrift,
    /// A node's wall clock is ten years ahead for a second, again and again
    ClockJump,
    /// A node's supervisor is stopped for longer than a lease
    SupervisorFreeze,
    /// A node's supervisor is killed
    SupervisorKill,
    /// A node is killed together with its supervisor
    NodeAndSupervisorKill,
    /// The processes of a node's tasks are killed. They fail by that, so a workload must expect it
    TaskKill,
    /// A node's fsync fails
    FsyncError,
    /// A node's fsync takes its time
    FsyncSlow,
    /// A node's disk is full
    DiskFull,
    /// The power of one node is cut: whatever was not synced is lost
    PowerCut,
    /// The power of all nodes is cut at once
    PowerCutAll,
    /// A bit flips in a node's log while it is down
    CorruptLog,
    /// A bit flips in a node's vote while it is down
    CorruptVote,
    /// A bit flips in a node's newest snapshot while it is down
    CorruptSnapshot,
    /// A node's disk is lost, and an empty one joins in its place
    ReplaceNode,
    /// Two nodes join, and two go, the leader among them; in a mixed run while something else is done to another
    Resize,
    /// The lead is handed over to a node that is drawn; in a mixed run while something else is done to another
    TransferLeader,
}

/// What a nemesis needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Namespaces with a packet filter.
    Filter,
    /// `strace`, and the right to use it.
    Trace,
    /// Disks of their own.
    Disks,
    /// Nodes whose wall clock can be set off.
    Clocks,
    /// A node that has a snapshot.
    Snapshot,
}

/// Who else may be struck meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// It is done to one node; another nemesis may act on another.
    OneNode,
    /// It is done to the cluster; nothing else acts meanwhile.
    Cluster,
    /// It is an operator's work on the cluster, which must succeed while another nemesis acts on one node.
    Work,
}

impl Kind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().expect("no kind is hidden").get_name().to_owned()
    }

    /// What it needs of the machine.
    pub(crate) fn need(self) -> Option<Need> {
        match self {
            Self::Kill
            | Self::Pause
            | Self::KillLeader
            | Self::PauseLeader
            | Self::KillAll
            | Self::RollingRestart
            | Self::SupervisorFreeze
            | Self::SupervisorKill
            | Self::NodeAndSupervisorKill
            | Self::TaskKill
            | Self::CorruptLog
            | Self::CorruptVote
            | Self::ReplaceNode
            | Self::Resize
            | Self::TransferLeader => None,
            Self::IsolateLeader | Self::IsolateMinority | Self::Ring | Self::OneWay | Self::Slow => {
                Some(Need::Filter)
            }
            Self::ClockOffset | Self::ClockDrift | Self::ClockJump => Some(Need::Clocks),
            Self::FsyncError | Self::FsyncSlow => Some(Need::Trace),
            Self::DiskFull | Self::PowerCut | Self::PowerCutAll => Some(Need::Disks),
            Self::CorruptSnapshot => Some(Need::Snapshot),
        }
    }

    /// Who else may be struck meanwhile.
    pub(crate) fn scope(self) -> Scope {
        match self {
            Self::Kill
            | Self::Pause
            | Self::SupervisorFreeze
            | Self::SupervisorKill
            | Self::NodeAndSupervisorKill
            | Self::TaskKill
            | Self::ClockOffset
            | Self::ClockDrift
            | Self::ClockJump
            | Self::FsyncError
            | Self::FsyncSlow
            | Self::DiskFull
            | Self::PowerCut => Scope::OneNode,
            // What strikes the leader must know that the one it found is not on its way out by another fault; what
            // judges a start must know that only its own fault can hinder it.
            Self::KillLeader
            | Self::PauseLeader
            | Self::KillAll
            | Self::RollingRestart
            | Self::IsolateLeader
            | Self::IsolateMinority
            | Self::Ring
            | Self::OneWay
            | Self::Slow
            | Self::PowerCutAll
            | Self::CorruptLog
            | Self::CorruptVote
            | Self::CorruptSnapshot
            | Self::ReplaceNode => Scope::Cluster,
            Self::Resize | Self::TransferLeader => Scope::Work,
        }
    }

    /// How long it acts, in milliseconds; drawn by the seed.
    fn hold(self) -> RangeInclusive<u64> {
        match self {
            // Some come back within their lease, some long after their session has ended.
            Self::Kill | Self::KillLeader | Self::NodeAndSupervisorKill => 200..=18_000,
            // Longer than a lease, which is 10 s.
            Self::Pause | Self::PauseLeader | Self::SupervisorFreeze => 11_000..=18_000,
            Self::KillAll | Self::PowerCut | Self::PowerCutAll => 300..=4_000,
            Self::IsolateLeader | Self::IsolateMinority | Self::Ring | Self::OneWay => 3_000..=18_000,
            Self::Slow | Self::ClockOffset | Self::ClockDrift | Self::ClockJump => 4_000..=10_000,
            Self::FsyncError | Self::FsyncSlow | Self::DiskFull => 2_000..=8_000,
            Self::RollingRestart
            | Self::SupervisorKill
            | Self::TaskKill
            | Self::CorruptLog
            | Self::CorruptVote
            | Self::CorruptSnapshot
            | Self::ReplaceNode
            | Self::Resize
            | Self::TransferLeader => 0..=1_000,
        }
    }

    /// Whether a task may have two live attempts under it, by the protocol's own words (PROTOCOL 5.10).
    pub(crate) fn voids_exclusivity(self) -> bool {
        matches!(self, Self::SupervisorFreeze | Self::NodeAndSupervisorKill)
    }

    /// Whether a mixed run may draw it.
    pub(crate) fn is_mixed(self) -> bool {
        match self {
            // A killed task has failed, so only a workload that expects it can say what must come of it.
            Self::TaskKill => false,
            Self::ReplaceNode
            | Self::Resize
            | Self::TransferLeader
            | Self::Kill
            | Self::Pause
            | Self::KillLeader
            | Self::PauseLeader
            | Self::KillAll
            | Self::RollingRestart
            | Self::IsolateLeader
            | Self::IsolateMinority
            | Self::Ring
            | Self::OneWay
            | Self::Slow
            | Self::ClockOffset
            | Self::ClockDrift
            | Self::ClockJump
            | Self::SupervisorFreeze
            | Self::SupervisorKill
            | Self::NodeAndSupervisorKill
            | Self::FsyncError
            | Self::FsyncSlow
            | Self::DiskFull
            | Self::PowerCut
            | Self::PowerCutAll
            | Self::CorruptLog
            | Self::CorruptVote
            | Self::CorruptSnapshot => true,
        }
    }
}

/// Something that is done to the cluster. An error of any of these is trouble of the harness.
pub(crate) trait Nemesis: Send {
    /// Names of the nodes that it is done to.
    fn nodes(&self) -> Vec<String>;

    /// Does it.
    fn inject(&mut self, field: &Field) -> Result<(), Trouble>;

    /// What is seen of it from outside; `None`: nothing yet. Asked again for a while, and once more before it is healed.
    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble>;

    /// Undoes it. Also called after a failed `inject`.
    fn heal(&mut self, field: &Field) -> Result<(), Trouble>;
}

/// What nemeses act on.
pub(crate) struct Field {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) faults: Faults,
    pub(crate) runtime: Handle,
    /// Broken promises that a nemesis itself saw.
    pub(crate) failures: Mutex<Vec<String>>,
    /// How often nemeses did what the report counts beside the faults.
    pub(crate) counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Somebody wants it to end now.
    pub(crate) is_over: Arc<AtomicBool>,
    /// A fault is seen within this, or it does not act.
    pub(crate) patience: Duration,
}

impl Field {
    /// Notes a broken promise.
    pub(crate) fn fail(&self, what: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Counts something that was done.
    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// Waits, but no longer than the run goes on.
    pub(crate) fn sleep(&self, span: Duration) {
        let deadline = Instant::now() + span;
        while !self.is_over.load(Ordering::Acquire) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// The node that leads and is ready, on a cluster that is whole.
    pub(crate) fn leader(&self) -> Result<Leader, Trouble> {
        let deadline = Instant::now() + LEADER_MAX;
        loop {
            if let Some(leader) = self.runtime.block_on(self.observer.leader()) {
                return Ok(leader);
            }
            if Instant::now() > deadline || self.is_over.load(Ordering::Acquire) {
                return Err(Trouble("there was no leader to strike".into()));
            }
            self.sleep(PAUSE);
        }
    }

    /// Waits until something is there to be told; `None`: it never was.
    pub(crate) fn until<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Result<Option<T>, Trouble>,
    ) -> Result<Option<T>, Trouble> {
        let deadline = Instant::now() + within;
        loop {
            let found = look()?;
            if found.is_some() || Instant::now() > deadline || self.is_over.load(Ordering::Acquire) {
                return Ok(found);
            }
            self.sleep(PAUSE);
        }
    }
}

/// Makes one that strikes this node, if it strikes one; which of several ways it takes is drawn.
fn make(kind: Kind, target: usize, random: &mut StdRng, field: &Field) -> Result<Box<dyn Nemesis>, Trouble> {
    let nodes = field.nodes.members().len();
    Ok(match kind {
        Kind::Kill => Box::new(kill::Kill::of(field, vec![target])),
        Kind::KillLeader => Box::new(kill::Kill::of(field, vec![field.leader()?.at])),
        Kind::KillAll => Box::new(kill::Kill::of(field, (0..nodes).collect())),
        Kind::RollingRestart => Box::new(kill::Rolling::new(field)),
        Kind::Pause => Box::new(pause::Pause::of(field, target)),
        Kind::PauseLeader => Box::new(pause::Pause::of(field, field.leader()?.at)),
        Kind::IsolateLeader => Box::new(network::Partition::around(&[field.leader()?.at], nodes)),
        Kind::IsolateMinority => {
            let minority: Vec<usize> = (0..nodes / 2).map(|next| (target + next) % nodes).collect();
            Box::new(network::Partition::around(&minority, nodes))
        }
        Kind::Ring => Box::new(network::Partition::ring(target, nodes)),
        Kind::OneWay if random.random() => Box::new(network::Partition::mute(target, nodes)),
        Kind::OneWay => Box::new(network::Partition::deaf(target, nodes)),
        Kind::Slow => Box::new(network::Slow::new(random, nodes)),
        Kind::ClockOffset => Box::new(clock::Clock::offset(target, random)),
        Kind::ClockDrift => Box::new(clock::Clock::drift(target, random)),
        Kind::ClockJump => Box::new(clock::Clock::jump(target)),
        Kind::SupervisorFreeze => Box::new(supervisor::Freeze::of(field, target)),
        Kind::SupervisorKill => Box::new(supervisor::Kill::alone(field, target)),
        Kind::NodeAndSupervisorKill => Box::new(supervisor::Kill::with_node(field, target)),
        Kind::TaskKill => Box::new(supervisor::TaskKill::new(field, target)),
        Kind::FsyncError => Box::new(disk::Fsync::error(target)),
        Kind::FsyncSlow => Box::new(disk::Fsync::slow(target, random)),
        Kind::DiskFull => Box::new(disk::Full::new(target)),
        Kind::PowerCut => Box::new(disk::PowerCut::of(vec![target])),
        Kind::PowerCutAll => Box::new(disk::PowerCut::of((0..nodes).collect())),
        Kind::CorruptLog => Box::new(corrupt::Corrupt::new(target, corrupt::Part::Log, random)),
        Kind::CorruptVote => Box::new(corrupt::Corrupt::new(target, corrupt::Part::Vote, random)),
        Kind::CorruptSnapshot => Box::new(corrupt::Corrupt::new(target, corrupt::Part::Snapshot, random)),
        Kind::ReplaceNode => Box::new(corrupt::Replace::new(target)),
        // What acts meanwhile acts on the next one.
        Kind::Resize => Box::new(members::Resize::new(field, (target + 1) % nodes, random)),
        Kind::TransferLeader => Box::new(members::TransferLeader::new(field, (target + 1) % nodes, random)),
    })
}

/// The newest snapshot of a node; trouble: there is none.
pub(crate) fn newest_snapshot(data_dir: &Path) -> Result<PathBuf, Trouble> {
    corrupt::Part::Snapshot.newest(data_dir)
}

/// Names of nodes, by place.
fn names(places: &[usize]) -> Vec<String> {
    places.iter().map(|at| format!("n{}", at + 1)).collect()
}
