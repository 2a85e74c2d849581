//! All nodes die at once in the middle of runs, as in a power cut, and are started again.

use std::collections::BTreeMap;

use crate::common::{Cluster, Node};

pub(super) const EVERY_SECOND: &str = r#"
workflow: heartbeat
schedules:
  second:
    cron: "* * * * * *"
    catchup: { policy: all, window: 1d, limit: 500 }
concurrency: { max_active_runs: 60, on_full: queue }
tasks:
  beat:
    retry: { limit: 3, delay: 1s }
    run: [echo, "{{ logical_time | datetime }}"]
"#;

const CHAIN: &str = r#"
workflow: chain
tasks:
  one: { run: "sleep 1; echo n=1 > $MATINS_OUTPUT" }
  two: { needs: one, run: "sleep 1; echo n=$((N + 1)) > $MATINS_OUTPUT", env: { N: "{{ tasks.one.outputs.n }}" } }
  three: { needs: two, run: [echo, "n is {{ tasks.two.outputs.n }}"] }
"#;

/// The runs of the schedule: logical time in seconds, and how many there are for it.
pub(super) fn ticks(cluster: &Cluster) -> BTreeMap<i64, usize> {
    let runs = cluster.json(&["run", "list", "heartbeat", "--limit", "1000", "--filter", "origin=schedule"]);
    let mut ticks = BTreeMap::new();
    for run in runs.as_array().expect("a list is an array") {
        let time: jiff::Timestamp =
            run["logicalTime"].as_str().and_then(|it| it.parse().ok()).expect("a time");
        *ticks.entry(time.as_second()).or_default() += 1;
    }
    ticks
}

/// Every second between the first and the last has one run.
#[track_caller]
pub(super) fn assert_whole(ticks: &BTreeMap<i64, usize>) {
    let (first, last) = (*ticks.keys().next().expect("some"), *ticks.keys().last().expect("some"));
    let missed: Vec<i64> = (first..=last).filter(|at| !ticks.contains_key(at)).collect();
    let doubled: Vec<&i64> = ticks.iter().filter(|(_, runs)| **runs != 1).map(|(at, _)| at).collect();
    assert!(missed.is_empty() && doubled.is_empty(), "missed {missed:?}, doubled {doubled:?}");
}

#[test]
fn runs_finish_and_no_tick_is_missed_or_doubled() {
    let mut cluster = Cluster::start(3);
    cluster.apply(EVERY_SECOND);
    cluster.apply(CHAIN);
    cluster.until("some ticks", || ticks(&cluster).len() >= 3);
    let runs: Vec<String> = (0..3).map(|_| cluster.begin(&["chain"])).collect();
    cluster.until_started(&format!("{}/one", runs[0]));

    cluster.nodes.iter_mut().for_each(Node::kill);
    let before_the_cut = jiff::Timestamp::now().as_second();
    cluster.nodes.iter_mut().for_each(Node::up);
    cluster.until_ready();
    for run in &runs {
        cluster.until_state(run, "success");
        assert_eq!(cluster.ask(&["logs", &format!("{run}/three")]).well().out, "n is 2\n");
    }
    cluster.until("ticks go on", || {
        ticks(&cluster).keys().last().is_some_and(|last| *last > before_the_cut + 3)
    });
    cluster.ask(&["workflow", "pause", "heartbeat"]).well();
    let unfinished = ["--state", "queued", "--state", "running", "--state", "stopping"];
    let unfinished = [&["run", "list", "heartbeat"], &unfinished[..]].concat();
    cluster.until("every tick's run has ended", || cluster.json(&unfinished) == serde_json::json!([]));
    assert_whole(&ticks(&cluster));
    let failed = cluster.json(&["run", "list", "heartbeat", "--state", "failed"]);
    assert_eq!(failed, serde_json::json!([]));
}

#[test]
fn a_dead_leader_costs_no_tick() {
    let mut cluster = Cluster::start(3);
    cluster.apply(EVERY_SECOND);
    cluster.until("some ticks", || ticks(&cluster).len() >= 3);
    for _ in 0..2 {
        let leader = cluster.until_ready();
        cluster.nodes[leader].kill();
        let killed = jiff::Timestamp::now().as_second();
        cluster.until_ready();
        cluster.until("ticks go on", || ticks(&cluster).keys().last().is_some_and(|last| *last > killed + 2));
        cluster.nodes[leader].up();
        cluster.until_executor(leader, "ready");
    }
    cluster.ask(&["workflow", "pause", "heartbeat"]).well();
    assert_whole(&ticks(&cluster));
}
