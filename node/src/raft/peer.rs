//! The service that other nodes call. It reads the wire, asks once, writes the wire (STYLE 32).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use matins_core::command::Proposal;
use matins_core::id::{ClusterId, Fence, NodeId};
use matins_proto::v1;
use matins_proto::v1::peer_server::{Peer, PeerServer};
use openraft::Snapshot;
use tonic::{Request, Response, Status, Streaming};

use super::consensus::{Consensus, Inner};
use super::error::ProposeError;
use super::links::{MESSAGE_BYTES_MAX, PART_BYTES};
use super::snapshot::{SnapshotFile, meta_for_openraft};
use super::{blobs, leave, record, wire};
use crate::packs;
use crate::store::StoreError;
use crate::system;

/// Answers the other nodes. `serve` puts it on the cluster port.
#[derive(Clone)]
pub struct PeerService {
    consensus: Consensus,
}

impl Consensus {
    /// The service for the other nodes, to be put on the cluster port. A server needs HTTP/2 keep-alive and `TCP_NODELAY`.
    pub fn peer_service(&self) -> PeerServer<PeerService> {
        PeerServer::new(PeerService { consensus: self.clone() })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

type Answer<T> = Result<Response<T>, Status>;

impl PeerService {
    fn inner(&self) -> &Arc<Inner> {
        self.consensus.inner()
    }

    /// Refuses what is meant for somebody else.
    fn check(&self, to: Option<&v1::PeerTo>) -> Result<(), Status> {
        let inner = self.inner();
        let to = to.ok_or_else(|| Status::invalid_argument("a message of a peer lacks `to`"))?;
        if inner.links.cluster() != Some(to.cluster) || to.node != inner.node.0 {
            return Err(Status::failed_precondition(format!(
                "this is {}, of another cluster or not the one meant",
                inner.node
            )));
        }
        Ok(())
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn disk(error: &StoreError) -> Status {
    match error {
        StoreError::Full { .. } => Status::resource_exhausted(error.to_string()),
        StoreError::OutOfOrder { .. } | StoreError::BadTransfer { .. } | StoreError::TooLarge { .. } => {
            Status::invalid_argument(error.to_string())
        }
        StoreError::Io { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Stopped { .. }
        | StoreError::Newer { .. } => Status::internal(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    system::blocking(call).await.map_err(|error| disk(&error))
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append(&self, call: Request<v1::PeerAppendRequest>) -> Answer<v1::PeerAppendResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let request = wire::append_in(call)?;
        let inner = self.inner();
        // Heard on arrival: a follower whose disk is slow has a leader all the same. An older one does not count.
        if request.vote >= inner.raft.server_metrics().borrow().vote {
            inner.elections.heard_leader();
        }
        let response = inner.raft.append_entries(request).await.map_err(stopped)?;
        Ok(Response::new(wire::appended_out(&response)))
    }

    async fn vote(&self, call: Request<v1::PeerVoteRequest>) -> Answer<v1::PeerVoteResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let response = self.inner().raft.vote(wire::vote_request_in(call)?).await.map_err(stopped)?;
        Ok(Response::new(wire::voted_out(&response)))
    }

    async fn pre_vote(&self, call: Request<v1::PeerPreVoteRequest>) -> Answer<v1::PeerPreVoteResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let inner = self.inner();
        let own = inner.log.store().last().map(record::to_log_id);
        let granted = inner.elections.would_follow(call.last.map(wire::log_id_in), own);
        Ok(Response::new(v1::PeerPreVoteResponse { granted }))
    }

    async fn snapshot_held(
        &self,
        call: Request<v1::PeerSnapshotHeldRequest>,
    ) -> Answer<v1::PeerSnapshotHeldResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let last = record::to_position(wire::log_id_in(call.last.ok_or_else(no_snapshot)?));
        let snapshots = Arc::clone(self.inner().snapshots.store());
        let _receiving = self.inner().receiving.lock().await;
        let next_piece = blocking(move || Ok(snapshots.receive(last)?.next_piece())).await?;
        Ok(Response::new(v1::PeerSnapshotHeldResponse { next_piece }))
    }

    async fn install_snapshot(
        &self,
        call: Request<Streaming<v1::PeerSnapshotPart>>,
    ) -> Answer<v1::PeerVoteResponse> {
        let mut parts = call.into_inner();
        let head = parts.message().await?.ok_or_else(no_snapshot)?;
        self.check(head.to.as_ref())?;
        let vote = wire::vote_in(head.vote)?;
        let last = record::to_position(wire::log_id_in(head.last.ok_or_else(no_snapshot)?));
        let inner = self.inner();
        let _receiving = inner.receiving.lock().await;
        let snapshots = Arc::clone(inner.snapshots.store());
        let mut receiver = blocking(move || snapshots.receive(last)).await?;
        while let Some(part) = parts.message().await? {
            inner.elections.heard_leader();
            receiver = blocking(move || receiver.add(part.number, &part.piece).map(|()| receiver)).await?;
        }
        let received = blocking(move || receiver.finish()).await?;
        let meta = meta_for_openraft(received.meta()).map_err(|error| disk(&error))?;
        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotFile::Received(Box::new(received))) };
        let response = inner.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        let vote = Some(wire::vote_out(response.vote));
        Ok(Response::new(v1::PeerVoteResponse { vote, granted: true, last: None }))
    }

    async fn forward(&self, call: Request<v1::PeerForwardRequest>) -> Answer<v1::PeerForwardResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let proposal: Proposal = postcard::from_bytes(&call.proposal)
            .map_err(|_| Status::invalid_argument("a command that this release cannot read"))?;
        let within = Duration::from_millis(call.within_ms).min(self.inner().times.propose);
        let answered = tokio::time::timeout(within, self.consensus.propose(proposal)).await;
        Ok(Response::new(forwarded(answered.unwrap_or(Err(ProposeError::Deadline)))))
    }

    async fn read_index(&self, call: Request<v1::PeerReadIndexRequest>) -> Answer<v1::PeerReadIndexResponse> {
        self.check(call.into_inner().to.as_ref())?;
        let inner = self.inner();
        if inner.leader.borrow().leading.is_none() {
            return Err(Status::failed_precondition("this node does not lead, or is not ready"));
        }
        let round = inner.rounds.ask_for_reader(inner.times.heartbeat * 4).await;
        let round = round.ok_or_else(|| Status::unavailable("no majority answers this leader"))?;
        Ok(Response::new(v1::PeerReadIndexResponse { index: round.index }))
    }

    async fn status(&self, call: Request<v1::PeerStatusRequest>) -> Answer<v1::PeerStatusResponse> {
        let inner = self.inner();
        blobs::ask_to_count(inner, call.into_inner().count_from);
        Ok(Response::new(wire::status_out(&inner.status(), &inner.member)))
    }

    async fn join(&self, call: Request<v1::PeerJoinRequest>) -> Answer<v1::PeerJoinResponse> {
        let call = call.into_inner();
        let inner = self.inner();
        if call.level > u32::from(inner.level_max) || call.cluster == 0 {
            return Err(Status::failed_precondition("this node needs a later version for that cluster"));
        }
        let dir = Arc::clone(&inner.dir);
        let cluster = ClusterId(call.cluster);
        let joined = system::blocking(move || dir.join(cluster)).await;
        joined.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let dir = Arc::clone(&inner.dir);
        blocking(move || dir.raise_level(call.level)).await?;
        inner.links.set_cluster(cluster.0);
        let member = Some(wire::member_out(&inner.member));
        Ok(Response::new(v1::PeerJoinResponse { node: inner.node.0, member }))
    }

    async fn take_lead(&self, call: Request<v1::PeerTakeLeadRequest>) -> Answer<v1::PeerTakeLeadResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let inner = self.inner();
        let own = inner.log.store().last().map(record::to_log_id);
        if own < call.last.map(wire::log_id_in) {
            return Err(Status::failed_precondition("this node lacks the end of the log"));
        }
        tracing::info!("the leader hands over its lead: this node stands for election");
        inner.raft.trigger().elect().await.map_err(stopped)?;
        Ok(Response::new(v1::PeerTakeLeadResponse {}))
    }

    async fn leave(&self, call: Request<v1::PeerLeaveRequest>) -> Answer<v1::PeerLeaveResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        leave::mark(self.inner(), call.index).await;
        Ok(Response::new(v1::PeerLeaveResponse {}))
    }

    async fn standing(&self, call: Request<v1::PeerStandingRequest>) -> Answer<v1::PeerStandingResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let gone = leave::gone_since(self.inner(), NodeId(call.node), call.since).await;
        Ok(Response::new(v1::PeerStandingResponse { removed_at: gone.unwrap_or(0) }))
    }

    async fn members(&self, _: Request<v1::PeerMembersRequest>) -> Answer<v1::PeerMembersResponse> {
        let inner = self.inner();
        let leader = inner.leader.borrow().leader.as_ref().map_or(0, |(node, _)| node.0);
        let cluster = inner.links.cluster().unwrap_or(0);
        Ok(Response::new(wire::members_out(&inner.members(), cluster, leader)))
    }

    async fn logs(&self, call: Request<v1::PeerLogsRequest>) -> Answer<v1::PeerLogsResponse> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let (state, executor) = (self.inner().state(), NodeId(call.executor));
        let open = state.logs_open.iter().filter(|(_, (of, _, _))| *of == executor);
        let settled = call.fences.iter().copied().filter(|fence| packs::is_settled(&state, Fence(*fence)));
        Ok(Response::new(v1::PeerLogsResponse {
            open: open.map(|(fence, _)| fence.0).collect(),
            settled: settled.collect(),
        }))
    }

    type GetBlobStream = Pin<Box<dyn Stream<Item = Result<v1::PeerBlobPart, Status>> + Send>>;

    async fn get_blob(&self, call: Request<v1::PeerGetBlobRequest>) -> Answer<Self::GetBlobStream> {
        let call = call.into_inner();
        self.check(call.to.as_ref())?;
        let digest = wire::digest_in(&call.digest)?;
        let inner = self.inner();
        if !inner.blobs.has(&digest) {
            return Err(Status::not_found(format!("blob {digest} is not here")));
        }
        inner.holdings.hold(digest, inner.state().now);
        let blobs = Arc::clone(&inner.blobs);
        let parts = futures::stream::try_unfold(call.offset, move |offset| {
            let blobs = Arc::clone(&blobs);
            async move {
                let part = blocking(move || blobs.read(&digest, offset, PART_BYTES as u64)).await?;
                let part = Bytes::from(part.ok_or_else(|| Status::not_found("the blob has gone"))?);
                let next = offset + part.len() as u64;
                let part = v1::PeerBlobPart { part, ..v1::PeerBlobPart::default() };
                Ok((next > offset).then_some((part, next)))
            }
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn put_blob(&self, call: Request<Streaming<v1::PeerBlobPart>>) -> Answer<v1::PeerPutBlobResponse> {
        let mut parts = call.into_inner();
        let head = parts.message().await?.ok_or_else(|| Status::invalid_argument("a blob without a head"))?;
        self.check(head.to.as_ref())?;
        let digest = wire::digest_in(&head.digest)?;
        let inner = self.inner();
        inner.holdings.hold(digest, inner.state().now);
        // Received in memory: they have a limit, and a partial file would belong to whoever fetches it.
        let mut bytes = Vec::new();
        while let Some(part) = parts.message().await? {
            if bytes.len() + part.part.len() > BLOB_BYTES_MAX {
                return Err(Status::invalid_argument(format!("a blob has {BLOB_BYTES_MAX} bytes at most")));
            }
            bytes.extend_from_slice(&part.part);
        }
        let blobs = Arc::clone(&inner.blobs);
        let stored =
            blocking(move || if blobs.has(&digest) { Ok(digest) } else { blobs.put(&bytes) }).await?;
        if stored != digest {
            return Err(Status::data_loss("the bytes of a blob are not what its digest says"));
        }
        Ok(Response::new(v1::PeerPutBlobResponse {}))
    }
}

/// The log of one attempt has 256 MiB, and the note that the rest was dropped (DESIGN 5); nothing else is larger. With less
/// a full log would never be attached, and be sent again for ever.
const BLOB_BYTES_MAX: usize = 257 << 20;

fn no_snapshot() -> Status {
    Status::invalid_argument("a snapshot without a head")
}

fn forwarded(answered: Result<super::Answered, ProposeError>) -> v1::PeerForwardResponse {
    use v1::peer_forward_response::Result as Outcome;
    let mut response = v1::PeerForwardResponse::default();
    let outcome = match answered {
        Ok(answered) => {
            let answer = postcard::to_allocvec(&answered.answer);
            response.answer = answer.expect("answers have no sequence of unknown length").into();
            response.index = answered.index.0;
            response.at_ms = answered.at.as_millis();
            Outcome::Answered
        }
        Err(ProposeError::NotLeader { .. }) => Outcome::NotLeader,
        Err(ProposeError::Overloaded { limit }) => {
            response.limit = limit as u64;
            Outcome::Overloaded
        }
        Err(ProposeError::TooLarge { bytes, limit }) => {
            (response.bytes, response.limit) = (bytes as u64, limit as u64);
            Outcome::TooLarge
        }
        Err(ProposeError::Deadline | ProposeError::Stopping) => Outcome::Unknown,
    };
    response.result = outcome.into();
    response
}
