//! Opens a data directory and starts everything that consensus consists of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use matins_core::State;
use matins_core::election::{Election, ElectionTimes};
use matins_core::id::{ClusterId, NodeId};
use matins_core::state::Settings;
use matins_core::time::Millis;
use openraft::SnapshotPolicy;
use openraft::error::Fatal;
use rand::Rng as _;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::blobs::{self, Holdings};
use super::clock::EntryClock;
use super::consensus::{Consensus, Inner, LeaderView, StartConfig};
use super::elect::{Driver, Elections};
use super::error::StartError;
use super::keep::Keeper;
use super::links::Links;
use super::log::{RaftLog, Signals};
use super::machine::{AgreedCopy, Keep, Machine, Outlets, StateCopy};
use super::network::Network;
use super::propose::{Proposer, Queue, Waiting};
use super::reads::{Round, Rounder, Rounds};
use super::snapshot::Snapshots;
use super::storage::StorageConfig;
use super::times::RaftTimes;
use super::types::{Member, Membership, Raft, StoredMembership};
use super::watchdog::{self, Exit, OnExit, Watch};
use super::{lead, leave};
use crate::metrics::Timings;
use crate::store::blobs::Blobs;
use crate::store::log::Log;
use crate::store::marker::{DataDir, Expected, MarkerError};
use crate::store::vote::VoteFile;
use crate::store::{StoreError, snapshot};
use crate::system;

/// Applied entries that a slow reader may be behind.
const ENTRIES_BEHIND_MAX: usize = 1024;

/// What lies in the data directory.
struct Opened {
    dir: DataDir,
    log: Log,
    vote: VoteFile,
    snapshots: Snapshots,
    durable: watch::Receiver<u64>,
    blobs: Blobs,
    start: Option<StateCopy>,
}

/// The receiving ends of what `Inner` sends.
struct Ends {
    queue: mpsc::Receiver<Waiting>,
    rounds: mpsc::Receiver<tokio::sync::oneshot::Sender<Round>>,
    keep: mpsc::UnboundedReceiver<Keep>,
    agreed: AgreedCopy,
    written: watch::Receiver<u64>,
    votes: watch::Receiver<u64>,
}

impl Consensus {
    /// Opens the data directory and takes part. A node with an empty directory waits for `init`, or to be added.
    pub async fn start(config: StartConfig, clock: Arc<dyn EntryClock>) -> Result<Self, StartError> {
        config.times.validate()?;
        let (root, storage) = (config.data_dir.clone(), config.storage.clone());
        let level_max = config.level_max;
        let opened = system::blocking(move || open(&root, &storage, level_max)).await?;
        let (storage, on_exit) = (config.storage.clone(), Arc::clone(&config.on_exit));
        // What was opened holds a whole state, which grows with its tables: too much for the stacks of all callers.
        let (inner, ends) = Box::pin(assemble(config, clock, opened)).await?;
        let inner = Arc::new(inner);
        adopt_cluster(&inner)?;
        watchdog::start(Arc::clone(&inner.watch), inner.times.give_up(), Arc::clone(&on_exit))?;
        spawn_all(&inner, ends, storage, on_exit);
        tracing::info!(node = %inner.node, cluster = ?inner.links.cluster(), "takes part");
        Ok(Self::of(inner))
    }
}

/// Blocks.
fn open(root: &Path, storage: &StorageConfig, level_max: u16) -> Result<Opened, StartError> {
    let files = Arc::clone(&storage.files);
    let expected = Expected { node: None, cluster: None, level_max: level_max.into() };
    let dir = DataDir::open(Arc::clone(&files), root, expected, draw_node)?;
    let log = Log::open(Arc::clone(&files), &root.join("log"), storage.log)?;
    let vote = VoteFile::new(Arc::clone(&files), root);
    let store = snapshot::Snapshots::open(Arc::clone(&files), &root.join("snapshots"))?;
    let (durable, is_durable) = watch::channel(0);
    let snapshots = Snapshots::new(Arc::new(store), durable);
    let start = snapshots.load()?;
    if let Some(copy) = start.as_ref().filter(|copy| copy.state.cluster.level > level_max) {
        let (found, known) = (copy.state.cluster.level.into(), level_max.into());
        return Err(MarkerError::Newer { path: root.into(), what: "feature level", found, known }.into());
    }
    check_whole(&log, start.as_ref(), root)?;
    let blobs = Blobs::open(files, &root.join("blobs"))?;
    Ok(Opened { dir, log, vote, snapshots, durable: is_durable, blobs, start })
}

/// Draws the id of a node, or of an executor without one. Zero stands for nobody in the log; ten digits are enough to tell
/// them apart, and people read them.
pub(crate) fn draw_node() -> NodeId {
    NodeId(system::random().random_range(1..=u64::from(u32::MAX)))
}

/// A log that was purged further than the newest snapshot reaches cannot be replayed: the snapshot was damaged.
fn check_whole(log: &Log, start: Option<&StateCopy>, root: &Path) -> Result<(), StoreError> {
    let purged = log.purged().map(|purged| purged.index);
    let reaches = start.map(|copy| copy.log_id.index);
    if purged <= reaches {
        return Ok(());
    }
    let why = format!(
        "the log begins after record {purged:?}, and the newest whole snapshot ends with {reaches:?}"
    );
    Err(StoreError::Corrupt { path: root.into(), at: 0, why })
}

fn openraft_config(times: &RaftTimes) -> openraft::Config {
    let millis = |span: std::time::Duration| span.as_millis() as u64;
    openraft::Config {
        cluster_name: "matins".into(),
        // Our own timer elects (PROTOCOL 2.5). These two are how long a call for a vote may take, and how long a voter holds
        // on to a leader it has heard.
        enable_elect: false,
        election_timeout_min: millis(times.vote),
        election_timeout_max: millis(times.hold_on()),
        heartbeat_interval: millis(times.heartbeat),
        install_snapshot_timeout: millis(times.snapshot_part),
        // Snapshots and purges are ours too (PROTOCOL 6.8).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}

async fn assemble(
    config: StartConfig,
    clock: Arc<dyn EntryClock>,
    opened: Opened,
) -> Result<(Inner, Ends), StartError> {
    let Opened { dir, log, vote, snapshots, durable, blobs, start } = opened;
    let times = config.times;
    let marker = dir.marker();
    let start = start.map(|copy| with_labels(copy, marker.node, &config.member));
    let links = Links::new(times.reconnect);
    links.set_cluster(marker.cluster.map_or(0, |cluster| cluster.0));
    let (written, is_written) = watch::channel(0);
    let (votes, voted) = watch::channel(0);
    let timings = Timings::default();
    let signals = Signals { written, votes, snapshot: durable, timings: timings.clone() };
    let log = RaftLog::new(log, vote, marker.node.0, signals);
    let (states, state) = watch::channel(Arc::new(State::default()));
    let (applied, is_applied) = watch::channel(0);
    let (entries, _) = broadcast::channel(ENTRIES_BEHIND_MAX);
    let (keep, asked) = mpsc::unbounded_channel();
    let agreed = AgreedCopy::default();
    let outlets = Outlets { clock: Arc::clone(&clock), states, applied, entries: entries.clone(), keep };
    let machine = Machine::new(start, outlets, (snapshots.clone(), Arc::clone(&agreed)), config.level_max);
    let network = Network { links: links.clone(), backoff: times.heartbeat };
    let raft_config =
        openraft_config(&times).validate().map_err(|error| StartError::Raft(error.to_string()))?;
    let raft = Raft::new(marker.node.0, Arc::new(raft_config), network, log.clone(), machine).await;
    let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
    // Its metrics are empty until its loop has come round once; whoever asks for the members must not see that.
    raft.with_raft_state(|_| ()).await.map_err(|error| StartError::Raft(error.to_string()))?;
    let (queue, waiting) = Queue::new(times.propose);
    let (rounds, asked_rounds) = Rounds::new();
    let election =
        Election::new(marker.node, election_times(&times), system::random().random(), system::boot_time());
    let ends =
        Ends { queue: waiting, rounds: asked_rounds, keep: asked, agreed, written: is_written, votes: voted };
    let inner = Inner {
        node: marker.node,
        member: config.member,
        level_max: config.level_max,
        times,
        limits: config.storage.limits,
        clock,
        dir: Arc::new(dir),
        links,
        raft,
        log,
        snapshots,
        blobs: Arc::new(blobs),
        holdings: Holdings::default(),
        queue,
        rounds,
        watch: Arc::new(Watch::default()),
        elections: Arc::new(Elections::new(election)),
        timings,
        states: state,
        applied: is_applied,
        entries,
        leader: watch::Sender::new(LeaderView::default()),
        peers: watch::Sender::new(Vec::new()),
        init: Mutex::new(Settings::default()),
        fetching: tokio::sync::Mutex::default(),
        receiving: tokio::sync::Mutex::default(),
        changing: Arc::default(),
        register: Mutex::default(),
        proposing: Arc::default(),
        rounding: Arc::default(),
        count: tokio::sync::Notify::new(),
        leaving: tokio::sync::Notify::new(),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    Ok((inner, ends))
}

/// A cluster that began anew offline did not know where its first node would listen (PROTOCOL 6.10).
fn with_labels(mut copy: StateCopy, node: NodeId, member: &Member) -> StateCopy {
    let before = copy.membership.membership();
    let has_none = before.get_node(&node.0).is_some_and(|known| *known == Member::default());
    if has_none {
        let mut nodes: BTreeMap<u64, Member> =
            before.nodes().map(|(id, member)| (*id, member.clone())).collect();
        nodes.insert(node.0, member.clone());
        let labelled = Membership::new(before.get_joint_config().clone(), nodes);
        copy.membership = StoredMembership::new(*copy.membership.log_id(), labelled);
    }
    copy
}

fn election_times(times: &RaftTimes) -> ElectionTimes {
    let millis = |span: std::time::Duration| Millis(span.as_millis() as u64);
    ElectionTimes {
        min: millis(times.election_min),
        max: millis(times.election_max),
        pre_vote: millis(times.vote),
        miss: millis(times.miss()),
    }
}

/// A node that was killed while it made its cluster has a log and no mark: it goes on with what it began.
fn adopt_cluster(inner: &Inner) -> Result<(), StartError> {
    if inner.links.cluster().is_some() || inner.log.store().last().is_none() {
        return Ok(());
    }
    let cluster = inner.state().cluster.id.unwrap_or_else(|| system::random().random_range(1..=u64::MAX));
    inner.links.set_cluster(cluster);
    inner.dir.join(ClusterId(cluster))?;
    inner.dir.raise_level(inner.level_max.into())?;
    Ok(())
}

fn spawn_all(inner: &Arc<Inner>, ends: Ends, storage: StorageConfig, on_exit: OnExit) {
    let tasks = &inner.tasks;
    let proposer = Proposer {
        queue: ends.queue,
        level_max: inner.level_max,
        raft: inner.raft.clone(),
        clock: Arc::clone(&inner.clock),
        states: inner.states.clone(),
        leader: inner.leader.subscribe(),
        written: ends.written,
        watch: Arc::clone(&inner.watch),
        timings: inner.timings.clone(),
        proposing: Arc::clone(&inner.proposing),
        stop: inner.stop.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn(proposer.run());
    let rounder = Rounder {
        waiting: ends.rounds,
        raft: inner.raft.clone(),
        watch: Arc::clone(&inner.watch),
        rounding: Arc::clone(&inner.rounding),
        stop: inner.stop.clone(),
    };
    tasks.spawn(rounder.run());
    let driver = Driver {
        node: inner.node,
        elections: Arc::clone(&inner.elections),
        raft: inner.raft.clone(),
        log: inner.log.clone(),
        links: inner.links.clone(),
        votes: ends.votes,
        within: inner.times.vote,
        stop: inner.stop.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn(driver.run());
    let sweep_every = storage.sweep_every;
    let keeper = Keeper {
        inner: Arc::clone(inner),
        storage,
        asked: ends.keep,
        agreed: ends.agreed,
        found: None,
        on_exit: Arc::clone(&on_exit),
    };
    tasks.spawn(keeper.run());
    tasks.spawn(lead::follow(Arc::clone(inner)));
    tasks.spawn(blobs::tend(Arc::clone(inner), sweep_every));
    tasks.spawn(leave::notice(Arc::clone(inner), Arc::clone(&on_exit)));
    tasks.spawn(end_on_fault(Arc::clone(inner), on_exit));
}

/// A node whose log failed it must not go on (STYLE 20).
async fn end_on_fault(inner: Arc<Inner>, on_exit: OnExit) {
    let mut metrics = inner.raft.metrics();
    let fault = tokio::select! {
        () = inner.stop.cancelled() => return,
        fault = metrics.wait_for(|metrics| metrics.running_state.is_err()) => match fault {
            Ok(metrics) => metrics.running_state.clone(),
            // The loop is gone without a word: it panicked.
            Err(_) => Err(Fatal::Panicked),
        },
    };
    match fault {
        Err(Fatal::Stopped) | Ok(()) => {}
        Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => on_exit(&Exit::Fault(error.to_string())),
    }
}
