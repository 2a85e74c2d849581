//! A disk that fails once: every sync, every write for lack of room, and damaged bytes.
//!
//! Start reading at [`syncs_fail`].

use std::path::Path;

use matins_core::id::Digest;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::contents::{Found, Known};
use super::cuts::Platter;
use super::points::open_image;
use super::store::{self, Work};
use super::tape::{Fault, Image, TapeDisk};

/// A file of up to so many bytes is damaged at each of them ...
const ALL_FLIPS_MAX: usize = 400;
/// ... and a longer one at so many.
const FLIPS_DRAWN: usize = 120;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) syncs: u64,
    pub(super) full: u64,
    pub(super) flips: u64,
    /// Of those: an error named the file.
    pub(super) flips_found: u64,
    /// Of those: in the log's very last append, which is cut as a torn write would be.
    pub(super) flips_cut: u64,
    pub(super) checked: u64,
}

/// Fails the sync of each number in turn. The node may end, but acknowledges nothing that a power cut then takes away.
pub(super) fn syncs_fail(seed: u64, only: Option<u64>, faults: &mut Faults) -> Result<(), (u64, String)> {
    let count = count(seed).map_err(|error| (0, error))?.0;
    for at in (1..=count).filter(|at| only.is_none_or(|only| only == *at)) {
        faults.syncs += 1;
        faults.checked += with(seed, Fault::Sync(at)).map_err(|error| (at, error))?;
    }
    Ok(())
}

/// Leaves no room for the write of each number in turn; then there is room again.
pub(super) fn disk_full(seed: u64, only: Option<u64>, faults: &mut Faults) -> Result<(), (u64, String)> {
    let count = count(seed).map_err(|error| (0, error))?.1;
    for at in (1..=count).filter(|at| only.is_none_or(|only| only == *at)) {
        faults.full += 1;
        faults.checked += with(seed, Fault::Full(at)).map_err(|error| (at, error))?;
    }
    Ok(())
}

fn count(seed: u64) -> Result<(u64, u64), String> {
    let disk = TapeDisk::default();
    store::run(&disk, seed)?;
    Ok(disk.asked())
}

/// Does the workload with a fault in it, and cuts the power at its end.
fn with(seed: u64, fault: Fault) -> Result<u64, String> {
    let disk = TapeDisk::default();
    disk.arm(fault);
    let work = store::run(&disk, seed)?;
    if let Some(broken) = work.broken {
        return Err(broken);
    }
    let known = last_known(&work);
    let mut platter = Platter::default();
    disk.tape().iter().for_each(|change| platter.step(change));
    let mut checked = 0;
    for image in platter.extremes() {
        checked += known.check(&open_image(&TapeDisk::of(image))?)?;
    }
    Ok(checked)
}

fn last_known(work: &Work) -> &Known {
    &work.notes.last().expect("the first open noted something").known
}

/// Damages a bit of each file in turn: an error names the file, or nothing that was acknowledged is different.
pub(super) fn flip(seed: u64, only: Option<u64>, faults: &mut Faults) -> Result<(), (u64, String)> {
    let disk = TapeDisk::default();
    let work = store::run(&disk, seed).map_err(|error| (0, error))?;
    let known = last_known(&work);
    let image = disk.image();
    let mut random = StdRng::seed_from_u64(seed);
    let mut point = 0;
    let files: Vec<_> = image.files().map(|(path, content)| (path.to_path_buf(), content.len())).collect();
    for (path, len) in files {
        let places: Vec<usize> = if len <= ALL_FLIPS_MAX {
            (0..len).collect()
        } else {
            (0..FLIPS_DRAWN).map(|_| random.random_range(0..len)).collect()
        };
        for at in places {
            let bit = random.random();
            point += 1;
            if only.is_some_and(|only| only != point) {
                continue;
            }
            let mut damaged: Image = image.clone();
            damaged.flip(&path, at, bit);
            faults.flips += 1;
            judge(&damaged, &path, known, faults).map_err(|error| {
                (point, format!("bit {} of byte {at} of {} was damaged: {error}", bit % 8, path.display()))
            })?;
        }
    }
    Ok(())
}

fn judge(image: &Image, path: &Path, known: &Known, faults: &mut Faults) -> Result<(), String> {
    let name = path.file_name().and_then(|name| name.to_str()).expect("names of ours are text");
    let found = match open_image(&TapeDisk::of(image.clone())) {
        Err(error) if error.contains("panic") => return Err(error),
        // A segment that is not what it says may be told of by the directory, or by its neighbour.
        Err(error) if error.contains(name) || error.contains("/log") => {
            faults.flips_found += 1;
            return Ok(());
        }
        Err(error) => return Err(format!("the error does not name the file: {error}")),
        Ok(found) => found,
    };
    let whole = without_damaged(found.clone(), known);
    match known.check(&whole) {
        Ok(checked) => {
            faults.checked += checked;
            faults.flips_found += u64::from(!found.damaged.is_empty());
            Ok(())
        }
        Err(error) if is_cut_at_the_end(&found, known) => {
            drop(error);
            faults.flips_cut += 1;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A damaged snapshot is set aside and said to be; then the one before it counts, as long as the log reaches back to it.
fn without_damaged(found: Found, known: &Known) -> Found {
    if found.damaged.is_empty() {
        return found;
    }
    let reaches = found.snapshot.map_or(0, |(last, _)| last.index + 1);
    let purged = found.purged.map_or(0, |purged| purged.index + 1);
    let newest = known.acked.snapshots.last_key_value().map(|(_, body)| (body.last, body.digest));
    if purged > reaches {
        // `raft::start` refuses to start from here and names the directory.
        return Found { damaged: Vec::new(), snapshot: newest, ..found };
    }
    let is_known = |(last, digest): &(_, Digest)| {
        known.acked.snapshots.values().any(|body| body.last == *last && body.digest == *digest)
    };
    if found.snapshot.as_ref().is_none_or(is_known) {
        Found { damaged: Vec::new(), snapshot: newest, ..found }
    } else {
        Found { damaged: Vec::new(), ..found }
    }
}

/// Damage in the very last append cannot be told from a torn write (`store::log`): all before it must be there.
fn is_cut_at_the_end(found: &Found, known: &Known) -> bool {
    let is_front = found.records.iter().all(|(index, record)| known.acked.records.get(index) == Some(record));
    let lost = known.acked.records.len() - found.records.len().min(known.acked.records.len());
    is_front && (1..=4).contains(&lost) && found.purged == known.acked.purged
}
