//! Between openraft's types and the messages of `peer.proto`. Says what it refuses; decides nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use matins_core::id::{Digest, NodeId};
use matins_core::time::Timestamp;
use matins_proto::v1;
use openraft::CommittedLeaderId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use tonic::Status;

use super::record;
use super::types::{LogId, Member, Members, PeerStatus, Record, TypeConfig, Vote};
use crate::disk::{DiskLimits, DiskUse};
use crate::store::log::{Kind, Record as Stored};

pub(crate) fn log_id_out(id: LogId) -> v1::PeerLogId {
    v1::PeerLogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_in(id: v1::PeerLogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.leader), id.index)
}

pub(crate) fn vote_out(vote: Vote) -> v1::PeerVote {
    v1::PeerVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_in(vote: Option<v1::PeerVote>) -> Result<Vote, Status> {
    let vote = vote.ok_or_else(|| missing("vote"))?;
    let mut read = Vote::new(vote.term, vote.node);
    read.committed = vote.committed;
    Ok(read)
}

/// Records are cut where `bytes_max` is passed, after the first; says how many went in.
pub(crate) fn append_out(
    request: &AppendEntriesRequest<TypeConfig>,
    to: v1::PeerTo,
    bytes_max: usize,
) -> v1::PeerAppendRequest {
    let mut records = Vec::with_capacity(request.entries.len());
    let mut bytes = 0;
    for entry in &request.entries {
        let stored = record::to_stored(entry);
        bytes += stored.body.len();
        if bytes > bytes_max && !records.is_empty() {
            break;
        }
        let kind = kind_out(stored.kind).into();
        records.push(v1::PeerRecord { at: Some(log_id_out(entry.log_id)), kind, body: stored.body });
    }
    v1::PeerAppendRequest {
        to: Some(to),
        vote: Some(vote_out(request.vote)),
        previous: request.prev_log_id.map(log_id_out),
        committed: request.leader_commit.map(log_id_out),
        records,
    }
}

pub(crate) fn append_in(request: v1::PeerAppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    Ok(AppendEntriesRequest {
        vote: vote_in(request.vote)?,
        prev_log_id: request.previous.map(log_id_in),
        entries: request.records.into_iter().map(record_in).collect::<Result<Vec<Record>, Status>>()?,
        leader_commit: request.committed.map(log_id_in),
    })
}

fn kind_out(kind: Kind) -> v1::peer_record::Kind {
    match kind {
        Kind::Blank => v1::peer_record::Kind::Blank,
        Kind::Membership => v1::peer_record::Kind::Membership,
        Kind::Entry => v1::peer_record::Kind::Entry,
    }
}

fn record_in(record: v1::PeerRecord) -> Result<Record, Status> {
    let kind = match record.kind() {
        v1::peer_record::Kind::Blank => Kind::Blank,
        v1::peer_record::Kind::Membership => Kind::Membership,
        v1::peer_record::Kind::Entry => Kind::Entry,
        v1::peer_record::Kind::Unspecified => return Err(missing("kind")),
    };
    let at = record.at.ok_or_else(|| missing("at"))?;
    let stored = Stored { index: at.index, term: at.term, leader: at.leader, kind, body: record.body };
    record::from_stored(&stored).map_err(|error| Status::invalid_argument(error.to_string()))
}

pub(crate) fn appended_out(response: &AppendEntriesResponse<u64>) -> v1::PeerAppendResponse {
    use v1::peer_append_response::Result as Outcome;
    let (result, vote) = match response {
        // A node takes all it is given or nothing; only the sender cuts.
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => (Outcome::Success, None),
        AppendEntriesResponse::Conflict => (Outcome::Conflict, None),
        AppendEntriesResponse::HigherVote(vote) => (Outcome::HigherVote, Some(vote_out(*vote))),
    };
    v1::PeerAppendResponse { result: result.into(), vote }
}

/// `sent` is the last record of those sent, if not all were.
pub(crate) fn appended_in(
    response: v1::PeerAppendResponse,
    sent: Option<LogId>,
) -> Result<AppendEntriesResponse<u64>, Status> {
    use v1::peer_append_response::Result as Outcome;
    match response.result() {
        Outcome::Success => Ok(match sent {
            Some(last) => AppendEntriesResponse::PartialSuccess(Some(last)),
            None => AppendEntriesResponse::Success,
        }),
        Outcome::Conflict => Ok(AppendEntriesResponse::Conflict),
        Outcome::HigherVote => Ok(AppendEntriesResponse::HigherVote(vote_in(response.vote)?)),
        Outcome::Unspecified => Err(missing("result")),
    }
}

pub(crate) fn vote_request_out(request: &VoteRequest<u64>, to: v1::PeerTo) -> v1::PeerVoteRequest {
    v1::PeerVoteRequest {
        to: Some(to),
        vote: Some(vote_out(request.vote)),
        last: request.last_log_id.map(log_id_out),
    }
}

pub(crate) fn vote_request_in(request: v1::PeerVoteRequest) -> Result<VoteRequest<u64>, Status> {
    Ok(VoteRequest::new(vote_in(request.vote)?, request.last.map(log_id_in)))
}

pub(crate) fn voted_out(response: &VoteResponse<u64>) -> v1::PeerVoteResponse {
    v1::PeerVoteResponse {
        vote: Some(vote_out(response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.map(log_id_out),
    }
}

pub(crate) fn voted_in(response: v1::PeerVoteResponse) -> Result<VoteResponse<u64>, Status> {
    Ok(VoteResponse {
        vote: vote_in(response.vote)?,
        vote_granted: response.granted,
        last_log_id: response.last.map(log_id_in),
    })
}

pub(crate) fn member_out(member: &Member) -> v1::PeerMember {
    v1::PeerMember {
        name: member.name.clone(),
        cluster_address: member.cluster_address.clone(),
        public_address: member.public_address.clone(),
    }
}

pub(crate) fn member_in(member: Option<v1::PeerMember>) -> Member {
    let member = member.unwrap_or_default();
    Member {
        name: member.name,
        cluster_address: member.cluster_address,
        public_address: member.public_address,
    }
}

pub(crate) fn status_out(status: &PeerStatus, member: &Member) -> v1::PeerStatusResponse {
    v1::PeerStatusResponse {
        node: status.node.0,
        cluster: status.cluster.unwrap_or(0),
        wall_ms: status.wall.as_millis(),
        applied: status.applied,
        level_max: status.level_max.into(),
        blocks_durable: status.blocks_durable,
        blobs_missing: status.blobs_missing,
        missing: status.missing.iter().map(|digest| Bytes::copy_from_slice(&digest.0)).collect(),
        member: Some(member_out(member)),
        blobs_counted_at: status.blobs_counted_at,
        disk: status.disk.as_ref().map(|disk| v1::PeerDisk {
            path: disk.path.clone(),
            used_permille: disk.used_permille.into(),
            warn_permille: disk.limits.warn_permille.into(),
            full_permille: disk.limits.full_permille.into(),
        }),
    }
}

pub(crate) fn status_in(status: &v1::PeerStatusResponse) -> Result<PeerStatus, Status> {
    Ok(PeerStatus {
        node: NodeId(status.node),
        cluster: Some(status.cluster).filter(|cluster| *cluster != 0),
        wall: Timestamp::from_millis(status.wall_ms),
        applied: status.applied,
        level_max: u16::try_from(status.level_max).unwrap_or(u16::MAX),
        blocks_durable: status.blocks_durable,
        blobs_missing: status.blobs_missing,
        blobs_counted_at: status.blobs_counted_at,
        missing: status.missing.iter().map(|bytes| digest_in(bytes)).collect::<Result<_, _>>()?,
        disk: status.disk.as_ref().map(disk_in),
    })
}

pub(crate) fn members_out(members: &Members, cluster: u64, leader: u64) -> v1::PeerMembersResponse {
    let node =
        |(node, member): (&NodeId, &Member)| v1::PeerNode { node: node.0, member: Some(member_out(member)) };
    let set = |set: &BTreeSet<NodeId>| v1::PeerVoters { nodes: set.iter().map(|node| node.0).collect() };
    v1::PeerMembersResponse {
        cluster,
        nodes: members.nodes.iter().map(node).collect(),
        voter_sets: members.voter_sets.iter().map(set).collect(),
        leader,
    }
}

/// What an executor that belongs to no node knows of the cluster.
pub fn members_in(response: v1::PeerMembersResponse) -> Members {
    let node = |node: v1::PeerNode| (NodeId(node.node), member_in(node.member));
    let set = |set: v1::PeerVoters| set.nodes.into_iter().map(NodeId).collect();
    Members {
        nodes: response.nodes.into_iter().map(node).collect(),
        voter_sets: response.voter_sets.into_iter().map(set).collect(),
    }
}

fn disk_in(disk: &v1::PeerDisk) -> DiskUse {
    let permille = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    DiskUse {
        path: disk.path.clone(),
        used_permille: permille(disk.used_permille),
        limits: DiskLimits {
            warn_permille: permille(disk.warn_permille),
            full_permille: permille(disk.full_permille),
        },
    }
}

pub(crate) fn digest_in(bytes: &[u8]) -> Result<Digest, Status> {
    bytes.try_into().map(Digest).map_err(|_| Status::invalid_argument("a digest has 32 bytes"))
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("a message of a peer lacks `{field}`"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn to() -> v1::PeerTo {
        v1::PeerTo { cluster: 1, node: 2 }
    }

    fn appended() -> Vec<u8> {
        let at = v1::PeerLogId { term: 3, leader: 1, index: 9 };
        let kinds =
            [v1::peer_record::Kind::Blank, v1::peer_record::Kind::Membership, v1::peer_record::Kind::Entry];
        let record = |kind: v1::peer_record::Kind| v1::PeerRecord {
            at: Some(at),
            kind: kind.into(),
            body: Bytes::from_static(&[1, 1, 1, 1, 1, 1, 1, b'a', 0, 0]),
        };
        let vote = Some(v1::PeerVote { term: 3, node: 1, committed: true });
        let records = kinds.into_iter().map(record).collect();
        let request =
            v1::PeerAppendRequest { to: Some(to()), vote, previous: Some(at), committed: Some(at), records };
        request.encode_to_vec()
    }

    /// All messages of a peer that become something else than they are.
    fn read_all(bytes: &[u8]) {
        if let Ok(request) = v1::PeerAppendRequest::decode(bytes)
            && let Ok(read) = append_in(request)
        {
            let again = append_in(append_out(&read, to(), usize::MAX)).expect("what was read can be sent");
            assert_eq!(again.entries, read.entries);
        }
        drop(v1::PeerVoteRequest::decode(bytes).map(vote_request_in));
        drop(v1::PeerVoteResponse::decode(bytes).map(voted_in));
        drop(v1::PeerAppendResponse::decode(bytes).map(|response| appended_in(response, None)));
        drop(v1::PeerStatusResponse::decode(bytes).map(|response| status_in(&response)));
        drop(v1::PeerMember::decode(bytes).map(|member| member_in(Some(member))));
        drop(digest_in(bytes));
    }

    proptest! {
        #[test]
        fn messages_of_any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..120), at: prop::sample::Index, flip in 1_u8..,
        ) {
            read_all(&bytes);
            let mut damaged = appended();
            read_all(&damaged);
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            read_all(&damaged);
        }
    }
}
