//! Makes the cluster of a seed, and registers its workflows, through the same ports as a person would.

use std::time::Duration;

use matins_node::system::connect_lazy;
use matins_proto::v1;
use matins_proto::v1::cluster_client::ClusterClient;
use matins_proto::v1::workflows_client::WorkflowsClient;
use tonic::transport::{Channel, Endpoint};

use super::host::{CLUSTER, PUBLIC, name_of};
use super::observer::{Observer, Phase};

/// Workflows with a schedule: at each multiple of so many seconds within a minute.
pub(super) const SCHEDULES: &[(&str, i64)] = &[("five", 5), ("seven", 7)];

/// What is registered.
const WORKFLOWS: &str = r#"
workflow: order
params: { n: { type: string, default: none } }
concurrency: { max_active_runs: 1000 }
tasks:
  a: { run: [x], retry: { limit: 3, delay: 1s } }
  b: { run: [x], needs: a }
---
workflow: five
schedules: { tick: { cron: "*/5 * * * * *" } }
concurrency: { max_active_runs: 2 }
tasks:
  a: { run: [x], retry: { limit: 3, delay: 1s } }
  b: { run: [x], needs: a, pool: db }
---
workflow: seven
schedules: { tick: { cron: "*/7 * * * * *" } }
concurrency: { max_active_runs: 1, on_full: skip }
tasks: { a: { run: [x] } }
---
pool: db
slots: 1
"#;

/// How long a step may take before it is tried again.
const WITHIN: Duration = Duration::from_secs(20);

/// Makes a cluster of `nodes` and registers the workflows; then the faults begin.
pub(super) async fn found(observer: Observer, nodes: usize) {
    let first = channel(&name_of(0));
    let mut cluster = ClusterClient::new(first.clone());
    until(async || cluster.clone().init(v1::InitClusterRequest { request_id: "init".into() }).await.is_ok())
        .await;
    for number in 1..nodes {
        let address = format!("{}:{CLUSTER}", name_of(number));
        until(async || {
            let request = v1::AddNodeRequest { address: address.clone(), ..v1::AddNodeRequest::default() };
            cluster.add_node(request).await.is_ok()
        })
        .await;
    }
    let mut workflows = WorkflowsClient::new(first);
    until(async || {
        let source =
            v1::Source { path: "workflows.yaml".into(), text: WORKFLOWS.into(), ..v1::Source::default() };
        let request = v1::ApplyWorkflowsRequest {
            request_id: "apply".into(),
            sources: vec![source],
            ..v1::ApplyWorkflowsRequest::default()
        };
        match workflows.apply(request).await {
            Ok(_) => true,
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                observer.fail(format!("the workflows of the simulation are refused: {}", status.message()));
                true
            }
            Err(_) => false,
        }
    })
    .await;
    observer.with(|inner| inner.phase = Phase::Faults);
}

async fn until(mut step: impl AsyncFnMut() -> bool) {
    while !tokio::time::timeout(WITHIN, step()).await.unwrap_or(false) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The public port of a node.
pub(super) fn channel(name: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{name}:{PUBLIC}"));
    let endpoint =
        endpoint.expect("a name and a port make an address").connect_timeout(Duration::from_secs(2));
    let endpoint = endpoint
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    connect_lazy(&endpoint)
}
