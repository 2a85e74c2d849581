//! Spans over OTLP: a tree for each run, told by whichever node leads (docs/operations.md, "Traces").
//!
//! Spans follow from entries that were applied. Nothing in the path of a command knows of them, and nothing waits for them: what
//! the receiver does not take in time is dropped and counted. Off unless the environment says where they go. Start reading
//! at [`TraceSettings`], then `follow`.

mod settings;
mod spans;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::lead::time::LeaderTime;
use crate::metrics::{Change, Counts};
use crate::raft::Consensus;
use crate::system::connect_lazy;
pub use settings::TraceSettings;
use spans::{Commit, spans_of};

/// Spans that wait to be sent; more are dropped.
const WAITING_MAX: usize = 16_384;
/// Spans of one request.
const BATCH_MAX: usize = 512;
/// A batch that is not full goes out after so long.
const BATCH_WITHIN: Duration = Duration::from_secs(1);

/// Tells spans of what is applied while this node leads, until `stopping`; then what is left.
pub(crate) async fn follow(
    settings: TraceSettings,
    (consensus, clock): (Consensus, Arc<LeaderTime>),
    (name, counts): (String, Counts),
    stopping: CancellationToken,
) {
    let Some(sender) = Sender::new(&settings, &consensus, name) else {
        tracing::error!(endpoint = settings.endpoint, "spans cannot be sent there");
        return;
    };
    tracing::info!(endpoint = settings.endpoint, "sending spans");
    let (spans, waiting) = mpsc::channel(WAITING_MAX);
    let sending = tokio::spawn(sender.run(waiting, counts.clone()));
    stopping.run_until_cancelled(derive(consensus, clock, (spans, counts))).await;
    // The other end of the queue is gone with `derive`, so the sender ends once it has sent what is left.
    if tokio::time::timeout(settings.timeout, sending).await.is_err() {
        tracing::warn!("spans were left behind: their receiver does not take them");
    }
}

async fn derive(consensus: Consensus, clock: Arc<LeaderTime>, (spans, counts): (mpsc::Sender<Span>, Counts)) {
    let leader = consensus.leader();
    let mut entries = consensus.subscribe();
    let mut before = consensus.state();
    loop {
        let entry = match entries.recv().await {
            Ok(entry) => entry,
            // What was missed is missing in the trees.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        if entry.index <= before.index {
            continue;
        }
        if leader.borrow().leading.is_some() {
            let change = Change {
                before: &before,
                after: &entry.state,
                answers: &entry.answers,
                effects: &entry.effects,
            };
            let commit = Commit { at: entry.at, applied_at: clock.now() };
            let dropped =
                spans_of(&change, commit).into_iter().filter(|span| spans.try_send(span.clone()).is_err());
            counts.spans_dropped(dropped.count());
        }
        before = Arc::clone(&entry.state);
    }
}

/// Sends spans in batches.
struct Sender {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    settings: TraceSettings,
}

impl Sender {
    fn new(settings: &TraceSettings, consensus: &Consensus, name: String) -> Option<Self> {
        let endpoint = Endpoint::from_shared(settings.endpoint.clone()).ok()?;
        let endpoint = endpoint.timeout(settings.timeout).connect_timeout(settings.timeout);
        let mut attributes = vec![
            ("service.instance.id".to_owned(), consensus.node().to_string()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("host.name".to_owned(), name),
        ];
        if !settings.resource.iter().any(|(key, _)| key == "service.name") {
            attributes.push(("service.name".into(), "matins".into()));
        }
        attributes.extend(settings.resource.iter().cloned());
        let attributes = attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
        Some(Self {
            client: TraceServiceClient::new(connect_lazy(&endpoint)),
            resource: Resource { attributes, ..Resource::default() },
            settings: settings.clone(),
        })
    }

    async fn run(mut self, mut waiting: mpsc::Receiver<Span>, counts: Counts) {
        let mut is_failing = false;
        loop {
            let mut batch = Vec::new();
            if waiting.recv_many(&mut batch, 1).await == 0 {
                return;
            }
            let gather = async {
                while batch.len() < BATCH_MAX {
                    let room = BATCH_MAX - batch.len();
                    if waiting.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            // Late is as good as full.
            let _ = tokio::time::timeout(BATCH_WITHIN, gather).await;
            let sent = batch.len();
            match self.send(batch).await {
                Ok(()) => is_failing = false,
                Err(status) => {
                    counts.spans_dropped(sent);
                    if !is_failing {
                        tracing::warn!(%status, "spans are lost: their receiver does not take them");
                    }
                    is_failing = true;
                }
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>) -> Result<(), tonic::Status> {
        let scope = InstrumentationScope {
            name: "matins".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        let mut request = Request::new(ExportTraceServiceRequest { resource_spans });
        for (key, value) in &self.settings.headers {
            request.metadata_mut().insert(key.clone(), value.clone());
        }
        self.client.export(request).await.map(drop)
    }
}

fn attribute(key: String, value: String) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value)) };
    KeyValue { key, value: Some(value), ..KeyValue::default() }
}
