//! Cuts the power at every point of a story, opens what is left, and compares.
//!
//! Start reading at [`Story::cut_everywhere`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use matins_node::store::files::Files;
use matins_node::store::log::Record;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::contents::{Found, Known, Opened, ROOT, open, record};
use super::cuts::{Cut, Go, Kind, Platter, cuts_of};
use super::store::{Note, known_at};
use super::tape::{Change, Image, TapeDisk};

/// The power is cut again while the node opens its directory at one of so many points.
const AGAIN_EVERY: u64 = 40;

/// What a workload did to its disk, and what was known meanwhile.
pub(super) struct Story {
    pub(super) tape: Vec<Change>,
    pub(super) notes: Vec<Note>,
    pub(super) seed: u64,
}

/// How many points of each kind, and what was found at them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) kinds: BTreeMap<Kind, u64>,
    /// The power was cut a second time, while the node opened.
    pub(super) again: u64,
    /// Acknowledged things that were there and right.
    pub(super) checked: u64,
}

impl Counts {
    pub(super) fn points(&self) -> u64 {
        self.kinds.values().sum::<u64>() + self.again
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (kind, count) in &other.kinds {
            *self.kinds.entry(*kind).or_default() += count;
        }
        self.again += other.again;
        self.checked += other.checked;
    }
}

/// A promise that a crash broke.
pub(super) struct Broken {
    /// The number of the point in its story.
    pub(super) point: u64,
    pub(super) what: String,
}

impl Story {
    /// Cuts everywhere, or at one point alone.
    pub(super) fn cut_everywhere(&self, only: Option<u64>) -> (Counts, Option<Broken>) {
        let mut counts = Counts::default();
        let mut broken = None;
        let mut point = 0;
        cuts_of(&self.tape, self.seed, |platter, cut| {
            point += 1;
            if only.is_some_and(|only| only != point) {
                return Go::On;
            }
            *counts.kinds.entry(cut.kind()).or_default() += 1;
            match self.cut_at(platter, cut, point, &mut counts) {
                Ok(()) => Go::On,
                Err(what) => {
                    let change = &self.tape[cut.after - 1];
                    let what = format!(
                        "{what}\n    the power was cut after change {} ({})",
                        cut.after,
                        told(change)
                    );
                    broken = Some(Broken { point, what });
                    Go::Stop
                }
            }
        });
        (counts, broken)
    }

    fn cut_at(&self, platter: &Platter, cut: &Cut, point: u64, counts: &mut Counts) -> Result<(), String> {
        let image = platter.cut(cut);
        let known = known_at(&self.notes, cut.after);
        let disk = TapeDisk::of(image.clone());
        let found = open_image(&disk)?;
        counts.checked += known.check(&found)?;
        if point.is_multiple_of(AGAIN_EVERY) {
            counts.again += cut_again(&image, &disk.tape(), known, &found, self.seed ^ point)?;
        }
        go_on(&disk, known, found)
    }
}

fn told(change: &Change) -> String {
    match change {
        Change::Write { inode, at, bytes } => {
            format!("a write of {} bytes at {at} of file {inode}", bytes.len())
        }
        Change::Create { .. }
        | Change::Cut { .. }
        | Change::Sync { .. }
        | Change::SyncFailed { .. }
        | Change::Rename { .. }
        | Change::Remove { .. }
        | Change::SyncDir { .. }
        | Change::SyncDirFailed => format!("{change:?}"),
    }
}

/// Opens a disk as the next process does.
pub(super) fn open_image(disk: &TapeDisk) -> Result<Found, String> {
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    open(&files, Path::new(ROOT))
        .map_err(|error| format!("a crash must leave a directory that opens: {error}"))
}

/// Cuts the power at every change that the opening itself made. Answers how often.
fn cut_again(image: &Image, tape: &[Change], known: &Known, found: &Found, seed: u64) -> Result<u64, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut platter = Platter::of(image.clone());
    let mut count = 0;
    for (at, change) in tape.iter().enumerate() {
        platter.step(change);
        let cuts = platter.cuts(at + 1, seed);
        let drawn = &cuts[random.random_range(0..cuts.len())];
        let [none, all] = platter.extremes();
        for image in [none, all, platter.cut(drawn)] {
            count += 1;
            let again =
                open_image(&TapeDisk::of(image)).map_err(|error| format!("at a second crash: {error}"))?;
            known.check(&again).map_err(|error| format!("at a second crash: {error}"))?;
            // What the first open reported is durable once it has reported it.
            if at + 1 == tape.len() && again != *found {
                return Err(format!("6.1: an open reported {found:?}, and after a crash there is {again:?}"));
            }
        }
    }
    Ok(count)
}

/// The node writes on from where it opened; then there must be exactly that.
fn go_on(disk: &TapeDisk, known: &Known, found: Found) -> Result<(), String> {
    let index = found.records.keys().next_back().map(|last| last + 1);
    let index = index.or(found.purged.map(|purged| purged.index + 1)).unwrap_or(0);
    // As long as the one that was lost there, so that what was behind it could be taken for its followers.
    let bytes = known.asked.records.get(&index).map_or(16, |lost| lost.body.len());
    let next: Record = record(index, 9_999, bytes);
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let opened =
        Opened::at(&files, Path::new(ROOT)).map_err(|error| format!("at the second start: {error}"))?;
    opened
        .log
        .append(std::slice::from_ref(&next))
        .map_err(|error| format!("the log does not go on: {error}"))?;
    drop(opened);
    let mut expected = found;
    expected.records.insert(index, next);
    let again = open_image(disk)?;
    // With a record behind it, more may count as committed.
    expected.committed = again.committed;
    if again == expected {
        return Ok(());
    }
    Err(format!("6.1: after one more append there should be {expected:?}, and there is {again:?}"))
}
