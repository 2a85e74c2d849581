//! How openraft reaches another node (PROTOCOL 2.6). Every call that fails is `Unreachable`, so that openraft backs off.

use std::future::Future;
use std::time::Duration;

use matins_core::id::NodeId;
use matins_proto::v1;
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use tonic::Status;

use super::links::{Link, Links};
use super::types::{Member, TypeConfig, Vote};
use super::{snapshot, wire};

/// Bytes of records in one append; a single larger record goes alone.
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;

type CallError = RPCError<u64, Member, RaftError<u64>>;

/// Makes a [`Peer`] for each node that openraft wants to reach. They share their connections.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) links: Links,
    /// How long to wait before an unreachable node is tried again.
    pub(crate) backoff: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        let link = self.links.at(&member.cluster_address).map_err(|error| Unreachable::new(&error));
        Peer { links: self.links.clone(), node: NodeId(target), link, backoff: self.backoff }
    }
}

/// One other node.
pub(crate) struct Peer {
    links: Links,
    node: NodeId,
    /// An address that is none makes every call fail.
    link: Result<Link, Unreachable>,
    backoff: Duration,
}

impl Peer {
    fn to(&self) -> v1::PeerTo {
        self.links.address_to(self.node)
    }

    fn link(&self) -> Result<Link, CallError> {
        self.link.clone().map_err(CallError::Unreachable)
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot<TypeConfig>) -> Result<Vote, Unreachable> {
        let link = self.link.clone()?;
        snapshot::send(link, self.to(), vote, snapshot).await.map_err(|status| Unreachable::new(&status))
    }
}

fn unreachable(status: &Status) -> CallError {
    CallError::Unreachable(Unreachable::new(status))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        let link = self.link()?;
        let message = wire::append_out(&request, self.to(), APPEND_BYTES_MAX);
        let sent = message.records.len();
        let mut client = if sent == 0 { link.control } else { link.append };
        let response = client.append(message).await.map_err(|status| unreachable(&status))?.into_inner();
        let cut_after =
            if sent < request.entries.len() { Some(request.entries[sent - 1].log_id) } else { None };
        wire::appended_in(response, cut_after).map_err(|status| unreachable(&status))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError> {
        let mut link = self.link()?;
        let message = wire::vote_request_out(&request, self.to());
        let response = link.control.vote(message).await.map_err(|status| unreachable(&status))?;
        wire::voted_in(response.into_inner()).map_err(|status| unreachable(&status))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(error)),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.backoff))
    }
}
