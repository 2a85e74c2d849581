//! Clusters of real nodes in one process, on loopback, with directories of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matins_core::command::{Command, Proposal, Readings, Request};
use matins_core::id::{LogIndex, NodeId};
use matins_core::state::Settings;
use matins_core::time::{Millis, Timestamp};
use matins_core::{LEVEL, State};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::system::{boot_time, wall_time};

mod leading;
mod levels;
mod members;
mod snapshots;
mod suite;
mod working;

/// Every wait of a test ends by then.
const DEADLINE: Duration = Duration::from_secs(9);

/// Leader time without its finer points: the majority's wall clocks, running on.
#[derive(Default)]
struct MajorityClock {
    readings: Mutex<Option<Readings>>,
}

impl EntryClock for MajorityClock {
    fn observe(&self, voters: usize, readings: &[ClockReading]) {
        let mut by_node: Vec<_> = readings.iter().map(|reading| (reading.node, reading.wall)).collect();
        by_node.sort_by_key(|(_, wall)| std::cmp::Reverse(*wall));
        let majority = by_node.get(voters / 2).map(|(_, wall)| *wall);
        let readings = majority.map(|majority| Readings { majority, by_node });
        if let Some(readings) = readings {
            *self.readings.lock().unwrap() = Some(readings);
        }
    }

    fn readings(&self) -> Option<Readings> {
        self.readings.lock().unwrap().clone()
    }

    fn at(&self, state: &State) -> Timestamp {
        state.now.max(wall_time())
    }

    fn applied(&self, _now: Timestamp) {}
}

struct TestNode {
    consensus: Consensus,
    address: SocketAddr,
    dir: PathBuf,
    exits: Arc<Mutex<Vec<Exit>>>,
    server: JoinHandle<()>,
    close: CancellationToken,
}

impl TestNode {
    async fn start(dir: PathBuf, address: Option<SocketAddr>) -> Self {
        Self::of_level(dir, address, LEVEL).await
    }

    /// As a release that supports this feature level starts it.
    async fn of_level(dir: PathBuf, address: Option<SocketAddr>, level_max: u16) -> Self {
        let listener =
            TcpListener::bind(address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = config(dir.clone(), address, level_max);
        let exits = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&exits);
        let on_exit: OnExit = Arc::new(move |exit| noted.lock().unwrap().push(exit.clone()));
        let config = StartConfig { on_exit, ..config };
        let consensus = Consensus::start(config, Arc::new(MajorityClock::default())).await.unwrap();
        let close = CancellationToken::new();
        let served = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(consensus.peer_service())
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), close.clone().cancelled_owned());
        let server = tokio::spawn(async move { served.await.unwrap() });
        Self { consensus, address, dir, exits, server, close }
    }

    /// Gone without a word to the others, as a killed process is; its directory is free afterwards.
    async fn kill(self) -> (PathBuf, SocketAddr) {
        self.consensus.stop().await;
        self.close.cancel();
        timeout(DEADLINE, self.server).await.expect("connections end").unwrap();
        (self.dir, self.address)
    }

    async fn restart(self) -> Self {
        let (dir, address) = self.kill().await;
        Self::start(dir, Some(address)).await
    }

    /// A change of the membership that nobody asked for before.
    async fn change(&self, change: MemberChange) -> Result<NodeId, ChangeError> {
        let request = format!("request-{}", boot_time().0).parse().unwrap();
        timeout(DEADLINE * 2, self.consensus.change_members(&request, change)).await.expect("in time")
    }

    fn is_ready(&self) -> bool {
        self.consensus.leader().borrow().leading.is_some()
    }
}

/// What a node is started with; its end is nobody's concern.
fn config(dir: PathBuf, address: SocketAddr, level_max: u16) -> StartConfig {
    StartConfig {
        level_max,
        member: Member {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            cluster_address: address.to_string(),
            public_address: String::new(),
        },
        data_dir: dir,
        times: RaftTimes::default(),
        storage: StorageConfig::default(),
        on_exit: Arc::new(|_| {}),
    }
}

struct Cluster {
    nodes: Vec<TestNode>,
    root: TempDir,
}

impl Cluster {
    /// A cluster of so many voters; the first one has made it.
    async fn of(count: usize) -> Self {
        let mut cluster = Self { nodes: Vec::new(), root: TempDir::new().unwrap() };
        cluster.start_empty().await;
        cluster.nodes[0].consensus.init(Settings::default()).await.unwrap();
        for _ in 1..count {
            cluster.add().await;
        }
        cluster
    }

    async fn start_empty(&mut self) {
        let made = std::fs::read_dir(self.root.path()).unwrap().count();
        let dir = self.root.path().join(format!("node-{made}"));
        self.nodes.push(TestNode::start(dir, None).await);
    }

    async fn add(&mut self) -> NodeId {
        self.start_empty().await;
        let address = self.nodes.last().unwrap().address.to_string();
        let leader = self.leader().await;
        leader.change(add(&address)).await.unwrap()
    }

    /// The node that is ready to lead, within the deadline.
    async fn leader(&self) -> &TestNode {
        let index = self.leader_index().await;
        &self.nodes[index]
    }

    async fn leader_index(&self) -> usize {
        wait_for("a leader that is ready", || self.nodes.iter().position(TestNode::is_ready)).await
    }

    async fn follower(&self) -> &TestNode {
        let leader = self.leader_index().await;
        &self.nodes[(leader + 1) % self.nodes.len()]
    }

    /// Waits until all nodes have applied the same, and compares their states by hash (I11).
    async fn agree(&self) {
        wait_for("equal states", || {
            let states: Vec<_> = self.nodes.iter().map(|node| node.consensus.state()).collect();
            let is_equal = states.iter().all(|state| state.index == states[0].index);
            is_equal.then(|| states.iter().for_each(|state| assert_eq!(state.hash(), states[0].hash())))
        })
        .await;
    }
}

async fn wait_for<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(it) = is_so() {
            return it;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn add(address: &str) -> MemberChange {
    MemberChange { add: Some(address.to_owned()), ..MemberChange::default() }
}

fn remove(node: NodeId) -> MemberChange {
    MemberChange { remove: Some(node.to_string()), ..MemberChange::default() }
}

/// A harmless command that can be seen in the state.
fn set_pool(name: &str, slots: u32) -> Proposal {
    let command = Command::SetPool { pool: name.parse().unwrap(), slots, description: String::new() };
    Proposal { request: None, leadership: None, command }
}

/// The same, safe to repeat.
fn set_pool_once(state: &State, name: &str, slots: u32) -> Proposal {
    let not_after = state.now + Millis::from_mins(10);
    let id = format!("request-{name}-{slots}").parse().unwrap();
    Proposal { request: Some(Request { id, not_after }), ..set_pool(name, slots) }
}

fn slots(state: &State, name: &str) -> Option<u32> {
    state.pools.get(&name.parse().unwrap()).map(|pool| pool.slots)
}
