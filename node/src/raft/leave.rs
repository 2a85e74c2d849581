//! How a node that was taken out of its cluster comes to know it (PROTOCOL 2.7): it marks its directory, says so in its log
//! and ends. It never guesses: a node id is never used again, so a committed membership without this node that is later
//! than one with it is for good.
//!
//! The leader tells it when the change is committed ([`tell`]). A node that could not be told finds out by itself, from its
//! own log or by asking ([`notice`]): without that it would ask for votes for ever.

use std::sync::Arc;
use std::time::Duration;

use matins_core::id::NodeId;
use matins_proto::v1;

use super::consensus::Inner;
use super::types::{Member, Membership};
use super::watchdog::{Exit, OnExit};
use crate::system;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a leader tries to reach a node that was taken out.
const TELL_WITHIN: Duration = Duration::from_secs(30);
/// How long a call between nodes may take.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// Between the mark and the end of the process, so that who asked through this node hears the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Tells a node that it was taken out, if it can be reached.
pub(crate) fn tell(inner: &Arc<Inner>, node: NodeId, address: String) {
    let inner = Arc::clone(inner);
    let tasks = inner.tasks.clone();
    tasks.spawn(async move {
        let stop = inner.stop.clone();
        let told = tokio::time::timeout(TELL_WITHIN, async {
            let index = committed_membership(&inner).await.map_or(0, |(index, _)| index);
            while let Ok(mut link) = inner.links.at(&address) {
                let request = v1::PeerLeaveRequest { to: Some(inner.links.address_to(node)), index };
                match tokio::time::timeout(CALL_WITHIN, link.control.leave(request)).await {
                    // Another node may live there by now.
                    Ok(Ok(_)) => return true,
                    Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => return false,
                    Ok(Err(_)) | Err(_) => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
            false
        });
        let told = stop.run_until_cancelled(told).await;
        tracing::info!(%node, told = matches!(told, Some(Ok(true))), "a node was taken out");
    });
}

/// Finds out whether this node was taken out, as long as it hears no leader.
pub(crate) async fn notice(inner: Arc<Inner>, on_exit: OnExit) {
    // Where the newest membership stands that this node was seen to belong to.
    let mut since = 0;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.leaving.notified() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some((index, members)) = committed_membership(&inner).await else { continue };
        if members.nodes().any(|(node, _)| *node == inner.node.0) {
            since = index;
        } else if since > 0 && index > since {
            mark(&inner, index).await;
            break;
        }
        if since > 0
            && inner.elections.misses_leader()
            && let Some(index) = removed_at(&inner, since).await
        {
            mark(&inner, index).await;
            break;
        }
    }
    tokio::time::sleep(LINGER).await;
    on_exit(&Exit::Removed("it was taken out of the cluster".into()));
}

/// Marks the directory: this node never takes part again.
pub(crate) async fn mark(inner: &Arc<Inner>, index: u64) {
    let reason = format!("it was taken out of the cluster (log index {index})");
    tracing::warn!(node = %inner.node, index, "this node was taken out of the cluster: it marks its directory and ends");
    let dir = Arc::clone(&inner.dir);
    if let Err(error) = system::blocking(move || dir.stop(&reason)).await {
        tracing::error!("cannot mark the directory of a node that was taken out: {error}");
    }
    inner.leaving.notify_one();
}

/// The newest membership that this node knows to be committed, and where it stands. `None` if there is none.
async fn committed_membership(inner: &Inner) -> Option<(u64, Membership)> {
    let committed = |state: &openraft::RaftState<u64, Member, _>| {
        let committed = state.membership_state.committed();
        (*committed.log_id(), committed.membership().clone())
    };
    let (log_id, members) = inner.raft.with_raft_state(committed).await.ok()?;
    Some((log_id?.index, members))
}

/// Where the membership stands, later than `since`, that `node` does not belong to any more; by what is committed here.
pub(crate) async fn gone_since(inner: &Inner, node: NodeId, since: u64) -> Option<u64> {
    let (index, members) = committed_membership(inner).await?;
    let is_member = members.nodes().any(|(member, _)| *member == node.0);
    (since > 0 && index > since && !is_member).then_some(index)
}

/// Asks the others whether this node was taken out.
async fn removed_at(inner: &Inner, since: u64) -> Option<u64> {
    let members = inner.members();
    for (node, member) in members.nodes.iter().filter(|(node, _)| **node != inner.node) {
        let Ok(mut link) = inner.links.at(&member.cluster_address) else { continue };
        let to = Some(inner.links.address_to(*node));
        let request = v1::PeerStandingRequest { to, node: inner.node.0, since };
        let answer = tokio::time::timeout(CALL_WITHIN, link.control.standing(request)).await;
        if let Ok(Ok(answer)) = answer
            && answer.get_ref().removed_at > since
        {
            return Some(answer.into_inner().removed_at);
        }
    }
    None
}
