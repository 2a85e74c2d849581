//! The one port of an executor that belongs to no node: nodes read logs there by gRPC, and whoever operates it asks for probes
//! and metrics by plain HTTP, as at a node.
//!
//! One port, since who can reach a node's public port can read all logs anyway. It has the bounds of a node's public port, so that
//! whoever connects takes nothing from the tasks. Start reading at [`serve_executor`].

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use matins_proto::v1::attempt_logs_server::AttemptLogsServer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic::transport::Server;

use super::bounds::Seats;
use super::connections::admit;
use super::grpc::seat_streams;
use super::health::as_answer;
use super::http::tell;
use super::rest::not_found;
use super::{DoorLimits, ServeError, either, until_goodbye};
use crate::execute::{Activity, LogFolder};
use crate::metrics::{Bound, DoorCounts, Scrape};
use crate::system::{Listener, close_stalled, incoming};

/// What the port of an executor stands on.
pub struct ExecutorDoor {
    /// Where nodes and probes connect.
    pub listener: Listener,
    /// Logs of its attempts.
    pub logs: LogFolder,
    /// What it does.
    pub activity: watch::Receiver<Activity>,
    /// What `/metrics` tells.
    pub metrics: Arc<dyn Scrape>,
    /// Where it is counted what the port bears.
    pub counts: DoorCounts,
    /// Bounds; those of connections and streams apply.
    pub limits: DoorLimits,
    /// Ends the port.
    pub stopping: CancellationToken,
}

/// Serves nodes and operators until `ExecutorDoor::stopping`.
pub async fn serve_executor(door: ExecutorDoor) -> Result<(), ServeError> {
    let ExecutorDoor { listener, logs, activity, metrics, counts, limits, stopping } = door;
    let tail = format!("/{}/Tail", AttemptLogsServer::<LogFolder>::NAME);
    let streams = Seats::new(Bound::GrpcStreams, limits.streams_max, &counts);
    let grpc = Routes::new(AttemptLogsServer::new(logs)).into_axum_router();
    let grpc = seat_streams(grpc, BTreeSet::from([tail]), streams);
    let alive = stopping.clone();
    let plain = Router::new()
        .route("/livez", get(move || async move { as_answer(live(&alive)) }))
        .route("/readyz", get(move || async move { as_answer(ready(*activity.borrow())) }))
        .route("/metrics", get(move || tell(metrics.clone())))
        .fallback(not_found);
    close_stalled(&listener, limits.stalled_max);
    let connections = Seats::new(Bound::Connections, limits.connections_max, &counts);
    let served = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(limits.keepalive))
        .http2_keepalive_timeout(Some(limits.keepalive))
        .max_concurrent_streams(limits.streams_per_connection_max)
        .add_routes(Routes::from(either(grpc, plain)))
        .serve_with_incoming_shutdown(
            admit(incoming(listener), connections, limits.stalled_max),
            stopping.clone().cancelled_owned(),
        );
    Ok(until_goodbye(served, &stopping).await?)
}

fn live(stopping: &CancellationToken) -> Result<String, String> {
    if stopping.is_cancelled() { Err("stopping".into()) } else { Ok("alive".into()) }
}

/// Whether the leader may give it work.
fn ready(activity: Activity) -> Result<String, String> {
    let held = activity.held;
    match activity.session {
        Some(session) => Ok(format!("ready in session {}, {held} attempts held", session.0)),
        None => Err(format!("no session with a leader is open, {held} attempts held")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use matins_core::id::SessionNumber;

    use super::*;

    #[test]
    fn it_is_ready_while_its_session_holds() {
        let apart = Activity { held: 1, session: None };
        assert_eq!(ready(apart).unwrap_err(), "no session with a leader is open, 1 attempts held");
        let open = Activity { session: Some(SessionNumber(3)), ..apart };
        assert_eq!(as_answer(ready(open)).0, StatusCode::OK);
    }
}
