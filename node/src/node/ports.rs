//! The cluster port: other nodes, and executors on connections of their own (DESIGN 4).

use std::time::Duration;

use matins_proto::v1::attempt_logs_server::AttemptLogsServer;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::execute::LogFolder;
use crate::history::error_chain;
use crate::lead::link::LinkService;
use crate::lead::shell::LeadHandle;
use crate::raft::Consensus;
use crate::serve::{Seats, admit};
use crate::system::{Listener, incoming};

/// A connection without a sign of life for so long is asked for one, and closed if none comes.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Nodes and executors that are alive take what they asked for.
const STALLED_MAX: Duration = Duration::from_secs(30);

/// Serves other nodes and executors until `stopping`.
pub(super) async fn serve_cluster(
    (listener, seats): (Listener, Seats),
    (consensus, lead, logs): (Consensus, LeadHandle, Option<LogFolder>),
    stopping: CancellationToken,
) {
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(consensus.peer_service())
        .add_service(LinkService::server(consensus, lead))
        .add_optional_service(logs.map(AttemptLogsServer::new))
        .serve_with_incoming_shutdown(
            admit(incoming(listener), seats, STALLED_MAX),
            stopping.cancelled_owned(),
        )
        .await;
    if let Err(error) = served {
        tracing::error!(error = error_chain(&error), "the cluster port ended");
    }
}
