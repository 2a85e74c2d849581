//! A cluster is backed up while it works, lost, and restored: what was there is there again, nothing runs by itself, and it
//! grows and goes on (PROTOCOL 6.10).

use std::fs;
use std::path::Path;
use std::thread;

use crate::common::load::{Deaths, Load};
use crate::common::{Cluster, Node, TICKING, offline};

const WORK: &str = r#"
workflow: nightly
schedules:
  nightly: { cron: "0 2 * * *", catchup: none }
tasks:
  work: { run: "sleep 0.2; echo did {{ logical_time | date }}" }
---
workflow: slow
tasks:
  before: { run: "true" }
  work: { needs: before, run: "sleep 600" }
---
workflow: quick
tasks:
  work: { run: "echo hello" }
"#;

/// Runs leave for history within a second.
fn shrunk(node: &mut Node) {
    node.environment.push(("MATINS_TEST_SHRINK", "600".into()));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is plain")
}

#[test]
fn a_backup_under_load_becomes_a_cluster_that_goes_on() {
    let mut cluster = Cluster::start_with(3, shrunk);
    cluster.apply(&format!("{TICKING}---{WORK}"));
    let load = Load::begin(&cluster);
    let create =
        ["backfill", "create", "nightly", "--from", "2013-01-01", "--to", "2013-03-01", "--max-active", "1"];
    let backfill = cluster.ask(&create).well().out.trim().to_owned();
    let slow = cluster.begin(&["slow"]);
    cluster.until_started(&format!("{slow}/work"));
    let done =
        |cluster: &Cluster| cluster.json(&["backfill", "get", &backfill])["counts"]["success"].as_u64();
    cluster.until("some days are done", || done(&cluster) >= Some(4));
    let first = cluster.json(&["run", "list", "nightly"])[0]["id"].as_str().expect("an id").to_owned();
    let task = format!("{first}/work");
    cluster.until("its log is kept", || cluster.get(&task)["attempts"][0]["log"] == "stored");
    cluster.until("runs are in history", || {
        cluster.status(0).is_some_and(|it| it["retiredRuns"].as_str().is_some_and(|runs| runs != "0"))
    });

    let file = cluster.folder.path().join("copy.matins");
    let said = cluster.ask(&["cluster", "backup", text(&file)]).well();
    assert!(said.err.contains("backed up cluster"), "{said:?}");
    load.go_on_for(&cluster, 3);
    load.end(&cluster, Deaths::None).well();
    let said = offline(&["cluster", "backup", "--verify", text(&file), "-o", "json"]).well();
    let told: serde_json::Value = serde_json::from_str(&said.out).expect("-o json prints JSON");
    assert!(told["liveRuns"].as_u64() >= Some(1) && told["finishedRuns"].as_u64() >= Some(1), "{told}");

    cluster.nodes.iter_mut().for_each(Node::kill);
    let mut next = Cluster::waiting_with(3, shrunk);
    next.nodes[0].kill();
    // It may have been killed before it made its directory.
    drop(fs::remove_dir_all(&next.nodes[0].data_dir));
    let into = next.nodes[0].data_dir.clone();
    offline(&["cluster", "restore", text(&file), "--data-dir", text(&into)]).well();
    assert_eq!(
        offline(&["cluster", "restore", text(&file), "--data-dir", text(&into)]).code,
        Some(4),
        "twice"
    );
    offline(&["cluster", "check", text(&into)]).well();
    next.nodes[0].up();
    next.until("the restored node leads", || next.leader() == Some(0));
    let load = Load::begin_in(&next, "later");
    for at in [1, 2] {
        let address = format!("127.0.0.1:{}", next.nodes[at].cluster_port);
        next.ask_at(&next.nodes[0].endpoint(), &["cluster", "add", &address]).well();
    }
    next.until_ready();
    what_was_there_is_there(&next, (&first, &slow));
    what_was_held_goes_on(&next, &backfill);
    load.end(&next, Deaths::None).well();
}

fn what_was_there_is_there(next: &Cluster, (first, slow): (&str, &str)) {
    for node in &next.nodes {
        let said = next.ask_at(&node.endpoint(), &["logs", first]).well();
        assert!(said.out.contains("did 2013-0"), "{said:?}");
    }
    let run = next.get(slow);
    assert_eq!(run["state"], "cancelled", "{run:#}");
    assert!(run.to_string().contains("restored from a backup"), "{run:#}");
    let status = next.status(0).expect("it answers");
    let alarms = status["alarms"].to_string();
    assert!(alarms.contains("schedules_held") && alarms.contains("matins cluster resume"), "{status:#}");
    // Nothing makes runs by itself.
    let ticks = next.json(&["run", "list", "ticking"]);
    thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(next.json(&["run", "list", "ticking"]), ticks);
    // No number is given out twice, and a retry takes over what had succeeded.
    let run = next.begin(&["quick", "--wait"]);
    let number: u64 =
        run.trim_start_matches("run-").split_whitespace().next().expect("a number").parse().expect("one");
    assert!(number > 1_000_000, "{run}");
    let again = next.ask(&["retry", slow]).well().out;
    next.until_started(&format!("{}/work", again.trim()));
    assert_eq!(next.get(&format!("{}/before", again.trim()))["takenFrom"], *slow);
}

fn what_was_held_goes_on(next: &Cluster, backfill: &str) {
    next.ask(&["backfill", "resume", backfill]).well();
    let counts = || next.json(&["backfill", "get", backfill])["counts"].clone();
    next.until("the backfill is done", || {
        let counts = counts();
        let ended = ["success", "failed", "cancelled"].map(|state| counts[state].as_u64().unwrap_or(0));
        ended.iter().sum::<u64>() == 60
    });
    let counts = counts();
    assert!(counts["success"].as_u64() >= Some(59), "only what was alive was cancelled: {counts}");
    let said = next.ask(&["cluster", "resume"]).well();
    assert!(said.err.contains("6 workflows go on"), "{said:?}");
    let before = next.json(&["run", "list", "ticking"]);
    next.until("ticks come again", || next.json(&["run", "list", "ticking"]) != before);
    assert!(next.status(0).is_some_and(|status| !status["alarms"].to_string().contains("schedules_held")));
}

#[test]
fn a_backup_that_was_cut_or_damaged_is_told_and_restores_nothing() {
    let cluster = Cluster::start(1);
    cluster.apply(WORK);
    cluster.ask(&["start", "quick", "--wait"]).well();
    let folder = cluster.folder.path();
    let file = folder.join("copy.matins");
    cluster.ask(&["cluster", "backup", text(&file)]).well();
    assert_eq!(cluster.ask(&["cluster", "backup", text(&file)]).code, Some(2), "nothing is overwritten");
    let whole = fs::read(&file).expect("it was written");

    let bad = folder.join("bad.matins");
    for (what, bytes) in [
        ("cut", whole[..whole.len() - 5].to_vec()),
        ("damaged", {
            let mut bytes = whole.clone();
            bytes[whole.len() / 2] ^= 1;
            bytes
        }),
    ] {
        fs::write(&bad, bytes).expect("the folder is there");
        let said = offline(&["cluster", "backup", "--verify", text(&bad)]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(what), "{said:?}");
        let into = folder.join(what);
        assert_eq!(offline(&["cluster", "restore", text(&bad), "--data-dir", text(&into)]).code, Some(1));
        // What came of it is not taken for a node's directory.
        let said = offline(&[
            "server",
            "--data-dir",
            text(&into),
            "--listen",
            "127.0.0.1:0",
            "--cluster-listen",
            "127.0.0.1:0",
        ]);
        assert!(said.err.contains("restore into it was cut short"), "{said:?}");
    }
}
