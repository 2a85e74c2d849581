//! The handle that the rest of the engine holds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use matins_core::command::Proposal;
use matins_core::id::{Leadership, LogIndex, NodeId};
use matins_core::state::Settings;
use matins_core::time::{BootTime, Timestamp};
use matins_core::{Answer, Effect, Refusal, State};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::blobs::Holdings;
use super::change::Register;
use super::clock::EntryClock;
use super::elect::Elections;
use super::error::ProposeError;
use super::links::Links;
use super::log::RaftLog;
use super::propose::Queue;
use super::reads::Rounds;
use super::snapshot::Snapshots;
use super::storage::StorageConfig;
use super::times::RaftTimes;
use super::types::{HeardStatus, Member, Members, PeerStatus, Raft};
use super::watchdog::{OnExit, Watch};
use crate::disk::{DiskLimits, DiskUse};
use crate::metrics::Timings;
use crate::store::blobs::Blobs;
use crate::store::marker::DataDir;
use crate::system::{disk_use, wall_time};

/// What a node needs to take part.
#[derive(Clone)]
pub struct StartConfig {
    /// Everything that this node keeps is below it.
    pub data_dir: PathBuf,
    /// Its labels in the membership; `cluster_address` is where others reach its peer service.
    pub member: Member,
    /// Times.
    pub times: RaftTimes,
    /// The newest feature level that this release supports: [`matins_core::LEVEL`] outside tests.
    pub level_max: u16,
    /// The disk, and how much of the log stays on it.
    pub storage: StorageConfig,
    /// What is done when this node must end (PROTOCOL 2.3): [`exit_process`](super::exit_process) in a real one.
    pub on_exit: OnExit,
}

/// What a proposal was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer, the same on every replica.
    pub answer: Result<Answer, Refusal>,
    /// The entry that decided it. The answer to a repeated request may come from a later entry than the first one.
    pub index: LogIndex,
    /// Leader time of that entry, so that a client can set `not_after` (PROTOCOL 4.6).
    pub at: Timestamp,
}

/// An entry that was applied on this node.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// Its leader time, as written.
    pub at: Timestamp,
    /// One answer for each of its proposals.
    pub answers: Vec<Result<Answer, Refusal>>,
    /// What it asks for.
    pub effects: Vec<Effect>,
    /// The state after it.
    pub state: Arc<State>,
}

/// Applied entries in order. A reader that falls more than 1,024 entries behind hears `Lagged` once and goes on with what
/// is left: effects are hints, so it looks at the state (DESIGN 3.6). A snapshot from a leader moves the state without an entry;
/// whoever must not miss that watches [`Consensus::states`].
pub type Subscription = broadcast::Receiver<Arc<AppliedEntry>>;

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The leader and its addresses; `None` while there is none.
    pub leader: Option<(NodeId, Member)>,
    /// Set on the leader itself, and only once its own `LeaderReady` is applied there (PROTOCOL 2.1): this node leads and
    /// may propose under this leadership.
    pub leading: Option<Leadership>,
    /// The boot-time clock of this node when that `LeaderReady` was applied: sessions are counted from there
    /// (PROTOCOL 5.3). Zero while this node does not lead.
    pub ready_at: BootTime,
}

/// One node's part in consensus. Cheap to clone; all clones are one node.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

/// What all clones and all tasks of one node share.
pub(crate) struct Inner {
    pub(crate) node: NodeId,
    pub(crate) member: Member,
    pub(crate) level_max: u16,
    pub(crate) times: RaftTimes,
    pub(crate) limits: DiskLimits,
    pub(crate) clock: Arc<dyn EntryClock>,
    pub(crate) dir: Arc<DataDir>,
    pub(crate) links: Links,
    pub(crate) raft: Raft,
    pub(crate) log: RaftLog,
    pub(crate) snapshots: Snapshots,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) holdings: Holdings,
    pub(crate) queue: Queue,
    pub(crate) rounds: Rounds,
    pub(crate) watch: Arc<Watch>,
    pub(crate) elections: Arc<Elections>,
    pub(crate) timings: Timings,
    pub(crate) states: watch::Receiver<Arc<State>>,
    /// The last applied record of any kind.
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) entries: broadcast::Sender<Arc<AppliedEntry>>,
    pub(crate) leader: watch::Sender<LeaderView>,
    pub(crate) peers: watch::Sender<Vec<HeardStatus>>,
    /// What `init` was given, until the cluster is founded.
    pub(crate) init: Mutex<Settings>,
    /// One fetch of a blob and one receive of a snapshot at a time.
    pub(crate) fetching: tokio::sync::Mutex<()>,
    pub(crate) receiving: tokio::sync::Mutex<()>,
    /// One change of members, or hand-over of the lead, at a time.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    pub(crate) register: Register,
    /// Held while an entry is written, and while a read round goes out: a hand-over of the lead keeps both from beginning.
    pub(crate) proposing: Arc<tokio::sync::Mutex<()>>,
    pub(crate) rounding: Arc<tokio::sync::Mutex<()>>,
    /// Tells that missing blobs are to be counted, and that this node was taken out of the cluster.
    pub(crate) count: tokio::sync::Notify,
    pub(crate) leaving: tokio::sync::Notify,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Inner {
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.states.borrow())
    }

    pub(crate) fn members(&self) -> Members {
        Members::from(self.raft.server_metrics().borrow().membership_config.membership())
    }

    pub(crate) fn settings_of_init(&self) -> Settings {
        self.init.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn disk(&self) -> Option<DiskUse> {
        let path = self.dir.root();
        let used_permille = disk_use(path).ok()?;
        Some(DiskUse { path: path.display().to_string(), used_permille, limits: self.limits })
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let (blobs_counted_at, missing) = self.holdings.missing();
        PeerStatus {
            node: self.node,
            cluster: self.links.cluster(),
            wall: wall_time(),
            applied: *self.applied.borrow(),
            level_max: self.level_max,
            blocks_durable: self.holdings.blocks_durable(&self.state(), &self.blobs),
            blobs_missing: missing.len() as u64,
            blobs_counted_at,
            missing: missing.into_iter().take(16).collect(),
            disk: self.disk(),
        }
    }
}

impl Consensus {
    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Stops taking part and waits until nothing of it runs or writes any more.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.watch.stop();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!("consensus did not stop in order: {error}");
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The cluster that this node belongs to; `None` before it belongs to one.
    pub fn cluster(&self) -> Option<u64> {
        self.inner.links.cluster()
    }

    /// The times it runs by.
    pub fn times(&self) -> &RaftTimes {
        &self.inner.times
    }

    /// Proposes one command on this node, which must lead and be ready. Commands that come while an entry is being written
    /// share the next one (PROTOCOL 6.2); its time is given when it is put together. Answers within `RaftTimes::propose`.
    pub async fn propose(&self, proposal: Proposal) -> Result<Answered, ProposeError> {
        let answers = self.inner.queue.propose(vec![proposal]).await?;
        answers.into_iter().next().ok_or(ProposeError::Deadline)
    }

    /// Proposes several commands that stand in one entry, in this order and with nothing between them, if they fit into
    /// one together (PROTOCOL 3.5); else they go in order through as many entries as they need. One answer for each.
    pub async fn propose_as_group(&self, proposals: Vec<Proposal>) -> Result<Vec<Answered>, ProposeError> {
        self.inner.queue.propose_group(proposals).await
    }

    /// The newest state that this node has applied; its `index` says up to where.
    pub fn state(&self) -> Arc<State> {
        self.inner.state()
    }

    /// The same, to wait on.
    pub fn states(&self) -> watch::Receiver<Arc<State>> {
        self.inner.states.clone()
    }

    /// Entries applied from now on.
    pub fn subscribe(&self) -> Subscription {
        self.inner.entries.subscribe()
    }

    /// Who leads, to wait on.
    pub fn leader(&self) -> watch::Receiver<LeaderView> {
        self.inner.leader.subscribe()
    }

    /// Who leads, for people and probes. Unlike [`Self::leader`] it forgets a leader that has fallen silent and that nobody
    /// could be elected in the place of: consensus itself remembers it for as long as there is no other.
    pub fn living_leader(&self) -> Option<NodeId> {
        let known = self.inner.leader.borrow().leader.as_ref().map(|(node, _)| *node);
        known.filter(|_| !self.inner.elections.has_lost_leader())
    }

    /// The bytes of this node's log after an index. Looks at segments, not at records.
    pub fn log_bytes_after(&self, index: u64) -> u64 {
        self.inner.log.store().bytes_from(index + 1)
    }

    /// The boot-time clock *before* the last successful quorum round began: the anchor of leases (PROTOCOL 5.3). `None`
    /// while this node is not a ready leader. At rest it is up to 600 ms old; `quorum_round` makes a new one.
    pub fn last_quorum_round(&self) -> Option<BootTime> {
        self.inner.leader.borrow().leading?;
        self.inner.watch.last_quorum_round()
    }

    /// A quorum round that begins after this call, shared with all calls in flight: the instant before it began. `None` if this
    /// node is not a ready leader or no majority answers.
    pub async fn quorum_round(&self) -> Option<BootTime> {
        self.inner.leader.borrow().leading?;
        let round = self.inner.rounds.ask(self.inner.times.heartbeat * 4).await?;
        self.inner.leader.borrow().leading.map(|_| round.began)
    }

    /// What the other members said last about themselves. Kept fresh to about a second while this node leads.
    pub fn peers(&self) -> watch::Receiver<Vec<HeardStatus>> {
        self.inner.peers.subscribe()
    }

    /// What this node says of itself.
    pub fn status(&self) -> PeerStatus {
        self.inner.status()
    }

    /// Whether this node waits for room on its disk: it acknowledges nothing until there is some.
    pub fn disk_is_full(&self) -> bool {
        self.inner.log.is_full()
    }

    /// How long commits and syncs take here.
    pub fn timings(&self) -> &Timings {
        &self.inner.timings
    }

    /// The term and the last record that this node has; for people and metrics.
    pub fn progress(&self) -> (u64, u64) {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.current_term, metrics.last_log_index.unwrap_or(0))
    }
}
