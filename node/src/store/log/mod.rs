//! The log: append-only segment files, one checksummed frame per record, one write and one fdatasync per append
//! (PROTOCOL 6.1).
//!
//! It never interprets a body, never repairs what was acknowledged, and after a failed fsync takes nothing more.
//! A bit that flips inside the very last append cannot be told from a torn write and is cut as one; anywhere else it
//! is a fault. Start reading at [`Log::append`]; `segment` has the files, `frame` the bytes.

mod frame;
mod segment;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytes::Bytes;
use matins_core::mutation::{Mutation, planted};

use self::frame::{Head, Tag};
use self::segment::Segment;
use super::files::Files;
use super::{Position, Result, StoreError, checked};

/// The most bytes that one append may write; a segment's offsets are 32 bits wide.
pub const APPEND_BYTES_MAX: u64 = 1 << 30;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but a place in the log.
    Blank,
    /// A change of the members.
    Membership,
    /// Commands.
    Entry,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its index; rises by one from record to record.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// That leader, by its node id.
    pub leader: u64,
    /// What it is.
    pub kind: Kind,
    /// Opaque bytes. Those of one read share one buffer.
    pub body: Bytes,
}

impl Record {
    /// Its place in the log.
    pub fn position(&self) -> Position {
        Position { index: self.index, term: self.term, leader: self.leader }
    }
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// A segment is sealed by the append that reaches this size; 1 GiB at most.
    pub segment_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// The log of a node. Calls may come from several threads: reads wait for no fsync.
pub struct Log {
    files: Arc<dyn Files>,
    dir: PathBuf,
    config: LogConfig,
    writer: Mutex<Writer>,
    index: RwLock<Index>,
}

/// What belongs to the one who writes.
#[derive(Default)]
struct Writer {
    /// The bytes of the append under way; kept, so that an append allocates nothing.
    buffer: Vec<u8>,
    /// The newest committed index heard of, plus 1, which rides with the next write (PROTOCOL 6.8); 0 for none.
    committed: u64,
    /// Why nothing is written any more.
    stopped: Option<String>,
}

/// What the log holds.
#[derive(Default)]
struct Index {
    /// In order, without gaps; the last one takes appends unless it is sealed.
    segments: Vec<Segment>,
    purged: Option<Position>,
    /// As in `Writer`, but of what is on disk.
    committed: u64,
}

impl Index {
    fn last(&self) -> Option<Position> {
        // The newest segment is empty when the append that made it failed.
        let full = self.segments.iter().rev().find(|segment| !segment.offsets.is_empty());
        full.map(|segment| segment.last).or(self.purged)
    }

    fn segment_of(&self, index: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.first <= index);
        self.segments[..after].last().filter(|segment| index < segment.next())
    }

    /// The first index that may be there.
    fn start(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn is_purged(&self, index: u64) -> bool {
        index < self.start()
    }
}

impl Log {
    /// Opens the log in `dir`, which is made if needed. What a crash left half written is cut; damage is a fault.
    /// What it answers after that is durable, whatever the process before it had still to sync.
    pub fn open(files: Arc<dyn Files>, dir: &Path, config: LogConfig) -> Result<Self> {
        // Offsets are 32 bits wide: a segment below this and one more append stay within them.
        assert!(
            config.segment_bytes <= APPEND_BYTES_MAX,
            "segment_bytes is validated with the configuration"
        );
        files.create_dir(dir).map_err(StoreError::io("create", dir))?;
        let purged = load_purged(&*files, dir)?;
        let segments = open_segments(&*files, dir, purged.map_or(0, |purged| purged.index + 1))?;
        files.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        let committed = segments.iter().map(|segment| segment.committed).max().unwrap_or(0);
        let writer = Mutex::new(Writer { committed, ..Writer::default() });
        let index = RwLock::new(Index { segments, purged, committed });
        Ok(Self { files, dir: dir.into(), config, writer, index })
    }

    /// Appends records, durably: one write, one fdatasync. The first must follow the last one of the log; a log that
    /// never held anything takes any first index. `Full` leaves the log as it was; after a failed fsync it answers
    /// `Stopped` for good.
    pub fn append(&self, records: &[Record]) -> Result<()> {
        let mut writer = self.writer()?;
        let Some(first) = records.first() else { return Ok(()) };
        check_order(self.last(), records)?;
        let asked: u64 = records.iter().map(|record| (frame::HEAD_BYTES + record.body.len()) as u64).sum();
        if asked > APPEND_BYTES_MAX {
            let (what, limit) = ("an append to the log", "APPEND_BYTES_MAX");
            return Err(StoreError::TooLarge { what, limit, value: APPEND_BYTES_MAX, asked });
        }
        self.roll(&mut writer, first.index)?;
        let write = self.encode(&mut writer, records);
        if let Err(error) = write.file.write_at(&writer.buffer, write.at) {
            let error = StoreError::io("append to", &write.path)(error);
            // What was written of it goes; if it does not, the next append would stand behind rubbish.
            let undone = write.file.truncate(write.at).and_then(|()| write.file.sync());
            return Err(match undone {
                Ok(()) => error,
                Err(undo) => self.stop(&mut writer, &format!("{error}, and cutting it failed: {undo}")),
            });
        }
        if !planted(Mutation::LogAcknowledgedBeforeSync)
            && let Err(error) = write.file.sync()
            && !planted(Mutation::SyncErrorIgnored)
        {
            return Err(self.stop(&mut writer, &format!("fsync failed: {error}")));
        }
        let mut index = self.index.write().expect("no holder panics");
        index.committed = writer.committed;
        let segment = index.segments.last_mut().expect("`roll` left one");
        for record in records {
            segment.push(record.position(), (frame::HEAD_BYTES + record.body.len()) as u64);
        }
        (segment.is_sealed, segment.committed) = (write.seals, writer.committed);
        Ok(())
    }

    /// The records of `range` that are there, in order: at least one, then as many as fit into `bytes_max`. Stops at
    /// the log's end; empty if the range begins outside of the log. A record that does not match its checksum is a fault.
    pub fn read(&self, range: Range<u64>, bytes_max: u64) -> Result<Vec<Record>> {
        // Held while reading, so that no truncation pulls the file away from under it.
        let index = self.index.read().expect("no holder panics");
        let mut records = Vec::new();
        let (mut at, mut room) = (range.start, bytes_max);
        while at < range.end && !index.is_purged(at) {
            let Some(segment) = index.segment_of(at) else { break };
            let start = segment.start_of(at);
            let mut last = at;
            let last_max = (segment.next() - 1).min(range.end - 1);
            while last < last_max && segment.end_of(last + 1) - start <= room {
                last += 1;
            }
            let end = segment.end_of(last);
            if !records.is_empty() && end - start > room {
                break;
            }
            room = room.saturating_sub(end - start);
            let bytes = Bytes::from(segment.read(start, (end - start) as usize)?);
            let mut done = 0;
            while at <= last {
                let found = frame::record(&bytes.slice(done..), start + done as u64, segment.salt);
                let (record, len) =
                    found.filter(|(record, _)| record.index == at).ok_or_else(|| segment.damaged(at))?;
                records.push(record);
                (done, at) = (done + len, at + 1);
            }
            if last < last_max {
                break;
            }
        }
        Ok(records)
    }

    /// Removes the record of `from` and all after it, durably. Nothing that is purged may be removed.
    pub fn truncate(&self, from: u64) -> Result<()> {
        let mut writer = self.writer()?;
        let mut index = self.index.write().expect("no holder panics");
        if index.is_purged(from) {
            let (what, expected) = ("truncating the log", index.start());
            return Err(StoreError::OutOfOrder { what, expected, got: from });
        }
        self.truncate_files(&mut index, from).map_err(|error| self.stop(&mut writer, &error.to_string()))
    }

    /// Forgets the records up to `upto`, which may lie behind the log's end (a snapshot was installed). Durable as
    /// a fact when it returns; files go as a whole.
    pub fn purge(&self, upto: Position) -> Result<()> {
        let mut writer = self.writer()?;
        let mut index = self.index.write().expect("no holder panics");
        if index.is_purged(upto.index) {
            return Ok(());
        }
        let bytes = postcard::to_allocvec(&upto).expect("plain fields always encode");
        checked::save(&*self.files, &self.dir.join(PURGED), &bytes)?;
        index.purged = Some(upto);
        while index.segments.first().is_some_and(|segment| segment.next() <= upto.index + 1) {
            let segment = index.segments.remove(0);
            let removed = self.files.remove(&segment.path).map_err(StoreError::io("remove", &segment.path));
            removed.map_err(|error| self.stop(&mut writer, &error.to_string()))?;
        }
        Ok(())
    }

    /// Notes how far the log is committed; made durable by the next append, without a write of its own.
    pub fn save_committed(&self, index: u64) -> Result<()> {
        let mut writer = self.writer()?;
        writer.committed = writer.committed.max(index + 1);
        Ok(())
    }

    /// The newest committed index that is durable, cut to what the log holds. It may be older than what was saved.
    pub fn committed(&self) -> Result<Option<Position>> {
        let index = self.index.read().expect("no holder panics");
        let known = index.committed.min(index.last().map_or(0, |last| last.index + 1));
        match known.checked_sub(1).and_then(|at| index.segment_of(at).filter(|_| !index.is_purged(at))) {
            Some(segment) => segment.position(known - 1).map(Some),
            // What is purged was committed.
            None => Ok(index.purged),
        }
    }

    /// The position of a record that is there, or of the last one purged.
    pub fn position(&self, at: u64) -> Result<Option<Position>> {
        let index = self.index.read().expect("no holder panics");
        if index.is_purged(at) {
            return Ok(index.purged.filter(|purged| purged.index == at));
        }
        index.segment_of(at).map(|segment| segment.position(at)).transpose()
    }

    /// The last record, or the purge point if nothing stands behind it. `None` if the log never held anything.
    pub fn last(&self) -> Option<Position> {
        self.index.read().expect("no holder panics").last()
    }

    /// The first index that can be read. `None` if there is none.
    pub fn first(&self) -> Option<u64> {
        let index = self.index.read().expect("no holder panics");
        let segment = index.segments.first().filter(|segment| !segment.offsets.is_empty())?;
        Some(segment.first.max(index.start()))
    }

    /// The last record that was purged.
    pub fn purged(&self) -> Option<Position> {
        self.index.read().expect("no holder panics").purged
    }

    /// The bytes of the records that can be read.
    pub fn bytes(&self) -> u64 {
        self.bytes_from(0)
    }

    /// The bytes of the records from `at` on that can be read: what a purge of those before it would leave.
    pub fn bytes_from(&self, at: u64) -> u64 {
        let index = self.index.read().expect("no holder panics");
        let at = at.max(index.start());
        let of_one = |segment: &Segment| match at {
            at if at >= segment.next() => 0,
            // Left by an append that failed: it holds no record yet.
            _ if segment.offsets.is_empty() => 0,
            at => segment.end - segment.start_of(at.max(segment.first)),
        };
        index.segments.iter().map(of_one).sum()
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.writer.lock().expect("no holder panics");
        match &writer.stopped {
            Some(why) => Err(StoreError::Stopped { path: self.dir.clone(), why: why.clone() }),
            None => Ok(writer),
        }
    }

    fn stop(&self, writer: &mut Writer, why: &str) -> StoreError {
        writer.stopped = Some(why.to_owned());
        StoreError::Stopped { path: self.dir.clone(), why: why.to_owned() }
    }

    /// Begins a new segment if there is none that takes `next`.
    fn roll(&self, writer: &mut Writer, next: u64) -> Result<()> {
        let mut index = self.index.write().expect("no holder panics");
        match index.segments.last() {
            Some(segment) if segment.offsets.is_empty() && segment.first != next => {
                // Left by a failed append to a log that holds nothing; this one begins elsewhere.
                self.files.remove(&segment.path).map_err(StoreError::io("remove", &segment.path))?;
                index.segments.pop();
            }
            Some(segment) if !segment.is_sealed => return Ok(()),
            Some(_) | None => {}
        }
        match Segment::create(&*self.files, &self.dir, next) {
            Ok(segment) => {
                index.segments.push(segment);
                Ok(())
            }
            // Nothing was acknowledged in it; the next try makes it anew, and so does an open.
            Err(error @ StoreError::Full { .. }) => Err(error),
            Err(error) => Err(self.stop(writer, &error.to_string())),
        }
    }

    /// Puts the frames of an append into the writer's buffer, and the seal if it fills the segment.
    fn encode(&self, writer: &mut Writer, records: &[Record]) -> Write {
        let index = self.index.read().expect("no holder panics");
        let segment = index.segments.last().expect("`roll` left one");
        let (at, salt, committed) = (segment.end, segment.salt, writer.committed);
        let buffer = &mut writer.buffer;
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES_KEPT);
        for record in records {
            let (crc, body_bytes, position) = (0, record.body.len() as u32, record.position());
            let (back, tag) = (buffer.len() as u32, Tag::Record(record.kind));
            frame::encode(
                buffer,
                at,
                salt,
                Head { crc, body_bytes, position, committed, back, tag },
                &record.body,
            );
        }
        let seals = at + buffer.len() as u64 >= self.config.segment_bytes;
        if seals {
            let mut offsets = segment.offsets.clone();
            let mut end = at;
            for record in records {
                offsets.push(end as u32);
                end += (frame::HEAD_BYTES + record.body.len()) as u64;
            }
            let last = records.last().map_or(segment.last, Record::position);
            Segment::encode_seal(buffer, (end, at, salt), &offsets, last, committed);
        }
        Write { file: Arc::clone(&segment.file), path: segment.path.clone(), at, seals }
    }

    fn truncate_files(&self, index: &mut Index, from: u64) -> Result<()> {
        while let Some(segment) = index.segments.pop_if(|segment| segment.first >= from) {
            self.files.remove(&segment.path).map_err(StoreError::io("remove", &segment.path))?;
            // One by one, from the end: a crash must not leave a gap.
            self.files.sync_dir(&self.dir).map_err(StoreError::io("sync", &self.dir))?;
        }
        match index.segments.last_mut() {
            Some(segment) if from < segment.next() => segment.cut(from),
            Some(_) | None => Ok(()),
        }
    }
}

/// The buffer of appends keeps this much between them.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// The file that says what was purged.
const PURGED: &str = "purged";

/// Where an append goes.
struct Write {
    file: Arc<dyn super::files::File>,
    path: PathBuf,
    at: u64,
    seals: bool,
}

fn check_order(last: Option<Position>, records: &[Record]) -> Result<()> {
    let first = last.map_or(records[0].index, |last| last.index + 1);
    match (first..).zip(records).find(|(expected, record)| record.index != *expected) {
        Some((expected, record)) => {
            Err(StoreError::OutOfOrder { what: "appending to the log", expected, got: record.index })
        }
        None => Ok(()),
    }
}

fn load_purged(files: &dyn Files, dir: &Path) -> Result<Option<Position>> {
    let path = dir.join(PURGED);
    let Some(bytes) = checked::load(files, &path)? else { return Ok(None) };
    let purged = postcard::from_bytes(&bytes);
    purged.map(Some).map_err(|error| StoreError::corrupt(&path, 0, format!("not a position: {error}")))
}

/// Opens the segments from the newest to the oldest (those that hold `start` or later), and removes those that are purged as a whole: a crash may have
/// brought back any of them.
fn open_segments(files: &dyn Files, dir: &Path, start: u64) -> Result<Vec<Segment>> {
    let names = files.list(dir).map_err(StoreError::io("list", dir))?;
    let mut segments: Vec<Segment> = Vec::new();
    let remove = |path: &Path| files.remove(path).map_err(StoreError::io("remove", path));
    for path in names.iter().rev().filter(|name| name.ends_with(segment::ENDING)).map(|name| dir.join(name)) {
        let Some(next) = segments.last().map(|next| next.first) else {
            match Segment::open_newest(files, path.clone())? {
                Some(segment) if !segment.offsets.is_empty() && segment.next() > start => {
                    segments.push(segment);
                }
                Some(_) | None => remove(&path)?,
            }
            continue;
        };
        if next <= start {
            remove(&path)?;
            continue;
        }
        let segment = Segment::open_sealed(files, path)?;
        if segment.next() != next {
            let why =
                format!("it ends before record {}, the next segment begins with {next}", segment.next());
            return Err(StoreError::corrupt(&segment.path, segment.end, why));
        }
        segments.push(segment);
    }
    segments.reverse();
    match segments.first() {
        Some(segment) if start > 0 && segment.first > start => {
            let why = format!("records {start} to {} are missing", segment.first - 1);
            Err(StoreError::corrupt(dir, 0, why))
        }
        Some(_) | None => Ok(segments),
    }
}
