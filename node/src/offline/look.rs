//! A disk that is only looked at: what the store would clean up at a start is noted, and nothing is changed.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::StoreError;
use crate::store::files::{Disk, File, Files, Lock, Open};
use crate::store::log::{Log, LogConfig};
use crate::store::snapshot::Snapshots;

/// The real disk, read only.
#[derive(Clone, Default)]
pub(super) struct Look {
    /// What a start of the node would change.
    changes: Arc<Mutex<Vec<String>>>,
}

impl Look {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// What a start of the node would change, since this was last asked.
    pub(super) fn take_changes(&self) -> Vec<String> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, change: String) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }
}

impl Files for Look {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        match how {
            Open::Read | Open::Existing | Open::OrCreate => {
                let file = Disk.open(path, Open::Read)?;
                Ok(Arc::new(LookedAt { file, path: path.display().to_string(), look: self.clone() }))
            }
            Open::Truncated => Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "it is only looked at")),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(format!("{} is set aside as {}", from.display(), to.display()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note(format!("{} is removed", path.display()));
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = std::fs::File::open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        Ok(Box::new(file))
    }
}

/// A file that is only looked at. Its length is what the store has cut it to.
struct LookedAt {
    file: Arc<dyn File>,
    path: String,
    look: Look,
}

impl File for LookedAt {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    /// At an open the store writes the last append again, as it is, so that a sync means something.
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let torn = self.file.len()?.saturating_sub(len);
        if torn > 0 {
            self.look
                .note(format!("{torn} bytes at the end of {} are cut: an append that was torn", self.path));
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// The snapshots and the log of a directory.
pub(super) fn opened(files: &Arc<dyn Files>, root: &Path) -> Result<(Snapshots, Log), StoreError> {
    let snapshots = Snapshots::open(Arc::clone(files), &root.join("snapshots"))?;
    let log = Log::open(Arc::clone(files), &root.join("log"), LogConfig::default())?;
    Ok((snapshots, log))
}
