//! Elections, readiness, and giving up the lead (PROTOCOL 2).

use super::*;

/// PROTOCOL 2.2: a restarted leader is elected anew, and its readiness is a new leadership.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_2_a_restarted_leader_must_be_elected() {
    let mut cluster = Cluster::of(1).await;
    let consensus = &cluster.leader().await.consensus;
    let (term, _) = consensus.progress();
    let leadership = consensus.leader().borrow().leading.unwrap();
    consensus.propose(set_pool("a", 1)).await.unwrap();

    let node = cluster.nodes.remove(0).restart().await;
    cluster.nodes.push(node);
    let consensus = &cluster.leader().await.consensus;
    assert!(consensus.progress().0 > term, "elected in a later term");
    assert!(consensus.leader().borrow().leading.unwrap() > leadership);
    assert_eq!(slots(&consensus.state(), "a"), Some(1));
}

/// PROTOCOL 2.5: aim 2 s, 5 s always. The bound here is for a machine that many tests share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_another_one_takes_over() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    leader.consensus.propose(set_pool("a", 1)).await.unwrap();
    let (dir, address) = cluster.nodes.remove(cluster.leader_index().await).kill().await;

    let killed = Instant::now();
    let any = &cluster.nodes[0].consensus;
    let command = set_pool_once(&any.state(), "a", 2);
    any.forward(command, DEADLINE).await.unwrap().answer.unwrap();
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(5), "next commit after {took:?}");

    cluster.nodes.push(TestNode::start(dir, Some(address)).await);
    cluster.agree().await;
    assert!(cluster.nodes.iter().all(|node| slots(&node.consensus.state(), "a") == Some(2)));
    assert!(cluster.nodes.iter().all(|node| node.exits.lock().unwrap().is_empty()));
}

/// The whole cluster loses its power and comes back with all that it acknowledged (I10).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_and_nothing_is_lost() {
    let mut cluster = Cluster::of(3).await;
    for slots in 1..=20 {
        cluster.leader().await.consensus.propose(set_pool("a", slots)).await.unwrap();
    }
    let mut places = Vec::new();
    for node in cluster.nodes.drain(..) {
        places.push(node.kill().await);
    }
    for (dir, address) in places {
        cluster.nodes.push(TestNode::start(dir, Some(address)).await);
    }
    let state = cluster.nodes[1].consensus.read_index(DEADLINE).await.unwrap();
    assert_eq!(slots(&state, "a"), Some(20));
    cluster.agree().await;
}

/// PROTOCOL 2.5: a follower that was away does not depose a healthy leader when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_deposes_nobody() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let leadership = cluster.nodes[leader].consensus.leader().borrow().leading;
    let away = (leader + 1) % 3;
    let (dir, address) = cluster.nodes.remove(away).kill().await;
    cluster.leader().await.consensus.propose(set_pool("a", 1)).await.unwrap();
    cluster.nodes.insert(away, TestNode::start(dir, Some(address)).await);
    cluster.agree().await;
    cluster.leader().await.consensus.propose(set_pool("a", 2)).await.unwrap();
    assert_eq!(cluster.leader().await.consensus.leader().borrow().leading, leadership);
}

/// PROTOCOL 2.3: without a majority for L/3 a leader's process ends; nothing is acknowledged meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_3_a_leader_without_a_majority_gives_up() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.nodes.remove(cluster.leader_index().await);
    for node in cluster.nodes.drain(..) {
        node.kill().await;
    }
    let alone = Instant::now();
    let proposed = leader.consensus.propose(set_pool("a", 1));
    let (answered, exit) = tokio::join!(proposed, async {
        wait_for("an exit", || leader.exits.lock().unwrap().first().cloned()).await
    });
    assert_eq!(answered, Err(ProposeError::Deadline));
    assert!(matches!(&exit, Exit::GaveUpLead(_)), "{exit:?}");
    assert_eq!(exit.code(), 75);
    assert!(alone.elapsed() > Duration::from_secs(3), "after a third of the lease, not before");
    let read = leader.consensus.read_index(Duration::from_millis(300)).await;
    assert_eq!(read.unwrap_err(), ReadError::NoLeader);
}

/// PROTOCOL 2.1: a node that is not ready answers no read and proposes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cluster_refuses_and_waits() {
    let mut cluster = Cluster { nodes: Vec::new(), root: TempDir::new().unwrap() };
    cluster.start_empty().await;
    let consensus = &cluster.nodes[0].consensus;
    let proposed = consensus.propose(set_pool("a", 1)).await;
    assert_eq!(proposed, Err(ProposeError::NotLeader { leader: None }));
    let read = consensus.read_index(Duration::from_millis(100)).await;
    assert_eq!(read.unwrap_err(), ReadError::NoLeader);
    assert_eq!((consensus.cluster(), consensus.leader().borrow().leader.clone()), (None, None));
}
