//! Handing the lead over to another node. openraft 0.9 cannot, so it is done with what it has: a leader that hears of a
//! higher term follows.
//!
//! The leader lets nothing new into the log, waits until the chosen node has all of it, and asks that node to stand for
//! election at once. It is elected, for no log is longer than its own, and this node steps down by hearing of its term. No
//! command is lost: those that come meanwhile wait, and are sent to the new leader. A voter votes for nobody as long as it
//! has heard a leader within `RaftTimes::hold_on` (read in its source), so where the two of them are no majority the leader falls
//! silent first for that long. If all of it fails this node leads on. Start at [`Consensus::hand_over`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use matins_core::id::NodeId;
use matins_proto::v1;
use tokio::time::{Instant, timeout_at};

use super::consensus::Consensus;
use super::error::TransferError;
use super::types::{Member, Raft};
use super::{lead, record, wire};

/// How long a node that is to lead may take to come close.
const COME_CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// So many records are sent while nothing new is let into the log.
const CLOSE_RECORDS: u64 = 200;
/// How long nothing is let into the log, at most: less than the L/3 after which a leader gives up by itself.
const HOLD_WITHIN: Duration = Duration::from_millis(1_500);
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Sends heartbeats again, however the hand-over ends.
struct Silent<'a>(&'a Raft);

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        self.0.runtime_config().heartbeat(true);
    }
}

impl Consensus {
    /// Hands the lead over to the voter with this id or name, or without one to the voter that is least behind. Answers
    /// with the new leader, which is another one if a third node missed the heartbeats by itself and was elected first. Asked
    /// of the leader.
    pub async fn hand_over(&self, to: Option<&str>) -> Result<NodeId, TransferError> {
        let inner = self.inner();
        if self.leader().borrow().leading.is_none() {
            return Err(TransferError::NotLeader { leader: self.leader().borrow().leader.clone() });
        }
        let Ok(_one_at_a_time) = Arc::clone(&inner.changing).try_lock_owned() else {
            return Err(TransferError::Busy);
        };
        let (node, member) = self.heir(to).await?;
        if node == self.node() {
            return Ok(node);
        }
        self.until_close(node, &member).await?;
        let _nothing_new = inner.proposing.lock().await;
        let _no_rounds = inner.rounding.lock().await;
        let until = Instant::now() + HOLD_WITHIN;
        let _silent = Silent(&inner.raft);
        inner.raft.runtime_config().heartbeat(false);
        self.until_equal(node, until).await?;
        if !self.is_enough(node) {
            tokio::time::sleep(inner.times.hold_on() + inner.times.heartbeat / 2).await;
        }
        self.ask_to_stand(node, &member, until).await?;
        self.until_deposed(until).await
    }

    /// Who is to lead.
    async fn heir(&self, to: Option<&str>) -> Result<(NodeId, Member), TransferError> {
        let members = self.members();
        if members.voter_sets.len() != 1 {
            return Err(TransferError::Busy);
        }
        let node = if let Some(text) = to {
            let node = members.find(text).ok_or_else(|| TransferError::NoMember(text.to_owned()))?;
            if !members.voters().contains(&node) {
                return Err(TransferError::NotTaken(format!("{text} has no vote yet, so it cannot lead")));
            }
            node
        } else {
            let answers = lead::ask_members(self.inner()).await;
            let heard: BTreeSet<NodeId> = answers.iter().map(|heard| heard.status.node).collect();
            let others = members.voters().into_iter().filter(|node| *node != self.node());
            let known = others.filter(|node| heard.contains(node));
            let nearest = known.filter_map(|node| Some((self.behind(node)?, node))).min();
            let nobody = || TransferError::NotTaken("no other voter answers".into());
            nearest.map(|(_, node)| node).ok_or_else(nobody)?
        };
        let member = members.nodes.get(&node).cloned();
        member.map(|member| (node, member)).ok_or_else(|| TransferError::NoMember(node.to_string()))
    }

    /// Waits, while all goes on as usual, until it lacks only a little.
    async fn until_close(&self, node: NodeId, member: &Member) -> Result<(), TransferError> {
        let deadline = Instant::now() + COME_CLOSE_WITHIN;
        let refused = |why: &str| TransferError::NotTaken(format!("{} {why}", member.name));
        if lead::ask(self.inner(), &member.cluster_address, 0).await.is_none() {
            return Err(refused("does not answer"));
        }
        while self.behind(node).is_none_or(|behind| behind > CLOSE_RECORDS) {
            if Instant::now() >= deadline {
                return Err(refused("is too far behind"));
            }
            tokio::time::sleep(LOOK_EVERY * 10).await;
        }
        Ok(())
    }

    /// Waits until it has all of the log, and this node has applied all of it, so that every caller was answered.
    async fn until_equal(&self, node: NodeId, until: Instant) -> Result<(), TransferError> {
        loop {
            let last = self.inner().log.store().last().map_or(0, |last| last.index);
            let applied = *self.inner().applied.borrow();
            if applied >= last && self.behind(node) == Some(0) && self.progress().1 == last {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(TransferError::NotTaken("it did not get the end of the log in time".into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether that node and this one are a majority, so that no other need vote.
    fn is_enough(&self, node: NodeId) -> bool {
        self.members().is_majority(&BTreeSet::from([self.node(), node]))
    }

    async fn ask_to_stand(&self, node: NodeId, member: &Member, until: Instant) -> Result<(), TransferError> {
        let inner = self.inner();
        let last = inner.log.store().last().map(|last| wire::log_id_out(record::to_log_id(last)));
        let request = v1::PeerTakeLeadRequest { to: Some(inner.links.address_to(node)), last };
        let refused = |why: String| TransferError::NotTaken(format!("{}: {why}", member.name));
        let mut link = inner.links.at(&member.cluster_address).map_err(|error| refused(error.to_string()))?;
        match timeout_at(until, link.control.take_lead(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(refused(status.message().to_owned())),
            Err(_) => Err(refused("it did not answer in time".into())),
        }
    }

    /// Waits until this node follows another one.
    async fn until_deposed(&self, until: Instant) -> Result<NodeId, TransferError> {
        let mut metrics = self.inner().raft.server_metrics();
        let is_other = |leader: Option<u64>| leader.filter(|leader| *leader != self.node().0);
        let other = metrics.wait_for(|metrics| is_other(metrics.current_leader).is_some());
        match timeout_at(until, other).await {
            Ok(Ok(metrics)) => Ok(NodeId(is_other(metrics.current_leader).unwrap_or_default())),
            Ok(Err(_)) | Err(_) => {
                Err(TransferError::NotTaken("no other node was elected in time".to_owned()))
            }
        }
    }
}
