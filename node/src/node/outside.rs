//! An executor that belongs to no node: a process of its own, without a vote, of which there may be many.
//!
//! It finds the leader through any node's cluster port, keeps the addresses of all nodes fresh, and gets and stores blobs
//! there. Everything else is as with the executor of a node. Its id is drawn when its directory is made, as that of a node
//! is. Start reading at [`ExecutorProcess::start`].

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use matins_core::LEVEL;
use matins_core::command::{Command, Proposal};
use matins_core::id::{ClusterId, Digest, Fence, NodeId};
use matins_core::state::LogPlace;
use matins_proto::v1;
use matins_proto::v1::attempt_logs_server::AttemptLogsServer;
use matins_proto::v1::peer_client::PeerClient;
use matins_proto::v1::peer_forward_response::Result as Forwarded;
use rand::Rng as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Server};

use super::config::{ExecutorSettings, faults_of_port};
use super::{NodeError, address_of, listen};
use crate::execute::{Blobs as TaskBlobs, Executor, ExecutorConfig, ExecutorHandle, LeaderAddress};
use crate::history::error_chain;
use crate::packs::{OpenLogs, Packer, Packs};
use crate::raft::{Member, Members, StartError, members_in};
use crate::store::blobs::Blobs;
use crate::store::marker::{DataDir, Expected};
use crate::system::{self, connect_lazy, incoming};

/// How often the nodes are asked who belongs to the cluster and who leads.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one call to a node may take, but for blobs.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// How long a blob may be on its way.
const BLOB_WITHIN: Duration = Duration::from_secs(60);
/// How long attaching a pack of logs may take.
const ATTACH_WITHIN: Duration = Duration::from_secs(10);
/// A blob goes to a node in parts of this size.
const PART_BYTES: usize = 256 << 10;
/// The largest message: a part of a blob, or the logs of one command.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// A blob that no task has asked for in so long is dropped; it can be fetched again.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often that is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What an executor without a node is told when it starts.
#[derive(Clone, Debug)]
pub struct ExecutorProcessConfig {
    /// Everything that it keeps lies below; absolute.
    pub data_dir: PathBuf,
    /// A label for people.
    pub name: String,
    /// Cluster ports of nodes, one at least; the others are learnt from them.
    pub join: Vec<String>,
    /// Where nodes read the logs of its attempts.
    pub listen: SocketAddr,
    /// Host and port as nodes reach it; `None`: what it listens on.
    pub address: Option<String>,
    /// Whether it may listen on other addresses than loopback without TLS and tokens (DESIGN 4).
    pub is_insecure: bool,
    /// What runs tasks.
    pub executor: ExecutorSettings,
}

impl ExecutorProcessConfig {
    /// All faults at once, each with what to do about it; empty if it can be used.
    pub fn faults(&self) -> Vec<String> {
        let mut faults =
            faults_of_port(("log", "--advertise"), self.listen, self.address.as_ref(), self.is_insecure);
        if self.join.is_empty() {
            faults.push("it joins nobody; give the cluster port of a node with `--join HOST:PORT`".into());
        }
        if self.executor.slots == 0 {
            faults.push("an executor needs one slot at least".into());
        }
        if !self.data_dir.is_absolute() {
            faults.push(format!("the data directory {} is not an absolute path", self.data_dir.display()));
        }
        faults
    }
}

/// A running executor that belongs to no node.
pub struct ExecutorProcess {
    node: NodeId,
    executor: ExecutorHandle,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl ExecutorProcess {
    /// Starts it. It waits for a cluster as long as there is none.
    pub async fn start(config: ExecutorProcessConfig) -> Result<Self, NodeError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(NodeError::Config(faults));
        }
        let listener = listen("log", config.listen).await?;
        let address = config.address.clone().unwrap_or_else(|| address_of(&listener).to_string());
        let (root, files) = (config.data_dir.clone(), system::disk());
        let (dir, blobs) = system::blocking(move || {
            if root.join("log").exists() {
                return Err(StartError::Io(io::Error::other(format!("{} is a node's", root.display()))));
            }
            let expected = Expected { node: None, cluster: None, level_max: LEVEL.into() };
            let draw = || NodeId(system::random().random_range(1..=u64::from(u32::MAX)));
            let dir = DataDir::open(Arc::clone(&files), &root, expected, draw)?;
            let blobs = Blobs::open(files, &root.join("blobs"))?;
            Ok((dir, blobs))
        })
        .await?;
        let node = dir.marker().node;
        let (leads, leader) = watch::channel(None);
        let nodes = Arc::new(Nodes {
            join: config.join.clone(),
            dir,
            blobs,
            known: watch::Sender::new(Known::default()),
            used: Mutex::default(),
            executor: node,
        });
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        spawn(&tasks, &stopping, Arc::clone(&nodes).follow(leads));
        spawn(&tasks, &stopping, Arc::clone(&nodes).sweep());
        let executor = start_executor(&config, node, address, leader, &nodes)?;
        let packer = Packer::asking(node, executor.logs(), nodes.clone(), nodes);
        spawn(&tasks, &stopping, packer.run());
        let served = Server::builder()
            .tcp_nodelay(true)
            .add_service(AttemptLogsServer::new(executor.logs()))
            .serve_with_incoming_shutdown(incoming(listener), stopping.clone().cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(error = error_chain(&error), "the port for logs ended");
            }
        });
        tracing::info!(executor = %node, "runs as an executor without a node");
        Ok(Self { node, executor, stopping, tasks })
    }

    /// Its id, in the list of executors.
    pub fn id(&self) -> NodeId {
        self.node
    }

    /// Stops it. Its tasks go on under their supervisor until their lease ends or it is back.
    pub async fn stop(self) {
        self.stopping.cancel();
        self.executor.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn spawn(tasks: &TaskTracker, stopping: &CancellationToken, run: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(stopping.clone().run_until_cancelled_owned(run));
}

fn start_executor(
    config: &ExecutorProcessConfig,
    node: NodeId,
    address: String,
    leader: watch::Receiver<Option<LeaderAddress>>,
    nodes: &Arc<Nodes>,
) -> Result<ExecutorHandle, NodeError> {
    let folder = config.data_dir.join("executor");
    let settings = config.executor.clone();
    let executor = ExecutorConfig {
        dir: folder.clone(),
        node,
        name: config.name.clone(),
        slots: settings.slots,
        labels: settings.labels,
        address,
        level: u32::from(LEVEL),
        environment: settings.environment,
        program: None,
        cgroup: settings.cgroup,
    };
    let handle =
        std::fs::create_dir_all(&folder).and_then(|()| Executor::spawn(executor, leader, nodes.clone()));
    handle.map_err(|source| NodeError::Executor { folder, source })
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
struct Known {
    cluster: u64,
    members: Members,
    leader: Option<NodeId>,
}

/// The nodes, as this process knows them, and the blobs that it keeps.
struct Nodes {
    join: Vec<String>,
    dir: DataDir,
    blobs: Blobs,
    known: watch::Sender<Known>,
    /// Blobs that tasks asked for since the last sweep.
    used: Mutex<BTreeSet<Digest>>,
    executor: NodeId,
}

impl Nodes {
    /// Asks the nodes again and again who they are and who leads.
    async fn follow(self: Arc<Self>, leads: watch::Sender<Option<LeaderAddress>>) {
        loop {
            self.look(&leads).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The first node that knows who leads is believed; where it is wrong the leader's own word corrects it.
    async fn look(&self, leads: &watch::Sender<Option<LeaderAddress>>) {
        let known = self.known.borrow().clone();
        let addresses = known.members.nodes.values().map(|member| member.cluster_address.clone());
        let addresses: BTreeSet<String> = addresses.chain(self.join.iter().cloned()).collect();
        for address in addresses {
            let Some(mut node) = client(&address) else { continue };
            let answer = tokio::time::timeout(CALL_WITHIN, node.members(v1::PeerMembersRequest {})).await;
            let Ok(Ok(answer)) = answer else { continue };
            let answer = answer.into_inner();
            let leader = Some(NodeId(answer.leader)).filter(|leader| leader.0 != 0);
            if answer.cluster == 0 || leader.is_none() || !self.is_ours(answer.cluster) {
                continue;
            }
            let known = Known { cluster: answer.cluster, members: members_in(answer), leader };
            let address = leader.and_then(|leader| known.members.nodes.get(&leader));
            let address = address.map(|member| LeaderAddress(member.cluster_address.clone()));
            self.known.send_replace(known);
            leads.send_if_modified(|before| {
                let is_new = *before != address;
                before.clone_from(&address);
                is_new
            });
            return;
        }
    }

    /// The first cluster that it meets is its cluster for good.
    fn is_ours(&self, cluster: u64) -> bool {
        let joined = self.dir.join(ClusterId(cluster));
        if let Err(error) = &joined {
            tracing::warn!(error = error_chain(error), "passes over a node");
        }
        joined.is_ok()
    }

    fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// The node and a client for it, the leader first.
    fn clients(&self) -> Vec<(v1::PeerTo, NodeId, PeerClient<Channel>)> {
        let Known { cluster, members, leader } = self.known();
        let mut nodes: Vec<(NodeId, Member)> = members.nodes.into_iter().collect();
        nodes.sort_by_key(|(node, _)| Some(*node) != leader);
        let client = |(node, member): (NodeId, Member)| {
            Some((v1::PeerTo { cluster, node: node.0 }, node, client(&member.cluster_address)?))
        };
        nodes.into_iter().filter_map(client).collect()
    }

    /// Drops blobs that no task has asked for in a day.
    async fn sweep(self: Arc<Self>) {
        let mut unused_for: std::collections::BTreeMap<Digest, Duration> = std::collections::BTreeMap::new();
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
            for (digest, _) in self.blobs.list() {
                let unused = unused_for.entry(digest).or_default();
                *unused = if used.contains(&digest) { Duration::ZERO } else { *unused + SWEEP_EVERY };
                if *unused >= KEPT_FOR
                    && let Err(error) = self.blobs.delete(&digest)
                {
                    tracing::warn!(%digest, "cannot delete a blob: {error}");
                }
            }
            unused_for.retain(|digest, _| self.blobs.has(digest));
        }
    }

    async fn fetch_from(
        &self,
        to: v1::PeerTo,
        mut node: PeerClient<Channel>,
        digest: Digest,
    ) -> Result<(), String> {
        let mut offset = self.blobs.received(&digest).map_err(|error| error.to_string())?;
        let request =
            v1::PeerGetBlobRequest { to: Some(to), digest: Bytes::copy_from_slice(&digest.0), offset };
        let said = |status: tonic::Status| status.message().to_owned();
        let mut parts = node.get_blob(request).await.map_err(said)?.into_inner();
        while let Some(part) = parts.message().await.map_err(said)? {
            let received = self.blobs.receive(&digest, offset, &part.part);
            offset = received.map_err(|error| error.to_string())?;
        }
        self.blobs.finish_receive(&digest).map_err(|error| error.to_string())
    }

    /// Stores a blob on a majority of the voters.
    async fn put_everywhere(&self, bytes: Bytes) -> Result<Digest, String> {
        let digest = Digest::of(&bytes);
        let members = self.known().members;
        let voters = members.voters();
        let puts = self.clients().into_iter().filter(|(_, node, _)| voters.contains(node));
        let puts = puts.map(|(to, node, client)| {
            let put = put_there(client, to, digest, bytes.clone());
            async move { matches!(tokio::time::timeout(BLOB_WITHIN, put).await, Ok(Ok(()))).then_some(node) }
        });
        let stored = futures::future::join_all(puts).await.into_iter().flatten().collect();
        if members.is_majority(&stored) {
            return Ok(digest);
        }
        Err(format!("{} of {} voters took the blob, and a majority is needed", stored.len(), voters.len()))
    }
}

fn client(address: &str) -> Option<PeerClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint.connect_timeout(CALL_WITHIN).tcp_nodelay(true);
    let client = PeerClient::new(connect_lazy(&endpoint));
    Some(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
}

async fn put_there(
    mut node: PeerClient<Channel>,
    to: v1::PeerTo,
    digest: Digest,
    bytes: Bytes,
) -> Result<(), tonic::Status> {
    let digest = Bytes::copy_from_slice(&digest.0);
    let head = v1::PeerBlobPart { to: Some(to), digest, ..v1::PeerBlobPart::default() };
    let parts = (0..bytes.len()).step_by(PART_BYTES).map(move |at| {
        let part = bytes.slice(at..bytes.len().min(at + PART_BYTES));
        v1::PeerBlobPart { part, ..v1::PeerBlobPart::default() }
    });
    node.put_blob(tokio_stream::iter(std::iter::once(head).chain(parts))).await.map(drop)
}

#[tonic::async_trait]
impl TaskBlobs for Nodes {
    async fn fetch(&self, digest: Digest) -> io::Result<PathBuf> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        let mut why = "no node is known yet".to_owned();
        if !self.blobs.has(&digest) {
            for (to, _, node) in self.clients() {
                match tokio::time::timeout(BLOB_WITHIN, self.fetch_from(to, node, digest)).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => why = error,
                    Err(_) => "it takes too long".clone_into(&mut why),
                }
            }
        }
        if self.blobs.has(&digest) {
            return Ok(self.blobs.path(&digest));
        }
        Err(io::Error::other(format!("blob {digest} cannot be had: {why}")))
    }

    async fn store(&self, bytes: Vec<u8>) -> io::Result<Digest> {
        self.put_everywhere(bytes.into()).await.map_err(io::Error::other)
    }
}

#[tonic::async_trait]
impl Packs for Nodes {
    async fn put(&self, bytes: Bytes) -> Result<Digest, String> {
        self.put_everywhere(bytes).await
    }

    async fn attach(&self, logs: Vec<(Fence, LogPlace)>) -> Result<(), String> {
        // Attaching twice changes nothing, so it needs no request id.
        let proposal = Proposal { request: None, leadership: None, command: Command::AttachLogs(logs) };
        let bytes = postcard::to_allocvec(&proposal).expect("commands have no sequence of unknown length");
        let Some((to, _, mut leader)) = self.clients().into_iter().next() else {
            return Err("no node is known yet".into());
        };
        let within_ms = ATTACH_WITHIN.as_millis() as u64;
        let request = v1::PeerForwardRequest { to: Some(to), proposal: bytes.into(), within_ms };
        match tokio::time::timeout(ATTACH_WITHIN, leader.forward(request)).await {
            Ok(Ok(answer)) => match answer.get_ref().result() {
                Forwarded::Answered => Ok(()),
                other @ (Forwarded::NotLeader
                | Forwarded::Overloaded
                | Forwarded::TooLarge
                | Forwarded::Unknown
                | Forwarded::Unspecified) => Err(format!("the leader answered {}", other.as_str_name())),
            },
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("the leader does not answer".into()),
        }
    }
}

#[tonic::async_trait]
impl OpenLogs for Nodes {
    async fn look(&self, fences: Vec<Fence>) -> Option<(Vec<Fence>, Vec<Fence>)> {
        let fences: Vec<u64> = fences.into_iter().map(|fence| fence.0).collect();
        for (to, _, mut node) in self.clients() {
            let request =
                v1::PeerLogsRequest { to: Some(to), executor: self.executor.0, fences: fences.clone() };
            if let Ok(Ok(answer)) = tokio::time::timeout(CALL_WITHIN, node.logs(request)).await {
                let answer = answer.into_inner();
                let fences = |fences: Vec<u64>| fences.into_iter().map(Fence).collect();
                return Some((fences(answer.open), fences(answer.settled)));
            }
        }
        None
    }
}
