//! What tasks print, read from nodes that did not run them, before and after the node that did is dead.

use std::fs;

use crate::common::Cluster;

const TALKER: &str = r#"
workflow: talker
params: { count: { type: int, default: 3 } }
tasks:
  work:
    run: |
      for n in $(seq "$COUNT"); do echo "line $n"; sleep 0.2; done
    env: { COUNT: "{{ params.count }}" }
"#;

#[test]
fn a_log_survives_the_node_that_wrote_it() {
    let mut cluster = Cluster::start(3);
    cluster.apply(TALKER);
    let leader = cluster.until_ready();
    let run = cluster.begin_on(leader, &["talker"]);
    cluster.ask(&["wait", &run]).well();
    let task = format!("{run}/work");
    cluster.until("the log is on a majority", || cluster.get(&task)["attempts"][0]["log"] == "stored");
    cluster.nodes[leader].kill();
    fs::remove_dir_all(&cluster.nodes[leader].data_dir).expect("the node is down");
    assert_eq!(cluster.ask(&["logs", &task]).well().out, "line 1\nline 2\nline 3\n");
}

#[test]
fn a_log_that_died_with_its_node_is_said_to_be_away() {
    let mut cluster = Cluster::start(3);
    cluster.apply(TALKER);
    let follower = (cluster.until_ready() + 1) % 3;
    let run = cluster.begin_on(follower, &["talker", "-p", "count=600"]);
    cluster.nodes[follower].kill();
    let said = cluster.ask(&["logs", &format!("{run}/work")]);
    // No line of it is shown, and silence would be a lie.
    assert!(said.out.is_empty() && !said.err.is_empty(), "{said:?}");
    cluster.ask(&["cancel", &run]).well();
}

#[test]
fn a_log_is_followed_from_another_node_while_it_grows() {
    let cluster = Cluster::start(3);
    cluster.apply(TALKER);
    let leader = cluster.until_ready();
    let (at, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let run = cluster.begin_on(at, &["talker", "-p", "count=40"]);
    let seen = cluster.folder.path().join("followed");
    let endpoint = cluster.nodes[other].endpoint();
    let mut following = cluster.ask_beside(&endpoint, &["logs", "-f", &format!("{run}/work")], &seen);
    let lines = || fs::read_to_string(&seen).expect("it was made").lines().count();
    cluster.until("the first lines", || lines() >= 2);
    assert_eq!(cluster.get(&run)["state"], "running", "they came while it ran");
    assert!(following.wait().expect("it is our child").success());
    let all: Vec<String> = (1..=40).map(|n| format!("line {n}")).collect();
    assert_eq!(fs::read_to_string(&seen).expect("it was made").lines().collect::<Vec<_>>(), all);
}
