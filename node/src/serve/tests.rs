//! Every service over a cluster of one that is nothing but `apply`, asked through a real connection.

mod alone;
mod backfills;
mod bounds;
mod health;
mod logs;
mod metrics;
mod runs;
mod seeing;
mod workflows;

use std::net::SocketAddr;
use std::sync::Arc;

use matins_core::time::Timestamp;
use matins_proto::ERROR_DOMAIN;
use matins_proto::v1::backfills_client::BackfillsClient;
use matins_proto::v1::cluster_client::ClusterClient;
use matins_proto::v1::logs_client::LogsClient;
use matins_proto::v1::pools_client::PoolsClient;
use matins_proto::v1::runs_client::RunsClient;
use matins_proto::v1::schedules_client::SchedulesClient;
use matins_proto::v1::workflows_client::WorkflowsClient;
use matins_proto::v1::{
    ApplyWorkflowsRequest, ApplyWorkflowsResponse, ClusterStatusRequest, DrainExecutorRequest, GetRunRequest,
    InitClusterRequest, ListExecutorsRequest, ListPoolsRequest, ListWorkflowsRequest, Run, SetPoolRequest,
    Source, StartRunRequest,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::cluster::{LogPiece, LogStream};
use super::{Door, DoorLimits, Hosts, serve};
use alone::Alone;

/// One node that serves clients, and a connection to it.
pub(super) struct World {
    pub(super) alone: Arc<Alone>,
    pub(super) address: SocketAddr,
    channel: Channel,
    stopping: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl World {
    /// A cluster that was founded, with one executor of two slots.
    pub(super) async fn founded() -> Self {
        let world = Self::empty().await;
        world.alone.found();
        world
    }

    /// A node that waits.
    pub(super) async fn empty() -> Self {
        Self::with(DoorLimits::default()).await
    }

    /// A node that waits, with bounds of its own.
    pub(super) async fn with(limits: DoorLimits) -> Self {
        let listener = crate::system::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let alone = Arc::new(Alone::default());
        let stopping = CancellationToken::new();
        let door = Door {
            listener,
            cluster: alone.clone(),
            history: alone.clone(),
            logs: alone.clone(),
            metrics: alone.clone(),
            counts: alone.metrics.door().clone(),
            hosts: Hosts::new(["n1.example".to_owned()]),
            limits,
            stopping: stopping.clone(),
        };
        let server = tokio::spawn(async move { serve(door).await.unwrap() });
        let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { alone, address, channel, stopping, server }
    }

    pub(super) fn workflows(&self) -> WorkflowsClient<Channel> {
        WorkflowsClient::new(self.channel.clone())
    }

    pub(super) fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.channel.clone())
    }

    pub(super) fn schedules(&self) -> SchedulesClient<Channel> {
        SchedulesClient::new(self.channel.clone())
    }

    pub(super) fn backfills(&self) -> BackfillsClient<Channel> {
        BackfillsClient::new(self.channel.clone())
    }

    pub(super) fn pools(&self) -> PoolsClient<Channel> {
        PoolsClient::new(self.channel.clone())
    }

    pub(super) fn logs(&self) -> LogsClient<Channel> {
        LogsClient::new(self.channel.clone())
    }

    pub(super) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    /// The attempt that is live has printed so many long lines.
    pub(super) fn has_printed(&self, lines: usize) {
        let piece = LogPiece {
            position: 1,
            at: Timestamp::from_millis(5),
            stream: LogStream::Stdout,
            text: ("x".repeat(60_000) + "\n").into(),
        };
        let fence = *self.alone.state().live.first().unwrap().0;
        self.alone.logs.lock().unwrap().insert(fence, vec![piece; lines]);
    }

    /// Applies one source.
    pub(super) async fn apply(&self, text: &str) -> Result<ApplyWorkflowsResponse, Status> {
        let request = ApplyWorkflowsRequest { sources: vec![source(text)], ..Default::default() };
        self.workflows().apply(request).await.map(tonic::Response::into_inner)
    }

    /// Starts a run.
    pub(super) async fn start(&self, workflow: &str) -> Result<String, Status> {
        let request = StartRunRequest { workflow: workflow.into(), ..Default::default() };
        self.runs().start(request).await.map(|response| response.into_inner().run_id)
    }

    /// A run with its tasks.
    pub(super) async fn run(&self, run: &str) -> Run {
        let request = GetRunRequest { run: run.into(), ..Default::default() };
        self.runs().get(request).await.unwrap().into_inner().run.unwrap()
    }

    /// Ends the server, which must not wait for streams that are open.
    pub(super) async fn stop(self) {
        self.stopping.cancel();
        self.server.await.unwrap();
    }
}

pub(super) fn source(text: &str) -> Source {
    Source { path: "test.matins.yaml".into(), text: text.into(), files: Vec::new() }
}

/// The reason, and the hint, of an error of ours.
pub(super) fn reason(status: &Status) -> (String, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(info.domain, ERROR_DOMAIN);
    (info.reason, info.metadata.get("hint").cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_node_without_a_cluster_says_so_and_makes_one() {
    let world = World::empty().await;
    let status = world.cluster().status(ClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.cluster_id, status.leader_time), (None, None));
    let refused = world.workflows().list(ListWorkflowsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0), (Code::Unavailable, "NOT_INITIALIZED".to_owned()));

    let init = |id: &str| InitClusterRequest { request_id: id.into() };
    let made = world.cluster().init(init("a")).await.unwrap().into_inner();
    assert_eq!(world.cluster().init(init("a")).await.unwrap().into_inner(), made);
    let again = world.cluster().init(init("b")).await.unwrap_err();
    assert_eq!(reason(&again).0, "ALREADY_INITIALIZED");
    let status = world.cluster().status(ClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.cluster_id, Some(made.cluster_id));
    world.stop().await;
}

#[tokio::test]
async fn executors_are_listed_and_drained_by_name() {
    let world = World::founded().await;
    let drain = |executor: &str| DrainExecutorRequest { executor: executor.into(), ..Default::default() };
    assert_eq!(reason(&world.cluster().drain(drain("nobody")).await.unwrap_err()).0, "NODE_NOT_FOUND");
    world.cluster().drain(drain("alone")).await.unwrap();
    let list = world.cluster().list_executors(ListExecutorsRequest::default()).await.unwrap().into_inner();
    assert_eq!((list.executors[0].id.as_str(), list.executors[0].drained), ("node-1", true));
    world.stop().await;
}

#[tokio::test]
async fn pools_are_set_listed_by_page_and_deleted_unless_they_are_needed() {
    let world = World::founded().await;
    for name in ["b", "a", "c"] {
        let set = SetPoolRequest { name: name.into(), slots: 2, ..Default::default() };
        world.pools().set(set).await.unwrap();
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListPoolsRequest { page_size: 2, page_token, ..Default::default() };
        let page = world.pools().list(request).await.unwrap().into_inner();
        names.extend(page.pools.into_iter().map(|pool| pool.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    world.apply("workflow: w\ntasks: { t: { run: 'true', pool: a } }").await.unwrap();
    let delete = |name: &str| matins_proto::v1::DeletePoolRequest { name: name.into(), ..Default::default() };
    assert_eq!(reason(&world.pools().delete(delete("a")).await.unwrap_err()).0, "CONFLICT");
    world.pools().delete(delete("b")).await.unwrap();
    let bad = ListPoolsRequest { page_token: "0.x".into(), ..Default::default() };
    assert_eq!(reason(&world.pools().list(bad).await.unwrap_err()).0, "PAGE_TOKEN_INVALID");
    world.stop().await;
}
