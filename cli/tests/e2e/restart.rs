//! All nodes are restarted or drained one after the other under load: no run fails, no tick is late.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::load::{Deaths, Load};
use crate::common::{Cluster, DEADLINE};

/// No tick is decided later than this.
const LATE_MAX: Duration = Duration::from_secs(2);

/// The script asks for a restart by making a file; the test, whose children the nodes are, restarts the node and takes it away.
fn script(cluster: &Cluster, more: &[&str]) -> (Child, Vec<PathBuf>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rolling-restart");
    let asked: Vec<PathBuf> = cluster
        .nodes
        .iter()
        .map(|node| cluster.folder.path().join(format!("restart-{}", node.name)))
        .collect();
    let mut command = Command::new(script);
    command.args(more);
    for (node, file) in cluster.nodes.iter().zip(&asked) {
        let file = file.display();
        command.arg(format!("{}=touch {file}; while [ -e {file} ]; do sleep 0.05; done", node.name));
    }
    command.env("MATINS", env!("CARGO_BIN_EXE_matins")).env("MATINS_ENDPOINT", cluster.endpoints());
    let log = fs::File::create(cluster.folder.path().join("script.log")).expect("the folder is there");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    (command.spawn().expect("the script can be started"), asked)
}

/// Restarts each node that the script asks for, until the script is done. Gives how often.
fn serve(cluster: &mut Cluster, (mut script, asked): (Child, Vec<PathBuf>)) -> usize {
    let deadline = Instant::now() + 3 * DEADLINE;
    let mut restarts = 0;
    loop {
        if let Some(status) = script.try_wait().expect("it is our child") {
            let log = fs::read_to_string(cluster.folder.path().join("script.log")).unwrap_or_default();
            assert!(status.success(), "{log}");
            return restarts;
        }
        if let Some(at) = asked.iter().position(|file| file.exists()) {
            cluster.nodes[at].stop();
            cluster.nodes[at].up();
            restarts += 1;
            fs::remove_file(&asked[at]).expect("it was there a moment ago");
        }
        assert!(Instant::now() < deadline, "the script does not end");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_rolling_restart_under_load_is_noticed_by_no_run() {
    let mut cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 3);
    let script = script(&cluster, &[]);
    assert_eq!(serve(&mut cluster, script), 3);
    load.go_on_for(&cluster, 3);
    let checked = load.end(&cluster, Deaths::None).well();
    assert!(checked.late_max <= LATE_MAX, "{checked:?}");
}

#[test]
fn a_rolling_restart_that_drains_waits_for_what_runs() {
    let mut cluster = Cluster::start(3);
    cluster.apply("workflow: slow\ntasks:\n  work: { run: 'sleep 3' }\n");
    let leader = cluster.until_ready();
    let run = cluster.begin_on(leader, &["slow"]);
    let script = script(&cluster, &["--drain"]);
    assert_eq!(serve(&mut cluster, script), 3);
    cluster.until_state(&run, "success");
    for at in 0..3 {
        cluster.until_executor(at, "ready");
    }
}

#[test]
fn an_executor_that_is_drained_under_load_ends_what_it_has_and_takes_nothing_new() {
    let cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 2);
    for at in 0..3 {
        let name = cluster.nodes[at].name.as_str();
        cluster.ask(&["executor", "drain", name]).well();
        cluster.until("it has ended what it had", || executor(&cluster, name)["used"] == 0);
        load.go_on_for(&cluster, 2);
        let drained = executor(&cluster, name);
        assert!(drained["state"] == "draining" && drained["used"] == 0, "{drained}");
        cluster.ask(&["executor", "undrain", name]).well();
        cluster.until_executor(at, "ready");
    }
    load.end(&cluster, Deaths::None).well();
}

/// What the cluster says of an executor.
fn executor(cluster: &Cluster, name: &str) -> Value {
    let list = cluster.json(&["executor", "list"]);
    list.as_array().and_then(|all| all.iter().find(|it| it["name"] == *name)).cloned().unwrap_or_default()
}

/// A leader that is told to stop hands its lead over: nobody waits for an election.
#[test]
fn a_leader_that_is_told_to_stop_hands_its_lead_over() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.until_ready();
    cluster.nodes[leader].stop();
    let log = fs::read_to_string(cluster.nodes[leader].log()).expect("it has a log");
    assert!(log.contains("handed the lead over before stopping"), "{log}");
    let stopped = Instant::now();
    cluster.until_ready();
    assert!(stopped.elapsed() < Duration::from_secs(2), "there was a leader after {:?}", stopped.elapsed());
}
