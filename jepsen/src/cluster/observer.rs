//! Watches the cluster from outside while faults come and go: a cheap command to each node again and again, and each node's
//! own status. What it measures is what a client sees. Start at [`Observer::start`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matins_client::{Client, Limits};
use matins_core::time::BootTime;
use matins_proto::v1::{
    ClusterStatusRequest, ClusterStatusResponse, ListExecutorsRequest, SetPoolRequest, executor::State,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::faults::boot_time;
use super::nodes::Nodes;
use super::workload::Trouble;

/// Between two commands to one node.
const BEAT: Duration = Duration::from_millis(100);
/// Between two looks at the status of a node.
const LOOK: Duration = Duration::from_millis(500);
/// A longer time than this between two acknowledged commands counts as time without a leader.
pub(crate) const USUAL_MAX: Duration = Duration::from_millis(500);

/// For commands and questions to one node: a node that does not answer is asked anew soon.
const QUICK: Limits = Limits {
    connect_max: Duration::from_millis(300),
    attempt_max: Duration::from_secs(1),
    total_max: Duration::from_secs(1),
    silence_max: Duration::from_secs(15),
};

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// When commands were acknowledged, in order of being heard.
    acknowledged: Vec<BootTime>,
    /// How often a leadership began, as the newest status says.
    leaderships: u64,
    /// The same at the start.
    leaderships_before: Option<u64>,
}

/// The watch. It ends with [`Observer::stop`].
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
    is_over: Arc<AtomicBool>,
    clients: Vec<Client>,
    /// How many of them, the first ones, are to be whole.
    members: usize,
    all: Client,
    tasks: Mutex<JoinSet<()>>,
}

/// What a client saw of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) acknowledged: u64,
    /// Times longer than usual in which no command was acknowledged.
    pub(crate) gaps: Vec<Gap>,
    /// Leaderships that began.
    pub(crate) leaderships: u64,
}

/// A time in which no command was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: BootTime,
    pub(crate) to: BootTime,
}

impl Gap {
    pub(crate) fn span(self) -> Duration {
        Duration::from_nanos(self.to.0.saturating_sub(self.from.0))
    }
}

/// A node's own word that it leads and is ready.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    /// By place.
    pub(crate) at: usize,
    pub(crate) status: ClusterStatusResponse,
}

impl Observer {
    /// Starts to watch. Must be called inside a runtime.
    pub(crate) fn start(nodes: &Nodes) -> Result<Self, Trouble> {
        let client = |endpoints: &str, limits: Limits| {
            Client::new(endpoints, limits).map_err(|error| Trouble(format!("no client: {error}")))
        };
        let clients: Result<Vec<Client>, Trouble> =
            nodes.all.iter().map(|node| client(&node.public.to_string(), QUICK)).collect();
        let observer = Self {
            seen: Arc::default(),
            is_over: Arc::default(),
            clients: clients?,
            members: nodes.members().len(),
            all: client(&nodes.endpoints(), Limits { total_max: Duration::from_secs(5), ..QUICK })?,
            tasks: Mutex::default(),
        };
        let mut tasks = JoinSet::new();
        for (at, client) in observer.clients.iter().take(observer.members).enumerate() {
            let (seen, is_over) = (Arc::clone(&observer.seen), Arc::clone(&observer.is_over));
            tasks.spawn(beat(client.clone(), format!("observer-{}", at + 1), seen, is_over));
            let (seen, is_over) = (Arc::clone(&observer.seen), Arc::clone(&observer.is_over));
            tasks.spawn(look(client.clone(), seen, is_over));
        }
        *observer.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(observer)
    }

    /// Ends the watch, and tells what was seen.
    pub(crate) fn stop(&self) -> Sight {
        self.is_over.store(true, Ordering::Release);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Sight {
            acknowledged: seen.acknowledged.len() as u64,
            gaps: gaps(&seen.acknowledged),
            leaderships: seen.leaderships.saturating_sub(seen.leaderships_before.unwrap_or(0)),
        }
    }

    /// When the first command after this instant was acknowledged. `None`: not yet.
    pub(crate) fn first_after(&self, instant: BootTime) -> Option<BootTime> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let later = seen.acknowledged.iter().rev().take_while(|at| **at > instant);
        later.last().copied()
    }

    /// The status that a node tells. `None`: it does not answer.
    pub(crate) async fn status(&self, at: usize) -> Option<ClusterStatusResponse> {
        self.clients[at].call(ClusterStatusRequest {}).await.ok()
    }

    /// The node that says of itself that it leads and is ready, of the newest term if several do.
    pub(crate) async fn leader(&self) -> Option<Leader> {
        let mut leaders = Vec::new();
        for (at, status) in self.statuses().await.into_iter().enumerate() {
            leaders.extend(status.filter(is_leader).map(|status| Leader { at, status }));
        }
        leaders.into_iter().max_by_key(|leader| leader.status.term)
    }

    /// Why the cluster is not whole. `None`: every node is a member in reach of one ready leader, and its executor gets
    /// work.
    pub(crate) async fn what_is_missing(&self) -> Option<String> {
        let mut statuses = self.statuses().await;
        statuses.truncate(self.members);
        let silent = statuses.iter().position(Option::is_none);
        if let Some(at) = silent {
            return Some(format!("n{} does not answer", at + 1));
        }
        let Some(leader) = statuses.iter().flatten().find(|status| is_leader(status)) else {
            return Some("no node leads".into());
        };
        let executors = match self.all.call(ListExecutorsRequest { stale: false }).await {
            Ok(answer) => answer.executors,
            Err(error) => return Some(format!("executors cannot be listed: {error}")),
        };
        for status in statuses.iter().flatten() {
            let own = leader.nodes.iter().find(|node| node.id == status.node);
            if own.is_none_or(|node| !node.reachable) || status.leader != leader.leader {
                return Some(format!("{} is out of reach of {}", status.node, leader.node));
            }
            let ready = executors.iter().find(|it| it.id == status.node);
            if ready.is_none_or(|it| it.state() != State::Ready) {
                return Some(format!("the executor of {} gets no work", status.node));
            }
        }
        None
    }

    /// How every node is; all are asked at once.
    async fn statuses(&self) -> Vec<Option<ClusterStatusResponse>> {
        let mut tasks = JoinSet::new();
        for (at, client) in self.clients.iter().enumerate() {
            let client = client.clone();
            tasks.spawn(async move { (at, client.call(ClusterStatusRequest {}).await.ok()) });
        }
        let mut statuses = vec![None; self.clients.len()];
        while let Some(answer) = tasks.join_next().await {
            let (at, status) = answer.expect("asking does not panic");
            statuses[at] = status;
        }
        statuses
    }
}

fn is_leader(status: &ClusterStatusResponse) -> bool {
    status.ready && status.leader.as_ref() == Some(&status.node)
}

async fn beat(client: Client, pool: String, seen: Arc<Mutex<Seen>>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Acquire) {
        let ask = SetPoolRequest { name: pool.clone(), slots: 1, ..SetPoolRequest::default() };
        if client.call(ask).await.is_ok() {
            seen.lock().unwrap_or_else(PoisonError::into_inner).acknowledged.push(boot_time());
        }
        sleep(BEAT).await;
    }
}

async fn look(client: Client, seen: Arc<Mutex<Seen>>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Acquire) {
        if let Ok(status) = client.call(ClusterStatusRequest {}).await {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.leaderships = seen.leaderships.max(status.leaderships);
            seen.leaderships_before.get_or_insert(status.leaderships);
        }
        sleep(LOOK).await;
    }
}

/// The times longer than usual between two acknowledged commands.
fn gaps(acknowledged: &[BootTime]) -> Vec<Gap> {
    let gaps = acknowledged.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] });
    gaps.filter(|gap| gap.span() > USUAL_MAX).collect()
}

#[cfg(test)]
mod tests;
