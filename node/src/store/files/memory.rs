//! A disk in memory that forgets at a crash what was not synced: the hardest disk that is still honest.
//!
//! A write, a cut and a directory entry are visible at once and durable only after the matching sync. At a crash
//! each unsynced one survives or not on its own, and a surviving write may be torn.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{File, Files, Lock, Open};

/// A disk in memory; clones are handles to the same one.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    inodes: Vec<Inode>,
    /// What processes see.
    names: BTreeMap<PathBuf, usize>,
    /// What a crash leaves.
    names_durable: BTreeMap<PathBuf, usize>,
    locked: Vec<PathBuf>,
    /// Changes (writes, cuts, syncs, renames) that still succeed; `None` is no limit.
    changes_left: Option<u64>,
    syncs_fail: bool,
    room_bytes: Option<u64>,
    changes: u64,
    /// Rises with each crash: what was open before it is gone.
    age: u64,
}

#[derive(Default)]
struct Inode {
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, new) => {
                let (start, end) = (*offset as usize, *offset as usize + new.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(new);
            }
            Self::Cut(len) => bytes.resize(*len as usize, 0),
        }
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: what was not synced survives in part, as `seed` decides. Locks end, injected failures too.
    pub fn crash(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = self.inner();
        for inode in &mut disk.inodes {
            let style = rng.random_range(0..4);
            let unsynced = std::mem::take(&mut inode.unsynced);
            let kept = rng.random_range(0..=unsynced.len());
            for (at, change) in unsynced.iter().enumerate() {
                let keep = match style {
                    0 => false,
                    1 => true,
                    2 => at < kept,
                    _ => rng.random(),
                };
                if keep {
                    tear(change, &inode.durable, &mut rng).apply(&mut inode.durable);
                }
            }
            inode.visible.clone_from(&inode.durable);
        }
        let disk = &mut *disk;
        let mut names = disk.names_durable.clone();
        for path in disk.names.keys().chain(disk.names_durable.keys()) {
            if disk.names.get(path) != disk.names_durable.get(path) && rng.random() {
                match disk.names.get(path) {
                    Some(inode) => names.insert(path.clone(), *inode),
                    None => names.remove(path),
                };
            }
        }
        disk.names_durable.clone_from(&names);
        disk.names = names;
        disk.locked.clear();
        (disk.changes_left, disk.syncs_fail, disk.room_bytes) = (None, false, None);
        disk.age += 1;
    }

    /// Kills the process: what it wrote stays visible, its locks and the injected failures end.
    pub fn kill(&self) {
        let mut disk = self.inner();
        disk.locked.clear();
        (disk.changes_left, disk.syncs_fail, disk.room_bytes) = (None, false, None);
        disk.age += 1;
    }

    /// Lets `changes` more changes succeed; the next one does half its work and fails, and so do all after it.
    pub fn fail_after(&self, changes: u64) {
        self.inner().changes_left = Some(changes);
    }

    /// Makes every sync of a file fail from now on, or work again. A failed sync loses what it should have written.
    pub fn fail_syncs(&self, how: SyncsFail) {
        self.inner().syncs_fail = how == SyncsFail::Always;
    }

    /// Leaves room for `bytes` more; `None` is no limit.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.inner().room_bytes = bytes;
    }

    /// How many changes succeeded so far.
    pub fn changes(&self) -> u64 {
        self.inner().changes
    }

    /// Damages one byte, durably.
    pub fn flip_byte(&self, path: &Path, at: u64) {
        let mut disk = self.inner();
        let inode = disk.names[path];
        disk.inodes[inode].visible[at as usize] ^= 0xff;
        disk.inodes[inode].durable[at as usize] ^= 0xff;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A test that panics elsewhere must not hide its own message behind a poisoned lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether syncs fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncsFail {
    /// As on a broken disk.
    Always,
    /// As on a good one.
    Never,
}

/// A write may reach the disk in part: a prefix, or with a hole at its front. In the hole is what was there before, zeros where
/// that was nothing: a sector is written whole or not at all, so a write never takes away what it would only write again.
fn tear(change: &Change, before: &[u8], rng: &mut StdRng) -> Change {
    match change {
        Change::Cut(len) => Change::Cut(*len),
        Change::Write(offset, bytes) => {
            let mut bytes = bytes.clone();
            let at = rng.random_range(0..=bytes.len());
            match rng.random_range(0..3) {
                0 => bytes.truncate(at),
                1 => {
                    let there = before.get(*offset as usize..).unwrap_or_default();
                    let there = &there[..there.len().min(at)];
                    bytes[..at].fill(0);
                    bytes[..there.len()].copy_from_slice(there);
                }
                _ => {}
            }
            Change::Write(*offset, bytes)
        }
    }
}

impl Inner {
    /// Counts a change; an error if it was to fail.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => return Err(io::Error::other("the test stops here")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    fn not_found(&self, path: &Path) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, path.display().to_string());
        self.names.get(path).copied().ok_or_else(missing)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: usize,
    age: u64,
}

impl MemoryFile {
    fn live(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let disk = self.disk.inner();
        if disk.age == self.age { Ok(disk) } else { Err(io::Error::other("opened before the crash")) }
    }
}

impl Files for MemoryDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut disk = self.inner();
        let found = disk.not_found(path);
        let inode = match (found, how) {
            (found, Open::Existing | Open::Read) => found?,
            (Ok(inode), Open::OrCreate | Open::Truncated) => inode,
            (Err(_), Open::OrCreate | Open::Truncated) => {
                disk.change()?;
                disk.inodes.push(Inode::default());
                let inode = disk.inodes.len() - 1;
                disk.names.insert(path.into(), inode);
                inode
            }
        };
        if how == Open::Truncated && !disk.inodes[inode].visible.is_empty() {
            disk.change()?;
            disk.inodes[inode].visible.clear();
            disk.inodes[inode].unsynced.push(Change::Cut(0));
        }
        let age = disk.age;
        drop(disk);
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode, age }))
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        // Directories are durable from the start here: their names never change.
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.inner();
        let in_dir = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.inner();
        let inode = disk.not_found(from)?;
        disk.change()?;
        disk.names.remove(from);
        disk.names.insert(to.into(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.inner();
        disk.not_found(path)?;
        disk.change()?;
        disk.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.inner();
        disk.change()?;
        let in_dir = |path: &Path| path.parent() == Some(dir);
        disk.names_durable.retain(|path, _| !in_dir(path));
        let names: Vec<_> =
            disk.names.iter().filter(|(path, _)| in_dir(path)).map(|(p, i)| (p.clone(), *i)).collect();
        disk.names_durable.extend(names);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut disk = self.inner();
        if disk.locked.iter().any(|locked| locked == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk.locked.push(path.into());
        let age = disk.age;
        drop(disk);
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.into(), age }))
    }
}

impl File for MemoryFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.live()?;
        let content = &disk.inodes[self.inode].visible;
        let from = content.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(bytes.len());
        bytes[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.live()?;
        let allowed = disk.change();
        let mut len = if allowed.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let room = disk.room_bytes.unwrap_or(u64::MAX);
        len = len.min(room as usize);
        if let Some(room) = &mut disk.room_bytes {
            *room -= len as u64;
        }
        let change = Change::Write(offset, bytes[..len].to_vec());
        change.apply(&mut disk.inodes[self.inode].visible);
        disk.inodes[self.inode].unsynced.push(change);
        allowed?;
        if len < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.live()?;
        disk.change()?;
        let syncs_fail = disk.syncs_fail;
        let inode = &mut disk.inodes[self.inode];
        if syncs_fail {
            // As Linux does: the pages are marked clean, and a later sync will not write them.
            inode.unsynced.clear();
            return Err(io::Error::other("injected fsync error"));
        }
        for change in std::mem::take(&mut inode.unsynced) {
            change.apply(&mut inode.durable);
        }
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.live()?;
        disk.change()?;
        let inode = &mut disk.inodes[self.inode];
        inode.visible.resize(len as usize, 0);
        inode.unsynced.push(Change::Cut(len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.live()?.inodes[self.inode].visible.len() as u64)
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
    age: u64,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut disk = self.disk.inner();
        if disk.age == self.age {
            disk.locked.retain(|path| *path != self.path);
        }
    }
}
