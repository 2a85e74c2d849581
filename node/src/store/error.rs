//! What can go wrong with a disk, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A failed call of the store. Nothing that was acknowledged before it is lost.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Nothing of the call was kept; it may be made again when there is room.
    #[error("no room left on the disk to {doing} `{}`", path.display())]
    Full {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused. A fault when the write path meets it (the log then answers `Stopped`).
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A fault: bytes that had been acknowledged are no longer what was written.
    #[error("`{}` is damaged at byte {at}: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        at: u64,
        /// What was found.
        why: String,
    },
    /// A fault: an earlier fsync or repair failed, so nothing can be promised any more until the process restarts.
    #[error("`{}` takes no more writes, because an earlier one failed: {why}", path.display())]
    Stopped {
        /// The file or directory.
        path: PathBuf,
        /// The first failure.
        why: String,
    },
    /// Written by a newer release.
    #[error("`{}` has format {found}, this release reads up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// A limit of the store.
    #[error("{what} has {asked} bytes, more than {limit} = {value}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The limit's name.
        limit: &'static str,
        /// Its value in bytes.
        value: u64,
        /// What was asked in bytes.
        asked: u64,
    },
    /// The caller broke the order of calls (a gap in the log, a chunk out of turn). Nothing was changed.
    #[error("{what}: expected {expected}, got {got}")]
    OutOfOrder {
        /// What is out of order.
        what: &'static str,
        /// The number that would have been taken.
        expected: u64,
        /// The number given.
        got: u64,
    },
    /// What was received is not what its digest or checksum says. It was thrown away; ask for it again.
    #[error("received {what} does not match its checksum: {why}")]
    BadTransfer {
        /// What was received.
        what: String,
        /// What was found.
        why: String,
    },
}

impl StoreError {
    /// Whether the node must stop before replicas part (STYLE 20): its disk no longer keeps what it acknowledged.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Corrupt { .. } | Self::Stopped { .. } | Self::Newer { .. } => true,
            Self::Full { .. }
            | Self::TooLarge { .. }
            | Self::OutOfOrder { .. }
            | Self::BadTransfer { .. } => false,
        }
    }

    /// Says what to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Full { .. } => "free some space on this disk; the node goes on by itself",
            Self::Io { .. } => {
                "look at the kernel's log and at the mount; start the node again when it is mended"
            }
            Self::Corrupt { .. } => {
                "the disk lost what it had acknowledged: `matins cluster replace NODE HOST:PORT` puts a node with an empty \
                 directory in its place; where no majority is left, go on from another node or from a backup"
            }
            Self::Stopped { .. } => "check the disk, then start the node again",
            Self::Newer { .. } => "start the release that wrote it, or a later one",
            Self::TooLarge { .. } => "split it",
            Self::OutOfOrder { .. } => "this is a defect of Matins: please report it",
            Self::BadTransfer { .. } => "nothing: it is fetched again",
        }
    }

    /// Turns an error of the system into one that names the file; `ENOSPC` and `EDQUOT` become `Full`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.into();
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return Self::Full { doing, path };
            }
            Self::Io { doing, path, source }
        }
    }

    /// A fault in the bytes of a file.
    pub(crate) fn corrupt(path: &Path, at: u64, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), at, why: why.into() }
    }
}
