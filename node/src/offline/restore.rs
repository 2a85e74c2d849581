//! A backup becomes a directory from which a new cluster grows (PROTOCOL 6.10).

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use matins_core::command::{After, Refound};
use matins_core::id::{Digest, NodeId};
use matins_core::{LEVEL, State};
use rand::Rng as _;

use super::OfflineError;
use super::found::{begin_anew, draw_cluster, found};
use crate::raft::named;
use crate::store::backup::{Head, Part, Scan, Totals, read_frame};
use crate::store::blobs::{BlobWriter, Blobs};
use crate::store::marker::{DataDir, Expected};
use crate::system;

/// Marks a directory in which a restore was cut short.
const CUT_SHORT: &str = "a restore into it was cut short; empty it and restore again";

/// What a backup was found to hold.
#[derive(Clone, Debug)]
pub struct Contents {
    /// What it is of.
    pub head: Head,
    /// What is in it.
    pub totals: Totals,
    /// Runs that had not finished.
    pub live_runs: u64,
    /// Runs in history.
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

/// Makes `root`, which is empty or not there, the directory of a new cluster's first node.
pub fn restore(
    backup: impl Read,
    root: &Path,
    (schedules, runs): (After, After),
    progress: &mut dyn FnMut(u64),
) -> Result<Restored, OfflineError> {
    let files = system::disk();
    if root.exists() && std::fs::read_dir(root).is_ok_and(|mut names| names.next().is_some()) {
        return Err(OfflineError::NotEmpty(root.into()));
    }
    let expected = Expected { node: None, cluster: None, level_max: LEVEL.into() };
    let draw = || NodeId(system::random().random_range(1..=u64::from(u32::MAX)));
    let dir = DataDir::open(Arc::clone(&files), root, expected, draw)?;
    dir.stop(CUT_SHORT)?;
    let blobs = Blobs::open(Arc::clone(&files), &root.join("blobs"))?;
    let (contents, mut state) = read(backup, Some(&blobs), progress)?;
    let cluster = draw_cluster();
    begin_anew(&mut state, Refound { cluster, schedules, runs, executors: After::Ends })?;
    let held = match schedules {
        After::Ends => state.workflows.iter().filter(|(_, row)| row.paused_at == Some(state.now)).count(),
        After::GoesOn => 0,
    };
    let cancelled = if runs == After::Ends { contents.live_runs } else { 0 };
    found(&files, &dir, state, 1)?;
    Ok(Restored { contents, cluster, node: dir.marker().node, held, cancelled })
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
    let finished_runs = state.blocks.iter().map(|(_, row)| u64::from(row.runs)).sum();
    Ok((Contents { head, totals, live_runs, finished_runs, missing }, state))
}

/// The scan has held the content to its name already; the file is named by what it holds.
fn finish(writer: Option<BlobWriter<'_>>) -> Result<(), OfflineError> {
    writer.map_or(Ok(()), |writer| writer.finish().map(drop).map_err(OfflineError::Store))
}
