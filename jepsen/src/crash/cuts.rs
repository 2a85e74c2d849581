//! Where the power can be cut along a tape, and what each cut leaves.
//!
//! Of the changes that were not synced any may have reached the disk and any not, in any combination: all of them are
//! tried up to [`ALL_SUBSETS_MAX`] changes, a sample beyond. The newest write, and a sample of older unsynced ones, may be
//! there in part. Entries of directories are changes of their own: syncing a file does not sync its name.
//! Start reading at [`cuts_of`].

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::tape::{Change, Image};

/// Up to so many unsynced changes every subset of them is tried: 2^8.
pub(super) const ALL_SUBSETS_MAX: usize = 8;
/// So many subsets are drawn of more.
const SUBSETS_DRAWN: usize = 64;
/// A write of up to so many bytes is torn at each of them.
const ALL_TEARS_MAX: usize = 64;
/// A longer one at so many places, its first and last bytes among them.
const TEARS_DRAWN: usize = 24;

/// How a write is torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tear {
    /// Only so many of its first bytes are there.
    Front(usize),
    /// The same, but the file has its new length: zeros stand where it had no bytes before. (Bytes that were there are not
    /// turned into zeros by a write over them: sectors are written whole or not.)
    FrontAndLength(usize),
    /// The bytes before this place are not there, the others are.
    Back(usize),
}

/// One way in which the power is cut.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// After so many changes of the tape.
    pub(super) after: usize,
    /// Which of the unsynced changes are there, by their order.
    kept: Vec<bool>,
    /// Which of them is torn, and how.
    torn: Option<(usize, Tear)>,
}

impl Cut {
    /// The kind, for the figures.
    pub(super) fn kind(&self) -> Kind {
        match &self.torn {
            Some(_) => Kind::Torn,
            None if self.kept.is_empty() => Kind::Synced,
            None => Kind::Subset,
        }
    }
}

/// The kinds of cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Everything was synced.
    Synced,
    /// A subset of the unsynced changes is there.
    Subset,
    /// A write is there in part.
    Torn,
}

/// What is on the disk for sure, and what may be.
#[derive(Clone, Default)]
pub(super) struct Platter {
    durable: Image,
    unsynced: Vec<Change>,
}

impl Platter {
    /// A disk on which all of this is durable.
    pub(super) fn of(durable: Image) -> Self {
        Self { durable, unsynced: Vec::new() }
    }

    /// The next change of the tape.
    pub(super) fn step(&mut self, change: &Change) {
        match change {
            Change::Sync { inode } => {
                self.settle(|unsynced| content_of(unsynced) == Some(*inode), Settle::Keep);
            }
            Change::SyncFailed { inode } => {
                self.settle(|unsynced| content_of(unsynced) == Some(*inode), Settle::Lose);
            }
            Change::SyncDir { dir } => self.settle(|unsynced| dir_of(unsynced) == Some(dir), Settle::Keep),
            // It leaves the entries to a later sync: a file system with a journal that fails here takes no more changes.
            Change::SyncDirFailed => {}
            Change::Create { .. }
            | Change::Write { .. }
            | Change::Cut { .. }
            | Change::Rename { .. }
            | Change::Remove { .. } => self.unsynced.push(change.clone()),
        }
    }

    fn settle(&mut self, is_meant: impl Fn(&Change) -> bool, settle: Settle) {
        let (meant, others) = std::mem::take(&mut self.unsynced).into_iter().partition(is_meant);
        self.unsynced = others;
        let meant: Vec<Change> = meant;
        match settle {
            Settle::Keep => meant.iter().for_each(|change| self.durable.apply(change)),
            Settle::Lose => {}
        }
    }

    /// What the cut leaves.
    pub(super) fn cut(&self, cut: &Cut) -> Image {
        let mut image = self.durable.clone();
        for (at, change) in self.unsynced.iter().enumerate().filter(|(at, _)| cut.kept[*at]) {
            match &cut.torn {
                Some((torn, tear)) if *torn == at => {
                    for part in torn_of(change, *tear) {
                        image.apply(&part);
                    }
                }
                Some(_) | None => image.apply(change),
            }
        }
        image
    }

    /// What is left if nothing unsynced is there, and what if everything is.
    pub(super) fn extremes(&self) -> [Image; 2] {
        let all = |is_kept| Cut { after: 0, kept: vec![is_kept; self.unsynced.len()], torn: None };
        [false, true].map(|is_kept| self.cut(&all(is_kept)))
    }

    /// Every cut that is tried here, after `after` changes; the same for the same seed.
    pub(super) fn cuts(&self, after: usize, seed: u64) -> Vec<Cut> {
        let mut random = StdRng::seed_from_u64(seed ^ (after as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = self.unsynced.len();
        let mut cuts: Vec<Cut> =
            subsets(len, &mut random).into_iter().map(|kept| Cut { after, kept, torn: None }).collect();
        for (at, change) in self.unsynced.iter().enumerate() {
            let Change::Write { bytes, .. } = change else { continue };
            let tears = tears(bytes.len(), &mut random);
            let is_newest = at + 1 == len;
            // An older write is torn here and there; it was torn everywhere when it was the newest.
            for tear in tears {
                if !is_newest && !random.random_ratio(1, 16) {
                    continue;
                }
                let is_alone = random.random_ratio(1, 4);
                let mut kept: Vec<bool> = (0..len).map(|_| !is_alone).collect();
                kept[at] = true;
                // The name of its file is a change too, without which nobody would see the tear.
                for (other, kept) in self.unsynced.iter().zip(&mut kept) {
                    *kept |= matches!(other, Change::Create { .. });
                }
                cuts.push(Cut { after, kept, torn: Some((at, tear)) });
            }
        }
        cuts
    }
}

#[derive(Clone, Copy)]
enum Settle {
    Keep,
    Lose,
}

/// The file whose content a change is about.
fn content_of(change: &Change) -> Option<usize> {
    match change {
        Change::Write { inode, .. } | Change::Cut { inode, .. } => Some(*inode),
        Change::Create { .. }
        | Change::Rename { .. }
        | Change::Remove { .. }
        | Change::Sync { .. }
        | Change::SyncFailed { .. }
        | Change::SyncDir { .. }
        | Change::SyncDirFailed => None,
    }
}

/// The directory whose entries a change is about.
fn dir_of(change: &Change) -> Option<&Path> {
    match change {
        Change::Create { path, .. } | Change::Rename { to: path, .. } | Change::Remove { path } => {
            path.parent()
        }
        Change::Write { .. }
        | Change::Cut { .. }
        | Change::Sync { .. }
        | Change::SyncFailed { .. }
        | Change::SyncDir { .. }
        | Change::SyncDirFailed => None,
    }
}

fn subsets(len: usize, random: &mut StdRng) -> Vec<Vec<bool>> {
    if len <= ALL_SUBSETS_MAX {
        return (0..1_u32 << len).map(|mask| (0..len).map(|at| mask >> at & 1 == 1).collect()).collect();
    }
    let mut subsets = vec![vec![false; len], vec![true; len]];
    // Each one missing alone, and each front part.
    subsets.extend((0..len).map(|missing| (0..len).map(|at| at != missing).collect()));
    subsets.extend((1..len).map(|kept| (0..len).map(|at| at < kept).collect()));
    subsets.extend((0..SUBSETS_DRAWN).map(|_| (0..len).map(|_| random.random()).collect()));
    subsets
}

fn tears(len: usize, random: &mut StdRng) -> Vec<Tear> {
    let places: Vec<usize> = if len <= ALL_TEARS_MAX {
        (1..len).collect()
    } else {
        let ends = [1, 2, 4, 31, 32, 33, 47, 48, 49, len - 17, len - 16, len - 4, len - 1];
        let drawn = (ends.len()..TEARS_DRAWN).map(|_| random.random_range(1..len));
        ends.into_iter().chain(drawn).filter(|at| *at < len).collect()
    };
    let all = |at| [Tear::Front(at), Tear::FrontAndLength(at), Tear::Back(at)];
    places.into_iter().flat_map(all).collect()
}

fn torn_of(change: &Change, tear: Tear) -> Vec<Change> {
    let Change::Write { inode, at, bytes } = change else { return vec![change.clone()] };
    let write = |offset: usize, bytes: &[u8]| Change::Write {
        inode: *inode,
        at: at + offset as u64,
        bytes: bytes.into(),
    };
    match tear {
        Tear::Front(len) => vec![write(0, &bytes[..len])],
        Tear::FrontAndLength(len) => vec![write(0, &bytes[..len]), write(bytes.len(), &[])],
        Tear::Back(len) => vec![write(len, &bytes[len..])],
    }
}

/// Every cut along a tape, in order, with the disk that it is made on.
pub(super) fn cuts_of(tape: &[Change], seed: u64, mut each: impl FnMut(&Platter, &Cut) -> Go) {
    let mut platter = Platter::default();
    for (at, change) in tape.iter().enumerate() {
        platter.step(change);
        for cut in platter.cuts(at + 1, seed) {
            if each(&platter, &cut) == Go::Stop {
                return;
            }
        }
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    On,
    Stop,
}
