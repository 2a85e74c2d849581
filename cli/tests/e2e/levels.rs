//! A rolling upgrade under load: releases of different age in one cluster, and the level that is raised at its end
//! (PROTOCOL 6.9).

use crate::common::Cluster;
use crate::common::load::{Deaths, Load};

#[test]
fn an_upgrade_under_load_costs_no_tick_and_ends_with_a_level_that_no_older_release_joins() {
    let mut cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 2);

    for at in 0..3 {
        let refused = cluster.ask(&["cluster", "raise-level", "2"]);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert!(refused.err.contains("supports feature level 1 at most"), "{refused:?}");
        install(&mut cluster, at, "2");
    }
    let supported: Vec<_> = cluster.json(&["cluster", "status"])["nodes"]
        .as_array()
        .expect("a list is an array")
        .iter()
        .map(|node| node["levelMax"].clone())
        .collect();
    assert_eq!(supported, [2, 2, 2]);
    assert_eq!(cluster.json(&["cluster", "status"])["level"], 1);
    let raised = cluster.ask(&["cluster", "raise-level"]).well();
    assert!(raised.err.contains("feature level 2 is in force"), "{raised:?}");
    for at in 0..3 {
        cluster.until("every node knows", || cluster.status(at).is_some_and(|status| status["level"] == 2));
    }

    // Whoever goes back to the older release is told at once, and nothing of its directory is touched.
    cluster.nodes[2].kill();
    cluster.nodes[2].level = Some("1".into());
    cluster.nodes[2].up();
    cluster.until_left(2);
    let log = std::fs::read_to_string(cluster.nodes[2].log()).expect("it has a log");
    assert!(log.contains("has feature level 2, this release knows up to 1"), "{log}");
    install(&mut cluster, 2, "2");

    load.go_on_for(&cluster, 2);
    load.end(&cluster, Deaths::None).well();
}

/// Starts a node again as a release that supports this level, and waits until it takes part.
fn install(cluster: &mut Cluster, at: usize, level: &str) {
    cluster.nodes[at].kill();
    cluster.nodes[at].level = Some(level.into());
    cluster.nodes[at].up();
    cluster.until_ready();
    cluster.until("the node is back", || {
        let leader = cluster.until_ready();
        let status = cluster.status(leader).unwrap_or_default();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let mut own = nodes.iter().filter(|node| node["name"] == *cluster.nodes[at].name);
        // What the leader shows may be a second old: the level tells this process from the one before.
        own.any(|node| {
            node["reachable"] == true
                && node["lag"].as_str() == Some("0")
                && node["levelMax"].as_u64() == level.parse().ok()
        })
    });
}
