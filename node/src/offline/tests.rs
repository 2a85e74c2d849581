//! Offline steps that are cut short at each of their writes, by the power or by a kill, and given again.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use matins_core::State;
use matins_core::command::{After, Command, Entry, Proposal};
use matins_core::id::{ClusterId, Digest, NodeId};
use matins_core::time::Timestamp;

use super::look::opened;
use super::{OfflineError, recover, restore};
use crate::raft::replay::{Replayed, replay};
use crate::raft::snapshot;
use crate::store::Position;
use crate::store::backup::{Head, Part, Writer};
use crate::store::blobs::Blobs;
use crate::store::files::{Files, MemoryDisk};
use crate::store::log::{Kind, Log, LogConfig, Record};
use crate::store::marker::{DataDir, Expected, MarkerError};
use crate::store::snapshot::Snapshots;
use crate::store::vote::{VoteFile, VoteRecord};

const ROOT: &str = "/data";
const ANY: Expected = Expected { node: None, cluster: None, level_max: matins_core::LEVEL as u32 };
/// The cluster that lost its majority.
const LOST: u64 = 5;
/// The last entry that it has.
const LAST: u64 = 12;
/// What a blob of the backup holds.
const BLOB: &[u8] = b"what a task gave back";

/// How a process ends in the middle.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The power goes: of what was not synced only some is there.
    Power(u64),
    /// It is killed: all that it wrote is there.
    Kill,
}

const ENDS: [End; 5] = [End::Kill, End::Power(1), End::Power(2), End::Power(3), End::Power(4)];

impl End {
    fn come(self, disk: &MemoryDisk) {
        match self {
            Self::Power(seed) => disk.crash(seed),
            Self::Kill => disk.kill(),
        }
    }
}

fn files(disk: &MemoryDisk) -> Arc<dyn Files> {
    Arc::new(disk.clone())
}

fn root() -> &'static Path {
    Path::new(ROOT)
}

/// A record that sets the pool `a` to so many slots.
fn set_pool(index: u64, slots: u32) -> Record {
    let pool = "a".parse().unwrap();
    let command = Command::SetPool { pool, slots, description: String::new() };
    let proposal = Proposal { request: None, leadership: None, command };
    let at = Timestamp::from_millis(1_000 * index as i64);
    let body = Bytes::from(Entry { level: 0, at, proposals: vec![proposal] }.encode());
    Record { index, term: 3, leader: 8, kind: Kind::Entry, body }
}

/// The directory of a member: a snapshot at index 10, and two entries behind it.
fn survivor() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let files = files(&disk);
    let dir = DataDir::open(Arc::clone(&files), root(), ANY, || NodeId(7)).unwrap();
    dir.join(ClusterId(LOST)).unwrap();
    let mut state = State::default();
    state.cluster.id = Some(LOST);
    let snapshots = Snapshots::open(Arc::clone(&files), &root().join("snapshots")).unwrap();
    let first = Position { index: 10, term: 2, leader: 8 };
    state.index.0 = first.index;
    snapshot::found(&snapshots, state, first).unwrap();
    let log = Log::open(Arc::clone(&files), &root().join("log"), LogConfig::default()).unwrap();
    log.purge(first).unwrap();
    log.append(&[set_pool(11, 1), set_pool(LAST, 2)]).unwrap();
    VoteFile::new(Arc::clone(&files), root())
        .save(&VoteRecord { term: 4, node: 8, committed: true })
        .unwrap();
    drop((dir, snapshots, log));
    disk.crash(0);
    disk
}

fn replayed(disk: &MemoryDisk) -> Replayed {
    let (snapshots, log) = opened(&files(disk), root()).unwrap();
    replay(snapshots.newest().as_ref(), &log, &mut |_, _| {}).unwrap()
}

fn slots(state: &State) -> Option<u32> {
    state.pools.get(&"a".parse().unwrap()).map(|pool| pool.slots)
}

/// A node that is started between two tries is refused, or finds a directory that is wholly of the lost cluster. The new
/// cluster: its mark was the last thing that was written, and only the word of it is missing.
fn starts_only_in_a_whole_one(disk: &MemoryDisk, what: &str) -> Option<u64> {
    let dir = match DataDir::open(files(disk), root(), ANY, || NodeId(9)) {
        Err(MarkerError::Stopped { reason, .. }) => {
            assert!(reason.contains("matins cluster recover"), "{what}: {reason}");
            return None;
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(dir) => dir,
    };
    let cluster = dir.marker().cluster.expect(what).0;
    if cluster != LOST {
        return Some(cluster);
    }
    let Replayed { state, last, .. } = replayed(disk);
    assert_eq!((state.cluster.id, last.map(|last| last.index)), (Some(LOST), Some(LAST)), "{what}");
    assert_eq!(slots(&state), Some(2), "{what}");
    None
}

/// The directory is one of a new cluster that begins behind all that the lost one had.
fn is_recovered(disk: &MemoryDisk, cluster: u64, what: &str) {
    let dir = DataDir::open(files(disk), root(), ANY, || NodeId(9)).expect(what);
    assert_eq!((dir.marker().cluster, dir.marker().node), (Some(ClusterId(cluster)), NodeId(7)), "{what}");
    let Replayed { state, last, members, records } = replayed(disk);
    assert_eq!(state.cluster.id, Some(cluster), "{what}");
    let origin = state.cluster.refounded.clone().expect(what);
    assert_eq!((origin.from, origin.index.0), (LOST, LAST), "{what}: where it comes from");
    assert_eq!(slots(&state), Some(2), "{what}");
    let last = last.expect(what);
    assert!(last.index > LAST && last.index == state.index.0 && records == 0, "{what}: {last:?}");
    assert_eq!(members.voters().into_iter().collect::<Vec<_>>(), [NodeId(7)], "{what}");
    let vote = VoteFile::new(files(disk), root()).load().unwrap().expect(what);
    assert!(vote.node == 7 && !vote.committed && vote.term >= 3, "{what}: {vote:?}");
}

#[test]
fn rule_6_10_a_recovery_that_is_cut_short_anywhere_is_given_again() {
    let mut cuts = 0;
    for end in ENDS {
        for changes in 0.. {
            let disk = survivor();
            disk.fail_after(changes);
            let first = recover::recover_on(&files(&disk), root(), After::Ends);
            end.come(&disk);
            let what = format!("{end:?} after {changes} changes");
            if let Ok(cluster) = first {
                is_recovered(&disk, cluster, &what);
                break;
            }
            cuts += 1;
            if let Some(cluster) = starts_only_in_a_whole_one(&disk, &what) {
                is_recovered(&disk, cluster, &what);
                continue;
            }
            // It may be cut short again, elsewhere.
            disk.fail_after(changes / 2);
            if recover::recover_on(&files(&disk), root(), After::Ends).is_err() {
                end.come(&disk);
            }
            disk.kill();
            let cluster = match recover::recover_on(&files(&disk), root(), After::Ends) {
                Ok(cluster) => cluster,
                Err(error) => panic!("{what}: {error:?}"),
            };
            end.come(&disk);
            is_recovered(&disk, cluster, &what);
        }
    }
    assert!(cuts > 60, "only {cuts} places to cut it short");
}

#[test]
fn a_recovery_that_was_begun_in_another_way_is_not_mixed_with_it() {
    let mut refused = 0;
    for changes in 0.. {
        let disk = survivor();
        disk.fail_after(changes);
        let first = recover::recover_on(&files(&disk), root(), After::Ends);
        disk.kill();
        if first.is_ok() {
            break;
        }
        match recover::recover_on(&files(&disk), root(), After::GoesOn) {
            Ok(_) => assert!(replayed(&disk).state.cluster.refounded.is_some_and(|origin| !origin.is_held)),
            Err(OfflineError::BegunOtherwise { is_held: true, .. }) => refused += 1,
            Err(error) => panic!("after {changes} changes: {error:?}"),
        }
    }
    assert!(refused > 0);
}

/// A backup of a state in which the pool `a` has so many slots, and of one blob.
fn backup(slots: u32) -> Vec<u8> {
    let mut state = State::default();
    state.cluster.id = Some(LOST);
    for record in (1..=u64::from(slots)).map(|slots| set_pool(10 * slots, slots as u32)) {
        let entry = Entry::decode(&record.body).unwrap();
        assert!(
            matins_core::apply(&mut state, matins_core::id::LogIndex(record.index), entry).answers[0].is_ok()
        );
    }
    let (index, now, bytes) = (state.index.0, 0, state.encode());
    let head = Head {
        version: "0.1.0".into(),
        cluster: LOST,
        level: 0,
        index,
        now,
        state_bytes: bytes.len() as u64,
        state_hash: Digest::of(&bytes),
        blobs: 1,
    };
    let mut writer = Writer::default();
    let parts = [
        Part::Head(head),
        Part::State(bytes),
        Part::Blob { digest: Digest::of(BLOB), bytes: BLOB.len() as u64 },
        Part::Chunk(BLOB.into()),
    ];
    let mut frames: Vec<Vec<u8>> = parts.iter().map(|part| writer.frame(part)).collect();
    frames.push(writer.end());
    frames.concat()
}

fn restored(disk: &MemoryDisk, backup: &[u8]) -> Result<u64, OfflineError> {
    let after = (After::Ends, After::Ends);
    restore::restore_on(&files(disk), backup, root(), (after, &mut |_| {})).map(|restored| restored.cluster)
}

/// Restores a backup, and is cut short after so many changes.
fn cut_restore(backup: &[u8], (changes, end): (u64, End)) -> (MemoryDisk, Result<u64, OfflineError>) {
    let disk = MemoryDisk::new();
    disk.fail_after(changes);
    let first = restored(&disk, backup);
    end.come(&disk);
    (disk, first)
}

fn is_restored(disk: &MemoryDisk, slots_wanted: u32, what: &str) {
    let dir = DataDir::open(files(disk), root(), ANY, || NodeId(9)).expect(what);
    let Replayed { state, .. } = replayed(disk);
    let origin = state.cluster.refounded.clone().expect(what);
    assert_eq!((origin.from, origin.index.0), (LOST, 10 * u64::from(slots_wanted)), "{what}");
    assert_eq!(state.cluster.id.map(ClusterId), dir.marker().cluster, "{what}");
    assert_eq!(slots(&state), Some(slots_wanted), "{what}");
    let blobs = Blobs::open(files(disk), &root().join("blobs")).unwrap();
    assert_eq!(blobs.get(&Digest::of(BLOB)).unwrap().as_deref(), Some(BLOB), "{what}");
}

#[test]
fn rule_6_10_a_restore_that_is_cut_short_anywhere_is_given_again() {
    // The first try is of a later backup than the one that is taken in the end.
    let (later, wanted) = (backup(4), backup(3));
    let mut cuts = 0;
    for end in ENDS {
        for changes in 0.. {
            let what = format!("{end:?} after {changes} changes");
            let (disk, first) = cut_restore(&later, (changes, end));
            if first.is_ok() {
                is_restored(&disk, 4, &what);
                let again = restored(&disk, &wanted);
                assert!(matches!(again, Err(OfflineError::NotEmpty(_))), "{what}: {again:?}");
                break;
            }
            cuts += 1;
            // A node that is started in it is refused, or finds nothing at all, or everything.
            match DataDir::open(files(&disk), root(), ANY, || NodeId(0)) {
                Err(MarkerError::Stopped { reason, .. }) => assert!(reason.contains("restore"), "{reason}"),
                Err(error) => panic!("{what}: {error}"),
                Ok(dir) if dir.marker().cluster.is_some() => {
                    drop(dir);
                    is_restored(&disk, 4, &what);
                    continue;
                }
                Ok(dir) => assert_eq!(dir.marker().node, NodeId(0), "{what}"),
            }
            let (disk, _) = cut_restore(&later, (changes, end));
            restored(&disk, &wanted).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            end.come(&disk);
            is_restored(&disk, 3, &what);
        }
    }
    assert!(cuts > 60, "only {cuts} places to cut it short");
}
