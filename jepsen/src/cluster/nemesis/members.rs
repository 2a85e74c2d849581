//! Who belongs to the cluster, and who leads it, changes under load, as operators change it (PROTOCOL 2.7).
//!
//! Every order is given as a person gives it who hears no answer or a refusal: the same one again, until it is done. In a
//! mixed run something else is done to one node meanwhile; that node is left out of the changes. Start at [`Resize`].

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use matins_client::{Call, Client, ClientError, Limits};
use matins_proto::v1::node_status::Role;
use matins_proto::v1::{AddNodeRequest, RemoveNodeRequest, ReplaceNodeRequest, TransferLeaderRequest};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{Field, Nemesis, names};
use crate::cluster::nodes::{GAVE_UP_LEAD, Node};
use crate::cluster::processes;
use crate::cluster::workload::Trouble;

/// A node that was started answers within this.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// An order is done within this, also if another fault stands in its way for as long as faults last.
const ORDER_MAX: Duration = Duration::from_secs(120);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(300);
/// A node that was taken out has ended within this.
const END_MAX: Duration = Duration::from_secs(30);
/// What runs on a node that was taken out is gone within this: its session ends (15 s), and a task may ignore TERM.
const GONE_MAX: Duration = Duration::from_secs(40);
/// How long the cluster works with more members, in milliseconds.
const LARGE: std::ops::RangeInclusive<u64> = 500..=2_500;
/// How often a lead is handed over.
const HAND_OVERS: usize = 3;

/// Two nodes join, and two go, the leader among them; then empty nodes come back to the places of those that went.
pub(super) struct Resize {
    /// Something else may be done to this one: it stays.
    spared: usize,
    random: StdRng,
    /// Who belongs to the cluster, by place.
    members: BTreeSet<usize>,
    story: Vec<String>,
    is_done: bool,
}

impl Resize {
    pub(super) fn new(field: &Field, spared: usize, random: &mut StdRng) -> Self {
        let members = (0..field.nodes.members().len()).collect();
        let random = StdRng::seed_from_u64(random.random());
        Self { spared, random, members, story: Vec::new(), is_done: false }
    }

    /// All of it. `None`: something was not done in time, which is told as a failure.
    fn go_through(&mut self, field: &Field) -> Result<Option<()>, Trouble> {
        let spares: Vec<usize> = field.nodes.spares().collect();
        for spare in &spares {
            if self.add(field, *spare)?.is_none() {
                return Ok(None);
            }
        }
        let large = self.random.random_range(LARGE);
        field.sleep(Duration::from_millis(large));
        let Some(leader) = self.leader_to_go(field)? else { return Ok(None) };
        if self.remove(field, leader)?.is_none() {
            return Ok(None);
        }
        field.count("members: leaders taken out");
        let mut others: Vec<usize> = self.members.iter().copied().filter(|at| *at != self.spared).collect();
        others.shuffle(&mut self.random);
        if self.remove(field, others[0])?.is_none() {
            return Ok(None);
        }
        let empty: Vec<usize> =
            (0..field.nodes.members().len()).filter(|at| !self.members.contains(at)).collect();
        let strange: Vec<usize> = spares.into_iter().filter(|at| self.members.contains(at)).collect();
        for (empty, strange) in empty.into_iter().zip(strange) {
            if self.replace(field, strange, empty)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn add(&mut self, field: &Field, at: usize) -> Result<Option<()>, Trouble> {
        let node = &field.nodes.all[at];
        if start_empty(field, at)?.is_none() {
            return Ok(None);
        }
        let ask = AddNodeRequest { address: node.cluster.to_string(), ..AddNodeRequest::default() };
        let ask = AddNodeRequest { request_id: self.draw_id(), ..ask };
        let what = format!("{} was not added", node.name);
        let Some(answer) = self.order(field, &ask, &what)? else { return Ok(None) };
        self.members.insert(at);
        self.story.push(format!("{} joined", node.name));
        field.count("members: nodes added");
        self.must_vote(field, answer.voters)
    }

    fn remove(&mut self, field: &Field, at: usize) -> Result<Option<()>, Trouble> {
        let node = &field.nodes.all[at];
        let Some(id) = id_of(field, at)? else { return Ok(None) };
        node.let_go();
        let ask = RemoveNodeRequest { node: id, request_id: self.draw_id(), ..RemoveNodeRequest::default() };
        let what = format!("{} was not taken out", node.name);
        let Some(answer) = self.order(field, &ask, &what)? else { return Ok(None) };
        self.members.remove(&at);
        self.story.push(format!("{} was taken out", node.name));
        field.count("members: nodes taken out");
        if is_gone(field, at)?.is_none() {
            return Ok(None);
        }
        self.must_vote(field, answer.voters)
    }

    fn replace(&mut self, field: &Field, old: usize, new: usize) -> Result<Option<()>, Trouble> {
        let (node, gone) = (&field.nodes.all[new], &field.nodes.all[old]);
        let Some(id) = id_of(field, old)? else { return Ok(None) };
        if start_empty(field, new)?.is_none() {
            return Ok(None);
        }
        gone.let_go();
        let ask = ReplaceNodeRequest {
            node: id,
            address: node.cluster.to_string(),
            request_id: self.draw_id(),
            ..ReplaceNodeRequest::default()
        };
        let what = format!("{} did not take the place of {}", node.name, gone.name);
        let Some(answer) = self.order(field, &ask, &what)? else { return Ok(None) };
        self.members.remove(&old);
        self.members.insert(new);
        self.story.push(format!("{} took the place of {}", node.name, gone.name));
        field.count("members: living nodes replaced");
        if is_gone(field, old)?.is_none() {
            return Ok(None);
        }
        self.must_vote(field, answer.voters)
    }

    /// The leader, if it may go; if not, another one is made to lead first.
    fn leader_to_go(&mut self, field: &Field) -> Result<Option<usize>, Trouble> {
        let other = |leader: &usize| *leader != self.spared && self.members.contains(leader);
        let leads = || Ok(field.runtime.block_on(field.observer.leader()).map(|leader| leader.at));
        if let Some(leader) = leads()?.filter(other) {
            return Ok(Some(leader));
        }
        let heir = self.members.iter().copied().find(|at| *at != self.spared);
        let heir = heir.ok_or_else(|| Trouble("nobody else could lead".into()))?;
        if hand_over(field, (&self.endpoints(field), heir), &mut self.random)?.is_none() {
            return Ok(None);
        }
        field.until(ANSWER_MAX, || Ok(leads()?.filter(other)))
    }

    fn order<C: Call + Clone>(
        &self,
        field: &Field,
        ask: &C,
        what: &str,
    ) -> Result<Option<C::Answer>, Trouble> {
        order(field, &self.endpoints(field), ask, what)
    }

    /// The public endpoints of those who belong to the cluster now.
    fn endpoints(&self, field: &Field) -> String {
        let all = self.members.iter().map(|at| field.nodes.all[*at].public.to_string());
        all.collect::<Vec<_>>().join(",")
    }

    fn draw_id(&mut self) -> String {
        draw_id(&mut self.random)
    }

    /// Whoever leads counts exactly these voters, and nobody else.
    fn must_vote(&self, field: &Field, told: u32) -> Result<Option<()>, Trouble> {
        let wanted = self.members.len();
        if told as usize != wanted {
            field.fail(format!("2.7: {} should leave {wanted} voters, and {told} are told", self.story()));
        }
        let counted = || {
            let leader = field.runtime.block_on(field.observer.leader());
            let is_so = leader.is_some_and(|leader| {
                let nodes = &leader.status.nodes;
                nodes.len() == wanted && nodes.iter().all(|node| node.role() == Role::Voter)
            });
            Ok(is_so.then_some(()))
        };
        let counted = field.until(ORDER_MAX, counted)?;
        if counted.is_none() {
            field.fail(format!("2.7: after {} no leader counts {wanted} voters", self.story()));
        }
        Ok(counted)
    }

    fn story(&self) -> String {
        self.story.join(", ")
    }
}

impl Nemesis for Resize {
    fn nodes(&self) -> Vec<String> {
        // Any of them may come or go, but for the one that is spared.
        let all: Vec<usize> = self.members.iter().copied().filter(|at| *at != self.spared).collect();
        names(&all)
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        self.is_done = self.go_through(field)?.is_some();
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        Ok(self.is_done.then(|| self.story()))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        if self.is_done {
            return Ok(());
        }
        // It stopped half way, and the verdict says so: what is left is only to bring no more confusion.
        for spare in field.nodes.spares() {
            wipe(&field.nodes.all[spare])?;
        }
        let down: Vec<usize> =
            (0..field.nodes.members().len()).filter(|at| field.nodes.all[*at].pid().is_none()).collect();
        down.into_iter().try_for_each(|at| field.nodes.up(at))
    }
}

/// The lead is handed over to a node that the seed draws, and on to the next.
pub(super) struct TransferLeader {
    /// Who may be asked to lead: not the one that something else may be done to.
    heirs: Vec<usize>,
    random: StdRng,
    story: Vec<String>,
}

impl TransferLeader {
    pub(super) fn new(field: &Field, spared: usize, random: &mut StdRng) -> Self {
        let heirs = (0..field.nodes.members().len()).filter(|at| *at != spared).collect();
        Self { heirs, random: StdRng::seed_from_u64(random.random()), story: Vec::new() }
    }
}

impl Nemesis for TransferLeader {
    fn nodes(&self) -> Vec<String> {
        names(&self.heirs)
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        for _ in 0..HAND_OVERS {
            let leads = field.leader()?.at;
            let heirs: Vec<usize> = self.heirs.iter().copied().filter(|at| *at != leads).collect();
            let heir = heirs[self.random.random_range(0..heirs.len())];
            if hand_over(field, (&field.nodes.endpoints(), heir), &mut self.random)?.is_none() {
                return Ok(());
            }
            self.story.push(format!("n{} to n{}", leads + 1, heir + 1));
            field.sleep(Duration::from_millis(self.random.random_range(200..1_500)));
        }
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        let is_done = self.story.len() == HAND_OVERS;
        Ok(is_done.then(|| format!("the lead went from {}", self.story.join(", from "))))
    }

    fn heal(&mut self, _: &Field) -> Result<(), Trouble> {
        Ok(())
    }
}

/// Starts a node with an empty directory, which waits to be added.
fn start_empty(field: &Field, at: usize) -> Result<Option<()>, Trouble> {
    let node = &field.nodes.all[at];
    field.nodes.up(at)?;
    let waits = || {
        let status = field.runtime.block_on(field.observer.status(at));
        Ok(status.filter(|status| status.cluster_id.is_none()).map(drop))
    };
    let found = field.until(ANSWER_MAX, waits)?;
    if found.is_none() {
        field.fail(format!("2.7: {} is empty and does not wait to be added", node.name));
    }
    Ok(found)
}

/// Has this node take the lead, and sees it leading. Another fault may take it away again at once: then once more.
fn hand_over(
    field: &Field,
    (endpoints, heir): (&str, usize),
    random: &mut StdRng,
) -> Result<Option<()>, Trouble> {
    let Some(id) = id_of(field, heir)? else { return Ok(None) };
    let name = &field.nodes.all[heir].name;
    for _ in 0..HAND_OVERS {
        let request_id = draw_id(random);
        let ask = TransferLeaderRequest { node: id.clone(), request_id, ..TransferLeaderRequest::default() };
        let what = format!("the lead was not handed over to {name}");
        if order(field, endpoints, &ask, &what)?.is_none() {
            return Ok(None);
        }
        let leads = || {
            let leader = field.runtime.block_on(field.observer.leader());
            Ok(leader.filter(|leader| leader.at == heir).map(drop))
        };
        if field.until(field.patience, leads)?.is_some() {
            field.count("members: leads handed over");
            return Ok(Some(()));
        }
    }
    field.fail(format!("2.7: {name} was handed the lead {HAND_OVERS} times and never seen to lead"));
    Ok(None)
}

/// Gives an order until it is done.
fn order<C: Call + Clone>(
    field: &Field,
    endpoints: &str,
    ask: &C,
    what: &str,
) -> Result<Option<C::Answer>, Trouble> {
    // It spawns tasks.
    let client = field.runtime.block_on(async { Client::new(endpoints, Limits::default()) });
    let client = client.map_err(|error| Trouble(format!("no client for {endpoints}: {error}")))?;
    let mut last: Option<ClientError> = None;
    let done = field.until(ORDER_MAX, || {
        match field.runtime.block_on(client.call(ask.clone())) {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => last = Some(error),
        }
        field.sleep(AGAIN);
        Ok(None)
    })?;
    if done.is_none() {
        let why = last.map(|error| error.to_string()).unwrap_or_default();
        field.fail(format!("I15: {what} within {ORDER_MAX:?}: {why}"));
    }
    Ok(done)
}

/// The id of the node at this place.
fn id_of(field: &Field, at: usize) -> Result<Option<String>, Trouble> {
    let told = || Ok(field.runtime.block_on(field.observer.status(at)).map(|status| status.node));
    let id = field.until(ANSWER_MAX, told)?;
    if id.is_none() {
        field.fail(format!("I15: n{} does not answer within {ANSWER_MAX:?}", at + 1));
    }
    Ok(id)
}

/// Waits until a node that was taken out has ended by itself, and all that it ran; then wipes its directory.
fn is_gone(field: &Field, at: usize) -> Result<Option<()>, Trouble> {
    let node = &field.nodes.all[at];
    let ended = || match node.verdict()? {
        // It could not lead, before it knew. Started again, as a service manager does it, it learns that it is out.
        Some(status) if status.code() == Some(GAVE_UP_LEAD) => field.nodes.try_up(at).map(|()| None),
        other => Ok(other),
    };
    let Some(status) = field.until(END_MAX, ended)? else {
        field.fail(format!("2.7: {} was taken out and does not end", node.name));
        return Ok(None);
    };
    if !status.success() {
        field.fail(format!("2.7: {} was taken out and ended with {status}", node.name));
    }
    node.kill();
    let is_own = |pid: &i32| node.is_own(*pid);
    let gone = field.until(GONE_MAX, || Ok(processes::pids().all(|pid| !is_own(&pid)).then_some(())))?;
    if gone.is_none() {
        let left: Vec<String> =
            processes::pids().filter(is_own).map(|pid| processes::words(pid).join(" ")).collect();
        field.fail(format!("5.1: {} was taken out and leaves behind: {}", node.name, left.join("; ")));
    }
    wipe(node)?;
    Ok(Some(()))
}

/// Ends all that is left of a node, and empties its directory.
fn wipe(node: &Node) -> Result<(), Trouble> {
    node.kill();
    processes::end_all(|pid| node.is_own(pid));
    match fs::remove_dir_all(&node.data_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Trouble(format!("cannot wipe {}: {error}", node.data_dir.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn draw_id(random: &mut StdRng) -> String {
    format!("{:032x}", random.random::<u128>())
}
