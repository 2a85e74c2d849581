//! Checkpoints, snapshots, and nodes that begin with one (PROTOCOL 6.8).

use matins_core::id::Leadership;

use super::*;

fn checkpoint(leadership: Option<Leadership>) -> Proposal {
    Proposal { request: None, leadership, command: Command::Checkpoint }
}

impl Cluster {
    /// Brings about a snapshot on every node; answers its index.
    async fn snapshot(&self) -> u64 {
        let leader = &self.leader().await.consensus;
        let leading = leader.leader().borrow().leading;
        let answered = leader.propose(checkpoint(leading)).await.unwrap();
        answered.answer.unwrap();
        let index = answered.index.0;
        for node in &self.nodes {
            let mut metrics = node.consensus.inner().raft.data_metrics();
            let published = metrics.wait_for(|it| it.snapshot.is_some_and(|last| last.index >= index));
            timeout(DEADLINE, published).await.expect("a snapshot in time").unwrap();
        }
        index
    }

    /// Cuts the logs behind a snapshot, as a longer life would.
    async fn purge(&self, upto: u64) {
        for node in &self.nodes {
            let inner = node.consensus.inner();
            inner.raft.trigger().purge_log(upto).await.unwrap();
        }
        // A leader purges what its followers still read only when they have read on.
        let leader = &self.leader().await.consensus;
        let is_purged = |node: &TestNode| {
            node.consensus.inner().log.store().purged().is_some_and(|purged| purged.index >= upto)
        };
        let deadline = Instant::now() + DEADLINE;
        while !self.nodes.iter().all(is_purged) {
            assert!(Instant::now() < deadline, "purged in time");
            leader.propose(set_pool("purge", 1)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_from_its_snapshot_and_the_log_behind_it() {
    let mut cluster = Cluster::of(3).await;
    cluster.leader().await.consensus.propose(set_pool("before", 1)).await.unwrap();
    let index = cluster.snapshot().await;
    cluster.purge(index).await;
    cluster.leader().await.consensus.propose(set_pool("after", 2)).await.unwrap();
    cluster.agree().await;

    let restarted = cluster.nodes.remove(2).restart().await;
    cluster.nodes.push(restarted);
    cluster.agree().await;
    let state = cluster.nodes[2].consensus.state();
    assert_eq!((slots(&state, "before"), slots(&state, "after")), (Some(1), Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lacks_purged_records_gets_the_snapshot() {
    let mut cluster = Cluster::of(2).await;
    cluster.leader().await.consensus.propose(set_pool("before", 1)).await.unwrap();
    let index = cluster.snapshot().await;
    cluster.purge(index).await;
    cluster.leader().await.consensus.propose(set_pool("after", 2)).await.unwrap();

    cluster.add().await;
    cluster.agree().await;
    let new = cluster.nodes.pop().unwrap();
    let state = new.consensus.state();
    assert_eq!((slots(&state, "before"), slots(&state, "after")), (Some(1), Some(2)));
    assert!(new.consensus.inner().snapshots.store().newest().is_some_and(|it| it.meta().last.index == index));

    // What it got is durable: it starts from it.
    let new = new.restart().await;
    cluster.nodes.push(new);
    cluster.agree().await;
}
