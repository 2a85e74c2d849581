//! A disk in memory that keeps a tape of every change, so that the power can be cut afterwards at any of them.
//!
//! A write, a cut and a directory entry are seen at once and are durable only after the matching sync. Start reading at
//! [`Change`]; what a power cut leaves of a tape is decided in `cuts`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use matins_node::store::files::{File, Files, Lock, Open};

/// One change of the disk, in the order in which they were asked for.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A new, empty file.
    Create { path: PathBuf, inode: usize },
    /// Bytes.
    Write { inode: usize, at: u64, bytes: Arc<[u8]> },
    /// A file's new length.
    Cut { inode: usize, len: u64 },
    /// What was written to a file is durable.
    Sync { inode: usize },
    /// It failed: what was written since the last one never becomes durable, as on Linux, where the pages count as clean.
    SyncFailed { inode: usize },
    /// A file's new name. File systems do this as a whole.
    Rename { from: PathBuf, to: PathBuf, inode: usize },
    /// A name is gone.
    Remove { path: PathBuf },
    /// The entries of a directory are durable.
    SyncDir { dir: PathBuf },
    /// It failed; a later one may still make them durable.
    SyncDirFailed,
}

/// Files and their names at one instant. Cheap to copy.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    inodes: Vec<Arc<Vec<u8>>>,
    names: BTreeMap<PathBuf, usize>,
}

impl Image {
    /// Makes a change as a running system sees it.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { path, inode } => {
                self.inode(*inode);
                self.names.insert(path.clone(), *inode);
            }
            Change::Write { inode, at, bytes } => {
                let content = self.inode(*inode);
                let (start, end) = (*at as usize, *at as usize + bytes.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(bytes);
            }
            Change::Cut { inode, len } => self.inode(*inode).resize(*len as usize, 0),
            Change::Rename { from, to, inode } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *inode);
            }
            Change::Remove { path } => drop(self.names.remove(path)),
            Change::Sync { .. }
            | Change::SyncFailed { .. }
            | Change::SyncDir { .. }
            | Change::SyncDirFailed => {}
        }
    }

    /// The files that have a name, with their content.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.names.iter().map(|(path, inode)| {
            let content = self.inodes.get(*inode).map_or(&[][..], |content| content);
            (path.as_path(), content)
        })
    }

    /// Damages one bit of a file.
    pub(super) fn flip(&mut self, path: &Path, at: usize, bit: u8) {
        let inode = self.names[path];
        self.inode(inode)[at] ^= 1 << (bit % 8);
    }

    fn inode(&mut self, inode: usize) -> &mut Vec<u8> {
        if self.inodes.len() <= inode {
            self.inodes.resize_with(inode + 1, Arc::default);
        }
        Arc::make_mut(&mut self.inodes[inode])
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, path.display().to_string());
        self.names.get(path).copied().ok_or_else(missing)
    }
}

/// A disk that goes wrong once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not.
    #[default]
    None,
    /// The sync of this number fails, counted from 1; of a file or of a directory.
    Sync(u64),
    /// At the write of this number the disk is full, counted from 1; half of it is written.
    Full(u64),
}

/// The disk; clones are handles to the same one.
#[derive(Clone, Default)]
pub(super) struct TapeDisk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    image: Image,
    tape: Vec<Change>,
    locked: Vec<PathBuf>,
    fault: Fault,
    syncs: u64,
    writes: u64,
    /// Rises when the process ends: what it had open is gone.
    age: u64,
}

impl TapeDisk {
    /// A disk that holds this.
    pub(super) fn of(image: Image) -> Self {
        let disk = Self::default();
        disk.inner().image = image;
        disk
    }

    /// Arms a fault.
    pub(super) fn arm(&self, fault: Fault) {
        self.inner().fault = fault;
    }

    /// How many syncs and how many writes were asked for.
    pub(super) fn asked(&self) -> (u64, u64) {
        let disk = self.inner();
        (disk.syncs, disk.writes)
    }

    /// How many changes are on the tape.
    pub(super) fn changes(&self) -> usize {
        self.inner().tape.len()
    }

    /// The tape so far.
    pub(super) fn tape(&self) -> Vec<Change> {
        self.inner().tape.clone()
    }

    /// What a running system sees.
    pub(super) fn image(&self) -> Image {
        self.inner().image.clone()
    }

    /// Ends the process: its locks are free, and what it had open does nothing more.
    pub(super) fn kill(&self) {
        let mut disk = self.inner();
        disk.locked.clear();
        disk.age += 1;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn make(&mut self, change: Change) {
        self.image.apply(&change);
        self.tape.push(change);
    }

    /// Counts a sync, and says whether it is the one that fails.
    fn sync_fails(&mut self) -> bool {
        self.syncs += 1;
        self.fault == Fault::Sync(self.syncs)
    }
}

fn broken() -> io::Error {
    io::Error::other("injected: the disk could not write")
}

struct TapeFile {
    disk: TapeDisk,
    inode: usize,
    age: u64,
}

impl TapeFile {
    fn live(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let disk = self.disk.inner();
        if disk.age == self.age {
            Ok(disk)
        } else {
            Err(io::Error::other("opened by a process that has ended"))
        }
    }
}

impl Files for TapeDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut disk = self.inner();
        let found = disk.image.find(path);
        let inode = match (found, how) {
            (found, Open::Existing | Open::Read) => found?,
            (Ok(inode), Open::OrCreate | Open::Truncated) => inode,
            (Err(_), Open::OrCreate | Open::Truncated) => {
                let inode = disk.image.inodes.len();
                disk.make(Change::Create { path: path.into(), inode });
                inode
            }
        };
        if how == Open::Truncated && !disk.image.inodes[inode].is_empty() {
            disk.make(Change::Cut { inode, len: 0 });
        }
        let age = disk.age;
        drop(disk);
        Ok(Arc::new(TapeFile { disk: self.clone(), inode, age }))
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        // By its promise it is durable when it returns, and nothing is in it before that.
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.inner();
        let in_dir = disk.image.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.inner();
        let inode = disk.image.find(from)?;
        disk.make(Change::Rename { from: from.into(), to: to.into(), inode });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.inner();
        disk.image.find(path)?;
        disk.make(Change::Remove { path: path.into() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.inner();
        if disk.sync_fails() {
            disk.make(Change::SyncDirFailed);
            return Err(broken());
        }
        disk.make(Change::SyncDir { dir: dir.into() });
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
        Ok(Box::new(TapeLock { disk: self.clone(), path: path.into(), age }))
    }
}

impl File for TapeFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.live()?;
        let from = disk.image.inodes[self.inode].get(offset as usize..).unwrap_or_default();
        let len = from.len().min(bytes.len());
        bytes[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.live()?;
        disk.writes += 1;
        let is_full = disk.fault == Fault::Full(disk.writes);
        let written = if is_full { &bytes[..bytes.len() / 2] } else { bytes };
        disk.make(Change::Write { inode: self.inode, at: offset, bytes: written.into() });
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.live()?;
        if disk.sync_fails() {
            disk.make(Change::SyncFailed { inode: self.inode });
            return Err(broken());
        }
        disk.make(Change::Sync { inode: self.inode });
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.live()?.make(Change::Cut { inode: self.inode, len });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.live()?.image.inodes[self.inode].len() as u64)
    }
}

struct TapeLock {
    disk: TapeDisk,
    path: PathBuf,
    age: u64,
}

impl Lock for TapeLock {}

impl Drop for TapeLock {
    fn drop(&mut self) {
        let mut disk = self.disk.inner();
        if disk.age == self.age {
            disk.locked.retain(|path| *path != self.path);
        }
    }
}
