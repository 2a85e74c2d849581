//! Nodes come, go and take the place of dead ones, and leads are handed over, while runs go on (PROTOCOL 2.7). The load's own
//! checker says that no tick and no task was lost or doubled.

use std::time::{Duration, Instant};

use crate::common::Cluster;
use crate::common::load::{Deaths, Load};

/// How soon the new leader answers, by the issue of a person who waits for it.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

fn voters(cluster: &Cluster) -> usize {
    let status = cluster.json(&["cluster", "status"]);
    let nodes = status["nodes"].as_array().expect("it names the nodes");
    nodes.iter().filter(|node| node["role"] == "voter").count()
}

#[test]
fn one_node_grows_to_five_and_shrinks_to_three_under_load() {
    let mut cluster = Cluster::start(1);
    let load = Load::begin(&cluster);
    for count in 2..=5 {
        cluster.grow();
        assert_eq!(voters(&cluster), count);
        load.go_on_for(&cluster, 2);
    }
    for count in [4, 3] {
        // The leader first: it hands its lead over before it goes.
        let leader = cluster.until_ready();
        let name = cluster.nodes[leader].name.clone();
        let told = cluster.json(&["cluster", "remove", &name]);
        assert_eq!(told["voters"], count, "by the word of the new leader: {told}");
        cluster.until_left(leader);
        cluster.until("it is out", || voters(&cluster) == count);
        // It cannot be started again.
        cluster.nodes[leader].up();
        cluster.until_left(leader);
        cluster.nodes.remove(leader);
        cluster.until("its executor is forgotten", || {
            let executors = cluster.json(&["executor", "list"]);
            executors.as_array().is_some_and(|all| all.iter().all(|it| it["name"] != *name))
        });
        load.go_on_for(&cluster, 2);
    }
    load.end(&cluster, Deaths::Some).well();
}

#[test]
fn a_killed_node_is_replaced_by_an_empty_one_under_load() {
    let mut cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 3);
    let leader = cluster.until_ready();
    for dead in [leader, (leader + 1) % 3] {
        let name = cluster.nodes[dead].name.clone();
        cluster.nodes[dead].kill();
        let new = cluster.start_empty();
        let address = cluster.nodes[new].cluster_address();
        cluster.ask(&["cluster", "replace", &name, &address]).well();
        cluster.nodes.swap_remove(dead);
        assert_eq!(voters(&cluster), 3);
        load.go_on_for(&cluster, 3);
    }
    load.end(&cluster, Deaths::Some).well();
}

#[test]
fn a_change_that_would_stop_the_cluster_is_refused_with_the_way_out() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.until_ready();
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[dead].kill();
    let (dead, other) = (cluster.nodes[dead].name.clone(), cluster.nodes[other].name.clone());
    let refused = cluster.ask(&["cluster", "remove", &other]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("no majority"), "{refused:?}");
    assert!(refused.err.contains(&format!("--force {dead}")), "{refused:?}");
    assert_eq!(voters(&cluster), 3);
    let unknown = cluster.ask(&["cluster", "remove", "nobody"]);
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    cluster.ask(&["cluster", "remove", &dead]).well();
    assert_eq!(voters(&cluster), 2);
}

/// The id of the member that answers there.
fn id_at(cluster: &Cluster, at: usize) -> String {
    let status = cluster.json(&["cluster", "status"]);
    let nodes = status["nodes"].as_array().expect("it names the nodes");
    let node = nodes.iter().find(|node| node["address"] == *cluster.nodes[at].endpoint());
    node.and_then(|node| node["id"].as_str()).expect("it is a member").to_owned()
}

/// Whoever repeats a command by name does not hit the next node of that name.
#[test]
fn a_name_that_a_removed_node_had_does_not_mean_the_next_one() {
    let mut cluster = Cluster::start(1);
    cluster.grow();
    let (old, name) = (id_at(&cluster, 1), cluster.nodes[1].name.clone());
    cluster.ask(&["cluster", "remove", &name]).well();
    cluster.until_left(1);
    cluster.nodes.remove(1);
    let again = cluster.json(&["cluster", "remove", &name]);
    assert_eq!((&again["node"], &again["voters"]), (&old.as_str().into(), &1.into()), "it is done");

    let named = name.clone();
    let next = cluster.start_empty_with(|node| node.name.clone_from(&named));
    let address = cluster.nodes[next].cluster_address();
    cluster.ask(&["cluster", "add", &address]).well();
    let new = id_at(&cluster, next);
    for args in [&["remove", &name][..], &["remove", "n1", "--force", &name]] {
        let said = cluster.ask(&[&["cluster"], args].concat());
        assert_eq!(said.code, Some(4), "{args:?}: {said:?}");
        assert!(said.err.contains(&old) && said.err.contains(&new), "{args:?}: {said:?}");
    }
    let replaced = cluster.json(&["cluster", "replace", &name, &address]);
    assert_eq!(replaced["node"], *new, "it has the place: {replaced}");
    cluster.ask(&["cluster", "remove", &old]).well();
    assert_eq!(voters(&cluster), 2, "nobody else went");
    cluster.ask(&["cluster", "remove", &new]).well();
    cluster.until_left(next);
    assert_eq!(voters(&cluster), 1);
}

#[test]
fn a_lead_that_is_handed_over_is_taken_within_two_seconds() {
    let cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 2);
    for _ in 0..3 {
        let leader = cluster.until_ready();
        let next = (leader + 1) % 3;
        let asked = Instant::now();
        cluster.ask(&["cluster", "transfer-leader", &cluster.nodes[next].name]).well();
        cluster.ask_at(&cluster.nodes[next].endpoint(), &["start", "chain", "--wait"]).well();
        let took = asked.elapsed();
        assert!(took < HAND_OVER_MAX + Duration::from_secs(1), "with a chain of its own it took {took:?}");
        assert_eq!(cluster.until_ready(), next);
        load.go_on_for(&cluster, 2);
    }
    let leaderships = cluster.json(&["cluster", "status"])["leaderships"].clone();
    assert_eq!(leaderships, "4", "one by birth, and one for each hand-over");
    let checked = load.end(&cluster, Deaths::None);
    let own = |fault: &String| fault.contains("not acknowledged");
    let others: Vec<&String> = checked.faults.iter().filter(|fault| !own(fault)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(checked.faults.len(), 3, "only the three chains of this test were not the load's");
}
