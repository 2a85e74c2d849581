//! A cluster that has lost its majority for good goes on from one survivor, loudly (PROTOCOL 6.10).

use std::fs;

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
    let was = cluster.status(survivor).expect("it answers")["clusterId"].clone();
    let was = was.as_str().expect("it has one").to_owned();
    cluster.until("it has applied the run", || {
        cluster.status(survivor).is_some_and(|it| it["appliedIndex"] == it["committedIndex"])
    });
    assert_eq!(recover(&cluster.nodes[survivor], &[]).code, Some(4), "it runs");
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
    for other in (0..3).filter(|other| *other != survivor) {
        cluster.nodes[other].kill();
        fs::remove_dir_all(&cluster.nodes[other].data_dir).expect("it was there");
        cluster.nodes[other].up();
        cluster.until("the emptied node answers", || cluster.status(other).is_some());
        let address = format!("127.0.0.1:{}", cluster.nodes[other].cluster_port);
        cluster.ask_at(&at, &["cluster", "add", &address]).well();
    }
    cluster.nodes[survivor].kill();
    cluster.until_ready();
    assert_eq!(cluster.get(&run)["state"], "success");
}
