//! What a healthy cluster does.

use bytes::Bytes;
use futures::future::join_all;
use matins_core::id::Digest;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_applied_on_every_node() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let answered = leader.consensus.propose(set_pool("a", 3)).await.unwrap();
    assert_eq!(answered.answer, Ok(matins_core::Answer::Done));
    assert!(answered.at > Timestamp::ZERO);
    cluster.agree().await;
    for node in &cluster.nodes {
        assert_eq!(slots(&node.consensus.state(), "a"), Some(3));
        assert_eq!(node.consensus.members().voters().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_forwards_and_reads_what_was_acknowledged() {
    let cluster = Cluster::of(3).await;
    let follower = cluster.follower().await;
    for slots_now in 1..20 {
        let answered = follower.consensus.forward(set_pool("a", slots_now), DEADLINE).await.unwrap();
        for node in &cluster.nodes {
            let state = node.consensus.read_index(DEADLINE).await.unwrap();
            assert!(state.index >= answered.index);
            assert_eq!(slots(&state, "a"), Some(slots_now));
        }
    }
    let refused = follower.consensus.propose(set_pool("a", 1)).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { leader: Some(_) })), "{refused:?}");
}

/// PROTOCOL 6.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_gather_share_entries_and_keep_their_own_answers() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let before = leader.consensus.state().index;
    let names: Vec<String> = (0..200).map(|number| format!("pool-{number}")).collect();
    let proposed =
        names.iter().zip(0..).map(|(name, number)| leader.consensus.propose(set_pool(name, number)));
    for answered in join_all(proposed).await {
        assert_eq!(answered.unwrap().answer, Ok(matins_core::Answer::Done));
    }
    let state = leader.consensus.state();
    assert_eq!(slots(&state, "pool-199"), Some(199));
    let entries = state.index.0 - before.0;
    assert!(entries < 100, "200 commands in {entries} entries");
}

/// PROTOCOL 3.5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_stands_in_one_entry_in_order() {
    let cluster = Cluster::of(1).await;
    let consensus = &cluster.leader().await.consensus;
    let mut entries = consensus.subscribe();
    let group = (1..=5).map(|slots| set_pool("a", slots)).collect();
    let answers = consensus.propose_as_group(group).await.unwrap();
    let indexes: Vec<LogIndex> = answers.iter().map(|answered| answered.index).collect();
    assert_eq!(indexes, [indexes[0]; 5]);
    assert_eq!(slots(&consensus.state(), "a"), Some(5));
    let entry = timeout(DEADLINE, entries.recv()).await.unwrap().unwrap();
    assert_eq!((entry.index, entry.answers.len()), (indexes[0], 5));
    assert_eq!(slots(&entry.state, "a"), Some(5));
}

/// PROTOCOL 6.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_on_a_majority_and_comes_to_who_asks() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let (dir, address) = cluster.nodes.remove((leader + 1) % 3).kill().await;
    let bytes = Bytes::from(vec![7; 1_000_000]);
    let digest = cluster.leader().await.consensus.put_blob(bytes.clone()).await.unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    assert!(cluster.nodes.iter().all(|node| node.consensus.has_blob(&digest)));

    cluster.nodes.push(TestNode::start(dir, Some(address)).await);
    let late = &cluster.nodes[2].consensus;
    assert!(!late.has_blob(&digest));
    assert_eq!(late.get_blob(digest).await.unwrap(), bytes);
    assert!(late.has_blob(&digest));
    let unknown = Digest::of(b"nobody has it");
    assert!(matches!(late.get_blob(unknown).await, Err(BlobError::Lost(lost)) if lost == unknown));
}

/// DESIGN 5: a log has 256 MiB, and is a blob as a whole; peers must take far more than a workflow's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_may_be_larger_than_the_files_of_a_workflow() {
    let cluster = Cluster::of(3).await;
    let bytes = Bytes::from(vec![7; 65 << 20]);
    cluster.leader().await.consensus.put_blob(bytes).await.unwrap();
}

/// PROTOCOL 6.4: without a majority a blob may not be named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_without_a_majority_is_not_stored() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.nodes.remove(cluster.leader_index().await);
    for node in cluster.nodes.drain(..) {
        node.kill().await;
    }
    let stored = leader.consensus.put_blob(Bytes::from_static(b"alone")).await;
    assert!(matches!(stored, Err(BlobError::NoMajority { stored: 1, voters: 3 })), "{stored:?}");
}

/// PROTOCOL 2.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_empty_node_can_be_added_and_only_once_is_a_cluster_made() {
    let one = Cluster::of(1).await;
    let other = Cluster::of(1).await;
    let address = other.nodes[0].address.to_string();
    let added = one.nodes[0].change(add(&address)).await;
    assert!(matches!(added, Err(ChangeError::Foreign { .. })), "{added:?}");
    let made = one.nodes[0].consensus.init(Settings::default()).await;
    assert!(matches!(made, Err(InitError::Member { .. })), "{made:?}");
    let nobody = one.nodes[0].change(add("127.0.0.1:1")).await;
    assert!(matches!(nobody, Err(ChangeError::Unreachable { .. })), "{nobody:?}");
}

/// PROTOCOL 5.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_anchor_of_leases_lies_before_its_round_and_stays_fresh() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let asked = boot_time();
    let began = leader.consensus.quorum_round().await.unwrap();
    assert!(began >= asked && began <= boot_time());
    let later = boot_time();
    wait_for("a round that nobody asked for", || {
        leader.consensus.last_quorum_round().filter(|began| *began > later)
    })
    .await;
    let follower = cluster.follower().await;
    assert_eq!(follower.consensus.last_quorum_round(), None);
    assert_eq!(follower.consensus.quorum_round().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_knows_how_its_peers_are() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let answered = leader.consensus.propose(set_pool("a", 1)).await.unwrap();
    let mut peers = leader.consensus.peers();
    let is_known = peers.wait_for(|peers| {
        peers.len() == 2 && peers.iter().all(|heard| heard.status.applied >= answered.index.0)
    });
    let peers = timeout(DEADLINE, is_known).await.unwrap().unwrap().clone();
    let by_node: BTreeMap<NodeId, u64> =
        peers.iter().map(|heard| (heard.status.node, heard.status.wall.since(Timestamp::ZERO).0)).collect();
    assert_eq!(by_node.len(), 2);
    assert!(by_node.values().all(|wall| *wall > 0));
}
