//! One node as a process on its simulated machine, from its start to its end.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use matins_core::command::{Command, Proposal};
use matins_node::raft::RaftTimes;
use matins_node::system::simulated::Machine;
use matins_node::{Node, NodeConfig};
use tokio::sync::broadcast::error::RecvError;

use super::audit::Audit;
use super::observer::{Observer, Phase};

/// The port of clients.
pub(super) const PUBLIC: u16 = 7400;
/// The port of nodes and executors.
pub(super) const CLUSTER: u16 = 7401;
/// How often a process looks at how far the story is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The exit code of a process that did not start.
const DID_NOT_START: i32 = 1;

/// A node that does not lead looks so often whether it does.
const NEXT_LEADER: Duration = Duration::from_secs(5);

/// Who runs here.
#[derive(Clone)]
pub(super) struct Host {
    /// From 0.
    pub(super) number: usize,
    pub(super) machine: Machine,
    pub(super) observer: Observer,
    pub(super) checkpoint_every: Duration,
}

/// The name of a node on the simulated network.
pub(super) fn name_of(number: usize) -> String {
    format!("n{}", number + 1)
}

impl Host {
    /// Runs one process until its machine crashes or it ends itself. `life` counts the processes of this node.
    pub(super) async fn run(self, life: u64) -> turmoil::Result {
        self.machine.enter();
        match Node::start(self.config()).await {
            Ok(node) => self.watch(node, life).await,
            // Whoever plays fate knows whether it had a reason.
            Err(error) => self.machine.end(DID_NOT_START, &format!("it did not start: {}", chain(&error))),
        }
        std::future::pending().await
    }

    fn config(&self) -> NodeConfig {
        let name = name_of(self.number);
        let listen = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        NodeConfig {
            level_max: matins_core::LEVEL,
            data_dir: "/data".into(),
            public_listen: listen(PUBLIC),
            cluster_listen: listen(CLUSTER),
            public_address: Some(format!("{name}:{PUBLIC}")),
            cluster_address: Some(format!("{name}:{CLUSTER}")),
            public_hosts: Vec::new(),
            is_insecure: true,
            executor: None,
            times: RaftTimes::default(),
            traces: None,
            disk: matins_node::disk::DiskLimits::default(),
            name,
        }
    }

    /// Tells the observer what the node does, and asks for a checkpoint now and then.
    async fn watch(&self, node: Node, life: u64) {
        let consensus = node.consensus();
        let (mut entries, mut leader) = (consensus.subscribe(), consensus.leader());
        let mut checkpoint_at = tokio::time::Instant::now() + NEXT_LEADER;
        let mut audited = 0;
        loop {
            tokio::select! {
                biased;
                entry = entries.recv() => match entry {
                    Ok(entry) => self.observer.applied(self.number, &entry),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                changed = leader.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let leads = leader.borrow_and_update().leading.is_some();
                    self.observer.leads(self.number, life, leads.then(|| consensus.progress().0));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if tokio::time::Instant::now() >= checkpoint_at {
                let leadership = consensus.leader().borrow().leading;
                let next = if leadership.is_some() { self.checkpoint_every } else { NEXT_LEADER };
                checkpoint_at = tokio::time::Instant::now() + next;
                if leadership.is_some() {
                    let proposal = Proposal { request: None, leadership, command: Command::Checkpoint };
                    // Without it the next one comes a little later.
                    drop(consensus.propose(proposal).await);
                }
            }
            let audit = self.observer.with(|inner| inner.audit);
            if self.observer.phase() == Phase::Audit && audited < audit {
                audited = audit;
                match Audit::of(consensus).await {
                    Ok(audit) => self.observer.with(|inner| drop(inner.audits.insert(self.number, audit))),
                    Err(why) => {
                        self.observer.fail(format!("n{} cannot read its history: {why}", self.number + 1));
                    }
                }
            }
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
