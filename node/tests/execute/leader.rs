//! A leader of the tests: opens sessions, grants renewals, and hands what executors say to the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use matins_core::state::settings::LeaseTerms;
use matins_core::time::Millis;
use matins_proto::v1;
use matins_proto::v1::executor_link_server::{ExecutorLink, ExecutorLinkServer};
use matins_proto::v1::executor_message::Message as Says;
use matins_proto::v1::leader_message::Message as Hears;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Everything in these tests happens within this, or never.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// L 1.5 s, so that a lost lease is a matter of seconds; K leaves a busy machine a second of room.
pub(crate) const PARAMS: LeaseTerms =
    LeaseTerms { length: Millis(1_500), kill_budget: Millis(2_000), rho_ppm: 1_000 };

/// What a `Hello` said.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) hello: v1::Hello,
    to_executor: mpsc::Sender<Result<v1::LeaderMessage, Status>>,
}

impl Opened {
    pub(crate) async fn send(&self, message: Hears) {
        let message = v1::LeaderMessage { message: Some(message) };
        self.to_executor.send(Ok(message)).await.expect("the stream is open");
    }

    /// Sends a job under this session.
    pub(crate) async fn start(&self, fence: u64, job: v1::Job) {
        let start = v1::Start { fence, session: self.hello.session, job: Some(job) };
        self.send(Hears::Start(start)).await;
    }

    pub(crate) async fn stop(&self, fence: u64, now: bool) {
        self.send(Hears::Stop(v1::Stop { fence, now })).await;
    }
}

#[derive(Clone)]
struct Link {
    said: mpsc::Sender<Says>,
    opened: mpsc::Sender<Opened>,
    grants: watch::Receiver<bool>,
    /// Fences that are not bound to a session though its executor holds them.
    unbound: Arc<Mutex<Vec<u64>>>,
}

/// The test's side.
pub(crate) struct Leader {
    pub(crate) address: String,
    said: mpsc::Receiver<Says>,
    opened: mpsc::Receiver<Opened>,
    /// Whether renewals are granted.
    pub(crate) grants: watch::Sender<bool>,
    pub(crate) unbound: Arc<Mutex<Vec<u64>>>,
}

impl Leader {
    pub(crate) async fn begin() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (say, said) = mpsc::channel(1_024);
        let (open, opened) = mpsc::channel(64);
        let (grants, granted) = watch::channel(true);
        let unbound = Arc::new(Mutex::new(Vec::new()));
        let link = Link { said: say, opened: open, grants: granted, unbound: Arc::clone(&unbound) };
        let server = tonic::transport::Server::builder().add_service(ExecutorLinkServer::new(link));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, said, opened, grants, unbound }
    }

    /// The next session that opens.
    pub(crate) async fn opened(&mut self) -> Opened {
        within(self.opened.recv()).await.expect("the leader lives")
    }

    /// The next message that `wanted` takes; others are passed over.
    pub(crate) async fn hears<T>(&mut self, mut wanted: impl FnMut(Says) -> Option<T>) -> T {
        within(async {
            loop {
                if let Some(found) = wanted(self.said.recv().await.expect("the leader lives")) {
                    return found;
                }
            }
        })
        .await
    }

    pub(crate) async fn hears_started(&mut self, fence: u64) {
        self.hears(|said| {
            matches!(said, Says::Started(v1::Started { fence: f, .. }) if f == fence).then_some(())
        })
        .await;
    }

    pub(crate) async fn hears_report(&mut self, fence: u64) -> v1::AttemptReport {
        let report_of = |said| if let Says::Report(report) = said { Some(report) } else { None };
        self.hears(|said| report_of(said).filter(|report| report.fence == fence)).await
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it happens soon")
}

#[tonic::async_trait]
impl ExecutorLink for Link {
    type SessionStream = ReceiverStream<Result<v1::LeaderMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ExecutorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (to_executor, messages) = mpsc::channel(64);
        let link = self.clone();
        tokio::spawn(async move {
            let mut stream = request.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                let Some(said) = message.message else { continue };
                let answer = if let Says::Hello(hello) = &said {
                    link.open(hello)
                } else if let Says::Renew(renew) = &said {
                    link.said.send(said.clone()).await.expect("the test listens");
                    if !*link.grants.borrow() {
                        continue;
                    }
                    Hears::Grant(v1::Grant { sequence: renew.sequence, length_ms: PARAMS.length.0 })
                } else {
                    link.said.send(said).await.expect("the test listens");
                    continue;
                };
                let message = v1::LeaderMessage { message: Some(answer) };
                if to_executor.send(Ok(message)).await.is_err() {
                    return;
                }
                if let Says::Hello(hello) = said {
                    let opened = Opened { hello, to_executor: to_executor.clone() };
                    link.opened.send(opened).await.expect("the test listens");
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Link {
    fn open(&self, hello: &v1::Hello) -> Hears {
        let unbound = self.unbound.lock().expect("no test panics with it");
        let bound = hello.held.iter().map(|held| held.fence).filter(|fence| !unbound.contains(fence));
        Hears::Opened(v1::SessionOpened {
            session: hello.session,
            bound: bound.collect(),
            length_ms: PARAMS.length.0,
            kill_budget_ms: PARAMS.kill_budget.0,
            rho_ppm: PARAMS.rho_ppm,
        })
    }
}
