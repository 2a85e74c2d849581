//! A node: everything that one server process is, put together in one place.
//!
//! It decides nothing; it opens ports, starts the parts in their order, and ends them in the reverse order. Each task
//! that it starts is awaited at shutdown. Start reading at [`Node::start`].

mod alarms;
mod config;
mod door;
mod measure;
mod members;
mod outside;
mod ports;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use matins_core::command::{Command, Proposal};
use matins_core::id::{Digest, Fence, NodeId};
use matins_core::state::settings::{BlockTerms, LeaseTerms};
use matins_core::state::{LogPlace, Settings};
use matins_core::time::Millis;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::execute::{Executor, ExecutorConfig, ExecutorHandle, LeaderAddress, LogFolder};
use crate::history::{Blocks, History, HistoryError, error_chain};
use crate::lead::shell;
use crate::lead::time::LeaderTime;
use crate::metrics::{Bound, ExecutorMetrics, Metrics};
use crate::packs::{Packer, Packs};
use crate::raft::{Consensus, Member, StartConfig, StartError, StorageConfig, exit_process};
use crate::serve::{Door, DoorLimits, Seats, serve};
use crate::shrink::shrunk;
use crate::system::{self, BootTimer, Listener};
use crate::traces;
use config::Identity;
pub use config::{ExecutorSettings, NodeConfig};
use door::{ClusterDoor, LogDoor};
use measure::Measured;
pub use outside::{ExecutorProcess, ExecutorProcessConfig};

/// How long attaching a pack of logs may take.
const ATTACH_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// With fewer files the bounds of connections are lower than a cluster may need.
const OPEN_FILES_WANTED: u64 = 4_096;

/// How long a leader that is told to stop tries to hand its lead over.
const HAND_OVER_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// What it was told does not fit together; all faults at once.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// A port is taken, or the address is not of this machine.
    #[error("cannot listen on {address} ({what} port)")]
    Listen {
        /// Which port.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Consensus did not start.
    #[error(transparent)]
    Consensus(#[from] StartError),
    /// Another process runs under this node's id.
    #[error("{node} runs already, and answers at {address}: this data directory is a copy of its own")]
    Twin {
        /// The node.
        node: NodeId,
        /// Where it answers.
        address: String,
    },
    /// The index of history does not open.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The machine gives no timer: this process may open no more files.
    #[error("cannot make a timer")]
    Timer(#[source] io::Error),
    /// The executor's folder cannot be used.
    #[error("cannot use the executor's folder {}", folder.display())]
    Executor {
        /// Which one.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A running node.
pub struct Node {
    consensus: Consensus,
    history: History,
    executor: Option<ExecutorHandle>,
    public: SocketAddr,
    cluster: SocketAddr,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    /// Starts a node. When it answers, both ports are open.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(NodeError::Config(faults));
        }
        let files = open_files();
        let public = listen("public", config.public_listen).await?;
        let cluster = listen("cluster", config.cluster_listen).await?;
        let (public_at, cluster_at) = (address_of(&public), address_of(&cluster));
        let member = Member {
            name: config.name.clone(),
            cluster_address: config.cluster_address.clone().unwrap_or_else(|| cluster_at.to_string()),
            public_address: config.public_address.clone().unwrap_or_else(|| public_at.to_string()),
        };
        let clock = Arc::new(LeaderTime::new());
        let start = StartConfig {
            storage: StorageConfig { limits: config.disk, ..StorageConfig::default() },
            data_dir: config.data_dir.clone(),
            member,
            times: config.times.clone(),
            level_max: config.level_max,
            on_exit: Arc::new(exit_process),
        };
        // On the heap: what it waits for would else lie on the stack of everybody who starts a node.
        let consensus = Box::pin(Consensus::start(start, clock.clone())).await?;
        if let Some(address) = consensus.find_twin().await {
            let node = consensus.node();
            consensus.stop().await;
            return Err(NodeError::Twin { node, address });
        }
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let blobs = Arc::new(BlobDoor { consensus: consensus.clone() });
        let folder = config.data_dir.join("history");
        let history = History::open(&folder, blobs.clone(), consensus.states())?;
        let executor = start_executor(&config, &consensus, &blobs, (&tasks, &stopping))?;
        let own_logs = executor.as_ref().map(|executor| (executor.logs(), executor.metrics()));
        let parts = Parts {
            consensus: consensus.clone(),
            history: history.clone(),
            clock,
            timer: BootTimer::new().map_err(NodeError::Timer)?,
            own_logs,
            blobs,
            config,
        };
        parts.spawn((public, cluster, files), &tasks, &stopping);
        tracing::info!(node = %consensus.node(), public = %public_at, cluster = %cluster_at, "listening");
        Ok(Self { consensus, history, executor, public: public_at, cluster: cluster_at, stopping, tasks })
    }

    /// Where it listens for clients.
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// Where it listens for nodes and executors.
    pub fn cluster_address(&self) -> SocketAddr {
        self.cluster
    }

    /// Its part in consensus.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Stops the node. If it leads, another node leads first, so that nobody waits for an election. Tasks of its executor go
    /// on under their supervisor until their lease ends or the node is back.
    pub async fn stop(self) {
        self.give_up_lead().await;
        self.stopping.cancel();
        if let Some(executor) = self.executor {
            executor.shutdown().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.history.close().await;
        self.consensus.stop().await;
    }

    async fn give_up_lead(&self) {
        let leads = self.consensus.leader().borrow().leading.is_some();
        if !leads || self.consensus.members().voters().len() < 2 {
            return;
        }
        match tokio::time::timeout(HAND_OVER_WITHIN, self.consensus.hand_over(None)).await {
            Ok(Ok(leader)) => tracing::info!(%leader, "handed the lead over before stopping"),
            Ok(Err(error)) => tracing::warn!("stops while it leads: {error}"),
            Err(_) => tracing::warn!("stops while it leads: nobody took the lead over in time"),
        }
    }
}

/// What runs beside consensus.
struct Parts {
    consensus: Consensus,
    history: History,
    clock: Arc<LeaderTime>,
    timer: BootTimer,
    /// Those of its executor, and what that counts.
    own_logs: Option<(LogFolder, ExecutorMetrics)>,
    blobs: Arc<BlobDoor>,
    config: NodeConfig,
}

impl Parts {
    fn spawn(
        self,
        (public, cluster, files): (Listener, Listener, usize),
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) {
        let times = (self.clock.clone(), self.timer);
        let (lead, leading) =
            shell::spawn(self.consensus.clone(), times, self.history.clone(), stopping.clone());
        tasks.spawn(async move {
            if let Err(error) = leading.await {
                tracing::error!(%error, "the task that leads ended badly");
            }
        });
        let history = self.history.clone().keep_up();
        tasks.spawn(until(stopping.clone(), history));
        let (own_logs, executor) = self.own_logs.clone().unzip();
        if let Some(logs) = self.own_logs {
            let news = (self.consensus.states(), self.consensus.subscribe());
            let packer = Packer::new(self.consensus.node(), logs, self.blobs, news);
            tasks.spawn(until(stopping.clone(), packer.run()));
        }
        let metrics = Metrics::new(self.consensus.timings(), executor);
        let seats = Seats::new(Bound::ClusterConnections, files / 4, metrics.door());
        tasks.spawn(ports::serve_cluster(
            (cluster, seats),
            (self.consensus.clone(), lead.clone(), own_logs.clone()),
            stopping.clone(),
        ));
        tasks.spawn(until(stopping.clone(), measure::count_entries(self.consensus.clone(), metrics.clone())));
        tasks.spawn(until(stopping.clone(), measure::watch_leader(self.consensus.clone(), metrics.clone())));
        if let Some(traces) = self.config.traces.clone() {
            let own = (self.config.name.clone(), metrics.counts().clone());
            let from = (self.consensus.clone(), self.clock.clone());
            tasks.spawn(traces::follow(traces, from, own, stopping.clone()));
        }
        let (counts, hosts) = (metrics.door().clone(), self.config.hosts());
        let metrics = Arc::new(Measured {
            metrics,
            consensus: self.consensus.clone(),
            clock: self.clock.clone(),
            data_dir: self.config.data_dir,
        });
        let length = Millis(self.consensus.times().lease.as_millis() as u64);
        let lease = LeaseTerms { length, ..LeaseTerms::default() };
        let settings = Settings { lease, blocks: shrunk_blocks(), ..Settings::default() };
        let door = Door {
            listener: public,
            cluster: Arc::new(ClusterDoor {
                consensus: self.consensus.clone(),
                lead,
                clock: self.clock,
                settings,
                counts: counts.clone(),
            }),
            history: Arc::new(self.history),
            logs: Arc::new(LogDoor { consensus: self.consensus, own: own_logs }),
            metrics,
            counts,
            hosts,
            limits: limits(files),
            stopping: stopping.clone(),
        };
        // Clients can keep every thread busy that they are given; consensus and leases must not wait for one.
        tasks.spawn(async move {
            match system::apart("clients", serve(door)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(error = error_chain(&error), "the public port ended"),
                Err(error) => tracing::error!(%error, "there are no threads for the public port"),
            }
        });
    }
}

/// What a new cluster's history is made in; smaller where a test wants to see it within seconds.
fn shrunk_blocks() -> BlockTerms {
    let BlockTerms { gathered_bytes, wait_max } = BlockTerms::default();
    BlockTerms { gathered_bytes: shrunk(gathered_bytes), wait_max: Millis(shrunk(wait_max.0)) }
}

/// Runs something for as long as the node lives.
async fn until(stopping: CancellationToken, run: impl Future<Output = ()>) {
    stopping.run_until_cancelled(run).await;
}

/// Raises the limit of open files, and says how many these are. What is left of them is for the log, for blobs, and for tasks.
fn open_files() -> usize {
    let files = system::raise_open_files();
    if files < OPEN_FILES_WANTED {
        tracing::warn!(
            files,
            wanted = OPEN_FILES_WANTED,
            "few files may be open, so few connections are taken: raise `ulimit -n` (LimitNOFILE= of systemd)"
        );
    }
    usize::try_from(files).unwrap_or(usize::MAX)
}

/// Half of the files that may be open are for clients, at most.
fn limits(files: usize) -> DoorLimits {
    let limits = DoorLimits::default();
    DoorLimits { connections_max: limits.connections_max.min(files / 2), ..limits }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<Listener, NodeError> {
    system::listen(address).await.map_err(|source| NodeError::Listen { what, address, source })
}

fn address_of(listener: &Listener) -> SocketAddr {
    listener.local_addr().expect("a listener that is bound has an address")
}

fn start_executor(
    config: &NodeConfig,
    consensus: &Consensus,
    blobs: &Arc<BlobDoor>,
    (tasks, stopping): (&TaskTracker, &CancellationToken),
) -> Result<Option<ExecutorHandle>, NodeError> {
    let Some(settings) = config.executor.clone() else { return Ok(None) };
    let level = u32::from(config.level_max);
    let identity =
        Identity { node: consensus.node(), name: config.name.clone(), address: String::new(), level };
    let leader = leader_address(consensus, tasks, stopping);
    spawn_executor(settings.executor(&config.data_dir, identity), leader, blobs.clone()).map(Some)
}

/// Starts an executor, of a node or without one.
fn spawn_executor(
    config: ExecutorConfig,
    leader: watch::Receiver<Option<LeaderAddress>>,
    blobs: Arc<dyn crate::execute::Blobs>,
) -> Result<ExecutorHandle, NodeError> {
    let folder = config.dir.clone();
    Executor::spawn(config, leader, blobs).map_err(|source| NodeError::Executor { folder, source })
}

/// The leader's cluster port, as this node knows it.
fn leader_address(
    consensus: &Consensus,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> watch::Receiver<Option<LeaderAddress>> {
    let (address, seen) = watch::channel(None);
    let (mut leader, consensus, stopping) = (consensus.leader(), consensus.clone(), stopping.clone());
    tasks.spawn(async move {
        let follow = async {
            loop {
                let known = leader.borrow_and_update().leader.clone();
                let cluster = consensus.cluster().unwrap_or(0);
                let known =
                    known.map(|(_, member)| LeaderAddress { address: member.cluster_address, cluster });
                tell_if_new(&address, known);
                if leader.changed().await.is_err() {
                    return;
                }
            }
        };
        stopping.run_until_cancelled(follow).await;
    });
    seen
}

/// Wakes those who watch only if there is something new to see.
fn tell_if_new<T: PartialEq>(seen: &watch::Sender<T>, known: T) {
    seen.send_if_modified(|before| {
        let is_new = *before != known;
        *before = known;
        is_new
    });
}

/// Blobs, blocks and packs: consensus behind the traits of those who need bytes by digest.
struct BlobDoor {
    consensus: Consensus,
}

#[tonic::async_trait]
impl crate::execute::Blobs for BlobDoor {
    async fn fetch(&self, digest: Digest) -> io::Result<PathBuf> {
        self.consensus.blob_file(digest).await.map_err(io::Error::other)
    }

    async fn store(&self, bytes: Vec<u8>) -> io::Result<Digest> {
        self.consensus.store_blob(bytes.into()).await.map_err(io::Error::other)
    }
}

#[tonic::async_trait]
impl Blocks for BlobDoor {
    async fn block(&self, digest: Digest) -> Result<Bytes, String> {
        self.consensus.get_blob(digest).await.map_err(|error| error_chain(&error))
    }

    async fn part(&self, digest: Digest, place: Range<usize>) -> Option<Bytes> {
        self.consensus.part_of_blob(digest, place).await
    }
}

#[tonic::async_trait]
impl Packs for BlobDoor {
    async fn put(&self, bytes: Bytes) -> Result<Digest, String> {
        self.consensus.put_blob(bytes).await.map_err(|error| error_chain(&error))
    }

    async fn attach(&self, logs: Vec<(Fence, LogPlace)>) -> Result<(), String> {
        // Attaching twice changes nothing, so it needs no request id.
        let proposal = Proposal { request: None, leadership: None, command: Command::AttachLogs(logs) };
        let answered = self.consensus.forward(proposal, ATTACH_WITHIN).await;
        let answered = answered.map_err(|error| error_chain(&error))?;
        answered.answer.map(drop).map_err(|refusal| refusal.to_string())
    }
}
