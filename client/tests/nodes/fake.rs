//! A node that does what a test tells it: each method has a list of replies, of which the last is given for ever, and
//! notes what it was asked. It has a runtime of its own, so that it can die with all its connections.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use matins_client::{Client, Limits};
use matins_proto::v1::cluster_server::{Cluster, ClusterServer};
use matins_proto::v1::error::Reason;
use matins_proto::v1::logs_server::{Logs, LogsServer};
use matins_proto::v1::pools_server::{Pools, PoolsServer};
use matins_proto::v1::runs_server::{Runs, RunsServer};
use matins_proto::v1::workflows_server::{Workflows, WorkflowsServer};
use matins_proto::v1::*;
use matins_proto::{ERROR_DOMAIN, HINT, Timestamp};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Leader time of every fake, in milliseconds.
pub(crate) const NOW: i64 = 1_357_102_800_000;

/// What a fake does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply<T> {
    /// Answers.
    Say(T),
    /// Answers with an error.
    Fail(Status),
    /// Takes the request and never answers.
    Silence,
    /// Takes the request and dies, with all connections.
    Die,
}
pub(crate) use Reply::{Die, Fail, Say, Silence};

/// The replies of one method, and what it was asked.
pub(crate) struct Method<Q, T> {
    replies: Mutex<VecDeque<Reply<T>>>,
    asked: Mutex<Vec<Q>>,
}

impl<Q, T> Default for Method<Q, T> {
    fn default() -> Self {
        Self { replies: Mutex::default(), asked: Mutex::default() }
    }
}

impl<Q: Clone, T: Clone> Method<Q, T> {
    /// Replies so from now on.
    pub(crate) fn replies(&self, replies: impl IntoIterator<Item = Reply<T>>) {
        *self.replies.lock().unwrap() = replies.into_iter().collect();
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> MutexGuard<'_, Vec<Q>> {
        self.asked.lock().unwrap()
    }

    fn next(&self, ask: Q) -> Reply<T> {
        self.asked.lock().unwrap().push(ask);
        let mut replies = self.replies.lock().unwrap();
        let last = if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() };
        last.unwrap_or_else(|| Fail(Status::unimplemented("the test gives no reply")))
    }
}

/// Pieces of a stream, and how it goes on after them: `Say(())` closes it.
pub(crate) type Stream<P> = (Vec<P>, Reply<()>);

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) set_pool: Method<SetPoolRequest, SetPoolResponse>,
    pub(crate) list_pools: Method<ListPoolsRequest, ListPoolsResponse>,
    pub(crate) status: Method<ClusterStatusRequest, ClusterStatusResponse>,
    pub(crate) init: Method<InitClusterRequest, InitClusterResponse>,
    pub(crate) wait: Method<WaitRunsRequest, WaitRunsResponse>,
    pub(crate) watch: Method<WatchRunRequest, Stream<WatchRunResponse>>,
    pub(crate) logs: Method<ReadLogsRequest, Stream<ReadLogsResponse>>,
    /// Each request is a whole file: the sizes of its chunks with what they hold together.
    pub(crate) upload: Method<(Vec<usize>, Vec<u8>), UploadBlobResponse>,
    runtime: Mutex<Option<Runtime>>,
}

/// A running fake. Dies when it is dropped.
pub(crate) struct Node {
    pub(crate) fake: Arc<Fake>,
    pub(crate) endpoint: String,
}

impl Node {
    /// Starts a fake that knows what time it is, and nothing else.
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = Arc::new(Fake::default());
        let leader_time = Some(Timestamp::from_millis(NOW));
        fake.status.replies([Say(ClusterStatusResponse { leader_time, ..Default::default() })]);

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let served = Served(Arc::clone(&fake));
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(PoolsServer::new(served.clone()))
                .add_service(ClusterServer::new(served.clone()))
                .add_service(RunsServer::new(served.clone()))
                .add_service(WorkflowsServer::new(served.clone()))
                .add_service(LogsServer::new(served))
                .serve_with_incoming(TcpListenerStream::new(TcpListener::from_std(listener).unwrap()))
                .await
                .unwrap();
        });
        *fake.runtime.lock().unwrap() = Some(runtime);
        Self { fake, endpoint }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fake.die();
    }
}

impl Fake {
    /// Drops every connection and listens no more.
    pub(crate) fn die(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    async fn answer<Q: Clone, T: Clone>(&self, method: &Method<Q, T>, ask: Request<Q>) -> Answer<T> {
        match method.next(ask.into_inner()) {
            Say(answer) => Ok(Response::new(answer)),
            Fail(status) => Err(status),
            Silence => std::future::pending().await,
            Die => {
                self.die();
                std::future::pending().await
            }
        }
    }

    async fn stream<Q, P>(self: Arc<Self>, method: &Method<Q, Stream<P>>, ask: Request<Q>) -> Answer<Boxed<P>>
    where
        Q: Clone,
        P: Clone + Send + 'static,
    {
        let (pieces, then) = self.answer(method, ask).await?.into_inner();
        let rest = stream::once(async move {
            match then {
                Say(()) => None,
                Fail(status) => Some(Err(status)),
                Silence => std::future::pending().await,
                Die => {
                    self.die();
                    std::future::pending().await
                }
            }
        });
        let all = stream::iter(pieces).map(Ok).map(Some).chain(rest).filter_map(std::future::ready);
        Ok(Response::new(Box::pin(all)))
    }
}

/// A client that loses patience quickly.
pub(crate) fn client(nodes: &[&Node], limits: Limits) -> Client {
    let endpoints: Vec<_> = nodes.iter().map(|node| node.endpoint.as_str()).collect();
    Client::new(&endpoints.join(","), limits).unwrap()
}

/// An error as a node makes it.
pub(crate) fn error(reason: Reason, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.as_str_name(), ERROR_DOMAIN, [(HINT.to_owned(), "look again".to_owned())]);
    if let Some(delay) = retry_after {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(reason.code(), reason.as_str_name(), details)
}

type Answer<T> = Result<Response<T>, Status>;
type Boxed<P> = Pin<Box<dyn futures::Stream<Item = Result<P, Status>> + Send>>;

/// For what no test asks for.
fn no<T>() -> Answer<T> {
    Err(Status::unimplemented("not faked"))
}

#[derive(Clone)]
struct Served(Arc<Fake>);

#[tonic::async_trait]
impl Pools for Served {
    async fn list(&self, ask: Request<ListPoolsRequest>) -> Answer<ListPoolsResponse> {
        self.0.answer(&self.0.list_pools, ask).await
    }
    async fn set(&self, ask: Request<SetPoolRequest>) -> Answer<SetPoolResponse> {
        self.0.answer(&self.0.set_pool, ask).await
    }
    async fn delete(&self, _: Request<DeletePoolRequest>) -> Answer<DeletePoolResponse> {
        no()
    }
}

#[tonic::async_trait]
impl Cluster for Served {
    async fn init(&self, ask: Request<InitClusterRequest>) -> Answer<InitClusterResponse> {
        self.0.answer(&self.0.init, ask).await
    }
    async fn status(&self, ask: Request<ClusterStatusRequest>) -> Answer<ClusterStatusResponse> {
        self.0.answer(&self.0.status, ask).await
    }
    async fn add_node(&self, _: Request<AddNodeRequest>) -> Answer<AddNodeResponse> {
        no()
    }
    async fn remove_node(&self, _: Request<RemoveNodeRequest>) -> Answer<RemoveNodeResponse> {
        no()
    }
    async fn replace_node(&self, _: Request<ReplaceNodeRequest>) -> Answer<ReplaceNodeResponse> {
        no()
    }
    async fn transfer_leader(&self, _: Request<TransferLeaderRequest>) -> Answer<TransferLeaderResponse> {
        no()
    }
    async fn remove_executor(&self, _: Request<RemoveExecutorRequest>) -> Answer<RemoveExecutorResponse> {
        no()
    }
    async fn accept_time(&self, _: Request<AcceptTimeRequest>) -> Answer<AcceptTimeResponse> {
        no()
    }
    async fn list_executors(&self, _: Request<ListExecutorsRequest>) -> Answer<ListExecutorsResponse> {
        no()
    }
    async fn drain(&self, _: Request<DrainExecutorRequest>) -> Answer<DrainExecutorResponse> {
        no()
    }
    async fn undrain(&self, _: Request<UndrainExecutorRequest>) -> Answer<UndrainExecutorResponse> {
        no()
    }
    type BackupStream = Boxed<BackupResponse>;

    async fn backup(&self, _: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        no()
    }
    async fn resume_held(&self, _: Request<ResumeHeldRequest>) -> Answer<ResumeHeldResponse> {
        no()
    }
    async fn get_settings(&self, _: Request<GetSettingsRequest>) -> Answer<GetSettingsResponse> {
        no()
    }
    async fn change_settings(&self, _: Request<ChangeSettingsRequest>) -> Answer<ChangeSettingsResponse> {
        no()
    }
    async fn raise_level(&self, _: Request<RaiseLevelRequest>) -> Answer<RaiseLevelResponse> {
        no()
    }
}

#[tonic::async_trait]
impl Logs for Served {
    type ReadStream = Boxed<ReadLogsResponse>;

    async fn read(&self, ask: Request<ReadLogsRequest>) -> Answer<Self::ReadStream> {
        Arc::clone(&self.0).stream(&self.0.logs, ask).await
    }
}

#[tonic::async_trait]
impl Runs for Served {
    type WatchStream = Boxed<WatchRunResponse>;
    type WatchListStream = Boxed<WatchRunsResponse>;

    async fn watch(&self, ask: Request<WatchRunRequest>) -> Answer<Self::WatchStream> {
        Arc::clone(&self.0).stream(&self.0.watch, ask).await
    }
    async fn wait(&self, ask: Request<WaitRunsRequest>) -> Answer<WaitRunsResponse> {
        self.0.answer(&self.0.wait, ask).await
    }
    async fn watch_list(&self, _: Request<WatchRunsRequest>) -> Answer<Self::WatchListStream> {
        no()
    }
    async fn start(&self, _: Request<StartRunRequest>) -> Answer<StartRunResponse> {
        no()
    }
    async fn submit(&self, _: Request<SubmitRunRequest>) -> Answer<SubmitRunResponse> {
        no()
    }
    async fn get(&self, _: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        no()
    }
    async fn list(&self, _: Request<ListRunsRequest>) -> Answer<ListRunsResponse> {
        no()
    }
    async fn why(&self, _: Request<WhyRequest>) -> Answer<WhyResponse> {
        no()
    }
    async fn list_events(&self, _: Request<ListRunEventsRequest>) -> Answer<ListRunEventsResponse> {
        no()
    }
    async fn list_items(&self, _: Request<ListItemsRequest>) -> Answer<ListItemsResponse> {
        no()
    }
    async fn cancel(&self, _: Request<CancelRunRequest>) -> Answer<CancelRunResponse> {
        no()
    }
    async fn retry(&self, _: Request<RetryRunRequest>) -> Answer<RetryRunResponse> {
        no()
    }
    async fn retry_task(&self, _: Request<RetryTaskRequest>) -> Answer<RetryTaskResponse> {
        no()
    }
    async fn abandon_attempt(&self, _: Request<AbandonAttemptRequest>) -> Answer<AbandonAttemptResponse> {
        no()
    }
}

#[tonic::async_trait]
impl Workflows for Served {
    async fn upload_blob(&self, ask: Request<Streaming<UploadBlobRequest>>) -> Answer<UploadBlobResponse> {
        let (mut sizes, mut bytes) = (Vec::new(), Vec::new());
        let mut chunks = ask.into_inner();
        while let Some(UploadBlobRequest { size, chunk }) = chunks.message().await? {
            assert!(bytes.len() + chunk.len() <= usize::try_from(size).unwrap(), "more than was announced");
            sizes.push(chunk.len());
            bytes.extend_from_slice(&chunk);
        }
        self.0.answer(&self.0.upload, Request::new((sizes, bytes))).await
    }
    async fn apply(&self, _: Request<ApplyWorkflowsRequest>) -> Answer<ApplyWorkflowsResponse> {
        no()
    }
    async fn list(&self, _: Request<ListWorkflowsRequest>) -> Answer<ListWorkflowsResponse> {
        no()
    }
    async fn get(&self, _: Request<GetWorkflowRequest>) -> Answer<GetWorkflowResponse> {
        no()
    }
    async fn list_versions(
        &self,
        _: Request<ListWorkflowVersionsRequest>,
    ) -> Answer<ListWorkflowVersionsResponse> {
        no()
    }
    async fn diff(&self, _: Request<DiffWorkflowRequest>) -> Answer<DiffWorkflowResponse> {
        no()
    }
    async fn delete(&self, _: Request<DeleteWorkflowRequest>) -> Answer<DeleteWorkflowResponse> {
        no()
    }
    async fn rollback(&self, _: Request<RollbackWorkflowRequest>) -> Answer<RollbackWorkflowResponse> {
        no()
    }
    async fn pause(&self, _: Request<PauseWorkflowRequest>) -> Answer<PauseWorkflowResponse> {
        no()
    }
    async fn resume(&self, _: Request<ResumeWorkflowRequest>) -> Answer<ResumeWorkflowResponse> {
        no()
    }
}
