//! One file of the log: a head, frames, and once it is full a seal that lists where they begin.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use matins_core::mutation::{Mutation, planted};
use rand::Rng as _;

use super::super::files::{File, Files, Open};
use super::super::{Position, Result, StoreError};
use super::frame::{self, Head, Tag};

const MAGIC: &[u8; 8] = b"MATLOG\r\n";
const VERSION: u32 = 1;
/// Magic, version, salt, first index, crc32.
pub(super) const HEAD_BYTES: u64 = 32;
const SEAL_MAGIC: &[u8; 8] = b"MATSEAL\n";
/// Offset of the seal's frame, seal magic.
const TRAILER_BYTES: u64 = 16;

/// A segment and what is kept of it in memory: four bytes for each record.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) salt: u64,
    pub(super) first: u64,
    /// Where each record begins, from `first` on.
    pub(super) offsets: Vec<u32>,
    /// Where the last record ends.
    pub(super) end: u64,
    /// Of the last record; meaningless while there is none.
    pub(super) last: Position,
    pub(super) is_sealed: bool,
    /// How many indexes its frames know as committed (the newest of them + 1); 0 for none.
    pub(super) committed: u64,
}

impl Segment {
    /// Makes an empty segment, durably.
    pub(super) fn create(files: &dyn Files, dir: &Path, first: u64) -> Result<Self> {
        let path = dir.join(file_name(first));
        let salt = crate::system::random().random();
        let mut head = Vec::with_capacity(HEAD_BYTES as usize);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&u64::to_le_bytes(salt));
        head.extend_from_slice(&first.to_le_bytes());
        head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
        let file = files.open(&path, Open::Truncated).map_err(StoreError::io("create", &path))?;
        file.write_at(&head, 0).map_err(StoreError::io("write", &path))?;
        file.sync().map_err(StoreError::io("sync", &path))?;
        if !planted(Mutation::DirectoryNotSynced) {
            files.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        }
        Ok(Self::empty(path, file, salt, first))
    }

    fn empty(path: PathBuf, file: Arc<dyn File>, salt: u64, first: u64) -> Self {
        let (offsets, last) = (Vec::new(), Position::default());
        Self { path, file, salt, first, offsets, end: HEAD_BYTES, last, is_sealed: false, committed: 0 }
    }

    /// Opens a segment that others follow: it must be sealed, and its records are not read.
    pub(super) fn open_sealed(files: &dyn Files, path: PathBuf) -> Result<Self> {
        let mut segment = Self::open_head(files, path)?.map_err(|path| {
            StoreError::corrupt(&path, 0, "its head is damaged, and other segments follow it")
        })?;
        if segment.read_seal()? {
            return Ok(segment);
        }
        let len = segment.len()?;
        Err(StoreError::corrupt(&segment.path, len, "it has no valid seal, though other segments follow it"))
    }

    /// Opens the newest segment and cuts what a crash left half written. `None` if that is all of it.
    pub(super) fn open_newest(files: &dyn Files, path: PathBuf) -> Result<Option<Self>> {
        let mut segment = match Self::open_head(files, path)? {
            Ok(segment) => segment,
            Err(path) => {
                // The head is synced before the first record is written, so nothing was acknowledged from here.
                let file = files.open(&path, Open::Read).map_err(StoreError::io("open", &path))?;
                let len = file.len().map_err(StoreError::io("read", &path))?;
                return if len <= HEAD_BYTES {
                    Ok(None)
                } else {
                    Err(StoreError::corrupt(&path, 0, "its head is damaged, though records follow it"))
                };
            }
        };
        // A seal proves nothing here: it is written with the last append, of which it may be all that survived.
        segment.scan()?;
        Ok(Some(segment))
    }

    /// The segment without its records, or the path back if its head is not valid.
    fn open_head(files: &dyn Files, path: PathBuf) -> Result<Result<Self, PathBuf>> {
        let file = files.open(&path, Open::Existing).map_err(StoreError::io("open", &path))?;
        let mut head = [0; HEAD_BYTES as usize];
        let read = file.read_at(&mut head, 0).map_err(StoreError::io("read", &path))?;
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let short = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
        if read < head.len() || !head.starts_with(MAGIC) || crc32fast::hash(&head[..28]) != short(28) {
            return Ok(Err(path));
        }
        if short(8) > VERSION {
            return Err(StoreError::Newer { path, found: short(8), known: VERSION });
        }
        if path.file_name().and_then(|name| name.to_str()) != Some(&file_name(long(20))) {
            return Err(StoreError::corrupt(&path, 20, "its name is not that of its first record"));
        }
        Ok(Ok(Self::empty(path, file, long(12), long(20))))
    }

    /// Takes the list of records from the seal, if there is a valid one.
    fn read_seal(&mut self) -> Result<bool> {
        let len = self.len()?;
        if len < HEAD_BYTES + TRAILER_BYTES {
            return Ok(false);
        }
        let trailer = self.read(len - TRAILER_BYTES, TRAILER_BYTES as usize)?;
        let seal_at = u64::from_le_bytes(trailer[..8].try_into().expect("8 bytes"));
        if trailer[8..] != *SEAL_MAGIC || seal_at >= len - TRAILER_BYTES {
            return Ok(false);
        }
        let bytes = self.read(seal_at, (len - TRAILER_BYTES - seal_at) as usize)?;
        let Some((head, body)) = frame::decode(&bytes, seal_at, self.salt) else { return Ok(false) };
        if head.tag != Tag::Seal {
            return Ok(false);
        }
        let offset = |four: &[u8]| u32::from_le_bytes(four.try_into().expect("chunks of 4"));
        self.offsets = body.chunks_exact(4).map(offset).collect();
        (self.end, self.last, self.committed, self.is_sealed) =
            (seal_at, head.position, head.committed, true);
        Ok(true)
    }

    /// Reads every record, cuts a torn tail, and makes what is left durable.
    fn scan(&mut self) -> Result<()> {
        let len = self.len()?;
        let bytes = self.read(0, len as usize)?;
        let (mut batch, mut keep) = (HEAD_BYTES, HEAD_BYTES);
        while let Some((head, body)) = frame::decode(&bytes[self.end as usize..], self.end, self.salt) {
            if head.tag == Tag::Seal {
                let trailer = [&self.end.to_le_bytes()[..], SEAL_MAGIC].concat();
                self.is_sealed = bytes[self.end as usize + frame::HEAD_BYTES + body.len()..] == trailer;
                keep = if self.is_sealed { len } else { self.end };
                break;
            }
            let expected = self.next();
            if head.position.index != expected {
                let why = format!("record {} stands where {expected} belongs", head.position.index);
                return Err(StoreError::corrupt(&self.path, self.end, why));
            }
            batch = self.end - u64::from(head.back);
            self.committed = self.committed.max(head.committed);
            self.push(head.position, (frame::HEAD_BYTES + body.len()) as u64);
            keep = self.end;
        }
        self.refuse_damage_in_the_middle(&bytes)?;
        if keep < len && !planted(Mutation::TornTailKept) {
            self.file.truncate(keep).map_err(StoreError::io("cut the torn tail of", &self.path))?;
        }
        // The last append may be in the cache only: of a process that was killed before its fsync, or whose fsync
        // failed, after which Linux counts the pages as clean. Writing them again makes the sync mean something.
        self.file
            .write_at(&bytes[batch as usize..keep as usize], batch)
            .and_then(|()| self.file.sync())
            .map_err(StoreError::io("sync", &self.path))
    }

    /// Looks behind the first invalid byte. A valid record there whose append began later was written after this
    /// place had been synced: not a torn tail but damage. (One of the same append may survive a torn write.)
    fn refuse_damage_in_the_middle(&self, bytes: &[u8]) -> Result<()> {
        let next = self.next();
        for at in self.end as usize + 1..bytes.len() {
            let Some(head) = frame::head(&bytes[at..]) else { continue };
            let is_near = head.position.index >= next && head.position.index - next <= bytes.len() as u64;
            let is_later = at as u64 - u64::from(head.back).min(at as u64) > self.end;
            if is_near && is_later && frame::decode(&bytes[at..], at as u64, self.salt).is_some() {
                let why =
                    format!("record {next} is not valid, but record {} behind it is", head.position.index);
                return Err(StoreError::corrupt(&self.path, self.end, why));
            }
        }
        Ok(())
    }

    /// Counts a record that was written at `end`.
    pub(super) fn push(&mut self, position: Position, bytes: u64) {
        self.offsets.push(self.end as u32);
        self.end += bytes;
        self.last = position;
    }

    /// The seal for a segment whose records begin at `offsets`, to be written at `at` by an append that began at
    /// `batch`.
    pub(super) fn encode_seal(
        out: &mut Vec<u8>,
        (at, batch, salt): (u64, u64, u64),
        offsets: &[u32],
        last: Position,
        committed: u64,
    ) {
        let body: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let base = at - out.len() as u64;
        let (crc, back, tag) = (0, (at - batch) as u32, Tag::Seal);
        let head = Head { crc, body_bytes: body.len() as u32, position: last, committed, back, tag };
        frame::encode(out, base, salt, head, &body);
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(SEAL_MAGIC);
    }

    /// The index behind its last record: `first` if it is empty.
    pub(super) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    /// Where the record of `index` ends.
    pub(super) fn end_of(&self, index: u64) -> u64 {
        self.offsets.get((index + 1 - self.first) as usize).map_or(self.end, |offset| u64::from(*offset))
    }

    /// Where the record of `index` begins.
    pub(super) fn start_of(&self, index: u64) -> u64 {
        u64::from(self.offsets[(index - self.first) as usize])
    }

    /// Cuts everything from `index` on, the seal too, durably.
    pub(super) fn cut(&mut self, index: u64) -> Result<()> {
        let end = self.start_of(index);
        self.file.truncate(end).and_then(|()| self.file.sync()).map_err(StoreError::io("cut", &self.path))?;
        self.offsets.truncate((index - self.first) as usize);
        (self.end, self.is_sealed) = (end, false);
        if index > self.first {
            self.last = self.position(index - 1)?;
        }
        Ok(())
    }

    /// The position of the record of `index`, from its head.
    pub(super) fn position(&self, index: u64) -> Result<Position> {
        let (start, end) = (self.start_of(index), self.end_of(index));
        let bytes = Bytes::from(self.read(start, (end - start) as usize)?);
        match frame::decode(&bytes, start, self.salt) {
            Some((head, _)) if head.position.index == index => Ok(head.position),
            _ => Err(self.damaged(index)),
        }
    }

    /// The fault of a record that is not what was written.
    pub(super) fn damaged(&self, index: u64) -> StoreError {
        let why = format!("record {index} does not match its checksum");
        StoreError::corrupt(&self.path, self.start_of(index), why)
    }

    /// Exactly `len` bytes of the file.
    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.file.read_at(&mut bytes, at).map_err(StoreError::io("read", &self.path))?;
        if read < len {
            return Err(StoreError::corrupt(&self.path, at + read as u64, "it ends too early"));
        }
        Ok(bytes)
    }

    fn len(&self) -> Result<u64> {
        self.file.len().map_err(StoreError::io("read", &self.path))
    }
}

/// How the names of segments end.
pub(super) const ENDING: &str = ".log";

/// The name of the segment that begins with record `first`; names sort as numbers do.
pub(super) fn file_name(first: u64) -> String {
    format!("{first:020}{ENDING}")
}
