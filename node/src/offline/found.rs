//! Makes a directory the first of a cluster that begins anew: what restore and recover have in common (PROTOCOL 6.10).

use std::path::Path;
use std::sync::Arc;

use matins_core::command::{Command, Entry, Proposal, Refound};
use matins_core::id::{ClusterId, LogIndex};
use matins_core::{State, apply};
use rand::Rng as _;

use super::OfflineError;
use crate::raft::snapshot;
use crate::store::files::Files;
use crate::store::log::{Log, LogConfig};
use crate::store::marker::DataDir;
use crate::store::snapshot::Snapshots;
use crate::store::vote::{VoteFile, VoteRecord};
use crate::store::{Position, StoreError};
use crate::system;

/// The lost cluster may have written entries after those that are here: no index is used twice, since clients go on at one.
const INDEX_AHEAD: u64 = 1_000_000_000;

/// A new cluster id. Zero stands for none on the wire.
pub(super) fn draw_cluster() -> u64 {
    system::random().random_range(1..=u64::MAX)
}

/// The state that the new cluster begins with.
pub(super) fn begin_anew(state: &mut State, refound: Refound) -> Result<(), OfflineError> {
    let index = LogIndex(state.index.0.saturating_add(INDEX_AHEAD));
    let proposal = Proposal { request: None, leadership: None, command: Command::Refound(refound) };
    let entry = Entry { level: state.cluster.level, at: state.now, proposals: vec![proposal] };
    let mut answers = apply(state, index, entry).answers;
    answers.pop().map_or(Ok(()), |answer| answer.map(drop).map_err(OfflineError::Refused))
}

/// Writes snapshot, log and vote, and last of all the marker. `term` is not below any that the directory has seen.
pub(super) fn found(
    files: &Arc<dyn Files>,
    dir: &DataDir,
    state: State,
    term: u64,
) -> Result<(), StoreError> {
    let root: &Path = dir.root();
    let node = dir.marker().node;
    let (cluster, level) = (state.cluster.id.unwrap_or(0), state.cluster.level);
    let last = Position { index: state.index.0, term, leader: node.0 };
    let snapshots = Snapshots::open(Arc::clone(files), &root.join("snapshots"))?;
    snapshot::found(&snapshots, state, last)?;
    let log = Log::open(Arc::clone(files), &root.join("log"), LogConfig::default())?;
    log.purge(last)?;
    // Not committed: the node must be elected, by itself, under a term above all that were (PROTOCOL 2.2).
    VoteFile::new(Arc::clone(files), root).save(&VoteRecord { term, node: node.0, committed: false })?;
    dir.found(ClusterId(cluster), level.into())
}
