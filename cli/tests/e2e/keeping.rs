//! What is kept, and that what is damaged is told: directories are checked, and history, logs and blobs have their time
//! (PROTOCOL 6.4, 6.8, 6.11 to 6.13).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::common::load::{Deaths, Load};
use crate::common::{Cluster, Node, Said, command};

const WORK: &str = r#"
workflow: quick
tasks:
  work: { run: "echo hello" }
"#;

/// Blocks, checkpoints and purges come within seconds.
fn shrunk(node: &mut Node) {
    node.environment.push(("MATINS_TEST_SHRINK", "5000".into()));
}

fn check(dir: &Path) -> Said {
    let output =
        command().args(["cluster", "check", dir.to_str().expect("the path is plain"), "-o", "json"]).output();
    Said::from(output.expect("the binary can be started"))
}

fn files_in(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("it is there").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_file() && path.to_string_lossy().ends_with(ending)).collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("there is room");
    for entry in fs::read_dir(from).expect("it is there").flatten() {
        let there = to.join(entry.file_name());
        match entry.file_type().expect("it is there") {
            kind if kind.is_dir() => copy_all(&entry.path(), &there),
            kind if kind.is_file() => drop(fs::copy(entry.path(), there).expect("there is room")),
            _ => {}
        }
    }
}

/// Every file below a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("it is there").flatten() {
        match entry.file_type().expect("it is there") {
            kind if kind.is_dir() => all.append(&mut contents(&entry.path())),
            kind if kind.is_file() => {
                drop(all.insert(entry.path(), fs::read(entry.path()).expect("it can be read")));
            }
            _ => {}
        }
    }
    all
}

/// Flips one bit in the middle of a file.
fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).expect("it is there");
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("it can be written");
}

/// What is bad, by part.
fn bad(said: &Said) -> Vec<String> {
    let lines: serde_json::Value = serde_json::from_str(&said.out).expect("-o json prints JSON");
    let lines = lines.as_array().expect("a list").iter();
    let lines = lines.filter(|line| line["state"] == "bad");
    lines.map(|line| line["part"].as_str().expect("a name").to_owned()).collect()
}

/// Which byte is damaged, of a file so long.
type At<'a> = &'a dyn Fn(usize) -> usize;

#[test]
fn each_kind_of_damage_is_told() {
    let mut cluster = Cluster::start_with(1, shrunk);
    cluster.apply(WORK);
    let dir = cluster.nodes[0].data_dir.clone();
    for _ in 0..30 {
        cluster.ask(&["start", "quick", "--wait"]).well();
    }
    cluster.until("there are snapshots and blocks", || {
        !files_in(&dir.join("snapshots"), ".snapshot").is_empty()
            && cluster.status(0).is_some_and(|it| it["retiredRuns"].as_str().is_some_and(|runs| runs != "0"))
    });
    let said = check(&dir);
    assert_eq!(said.code, Some(4), "a node runs in it: {said:?}");
    assert!(said.err.contains("in use by another process"), "{said:?}");
    cluster.nodes[0].kill();
    let before = contents(&dir);
    let said = check(&dir).well();
    assert_eq!(bad(&said), Vec::<String>::new());
    assert!(contents(&dir) == before, "nothing is changed");

    let middle = |len: usize| len / 2;
    let first = |len: usize| 60.min(len - 1);
    let newest =
        |folder: &str, ending: &str| files_in(&dir.join(folder), ending).into_iter().max().expect("one");
    let blob = files_in(&dir.join("blobs"), "").into_iter().next().expect("there is one");
    let damages: [(&str, PathBuf, At); 5] = [
        ("marker", dir.join("matins.json"), &middle),
        ("vote", dir.join("vote"), &|len| len - 1),
        ("log", files_in(&dir.join("log"), ".log").into_iter().min().expect("one"), &first),
        ("snapshots", newest("snapshots", ".snapshot"), &middle),
        ("blobs", blob, &middle),
    ];
    for (part, path, at) in damages {
        let copy = cluster.folder.path().join(format!("damaged-{part}"));
        copy_all(&dir, &copy);
        flip(&copy.join(path.strip_prefix(&dir).expect("it lies below")), at);
        let said = check(&copy);
        assert_eq!(said.code, Some(1), "{part}: {said:?}");
        assert!(bad(&said).iter().any(|bad| bad == part), "{part}: {said:?}");
    }

    // What the node mends by itself is told, and is not bad.
    let copy = cluster.folder.path().join("without-a-blob");
    copy_all(&dir, &copy);
    let blobs = files_in(&copy.join("blobs"), "");
    for blob in &blobs {
        fs::remove_file(blob).expect("it was there");
    }
    let said = check(&copy).well();
    assert!(said.out.contains("named and missing"), "{said:?}");
    let copy = cluster.folder.path().join("without-an-index");
    copy_all(&dir, &copy);
    let index = files_in(&copy.join("history/index"), "db");
    for file in &index {
        fs::write(file, b"rubbish").expect("it can be written");
    }
    let said = check(&copy).well();
    assert!(said.out.contains("index"), "{said:?}");
    // What is no data directory at all is not told to be a damaged one.
    for strange in [cluster.folder.path().join("nowhere"), cluster.folder.path().to_owned()] {
        let said = check(&strange);
        assert!(said.code == Some(3) && said.err.contains("is not the data directory of a node"), "{said:?}");
    }
}

/// One run after the other, so that leaders make checkpoints, blocks and purges.
fn load(cluster: &Cluster, runs: usize) {
    for _ in 0..runs {
        cluster.ask(&["start", "quick", "--wait"]).well();
    }
}

#[test]
fn a_node_whose_state_differs_stops_for_good_and_is_replaced() {
    let mut cluster = Cluster::start_with(3, shrunk);
    cluster.apply(WORK);
    let beside = Load::begin(&cluster);
    beside.go_on_for(&cluster, 2);
    load(&cluster, 10);
    let leader = cluster.until_ready();
    let odd = (leader + 1) % 3;
    let dir = cluster.nodes[odd].data_dir.clone();
    cluster.until("it has a snapshot", || !files_in(&dir.join("snapshots"), ".snapshot").is_empty());
    cluster.until("they agree", || {
        let status = cluster.status(leader).expect("it answers");
        status["checkpoint"]["nodes"].as_array().is_some_and(|nodes| nodes.len() >= 2)
    });
    // A bit of its memory that nobody noticed when it flipped: another state, with a checksum that holds.
    cluster.nodes[odd].kill();
    matins_node::offline::corrupt_for_a_test(&dir).expect("it has a snapshot");
    cluster.nodes[odd].up();
    for _ in 0..600 {
        load(&cluster, 1);
        if cluster.nodes[odd].has_left() {
            break;
        }
    }
    assert!(!cluster.nodes[odd].is_up(), "it goes on although its state differs");
    let marker = fs::read_to_string(dir.join("matins.json")).expect("it is there");
    assert!(marker.contains("its state differs from the majority's at index"), "{marker}");
    assert!(bad(&check(&dir)).contains(&"marker".to_owned()));
    // It stays down.
    cluster.nodes[odd].up();
    cluster.until_left(odd);
    load(&cluster, 3);

    // An empty node takes its place by one command, and comes to the same state as the others.
    let lost = cluster.nodes[odd].name.clone();
    let new = cluster.start_empty_with(shrunk);
    let address = cluster.nodes[new].cluster_address();
    cluster.ask(&["cluster", "replace", &lost, &address]).well();
    cluster.nodes.swap_remove(odd);
    let status = cluster.json(&["cluster", "status"]);
    let joined = cluster.status(odd).expect("it answers")["node"].clone();
    let nodes = status["nodes"].as_array().expect("it names the nodes");
    assert_eq!(nodes.len(), 3, "{status}");
    let voters = nodes.iter().filter(|node| node["role"] == "voter");
    assert!(voters.clone().count() == 3 && voters.clone().any(|node| node["id"] == joined), "{status}");
    agrees_at_a_later_checkpoint(&cluster, &joined);
    beside.go_on_for(&cluster, 5);
    beside.end(&cluster, Deaths::Some).well();
}

/// Waits, under load, until the states were compared anew, and the node found what all others found.
fn agrees_at_a_later_checkpoint(cluster: &Cluster, node: &serde_json::Value) {
    let compared = || cluster.json(&["cluster", "status"])["checkpoint"].clone();
    let index = |checkpoint: &serde_json::Value| -> u64 {
        let text = checkpoint["index"].as_str().expect("there was one");
        text.parse().expect("it is a number")
    };
    let has = |checkpoint: &serde_json::Value, list: &str| {
        checkpoint[list].as_array().is_some_and(|nodes| nodes.contains(node))
    };
    let before = index(&compared());
    let mut last = compared();
    for _ in 0..600 {
        if index(&last) > before && has(&last, "nodes") {
            break;
        }
        load(cluster, 1);
        last = compared();
    }
    assert!(
        index(&last) > before && has(&last, "nodes"),
        "{node} agrees at no checkpoint after {before}: {last}"
    );
    assert!(last["differing"].as_array().is_none_or(Vec::is_empty), "{last}");
}

#[test]
fn a_new_node_has_the_blobs_that_only_history_names() {
    let mut cluster = Cluster::start_with(1, shrunk);
    cluster.apply(WORK);
    load(&cluster, 6);
    cluster
        .until("all are in history", || cluster.status(0).is_some_and(|status| status["retiredRuns"] == "6"));
    // A list says that it is incomplete until the index over history has caught up.
    let listed = || cluster.json(&["run", "list", "quick"]);
    cluster.until("history is indexed", || listed().as_array().is_some_and(|runs| runs.len() == 6));
    let runs = listed();
    let runs = runs.as_array().expect("a list").iter().map(|run| run["id"].as_str().expect("an id"));
    let runs: Vec<&str> = runs.collect();
    let new = cluster.start_empty_with(shrunk);
    cluster.ask(&["cluster", "add", &cluster.nodes[new].cluster_address()]).well();
    // What only the first one has goes with it.
    cluster.ask(&["cluster", "remove", &cluster.nodes[0].name]).well();
    cluster.until_left(0);
    cluster.nodes.remove(0);
    cluster.until_ready();
    for run in runs {
        let said = cluster.ask(&["logs", run]).well();
        assert!(said.out.contains("hello"), "{run}: {said:?}");
    }
}

#[test]
fn history_logs_and_blobs_have_their_time() {
    let cluster = Cluster::start_with(1, shrunk);
    cluster.apply(WORK);
    load(&cluster, 12);
    let run = cluster.json(&["run", "list", "quick"])[0]["id"].as_str().expect("an id").to_owned();
    let retired = || cluster.status(0).map(|it| it["retiredRuns"].as_str().unwrap_or("0").to_owned());
    cluster.until("all are in history", || retired().as_deref() == Some("12"));
    let blobs = || files_in(&cluster.nodes[0].data_dir.join("blobs"), "");
    let before = blobs();
    assert_eq!(cluster.ask(&["cluster", "settings", "set", "retention.runs=1m"]).code, Some(2));
    assert_eq!(cluster.ask(&["cluster", "settings", "set", "nonsense=1"]).code, Some(2));

    // More than two days go by: logs have had their time, then runs, and no hold of a blob is left.
    cluster.nodes[0].set_clock(Duration::from_secs(50 * 3600));
    let limit = Duration::from_secs(150);
    cluster.until_within(limit, "the cluster believes it", || leader_time_is_ahead_by(&cluster, 49));
    let beside = Load::begin(&cluster);
    beside.go_on_for(&cluster, 2);
    cluster.ask(&["cluster", "settings", "set", "retention.logs=1d"]).well();
    let settings = cluster.json(&["cluster", "settings"]).to_string();
    assert!(settings.contains(r#""value":"1d""#), "{settings}");
    let said = || cluster.ask(&["logs", &run]);
    cluster.until_within(limit, "logs are gone", || said().err.contains("retention took it"));
    assert_eq!(cluster.get(&run)["state"], "success", "the run stays");
    cluster.ask(&["cluster", "settings", "set", "retention.runs=1d"]).well();
    let said = || cluster.ask(&["run", "get", &run]);
    cluster.until_within(limit, "runs are gone", || said().code == Some(3));
    assert!(said().err.contains("matins cluster settings"), "it says why: {:?}", said());
    beside.go_on_for(&cluster, 4);
    beside.end(&cluster, Deaths::None).well();
    // What was read is held for a day: the block and the pack of logs, at least.
    cluster.nodes[0].set_clock(Duration::from_secs(100 * 3600));
    let freed = || before.iter().filter(|blob| !blob.exists()).count();
    cluster.until_within(limit, "the disk is freed", || freed() >= 2);
}

fn leader_time_is_ahead_by(cluster: &Cluster, hours: i64) -> bool {
    let time = cluster.status(0).and_then(|it| it["leaderTime"].as_str()?.parse::<jiff::Timestamp>().ok());
    time.is_some_and(|time| time.as_second() - jiff::Timestamp::now().as_second() > hours * 3600)
}

/// The index of history is believed after a reboot if it was closed before, and built again if it was not.
#[test]
fn a_node_that_stops_in_order_keeps_its_index_of_history_over_a_reboot() {
    let in_boot = |node: &mut Node, boot: &str| node.environment.push(("MATINS_TEST_BOOT", boot.into()));
    let mut cluster = Cluster::start_with(1, |node| {
        shrunk(node);
        in_boot(node, "first");
    });
    cluster.apply(WORK);
    load(&cluster, 6);
    cluster
        .until("all are in history", || cluster.status(0).is_some_and(|status| status["retiredRuns"] == "6"));
    let until_listed = |cluster: &Cluster| {
        let listed = || cluster.json(&["run", "list", "quick"]).as_array().map(Vec::len);
        cluster.until("history is indexed", || listed() == Some(6));
    };
    until_listed(&cluster);
    let built_again = |cluster: &Cluster| {
        let log = fs::read_to_string(cluster.nodes[0].log()).expect("it has a log");
        log.matches("the index of history is built again").count()
    };

    cluster.nodes[0].stop();
    in_boot(&mut cluster.nodes[0], "second");
    cluster.nodes[0].up();
    cluster.until_ready();
    until_listed(&cluster);
    assert_eq!(built_again(&cluster), 0, "it was closed");

    cluster.nodes[0].kill();
    cluster.nodes[0].up();
    cluster.until_ready();
    until_listed(&cluster);
    assert_eq!(built_again(&cluster), 0, "the machine was not restarted");

    cluster.nodes[0].kill();
    in_boot(&mut cluster.nodes[0], "third");
    cluster.nodes[0].up();
    cluster.until_ready();
    until_listed(&cluster);
    assert_eq!(built_again(&cluster), 1, "it was open when the machine went down");
}

#[test]
fn a_full_disk_takes_no_new_runs_and_every_report() {
    let mut cluster = Cluster::start(1);
    cluster.apply("workflow: slow\ntasks:\n  work: { run: \"sleep 8\" }\n");
    let beside = Load::begin(&cluster);
    beside.go_on_for(&cluster, 3);
    let run = cluster.begin(&["slow"]);
    cluster.until_started(&format!("{run}/work"));
    cluster.nodes[0].kill();
    // Any disk is fuller than that.
    cluster.nodes[0].flags = ["--disk-full", "1"].map(str::to_owned).to_vec();
    cluster.nodes[0].up();
    cluster.until_ready();
    cluster.until("it is noticed", || {
        cluster.status(0).is_some_and(|status| status["alarms"].to_string().contains("disk_full"))
    });
    let said = cluster.ask(&["start", "slow"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    let path = cluster.nodes[0].data_dir.display().to_string();
    for part in ["node-", path.as_str(), "% full", "1.0 %", "cluster settings"] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    let alive = || cluster.json(&["run", "list", "--filter", "state=running or state=queued"]);
    cluster.until("what runs is over", || alive().as_array().is_some_and(Vec::is_empty));
    assert_eq!(cluster.get(&run)["state"], "success");
    let beats = beside.beats();
    sleep(Duration::from_secs(2));
    assert_eq!(beside.beats(), beats, "ticks wait");
    cluster.nodes[0].kill();
    cluster.nodes[0].flags = ["--disk-full", "100", "--disk-warn", "99"].map(str::to_owned).to_vec();
    cluster.nodes[0].up();
    cluster.until("there is room again", || cluster.ask(&["start", "slow"]).code == Some(0));
    // Those that waited are made up for, each once.
    beside.go_on_for(&cluster, 10);
    beside.end(&cluster, Deaths::Some).well();
}
