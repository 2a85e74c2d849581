//! The log over a disk that forgets what was not synced: crashes at every change, failed syncs, a full disk, damage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::files::{Disk, MemoryDisk, Open, SyncsFail};
use super::*;

const DIR: &str = "/data/log";

fn record(index: u64, term: u64, bytes: usize) -> Record {
    let body = (0..bytes).map(|at| (at as u64 * 31 + index + term) as u8).collect::<Vec<_>>().into();
    Record { index, term, leader: term % 3 + 1, kind: Kind::Entry, body }
}

fn open(disk: &MemoryDisk) -> Result<Log> {
    // So small that every few records begin a new segment.
    Log::open(Arc::new(disk.clone()), Path::new(DIR), LogConfig { segment_bytes: 600 })
}

fn all(log: &Log) -> Vec<Record> {
    log.read(log.first().unwrap_or(0)..u64::MAX, u64::MAX).expect("all records are readable")
}

fn newest_segment(disk: &MemoryDisk) -> PathBuf {
    let names = disk.list(Path::new(DIR)).expect("the directory is there");
    Path::new(DIR).join(names.iter().rev().find(|name| name.ends_with(segment::ENDING)).expect("a segment"))
}

#[test]
fn rule_6_1_what_was_appended_reads_back_and_an_append_is_one_write_and_one_sync() {
    let disk = MemoryDisk::new();
    let log = Log::open(Arc::new(disk.clone()), Path::new(DIR), LogConfig::default()).unwrap();
    let records: Vec<_> = (0..10).map(|index| record(index, 1, index as usize * 9)).collect();
    log.append(&records[..4]).unwrap();
    let before = disk.changes();
    log.append(&records[4..]).unwrap();
    assert_eq!(disk.changes() - before, 2, "one write, one fdatasync");
    assert_eq!(all(&log), records);
    assert_eq!(log.read(3..5, 0).unwrap(), records[3..4], "at least one, whatever its size");
    assert_eq!(log.read(3..5, u64::MAX).unwrap(), records[3..5]);
    assert_eq!(log.read(10..20, u64::MAX).unwrap(), []);
    assert_eq!(log.position(9).unwrap(), Some(records[9].position()));
    assert!(matches!(log.append(&[record(11, 1, 0)]), Err(StoreError::OutOfOrder { expected: 10, .. })));
    let len =
        |from: usize| records[from..].iter().map(|r| (frame::HEAD_BYTES + r.body.len()) as u64).sum::<u64>();
    assert_eq!((log.bytes(), log.bytes_from(7)), (len(0), len(7)));
}

#[test]
fn rule_6_8_the_committed_index_rides_with_the_next_write() {
    let disk = MemoryDisk::new();
    let log = open(&disk).unwrap();
    log.append(&[record(0, 1, 9), record(1, 1, 9)]).unwrap();
    let before = disk.changes();
    log.save_committed(0).unwrap();
    assert_eq!(disk.changes(), before, "it costs no write");
    assert_eq!(log.committed().unwrap(), None);
    log.append(&[record(2, 1, 9)]).unwrap();
    disk.crash(1);
    assert_eq!(open(&disk).unwrap().committed().unwrap(), Some(record(0, 1, 9).position()));
}

#[test]
fn rule_6_1_a_failed_fsync_stops_the_log_and_loses_nothing_acknowledged() {
    for seed in 0..30 {
        let disk = MemoryDisk::new();
        let log = open(&disk).unwrap();
        log.append(&[record(0, 1, 20)]).unwrap();
        disk.fail_syncs(SyncsFail::Always);
        assert!(log.append(&[record(1, 1, 20)]).is_err_and(|error| error.is_fault()));
        disk.fail_syncs(SyncsFail::Never);
        assert!(
            matches!(log.append(&[record(1, 1, 20)]), Err(StoreError::Stopped { .. })),
            "not even once more"
        );
        assert!(matches!(log.truncate(0), Err(StoreError::Stopped { .. })));
        disk.kill();
        // The pages count as clean now: what this open reports must have been written again.
        let reported = all(&open(&disk).unwrap());
        assert_eq!(reported.len(), 2);
        disk.crash(seed);
        assert_eq!(all(&open(&disk).unwrap()), reported, "seed {seed}");
    }
}

#[test]
fn a_full_disk_is_said_and_the_next_append_works_when_there_is_room() {
    for room in 0..300 {
        let disk = MemoryDisk::new();
        let log = open(&disk).unwrap();
        log.append(&[record(0, 1, 550)]).unwrap();
        disk.set_room(Some(room));
        let error = match log.append(&[record(1, 1, 200)]) {
            Ok(()) => continue,
            Err(error) => error,
        };
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(!error.is_fault() && error.to_string().contains("no room left"));
        assert_eq!(log.last(), Some(record(0, 1, 0).position()));
        // Whether or not the failed append has left a segment behind that holds nothing.
        assert_eq!((log.first(), log.bytes()), (Some(0), (frame::HEAD_BYTES + 550) as u64));
        assert_eq!(log.read(0..9, u64::MAX).unwrap(), [record(0, 1, 550)]);
        disk.set_room(None);
        log.append(&[record(1, 1, 30)]).unwrap();
        disk.crash(room);
        assert_eq!(all(&open(&disk).unwrap()), [record(0, 1, 550), record(1, 1, 30)], "room {room}");
    }
}

#[test]
fn damage_in_the_middle_is_a_fault_and_never_cut() {
    // Records of 80 bytes: the first segment is sealed by the eighth, the second holds three appends.
    let disk = MemoryDisk::new();
    let log = open(&disk).unwrap();
    for index in 0..11 {
        log.append(&[record(index, 1, 32)]).unwrap();
    }
    let newest = newest_segment(&disk);
    let damaged_at = segment::HEAD_BYTES + 80 + 60;
    disk.flip_byte(&newest, damaged_at);
    let error = open(&disk).err().expect("the second of three is damaged");
    assert!(error.is_fault());
    assert!(error.to_string().ends_with("record 9 is not valid, but record 10 behind it is"), "{error}");
    disk.flip_byte(&newest, damaged_at);

    // A sealed segment is not read at open; the record itself tells.
    disk.flip_byte(&Path::new(DIR).join(segment::file_name(0)), damaged_at);
    let log = open(&disk).unwrap();
    let error = log.read(0..3, u64::MAX).expect_err("record 1 is damaged").to_string();
    assert!(error.ends_with("record 1 does not match its checksum"), "{error}");

    // A sealed segment that lost its end.
    let first = disk.open(&Path::new(DIR).join(segment::file_name(0)), Open::Existing).unwrap();
    first.truncate(200).unwrap();
    assert!(open(&disk).err().expect("it lost its end").to_string().contains("no valid seal"));
}

#[test]
fn a_torn_append_of_several_records_is_cut_even_with_a_hole_in_front() {
    let disk = MemoryDisk::new();
    let config = LogConfig::default();
    let log = Log::open(Arc::new(disk.clone()), Path::new(DIR), config).unwrap();
    log.append(&[record(0, 1, 32)]).unwrap();
    log.append(&[record(1, 1, 32), record(2, 1, 32), record(3, 1, 32)]).unwrap();
    // The last append lost its first record, but not the others: a torn write, since they began together.
    disk.flip_byte(&newest_segment(&disk), segment::HEAD_BYTES + 80 + 50);
    let log = Log::open(Arc::new(disk.clone()), Path::new(DIR), config).unwrap();
    assert_eq!(all(&log), [record(0, 1, 32)]);
}

#[test]
fn a_purge_behind_the_end_lets_the_log_go_on_there() {
    let disk = MemoryDisk::new();
    let log = open(&disk).unwrap();
    log.append(&[record(0, 1, 9)]).unwrap();
    let upto = record(50, 3, 0).position();
    log.purge(upto).unwrap();
    assert_eq!((log.last(), log.first(), log.purged()), (Some(upto), None, Some(upto)));
    log.append(&[record(51, 3, 9)]).unwrap();
    let log = open(&disk).unwrap();
    assert_eq!((log.first(), all(&log)), (Some(51), vec![record(51, 3, 9)]));
    assert!(matches!(log.truncate(50), Err(StoreError::OutOfOrder { expected: 51, .. })));
}

#[test]
fn the_bytes_of_a_frame_do_not_change_from_release_to_release() {
    let position = Position { index: 0x0102, term: 3, leader: 4 };
    let tag = Tag::Record(Kind::Membership);
    let head = Head { crc: 0, body_bytes: 2, position, committed: 5, back: 6, tag };
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, segment::HEAD_BYTES, 7, head, b"hi");
    let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let numbers = "0201000000000000030000000000000004000000000000000500000000000000";
    assert_eq!(hex, format!("bb0b16ef02000000{numbers}06000000010000006869"));
    let (record, len) = frame::record(&Bytes::from(bytes), segment::HEAD_BYTES, 7).expect("it reads back");
    assert_eq!(
        (record.position(), record.kind, &record.body[..], len),
        (position, Kind::Membership, &b"hi"[..], 50)
    );
}

/// What a log was asked to do.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    /// How many of the last records go.
    Truncate(u64),
    /// How many of the first records go.
    Purge(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0_usize..200, 1..5).prop_map(Step::Append),
        1 => (0_u64..8).prop_map(Step::Truncate),
        1 => (0_u64..8).prop_map(Step::Purge),
    ];
    prop::collection::vec(step, 1..14)
}

/// What a log should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    records: BTreeMap<u64, Record>,
    next: u64,
    start: u64,
}

impl Model {
    /// Does a step on the model and, if there is one, on the log.
    fn step(&mut self, step: &Step, term: u64, log: &Log) -> Result<()> {
        match step {
            Step::Append(sizes) => {
                let records: Vec<_> =
                    (self.next..).zip(sizes).map(|(i, size)| record(i, term, *size)).collect();
                self.next += records.len() as u64;
                self.records.extend(records.iter().map(|record| (record.index, record.clone())));
                log.append(&records)
            }
            Step::Truncate(count) => {
                self.next = self.next.saturating_sub(*count).max(self.start);
                self.records.split_off(&self.next);
                log.truncate(self.next)
            }
            Step::Purge(count) => {
                let upto = (self.start + count).min(self.next);
                let Some(last) = self.records.range(self.start..upto).next_back() else { return Ok(()) };
                let position = last.1.position();
                self.start = position.index + 1;
                self.records = self.records.split_off(&self.start);
                log.purge(position)
            }
        }
    }
}

/// Whether a crash inside a step may leave `found`: everything acknowledged, and any part of what was under way.
fn is_allowed(found: &[Record], acknowledged: &Model, asked: &Model) -> bool {
    let is_known = |record: &Record| {
        acknowledged.records.get(&record.index) == Some(record)
            || asked.records.get(&record.index) == Some(record)
    };
    let kept = |record: &Record| found.iter().any(|found| found == record);
    // Only what the step itself takes away may be missing.
    found.iter().all(is_known)
        && acknowledged.records.values().filter(|r| asked.records.get(&r.index) == Some(r)).all(kept)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn rule_6_1_no_crash_at_any_change_loses_what_was_acknowledged(
        steps in steps(), stop_at in 0_u64..60, seed: u64, crashes in 1_usize..3,
    ) {
        let disk = MemoryDisk::new();
        let mut model = Model::default();
        for crash in 0..crashes {
            let log = open(&disk).expect("a crash leaves a log that opens");
            disk.fail_after(stop_at + crash as u64);
            let mut asked = model.clone();
            for step in &steps {
                if asked.step(step, crash as u64 + 1, &log).is_err() {
                    break;
                }
                model = asked.clone();
            }
            disk.crash(seed.wrapping_add(crash as u64));
            let log = open(&disk).expect("a crash leaves a log that opens");
            let found = all(&log);
            prop_assert!(is_allowed(&found, &model, &asked), "{found:?}\n{model:?}\n{asked:?}");
            // What an open reports is durable, and the log goes on from there.
            disk.crash(!seed);
            let log = open(&disk).expect("a second crash changes nothing");
            prop_assert_eq!(all(&log), found.clone());
            model.start = log.purged().map_or(0, |purged| purged.index + 1);
            model.next = log.last().map_or(0, |last| last.index + 1);
            model.records = found.into_iter().map(|record| (record.index, record)).collect();
        }
    }
}

proptest! {
    #[test]
    fn a_segment_of_any_bytes_is_refused_or_empty(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let disk = MemoryDisk::new();
        write_segment(&disk, &bytes);
        if let Ok(log) = open(&disk) {
            prop_assert_eq!(all(&log), []);
        }
    }

    /// Whatever the disk does to a segment: an error, or records that were written, from the first on.
    #[test]
    fn a_damaged_segment_invents_no_record(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), sealed: bool,
    ) {
        let disk = MemoryDisk::new();
        let log = open(&disk).unwrap();
        let records: Vec<_> = (0..if sealed { 8 } else { 6 }).map(|index| record(index, 1, 30)).collect();
        records.chunks(2).for_each(|two| log.append(two).unwrap());
        let file = disk.open(&newest_segment(&disk), Open::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            if byte % 4 == 0 { bytes.truncate(at.max(1)) } else { bytes[at] ^= byte }
        }
        let disk = MemoryDisk::new();
        write_segment(&disk, &bytes);
        if let Ok(log) = open(&disk) {
            let found = log.read(0..u64::MAX, u64::MAX).unwrap_or_default();
            prop_assert!(records.starts_with(&found), "{found:?}");
        }
    }
}

fn write_segment(disk: &MemoryDisk, bytes: &[u8]) {
    let file = disk.open(&Path::new(DIR).join(segment::file_name(0)), Open::Truncated).unwrap();
    file.write_at(bytes, 0).unwrap();
}

/// Measured, not asserted to the millisecond: run with `--run-ignored all`.
#[test]
#[ignore = "writes 100 MB to a real disk"]
fn rule_6_1_a_million_entries_open_in_a_second_or_two() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Arc::new(Disk), dir.path(), LogConfig::default()).unwrap();
    let records: Vec<_> = (0..1_000_000).map(|index| record(index, 1, 50)).collect();
    for batch in records.chunks(1000) {
        log.append(batch).unwrap();
    }
    drop(log);
    let start = std::time::Instant::now();
    let log = Log::open(Arc::new(Disk), dir.path(), LogConfig::default()).unwrap();
    let took = start.elapsed();
    assert_eq!(log.last().map(|last| last.index), Some(999_999));
    assert!(took.as_millis() < 2000, "{took:?}");
}
