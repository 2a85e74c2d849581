//! How a cluster is born and how a node comes to it (PROTOCOL 2.7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use matins_core::id::{ClusterId, NodeId};
use matins_core::state::Settings;
use matins_proto::v1;
use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use rand::Rng as _;
use tokio::time::Instant;

use super::consensus::Consensus;
use super::error::{AddNodeError, InitError};
use super::links::Link;
use super::types::{Member, Members};
use super::{lead, wire};
use crate::system;

/// How long a new cluster may take to be ready.
const INIT_WITHIN: Duration = Duration::from_secs(10);
/// How long a new node may take to catch up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(600);
/// A learner so many records behind has caught up: the rest comes while it votes.
const CAUGHT_UP_RECORDS: u64 = 100;
/// Between looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Consensus {
    /// Makes a cluster of this node alone (PROTOCOL 2.7), and answers with its id when it is ready.
    pub async fn init(&self, settings: Settings) -> Result<u64, InitError> {
        let inner = self.inner();
        let failed = |error: &dyn std::fmt::Display| InitError::Failed(error.to_string());
        if let Some(cluster) = inner.dir.marker().cluster {
            return Err(InitError::Member { cluster: cluster.0 });
        }
        // Zero stands for no cluster on the wire.
        let cluster = system::random().random_range(1..=u64::MAX);
        *inner.init.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        inner.links.set_cluster(cluster);
        let alone = BTreeMap::from([(inner.node.0, inner.member.clone())]);
        inner.raft.initialize(alone).await.map_err(|error| failed(&error))?;
        inner.dir.join(ClusterId(cluster)).map_err(|error| failed(&error))?;
        inner.dir.raise_level(inner.level_max.into()).map_err(|error| failed(&error))?;
        let mut leader = self.leader();
        let ready = leader.wait_for(|view| view.leading.is_some());
        match tokio::time::timeout(INIT_WITHIN, ready).await {
            Ok(Ok(_)) => Ok(cluster),
            Ok(Err(_)) | Err(_) => Err(InitError::NotReady),
        }
    }

    /// Adds the empty node that listens at `address` (PROTOCOL 2.7): as a learner first, as a voter once it has caught up.
    /// Answers when that is committed. Asked of the leader; repeating it goes on where it stopped.
    pub async fn add_node(&self, address: &str) -> Result<NodeId, AddNodeError> {
        let inner = self.inner();
        if self.leader().borrow().leading.is_none() {
            return Err(AddNodeError::NotLeader { leader: self.leader().borrow().leader.clone() });
        }
        let Ok(_one_at_a_time) = inner.changing.try_lock() else { return Err(AddNodeError::Busy) };
        let (node, member) = self.take_in(address).await?;
        if self.members().voters().contains(&node) {
            return Ok(node);
        }
        let added = inner.raft.add_learner(node.0, member, false).await;
        added.map_err(|error| self.change_failed(address, error))?;
        self.caught_up(node, address).await?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([node.0]));
        let changed = inner.raft.change_membership(voters, true).await;
        changed.map_err(|error| self.change_failed(address, error))?;
        Ok(node)
    }

    /// Makes the node at `address` one of this cluster; it marks its directory.
    async fn take_in(&self, address: &str) -> Result<(NodeId, Member), AddNodeError> {
        let inner = self.inner();
        let unreachable = |why: String| AddNodeError::Unreachable { address: address.to_owned(), why };
        let mut link: Link = inner.links.at(address).map_err(|error| unreachable(error.to_string()))?;
        let found = lead::ask(inner, address).await;
        let (_, status) = found.ok_or_else(|| unreachable("no node answers there".to_owned()))?;
        let ours = inner.links.cluster();
        if let Some(cluster) = status.cluster.filter(|cluster| Some(*cluster) != ours) {
            return Err(AddNodeError::Foreign { address: address.to_owned(), cluster });
        }
        let level = self.state().cluster.level;
        if status.level_max < level {
            let why = format!("it supports feature level {}, and {level} is in force", status.level_max);
            return Err(AddNodeError::Failed { address: address.to_owned(), why });
        }
        let join = v1::PeerJoinRequest { cluster: ours.unwrap_or(0), level: level.into() };
        let joined =
            link.control.join(join).await.map_err(|status| unreachable(status.message().to_owned()))?;
        let joined = joined.into_inner();
        // The address that it was reached at is the one that works from here.
        let member = Member { cluster_address: address.to_owned(), ..wire::member_in(joined.member) };
        Ok((NodeId(joined.node), member))
    }

    /// Waits until a learner has nearly all records, and all blobs up to where the log ended when this was asked.
    async fn caught_up(&self, node: NodeId, address: &str) -> Result<(), AddNodeError> {
        let inner = self.inner();
        let asked_at = self.state().index.0;
        let deadline = Instant::now() + CATCH_UP_WITHIN;
        while Instant::now() < deadline {
            let behind = {
                let metrics = inner.raft.metrics();
                let metrics = metrics.borrow();
                let matched = metrics.replication.as_ref().and_then(|all| (*all.get(&node.0)?)?.index.into());
                let last = metrics.last_log_index.unwrap_or(0);
                matched.map(|matched: u64| last.saturating_sub(matched))
            };
            if behind.is_some_and(|behind| behind <= CAUGHT_UP_RECORDS)
                && let Some((_, status)) = lead::ask(inner, address).await
                && status.blobs_counted_at >= asked_at
                && status.blobs_missing == 0
            {
                return Ok(());
            }
            if self.leader().borrow().leading.is_none() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(AddNodeError::Behind { address: address.to_owned() })
    }

    fn change_failed(
        &self,
        address: &str,
        error: RaftError<u64, ClientWriteError<u64, Member>>,
    ) -> AddNodeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
                AddNodeError::NotLeader { leader: self.leader().borrow().leader.clone() }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )) => AddNodeError::Busy,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                AddNodeError::Failed { address: address.to_owned(), why: error.to_string() }
            }
            RaftError::Fatal(error) => {
                AddNodeError::Failed { address: address.to_owned(), why: error.to_string() }
            }
        }
    }

    /// Who belongs to the cluster, by the newest membership in this node's log.
    pub fn members(&self) -> Members {
        self.inner().members()
    }
}
