//! From winning an election to being ready (PROTOCOL 2.1), and what a leader does as long as it leads: quorum rounds for the
//! leases (5.3), signs of life for the watchdog (2.3), and the other nodes' clocks (1.1).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use matins_core::Answer;
use matins_core::command::{Command, Proposal};
use matins_core::id::{Leadership, NodeId};
use matins_proto::v1;
use openraft::ServerState;
use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use super::clock::ClockReading;
use super::consensus::{Consensus, Inner, LeaderView};
use super::types::{HeardStatus, Members, Vote};
use super::{change, wire};
use crate::system::{self, boot_time, wall_time};

/// Between quorum rounds that nobody asked for.
const ROUND_EVERY: Duration = Duration::from_millis(500);
/// Between questions about the other nodes' clocks and whereabouts.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Before a `LeaderReady` that was not to be had is tried again.
const READY_RETRY: Duration = Duration::from_millis(200);

/// Follows who leads, and makes this node ready whenever it is the one.
pub(crate) async fn follow(inner: Arc<Inner>) {
    let mut metrics = inner.raft.server_metrics();
    let mut current: Option<(Vote, CancellationToken)> = None;
    loop {
        let (leads, leader) = {
            let metrics = metrics.borrow_and_update();
            let members = Members::from(metrics.membership_config.membership());
            let leader = metrics.current_leader.map(NodeId);
            let leader = leader.and_then(|node| Some((node, members.nodes.get(&node)?.clone())));
            ((metrics.state == ServerState::Leader).then_some(metrics.vote), leader)
        };
        if current.as_ref().map(|(vote, _)| *vote) != leads {
            if let Some((_, lead)) = current.take() {
                lead.cancel();
                inner.watch.leads_no_more();
                inner.leader.send_modify(|view| *view = LeaderView::default());
            }
            if let Some(vote) = leads {
                tracing::info!(term = vote.leader_id.term, "this node leads");
                inner.watch.leads(boot_time());
                let lead = inner.stop.child_token();
                inner.tasks.spawn(get_ready(Arc::clone(&inner), lead.clone()));
                inner.tasks.spawn(keep_quorum(Arc::clone(&inner), lead.clone()));
                inner.tasks.spawn(keep_statuses(Arc::clone(&inner), lead.clone()));
                current = Some((vote, lead));
            }
        }
        inner.leader.send_if_modified(|view| {
            let is_news = view.leader != leader;
            view.leader = leader;
            is_news
        });
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes this leadership's `LeaderReady`; until it is applied nothing else is proposed.
async fn get_ready(inner: Arc<Inner>, lead: CancellationToken) {
    let ready = async {
        loop {
            ask_all(&inner).await;
            if let Some(leadership) = propose_ready(&inner).await {
                return leadership;
            }
            tokio::time::sleep(READY_RETRY).await;
        }
    };
    let leadership = tokio::select! {
        () = lead.cancelled() => return,
        leadership = ready => leadership,
    };
    let ready_at = boot_time();
    inner.leader.send_modify(|view| {
        // The lead may have been lost in this very moment; whoever took it back sends the last word.
        if !lead.is_cancelled() {
            view.leading = Some(leadership);
            view.ready_at = ready_at;
        }
    });
    tracing::info!(%leadership, "this node is ready to lead");
    inner.tasks.spawn(change::finish_what_was_begun(Arc::clone(&inner)));
}

async fn propose_ready(inner: &Inner) -> Option<Leadership> {
    let readings = inner.clock.readings()?;
    let nonce = system::random().random();
    let mut commands = vec![Command::LeaderReady { node: inner.node, nonce, readings }];
    if inner.state().cluster.id.is_none() {
        // The first entry of a new cluster founds it.
        let cluster = inner.links.cluster()?;
        commands.insert(0, Command::Init { cluster, settings: inner.settings_of_init() });
    }
    let proposal = |command| Proposal { request: None, leadership: None, command };
    let answers = inner.queue.propose_leadership(commands.into_iter().map(proposal).collect()).await;
    match answers.map(|answers| answers.into_iter().next_back().map(|answered| answered.answer)) {
        Ok(Some(Ok(Answer::Ready(leadership)))) => Some(leadership),
        Ok(other) => {
            tracing::warn!("not ready to lead: {other:?}");
            None
        }
        Err(error) => {
            tracing::warn!("not ready to lead: {error}");
            None
        }
    }
}

/// Keeps the anchor of leases fresh, and shows the watchdog that the loop of consensus comes round.
async fn keep_quorum(inner: Arc<Inner>, lead: CancellationToken) {
    loop {
        if inner.raft.with_raft_state(|_| ()).await.is_ok() {
            inner.watch.loop_came_round(boot_time());
        }
        inner.rounds.ask(inner.times.heartbeat * 2).await;
        tokio::select! {
            () = lead.cancelled() => return,
            () = tokio::time::sleep(ROUND_EVERY) => {}
        }
    }
}

/// Asks all members once a second how they are.
async fn keep_statuses(inner: Arc<Inner>, lead: CancellationToken) {
    loop {
        tokio::select! {
            () = lead.cancelled() => return,
            () = tokio::time::sleep(STATUS_EVERY) => {}
        }
        ask_all(&inner).await;
    }
}

/// Asks all members how they are, and gives the voters' clocks to the one who keeps leader time.
async fn ask_all(inner: &Arc<Inner>) {
    let peers = ask_members(inner).await;
    let voters = inner.members().voters();
    let own = ClockReading { node: inner.node, wall: wall_time(), asked_at: boot_time() };
    let others = peers.iter().map(|heard| ClockReading {
        node: heard.status.node,
        wall: heard.status.wall,
        asked_at: heard.asked_at,
    });
    let readings: Vec<ClockReading> =
        std::iter::once(own).chain(others).filter(|reading| voters.contains(&reading.node)).collect();
    inner.clock.observe(voters.len(), &readings);
    inner.peers.send_replace(peers);
}

/// What the other members say of themselves; who does not answer is missing.
pub(crate) async fn ask_members(inner: &Inner) -> Vec<HeardStatus> {
    let members = inner.members();
    let asked = members.nodes.iter().filter(|(node, _)| **node != inner.node);
    let answers = join_all(asked.map(|(_, member)| ask(inner, &member.cluster_address, 0))).await;
    // Where a member was there may be a node of another cluster by now, even under its id: one that was recovered.
    let ours = inner.links.cluster();
    let is_ours = |heard: &HeardStatus| heard.status.cluster.is_none() || heard.status.cluster == ours;
    answers.into_iter().flatten().filter(is_ours).collect()
}

impl Consensus {
    /// Asks the other members how they are, for a person who looks at this node. A leader asks once a second anyhow: it asks
    /// again only if one was not heard, as one that has just been added or started. `peers` has the answers afterwards.
    pub async fn ask_members(&self) {
        let heard = self.peers().borrow().iter().map(|heard| heard.status.node).collect::<BTreeSet<_>>();
        let is_heard = |node: &NodeId| *node == self.node() || heard.contains(node);
        if self.leader().borrow().leading.is_none() || !self.members().nodes.keys().all(is_heard) {
            let peers = ask_members(self.inner()).await;
            self.inner().peers.send_replace(peers);
        }
    }

    /// Where another process answers under this node's id: its data directory was copied while it ran. Two executors of
    /// one id would take each other's tasks for lost, so a node that finds a twin must not go on.
    pub async fn find_twin(&self) -> Option<String> {
        let members = self.inner().members();
        let known = &members.nodes.get(&self.node())?.cluster_address;
        if *known == self.inner().member.cluster_address {
            return None;
        }
        let heard = ask(self.inner(), known, 0).await?;
        (heard.status.node == self.node()).then(|| known.clone())
    }
}

/// What the node at `address` says of itself. It counts its missing blobs anew if it did so last in
/// a state before `count_from`.
pub(crate) async fn ask(inner: &Inner, address: &str, count_from: u64) -> Option<HeardStatus> {
    let mut link = inner.links.at(address).ok()?;
    let (asked_at, applied) = (boot_time(), *inner.applied.borrow());
    let request = v1::PeerStatusRequest { count_from };
    let answer = tokio::time::timeout(inner.times.vote, link.control.status(request)).await;
    let status = wire::status_in(&answer.ok()?.ok()?.into_inner()).ok()?;
    Some(HeardStatus { asked_at, lag: applied.saturating_sub(status.applied), status })
}
