//! Feature levels: releases of different age in one cluster (PROTOCOL 6.9).

use super::*;

const NEXT: u16 = LEVEL + 1;

impl Cluster {
    /// Starts a node again with a release that supports this level.
    async fn install(&mut self, at: usize, level_max: u16) {
        let (dir, address) = self.nodes.remove(at).kill().await;
        self.nodes.insert(at, TestNode::of_level(dir, Some(address), level_max).await);
    }

    /// Raises the level under the membership that `members` names.
    async fn raise(&self, level: u16, members: LogIndex) -> Result<Answered, ProposeError> {
        let proposal =
            Proposal { request: None, leadership: None, command: Command::RaiseLevel { level, members } };
        self.leader().await.consensus.propose(proposal).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_6_9_the_level_rises_only_where_all_members_support_it() {
    let mut cluster = Cluster::of(2).await;
    cluster.install(1, NEXT).await;
    let old = cluster.nodes[0].consensus.node();
    match cluster.leader().await.consensus.supported_level(Some(NEXT)).await {
        Err(LevelError::NotSupported { node, level: NEXT, max: LEVEL }) => assert_eq!(node, old),
        other => panic!("one node is of the older release: {other:?}"),
    }
    assert_eq!(cluster.leader().await.consensus.supported_level(None).await.unwrap().level, LEVEL);

    cluster.install(0, NEXT).await;
    let supported = cluster.leader().await.consensus.supported_level(None).await.unwrap();
    assert_eq!(supported.level, NEXT);
    // Somebody is added between the question and the command: nobody asked that node.
    cluster.nodes.push(TestNode::of_level(cluster.root.path().join("node-2"), None, NEXT).await);
    let address = cluster.nodes[2].address.to_string();
    cluster.leader().await.change(add(&address)).await.unwrap();
    let refused = cluster.raise(NEXT, supported.members).await.unwrap().answer;
    assert_eq!(refused, Err(matins_core::Refusal::Stale(matins_core::Stale::Members)));

    let supported = cluster.leader().await.consensus.supported_level(None).await.unwrap();
    cluster.raise(NEXT, supported.members).await.unwrap().answer.unwrap();
    cluster.agree().await;
    for node in &cluster.nodes {
        let dir = &node.consensus.inner().dir;
        wait_for("the directory is marked", || (dir.marker().level == u32::from(NEXT)).then_some(())).await;
    }
    let address = cluster.nodes[0].address;
    let (dir, _) = cluster.nodes.remove(2).kill().await;
    let refused = Consensus::start(config(dir, address, LEVEL), Arc::new(MajorityClock::default())).await;
    assert!(matches!(refused.err(), Some(StartError::Directory(_))), "an older release opens it");
    let old = TestNode::start(cluster.root.path().join("node-3"), None).await;
    let address = old.address.to_string();
    let refused = cluster.leader().await.change(add(&address)).await.unwrap_err().to_string();
    assert!(refused.contains("supports feature level 1, and 2 is in force"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_does_not_support_the_level_stops_before_it_parts_from_the_others() {
    let mut cluster = Cluster::of(3).await;
    cluster.install(1, NEXT).await;
    cluster.install(2, NEXT).await;
    let supported = cluster.leader().await.consensus.supported_level(None).await.unwrap();
    // Nothing of ours makes such a command; if it comes all the same, going on would be worse than stopping.
    drop(cluster.raise(NEXT, supported.members).await);
    let exits = Arc::clone(&cluster.nodes[0].exits);
    wait_for("it stops", || (!exits.lock().unwrap().is_empty()).then_some(())).await;
    assert!(format!("{:?}", exits.lock().unwrap()[0]).contains("knows up to 1"), "{exits:?}");

    cluster.install(0, NEXT).await;
    cluster.leader().await.consensus.propose(set_pool("after", 1)).await.unwrap();
    cluster.agree().await;
}
