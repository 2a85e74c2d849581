//! A client: it starts runs under request ids, reads what it made, and holds the cluster to every answer.

use std::time::Duration;

use matins_proto::v1;
use matins_proto::v1::runs_client::RunsClient;
use matins_proto::v1::schedules_client::SchedulesClient;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::audit::request_of;
use super::host::name_of;
use super::observer::{Fate, Observer, Phase};
use super::starter::channel;

/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(8);
/// How long a request is repeated before its fate counts as unknown.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A client of one seed.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) nodes: usize,
    pub(super) observer: Observer,
    pub(super) seed: u64,
}

/// A run that was acknowledged, and the request that it was made for.
struct Known {
    request: String,
    run: String,
}

impl Client {
    /// Asks until the audit.
    pub(super) async fn run(self) {
        let mut random = StdRng::seed_from_u64(self.seed);
        let channels: Vec<Channel> = (0..self.nodes).map(|node| channel(&name_of(node))).collect();
        let (mut made, mut known): (u64, Vec<Known>) = (0, Vec::new());
        loop {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..1_500))).await;
            let node = random.random_range(0..self.nodes);
            match self.observer.phase() {
                Phase::Founding => continue,
                Phase::Faults | Phase::Healed => {}
                Phase::Audit => std::future::pending().await,
            }
            match random.random_range(0..10) {
                0..5 => {
                    made += 1;
                    let request = format!("c{}-{made}", self.number);
                    let run = self.start(&request, &channels, &mut random).await;
                    known.extend(run.map(|run| Known { request, run }));
                }
                5..8 if !known.is_empty() => {
                    let run = &known[random.random_range(0..known.len())];
                    self.read(run, channels[node].clone()).await;
                }
                _ => self.list(channels[node].clone()).await,
            }
        }
    }

    /// Starts a run; the same request goes to one node after the other until it is answered.
    async fn start(&self, request: &str, channels: &[Channel], random: &mut StdRng) -> Option<String> {
        let (began, asked_in) = (now(), self.observer.phase());
        self.observer.with(|inner| inner.requests.insert(request.to_owned(), Fate::Maybe));
        while now() < began + GIVE_UP {
            let node = random.random_range(0..channels.len());
            let mut runs = RunsClient::new(channels[node].clone());
            let message = v1::StartRunRequest {
                request_id: request.to_owned(),
                workflow: "order".into(),
                params: Some(matins_proto::Json { text: format!("{{\"n\": \"{request}\"}}") }),
                ..v1::StartRunRequest::default()
            };
            match tokio::time::timeout(TRY_MAX, runs.start(message)).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    self.started(request, began, &answer, asked_in);
                    return Some(answer.run_id);
                }
                Ok(Err(status)) if is_refusal(&status) => {
                    self.observer.trace(&format!("{request} refused: {}", status.message()));
                    self.observer.with(|inner| inner.requests.insert(request.to_owned(), Fate::Refused));
                    return None;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
        }
        None
    }

    /// `began`: when the request was first sent. A repeat names the entry that did it then, which may be older than the
    /// repeat, but not older than the request.
    fn started(&self, request: &str, began: Duration, answer: &v1::StartRunResponse, asked_in: Phase) {
        let index = answer.committed.as_ref().map_or(0, |committed| committed.index);
        self.observer.trace(&format!("{request} is {} at {index}", answer.run_id));
        self.observer.answered("the start of a run", began, index);
        let Some(run) = answer.run_id.strip_prefix("run-").and_then(|number| number.parse().ok()) else {
            self.observer.fail(format!("a started run is called `{}`", answer.run_id));
            return;
        };
        self.observer.with(|inner| {
            inner.acknowledged += 1;
            inner.requests.insert(request.to_owned(), Fate::Acknowledged(run));
            if asked_in == Phase::Healed {
                inner.acknowledged_healed.insert(self.number);
            }
        });
    }

    /// Reads a run that was acknowledged before: it must be there.
    async fn read(&self, Known { request, run }: &Known, channel: Channel) {
        let began = now();
        let mut runs = RunsClient::new(channel);
        let asked = v1::GetRunRequest { run: run.clone(), ..v1::GetRunRequest::default() };
        match tokio::time::timeout(TRY_MAX, runs.get(asked)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                let params = answer.run.and_then(|run| run.params).unwrap_or_default().text;
                if request_of(&params) != *request {
                    self.observer
                        .fail(format!("I10: request {request} was answered with {run}, which has {params}"));
                }
                self.read_at("a read of a run", began, answer.read_at);
            }
            Ok(Err(status)) if status.code() == Code::NotFound => {
                self.observer.fail(format!("I10: {run} was acknowledged, and a read does not find it"));
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }

    async fn list(&self, channel: Channel) {
        let began = now();
        let mut schedules = SchedulesClient::new(channel);
        let answer = tokio::time::timeout(TRY_MAX, schedules.list(v1::ListSchedulesRequest::default())).await;
        if let Ok(Ok(answer)) = answer {
            self.read_at("a list of schedules", began, answer.into_inner().read_at);
        }
    }

    fn read_at(&self, what: &str, began: Duration, read_at: Option<v1::ReadAt>) {
        let index = read_at.map_or(0, |read_at| read_at.index);
        self.observer.trace(&format!("c{} {what} at {index}", self.number));
        self.observer.answered(what, began, index);
        self.observer.with(|inner| inner.reads += 1);
    }
}

/// Whether an answer says that it was not done and will not be.
fn is_refusal(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

fn now() -> Duration {
    turmoil::sim_elapsed().expect("clients live under turmoil only")
}
