//! Where a node keeps what must survive, and how much of its log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::DiskLimits;
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
    /// How often blobs that nothing names are looked for.
    pub sweep_every: Duration,
    /// How full the disk may be.
    pub limits: DiskLimits,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            files: system::disk(),
            log: LogConfig { segment_bytes: shrunk(LogConfig::default().segment_bytes) },
            // A simulation is to see followers fall behind it within minutes.
            keep_records: if cfg!(feature = "simulation") { 300 } else { shrunk(100_000) },
            keep_bytes: shrunk(64 << 20),
            sweep_every: Duration::from_millis(shrunk(600_000)),
            limits: DiskLimits::default(),
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
