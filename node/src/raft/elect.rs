//! Drives the election machine of `matins_core::election` (PROTOCOL 2.5): tells it what happens, does what it says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use matins_core::election::{Action, Election, Role};
use matins_core::id::NodeId;
use matins_core::time::{BootTime, Millis};
use matins_proto::v1;
use openraft::ServerState;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::links::Links;
use super::log::RaftLog;
use super::types::{LogId, Members, Raft};
use super::{record, wire};
use crate::system::boot_time;

/// The machine, shared with the peer service, which hears leaders and answers pre-votes.
pub(crate) struct Elections {
    election: Mutex<Election>,
    changed: Notify,
}

impl Elections {
    pub(crate) fn new(election: Election) -> Self {
        Self { election: Mutex::new(election), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Election> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of a leader came. The timer moves back only, so nobody need be woken.
    pub(crate) fn heard_leader(&self) {
        self.lock().heard_leader(boot_time());
    }

    /// Whether this node has heard no leader for a while.
    pub(crate) fn misses_leader(&self) -> bool {
        self.lock().misses_leader(boot_time())
    }

    /// Whether this node knows of no leader that lives.
    pub(crate) fn has_lost_leader(&self) -> bool {
        self.lock().has_lost_leader(boot_time())
    }

    /// Whether a node whose last record is `last` would be followed.
    pub(crate) fn would_follow(&self, last: Option<LogId>, own: Option<LogId>) -> bool {
        last >= own && self.lock().misses_leader(boot_time())
    }
}

/// What drives it.
pub(crate) struct Driver {
    pub(crate) node: NodeId,
    pub(crate) elections: Arc<Elections>,
    pub(crate) raft: Raft,
    pub(crate) log: RaftLog,
    pub(crate) links: Links,
    /// Counts votes that came to be on disk.
    pub(crate) votes: watch::Receiver<u64>,
    /// How long a pre-vote may take.
    pub(crate) within: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Driver {
    pub(crate) async fn run(mut self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let (role, members) = role_of(self.node, &metrics.borrow_and_update());
            self.elections.lock().set_role(role, members.voter_sets.clone(), boot_time());
            let action = self.elections.lock().act(boot_time());
            match action {
                Some(Action::AskPreVotes { round }) => self.ask(round, &members),
                Some(Action::Elect) => {
                    tracing::info!("the leader is missed: this node stands for election");
                    if self.raft.trigger().elect().await.is_err() {
                        return;
                    }
                }
                None => {
                    let wake_at = self.elections.lock().wake_at();
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = self.elections.changed.notified() => {}
                        changed = metrics.changed() => if changed.is_err() { return },
                        changed = self.votes.changed() => {
                            if changed.is_err() { return }
                            self.elections.lock().vote_saved(boot_time());
                        }
                        () = sleep_until(wake_at) => {}
                    }
                }
            }
        }
    }

    /// Asks all other voters at once. Who does not answer in time does not count.
    fn ask(&self, round: u64, members: &Members) {
        let last = self.log.store().last().map(|last| wire::log_id_out(record::to_log_id(last)));
        for voter in members.voters() {
            let address = members.nodes.get(&voter).map(|member| member.cluster_address.clone());
            let link = address.and_then(|address| self.links.at(&address).ok());
            let Some(mut link) = link.filter(|_| voter != self.node) else { continue };
            let request = v1::PeerPreVoteRequest { to: Some(self.links.address_to(voter)), last };
            let (elections, within) = (Arc::clone(&self.elections), self.within);
            self.tasks.spawn(async move {
                let answer = tokio::time::timeout(within, link.control.pre_vote(request)).await;
                if let Ok(Ok(answer)) = answer {
                    elections.lock().answered(round, voter, answer.into_inner().granted);
                    elections.changed.notify_one();
                }
            });
        }
    }
}

fn role_of(
    node: NodeId,
    metrics: &openraft::metrics::RaftServerMetrics<u64, super::types::Member>,
) -> (Role, Members) {
    let members = Members::from(metrics.membership_config.membership());
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower | ServerState::Candidate if members.voters().contains(&node) => Role::Voter,
        ServerState::Follower | ServerState::Candidate | ServerState::Learner | ServerState::Shutdown => {
            Role::Bystander
        }
    };
    (role, members)
}

async fn sleep_until(wake_at: Option<BootTime>) {
    match wake_at {
        Some(at) => {
            // At least a millisecond, so that a rounded-down span does not spin.
            let span = at.since(boot_time()) + Millis(1);
            tokio::time::sleep(Duration::from_millis(span.0)).await;
        }
        None => std::future::pending().await,
    }
}
