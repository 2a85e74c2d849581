//! Nodes that come, go and take the place of others, and leads that are handed over (PROTOCOL 2.7).

use std::collections::BTreeSet;

use super::*;

/// A removed node marks its directory, ends, and cannot be started again; the others go on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_7_a_removed_node_stops_for_good() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let gone = cluster.nodes.remove((leader + 1) % 3);
    let node = gone.consensus.node();
    cluster.leader().await.change(remove(node)).await.unwrap();
    let exit = wait_for("its exit", || gone.exits.lock().unwrap().first().cloned()).await;
    assert!(matches!(&exit, Exit::Removed(_)), "{exit:?}");
    assert_eq!(exit.code(), 0);
    let (dir, address) = gone.kill().await;
    let config = config(dir, address, LEVEL);
    let again = Consensus::start(config, Arc::new(MajorityClock::default())).await;
    assert!(matches!(again.err(), Some(StartError::Directory(_))), "its directory is marked");
    cluster.agree().await;
    assert_eq!(cluster.leader().await.consensus.members().nodes.len(), 2);
}

/// Whoever did not hear the answer asks again, and hears that it is done; also of another leader, and under another request
/// id. A name that no node ever had is refused as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_7_a_removal_that_is_repeated_is_done() {
    let mut cluster = Cluster::of(4).await;
    let leader = cluster.leader_index().await;
    let gone = cluster.nodes.remove((leader + 1) % 4);
    let node = gone.consensus.node();
    let by_name = MemberChange { remove: Some("node-9".into()), ..MemberChange::default() };
    let unknown = Err(ChangeError::NoMember("node-9".into()));
    let name = gone.dir.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(cluster.leader().await.change(by_name.clone()).await, unknown);
    assert_eq!(cluster.leader().await.change(remove(node)).await, Ok(node));
    assert_eq!(cluster.leader().await.change(remove(node)).await, Ok(node));

    let leader = cluster.leader_index().await;
    let heir = cluster.nodes[(leader + 1) % 3].consensus.node();
    assert_eq!(cluster.nodes[leader].consensus.hand_over(Some(&heir.to_string())).await, Ok(heir));
    wait_for("the heir leads", || cluster.nodes[(leader + 1) % 3].is_ready().then_some(())).await;
    let heir = &cluster.nodes[(leader + 1) % 3];
    let again = MemberChange { remove: Some(name), ..MemberChange::default() };
    assert_eq!(heir.change(again).await, Ok(node), "by its name");
    assert_eq!(heir.change(by_name).await, unknown);
    assert_eq!(heir.consensus.members().nodes.len(), 3, "nobody else went");
}

/// A leader that goes in the middle of a change leaves two sets of voters that must both agree; the next one finishes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_7_a_membership_that_was_left_joint_is_finished_by_the_next_leader() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let leader = cluster.nodes.remove(leader);
    let all = leader.consensus.members().voters();
    // Without the others the first of the two steps is written, and cannot be committed yet.
    let mut away = Vec::new();
    for node in std::mem::take(&mut cluster.nodes) {
        away.push((node.consensus.node(), node.kill().await));
    }
    let stays = BTreeSet::from([leader.consensus.node(), away[0].0]);
    let voters = stays.iter().map(|node| node.0).collect();
    let raft = leader.consensus.inner().raft.clone();
    let change = raft.change_membership(openraft::ChangeMembers::ReplaceAllVoters(voters), false);
    let joint = || (leader.consensus.members().voter_sets.len() == 2).then_some(());
    tokio::select! {
        changed = change => panic!("without a majority: {changed:?}"),
        // Whoever would take the second step is gone from here on.
        () = wait_for("a joint membership", joint) => {}
    }
    for (_, (dir, address)) in away {
        cluster.nodes.push(TestNode::start(dir, Some(address)).await);
    }
    // A node that was killed early may still be in the joint membership by which the cluster was made.
    wait_for("the first step reaches another", || {
        (cluster.nodes[0].consensus.members().voter_sets == [all.clone(), stays.clone()]).then_some(())
    })
    .await;
    cluster.nodes.push(leader.restart().await);
    wait_for("one set of voters", || {
        let members = [0, 2].map(|at| cluster.nodes[at].consensus.members());
        members.iter().all(|members| members.voter_sets == [stays.clone()]).then_some(())
    })
    .await;
    cluster.nodes.remove(1);
    cluster.leader().await.consensus.propose(set_pool("a", 1)).await.unwrap();
    cluster.agree().await;
}

/// A node that was away while it was taken out finds out by asking, and deposes nobody meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_7_a_node_that_was_away_notices_that_it_was_taken_out() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let away = cluster.nodes.remove((leader + 1) % 3);
    let node = away.consensus.node();
    let (dir, address) = away.kill().await;
    let leader = cluster.leader().await;
    leader.change(remove(node)).await.unwrap();
    let (term, _) = leader.consensus.progress();

    let back = TestNode::start(dir, Some(address)).await;
    let exit = wait_for("its exit", || back.exits.lock().unwrap().first().cloned()).await;
    assert!(matches!(&exit, Exit::Removed(_)), "{exit:?}");
    assert_eq!(cluster.leader().await.consensus.progress().0, term, "nobody was deposed");
}

/// One joint change puts an empty node in the place of a dead one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_7_a_dead_node_is_replaced() {
    let mut cluster = Cluster::of(3).await;
    cluster.leader().await.consensus.propose(set_pool("a", 1)).await.unwrap();
    let leader = cluster.leader_index().await;
    let dead = cluster.nodes.remove((leader + 1) % 3);
    let node = dead.consensus.node();
    dead.kill().await;
    cluster.start_empty().await;
    let new = cluster.nodes.last().unwrap();
    let change = MemberChange { add: Some(new.address.to_string()), ..remove(node) };
    let leader = cluster.leader().await;
    let came = leader.change(change.clone()).await.unwrap();
    assert_eq!(came, new.consensus.node());
    cluster.agree().await;
    let members = leader.consensus.members();
    assert_eq!((members.voters().len(), members.voter_sets.len(), members.nodes.len()), (3, 1, 3));
    assert_eq!(slots(&new.consensus.state(), "a"), Some(1));
    // What was done is done: a repeat under another id finds nothing left.
    assert_eq!(leader.change(change).await, Ok(came));
}

/// A change that counts on a dead voter is refused, with the way out; forced by name it takes that one out too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_2_7_a_change_that_counts_on_a_dead_voter_is_refused() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let dead = cluster.nodes.remove((leader + 1) % 3);
    let dead_node = dead.consensus.node();
    dead.kill().await;
    let leader = cluster.leader().await;
    let healthy = cluster.nodes.iter().find(|node| !node.is_ready()).unwrap().consensus.node();
    let refused = leader.change(remove(healthy)).await.unwrap_err();
    let ChangeError::Unsafe { why, hint } = refused else { panic!("{refused:?}") };
    assert!(why.contains("no majority") && hint.contains("--force"), "{why}: {hint}");
    assert_eq!(leader.consensus.members().voters().len(), 3, "nothing was changed");
    let alive = MemberChange { force: vec![healthy.to_string()], ..remove(dead_node) };
    assert!(matches!(leader.change(alive).await, Err(ChangeError::Unsafe { .. })), "it answers");

    let forced = MemberChange { force: vec![dead_node.to_string()], ..remove(healthy) };
    leader.change(forced).await.unwrap();
    assert_eq!(leader.consensus.members().voters().len(), 1);
    leader.consensus.propose(set_pool("a", 2)).await.unwrap();
}

/// Whoever looks right after a node came must not read that it does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_just_come_is_asked_when_somebody_looks() {
    let mut cluster = Cluster::of(1).await;
    cluster.start_empty().await;
    let new = cluster.nodes.last().unwrap();
    let leader = cluster.leader().await;
    let add = MemberChange { add: Some(new.address.to_string()), ..MemberChange::default() };
    leader.change(add).await.unwrap();
    let mut looks = 0;
    // One look does; a busy machine may be late once or twice.
    while leader.consensus.peers().borrow().is_empty() && looks < 5 {
        leader.consensus.ask_members().await;
        looks += 1;
    }
    assert_eq!(leader.consensus.peers().borrow().len(), 1, "after {looks} looks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_does_not_take_itself_out() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    assert_eq!(leader.change(remove(leader.consensus.node())).await, Err(ChangeError::Leads));
    let nobody = MemberChange { remove: Some("nobody".into()), ..MemberChange::default() };
    assert_eq!(leader.change(nobody).await, Err(ChangeError::NoMember("nobody".into())));
}

/// The lead is handed over while commands come in, none of which is lost or left unanswered, and no process ends.
async fn is_handed_over(nodes: usize) {
    let cluster = Cluster::of(nodes).await;
    let leader = cluster.leader_index().await;
    let to = cluster.nodes[(leader + 1) % nodes].consensus.node();
    let any = cluster.nodes[(leader + 2) % nodes].consensus.clone();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let caller = tokio::spawn(async move {
        let mut slots = 0;
        while !stopped.is_cancelled() {
            slots += 1;
            let command = set_pool_once(&any.state(), "a", slots);
            any.forward(command, DEADLINE).await.unwrap().answer.unwrap();
        }
        slots
    });
    // On a busy machine a third node may miss the leader by itself and be elected first: then that one hands over.
    let mut leads = cluster.nodes[leader].consensus.hand_over(Some(&to.to_string())).await.unwrap();
    for _ in 0..5 {
        if leads == to {
            break;
        }
        leads = cluster.leader().await.consensus.hand_over(Some(&to.to_string())).await.unwrap();
    }
    assert_eq!(leads, to);
    wait_for("the new leader is ready", || cluster.nodes[(leader + 1) % nodes].is_ready().then_some(()))
        .await;
    stop.cancel();
    let last = caller.await.unwrap();
    cluster.agree().await;
    assert!(cluster.nodes.iter().all(|node| slots(&node.consensus.state(), "a") == Some(last)));
    assert!(cluster.nodes.iter().all(|node| node.exits.lock().unwrap().is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_of_three_is_handed_over() {
    is_handed_over(3).await;
}

/// Of five, others must vote too: they have to miss the leader first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_of_five_is_handed_over() {
    is_handed_over(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_nobody_takes_is_kept() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader_index().await;
    let dead = cluster.nodes.remove((leader + 1) % 3);
    let node = dead.consensus.node().to_string();
    dead.kill().await;
    let leader = cluster.leader().await;
    let kept = leader.consensus.hand_over(Some(&node)).await;
    assert!(matches!(kept, Err(TransferError::NotTaken(_))), "{kept:?}");
    leader.consensus.propose(set_pool("a", 1)).await.unwrap();
}
