//! One node: what a person does on the first day, and that nothing acknowledged is lost when the node is killed.

use std::time::{Duration, Instant};

use crate::common::{Cluster, attempt_states};

/// `work` leaves with the code that it is told, and gives it on.
const HELLO: &str = r#"
workflow: hello
params:
  code: { type: int, default: 0 }
  pause: { type: string, default: "0" }
tasks:
  work:
    run: |
      echo "to out"; echo "to err" >&2
      sleep "$PAUSE"
      echo "code=$CODE" >> "$MATINS_OUTPUT"
      exit "$CODE"
    env: { CODE: "{{ params.code }}", PAUSE: "{{ params.pause }}" }
  after: { needs: work, run: [echo, "code was {{ tasks.work.outputs.code }}"] }
"#;

#[test]
fn a_run_gives_outputs_logs_and_its_code() {
    let cluster = Cluster::start(1);
    cluster.apply(HELLO);

    let good = cluster.ask(&["start", "hello", "--wait"]).well();
    let good = good.out.trim();
    assert_eq!(cluster.get(&format!("{good}/work"))["outputs"]["code"], "0");
    let logs = cluster.ask(&["logs", good]).well().out;
    for line in ["work | to out", "work | to err", "after | code was 0"] {
        assert!(logs.contains(line), "{line} is missing in {logs}");
    }
    assert_eq!(cluster.ask(&["logs", &format!("{good}/work"), "--stderr"]).well().out, "to err\n");

    let bad = cluster.ask(&["start", "hello", "--wait", "-p", "code=7"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    let work = cluster.get("latest:hello/work");
    assert_eq!((&work["state"], &work["attempts"][0]["exitCode"]), (&"failed".into(), &7.into()));
    assert_eq!(cluster.get("latest:hello/after")["state"], "upstream_failed");

    for (code, args) in [
        (2, &["start"][..]),
        (2, &["start", "hello", "-p", "code=seven"]),
        (3, &["run", "get", "run-99"]),
        (3, &["start", "no-such-workflow"]),
        (4, &["cancel", good]),
        (4, &["cluster", "init"]),
    ] {
        let said = cluster.ask(args);
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{args:?}: {said:?}");
        assert!(said.err.starts_with("error: "), "{args:?}: {said:?}");
    }
}

#[test]
fn a_failed_run_is_made_again_from_where_it_failed() {
    let cluster = Cluster::start(1);
    let gate = cluster.folder.path().join("gate");
    cluster.apply(&format!(
        "workflow: gated\ntasks:\n  first: {{ run: 'echo n=5 > \"$MATINS_OUTPUT\"' }}\n  second:\n    needs: first\n    run: [cat, {gate:?}]\n"
    ));
    let first = cluster.ask(&["start", "gated", "--wait"]);
    assert_eq!(first.code, Some(1), "{first:?}");
    let first = first.out.trim();
    std::fs::write(&gate, "open").unwrap();

    let again = cluster.ask(&["retry", first]).well().out.trim().to_owned();
    assert_ne!(again, first);
    cluster.ask(&["wait", &again]).well();
    let (run, before) = (cluster.get(&again), cluster.get(first));
    assert_eq!(run["logicalTime"], before["logicalTime"]);
    assert_eq!(cluster.get(&format!("{again}/first"))["takenFrom"], first);
    // A finished run is final.
    assert_eq!(before["state"], "failed");
}

#[test]
fn a_cancelled_run_ends_its_tasks() {
    let cluster = Cluster::start(1);
    cluster.apply(HELLO);
    let run = cluster.begin(&["hello", "-p", "pause=600"]);
    let fence = cluster.until_started(&format!("{run}/work"));
    assert!(cluster.has_process(fence));
    cluster.ask(&["cancel", &run]).well();
    assert_eq!(cluster.ask(&["wait", &run]).code, Some(1));
    assert_eq!(cluster.get(&run)["state"], "cancelled");
    // A reported end means that the whole group is gone (PROTOCOL 5.1).
    assert!(!cluster.has_process(fence));
    assert_eq!(cluster.get(&format!("{run}/after"))["state"], "cancelled");
}

#[test]
fn waiting_ends_when_its_time_is_up_and_the_run_goes_on() {
    let cluster = Cluster::start(1);
    cluster.apply(HELLO);
    let run = cluster.begin(&["hello", "-p", "pause=2"]);
    assert_eq!(cluster.ask(&["wait", &run, "--timeout", "200ms"]).code, Some(6));
    cluster.ask(&["wait", &run]).well();
}

#[test]
fn nothing_acknowledged_is_lost_when_the_node_is_killed() {
    let mut cluster = Cluster::start(1);
    cluster.apply(HELLO);
    let mut runs = Vec::new();
    for round in 0..3 {
        for code in ["0", "3"] {
            runs.push((cluster.begin(&["hello", "-p", &format!("code={code}")]), code));
        }
        cluster.nodes[0].kill();
        cluster.nodes[0].up();
        cluster.until_ready();
        let listed = cluster.json(&["run", "list"]);
        assert_eq!(listed.as_array().map(Vec::len), Some(runs.len()), "after round {round}: {listed}");
    }
    assert_eq!(cluster.json(&["workflow", "list"]).as_array().map(Vec::len), Some(1));
    for (run, code) in runs {
        let expected = if code == "0" { "success" } else { "failed" };
        cluster.until_state(&run, expected);
        let work = cluster.get(&format!("{run}/work"));
        // The kill may have come before the first process did: such an attempt is lost, and made again.
        let attempts = work["attempts"].as_array().expect("it has some");
        assert_eq!(attempts.last().expect("one")["exitCode"].to_string(), code, "{work}");
    }
}

#[test]
fn a_killed_node_goes_on_with_its_task_and_its_true_code() {
    let mut cluster = Cluster::start(1);
    cluster.apply(HELLO);
    let run = cluster.begin(&["hello", "-p", "code=7", "-p", "pause=4"]);
    let task = format!("{run}/work");
    let fence = cluster.until_started(&task);
    cluster.nodes[0].kill();
    assert!(cluster.has_process(fence), "the task lives on under its supervisor");
    cluster.nodes[0].up();
    cluster.until_state(&run, "failed");
    let work = cluster.get(&task);
    assert_eq!(attempt_states(&work), ["failed"], "{work}");
    assert_eq!(work["attempts"][0]["exitCode"], 7);
}

#[test]
fn an_output_is_whole_though_the_node_was_down_when_the_task_ended() {
    let mut cluster = Cluster::start(1);
    cluster.apply(HELLO);
    let run = cluster.begin(&["hello", "-p", "pause=1"]);
    let fence = cluster.until_started(&format!("{run}/work"));
    cluster.nodes[0].kill();
    let began = Instant::now();
    cluster.until("the task has ended alone", || !cluster.has_process(fence));
    assert!(began.elapsed() < Duration::from_secs(8), "it ended by itself, not with its lease");
    cluster.nodes[0].up();
    cluster.until_state(&run, "success");
    assert_eq!(cluster.get(&format!("{run}/work"))["outputs"]["code"], "0");
    let logs = cluster.ask(&["logs", &run]).well().out;
    assert!(logs.contains("work | to out") && logs.contains("after | code was 0"), "{logs}");
}
