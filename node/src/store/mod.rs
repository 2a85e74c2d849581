//! What must survive a power cut: log, vote, snapshots, blobs, history (PROTOCOL 6).
//!
//! Nothing here knows consensus or what an entry means: bodies are opaque bytes, so all of it is tested alone, on a
//! disk that forgets what was not synced. What a call has answered with `Ok` is on disk. Nothing is ever repaired in
//! silence: what a crash can leave behind is cleaned at open, everything else is a [`StoreError`] that is a fault.
//!
//! All calls block; the caller keeps them off the threads that must not wait. Start reading at `files` (the disk as
//! this module sees it), then `log`.

pub mod backup;
pub mod blobs;
mod checked;
mod error;
pub mod files;
mod frame;
pub mod history;
pub mod log;
pub mod marker;
pub mod snapshot;
pub mod vote;

pub use error::StoreError;

/// A result of this module.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The place of a record in the log: openraft's log id in plain numbers, which do not change with its releases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The index; rises by one from record to record.
    pub index: u64,
    /// The term of the leader that made the record.
    pub term: u64,
    /// That leader, by its node id.
    pub leader: u64,
}
