//! Blobs: immutable files named by their SHA-256 (PROTOCOL 6.4).
//!
//! Who needs a blob, and for how long, is not known here. Start reading at [`Blobs::put`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use matins_core::id::Digest;
use sha2::{Digest as _, Sha256};

use super::files::{File, Files, Open};
use super::{Result, StoreError};

/// How much of a file is read at once while it is verified.
const READ_BYTES: usize = 1 << 20;

/// The blobs of a node.
pub struct Blobs {
    files: Arc<dyn Files>,
    dir: PathBuf,
    /// What is here, durably, with its length in bytes.
    index: Mutex<BTreeMap<Digest, u64>>,
    /// Names the next temp file.
    temps: AtomicU64,
}

impl Blobs {
    /// Opens the blobs in `dir`, which is made if needed. Files that were never finished are removed; partial
    /// receives stay.
    pub fn open(files: Arc<dyn Files>, dir: &Path) -> Result<Self> {
        files.create_dir(dir).map_err(StoreError::io("create", dir))?;
        let mut index = BTreeMap::new();
        for name in files.list(dir).map_err(StoreError::io("list", dir))? {
            let path = dir.join(&name);
            if let Ok(digest) = name.parse() {
                let file = files.open(&path, Open::Read).map_err(StoreError::io("open", &path))?;
                index.insert(digest, file.len().map_err(StoreError::io("read", &path))?);
            } else if name.starts_with(TEMP) {
                files.remove(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        // A process killed between rename and fsync left names that only the cache knew.
        files.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        Ok(Self { files, dir: dir.into(), index: Mutex::new(index), temps: AtomicU64::new(0) })
    }

    /// Takes a blob in, durably.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut writer = self.writer()?;
        writer.write(bytes)?;
        writer.finish()
    }

    /// Begins a blob whose bytes come one after the other.
    pub fn writer(&self) -> Result<BlobWriter<'_>> {
        let path = self.dir.join(format!("{TEMP}{}", self.temps.fetch_add(1, Ordering::Relaxed)));
        let file = self.files.open(&path, Open::Truncated).map_err(StoreError::io("create", &path))?;
        Ok(BlobWriter { blobs: self, path, file, hasher: Sha256::new(), len: 0, state: WriterState::Open })
    }

    /// The whole blob, verified. `None` if it is not here; `Corrupt` if it is no longer what its name says: delete
    /// it and fetch it again.
    pub fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.read(digest, 0, u64::MAX)? else { return Ok(None) };
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        Err(StoreError::corrupt(&self.path(digest), 0, "its content does not match its name"))
    }

    /// Up to `bytes_max` bytes from `offset`, not verified; empty behind the end. `None` if the blob is not here.
    pub fn read(&self, digest: &Digest, offset: u64, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let Some(len) = self.len(digest) else { return Ok(None) };
        let path = self.path(digest);
        let file = match self.files.open(&path, Open::Read) {
            // Deleted meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        let mut bytes = vec![0; bytes_max.min(len.saturating_sub(offset)) as usize];
        let read = file.read_at(&mut bytes, offset).map_err(StoreError::io("read", &path))?;
        if read < bytes.len() {
            return Err(StoreError::corrupt(&path, offset + read as u64, "it ends too early"));
        }
        Ok(Some(bytes))
    }

    /// Whether a blob is here, durably.
    pub fn has(&self, digest: &Digest) -> bool {
        self.index().contains_key(digest)
    }

    /// The length of a blob in bytes. `None` if it is not here.
    pub fn len(&self, digest: &Digest) -> Option<u64> {
        self.index().get(digest).copied()
    }

    /// What is here, with its length in bytes, by digest.
    pub fn list(&self) -> Vec<(Digest, u64)> {
        self.index().iter().map(|(digest, len)| (*digest, *len)).collect()
    }

    /// The bytes of all blobs.
    pub fn total_bytes(&self) -> u64 {
        self.index().values().sum()
    }

    /// Deletes a blob, if it is here. After a crash it may be back.
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        let mut index = self.index();
        if index.remove(digest).is_none() {
            return Ok(());
        }
        let path = self.path(digest);
        self.files.remove(&path).map_err(StoreError::io("remove", &path))
    }

    /// How many bytes of a blob that is being received are here: the offset to go on from.
    pub fn received(&self, digest: &Digest) -> Result<u64> {
        let path = self.partial(digest);
        match self.files.open(&path, Open::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            opened => opened.and_then(|file| file.len()).map_err(StoreError::io("read", &path)),
        }
    }

    /// Takes the next bytes of a blob from a peer and answers the offset to go on from. `OutOfOrder` if they are not
    /// the next; a receive goes on after a restart.
    pub fn receive(&self, digest: &Digest, offset: u64, bytes: &[u8]) -> Result<u64> {
        let expected = self.received(digest)?;
        if offset != expected {
            return Err(StoreError::OutOfOrder { what: "receiving a blob", expected, got: offset });
        }
        let path = self.partial(digest);
        let file = self.files.open(&path, Open::OrCreate).map_err(StoreError::io("create", &path))?;
        if let Err(error) = file.write_at(bytes, offset) {
            file.truncate(offset).map_err(StoreError::io("cut", &path))?;
            return Err(StoreError::io("write", &path)(error));
        }
        Ok(offset + bytes.len() as u64)
    }

    /// Verifies what was received and makes it a blob, durably. `BadTransfer` if it is not what its digest says; it
    /// is then thrown away.
    pub fn finish_receive(&self, digest: &Digest) -> Result<()> {
        if self.has(digest) {
            return self.abandon_receive(digest);
        }
        let path = self.partial(digest);
        let file = self.files.open(&path, Open::OrCreate).map_err(StoreError::io("open", &path))?;
        let (found, len) = hash_file(&*file, &path)?;
        if found != *digest {
            self.abandon_receive(digest)?;
            let why = format!("{len} bytes have the digest {found}");
            return Err(StoreError::BadTransfer { what: format!("blob {digest}"), why });
        }
        if let Err(error) = file.sync() {
            // The pages count as clean now: the next sync would say yes to bytes that never reach the disk.
            self.abandon_receive(digest)?;
            return Err(StoreError::io("sync", &path)(error));
        }
        self.publish(&path, *digest, len)
    }

    /// Throws away what was received of a blob.
    pub fn abandon_receive(&self, digest: &Digest) -> Result<()> {
        let path = self.partial(digest);
        match self.files.remove(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(StoreError::io("remove", &path)),
        }
    }

    fn publish(&self, from: &Path, digest: Digest, len: u64) -> Result<()> {
        let to = self.path(&digest);
        // Under the lock, so that a delete of the same digest comes before or after, not between.
        let mut index = self.index();
        self.files.rename(from, &to).map_err(StoreError::io("publish", &to))?;
        self.files.sync_dir(&self.dir).map_err(StoreError::io("sync", &self.dir))?;
        index.insert(digest, len);
        Ok(())
    }

    /// The file that holds a blob, whether it is there or not. It is never changed.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("part-{digest}"))
    }

    fn index(&self) -> MutexGuard<'_, BTreeMap<Digest, u64>> {
        self.index.lock().expect("no holder panics")
    }
}

/// A blob under way. Dropped unfinished, it leaves nothing.
pub struct BlobWriter<'a> {
    blobs: &'a Blobs,
    path: PathBuf,
    file: Arc<dyn File>,
    hasher: Sha256,
    len: u64,
    state: WriterState,
}

#[derive(PartialEq, Eq)]
enum WriterState {
    Open,
    Published,
}

impl BlobWriter<'_> {
    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, self.len).map_err(StoreError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes it durable and answers its name.
    pub fn finish(mut self) -> Result<Digest> {
        let digest = Digest(std::mem::take(&mut self.hasher).finalize().into());
        if self.blobs.has(&digest) {
            return Ok(digest);
        }
        self.file.sync().map_err(StoreError::io("sync", &self.path))?;
        self.blobs.publish(&self.path, digest, self.len)?;
        self.state = WriterState::Published;
        Ok(digest)
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if self.state == WriterState::Open {
            // If this fails too, the next open removes it.
            let _ = self.blobs.files.remove(&self.path);
        }
    }
}

/// Begins the names of files that are not finished.
const TEMP: &str = "tmp-";

fn hash_file(file: &dyn File, path: &Path) -> Result<(Digest, u64)> {
    let (mut hasher, mut len) = (Sha256::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read_at(&mut buffer, len).map_err(StoreError::io("read", path))?;
        if read == 0 {
            return Ok((Digest(hasher.finalize().into()), len));
        }
        hasher.update(&buffer[..read]);
        len += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::{MemoryDisk, SyncsFail};
    use super::*;

    const DIR: &str = "/data/blobs";

    fn open(disk: &MemoryDisk) -> Blobs {
        Blobs::open(Arc::new(disk.clone()), Path::new(DIR)).expect("it opens")
    }

    #[test]
    fn rule_6_4_a_blob_that_was_taken_in_survives_every_crash() {
        for stop_at in 0..14 {
            for seed in 0..16 {
                let disk = MemoryDisk::new();
                let blobs = open(&disk);
                disk.fail_after(stop_at);
                let bodies = [b"one".repeat(50), b"two".repeat(50), b"three".repeat(50)];
                let taken: Vec<_> = bodies.iter().map_while(|body| blobs.put(body).ok()).collect();
                disk.crash(seed);
                let blobs = open(&disk);
                for (digest, body) in taken.iter().zip(&bodies) {
                    let got = blobs.get(digest).expect("it is whole");
                    assert_eq!(got.as_deref(), Some(&body[..]), "stop {stop_at} seed {seed}");
                }
                for (digest, _) in blobs.list() {
                    blobs.get(&digest).expect("what is listed is whole");
                }
            }
        }
    }

    #[test]
    fn a_receive_goes_on_after_a_restart_and_is_verified() {
        let disk = MemoryDisk::new();
        let digest = Digest::of(b"hello world");
        open(&disk).receive(&digest, 0, b"hello ").unwrap();
        disk.kill();
        let blobs = open(&disk);
        assert_eq!(blobs.received(&digest).unwrap(), 6);
        assert!(matches!(blobs.receive(&digest, 0, b"x"), Err(StoreError::OutOfOrder { expected: 6, .. })));
        blobs.receive(&digest, 6, b"world").unwrap();
        blobs.finish_receive(&digest).unwrap();
        assert_eq!(blobs.get(&digest).unwrap().as_deref(), Some(&b"hello world"[..]));
        assert_eq!(blobs.read(&digest, 6, 3).unwrap().as_deref(), Some(&b"wor"[..]));

        let other = Digest::of(b"other");
        blobs.receive(&other, 0, b"wrong").unwrap();
        assert!(matches!(blobs.finish_receive(&other), Err(StoreError::BadTransfer { .. })));
        assert_eq!(blobs.received(&other).unwrap(), 0, "what was wrong is not built upon");
        assert_eq!((blobs.has(&other), blobs.total_bytes()), (false, 11));
    }

    #[test]
    fn what_a_failed_sync_lost_is_not_taken_for_received() {
        let disk = MemoryDisk::new();
        let blobs = open(&disk);
        let digest = Digest::of(b"hello");
        blobs.receive(&digest, 0, b"hello").unwrap();
        disk.fail_syncs(SyncsFail::Always);
        assert!(blobs.finish_receive(&digest).is_err());
        disk.fail_syncs(SyncsFail::Never);
        assert_eq!(blobs.received(&digest).unwrap(), 0, "its bytes are asked for again");
        blobs.receive(&digest, 0, b"hello").unwrap();
        blobs.finish_receive(&digest).unwrap();
        disk.crash(1);
        assert_eq!(open(&disk).get(&digest).unwrap().as_deref(), Some(&b"hello"[..]));
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        let disk = MemoryDisk::new();
        let blobs = open(&disk);
        disk.set_room(Some(5));
        assert!(matches!(blobs.put(b"too long"), Err(StoreError::Full { .. })));
        disk.set_room(None);
        assert_eq!(disk.list(Path::new(DIR)).unwrap(), Vec::<String>::new());
        let digest = blobs.put(b"too long").unwrap();
        blobs.delete(&digest).unwrap();
        assert!(!open(&disk).has(&digest));
    }
}
