//! A follower that was away for so long that the log it lacks is gone: it is restored from a snapshot, and from the
//! blocks of history that the snapshot names (PROTOCOL 6.5, 6.8).

use std::fs;
use std::thread;

use crate::common::Cluster;

/// Its runs are large, and end without an executor.
const FAT: &str = r#"
workflow: fat
params: { text: { type: string, default: "" } }
tasks:
  work: { when: "params.text == ''", run: "true" }
"#;

/// Runs of 250 kB each, until two checkpoints of 64 MiB lie behind them.
const RUNS_MAX: usize = 800;

#[test]
fn a_follower_far_behind_is_restored() {
    let mut cluster = Cluster::start(3);
    cluster.apply(FAT);
    let leader = cluster.until_ready();
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].kill();
    let text = cluster.folder.path().join("text");
    fs::write(&text, "x".repeat(250_000)).expect("the folder is there");
    let text = format!("text=@{}", text.display());

    // Segments are whole files: when the first is gone, what the follower needs next is gone.
    let first = cluster.nodes[leader].data_dir.join("log/00000000000000000000.log");
    let start = || {
        let count = (0..RUNS_MAX / 2).take_while(|_| first.exists());
        count.map(|_| cluster.begin(&["fat", "-p", &text])).collect::<Vec<String>>()
    };
    let runs = thread::scope(|scope| {
        let beside = scope.spawn(start);
        [start(), beside.join().expect("it found no fault")].concat()
    });
    assert!(!first.exists(), "no log was purged after {} runs", runs.len());

    cluster.nodes[follower].up();
    cluster
        .until("the follower takes part", || cluster.status(follower).is_some_and(|it| it["ready"] == true));
    let at = cluster.nodes[follower].endpoint();
    for run in [&runs[0], runs.last().expect("there are some")] {
        let said = cluster.ask_at(&at, &["run", "get", run, "-o", "json"]).well();
        let run: serde_json::Value = serde_json::from_str(&said.out).expect("-o json prints JSON");
        assert_eq!(
            (&run["state"], run["params"]["text"].as_str().map(str::len)),
            (&"success".into(), Some(250_000))
        );
    }
    // It is as good as the others: with it alone there is still a majority.
    cluster.nodes[leader].kill();
    cluster.ask(&["start", "fat", "-p", &text, "--wait"]).well();
}
