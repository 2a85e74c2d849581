//! The leader's end of the executors' streams, on the cluster port (PROTOCOL 5.4). Reads the wire and writes the wire.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::Stream;
use matins_core::id::NodeId;
use matins_proto::v1;
use matins_proto::v1::executor_link_server::{ExecutorLink, ExecutorLinkServer};
use matins_proto::v1::executor_message;
use matins_proto::v1::leader_message::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::queue::ConnId;
use super::sessions::message;
use super::shell::{Input, LeadHandle};
use crate::raft::Consensus;

/// Messages on their way to one executor. Starts and stops for all its slots at once are far fewer.
const QUEUE_MAX: usize = 4_096;
/// A report carries 64 KiB of output at most.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Takes the streams of executors; every node has one, and sends them to the leader.
pub struct LinkService {
    consensus: Consensus,
    lead: LeadHandle,
    conns: AtomicU64,
}

impl LinkService {
    /// The service for the cluster port.
    pub fn server(consensus: Consensus, lead: LeadHandle) -> ExecutorLinkServer<Self> {
        let service = Self { consensus, lead, conns: AtomicU64::new(0) };
        ExecutorLinkServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Where the leader is, as far as this node knows; empty if it does not.
    fn not_leader(&self) -> v1::LeaderMessage {
        let leader = self.consensus.leader().borrow().leader.clone();
        let leader = leader.filter(|(node, _)| *node != self.consensus.node());
        let leader = leader.map(|(_, member)| member.cluster_address).unwrap_or_default();
        message(Message::NotLeader(v1::NotLeader { leader }))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<v1::LeaderMessage, Status>> + Send>>;

#[tonic::async_trait]
impl ExecutorLink for LinkService {
    type SessionStream = Messages;

    async fn session(
        &self,
        request: Request<Streaming<v1::ExecutorMessage>>,
    ) -> Result<Response<Messages>, Status> {
        if self.consensus.leader().borrow().leading.is_none() {
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(self.not_leader())))));
        }
        let conn = ConnId(self.conns.fetch_add(1, Ordering::Relaxed));
        let (to_executor, messages) = mpsc::channel(QUEUE_MAX);
        let close = CancellationToken::new();
        if !self.lead.send(Input::Opened(conn, to_executor, close.clone())).await {
            return Err(Status::unavailable("this node is stopping"));
        }
        tokio::spawn(hear(request.into_inner(), conn, (self.consensus.clone(), self.lead.clone()), close));
        // The stream ends when the leader drops its sender.
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(Ok))))
    }
}

/// The executor of a node that was taken out is not one any more (PROTOCOL 2.7), though it may not know it yet. Nor is one
/// that means another cluster: after a recovery its old leader's address is that of a node of the new one.
fn may_come(consensus: &Consensus, hello: &v1::Hello) -> bool {
    let is_ours = hello.cluster == 0 || consensus.cluster() == Some(hello.cluster);
    is_ours && (!hello.address.is_empty() || consensus.members().nodes.contains_key(&NodeId(hello.node)))
}

/// Hands on what an executor says, in order, until it or the leader ends the stream.
async fn hear(
    mut said: Streaming<v1::ExecutorMessage>,
    conn: ConnId,
    (consensus, lead): (Consensus, LeadHandle),
    close: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            () = close.cancelled() => break,
            next = said.message() => next,
        };
        match next {
            Ok(Some(v1::ExecutorMessage { message: Some(executor_message::Message::Hello(hello)) }))
                if !may_come(&consensus, &hello) =>
            {
                break;
            }
            Ok(Some(v1::ExecutorMessage { message: Some(message) })) => {
                if !lead.send(Input::Of(conn, Some(message))).await {
                    return;
                }
            }
            // A kind of message that this release does not know changes nothing here.
            Ok(Some(v1::ExecutorMessage { message: None })) => {}
            Ok(None) | Err(_) => break,
        }
    }
    lead.send(Input::Of(conn, None)).await;
}
