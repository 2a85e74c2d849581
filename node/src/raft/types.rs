//! Who belongs to the cluster, and what a peer says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use matins_core::id::{Digest, LogIndex, NodeId};
use matins_core::time::{BootTime, Timestamp};
use matins_core::{Answer, Refusal};
use serde::{Deserialize, Serialize};

use crate::disk::DiskUse;

/// A node as the membership in the log names it. Name and addresses are labels (PROTOCOL 2.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// For people.
    pub name: String,
    /// Host and port of the cluster port, as other nodes reach it.
    pub cluster_address: String,
    /// Host and port of the public port, as clients reach it.
    pub public_address: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.cluster_address)
    }
}

/// The cluster's members, by the newest membership this node has in its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// All of them, voters and learners.
    pub nodes: BTreeMap<NodeId, Member>,
    /// Each set of voters; more than one while a change is under way, and then a majority of each counts.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
}

impl Members {
    /// Those who vote, in any of the sets.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.voter_sets.iter().flatten().copied().collect()
    }

    /// The member with this id or, if there is none, this name. Where several have that name it is the only voter of them,
    /// as while an empty node takes the place of a dead one; else nobody, for a name is only a label (PROTOCOL 2.7).
    pub fn find(&self, text: &str) -> Option<NodeId> {
        let by_id = text.parse().ok().filter(|node| self.nodes.contains_key(node));
        by_id.or_else(|| {
            let named = self.nodes.iter().filter(|(_, member)| member.name == text);
            let named: BTreeSet<NodeId> = named.map(|(node, _)| *node).collect();
            let voters: BTreeSet<NodeId> = named.intersection(&self.voters()).copied().collect();
            let only = |nodes: BTreeSet<NodeId>| nodes.first().copied().filter(|_| nodes.len() == 1);
            only(named).or_else(|| only(voters))
        })
    }

    /// Whether `nodes` hold a majority of each set. Never of no set at all.
    pub fn is_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.voter_sets.is_empty()
            && self.voter_sets.iter().all(|set| set.intersection(nodes).count() * 2 > set.len())
    }
}

/// What a node says of itself when a peer asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// Its cluster; `None` if it belongs to none.
    pub cluster: Option<u64>,
    /// Its wall clock.
    pub wall: Timestamp,
    /// The last entry it applied.
    pub applied: u64,
    /// The highest feature level that it supports (PROTOCOL 6.9).
    pub level_max: u16,
    /// Number of the newest block such that it has this and all before it, durable; 0 if none (PROTOCOL 6.5).
    pub blocks_durable: u64,
    /// How many blobs that its state names it lacked when they were counted last.
    pub blobs_missing: u64,
    /// The index of the state in which they were counted.
    pub blobs_counted_at: u64,
    /// The first of them, 16 at most.
    pub missing: Vec<Digest>,
    /// How full its disk is; `None` where that cannot be known.
    pub disk: Option<DiskUse>,
}

/// What a member said of itself, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeardStatus {
    /// The boot-time clock here, before it was asked.
    pub asked_at: BootTime,
    /// How many of the entries that this node had applied when it asked, that one had not when it answered.
    pub lag: u64,
    /// What it said.
    pub status: PeerStatus,
}

impl HeardStatus {
    /// Its wall clock, run on to the instant `now` of the boot-time clock here.
    pub fn wall_at(&self, now: BootTime) -> Timestamp {
        self.status.wall + now.since(self.asked_at)
    }
}

/// The bytes of a `matins_core::command::Entry`, as they lie in the log and go over the wire: encoded once, by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryBytes(pub(crate) Bytes);

/// What came of a record, for the one who proposed it. Only entries of ours have answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) at: Timestamp,
    pub(crate) answers: Vec<Result<Answer, Refusal>>,
    /// For each the entry that did it: of a repeat an earlier one.
    pub(crate) indexes: Vec<LogIndex>,
}

#[cfg(not(feature = "simulation"))]
use openraft::TokioRuntime as Runtime;

#[cfg(feature = "simulation")]
use super::runtime::SeededRuntime as Runtime;

openraft::declare_raft_types!(
    /// What openraft is made of here.
    pub(crate) TypeConfig:
        D = EntryBytes,
        R = Applied,
        NodeId = u64,
        Node = Member,
        SnapshotData = super::snapshot::SnapshotFile,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Record = openraft::Entry<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Self {
        let nodes = membership.nodes().map(|(id, member)| (NodeId(*id), member.clone())).collect();
        let ids = |set: &BTreeSet<u64>| set.iter().copied().map(NodeId).collect();
        let voter_sets = membership.get_joint_config().iter().map(ids).collect();
        Self { nodes, voter_sets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_read_a_while_ago_has_gone_on() {
        let at = |millis: u64| BootTime(millis * 1_000_000);
        let status = PeerStatus { wall: Timestamp::from_millis(50_000), ..PeerStatus::default() };
        let heard = HeardStatus { asked_at: at(1_000), lag: 0, status };
        assert_eq!(heard.wall_at(at(1_750)), Timestamp::from_millis(50_750));
    }

    #[test]
    fn a_name_that_several_have_is_the_voters() {
        let member = |name: &str| Member { name: name.into(), ..Member::default() };
        let nodes = [(1, "a"), (2, "b"), (3, "b"), (4, "c"), (5, "c")];
        let nodes = nodes.into_iter().map(|(node, name)| (NodeId(node), member(name))).collect();
        let voters = [1, 3, 4, 5].map(NodeId).into();
        let members = Members { nodes, voter_sets: vec![voters] };
        assert_eq!(members.find("node-2"), Some(NodeId(2)));
        assert_eq!(members.find("a"), Some(NodeId(1)));
        assert_eq!(members.find("b"), Some(NodeId(3)), "the other one only follows the log");
        assert_eq!(members.find("c"), None, "say which by its id");
    }
}
