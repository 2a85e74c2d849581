//! An executor that belongs to no node: a process of its own, without a vote, of which there may be many.
//!
//! It finds the leader through any node's cluster port, keeps the addresses of all nodes fresh, and gets and stores blobs
//! there. Everything else is as with the executor of a node. Its id is drawn when its directory is made, as that of a node
//! is. Start reading at [`ExecutorProcess::start`].

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use matins_core::LEVEL;
use matins_core::command::{Command, Proposal};
use matins_core::id::{ClusterId, Digest, Fence, NodeId};
use matins_core::state::LogPlace;
use matins_proto::v1;
use matins_proto::v1::peer_forward_response::Result as Forwarded;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{ExecutorSettings, Identity, faults_of_port};
use super::measure::disk_of;
use super::{NodeError, address_of, limits, listen, open_files, spawn_executor, tell_if_new};
use crate::execute::{Blobs as TaskBlobs, ExecutorHandle, LeaderAddress};
use crate::history::error_chain;
use crate::metrics::{OutsideMetrics, Scrape};
use crate::packs::{OpenLogs, Packer, Packs};
use crate::raft::{
    Link, Links, Member, Members, StartError, decode, draw_node, members_in, put_there, receive,
};
use crate::serve::{DoorLimits, ExecutorDoor, serve_executor};
use crate::store::blobs::Blobs;
use crate::store::marker::{DataDir, Expected};
use crate::system::{self, boot_time};

/// How often the nodes are asked who belongs to the cluster and who leads.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one call to a node may take, but for blobs.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// How long a blob may be on its way.
const BLOB_WITHIN: Duration = Duration::from_secs(60);
/// How long attaching a pack of logs may take.
const ATTACH_WITHIN: Duration = Duration::from_secs(10);
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
    /// Where nodes read the logs of its attempts, and where its probes and metrics are.
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
        let told = self.address.clone().unwrap_or_else(|| self.listen.to_string());
        if let Some(far) = self.join.iter().find(|node| !is_here(node)).filter(|_| is_here(&told)) {
            faults.push(format!(
                "the node at {far} would look for its logs at {told}, which is another machine there; give \
                 `--listen IP:PORT --insecure` with an address that all nodes reach"
            ));
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

/// Whether `HOST:PORT` means the machine that asks, whichever that is.
fn is_here(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
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
        let open_files = open_files();
        let listener = listen("log", config.listen).await?;
        let address = config.address.clone().unwrap_or_else(|| address_of(&listener).to_string());
        let (root, files) = (config.data_dir.clone(), system::disk());
        let (dir, blobs) = system::blocking(move || {
            if root.join("log").exists() {
                return Err(StartError::Io(io::Error::other(format!("{} is a node's", root.display()))));
            }
            let expected = Expected { node: None, cluster: None, level_max: LEVEL.into() };
            let dir = DataDir::open(Arc::clone(&files), &root, expected, draw_node)?;
            let blobs = Blobs::open(files, &root.join("blobs"))?;
            Ok((dir, blobs))
        })
        .await?;
        let node = dir.marker().node;
        let (leads, leader) = watch::channel(None);
        let links = Links::new(CALL_WITHIN);
        links.set_cluster(dir.marker().cluster.map_or(0, |cluster| cluster.0));
        let nodes = Arc::new(Nodes {
            join: config.join,
            dir,
            links,
            blobs: Arc::new(blobs),
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            used: Mutex::default(),
            executor: node,
            strange: Mutex::default(),
        });
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        spawn(&tasks, &stopping, Arc::clone(&nodes).follow(leads));
        spawn(&tasks, &stopping, Arc::clone(&nodes).sweep());
        let identity = Identity { node, name: config.name, address, level: LEVEL.into() };
        let executor = config.executor.executor(&config.data_dir, identity);
        let executor = spawn_executor(executor, leader, nodes.clone())?;
        let packer = Packer::asking(node, (executor.logs(), executor.metrics()), nodes.clone(), nodes);
        spawn(&tasks, &stopping, packer.run());
        let metrics = OutsideMetrics::new(executor.metrics());
        let door = ExecutorDoor {
            listener,
            logs: executor.logs(),
            activity: executor.activity(),
            counts: metrics.door().clone(),
            metrics: Arc::new(OutsideScrape { metrics, data_dir: config.data_dir }),
            limits: limits_of_port(open_files),
            stopping: stopping.clone(),
        };
        tasks.spawn(async move {
            if let Err(error) = serve_executor(door).await {
                tracing::error!(error = error_chain(&error), "the port for logs and probes ended");
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

/// As at a node's public port; a stream holds two files here, the log and the watch of it.
fn limits_of_port(open_files: usize) -> DoorLimits {
    let limits = limits(open_files);
    DoorLimits { streams_max: limits.streams_max.min(open_files / 8), ..limits }
}

fn spawn(tasks: &TaskTracker, stopping: &CancellationToken, run: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(stopping.clone().run_until_cancelled_owned(run));
}

/// An executor without a node, as its metrics see it.
struct OutsideScrape {
    metrics: OutsideMetrics,
    data_dir: PathBuf,
}

impl Scrape for OutsideScrape {
    fn scrape(&self) -> String {
        self.metrics.text(disk_of(&self.data_dir), boot_time())
    }
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
struct Known {
    members: Members,
    leader: Option<NodeId>,
}

/// The nodes, as this process knows them, and the blobs that it keeps.
struct Nodes {
    join: Vec<String>,
    dir: DataDir,
    links: Links,
    blobs: Arc<Blobs>,
    known: Mutex<Known>,
    /// One fetch of a blob at a time: two would write one file.
    fetching: tokio::sync::Mutex<()>,
    /// Blobs that tasks asked for since the last sweep.
    used: Mutex<BTreeSet<Digest>>,
    executor: NodeId,
    /// The cluster of a node that was passed over last.
    strange: Mutex<Option<u64>>,
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
        let known = self.known();
        let addresses = known.members.nodes.values().map(|member| member.cluster_address.clone());
        let addresses: BTreeSet<String> = addresses.chain(self.join.iter().cloned()).collect();
        for address in addresses {
            let Ok(mut link) = self.links.at(&address) else { continue };
            let asked = link.control.members(v1::PeerMembersRequest {});
            let answer = tokio::time::timeout(CALL_WITHIN, asked).await;
            let Ok(Ok(answer)) = answer else { continue };
            let answer = answer.into_inner();
            let cluster = answer.cluster;
            let leader = Some(NodeId(answer.leader)).filter(|leader| leader.0 != 0);
            if answer.cluster == 0 || leader.is_none() || !self.is_ours(answer.cluster) {
                continue;
            }
            let known = Known { members: members_in(answer), leader };
            let address = leader.and_then(|leader| known.members.nodes.get(&leader));
            let address = address.map(|member| member.cluster_address.clone());
            let address = address.map(|address| LeaderAddress { address, cluster });
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
            tell_if_new(leads, address);
            return;
        }
    }

    /// The first cluster that it meets is its cluster for good.
    fn is_ours(&self, cluster: u64) -> bool {
        match self.dir.join(ClusterId(cluster)) {
            Ok(()) => self.links.set_cluster(cluster),
            Err(error) => {
                // Once, and not once a second.
                let told = self.strange.lock().unwrap_or_else(PoisonError::into_inner).replace(cluster);
                if told != Some(cluster) {
                    tracing::warn!(
                        cluster = format!("{cluster:016x}"),
                        error = error_chain(&error),
                        "a node that this executor was to join is of another cluster; to move it there, start it with an empty data directory"
                    );
                }
                return false;
            }
        }
        true
    }

    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes and the connections to them, the leader first.
    fn nodes(&self) -> Vec<(NodeId, Link)> {
        let Known { members, leader } = self.known();
        let mut nodes: Vec<(NodeId, Member)> = members.nodes.into_iter().collect();
        nodes.sort_by_key(|(node, _)| Some(*node) != leader);
        let link =
            |(node, member): (NodeId, Member)| Some((node, self.links.at(&member.cluster_address).ok()?));
        nodes.into_iter().filter_map(link).collect()
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

    /// Stores a blob on a majority of the voters.
    async fn put_everywhere(&self, bytes: Bytes) -> Result<Digest, String> {
        let digest = Digest::of(&bytes);
        let members = self.known().members;
        let voters = members.voters();
        let puts = self.nodes().into_iter().filter(|(node, _)| voters.contains(node));
        let puts = puts.map(|(node, link)| {
            let put = put_there(link, self.links.address_to(node), digest, bytes.clone());
            async move { matches!(tokio::time::timeout(BLOB_WITHIN, put).await, Ok(Ok(()))).then_some(node) }
        });
        let stored = futures::future::join_all(puts).await.into_iter().flatten().collect();
        if members.is_majority(&stored) {
            return Ok(digest);
        }
        Err(format!("{} of {} voters took the blob, and a majority is needed", stored.len(), voters.len()))
    }
}

#[tonic::async_trait]
impl TaskBlobs for Nodes {
    async fn fetch(&self, digest: Digest) -> io::Result<PathBuf> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        let _fetching = self.fetching.lock().await;
        if self.blobs.has(&digest) {
            return Ok(self.blobs.path(&digest));
        }
        let mut why = "no node is known yet".to_owned();
        for (node, link) in self.nodes() {
            let received = receive(&self.blobs, link, self.links.address_to(node), digest);
            match tokio::time::timeout(BLOB_WITHIN, received).await {
                Ok(Ok(())) => return Ok(self.blobs.path(&digest)),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => "it takes too long".clone_into(&mut why),
            }
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
        let Some((leader, mut link)) = self.nodes().into_iter().next() else {
            return Err("no node is known yet".into());
        };
        let to = Some(self.links.address_to(leader));
        let within_ms = ATTACH_WITHIN.as_millis() as u64;
        let request = v1::PeerForwardRequest { to, proposal: bytes.into(), within_ms };
        match tokio::time::timeout(ATTACH_WITHIN, link.commands.forward(request)).await {
            Ok(Ok(answer)) => match answer.get_ref().result() {
                Forwarded::Answered => match decode(&answer.get_ref().answer) {
                    Some(answer) => answer.map(drop).map_err(|refusal| refusal.to_string()),
                    None => Err("the leader answered in a form that this release does not know".into()),
                },
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
        for (node, mut link) in self.nodes() {
            let to = Some(self.links.address_to(node));
            let request = v1::PeerLogsRequest { to, executor: self.executor.0, fences: fences.clone() };
            if let Ok(Ok(answer)) = tokio::time::timeout(CALL_WITHIN, link.control.logs(request)).await {
                let answer = answer.into_inner();
                let fences = |fences: Vec<u64>| fences.into_iter().map(Fence).collect();
                return Some((fences(answer.open), fences(answer.settled)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::execute::TaskEnvironment;

    #[test]
    fn nodes_elsewhere_must_be_able_to_read_its_logs() {
        let config = |join: &str, listen: &str, advertise: Option<&str>| ExecutorProcessConfig {
            data_dir: "/var/lib/matins-executor".into(),
            name: "tasks".into(),
            join: vec![join.into()],
            listen: listen.parse().unwrap(),
            address: advertise.map(Into::into),
            is_insecure: true,
            executor: ExecutorSettings {
                slots: 1,
                labels: BTreeMap::new(),
                environment: TaskEnvironment::default(),
                cgroup: None,
            },
        };
        let near = ["127.0.0.1:7071", "[::1]:7071", "localhost:7071"];
        assert!(near.iter().all(|node| config(node, "127.0.0.1:7072", None).faults().is_empty()));
        let faults = config("10.0.0.1:7071", "127.0.0.1:7072", None).faults();
        assert!(
            matches!(&faults[..], [fault] if fault.contains("10.0.0.1:7071") && fault.contains("--listen"))
        );
        assert!(!config("n1:7071", "0.0.0.0:7072", Some("127.0.0.1:7072")).faults().is_empty());
        assert_eq!(config("n1:7071", "10.0.0.4:7072", None).faults(), [""; 0]);
        assert_eq!(config("n1:7071", "0.0.0.0:7072", Some("tasks:7072")).faults(), [""; 0]);
    }
}
