//! Snapshots: the state at one index, in chunks of 1 MiB, compressed, with a checksum each and one of the whole
//! (PROTOCOL 6.8).
//!
//! A snapshot is a row of *pieces*: the head, the chunks, the end. It is sent piece by piece under the same checks as
//! it is read, so that a transfer goes on at a piece. What the body means is not known here. A snapshot counts only
//! once it is published: verified as a whole, fsynced, renamed. Start reading at [`Snapshots`]; `pieces` has the bytes.

mod pieces;
mod receive;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use matins_core::id::Digest;
use serde::{Deserialize, Serialize};

pub use self::receive::SnapshotReceiver;

use self::pieces::{CHUNK_BYTES, Piece, Scan};
use super::files::{File, Files, Open};
use super::{Position, Result, StoreError};

/// How many published snapshots are kept.
pub const SNAPSHOTS_KEPT: usize = 2;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last record that is in it.
    pub last: Position,
    /// The feature level in force there (PROTOCOL 6.9).
    pub level: u32,
    /// The members there, as opaque bytes.
    pub membership: Vec<u8>,
    /// The hash of the state that a majority reported.
    pub state_hash: Digest,
}

/// The snapshots of a node.
pub struct Snapshots {
    files: Arc<dyn Files>,
    dir: PathBuf,
    /// Published and valid, the oldest first.
    published: Mutex<Vec<Arc<Snapshot>>>,
}

impl Snapshots {
    /// Opens the snapshots in `dir`, which is made if needed. Reads the newest ones through; one that is damaged is
    /// left out, and its file set aside as `NAME.damaged`: see [`Snapshots::damaged`].
    pub fn open(files: Arc<dyn Files>, dir: &Path) -> Result<Self> {
        files.create_dir(dir).map_err(StoreError::io("create", dir))?;
        let mut published = Vec::new();
        let names = files.list(dir).map_err(StoreError::io("list", dir))?;
        for name in names.iter().rev() {
            let path = dir.join(name);
            if name.ends_with(UNPUBLISHED) || (name.ends_with(PUBLISHED) && published.len() == SNAPSHOTS_KEPT)
            {
                files.remove(&path).map_err(StoreError::io("remove", &path))?;
            } else if name.ends_with(PUBLISHED) {
                match Snapshot::open(&*files, &path) {
                    Ok(snapshot) => published.push(Arc::new(snapshot)),
                    Err(StoreError::Corrupt { .. }) => {
                        let aside = path.with_extension("damaged");
                        files.rename(&path, &aside).map_err(StoreError::io("set aside", &path))?;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        published.reverse();
        if let Some(newest) = published.last() {
            // Received in part, and overtaken since.
            let newest = name_of(&newest.meta.last);
            for name in names.iter().filter(|name| name.ends_with(PARTIAL) && **name < newest) {
                let path = dir.join(name);
                files.remove(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        files.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        Ok(Self { files, dir: dir.into(), published: Mutex::new(published) })
    }

    /// The newest published snapshot. `None` if there is none.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.published().last().cloned()
    }

    /// The files that were set aside because they were damaged: an alarm, and a fault if the log behind them is gone.
    pub fn damaged(&self) -> Result<Vec<String>> {
        let names = self.files.list(&self.dir).map_err(StoreError::io("list", &self.dir))?;
        Ok(names.into_iter().filter(|name| name.ends_with(".damaged")).collect())
    }

    /// Begins a snapshot. Write the body into it, then `finish`, then `publish` once a majority agrees.
    pub fn write(&self, meta: &SnapshotMeta) -> Result<SnapshotWriter> {
        let path = self.dir.join(format!("{}{UNPUBLISHED}", name_of(&meta.last)));
        let file = self.files.open(&path, Open::Truncated).map_err(StoreError::io("create", &path))?;
        let mut scan = Scan::default();
        let head = pieces::encode_head(meta);
        file.write_at(&head, 0).map_err(StoreError::io("write", &path))?;
        scan.add(&head).expect("what was just encoded is valid");
        Ok(SnapshotWriter { files: Arc::clone(&self.files), path, file, scan, buffer: Vec::new() })
    }

    /// Makes a finished snapshot the one that is loaded and sent, durably; of those before it one stays.
    pub fn publish(&self, snapshot: UnpublishedSnapshot) -> Result<Arc<Snapshot>> {
        let UnpublishedSnapshot { file, path: from, scan, .. } = snapshot;
        let meta = scan.meta.clone().expect("a finished snapshot has a head");
        let path = self.dir.join(format!("{}{PUBLISHED}", name_of(&meta.last)));
        self.files.rename(&from, &path).map_err(StoreError::io("publish", &path))?;
        self.files.sync_dir(&self.dir).map_err(StoreError::io("sync", &self.dir))?;
        let snapshot = Arc::new(Snapshot { path, file, meta, scan });
        let mut published = self.published();
        published.retain(|other| other.meta.last != snapshot.meta.last);
        published.push(Arc::clone(&snapshot));
        published.sort_by_key(|snapshot| (snapshot.meta.last.index, snapshot.meta.last.term));
        while published.len() > SNAPSHOTS_KEPT {
            // Those who read it go on: they have the file open.
            let old = published.remove(0);
            self.files.remove(&old.path).map_err(StoreError::io("remove", &old.path))?;
        }
        Ok(snapshot)
    }

    /// Begins to receive a snapshot whose last record is `last`, or goes on where an earlier receive of it ended.
    pub fn receive(&self, last: Position) -> Result<SnapshotReceiver> {
        SnapshotReceiver::open(
            Arc::clone(&self.files),
            self.dir.join(format!("{}{PARTIAL}", name_of(&last))),
            last,
        )
    }

    fn published(&self) -> MutexGuard<'_, Vec<Arc<Snapshot>>> {
        self.published.lock().expect("no holder panics")
    }
}

/// A published snapshot; readable as long as someone holds it.
pub struct Snapshot {
    path: PathBuf,
    file: Arc<dyn File>,
    meta: SnapshotMeta,
    scan: Scan,
}

impl Snapshot {
    /// Opens a file and reads it through.
    fn open(files: &dyn Files, path: &Path) -> Result<Self> {
        let file = files.open(path, Open::Read).map_err(StoreError::io("open", path))?;
        let scan = Scan::of_file(&*file, path)?;
        let at = scan.end();
        let len = file.len().map_err(StoreError::io("read", path))?;
        match &scan.meta {
            Some(meta) if scan.is_complete && at == len => {
                Ok(Self { path: path.into(), file, meta: meta.clone(), scan })
            }
            Some(_) | None => Err(StoreError::corrupt(path, at, "a piece does not match its checksum")),
        }
    }

    /// What it is of.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// How many pieces it has: the head, the chunks, the end.
    pub fn pieces(&self) -> u64 {
        self.scan.ends.len() as u64
    }

    /// Its length on disk.
    pub fn bytes(&self) -> u64 {
        self.scan.end()
    }

    /// The piece `number`, counted from 0, as it is sent. `None` behind the last.
    pub fn piece(&self, number: u64) -> Result<Option<Bytes>> {
        let Some(end) = self.scan.ends.get(number as usize) else { return Ok(None) };
        let start = number.checked_sub(1).map_or(0, |before| self.scan.ends[before as usize]);
        let mut bytes = vec![0; (end - start) as usize];
        let read = self.file.read_at(&mut bytes, start).map_err(StoreError::io("read", &self.path))?;
        if read < bytes.len() {
            return Err(StoreError::corrupt(&self.path, start + read as u64, "it ends too early"));
        }
        Ok(Some(bytes.into()))
    }

    /// The body, one chunk after the other.
    pub fn reader(self: &Arc<Self>) -> SnapshotReader {
        SnapshotReader { snapshot: Arc::clone(self), next: 1, chunk: io::Cursor::default() }
    }
}

/// Reads the body of a snapshot; each chunk is checked again.
pub struct SnapshotReader {
    snapshot: Arc<Snapshot>,
    next: u64,
    chunk: io::Cursor<Vec<u8>>,
}

impl io::Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.position() == self.chunk.get_ref().len() as u64 {
            let piece = self.snapshot.piece(self.next).map_err(io::Error::other)?;
            match piece.as_deref().map(pieces::decode) {
                Some(Ok(Piece::Chunk(body))) => self.chunk = io::Cursor::new(body),
                Some(Ok(Piece::End { .. })) | None => return Ok(0),
                Some(Ok(Piece::Head(_)) | Err(_)) => {
                    let why = format!("piece {} does not match its checksum", self.next);
                    let error = StoreError::corrupt(&self.snapshot.path, 0, why);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
            self.next += 1;
        }
        self.chunk.read(out)
    }
}

/// A snapshot under way: an [`io::Write`] for its body.
pub struct SnapshotWriter {
    files: Arc<dyn Files>,
    path: PathBuf,
    file: Arc<dyn File>,
    scan: Scan,
    buffer: Vec<u8>,
}

impl SnapshotWriter {
    /// Ends the body and makes the file durable, not yet published.
    pub fn finish(mut self) -> Result<UnpublishedSnapshot> {
        if !self.buffer.is_empty() {
            self.put_chunk(self.buffer.len()).map_err(StoreError::io("write", &self.path))?;
        }
        let end = self.scan.encode_end();
        self.put(&end).map_err(StoreError::io("write", &self.path))?;
        self.file.sync().map_err(StoreError::io("sync", &self.path))?;
        let Self { files, path, file, scan, .. } = self;
        Ok(UnpublishedSnapshot { files, path, file, scan })
    }

    fn put_chunk(&mut self, len: usize) -> io::Result<()> {
        let piece = pieces::encode_chunk(&self.buffer[..len]);
        self.buffer.drain(..len);
        self.put(&piece)
    }

    fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_at(piece, self.scan.end())?;
        self.scan.add(piece).expect("what was just encoded is valid");
        Ok(())
    }
}

impl io::Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= CHUNK_BYTES {
            self.put_chunk(CHUNK_BYTES)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A snapshot that is whole and durable, but does not count yet. A restart before [`Snapshots::publish`] removes it.
pub struct UnpublishedSnapshot {
    files: Arc<dyn Files>,
    path: PathBuf,
    file: Arc<dyn File>,
    scan: Scan,
}

impl UnpublishedSnapshot {
    /// What it is of.
    pub fn meta(&self) -> &SnapshotMeta {
        self.scan.meta.as_ref().expect("a finished snapshot has a head")
    }

    /// Throws it away: no majority agreed.
    pub fn discard(self) -> Result<()> {
        self.files.remove(&self.path).map_err(StoreError::io("remove", &self.path))
    }
}

const PUBLISHED: &str = ".snapshot";
const UNPUBLISHED: &str = ".writing";
const PARTIAL: &str = ".part";

/// Names sort as indexes do.
fn name_of(last: &Position) -> String {
    format!("{:020}-{:020}-{}", last.index, last.term, last.leader)
}
