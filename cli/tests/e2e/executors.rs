//! Executors that belong to no node: they run what nodes cannot, whoever leads, and their logs are read as any others.

use crate::common::{Cluster, attempt_states, fence_of};

/// Needs a label that no node has: it prints, waits until it is told to go on, and has an output that is a blob.
const ELSEWHERE: &str = r#"
workflow: elsewhere
defaults: { executor: { labels: { place: outside } } }
tasks:
  work:
    run: |
      echo began
      while [ ! -e "$GO" ]; do sleep 0.1; done
      echo "{\"text\": \"$(head -c 100000 /dev/zero | tr '\0' x)\"}" > "$MATINS_OUTPUT"
      echo ended
    env: { GO: "{{ params.go }}" }
  after: { needs: work, run: "echo {{ tasks.work.outputs.text | length }}" }
params:
  go: { type: string }
"#;

#[test]
fn an_executor_without_a_node_runs_what_it_is_given() {
    let mut cluster = Cluster::start(3);
    cluster.start_executor("outside");
    cluster.until_executor_named("outside", "ready");
    assert_eq!(
        cluster.json(&["cluster", "status"])["nodes"].as_array().map(Vec::len),
        Some(3),
        "it is no node"
    );
    cluster.apply(ELSEWHERE);
    let go = cluster.folder.path().join("go");
    let run = cluster.begin(&["elsewhere", "-p", &format!("go={}", go.display())]);
    let task = format!("{run}/work");
    cluster.until_started(&task);
    // Its log is read while it runs, at any node; and it does not mind who leads.
    cluster.until("its log is read", || cluster.ask(&["logs", &task]).out.contains("began"));
    let leader = cluster.until_ready();
    cluster.nodes[leader].kill();
    cluster.until_ready();
    cluster.until_executor_named("outside", "ready");
    std::fs::write(&go, "").expect("the folder is there");
    cluster.until_state(&run, "success");
    let work = cluster.get(&task);
    assert_eq!(
        (attempt_states(&work), &work["attempts"][0]["executorName"]),
        (vec!["success"], &"outside".into())
    );
    let after = cluster.ask(&["logs", &format!("{run}/after")]).well();
    assert!(after.out.contains("100000"), "{after:?}");
    // Its log goes to the nodes in a pack, and is read there when it is gone.
    let log = cluster.folder.path().join("outside/executor/logs").join(format!("{}.log", fence_of(&work, 0)));
    cluster.until("its log is packed and deleted", || !log.exists());
    cluster.kill_executors();
    assert!(cluster.ask(&["logs", &task]).well().out.contains("ended"));
    cluster.ask(&["executor", "remove", "outside"]).well();
    cluster.until("it is forgotten", || {
        let executors = cluster.json(&["executor", "list"]);
        executors.as_array().is_some_and(|all| all.iter().all(|it| it["name"] != "outside"))
    });
}
