//! Where a node keeps what must survive, and how much of its log.

use std::fmt;
use std::sync::Arc;

use crate::shrink::shrunk;
use crate::store::files::Files;
use crate::store::log::LogConfig;
use crate::system;

/// The disk of a node, and how long its log may become behind a snapshot (PROTOCOL 6.8).
#[derive(Clone)]
pub struct StorageConfig {
    /// The disk.
    pub files: Arc<dyn Files>,
    /// When a segment of the log is sealed.
    pub log: LogConfig,
    /// A purge leaves at least so many records ...
    pub keep_records: u64,
    /// ... or so many bytes, whichever is less.
    pub keep_bytes: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            files: system::disk(),
            log: LogConfig { segment_bytes: shrunk(LogConfig::default().segment_bytes) },
            keep_records: shrunk(100_000),
            keep_bytes: shrunk(64 << 20),
        }
    }
}

impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageConfig")
            .field("log", &self.log)
            .field("keep_records", &self.keep_records)
            .field("keep_bytes", &self.keep_bytes)
            .finish_non_exhaustive()
    }
}
