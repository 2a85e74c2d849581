//! How nodes come to a cluster, go, and take the place of others (PROTOCOL 2.7).
//!
//! One change at a time, by the leader. A node that comes is a learner until it has the log, the blobs and the history; then
//! one joint change puts the new set of voters in the place of the old one. That set takes effect only when every voter in
//! it has reported its blobs complete up to where the log ended when the change was asked for, so that nothing is lost that
//! only those who go have. A change goes on when its caller is gone; a repeat under the same request id joins it. Start
//! reading at [`Consensus::change_members`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matins_core::State;
use matins_core::command::{Command, Proposal};
use matins_core::id::{NodeId, RequestId, SessionNumber};
use matins_proto::v1;
use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::blobs;
use super::consensus::{Consensus, Inner};
use super::error::ChangeError;
use super::meant::{Meant, meant};
use super::types::{Member, Members};
use super::{lead, leave, wire};

/// How long a new node may take to catch up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(600);
/// A learner so many records behind has caught up: the rest comes while it votes.
const CAUGHT_UP_RECORDS: u64 = 100;
/// Between looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A voter that does not answer for so long is taken for dead.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// How long a caller waits before it hears that the change still goes on.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long the executor of a living node that goes may take to hand in what it has finished.
const QUIET_WITHIN: Duration = Duration::from_secs(15);

/// A change that is asked for: who comes, and who goes. Both is a replacement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberChange {
    /// Where the node that comes waits, host and port of its cluster port.
    pub add: Option<String>,
    /// The member that goes, by id or name.
    pub remove: Option<String>,
    /// Voters that are dead and in the way, by id or name: they go too.
    pub force: Vec<String>,
}

/// The change that runs, or ran last.
#[derive(Debug)]
pub(crate) struct Changing {
    request: RequestId,
    result: watch::Receiver<Option<Result<NodeId, ChangeError>>>,
}

/// At most one change runs.
pub(crate) type Register = Mutex<Option<Changing>>;

impl Consensus {
    /// Changes who belongs to the cluster (PROTOCOL 2.7), and answers when that is committed, with the node that came, or
    /// else the one that went. Asked of the leader. After 30 s the caller hears `Busy` and asks again; the change goes on.
    pub async fn change_members(
        &self,
        request: &RequestId,
        change: MemberChange,
    ) -> Result<NodeId, ChangeError> {
        let mut result = self.join_or_start(request, change)?;
        let done = tokio::time::timeout(ANSWER_WITHIN, result.wait_for(Option::is_some)).await;
        match done {
            Ok(Ok(done)) => done.clone().unwrap_or(Err(ChangeError::Busy)),
            // The node stops.
            Ok(Err(_)) => Err(ChangeError::NotLeader { leader: None }),
            Err(_) => Err(ChangeError::Busy),
        }
    }

    fn join_or_start(
        &self,
        request: &RequestId,
        change: MemberChange,
    ) -> Result<watch::Receiver<Option<Result<NodeId, ChangeError>>>, ChangeError> {
        let inner = self.inner();
        let mut register = inner.register.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = register.as_ref() {
            let has_failed = known.result.borrow().as_ref().is_some_and(Result::is_err);
            if known.request == *request && !has_failed {
                return Ok(known.result.clone());
            }
        }
        if self.leader().borrow().leading.is_none() {
            return Err(self.not_leader());
        }
        // Held until it is done: a hand-over of the lead waits for it too.
        let guard = Arc::clone(&inner.changing).try_lock_owned().map_err(|_| ChangeError::Busy)?;
        let (done, result) = watch::channel(None);
        *register = Some(Changing { request: request.clone(), result: result.clone() });
        let consensus = self.clone();
        inner.tasks.spawn(async move {
            let stop = consensus.inner().stop.clone();
            let changed = stop.run_until_cancelled(consensus.change(&change)).await;
            let changed = changed.unwrap_or(Err(ChangeError::NotLeader { leader: None }));
            if let Err(error) = &changed {
                tracing::warn!(?change, "the membership was not changed: {error}");
            }
            drop(guard);
            done.send_replace(Some(changed));
        });
        Ok(result)
    }

    async fn change(&self, change: &MemberChange) -> Result<NodeId, ChangeError> {
        self.finish_joint().await?;
        let asked_at = self.state().index.0;
        let plan = self.plan(change).await?;
        if plan.is_done(&self.members()) {
            return Ok(plan.answer());
        }
        self.remember(&plan.goes).await?;
        if let Some((node, member)) = plan.comes.clone() {
            let address = member.cluster_address.clone();
            let added = self.inner().raft.add_learner(node.0, member, false).await;
            added.map_err(|error| self.change_failed(error))?;
            tracing::info!(%node, address, "a node follows the log");
            self.caught_up(node, &address).await?;
        }
        self.all_complete(&plan.voters, asked_at).await?;
        self.dismiss(&plan.goes).await;
        if let Err(error) = self.set_voters(&plan).await {
            self.take_back(&plan.goes).await;
            return Err(error);
        }
        let voters = plan.voters.len();
        tracing::info!(comes = ?plan.comes.as_ref().map(|(node, _)| *node), goes = ?plan.goes.keys(), voters, "the membership has changed");
        for (node, member) in &plan.goes {
            leave::tell(self.inner(), *node, member.cluster_address.clone());
        }
        Ok(plan.answer())
    }

    /// Works out who comes, who goes, and who votes afterwards; refuses what cannot be.
    async fn plan(&self, change: &MemberChange) -> Result<Plan, ChangeError> {
        let members = self.members();
        let mut goes = BTreeMap::new();
        let (mut named, mut went, mut unsure) = (None, None, None);
        if let Some(text) = &change.remove {
            match self.meant(text) {
                Ok(Meant::Member(node)) => named = Some(node),
                Ok(Meant::Gone(node)) if change.add.is_none() => went = Some(node),
                Ok(Meant::Gone(_)) => unsure = Some(ChangeError::NoMember(text.clone())),
                Err(error) if change.add.is_some() => unsure = Some(error),
                Err(error) => return Err(error),
            }
        }
        goes.extend(named.map(|node| (node, members.nodes[&node].clone())));
        for text in &change.force {
            let Meant::Member(node) = self.meant(text)? else { continue };
            if Some(node) != named {
                self.must_be_dead(node, &members.nodes[&node]).await?;
                goes.insert(node, members.nodes[&node].clone());
            }
        }
        if goes.contains_key(&self.node()) {
            return Err(ChangeError::Leads);
        }
        let comes = match &change.add {
            Some(address) => Some(self.take_in(address).await?),
            None => None,
        };
        // A replacement that was done before: the one is gone, the other votes.
        let votes = |node: &NodeId| members.voters().contains(node);
        if let Some(error) = unsure.filter(|_| !comes.as_ref().is_some_and(|(node, _)| votes(node))) {
            return Err(error);
        }
        let mut voters = members.voters();
        voters.retain(|node| !goes.contains_key(node));
        voters.extend(comes.as_ref().map(|(node, _)| *node));
        Ok(Plan { comes, goes, went, voters })
    }

    fn meant(&self, text: &str) -> Result<Meant, ChangeError> {
        meant(text, &self.members(), &self.state().cluster.removals)
    }

    /// Notes who goes before they do: a leader that dies behind the change could not note it any more.
    async fn remember(&self, goes: &BTreeMap<NodeId, Member>) -> Result<(), ChangeError> {
        for (node, member) in goes {
            let command = Command::MemberGoes { node: *node, name: member.name.clone() };
            let told = self.propose(Proposal { request: None, leadership: None, command }).await;
            if let Err(error) = told {
                let leads = self.leader().borrow().leading.is_some();
                return Err(if leads { ChangeError::Failed(error.to_string()) } else { self.not_leader() });
            }
        }
        Ok(())
    }

    async fn must_be_dead(&self, node: NodeId, member: &Member) -> Result<(), ChangeError> {
        if self.until_heard(node, &member.cluster_address, 0).await.is_none() {
            return Ok(());
        }
        let why = format!("{} answers: only a dead node is forced out", member.name);
        Err(ChangeError::Unsafe {
            why,
            hint: format!("`matins cluster remove {}` takes it out", member.name),
        })
    }

    /// Makes the node at `address` one of this cluster; it marks its directory.
    async fn take_in(&self, address: &str) -> Result<(NodeId, Member), ChangeError> {
        let inner = self.inner();
        let unreachable = |why: String| ChangeError::Unreachable { address: address.to_owned(), why };
        let mut link = inner.links.at(address).map_err(|error| unreachable(error.to_string()))?;
        let found = lead::ask(inner, address, 0).await;
        let status = found.ok_or_else(|| unreachable("no node answers there".to_owned()))?.status;
        let ours = inner.links.cluster();
        if let Some(cluster) = status.cluster.filter(|cluster| Some(*cluster) != ours) {
            return Err(ChangeError::Foreign { address: address.to_owned(), cluster });
        }
        let level = self.state().cluster.level;
        if status.level_max < level {
            let why = format!("it supports feature level {}, and {level} is in force", status.level_max);
            return Err(unreachable(why));
        }
        let join = v1::PeerJoinRequest { cluster: ours.unwrap_or(0), level: level.into() };
        let joined =
            link.control.join(join).await.map_err(|status| unreachable(status.message().to_owned()))?;
        let joined = joined.into_inner();
        // The address that it was reached at is the one that works from here.
        let member = Member { cluster_address: address.to_owned(), ..wire::member_in(joined.member) };
        Ok((NodeId(joined.node), member))
    }

    /// Waits until a learner has nearly all records. Its blobs are waited for with those of the others.
    async fn caught_up(&self, node: NodeId, address: &str) -> Result<(), ChangeError> {
        let deadline = Instant::now() + CATCH_UP_WITHIN;
        while Instant::now() < deadline {
            if self.behind(node).is_some_and(|behind| behind <= CAUGHT_UP_RECORDS) {
                return Ok(());
            }
            if self.leader().borrow().leading.is_none() {
                return Err(self.not_leader());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(ChangeError::Behind { address: address.to_owned() })
    }

    /// How many records a follower is known to lack; `None` if nothing is known of it, as on a node that does not lead.
    pub(crate) fn behind(&self, node: NodeId) -> Option<u64> {
        let metrics = self.inner().raft.metrics();
        let metrics = metrics.borrow();
        let matched = (*metrics.replication.as_ref()?.get(&node.0)?)?.index;
        Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched))
    }

    /// Waits until every one of these voters has said that it has all blobs that the state at `asked_at` names, of history
    /// too. One that falls silent meanwhile is named in the refusal.
    async fn all_complete(&self, voters: &BTreeSet<NodeId>, asked_at: u64) -> Result<(), ChangeError> {
        let members = self.members();
        let mut lacking: BTreeSet<NodeId> = voters.clone();
        let deadline = Instant::now() + CATCH_UP_WITHIN;
        while Instant::now() < deadline {
            let asked = lacking.iter().filter_map(|node| Some((*node, members.nodes.get(node)?)));
            let asked = asked.map(|(node, member)| async move {
                (node, self.until_heard(node, &member.cluster_address, asked_at).await)
            });
            let heard = futures::future::join_all(asked).await;
            let silent: BTreeSet<NodeId> =
                heard.iter().filter(|(_, status)| status.is_none()).map(|(node, _)| *node).collect();
            if !silent.is_empty() {
                return Err(self.cannot_count_on(&silent, voters));
            }
            for (node, status) in heard {
                if status.is_some_and(|(counted_at, missing)| counted_at >= asked_at && missing == 0) {
                    lacking.remove(&node);
                }
            }
            if lacking.is_empty() {
                return Ok(());
            }
            if self.leader().borrow().leading.is_none() {
                return Err(self.not_leader());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let names = names_of(&members, &lacking);
        Err(ChangeError::Unsafe {
            why: format!("{names} still lacks blobs that the state names"),
            hint: "it fetches them by itself: ask again later, or look at its log".into(),
        })
    }

    /// Asks a member until it answers: in which state it counted its blobs, and how many it lacks. `None`: it is silent.
    async fn until_heard(&self, node: NodeId, address: &str, count_from: u64) -> Option<(u64, u64)> {
        if node == self.node() {
            blobs::count(self.inner(), count_from).await;
            let status = self.inner().status();
            return Some((status.blobs_counted_at, status.blobs_missing));
        }
        let deadline = Instant::now() + SILENT_MAX;
        while Instant::now() < deadline {
            let answer = lead::ask(self.inner(), address, count_from).await;
            // Another node may have been given the address of a dead one.
            if let Some(status) = answer.map(|heard| heard.status).filter(|status| status.node == node) {
                return Some((status.blobs_counted_at, status.blobs_missing));
            }
            tokio::time::sleep(LOOK_EVERY * 4).await;
        }
        None
    }

    fn cannot_count_on(&self, silent: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>) -> ChangeError {
        let members = self.members();
        let names = names_of(&members, silent);
        let (healthy, all) = (voters.len() - silent.len(), voters.len());
        let first = silent.first().and_then(|node| members.nodes.get(node));
        let first = first.map(|member| member.name.clone()).unwrap_or_default();
        let why = if healthy * 2 > all {
            format!(
                "{names} does not answer, so nobody knows whether it has what only those who go have; \
                 {healthy} of the {all} voters would be healthy"
            )
        } else {
            format!(
                "{names} does not answer: {healthy} of the {all} voters that this leaves would be healthy, which is no \
                 majority, and the cluster would stop"
            )
        };
        let hint = format!(
            "start {first} again, or put an empty node in its place (`matins cluster replace {first} HOST:PORT`); if it is \
             gone for good, `--force {first}` takes it out by the same change"
        );
        ChangeError::Unsafe { why, hint }
    }

    /// The executors of those who go get nothing new, and leave the list with their last session. A living one is given a
    /// moment to hand in what it has finished.
    async fn dismiss(&self, goes: &BTreeMap<NodeId, Member>) {
        for node in goes.keys() {
            self.tell_executor(Command::Dismiss(*node)).await;
        }
        let deadline = Instant::now() + QUIET_WITHIN;
        while Instant::now() < deadline && goes.keys().any(|node| has_unfinished(&self.state(), *node)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn take_back(&self, goes: &BTreeMap<NodeId, Member>) {
        for node in goes.keys() {
            self.tell_executor(Command::Undrain(*node)).await;
        }
    }

    /// A node may have no executor, and a lead may end: a person can say the same by `matins executor`.
    async fn tell_executor(&self, command: Command) {
        let told = self.propose(Proposal { request: None, leadership: None, command }).await;
        tracing::debug!(?told, "told an executor's row that its node goes or stays");
    }

    async fn set_voters(&self, plan: &Plan) -> Result<(), ChangeError> {
        let raft = &self.inner().raft;
        let voters: BTreeSet<u64> = plan.voters.iter().map(|node| node.0).collect();
        let before: BTreeSet<u64> = self.members().voters().iter().map(|node| node.0).collect();
        if voters != before {
            if voters.is_empty() {
                return Err(ChangeError::Leads);
            }
            let changed = raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await;
            changed.map_err(|error| self.change_failed(error))?;
        }
        let learners: BTreeSet<u64> = plan.goes.keys().map(|node| node.0).collect();
        let left: BTreeSet<u64> = self.members().nodes.keys().map(|node| node.0).collect();
        let learners: BTreeSet<u64> = learners.intersection(&left).copied().collect();
        if !learners.is_empty() {
            let changed = raft.change_membership(ChangeMembers::RemoveNodes(learners), false).await;
            changed.map_err(|error| self.change_failed(error))?;
        }
        Ok(())
    }

    /// A leader that died in the middle of a change leaves a membership of two sets, of which both must agree to
    /// everything; the next change, or the next leader, brings it to its end.
    pub(crate) async fn finish_joint(&self) -> Result<(), ChangeError> {
        if self.members().voter_sets.len() < 2 {
            return Ok(());
        }
        // The new set is the last one; adding nobody to it makes it the only one.
        let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
        let changed = self.inner().raft.change_membership(nobody, false).await;
        changed.map(drop).map_err(|error| self.change_failed(error))
    }

    fn not_leader(&self) -> ChangeError {
        ChangeError::NotLeader { leader: self.leader().borrow().leader.clone() }
    }

    fn change_failed(&self, error: RaftError<u64, ClientWriteError<u64, Member>>) -> ChangeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => self.not_leader(),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )) => ChangeError::Busy,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                ChangeError::Failed(error.to_string())
            }
            RaftError::Fatal(error) => ChangeError::Failed(error.to_string()),
        }
    }
}

/// A change, worked out.
#[derive(Debug)]
struct Plan {
    comes: Option<(NodeId, Member)>,
    goes: BTreeMap<NodeId, Member>,
    /// One that was to go and had gone before.
    went: Option<NodeId>,
    /// Who votes afterwards.
    voters: BTreeSet<NodeId>,
}

impl Plan {
    /// Whether a repeat finds nothing left to do.
    fn is_done(&self, members: &Members) -> bool {
        self.goes.is_empty() && self.voters == members.voters()
    }

    fn answer(&self) -> NodeId {
        let went = self.went.or_else(|| self.goes.keys().next().copied());
        self.comes.as_ref().map(|(node, _)| *node).or(went).unwrap_or_default()
    }
}

/// Whether an executor with a session still runs something, or has logs that were not handed in.
fn has_unfinished(state: &State, node: NodeId) -> bool {
    let all = (node, SessionNumber(0))..=(node, SessionNumber(u64::MAX));
    let has_session = state.sessions.range(all).any(|(_, row)| !row.is_expired);
    let is_heard = state.executors.get(&node).is_some_and(|row| !row.is_cordoned());
    let has_logs = || state.logs_open.iter().any(|(_, (executor, _, _))| *executor == node);
    let runs = || state.executors.get(&node).is_some_and(|row| row.used > 0);
    has_session && is_heard && (runs() || has_logs())
}

fn names_of(members: &Members, nodes: &BTreeSet<NodeId>) -> String {
    let name = |node: &NodeId| {
        members.nodes.get(node).map_or_else(|| node.to_string(), |member| format!("{} ({node})", member.name))
    };
    nodes.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Finishes what a leader before this one left half done.
pub(crate) async fn finish_what_was_begun(inner: Arc<Inner>) {
    let consensus = Consensus::of(inner);
    if consensus.members().voter_sets.len() < 2 {
        // Whoever changes something right now must not hear that a change is under way.
        return;
    }
    let Ok(_one_at_a_time) = Arc::clone(&consensus.inner().changing).try_lock_owned() else { return };
    if let Err(error) = consensus.finish_joint().await {
        tracing::warn!("a change of membership that was begun is not finished: {error}");
    }
}
