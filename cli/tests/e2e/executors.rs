//! Executors that belong to no node: they run what nodes cannot, whoever leads, and their logs are read as any others.

#![expect(clippy::float_cmp, reason = "these are counts, and exact")]

use std::net::TcpStream;

use crate::common::{Cluster, attempt_states, command_with_files, fence_of};
use crate::told::{Told, http};

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

#[test]
fn an_executor_without_a_node_tells_how_it_is() {
    let mut cluster = Cluster::start(1);
    let at = cluster.start_executor("outside");
    cluster.until("it is ready", || http(&at, "/readyz").0 == 200);
    let (status, line) = http(&at, "/readyz");
    assert!(status == 200 && line.starts_with("ready in session "), "{line}");
    assert_eq!(http(&at, "/livez"), (200, "alive\n".to_owned()));
    assert_eq!(http(&at, "/leaderz").0, 404, "it never leads");
    let log = std::fs::read_to_string(cluster.folder.path().join("outside.log")).expect("it logs");
    let first = log.lines().next().expect("it says what it starts with");
    for part in
        ["starting version=", " name=\"outside\"", &format!(" listen={at} "), " join=\"127", " slots="]
    {
        assert!(first.contains(part), "{part} is missing in {first}");
    }
    let told = Told::at(&at);
    assert_eq!(told.sum("matins_executor_session_open"), 1.0);
    assert_eq!(told.sum("matins_executor_slots_used"), 0.0);
    assert!(told.sum("matins_executor_slots") > 0.0 && told.sum("matins_disk_free_bytes") > 0.0);

    cluster.apply(ELSEWHERE);
    let go = cluster.folder.path().join("go");
    let run = cluster.begin(&["elsewhere", "-p", &format!("go={}", go.display())]);
    cluster.until_started(&format!("{run}/work"));
    let is = |name: &str, value: f64| Told::at(&at).sum(name) == value;
    cluster.until("it holds one", || is("matins_executor_slots_used", 1.0));
    cluster.until("it started one", || is("matins_executor_attempts_started_total", 1.0));
    // Without a leader it lives, and is not ready; its task goes on.
    cluster.nodes[0].kill();
    cluster.until("it sees that it is alone", || http(&at, "/readyz").0 == 503);
    assert_eq!(http(&at, "/livez").0, 200);
    assert_eq!(Told::at(&at).sum("matins_executor_session_open"), 0.0);
    cluster.nodes[0].up();
    cluster.until("it is ready again", || http(&at, "/readyz").0 == 200);
    assert!(Told::at(&at).sum("matins_executor_sessions_lost_total") >= 1.0);
    std::fs::write(&go, "").expect("the folder is there");
    cluster.until_state(&run, "success");
    let ended = Told::at(&at).sum_where("matins_executor_attempts_ended_total", ("outcome", "success"));
    assert_eq!(ended, Some(2.0));
    cluster.until("it holds nothing", || is("matins_executor_slots_used", 0.0));
    cluster.until("its logs are packed", || {
        is("matins_executor_logs_waiting", 0.0) && is("matins_executor_logs_waiting_seconds", 0.0)
    });
    // A node tells the same of the executor that belongs to it.
    assert_eq!(Told::at(&cluster.nodes[0].endpoint()).sum("matins_executor_attempts_started_total"), 0.0);
}

/// Whoever follows a log holds a stream open for as long as the task runs. That is no reason to stay.
#[test]
fn an_executor_whose_log_is_followed_ends_when_it_is_told_to() {
    let mut cluster = Cluster::start(1);
    cluster.start_executor("outside");
    cluster.until_executor_named("outside", "ready");
    cluster.apply(ELSEWHERE);
    let go = cluster.folder.path().join("never");
    let run = cluster.begin(&["elsewhere", "-p", &format!("go={}", go.display())]);
    let task = format!("{run}/work");
    cluster.until_started(&task);
    let seen = cluster.folder.path().join("followed");
    let mut following = cluster.ask_beside(&cluster.endpoints(), &["logs", "-f", &task], &seen);
    let heard = || std::fs::read_to_string(&seen).expect("it was made");
    cluster.until("it is followed", || heard().contains("began"));
    cluster.stop_executors();
    following.kill().expect("it was not waited for yet");
    following.wait().expect("it is our child");
}

/// Files are what a machine has least of: those of the tasks are not given to whoever connects.
#[test]
fn an_executor_runs_tasks_whoever_connects_to_it() {
    let mut cluster = Cluster::start(1);
    let at = cluster.start_executor_by(command_with_files(100, 400), "outside");
    cluster.until_executor_named("outside", "ready");
    let told = |name: &str, bound: &str| Told::at(&at).sum_where(name, ("bound", bound));
    // Half of the files that it may open when it has raised its limit, and a stream has two.
    assert_eq!(told("matins_bound_max", "connections"), Some(200.0));
    assert_eq!(told("matins_bound_max", "grpc_streams"), Some(50.0));
    assert_eq!(told("matins_turned_away_total", "connections"), Some(0.0));

    let connect = |_| TcpStream::connect(&at).expect("the kernel takes it");
    let held: Vec<TcpStream> = (0..500).map(connect).collect();
    cluster.apply(ELSEWHERE);
    let go = cluster.folder.path().join("go");
    std::fs::write(&go, "").expect("the folder is there");
    let run = cluster.begin(&["elsewhere", "-p", &format!("go={}", go.display())]);
    cluster.until_state(&run, "success");
    drop(held);
    cluster.until("there is room again", || http(&at, "/readyz").0 == 200);
    assert!(told("matins_turned_away_total", "connections") >= Some(300.0));
}
