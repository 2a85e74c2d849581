//! The indexes over the blocks of finished runs, in memory: sled cannot run on a simulated disk.
//!
//! It answers as [`super::History`] does and forgets everything with its process, which is allowed: nothing lives only in
//! an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use matins_core::id::Digest;

use super::{Among, Filter, IndexedRun, Listed, Order, Page, PageToken};
use crate::store::Result;

/// The index of a simulated node's history.
#[derive(Default)]
pub struct History(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    runs: BTreeMap<u64, IndexedRun>,
    blocks: BTreeSet<Digest>,
}

impl History {
    /// An empty index: all blocks are missing.
    pub fn open(_dir: &Path, expected: &BTreeSet<Digest>) -> Result<(Self, BTreeSet<Digest>)> {
        Ok((Self::default(), expected.clone()))
    }

    /// There is nothing on a disk to look at.
    pub fn open_as_it_is(_dir: &Path) -> Result<Self> {
        Ok(Self::default())
    }

    /// Nothing is kept.
    pub fn close(self) -> Result<()> {
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in a block and the runs that are in it.
    pub fn add_block(&self, block: &Digest, runs: &[IndexedRun]) -> Result<()> {
        let mut inner = self.inner();
        inner.blocks.insert(*block);
        inner.runs.extend(runs.iter().map(|run| (run.run, run.clone())));
        Ok(())
    }

    /// Takes out the blocks that retention took off the list.
    pub fn keep_only(&self, expected: &BTreeSet<Digest>) -> Result<()> {
        let mut inner = self.inner();
        inner.blocks.retain(|block| expected.contains(block));
        inner.runs.retain(|_, run| expected.contains(&run.block));
        Ok(())
    }

    /// The blocks that are in as a whole, by digest.
    pub fn indexed_blocks(&self) -> Result<Vec<Digest>> {
        Ok(self.inner().blocks.iter().copied().collect())
    }

    /// Whether a block is in as a whole.
    pub fn is_indexed(&self, block: &Digest) -> Result<bool> {
        Ok(self.inner().blocks.contains(block))
    }

    /// A run by its number. `None` if no indexed block has it.
    pub fn find(&self, run: u64) -> Result<Option<IndexedRun>> {
        Ok(self.inner().runs.get(&run).cloned())
    }

    /// Runs with ids below `before`, the newest first, `limit` at most.
    pub fn listed(&self, before: u64, among: &Among, limit: usize) -> Result<Listed> {
        let inner = self.inner();
        let mut runs = inner.runs.range(..before).rev().map(|(_, run)| run).filter(|run| among.has(run));
        let page = runs.by_ref().take(limit).cloned().collect();
        Ok(Listed { runs: page, next: runs.next().map(|run| run.run + 1) })
    }

    /// Whether a later run than this one is in the same chain of retries.
    pub fn has_later_retry(&self, root: u64, run: u64) -> Result<bool> {
        let inner = self.inner();
        let mut later = inner.runs.range(run.saturating_add(1)..).map(|(_, later)| later);
        Ok(later.any(|later| later.retry_of.is_some() && later.retry_root == root))
    }

    /// The runs that match, by logical time, `limit` at most; `after` goes on behind an earlier page.
    pub fn scan(
        &self,
        filter: &Filter,
        after: Option<PageToken>,
        order: Order,
        limit: usize,
    ) -> Result<Page> {
        let inner = self.inner();
        let place = |run: &IndexedRun| (run.logical_time, run.run);
        let is_in_time = |run: &IndexedRun| {
            filter.from.is_none_or(|from| run.logical_time >= from)
                && filter.until.is_none_or(|until| run.logical_time < until)
        };
        let mut runs: Vec<&IndexedRun> =
            inner.runs.values().filter(|run| filter.matches(run) && is_in_time(run)).collect();
        runs.sort_by_key(|run| place(run));
        let after = after.map(|after| (after.logical_time, after.run));
        match order {
            Order::OldestFirst => runs.retain(|run| after.is_none_or(|after| place(run) > after)),
            Order::NewestFirst => {
                runs.retain(|run| after.is_none_or(|after| place(run) < after));
                runs.reverse();
            }
        }
        let is_more = runs.len() > limit;
        runs.truncate(limit);
        let last = runs.last().filter(|_| is_more);
        let next = last.map(|run| PageToken { logical_time: run.logical_time, run: run.run });
        Ok(Page { runs: runs.into_iter().cloned().collect(), next })
    }
}
