//! The public port: gRPC in, commands and reads out.
//!
//! Handlers read the wire, ask once, and write the wire (STYLE 32). Nothing here changes state but by a command, and
//! nothing decides what a command does. Only this module knows the public wire types.
//!
//! Start reading at [`serve`] and its layers, then [`cluster`] (what is needed of the node), `api` (how everything
//! asks), `service` (one module per service). REST will be a second router with layers of its own beside this one.

mod api;
pub mod cluster;
mod compile;
mod error;
mod filter;
mod page;
mod plan;
mod pulse;
mod recent;
mod service;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::time::Duration;

use matins_proto::v1::backfills_server::BackfillsServer;
use matins_proto::v1::cluster_server::ClusterServer;
use matins_proto::v1::logs_server::LogsServer;
use matins_proto::v1::pools_server::PoolsServer;
use matins_proto::v1::runs_server::RunsServer;
use matins_proto::v1::schedules_server::SchedulesServer;
use matins_proto::v1::workflows_server::WorkflowsServer;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tower::ServiceBuilder;

use api::Api;
use cluster::{Cluster, History, LogSource};
pub use error::ApiError;
use recent::Recent;
use service::{
    BackfillsService, ClusterService, LogsService, PoolsService, RunsService, SchedulesService,
    WorkflowsService,
};

use crate::system::{Listener, incoming};

/// What the public port stands on, and what bounds it.
pub struct Door {
    /// Where clients connect.
    pub listener: Listener,
    /// Consensus.
    pub cluster: Arc<dyn Cluster>,
    /// Finished runs.
    pub history: Arc<dyn History>,
    /// Logs of attempts.
    pub logs: Arc<dyn LogSource>,
    /// Bounds.
    pub limits: DoorLimits,
    /// Ends the port: calls in flight are answered, streams end with `SHUTTING_DOWN`.
    pub stopping: CancellationToken,
}

/// Bounds of the public port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorLimits {
    /// Calls that wait for their answer at once; more hear `RESOURCE_EXHAUSTED`. A stream that has opened no longer
    /// counts.
    pub calls_in_flight_max: usize,
    /// A call without an answer by then is answered `CANCELLED`. Above the 30 s that `Runs.Wait` may take.
    pub answer_max: Duration,
    /// Bytes of one request.
    pub request_bytes_max: usize,
    /// Bytes of one answer.
    pub answer_bytes_max: usize,
    /// Streams that one connection may have open.
    pub streams_per_connection_max: u32,
    /// A connection without a sign of life for so long is asked for one, and closed if none comes.
    pub keepalive: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            calls_in_flight_max: 1_024,
            answer_max: Duration::from_secs(40),
            request_bytes_max: 4 << 20,
            answer_bytes_max: 32 << 20,
            streams_per_connection_max: 256,
            keepalive: Duration::from_secs(20),
        }
    }
}

/// Why the public port ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or the server failed.
    #[error("the public port failed")]
    Transport(#[from] tonic::transport::Error),
    /// Reflection cannot read the descriptors that were compiled in.
    #[error("cannot describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves gRPC clients until `Door::stopping`. REST has layers of its own: these answer in gRPC's terms.
pub async fn serve(door: Door) -> Result<(), ServeError> {
    let Door { listener, cluster, history, logs, limits, stopping } = door;
    let recent = Arc::new(Recent::default());
    let follow = tokio::spawn(follow_states(Arc::clone(&cluster), Arc::clone(&recent), stopping.clone()));
    let api = Api { cluster, history, logs, recent, stopping: stopping.clone() };
    let layers = ServiceBuilder::new()
        // Refuses at once what the next layer would queue (RESOURCE_EXHAUSTED).
        .load_shed()
        // Counts calls until they are answered; a stream that has opened no longer counts.
        .concurrency_limit(limits.calls_in_flight_max);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(matins_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (asked, told) = (limits.request_bytes_max, limits.answer_bytes_max);
    // The same two bounds for each service; a macro since each server is a type of its own.
    macro_rules! bounded {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(asked).max_encoding_message_size(told)
        };
    }
    let served = Server::builder()
        // tonic's own timeout answers with a status; tower's would break the stream.
        .timeout(limits.answer_max)
        // A client that is gone without a word must not hold a stream for ever.
        .http2_keepalive_interval(Some(limits.keepalive))
        .http2_keepalive_timeout(Some(limits.keepalive))
        .max_concurrent_streams(limits.streams_per_connection_max)
        .layer(layers)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(bounded!(WorkflowsServer, WorkflowsService(api.clone())))
        .add_service(bounded!(RunsServer, RunsService(api.clone())))
        .add_service(bounded!(SchedulesServer, SchedulesService(api.clone())))
        .add_service(bounded!(BackfillsServer, BackfillsService(api.clone())))
        .add_service(bounded!(PoolsServer, PoolsService(api.clone())))
        .add_service(bounded!(LogsServer, LogsService(api.clone())))
        .add_service(bounded!(ClusterServer, ClusterService::new(api)))
        .serve_with_incoming_shutdown(incoming(listener), stopping.clone().cancelled_owned())
        .await;
    stopping.cancel();
    // It only follows states and ends by the same token; a panic in it was logged when it happened.
    let _ = follow.await;
    Ok(served?)
}

/// Fills the ring that watches go on from.
async fn follow_states(cluster: Arc<dyn Cluster>, recent: Arc<Recent>, stopping: CancellationToken) {
    let mut states = cluster.states();
    states.mark_changed();
    loop {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = stopping.cancelled() => return,
        }
        let state = states.borrow_and_update().clone();
        recent.note(state);
    }
}
