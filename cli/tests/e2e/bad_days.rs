//! What a person does wrong, or a disk: a node that cannot work says why, leaves with a code, and harms nobody.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, thread};

use crate::common::{Cluster, Said, command};

/// Runs a node that is expected to leave by itself, with these flags over the cluster's first node's.
fn leaves(cluster: &Cluster, data_dir: &str, listen: &str, cluster_listen: &str) -> Said {
    let mut command = command();
    command.args([
        "server",
        "--tied",
        "--data-dir",
        data_dir,
        "--listen",
        listen,
        "--cluster-listen",
        cluster_listen,
    ]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary can be started");
    // Its standard input is how it is ended if it does not leave: it must fail the test then, not hang it.
    let held = child.stdin.take();
    let waiting = thread::spawn(move || child.wait_with_output().expect("it is our child"));
    cluster.until("the node has left", || waiting.is_finished());
    drop(held);
    Said::from(waiting.join().expect("it was only waited for"))
}

#[track_caller]
fn assert_says(said: &Said, words: &[&str]) {
    assert_ne!(said.code, Some(0), "{said:?}");
    for word in words {
        assert!(said.err.contains(word), "`{word}` is missing in {}", said.err);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::start(1);
    let (port, other) = (cluster.nodes[0].endpoint(), cluster.folder.path().join("other"));
    let said = leaves(&cluster, other.to_str().unwrap(), &port, "127.0.0.1:0");
    assert_says(&said, &["error: ", &port, "in use"]);
    assert!(!other.exists(), "a node that did not start left something behind");
}

#[test]
fn a_data_directory_has_one_node() {
    let cluster = Cluster::start(1);
    let folder = cluster.nodes[0].data_dir.to_str().unwrap().to_owned();
    let said = leaves(&cluster, &folder, "127.0.0.1:0", "127.0.0.1:0");
    assert_says(&said, &["error: ", &folder, "another"]);
    // The one that has it is well.
    cluster.apply("workflow: small\ntasks: { work: { run: 'true' } }\n");
    cluster.ask(&["start", "small", "--wait"]).well();
}

#[test]
fn a_copied_data_directory_makes_no_second_node_of_one_id() {
    let cluster = Cluster::start(1);
    let copy = cluster.folder.path().join("copy");
    let copied = Command::new("cp").arg("-a").arg(&cluster.nodes[0].data_dir).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let said = leaves(&cluster, copy.to_str().unwrap(), "127.0.0.1:0", "127.0.0.1:0");
    assert_says(&said, &["runs already", "a copy of its own"]);
    cluster.ask(&["cluster", "status"]).well();
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let cluster = Cluster::waiting(0);
    let file = cluster.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("data");
    let said = leaves(&cluster, below.to_str().unwrap(), "127.0.0.1:0", "127.0.0.1:0");
    assert_says(&said, &["error: ", "file/data"]);

    let folder = cluster.folder.path().join("read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    // The mode of a folder does not bind root; a disk that is mounted so does.
    let disk = if fs::write(folder.join("probe"), "").is_ok() { Disk::mount(&folder, "ro") } else { None };
    if disk.is_none() && fs::write(folder.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write everywhere, and may not mount");
        return;
    }
    let said = leaves(&cluster, folder.to_str().unwrap(), "127.0.0.1:0", "127.0.0.1:0");
    assert_says(&said, &["error: ", "read-only"]);
}

#[test]
fn a_node_of_one_cluster_is_not_added_to_another() {
    let (one, other) = (Cluster::start(1), Cluster::start(1));
    let address = format!("127.0.0.1:{}", other.nodes[0].cluster_port);
    let said = one.ask(&["cluster", "add", &address]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.err.contains("cluster"), "{said:?}");
    for cluster in [&one, &other] {
        assert_eq!(cluster.status(0).unwrap()["nodes"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn a_wiped_node_neither_votes_nor_founds_a_cluster() {
    let mut cluster = Cluster::start(3);
    let follower = (cluster.until_ready() + 1) % 3;
    cluster.nodes[follower].kill();
    fs::remove_dir_all(&cluster.nodes[follower].data_dir).unwrap();
    cluster.nodes[follower].up();
    cluster.until("it waits", || cluster.status(follower).is_some());
    assert_eq!(cluster.status(follower).unwrap()["clusterId"], serde_json::Value::Null);
    // The majority that is left goes on, and is one node from losing it.
    cluster.apply("workflow: small\ntasks: { work: { run: 'true' } }\n");
    let leader = cluster.until_ready();
    cluster.nodes[leader].kill();
    let last = (0..3).find(|at| *at != leader && *at != follower).unwrap();
    let said = cluster.ask_at(&cluster.nodes[last].endpoint(), &["start", "small"]);
    assert_eq!(said.code, Some(5), "a wiped node voted: {said:?}");
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let mut cluster = Cluster::waiting(1);
    cluster.nodes[0].kill();
    let folder = cluster.nodes[0].data_dir.clone();
    fs::create_dir_all(&folder).unwrap();
    let Some(_disk) = Disk::mount(&folder, &format!("size={}", Disk::BYTES)) else {
        eprintln!("skipped: this user may not mount");
        return;
    };
    cluster.nodes[0].up();
    cluster.until("it answers", || cluster.status(0).is_some());
    cluster.ask(&["cluster", "init"]).well();
    cluster.until_ready();
    cluster.apply("workflow: small\nparams: { text: { type: string, default: '' } }\ntasks: { work: { run: 'true' } }\n");
    let filler = folder.join("filler");
    let text = cluster.folder.path().join("text");
    fs::write(&text, "x".repeat(100_000)).unwrap();
    // Writes until the disk is full; what it got in does not matter.
    let _ = fs::write(&filler, vec![0; Disk::BYTES]);
    let param = format!("text=@{}", text.display());
    let mut acknowledged = Vec::new();
    let refused = loop {
        let said = cluster.ask(&["start", "small", "-p", &param]);
        if said.code != Some(0) {
            break said;
        }
        acknowledged.push(said.out.trim().to_owned());
        assert!(acknowledged.len() < 500, "the disk never filled");
    };
    assert!(matches!(refused.code, Some(4 | 5)), "{refused:?}");
    cluster.nodes[0].kill();
    let log = fs::read_to_string(cluster.nodes[0].log()).unwrap();
    assert!(log.contains("no room left on the disk"), "the log does not name the fault: {log}");
    fs::remove_file(&filler).unwrap();
    cluster.nodes[0].up();
    cluster.until_ready();
    for run in acknowledged {
        cluster.until_state(&run, "success");
    }
    cluster.ask(&["start", "small", "--wait"]).well();
    cluster.nodes[0].kill();
}

/// A small disk of its own at a folder, gone when dropped.
struct Disk(PathBuf);

impl Disk {
    const BYTES: usize = 48 << 20;

    fn mount(at: &Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).stderr(Stdio::null());
        let is_done = mount.status().is_ok_and(|status| status.success());
        is_done.then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a supervisor may still sit there, until the cluster is dropped.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
