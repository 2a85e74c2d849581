//! What is kept, and that what is damaged is told: directories are checked, and history, logs and blobs have their time
//! (PROTOCOL 6.4, 6.8, 6.11 to 6.13).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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
                drop(all.insert(entry.path(), fs::read(entry.path()).expect("it can be read")))
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
    let damages: [(&str, PathBuf, &dyn Fn(usize) -> usize); 5] = [
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
    blobs.iter().for_each(|blob| fs::remove_file(blob).expect("it was there"));
    let said = check(&copy).well();
    assert!(said.out.contains("named and missing"), "{said:?}");
    let copy = cluster.folder.path().join("without-an-index");
    copy_all(&dir, &copy);
    let index = files_in(&copy.join("history/index"), "db");
    index.iter().for_each(|file| fs::write(file, b"rubbish").expect("it can be written"));
    let said = check(&copy).well();
    assert!(said.out.contains("index"), "{said:?}");
}
