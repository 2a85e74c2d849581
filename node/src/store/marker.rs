//! The data directory: whose it is, one process at a time, and whether it may be used at all (PROTOCOL 2.7, 6.8).
//!
//! The marker is a small JSON file, so that a person can read it; it is only ever replaced as a whole. Start reading
//! at [`DataDir::open`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use matins_core::id::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use super::files::{Files, Lock, Open};
use super::{StoreError, checked};

/// The newest format of the directory that this release knows.
const FORMAT: u32 = 1;
const MARKER: &str = "matins.json";
const LOCK: &str = "matins.lock";
const PROBE: &str = "matins.probe";
/// The field of the marker's file that has the checksum of the others.
const CHECKSUM: &str = "checksum";

/// What a data directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// The format of the directory.
    pub format: u32,
    /// The node it belongs to, drawn when it was made and never used again.
    pub node: NodeId,
    /// The cluster that node is in; none until it was made or the node was added.
    pub cluster: Option<ClusterId>,
    /// The feature level that the log has reached (PROTOCOL 6.9).
    pub level: u32,
    /// Why the node stopped for good (PROTOCOL 6.8); none while it may run.
    pub stopped: Option<String>,
}

/// What whoever opens a directory knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The node it must belong to; none if any will do.
    pub node: Option<NodeId>,
    /// The cluster it must belong to, if it belongs to one; none if any will do.
    pub cluster: Option<ClusterId>,
    /// The highest feature level that this release supports.
    pub level_max: u32,
}

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// Another process has it.
    #[error("data directory `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It cannot be written.
    #[error("data directory `{}` cannot be written", .path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// It belongs to another node.
    #[error("data directory `{}` belongs to {found}, not to {expected}", .path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Its node.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// It belongs to another cluster.
    #[error("data directory `{}` belongs to {found}, not to {expected}", .path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The one it should be.
        expected: ClusterId,
    },
    /// A newer release has written in it.
    #[error("data directory `{}` has {what} {found}, this release knows up to {known}", .path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// What is newer: `format` or `feature level`.
        what: &'static str,
        /// What it has.
        found: u32,
        /// What this release knows.
        known: u32,
    },
    /// The node has stopped for good.
    #[error("data directory `{}` is stopped for good: {reason}", .path.display())]
    Stopped {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It holds data, but no marker.
    #[error("directory `{}` is not empty and has no `{MARKER}`", .0.display())]
    NotOurs(PathBuf),
    /// The disk.
    #[error("cannot use data directory `{}`", .path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: StoreError,
    },
}

impl MarkerError {
    /// Says what to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse(_) => {
                "stop the other process, or give this one a directory of its own with --data-dir"
            }
            Self::ReadOnly { .. } => "make it writable for this user, or choose another with --data-dir",
            Self::OtherNode { .. } => "two disks may be swapped: give each node its own directory",
            Self::OtherCluster { .. } => {
                "give the right directory with --data-dir; to move the node here, begin with an empty one and \
                 `matins cluster add`"
            }
            Self::Newer { .. } => "start the release that wrote it, or a later one",
            Self::Stopped { .. } => {
                "replace the node: start one with an empty directory, `matins cluster add` it, and remove this one"
            }
            Self::NotOurs(_) => "choose an empty directory, or one that a node has made",
            Self::Store { source, .. } => source.hint(),
        }
    }
}

/// A data directory that this process holds.
pub struct DataDir {
    files: Arc<dyn Files>,
    root: PathBuf,
    marker: Mutex<Marker>,
    _lock: Box<dyn Lock>,
}

impl DataDir {
    /// Takes the directory for this process, and makes it if there is none or it is empty: `draw` then draws the
    /// node's id. Everything that speaks against using it is refused here, before anything else is opened.
    pub fn open(
        files: Arc<dyn Files>,
        root: &Path,
        expected: Expected,
        draw: impl FnOnce() -> NodeId,
    ) -> Result<Self, MarkerError> {
        let draw = || expected.node.unwrap_or_else(draw);
        let (marker, lock) = take(&*files, root, draw, None)?;
        check(root, &marker, &expected)?;
        Self::held(files, root, marker, lock)
    }

    /// Takes a directory in which an offline step was cut short: the one that marked it with `reason` goes on.
    pub fn open_again(
        files: Arc<dyn Files>,
        root: &Path,
        level_max: u32,
        reason: &str,
    ) -> Result<Self, MarkerError> {
        let failed = |source| MarkerError::Store { path: root.into(), source };
        let lock = take_lock(&*files, root)?;
        let path = root.join(MARKER);
        let bytes = checked::read_whole(&*files, &path).map_err(failed)?;
        let bytes = bytes.ok_or_else(|| MarkerError::NotOurs(root.into()))?;
        let marker = parse(&path, &bytes).map_err(failed)?;
        let stopped = marker.stopped.clone().filter(|stopped| stopped != reason);
        let expected = Expected { node: None, cluster: None, level_max };
        check(root, &Marker { stopped, ..marker.clone() }, &expected)?;
        Self::held(files, root, marker, lock)
    }

    /// Takes a directory for an offline step that fills it: an empty one, which it marks with `reason` from the first write on,
    /// or one in which the same step was cut short. Everything else is refused.
    pub fn fill(
        files: Arc<dyn Files>,
        root: &Path,
        reason: &str,
        draw: impl FnOnce() -> NodeId,
    ) -> Result<Self, MarkerError> {
        let (marker, lock) = take(&*files, root, draw, Some(reason))?;
        if marker.stopped.as_deref() != Some(reason) {
            return Err(MarkerError::NotOurs(root.into()));
        }
        Self::held(files, root, marker, lock)
    }

    fn held(
        files: Arc<dyn Files>,
        root: &Path,
        marker: Marker,
        lock: Box<dyn Lock>,
    ) -> Result<Self, MarkerError> {
        let failed = |source| MarkerError::Store { path: root.into(), source };
        let dir = Self { files, root: root.into(), marker: Mutex::new(marker), _lock: lock };
        dir.change(|_| {}).map_err(failed)?;
        Ok(dir)
    }

    /// The directory's path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it says of itself.
    pub fn marker(&self) -> Marker {
        self.lock().clone()
    }

    /// Notes the cluster, durably: the node was added to it, or has made it. Refused if it belongs to another.
    pub fn join(&self, cluster: ClusterId) -> Result<(), MarkerError> {
        match self.lock().cluster {
            Some(found) if found == cluster => return Ok(()),
            Some(found) => {
                return Err(MarkerError::OtherCluster { path: self.root.clone(), found, expected: cluster });
            }
            None => {}
        }
        let joined = self.change(|marker| marker.cluster = Some(cluster));
        joined.map_err(|source| MarkerError::Store { path: self.root.clone(), source })
    }

    /// Notes that the log has reached a feature level, durably, before anything of that level is written. Never
    /// lowers it.
    pub fn raise_level(&self, level: u32) -> Result<(), StoreError> {
        self.change(|marker| marker.level = marker.level.max(level))
    }

    /// Makes it a directory of a cluster that began anew, and lets its node run (PROTOCOL 6.10): the last step of that.
    pub fn found(&self, cluster: ClusterId, level: u32) -> Result<(), StoreError> {
        self.change(|marker| {
            (marker.cluster, marker.stopped) = (Some(cluster), None);
            marker.level = marker.level.max(level);
        })
    }

    /// Marks the directory with the reason why this node stopped for good (PROTOCOL 6.8): no open succeeds any more.
    pub fn stop(&self, reason: &str) -> Result<(), StoreError> {
        self.change(|marker| {
            // The first reason is the one that explains the rest.
            marker.stopped.get_or_insert_with(|| reason.to_owned());
        })
    }

    /// Changes the marker on disk, and in memory once that is durable.
    fn change(&self, change: impl FnOnce(&mut Marker)) -> Result<(), StoreError> {
        let mut held = self.lock();
        let mut marker = held.clone();
        change(&mut marker);
        checked::replace(&*self.files, &self.root.join(MARKER), &encode(&marker))?;
        *held = marker;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Marker> {
        self.marker.lock().expect("no holder panics")
    }
}

/// Locks the directory, made if there is none, and reads its marker. An empty one gets a marker of its own, with `draw`'s id and
/// stopped for the given reason.
fn take(
    files: &dyn Files,
    root: &Path,
    draw: impl FnOnce() -> NodeId,
    stopped: Option<&str>,
) -> Result<(Marker, Box<dyn Lock>), MarkerError> {
    let not_writable = |source| MarkerError::ReadOnly { path: root.into(), source };
    let failed = |source| MarkerError::Store { path: root.into(), source };
    files.create_dir(root).map_err(not_writable)?;
    let lock = take_lock(files, root)?;
    probe(files, root).map_err(not_writable)?;
    let path = root.join(MARKER);
    let marker = match checked::read_whole(files, &path).map_err(failed)? {
        Some(bytes) => {
            let marker = parse(&path, &bytes).map_err(failed)?;
            files.sync_dir(root).map_err(not_writable)?;
            marker
        }
        None if is_empty(files, root).map_err(failed)? => {
            let stopped = stopped.map(ToOwned::to_owned);
            Marker { format: FORMAT, node: draw(), cluster: None, level: 0, stopped }
        }
        None => return Err(MarkerError::NotOurs(root.into())),
    };
    Ok((marker, lock))
}

fn take_lock(files: &dyn Files, root: &Path) -> Result<Box<dyn Lock>, MarkerError> {
    files.lock(&root.join(LOCK)).map_err(|source| {
        let is_held = source.kind() == io::ErrorKind::WouldBlock;
        if is_held {
            MarkerError::InUse(root.into())
        } else {
            MarkerError::ReadOnly { path: root.into(), source }
        }
    })
}

/// What a directory says of itself, for who only looks at it. `None`: it has no marker.
pub fn look(files: &dyn Files, root: &Path) -> Result<Option<Marker>, StoreError> {
    let path = root.join(MARKER);
    checked::read_whole(files, &path)?.map(|bytes| parse(&path, &bytes)).transpose()
}

/// Whether a process holds this directory.
pub fn is_held(files: &dyn Files, root: &Path) -> bool {
    files.lock(&root.join(LOCK)).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Tries to write: a mount may be read-only though the mode bits say otherwise.
fn probe(files: &dyn Files, root: &Path) -> io::Result<()> {
    let path = root.join(PROBE);
    files.open(&path, Open::Truncated)?;
    files.remove(&path)
}

/// Whether there is nothing but what a first start that was cut short may have left.
fn is_empty(files: &dyn Files, root: &Path) -> Result<bool, StoreError> {
    let names = files.list(root).map_err(StoreError::io("list", root))?;
    Ok(names.iter().all(|name| is_of_a_first_start(name)))
}

/// Whether a first start that was cut short may have left it.
pub fn is_of_a_first_start(name: &str) -> bool {
    name == LOCK || name == PROBE || name == "matins.tmp"
}

/// The marker as text, and a checksum of its fields: one digit that the disk changed would make this another node.
fn encode(marker: &Marker) -> Vec<u8> {
    let mut value = serde_json::to_value(marker).expect("plain fields always encode");
    value[CHECKSUM] = checksum(&value).into();
    let mut bytes = serde_json::to_vec_pretty(&value).expect("plain fields always encode");
    bytes.push(b'\n');
    bytes
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Marker, StoreError> {
    // The format first: a newer one may have fields that this release does not know.
    let mut value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| StoreError::corrupt(path, 0, error.to_string()))?;
    let found = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.into(), found, known: FORMAT });
    }
    // One without a checksum was changed by a person, who takes that line out.
    let noted = value.as_object_mut().and_then(|fields| fields.remove(CHECKSUM));
    if noted.is_some_and(|noted| noted != checksum(&value)) {
        return Err(StoreError::corrupt(path, 0, "its checksum does not match"));
    }
    serde_json::from_value(value).map_err(|error| StoreError::corrupt(path, 0, error.to_string()))
}

/// Of the fields, whatever the space between them.
fn checksum(fields: &serde_json::Value) -> String {
    format!("{:08x}", crc32fast::hash(fields.to_string().as_bytes()))
}

fn check(root: &Path, marker: &Marker, expected: &Expected) -> Result<(), MarkerError> {
    let path = root.to_path_buf();
    if let Some(reason) = marker.stopped.clone() {
        return Err(MarkerError::Stopped { path, reason });
    }
    if let Some(expected) = expected.node.filter(|node| *node != marker.node) {
        return Err(MarkerError::OtherNode { path, found: marker.node, expected });
    }
    if let (Some(found), Some(expected)) = (marker.cluster, expected.cluster)
        && found != expected
    {
        return Err(MarkerError::OtherCluster { path, found, expected });
    }
    if marker.level > expected.level_max {
        let (found, known) = (marker.level, expected.level_max);
        return Err(MarkerError::Newer { path, what: "feature level", found, known });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::files::{Disk, MemoryDisk};
    use super::*;

    const ANY: Expected = Expected { node: None, cluster: None, level_max: 1 };

    fn open(disk: &MemoryDisk, expected: Expected) -> Result<DataDir, MarkerError> {
        DataDir::open(Arc::new(disk.clone()), Path::new("/data"), expected, || NodeId(7))
    }

    #[test]
    fn rule_2_7_a_foreign_or_swapped_or_newer_disk_is_refused() {
        let disk = MemoryDisk::new();
        let dir = open(&disk, ANY).unwrap();
        assert_eq!(dir.marker().node, NodeId(7));
        dir.join(ClusterId(5)).unwrap();
        dir.raise_level(1).unwrap();
        assert!(matches!(dir.join(ClusterId(6)), Err(MarkerError::OtherCluster { .. })));
        assert!(matches!(open(&disk, ANY), Err(MarkerError::InUse(_))));
        drop(dir);
        let told = |expected| open(&disk, expected).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            told(Expected { node: Some(NodeId(8)), ..ANY }),
            "data directory `/data` belongs to node-7, not to node-8"
        );
        assert_eq!(
            told(Expected { cluster: Some(ClusterId(6)), ..ANY }),
            "data directory `/data` belongs to cluster-5, not to cluster-6"
        );
        assert_eq!(
            told(Expected { level_max: 0, ..ANY }),
            "data directory `/data` has feature level 1, this release knows up to 0"
        );
        open(&disk, Expected { node: Some(NodeId(7)), cluster: Some(ClusterId(5)), level_max: 1 }).unwrap();
    }

    /// STYLE 40: what lies on disk is fixed.
    #[test]
    fn the_file_of_a_marker_is_fixed() {
        let marker =
            Marker { format: FORMAT, node: NodeId(7), cluster: Some(ClusterId(5)), level: 1, stopped: None };
        let text = String::from_utf8(encode(&marker)).unwrap();
        assert_eq!(text, include_str!("marker.golden.json"));
        assert_eq!(parse(Path::new(MARKER), text.as_bytes()).unwrap(), marker);
    }

    #[test]
    fn no_damaged_bit_makes_it_another_nodes_directory() {
        let marker =
            Marker { format: FORMAT, node: NodeId(7), cluster: Some(ClusterId(5)), level: 1, stopped: None };
        let bytes = encode(&marker);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(Path::new(MARKER), &damaged);
            assert!(
                parsed.is_err() || parsed.as_ref().is_ok_and(|parsed| *parsed == marker),
                "bit {bit}: {parsed:?}"
            );
        }
    }

    #[test]
    fn rule_6_8_a_directory_that_was_stopped_stays_stopped_through_a_crash() {
        for seed in 0..8 {
            let disk = MemoryDisk::new();
            let dir = open(&disk, ANY).unwrap();
            dir.stop("state hash differs at index 9").unwrap();
            disk.crash(seed);
            let error = open(&disk, ANY).err().expect("it is stopped").to_string();
            assert_eq!(error, "data directory `/data` is stopped for good: state hash differs at index 9");
        }
    }

    #[test]
    fn the_id_of_a_node_is_drawn_once_whatever_crashes() {
        for stop_at in 0..8 {
            for seed in 0..8 {
                let disk = MemoryDisk::new();
                disk.fail_after(stop_at);
                let was_open = open(&disk, ANY).is_ok();
                disk.crash(seed);
                let again =
                    DataDir::open(Arc::new(disk.clone()), Path::new("/data"), ANY, || NodeId(9)).unwrap();
                assert!(!was_open || again.marker().node == NodeId(7), "stop {stop_at} seed {seed}");
            }
        }
    }

    #[test]
    fn a_real_directory_is_locked_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let open = |root: &Path| DataDir::open(Arc::new(Disk), root, ANY, || NodeId(7));
        let held = open(&dir.path().join("a/b")).unwrap();
        assert!(matches!(open(&dir.path().join("a/b")), Err(MarkerError::InUse(_))));
        drop(held);
        open(&dir.path().join("a/b")).unwrap();

        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(matches!(open(dir.path()), Err(MarkerError::NotOurs(_))));
        assert!(matches!(open(&dir.path().join("file")), Err(MarkerError::ReadOnly { .. })));
        let path = dir.path().join("a/b").join(MARKER);
        std::fs::write(&path, r#"{"format":2,"colour":"blue"}"#).unwrap();
        let error = open(&dir.path().join("a/b")).err().expect("it is newer");
        assert!(matches!(error, MarkerError::Store { source: StoreError::Newer { found: 2, .. }, .. }));
    }

    proptest! {
        #[test]
        fn a_marker_of_any_text_is_refused_without_a_panic(text in "[{}\\[\\]\":,a-z0-9 ]{0,60}", bytes: Vec<u8>) {
            prop_assert!(parse(Path::new(MARKER), text.as_bytes()).is_err());
            prop_assert!(parse(Path::new(MARKER), &bytes).is_err());
        }
    }
}
