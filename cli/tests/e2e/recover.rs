//! A cluster that has lost its majority for good goes on from one survivor, loudly (PROTOCOL 6.10).

use std::fs;

use super::told::{Told, http};
use crate::common::load::{Deaths, Load};
use crate::common::{Cluster, Node, Said, TICKING, attempt_states, offline};

const WORK: &str = r#"
workflow: slow
params: { pause: { type: int, default: 4 } }
tasks:
  work: { run: "sleep {{ params.pause }}" }
"#;

fn recover(node: &Node, more: &[&str]) -> Said {
    let dir = node.data_dir.to_str().expect("the path is plain");
    offline(&[&["cluster", "recover", "--data-dir", dir], more].concat())
}

#[test]
fn one_survivor_goes_on_when_it_is_told_to() {
    let mut cluster = Cluster::start(3);
    cluster.apply(&format!("{TICKING}---{WORK}"));
    let leader = cluster.until_ready();
    let survivor = (leader + 1) % 3;
    let run = cluster.begin_on(survivor, &["slow", "-p", "pause=20"]);
    cluster.start_executor("outside");
    cluster.until_executor_named("outside", "ready");
    let was = cluster.status(survivor).expect("it answers")["clusterId"].clone();
    let was = was.as_str().expect("it has one").to_owned();
    cluster.until("it has applied the run", || {
        cluster.status(survivor).is_some_and(|it| it["appliedIndex"] == it["committedIndex"])
    });
    assert_eq!(recover(&cluster.nodes[survivor], &[]).code, Some(4), "it runs");
    (0..3).filter(|other| *other != survivor).for_each(|other| cluster.nodes[other].kill());
    nobody_leads(&cluster, survivor);
    cluster.nodes.iter_mut().for_each(Node::kill);

    let said = recover(&cluster.nodes[survivor], &["-o", "json"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("LOST") && said.err.contains(&format!("--yes-lose {was}")), "{said:?}");
    assert_eq!(recover(&cluster.nodes[survivor], &["--yes-lose", "0123"]).code, Some(4));
    let said = recover(&cluster.nodes[survivor], &["--yes-lose", &was, "-o", "json"]).well();
    let told: serde_json::Value = serde_json::from_str(&said.out).expect("-o json prints JSON");
    assert_ne!(told["recoveredAs"], *was);

    cluster.nodes[survivor].up();
    cluster.until("it leads alone", || cluster.leader() == Some(survivor));
    // Its own executor still has the task: it goes on, as after any restart within the lease.
    cluster.until_state(&run, "success");
    let states = cluster.get(&format!("{run}/work"));
    assert!(matches!(attempt_states(&states)[..], ["success"] | ["lost", "success"]), "{states}");
    cluster.ask(&["start", "slow", "-p", "pause=0", "--wait"]).well();

    // A node of the old cluster stays in the old one, and cannot be added.
    cluster.nodes[leader].up();
    let address = format!("127.0.0.1:{}", cluster.nodes[leader].cluster_port);
    let at = cluster.nodes[survivor].endpoint();
    cluster.until("the old node answers", || cluster.status(leader).is_some());
    assert_eq!(cluster.ask_at(&at, &["cluster", "add", &address]).code, Some(4));
    assert_eq!(cluster.status(leader).expect("it answers")["clusterId"], *was);
    assert!(!is_reachable(&cluster, leader, survivor), "a node of another cluster counts for one of its own");
    for other in (0..3).filter(|other| *other != survivor) {
        cluster.nodes[other].kill();
        fs::remove_dir_all(&cluster.nodes[other].data_dir).expect("it was there");
        cluster.nodes[other].up();
        cluster.until("the emptied node answers", || cluster.status(other).is_some());
        let address = format!("127.0.0.1:{}", cluster.nodes[other].cluster_port);
        cluster.ask_at(&at, &["cluster", "add", &address]).well();
    }
    // An executor of the old cluster stays in the old one too, though it finds the leader where it was.
    cluster.until_executor_named("outside", "gone");
    an_executor_is_named_by_its_id(&cluster, (survivor + 1) % 3);
    cluster.nodes[survivor].kill();
    cluster.until_ready();
    assert_eq!(cluster.get(&run)["state"], "success");
}

/// Whoever led when the majority was lost has all that was acknowledged, so nothing is lost beside the nodes: the load's own
/// checker says so.
#[test]
fn recovery_from_the_leader_loses_no_tick_and_no_task() {
    let mut cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 3);
    let leader = cluster.until_ready();
    let lost = [(leader + 1) % 3, (leader + 2) % 3];
    for other in lost {
        cluster.nodes[other].kill();
    }
    // A leader without a majority ends itself, to be started again.
    cluster.until_left(leader);
    cluster.nodes[leader].up();
    nobody_leads(&cluster, leader);
    cluster.nodes[leader].kill();
    // What was killed in the middle of its work is in order, of the dead too.
    for node in &cluster.nodes {
        offline(&["cluster", "check", node.data_dir.to_str().expect("the path is plain")]).well();
    }
    let said = recover(&cluster.nodes[leader], &["-o", "json"]);
    let plan = said.err.split_once("--yes-lose ").unwrap_or_else(|| panic!("{said:?}")).1;
    let id = plan.split(|it: char| !it.is_ascii_alphanumeric() && it != '-').next().expect("a word");
    recover(&cluster.nodes[leader], &["--yes-lose", id]).well();

    cluster.nodes[leader].up();
    cluster.until("it leads alone", || cluster.leader() == Some(leader));
    for other in lost {
        fs::remove_dir_all(&cluster.nodes[other].data_dir).expect("it was there");
        cluster.nodes[other].up();
        cluster.until("the emptied node answers", || cluster.status(other).is_some());
        let address = cluster.nodes[other].cluster_address();
        cluster.ask_at(&cluster.nodes[leader].endpoint(), &["cluster", "add", &address]).well();
    }
    load.go_on_for(&cluster, 5);
    load.end(&cluster, Deaths::Some).well();
}

/// The only node of a cluster that has lost its majority does not take a dead leader for one.
fn nobody_leads(cluster: &Cluster, at: usize) {
    let endpoint = cluster.nodes[at].endpoint();
    cluster.until("it is not ready", || http(&endpoint, "/readyz") == (503, "no leader is known\n".into()));
    assert_eq!(cluster.status(at).expect("it answers")["leaderId"].as_str().unwrap_or_default(), "");
    // Who asks is told what to look at, and whoever waits no longer than he said.
    let asked = cluster.ask(&["run", "list"]);
    assert!(
        asked.code == Some(5) && asked.err.contains("hint: nobody leads: `matins cluster status`"),
        "{asked:?}"
    );
    let waited = cluster.ask(&["cluster", "wait", "--timeout", "1s"]);
    assert_eq!(waited.code, Some(6), "{waited:?}");
    let counted = || Told::at(&endpoint).sum("matins_time_without_leader_seconds_total") > 0.5;
    cluster.until("the time without a leader counts", counted);
}

/// Whether a node says that another one answers it.
fn is_reachable(cluster: &Cluster, at: usize, other: usize) -> bool {
    let status = cluster.status(at).expect("it answers");
    let nodes = status["nodes"].as_array().expect("it names the nodes");
    nodes.iter().any(|node| node["name"] == *cluster.nodes[other].name && node["reachable"] == true)
}

/// The node that was lost and the one that took its place have one name: nobody guesses which is meant.
fn an_executor_is_named_by_its_id(cluster: &Cluster, at: usize) {
    cluster.until_executor(at, "ready");
    let name = cluster.nodes[at].name.as_str();
    let list = cluster.json(&["executor", "list"]);
    let named: Vec<_> = list.as_array().into_iter().flatten().filter(|row| row["name"] == *name).collect();
    assert_eq!(named.len(), 2, "{list}");
    let refused = cluster.ask(&["executor", "drain", name]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for row in &named {
        assert!(refused.err.contains(row["id"].as_str().expect("it has one")), "{refused:?}");
    }
    for row in named {
        let (id, is_gone) = (row["id"].as_str().expect("it has one"), row["state"] == "gone");
        cluster.ask(&["executor", if is_gone { "remove" } else { "drain" }, id]).well();
    }
    cluster.until("one is left", || cluster.ask(&["executor", "undrain", name]).code == Some(0));
}
