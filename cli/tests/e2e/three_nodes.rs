//! Three nodes, and one of them dies: the others go on at once, and its tasks start elsewhere (PROTOCOL 5.3).

use std::time::{Duration, Instant};

use crate::common::{Cluster, attempt_states};

/// Ends at once, but for its first attempt, which takes its time.
const SLOW_ONCE: &str = r#"
workflow: slow-once
params:
  code: { type: int, default: 0 }
  pause: { type: string, default: "600" }
tasks:
  work:
    run: |
      if [ "$MATINS_ATTEMPT" = 1 ]; then sleep "$PAUSE"; fi
      exit "$CODE"
    env: { CODE: "{{ params.code }}", PAUSE: "{{ params.pause }}" }
"#;

/// How soon the cluster takes a command after the leader died.
const FAILOVER_MAX: Duration = Duration::from_secs(5);

/// How soon a task starts elsewhere: failover, then 15.01 s, and room for a machine with two cores.
const ELSEWHERE_MAX: Duration = Duration::from_secs(22);

#[test]
fn a_dead_leader_is_replaced_and_its_tasks_run_elsewhere() {
    let mut cluster = Cluster::start(3);
    cluster.apply(SLOW_ONCE);
    let leader = cluster.until_ready();
    let run = cluster.begin_on(leader, &["slow-once"]);

    let killed = Instant::now();
    cluster.nodes[leader].kill();
    let next = cluster.ask(&["start", "slow-once", "-p", "pause=0"]).well();
    let took = killed.elapsed();
    assert!(took < FAILOVER_MAX, "the next command took {took:?}");
    cluster.ask(&["wait", next.out.trim(), "--timeout", "10s"]).well();

    // Whichever node is asked, the one that leads or the other, knows who is there.
    for at in (0..3).filter(|at| *at != leader) {
        let status = cluster.status(at).expect("a living node answers");
        let nodes = status["nodes"].as_array().expect("it names the nodes");
        let reachable = nodes.iter().filter(|node| node["reachable"] == true).count();
        assert_eq!(reachable, 2, "{status:#}");
    }

    let left = ELSEWHERE_MAX.saturating_sub(killed.elapsed());
    cluster.until_within(left, "the task ran elsewhere", || cluster.get(&run)["state"] == "success");
    let work = cluster.get(&format!("{run}/work"));
    assert_eq!(attempt_states(&work), ["lost", "success"], "{work}");
    assert_ne!(work["attempts"][1]["executorName"], *cluster.nodes[leader].name);
}

#[test]
fn a_dead_follower_costs_no_leader_and_its_tasks_run_elsewhere() {
    let mut cluster = Cluster::start(3);
    cluster.apply(SLOW_ONCE);
    let leader = cluster.until_ready();
    let follower = (leader + 1) % 3;
    let run = cluster.begin_on(follower, &["slow-once"]);
    let leaderships = cluster.status(leader).unwrap()["leaderships"].clone();

    let killed = Instant::now();
    cluster.nodes[follower].kill();
    let left = ELSEWHERE_MAX.saturating_sub(killed.elapsed());
    cluster.until_within(left, "the task ran elsewhere", || cluster.get(&run)["state"] == "success");
    assert_eq!(cluster.status(leader).unwrap()["leaderships"], leaderships);
    let work = cluster.get(&format!("{run}/work"));
    assert_eq!(attempt_states(&work), ["lost", "success"], "{work}");
    // A lost attempt uses up no retry (LANGUAGE 1.17).
    assert_eq!(work["attempts"][0]["counts"], false, "{work}");
}

#[test]
fn a_node_that_is_back_within_its_lease_goes_on_with_its_task() {
    let mut cluster = Cluster::start(3);
    cluster.apply(SLOW_ONCE);
    let leader = cluster.until_ready();
    for at in [(leader + 1) % 3, leader] {
        let run = cluster.begin_on(at, &["slow-once", "-p", "pause=4", "-p", "code=7"]);
        cluster.nodes[at].kill();
        cluster.nodes[at].up();
        cluster.until_state(&run, "failed");
        let work = cluster.get(&format!("{run}/work"));
        assert_eq!(attempt_states(&work), ["failed"], "{work}");
        assert_eq!(work["attempts"][0]["exitCode"], 7);
        cluster.until_ready();
    }
}

#[test]
fn a_change_of_leader_costs_no_task() {
    let mut cluster = Cluster::start(3);
    cluster.apply(SLOW_ONCE);
    let leader = cluster.until_ready();
    let run = cluster.begin_on((leader + 1) % 3, &["slow-once", "-p", "pause=12"]);
    cluster.nodes[leader].kill();
    cluster.until_state(&run, "success");
    let work = cluster.get(&format!("{run}/work"));
    assert_eq!(attempt_states(&work), ["success"], "{work}");
}

#[test]
fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::start(3);
    cluster.apply(SLOW_ONCE);
    let leader = cluster.until_ready();
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[leader].kill();
    cluster.nodes[other].kill();
    let said = cluster.ask_at(&cluster.nodes[third].endpoint(), &["start", "slow-once", "-p", "pause=0"]);
    assert_eq!((said.code, said.out.as_str()), (Some(5), ""), "{said:?}");
    cluster.nodes[other].up();
    cluster.until_ready();
    cluster.ask(&["start", "slow-once", "-p", "pause=0", "--wait"]).well();
}
