//! Makes the state of a directory another one, under checksums that hold: what a flipped bit of memory does. Only in builds
//! for development, for the test that such a node is found out (PROTOCOL 6.8).

use std::path::Path;

use super::OfflineError;
use super::look::opened;
use crate::raft::snapshot;
use crate::system;

/// Changes what the newest snapshot says, and the snapshot's own hash with it.
pub fn corrupt_for_a_test(root: &Path) -> Result<(), OfflineError> {
    let (snapshots, log) = opened(&system::disk(), root)?;
    let newest = snapshots.newest().ok_or_else(|| OfflineError::Nothing(root.into()))?;
    drop(log);
    snapshot::corrupt(&snapshots, &newest)?;
    Ok(())
}
