//! Nodes that are scripts, and how their ends are judged.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::cluster::clean::Folder;

impl Nodes {
    /// So many nodes whose program is this script. They are not started yet, and lie in a folder of their own.
    pub(in crate::cluster) fn scripted(number: u32, count: usize, script: &str) -> (Folder, Self) {
        let folder = Folder::make(number).unwrap();
        let binary = folder.path().join("node");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let plan = Plan {
            binary,
            folder: folder.path().into(),
            nodes: count,
            spares: 0,
            number,
            shrink: 1,
            with_disks: false,
        };
        let nodes = Self::prepare(&plan, &mut Vec::new()).unwrap();
        (folder, nodes)
    }
}

/// What is noted of nodes whose program is this script.
fn left_by(number: u32, script: &str, health: DiskHealth) -> (Why, Vec<String>) {
    let (_folder, nodes) = Nodes::scripted(number, 1, script);
    nodes.all[0].blame_disk(health);
    nodes.start().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while nodes.left().is_empty() {
        assert!(Instant::now() < deadline);
        nodes.keep().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    (nodes.left()[0].why.clone(), nodes.panics())
}

#[test]
fn a_node_that_panics_is_found() {
    let (why, panics) =
        left_by(71, "echo \"thread 'main' panicked at a.rs:1:2\" >&2; kill -ABRT $$", DiskHealth::Good);
    assert!(matches!(why, Why::Unknown(why) if why.contains("signal: 6")));
    assert_eq!(panics, ["n1: thread 'main' panicked at a.rs:1:2"]);
}

#[test]
fn only_a_bad_disk_excuses_a_stop_for_the_disk() {
    assert!(matches!(left_by(72, "exit 74", DiskHealth::Good).0, Why::Unknown(_)));
    assert_eq!(left_by(73, "exit 74", DiskHealth::Bad).0, Why::BadDisk);
    let full = "echo 'because: no room left on the disk to write x' >&2; exit 2";
    assert_eq!(left_by(74, full, DiskHealth::Bad).0, Why::BadDisk);
    assert!(matches!(left_by(75, full, DiskHealth::Good).0, Why::Unknown(_)));
    assert!(matches!(left_by(76, "exit 0", DiskHealth::Bad).0, Why::Unknown(_)));
}

#[test]
fn a_leader_may_give_up_its_lead() {
    assert_eq!(left_by(78, "exit 75", DiskHealth::Good).0, Why::GaveUpLead);
}
