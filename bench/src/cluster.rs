//! A cluster of real `matins server` processes on loopback, with folders of their own, gone when it is dropped.
//!
//! It asks through the public client only. Start at [`Cluster::start`].

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use matins_client::{Client, Limits};
use matins_proto::v1;
use tokio::time::{Instant, sleep};

use crate::processes;
use crate::trouble::Trouble;

/// Everything that is waited for while a cluster is made comes within this.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Nodes, and where they are.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Client,
    folder: PathBuf,
}

/// One node, up or down.
pub(crate) struct Node {
    name: String,
    port: u16,
    cluster_port: u16,
    slots: u32,
    binary: PathBuf,
    pub(crate) data_dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Cluster {
    /// Nodes first, so that nothing starts anew; then supervisors and tasks, which outlive a node on purpose.
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
        processes::end_all_of(&self.folder);
    }
}

impl Cluster {
    /// Starts so many nodes and makes one cluster of them, with a ready leader and all executors at work.
    pub(crate) async fn start(
        binary: &Path,
        folder: &Path,
        nodes: usize,
        slots: u32,
    ) -> Result<Self, Trouble> {
        let mut cluster = Self::waiting(binary, folder, nodes, slots)?;
        let first = cluster.client_of(0)?;
        until("the first node answers", async || Ok(first.call(v1::ClusterStatusRequest {}).await.is_ok()))
            .await?;
        first.call(v1::InitClusterRequest::default()).await?;
        for at in 1..nodes {
            let address = format!("127.0.0.1:{}", cluster.nodes[at].cluster_port);
            first.call(v1::AddNodeRequest { address, ..v1::AddNodeRequest::default() }).await?;
        }
        cluster.client = Client::new(&cluster.endpoints(), Limits::default())?;
        cluster.until_ready().await?;
        Ok(cluster)
    }

    /// Starts so many nodes that belong to no cluster yet, or to the one that their folders say.
    pub(crate) fn waiting(binary: &Path, folder: &Path, nodes: usize, slots: u32) -> Result<Self, Trouble> {
        let ports = free_ports(2 * nodes)?;
        let node = |at: usize| Node {
            name: format!("n{}", at + 1),
            port: ports[at],
            cluster_port: ports[nodes + at],
            slots,
            binary: binary.to_owned(),
            data_dir: folder.join(format!("n{}", at + 1)),
            child: None,
        };
        let client = Client::new(&format!("127.0.0.1:{}", ports[0]), Limits::default())?;
        let mut cluster = Self { nodes: (0..nodes).map(node).collect(), client, folder: folder.to_owned() };
        cluster.nodes.iter_mut().try_for_each(Node::up)?;
        Ok(cluster)
    }

    /// All endpoints, the leader's first if it is known.
    pub(crate) fn endpoints(&self) -> String {
        self.nodes.iter().map(Node::endpoint).collect::<Vec<_>>().join(",")
    }

    /// A client of one node alone.
    pub(crate) fn client_of(&self, at: usize) -> Result<Client, Trouble> {
        Ok(Client::new(&self.nodes[at].endpoint(), Limits::default())?)
    }

    /// Waits for a ready leader, and until every executor takes work.
    pub(crate) async fn until_ready(&self) -> Result<(), Trouble> {
        until("there is a leader", async || {
            Ok(self.client.call(v1::ClusterStatusRequest {}).await.is_ok_and(|status| status.ready))
        })
        .await?;
        until("all executors are ready", async || {
            let list = self.client.call(v1::ListExecutorsRequest::default()).await?;
            let is_ready = |it: &&v1::Executor| it.state() == v1::executor::State::Ready;
            Ok(list.executors.iter().filter(is_ready).count() == self.nodes.len())
        })
        .await
    }

    /// Which node leads.
    pub(crate) async fn leader(&self) -> Result<usize, Trouble> {
        let status = self.client.call(v1::ClusterStatusRequest {}).await?;
        let leader = status.nodes.iter().find(|node| node.leader).map(|node| node.address.as_str());
        let at = self.nodes.iter().position(|node| Some(node.endpoint().as_str()) == leader);
        at.ok_or_else(|| Trouble("no node leads".into()))
    }

    /// Registers workflows.
    pub(crate) async fn apply(&self, text: &str) -> Result<(), Trouble> {
        let source =
            v1::Source { path: "bench.matins.yaml".into(), text: text.into(), ..v1::Source::default() };
        let ask = v1::ApplyWorkflowsRequest { sources: vec![source], ..v1::ApplyWorkflowsRequest::default() };
        self.client.call(ask).await?;
        Ok(())
    }

    /// Starts a run of a workflow and gives its id.
    pub(crate) async fn begin(&self, workflow: &str) -> Result<String, Trouble> {
        let ask = v1::StartRunRequest { workflow: workflow.into(), ..v1::StartRunRequest::default() };
        Ok(self.client.call(ask).await?.run_id)
    }

    /// The same as a run of one of its schedules by hand, which a workflow with several needs.
    pub(crate) async fn begin_of(&self, workflow: &str, schedule: &str) -> Result<String, Trouble> {
        let (workflow, schedule) = (workflow.into(), schedule.into());
        let ask = v1::StartRunRequest { workflow, schedule, ..v1::StartRunRequest::default() };
        Ok(self.client.call(ask).await?.run_id)
    }

    /// Waits until a run has ended, which must be in success.
    pub(crate) async fn finish(&self, run: &str, within: Duration) -> Result<(), Trouble> {
        let waited = self.client.wait(vec![run.to_owned()], Some(within)).await?;
        let state = waited.runs.first().map(v1::Run::state);
        if !waited.done || state != Some(v1::run::State::Success) {
            return Err(Trouble(format!("{run} is {state:?} after {within:?}")));
        }
        Ok(())
    }
}

impl Node {
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process, while it is up.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.id().cast_signed())
    }

    /// Starts it, with the data it has.
    pub(crate) fn up(&mut self) -> Result<(), Trouble> {
        let log = File::options().create(true).append(true).open(self.data_dir.with_extension("log"))?;
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MATINS_"))
        {
            command.env_remove(name);
        }
        command
            .args(["server", "--name", &self.name, "--listen", &self.endpoint()])
            .args(["--cluster-listen", &format!("127.0.0.1:{}", self.cluster_port)])
            .args(["--slots", &self.slots.to_string()])
            .arg("--data-dir")
            .arg(&self.data_dir)
            // It must not outlive the measurement, however that ends.
            .arg("--tied")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            processes::kill(child.id().cast_signed());
            // It is our child and was just killed: there is nothing that this could tell.
            let _ = child.wait();
        }
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> Result<bool, Trouble>) -> Result<(), Trouble> {
    let deadline = Instant::now() + READY_MAX;
    while !is_so().await? {
        if Instant::now() > deadline {
            return Err(Trouble(format!("not within {READY_MAX:?}: {what}")));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// So many free ports of loopback, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, Trouble> {
    let held: Result<Vec<TcpListener>, _> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    let ports: Result<Vec<u16>, _> = held?.iter().map(|it| it.local_addr().map(|it| it.port())).collect();
    Ok(ports?)
}
