//! A cluster that has lost its majority for good goes on from one directory (PROTOCOL 6.10).
//!
//! What the lost majority acknowledged and this directory has not is lost. It is never done by itself: a person has seen
//! [`plan`] and said so.

use std::path::Path;
use std::sync::Arc;

use matins_core::command::{After, Refound};
use matins_core::id::{Digest, NodeId};
use matins_core::time::Timestamp;
use matins_core::{Effect, LEVEL, State};

use super::OfflineError;
use super::found::{begin_anew, draw_cluster, found};
use super::look::{Look, opened};
use crate::raft::replay::{Replayed, replay};
use crate::store::blobs::Blobs;
use crate::store::files::Files;
use crate::store::marker::{self, DataDir, Marker, MarkerError};
use crate::system;

/// Marks a directory in which a recovery was cut short; the next one goes on.
const CUT_SHORT: &str = "a recovery of it was cut short; run `matins cluster recover` again";

/// What a recovery from a directory would come to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster that lost its majority.
    pub cluster: u64,
    /// Whose directory it is.
    pub node: NodeId,
    /// The last entry in it. Of several survivors the one with the highest term, then index, has the most.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Leader time there.
    pub now: Timestamp,
    /// All members, and whether they voted: id, label, voter.
    pub members: Vec<(NodeId, String, bool)>,
    /// Runs that have not finished, which go on.
    pub live_runs: u64,
}

/// Looks at a directory, and changes nothing.
pub fn plan(root: &Path) -> Result<Plan, OfflineError> {
    let look: Arc<dyn Files> = Arc::new(Look::new());
    let real = system::disk();
    if marker::is_held(&*look, root) {
        return Err(MarkerError::InUse(root.into()).into());
    }
    let marker = marker::look(&*real, root)?.ok_or_else(|| OfflineError::Nothing(root.into()))?;
    let cluster = marker.cluster.ok_or_else(|| OfflineError::Nothing(root.into()))?;
    let (snapshots, log) = opened(&look, root)?;
    let replayed = replay(snapshots.newest().as_ref(), &log, &mut |_, _| {})?;
    let last = replayed.last.ok_or_else(|| OfflineError::Nothing(root.into()))?;
    let voters = replayed.members.voters();
    let members = replayed.members.nodes.iter();
    Ok(Plan {
        cluster: cluster.0,
        node: marker.node,
        index: last.index,
        term: last.term,
        now: replayed.state.now,
        members: members.map(|(id, member)| (*id, member.name.clone(), voters.contains(id))).collect(),
        live_runs: replayed.state.runs.iter().filter(|(_, row)| row.is_active()).count() as u64,
    })
}

/// Makes the directory that of a new cluster's only node, and gives the new cluster's id. One that was cut short is brought
/// to its end.
pub fn recover(root: &Path, schedules: After) -> Result<u64, OfflineError> {
    recover_on(&system::disk(), root, schedules)
}

pub(super) fn recover_on(files: &Arc<dyn Files>, root: &Path, schedules: After) -> Result<u64, OfflineError> {
    let dir = DataDir::open_again(Arc::clone(files), root, LEVEL.into(), CUT_SHORT)?;
    let Marker { cluster, stopped, .. } = dir.marker();
    let lost = cluster.ok_or_else(|| OfflineError::Nothing(root.into()))?;
    let (snapshots, log) = opened(files, root)?;
    let mut blocks: Vec<(Digest, Vec<u8>)> = Vec::new();
    let mut keep = |_: &State, effect: &Effect| {
        if let Effect::Block { digest, bytes } = effect {
            blocks.push((*digest, bytes.clone()));
        }
    };
    let Replayed { mut state, last, .. } = replay(snapshots.newest().as_ref(), &log, &mut keep)?;
    let last = last.ok_or_else(|| OfflineError::Nothing(root.into()))?;
    let blobs = Blobs::open(Arc::clone(files), &root.join("blobs"))?;
    for (digest, bytes) in blocks.iter().filter(|(digest, _)| !blobs.has(digest)) {
        let written = blobs.put(bytes)?;
        debug_assert_eq!(written, *digest, "a block is named by what it holds");
    }
    drop((snapshots, log));
    // The state that the new cluster begins with is there already: of what was before it, the log may be gone.
    let begun =
        state.cluster.refounded.clone().filter(|_| stopped.is_some() && state.cluster.id != Some(lost.0));
    if let Some(begun) = begun {
        if begun.is_held != (schedules == After::Ends) {
            return Err(OfflineError::BegunOtherwise { root: root.into(), is_held: begun.is_held });
        }
        let cluster = state.cluster.id.unwrap_or(0);
        found(files, &dir, state, last.term)?;
        return Ok(cluster);
    }
    let cluster = draw_cluster();
    // Its executors may still run what they were lent: the new leader times their sessions as any other (PROTOCOL 5.3).
    let (runs, executors) = (After::GoesOn, After::GoesOn);
    let refound = Refound { cluster, last: state.index, schedules, runs, executors };
    begin_anew(&mut state, refound)?;
    // Until the last step nothing may start in it: half of it is of the old cluster.
    dir.stop(CUT_SHORT)?;
    found(files, &dir, state, last.term)?;
    Ok(cluster)
}
