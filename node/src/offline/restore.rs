//! A backup becomes a directory from which a new cluster grows (PROTOCOL 6.10).

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use matins_core::State;
use matins_core::command::{After, Refound};
use matins_core::id::{Digest, NodeId};
use rand::Rng as _;

use super::OfflineError;
use super::found::{begin_anew, draw_cluster, found};
use crate::raft::named;
use crate::store::StoreError;
use crate::store::backup::{Head, Part, Scan, Totals, read_frame};
use crate::store::blobs::{BlobWriter, Blobs};
use crate::store::files::Files;
use crate::store::marker::{self, DataDir};
use crate::system;

/// Marks a directory in which a restore was cut short; the next one begins anew in it.
const CUT_SHORT: &str = "a restore into it was cut short; run `matins cluster restore` again";

/// What a backup was found to hold.
#[derive(Clone, Debug)]
pub struct Contents {
    /// What it is of.
    pub head: Head,
    /// What is in it.
    pub totals: Totals,
    /// Runs that had not finished.
    pub live_runs: u64,
    /// Runs that have ended, in history or on their way to it.
    pub finished_runs: u64,
    /// Blobs that no node had any more when it was made: outputs, logs or files that are lost.
    pub missing: BTreeSet<Digest>,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// From what.
    pub contents: Contents,
    /// The new cluster.
    pub cluster: u64,
    /// Its first node.
    pub node: NodeId,
    /// Workflows whose schedules are held.
    pub held: usize,
    /// Runs that were cancelled.
    pub cancelled: u64,
}

/// Reads a backup through and holds it to all that it says; changes nothing. `progress` hears of each frame how many bytes
/// were read.
pub fn read_backup(backup: impl Read, progress: &mut dyn FnMut(u64)) -> Result<Contents, OfflineError> {
    read(backup, None, progress).map(|(contents, _)| contents)
}

/// Makes `root`, which is empty or not there, the directory of a new cluster's first node. One in which a restore was cut
/// short will do: nothing of that counts.
pub fn restore(
    backup: impl Read,
    root: &Path,
    after: (After, After),
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, OfflineError> {
    restore_on(&system::disk(), backup, root, (after, progress))
}

pub(super) fn restore_on(
    files: &Arc<dyn Files>,
    backup: impl Read,
    root: &Path,
    ((schedules, runs), progress): ((After, After), &mut dyn FnMut(u64)),
) -> Result<Restored, OfflineError> {
    must_be_free(&**files, root)?;
    let draw = || NodeId(system::random().random_range(1..=u64::from(u32::MAX)));
    let dir = DataDir::fill(Arc::clone(files), root, CUT_SHORT, draw)?;
    // The one that was cut short may have been of another backup. Its blobs go when the node finds that nothing names them.
    for part in ["snapshots", "log"] {
        empty(&**files, &root.join(part))?;
    }
    let blobs = Blobs::open(Arc::clone(files), &root.join("blobs"))?;
    let (contents, mut state) = read(backup, Some(&blobs), progress)?;
    let cluster = draw_cluster();
    let refound = Refound { cluster, last: state.index, schedules, runs, executors: After::Ends };
    begin_anew(&mut state, refound)?;
    let held = match schedules {
        After::Ends => state.workflows.iter().filter(|(_, row)| row.paused_at == Some(state.now)).count(),
        After::GoesOn => 0,
    };
    let cancelled = if runs == After::Ends { contents.live_runs } else { 0 };
    found(files, &dir, state, 1)?;
    Ok(Restored { contents, cluster, node: dir.marker().node, held, cancelled })
}

/// Refuses a directory that holds anything but what a restore left that was cut short.
fn must_be_free(files: &dyn Files, root: &Path) -> Result<(), OfflineError> {
    if let Some(marker) = marker::look(files, root)? {
        let is_left = marker.stopped.as_deref() == Some(CUT_SHORT);
        return if is_left { Ok(()) } else { Err(OfflineError::NotEmpty(root.into())) };
    }
    // Folders too, which the store's own eye does not see.
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name());
    let is_strange = names.any(|name| !name.to_str().is_some_and(marker::is_of_a_first_start));
    if is_strange { Err(OfflineError::NotEmpty(root.into())) } else { Ok(()) }
}

/// Removes all files of a folder, which need not be there.
fn empty(files: &dyn Files, folder: &Path) -> Result<(), StoreError> {
    files.create_dir(folder).map_err(StoreError::io("create", folder))?;
    for name in files.list(folder).map_err(StoreError::io("list", folder))? {
        let path = folder.join(name);
        files.remove(&path).map_err(StoreError::io("remove", &path))?;
    }
    files.sync_dir(folder).map_err(StoreError::io("sync", folder))
}

/// Reads all frames; blobs go to `blobs`, if there are any to take them.
fn read(
    mut backup: impl Read,
    blobs: Option<&Blobs>,
    progress: &mut dyn FnMut(u64),
) -> Result<(Contents, State), OfflineError> {
    let mut scan = Scan::default();
    let (mut state, mut missing, mut there) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut writer: Option<BlobWriter<'_>> = None;
    while let Some(frame) = read_frame(&mut backup, &scan)? {
        match scan.add(&frame)? {
            Part::Head(_) => {}
            Part::State(bytes) => state.extend_from_slice(&bytes),
            Part::Blob { digest, .. } => {
                finish(writer.take())?;
                there.insert(digest);
                writer = blobs.map(Blobs::writer).transpose()?;
            }
            Part::Chunk(bytes) => {
                if let Some(writer) = &mut writer {
                    writer.write(&bytes)?;
                }
            }
            Part::Missing(digest) => {
                missing.insert(digest);
            }
            Part::End { .. } => finish(writer.take())?,
        }
        progress(scan.bytes());
    }
    let (head, totals) = scan.finish()?;
    let state = State::decode(&state).ok_or(OfflineError::Unreadable)?;
    // What is named and in no frame at all would be a fault of whoever made it.
    missing.extend(named(&state).into_iter().filter(|digest| !there.contains(digest)));
    let live_runs = state.runs.iter().filter(|(_, row)| row.is_active()).count() as u64;
    let in_history: u64 = state.blocks.iter().map(|(_, row)| u64::from(row.runs)).sum();
    let finished_runs = in_history + state.runs.len() as u64 - live_runs;
    Ok((Contents { head, totals, live_runs, finished_runs, missing }, state))
}

/// The scan has held the content to its name already; the file is named by what it holds.
fn finish(writer: Option<BlobWriter<'_>>) -> Result<(), OfflineError> {
    writer.map_or(Ok(()), |writer| writer.finish().map(drop).map_err(OfflineError::Store))
}
