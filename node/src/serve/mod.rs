//! The public port: gRPC and plain HTTP in, commands and reads out.
//!
//! Handlers read the wire, ask once, and write the wire (STYLE 32). Nothing here changes state but by a command, and
//! nothing decides what a command does. Only this module knows the public wire types.
//!
//! Start reading at [`serve`], then [`cluster`] (what is needed of the node), `api` (how everything asks), `service` (one
//! module per service), and the two ways in to them: `grpc`, and `http` with `rest`.

mod api;
mod bounds;
pub mod cluster;
mod compile;
mod connections;
mod error;
mod filter;
mod grpc;
mod health;
mod hosts;
mod http;
mod outside;
mod page;
mod plan;
mod pulse;
mod recent;
mod rest;
mod service;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Version, header};
use matins_core::state::Settings;
use matins_proto::v1::Setting;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{self, Server};
use tower::ServiceExt as _;

use api::Api;
pub(crate) use bounds::Seats;
use bounds::{Bounds, RequestBytes};
use cluster::{Cluster, History, LogSource};
pub(crate) use connections::admit;
pub use error::ApiError;
pub use hosts::Hosts;
pub use outside::{ExecutorDoor, serve_executor};
use pulse::Watches;
use recent::Recent;
use service::Services;

use crate::metrics::{Bound, DoorCounts, Scrape};
use crate::system::{Listener, close_stalled, incoming};

/// Connections that are open when the node stops have so long to end what they do.
const GOODBYE: Duration = Duration::from_secs(5);

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
    /// What `/metrics` tells.
    pub metrics: Arc<dyn Scrape>,
    /// Where it is counted what the port bears.
    pub counts: DoorCounts,
    /// Names under which plain HTTP is answered.
    pub hosts: Hosts,
    /// Bounds.
    pub limits: DoorLimits,
    /// Ends the port: calls in flight are answered, streams end with `SHUTTING_DOWN`.
    pub stopping: CancellationToken,
}

/// Bounds of the public port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorLimits {
    /// Calls by gRPC that wait for their answer at once; more hear `RESOURCE_EXHAUSTED`. A stream that has opened no
    /// longer counts.
    pub calls_in_flight_max: usize,
    /// The same for plain HTTP; more hear 429.
    pub plain_calls_in_flight_max: usize,
    /// Streams by gRPC that are open at once; more hear `RESOURCE_EXHAUSTED`.
    pub streams_max: usize,
    /// The same for plain HTTP; more hear 429.
    pub event_streams_max: usize,
    /// Connections that are open at once; more are closed at once.
    pub connections_max: usize,
    /// A call without an answer by then is answered `CANCELLED`. Above the 30 s that `Runs.Wait` may take.
    pub answer_max: Duration,
    /// Bytes of one request.
    pub request_bytes_max: usize,
    /// Bytes of all requests in flight; where one does not fit its caller hears `RESOURCE_EXHAUSTED`, or 429.
    pub request_bytes_in_flight_max: usize,
    /// Bytes of one answer.
    pub answer_bytes_max: usize,
    /// Streams that one connection may have open.
    pub streams_per_connection_max: u32,
    /// A connection without a sign of life for so long is asked for one, and closed if none comes.
    pub keepalive: Duration,
    /// A connection whose other side takes nothing for so long is closed, also if it is only one stream of it that is not
    /// read.
    pub stalled_max: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            calls_in_flight_max: 1_024,
            plain_calls_in_flight_max: 1_024,
            streams_max: 10_000,
            event_streams_max: 10_000,
            connections_max: 16_384,
            answer_max: Duration::from_secs(40),
            request_bytes_max: 4 << 20,
            request_bytes_in_flight_max: 256 << 20,
            answer_bytes_max: 32 << 20,
            streams_per_connection_max: 256,
            keepalive: Duration::from_secs(20),
            stalled_max: Duration::from_secs(30),
        }
    }
}

/// Why the public port ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or the server failed.
    #[error("the public port failed")]
    Transport(#[from] transport::Error),
    /// Reflection cannot read the descriptors that were compiled in.
    #[error("cannot describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The rules of a cluster that nobody has changed, as people read them.
pub fn usual_settings() -> Vec<Setting> {
    service::settings_of(&Settings::default())
}

/// Serves clients until `Door::stopping`.
pub async fn serve(door: Door) -> Result<(), ServeError> {
    let Door { listener, cluster, history, logs, metrics, counts, hosts, limits, stopping } = door;
    let recent = Arc::new(Recent::default());
    let follow = tokio::spawn(follow_states(Arc::clone(&cluster), Arc::clone(&recent), stopping.clone()));
    let api = Api { cluster, history, logs, recent, watches: Watches::default(), stopping: stopping.clone() };
    let services = Services::new(&api);
    let bytes = RequestBytes::new(limits.request_bytes_in_flight_max, &counts);
    let bounds = |bound, calls_max| Bounds {
        seats: Seats::new(bound, calls_max, &counts),
        bytes: bytes.clone(),
        answer_max: limits.answer_max,
    };
    let plain_bounds = bounds(Bound::HttpCalls, limits.plain_calls_in_flight_max);
    let plain_streams = Seats::new(Bound::HttpStreams, limits.event_streams_max, &counts);
    let plain =
        http::router(&api, services.clone(), (metrics, &limits), (plain_bounds, plain_streams), hosts);
    let grpc_bounds = bounds(Bound::GrpcCalls, limits.calls_in_flight_max);
    let grpc_streams = Seats::new(Bound::GrpcStreams, limits.streams_max, &counts);
    let (grpc, health) = grpc::router(api, (&services, &limits), (grpc_bounds, grpc_streams))?;
    let health = tokio::spawn(health);
    close_stalled(&listener, limits.stalled_max);
    let connections = Seats::new(Bound::Connections, limits.connections_max, &counts);
    let served = Server::builder()
        .accept_http1(true)
        // A client that is gone without a word must not hold a stream for ever.
        .http2_keepalive_interval(Some(limits.keepalive))
        .http2_keepalive_timeout(Some(limits.keepalive))
        .max_concurrent_streams(limits.streams_per_connection_max)
        // No layer and no deadline here: what is below answers each in its own terms.
        .add_routes(Routes::from(either(grpc, plain)))
        .serve_with_incoming_shutdown(
            admit(incoming(listener), connections, limits.stalled_max),
            stopping.clone().cancelled_owned(),
        );
    let served = until_goodbye(served, &stopping).await;
    stopping.cancel();
    // They only follow states and end by the same token; a panic in one was logged when it happened.
    let _ = follow.await;
    let _ = health.await;
    Ok(served?)
}

/// Serves until it is over, and not much longer than until `stopping`: somebody may not read what is said to him, or follow the
/// log of a task that goes on.
async fn until_goodbye(
    served: impl Future<Output = Result<(), transport::Error>>,
    stopping: &CancellationToken,
) -> Result<(), transport::Error> {
    let goodbye = async {
        stopping.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        served = served => served,
        () = goodbye => Ok(()),
    }
}

/// One port for both: what says that it is gRPC is gRPC, if it comes by HTTP/2. By HTTP/1.1 only a browser could say so, for a page
/// that is kept out of plain HTTP.
fn either(grpc: Router, plain: Router) -> Router {
    Router::new().fallback(move |request: Request| {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let is_grpc = is_grpc && request.version() == Version::HTTP_2;
        if is_grpc { grpc.clone() } else { plain.clone() }.oneshot(request)
    })
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
