//! Snapshots over a disk that forgets what was not synced, and over a peer link that damages what it carries.

use std::io::{Read as _, Write as _};

use super::super::files::{MemoryDisk, SyncsFail};
use super::*;

const DIR: &str = "/data/snapshots";

fn open(disk: &MemoryDisk) -> Result<Snapshots> {
    Snapshots::open(Arc::new(disk.clone()), Path::new(DIR))
}

fn meta(index: u64) -> SnapshotMeta {
    let last = Position { index, term: 2, leader: 1 };
    SnapshotMeta { last, level: 1, membership: vec![1, 2, 3], state_hash: Digest::of(&index.to_le_bytes()) }
}

/// More than two chunks, not all of it easy to compress.
fn body(index: u64) -> Vec<u8> {
    let mut seed = index;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if seed & 1 == 0 { 0 } else { (seed >> 56) as u8 }
    };
    (0..CHUNK_BYTES * 2 + 1000).map(|_| next()).collect()
}

fn publish(snapshots: &Snapshots, index: u64, body: &[u8]) -> Result<Arc<Snapshot>> {
    let mut writer = snapshots.write(&meta(index))?;
    writer.write_all(body).map_err(StoreError::io("write", Path::new(DIR)))?;
    snapshots.publish(writer.finish()?)
}

fn read(snapshot: &Arc<Snapshot>) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot.reader().read_to_end(&mut bytes).expect("a published snapshot reads");
    bytes
}

#[test]
fn rule_6_8_a_snapshot_counts_only_once_it_is_published() {
    let disk = MemoryDisk::new();
    let snapshots = open(&disk).unwrap();
    let mut writer = snapshots.write(&meta(9)).unwrap();
    writer.write_all(&body(9)).unwrap();
    let unpublished = writer.finish().unwrap();
    assert!(snapshots.newest().is_none() && open(&disk).unwrap().newest().is_none());
    drop(unpublished);
    for index in [10, 20, 30] {
        publish(&snapshots, index, &body(index)).unwrap();
    }
    let snapshots = open(&disk).unwrap();
    let newest = snapshots.newest().unwrap();
    assert_eq!((newest.meta(), newest.pieces()), (&meta(30), 5));
    assert_eq!(read(&newest), body(30));
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), SNAPSHOTS_KEPT);
}

#[test]
fn rule_6_8_no_crash_at_any_change_loses_a_published_snapshot() {
    for stop_at in 0..24 {
        for seed in 0..8 {
            let disk = MemoryDisk::new();
            let snapshots = open(&disk).unwrap();
            disk.fail_after(stop_at);
            let published = (1..=3).take_while(|index| publish(&snapshots, *index, b"state").is_ok()).last();
            disk.crash(seed);
            let newest = open(&disk).expect("a crash leaves a directory that opens").newest();
            let found = newest.as_ref().map(|snapshot| snapshot.meta().last.index);
            assert!(found >= published, "stop {stop_at} seed {seed}: {published:?} became {found:?}");
            assert!(newest.is_none_or(|snapshot| read(&snapshot) == b"state"));
        }
    }
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_the_one_before_it_is_loaded() {
    let disk = MemoryDisk::new();
    let snapshots = open(&disk).unwrap();
    publish(&snapshots, 10, &body(10)).unwrap();
    let newest = publish(&snapshots, 20, &body(20)).unwrap();
    disk.flip_byte(&newest.path, newest.bytes() / 2);
    let mut bytes = Vec::new();
    let error = newest.reader().read_to_end(&mut bytes).expect_err("it is damaged");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let snapshots = open(&disk).unwrap();
    assert_eq!(snapshots.newest().unwrap().meta(), &meta(10));
    assert_eq!(snapshots.damaged().unwrap().len(), 1);
}

#[test]
fn what_a_failed_sync_lost_is_not_taken_for_received() {
    let (from, to) = (MemoryDisk::new(), MemoryDisk::new());
    let sent = publish(&open(&from).unwrap(), 10, b"state").unwrap();
    let receive = |snapshots: &Snapshots| {
        let mut receiver = snapshots.receive(meta(10).last)?;
        for number in receiver.next_piece()..sent.pieces() {
            receiver.add(number, &sent.piece(number)?.expect("it has this piece"))?;
        }
        snapshots.publish(receiver.finish()?)
    };
    let snapshots = open(&to).unwrap();
    to.fail_syncs(SyncsFail::Always);
    assert!(receive(&snapshots).is_err());
    to.fail_syncs(SyncsFail::Never);
    receive(&snapshots).unwrap();
    to.crash(1);
    assert_eq!(read(&open(&to).unwrap().newest().expect("it was published")), b"state");
}

#[test]
fn rule_6_8_a_transfer_goes_on_at_a_piece_and_is_verified() {
    let (from, to) = (MemoryDisk::new(), MemoryDisk::new());
    let sent = publish(&open(&from).unwrap(), 10, &body(10)).unwrap();
    let last = meta(10).last;
    let piece = |number| sent.piece(number).unwrap().expect("it has this piece");

    let mut receiver = open(&to).unwrap().receive(last).unwrap();
    receiver.add(0, &piece(0)).unwrap();
    receiver.add(1, &piece(1)).unwrap();
    assert!(matches!(receiver.add(1, &piece(1)), Err(StoreError::OutOfOrder { expected: 2, .. })));
    let mut damaged = piece(2).to_vec();
    damaged[100] ^= 1;
    assert!(matches!(receiver.add(2, &damaged), Err(StoreError::BadTransfer { .. })));
    to.kill();

    let snapshots = open(&to).unwrap();
    let mut receiver = snapshots.receive(last).unwrap();
    assert_eq!((receiver.next_piece(), receiver.is_complete()), (2, false));
    for number in 2..sent.pieces() {
        receiver.add(number, &piece(number)).unwrap();
    }
    assert!(receiver.is_complete());
    let received = snapshots.publish(receiver.finish().unwrap()).unwrap();
    assert_eq!((received.meta(), read(&received)), (&meta(10), body(10)));

    snapshots.receive(meta(9).last).unwrap();
    open(&to).unwrap();
    let left = to.list(Path::new(DIR)).unwrap();
    assert!(left.iter().all(|name| name.ends_with(PUBLISHED)), "an overtaken receive goes: {left:?}");

    let mut other = snapshots.receive(meta(11).last).unwrap();
    assert!(matches!(other.add(0, &piece(0)), Err(StoreError::BadTransfer { .. })), "of another index");
    assert!(other.finish().is_err(), "not whole");
}
