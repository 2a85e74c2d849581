//! The disk as the store sees it: one small trait, so that a simulated disk can take its place (PROTOCOL 6.1).
//!
//! It knows only what the store needs: files written at an offset, what makes them durable, and directories whose
//! entries must be made durable apart. It never retries and never hides an error. [`Disk`] is the real one,
//! [`MemoryDisk`] one that forgets at a crash what was not synced.

mod disk;
mod memory;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use disk::Disk;
pub use memory::{MemoryDisk, SyncsFail};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading and writing; it must be there.
    Existing,
    /// For reading and writing; made empty if it is not there.
    OrCreate,
    /// Made anew; what stood there is cut to nothing.
    Truncated,
    /// For reading only; it must be there.
    Read,
}

/// A disk, or something that behaves like one.
pub trait Files: Send + Sync + 'static {
    /// Opens a file. A file that it makes is lost at a crash until [`Files::sync_dir`] of its directory.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Makes a directory and those above it, durably.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name; what stood there is gone. Durable after [`Files::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; those who have it open go on reading. Durable after [`Files::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes a lock that ends with the process or when it is dropped. `WouldBlock` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// An open file. All offsets and lengths are in bytes.
pub trait File: Send + Sync {
    /// Reads at an offset; fewer bytes than asked only at the file's end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes, in one call where the system takes them at once. After an error any part may be written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable, the length included (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file to a length.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A lock on a file, held until it is dropped.
pub trait Lock: Send + Sync {}
