//! The vote, in a file of its own that a torn write cannot ruin (PROTOCOL 6.1).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use matins_core::mutation::{Mutation, planted};
use serde::{Deserialize, Serialize};

use super::files::Files;
use super::{Result, StoreError, checked};

/// Whom this node voted for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// The term.
    pub term: u64,
    /// The candidate, by its node id.
    pub node: u64,
    /// Whether a majority granted it: that node leads in that term.
    pub committed: bool,
}

/// The file that holds the vote.
pub struct VoteFile {
    files: Arc<dyn Files>,
    path: PathBuf,
}

impl VoteFile {
    /// The vote of the node whose directory is `dir`, which exists.
    pub fn new(files: Arc<dyn Files>, dir: &Path) -> Self {
        Self { files, path: dir.join("vote") }
    }

    /// Makes a vote durable. A failure other than `Full` is a fault: the node may not answer with this vote.
    pub fn save(&self, vote: &VoteRecord) -> Result<()> {
        let bytes = postcard::to_allocvec(vote).expect("three plain fields always encode");
        checked::save(&*self.files, &self.path, &bytes)
    }

    /// The vote saved last. `None` before the first.
    pub fn load(&self) -> Result<Option<VoteRecord>> {
        let Some(bytes) = checked::load(&*self.files, &self.path)? else { return Ok(None) };
        let vote = postcard::from_bytes(&bytes)
            .map_err(|error| StoreError::corrupt(&self.path, 0, format!("not a vote: {error}")))?;
        Ok(Some(vote))
    }

    /// The vote to start with: a vote for `own_node` itself comes back uncommitted, so that a restarted leader must
    /// be elected again before it may answer with a read index that may be old (PROTOCOL 2.2).
    pub fn load_for_start(&self, own_node: u64) -> Result<Option<VoteRecord>> {
        if planted(Mutation::RestartedLeaderSkipsElection) {
            return self.load();
        }
        let clear_own =
            |vote: VoteRecord| VoteRecord { committed: vote.committed && vote.node != own_node, ..vote };
        Ok(self.load()?.map(clear_own))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::files::{MemoryDisk, Open};
    use super::*;

    fn vote(term: u64, node: u64) -> VoteRecord {
        VoteRecord { term, node, committed: true }
    }

    #[test]
    fn rule_2_2_a_restarted_leader_comes_back_without_the_lead() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/data");
        disk.create_dir(dir).unwrap();
        let file = VoteFile::new(Arc::new(disk), dir);
        file.save(&vote(3, 1)).unwrap();
        assert_eq!(file.load_for_start(1).unwrap(), Some(VoteRecord { term: 3, node: 1, committed: false }));
        assert_eq!(file.load_for_start(2).unwrap(), Some(vote(3, 1)), "another's lead is not ours to doubt");
    }

    #[test]
    fn rule_6_1_no_crash_ruins_the_vote_or_takes_it_back() {
        let dir = Path::new("/data");
        for stop_at in 0..12 {
            for seed in 0..20 {
                let disk = MemoryDisk::new();
                disk.create_dir(dir).unwrap();
                let file = VoteFile::new(Arc::new(disk.clone()), dir);
                disk.fail_after(stop_at);
                let saved = (1..=3).take_while(|term| file.save(&vote(*term, 1)).is_ok()).count() as u64;
                disk.crash(seed);
                let term = file.load().expect("a crash leaves the old or the new vote").map_or(0, |v| v.term);
                assert!(
                    (saved..=saved + 1).contains(&term),
                    "stop {stop_at} seed {seed}: {saved} got {term}"
                );
            }
        }
    }

    #[test]
    fn a_damaged_vote_is_a_fault_and_never_an_empty_one() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/data");
        disk.create_dir(dir).unwrap();
        let file = VoteFile::new(Arc::new(disk.clone()), dir);
        file.save(&vote(3, 1)).unwrap();
        disk.flip_byte(&dir.join("vote"), 17);
        assert!(file.load().is_err_and(|error| error.is_fault()));
        // The version, from 1 to 0, which no release ever wrote.
        let path = dir.join("vote");
        let disk = MemoryDisk::new();
        let file = VoteFile::new(Arc::new(disk.clone()), dir);
        file.save(&vote(3, 1)).unwrap();
        disk.open(&path, Open::Existing).unwrap().write_at(&[0], 4).unwrap();
        assert!(file.load().is_err_and(|error| error.is_fault()));
    }

    proptest! {
        #[test]
        fn a_vote_of_any_bytes_is_a_fault_or_the_one_that_was_saved(
            bytes in prop::collection::vec(any::<u8>(), 0..60), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let disk = MemoryDisk::new();
            let dir = Path::new("/data");
            let file = VoteFile::new(Arc::new(disk.clone()), dir);
            let write = |bytes: &[u8]| {
                let file = disk.open(&dir.join("vote"), Open::Truncated).unwrap();
                file.write_at(bytes, 0).unwrap();
            };
            write(&bytes);
            prop_assert!(file.load().is_err());
            file.save(&vote(3, 1)).unwrap();
            let saved = checked::read_whole(&disk, &dir.join("vote")).unwrap().unwrap();
            let mut damaged = saved.clone();
            damaged[at.index(saved.len())] ^= flip;
            write(&damaged);
            prop_assert!(file.load().is_err());
        }
    }
}
