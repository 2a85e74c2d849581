//! Lists of finished runs by id, the newest first, in pages that cost what they show.
//!
//! A list of few workflows or states reads the orders of just these and merges them, so a rare match costs no look at what
//! lies between. A list of very many looks at a bounded number of rows, and says how far it came. Start at [`History::listed`].

use std::collections::{BTreeSet, BinaryHeap};

use super::{History, IndexedRun, ROWS_READ_MAX, Result, failed, keys};

/// Orders that one page merges at most: each costs a search of its own.
pub const MERGED_MAX: usize = 512;

/// Which runs a list by id is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Among {
    /// All there are.
    All,
    /// Those of a workflow, `namespace/workflow`, that ended in a state.
    Pairs(BTreeSet<(String, String)>),
}

impl Among {
    /// Whether a run is among them.
    pub fn has(&self, run: &IndexedRun) -> bool {
        match self {
            Self::All => true,
            Self::Pairs(pairs) => pairs.contains(&(run.workflow.clone(), run.state.clone())),
        }
    }
}

/// A page of a list by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The runs, the newest first. There may be none although more follow.
    pub runs: Vec<IndexedRun>,
    /// The list goes on with runs below this id; `None` if this is all.
    pub next: Option<u64>,
}

impl History {
    /// Runs with ids below `before`, the newest first, `limit` at most.
    pub fn listed(&self, before: u64, among: &Among, limit: usize) -> Result<Listed> {
        match among {
            Among::Pairs(pairs) if pairs.len() <= MERGED_MAX => self.merged(before, pairs, limit),
            Among::All | Among::Pairs(_) => self.looked_through(before, among, limit),
        }
    }

    /// Whether a later run than this one is in the same chain of retries, which the id of its first run names.
    pub fn has_later_retry(&self, root: u64, run: u64) -> Result<bool> {
        let (first, end) = keys::later_in_chain(root, run);
        let later = self.orders.range(first..end).next().transpose();
        Ok(later.map_err(failed("read", &self.dir))?.is_some())
    }

    fn merged(&self, before: u64, pairs: &BTreeSet<(String, String)>, limit: usize) -> Result<Listed> {
        let mut orders: Vec<_> = pairs
            .iter()
            .map(|(workflow, state)| {
                let (first, end) = keys::of_pair(workflow, state, before);
                self.orders.range(first..end).keys()
            })
            .collect();
        let mut newest = BinaryHeap::new();
        for (at, order) in orders.iter_mut().enumerate() {
            newest.extend(self.next_of(order)?.map(|(run, key)| (run, at, key)));
        }
        let mut listed = Listed::default();
        while let Some((run, at, key)) = newest.pop() {
            if listed.runs.len() == limit {
                listed.next = Some(run + 1);
                break;
            }
            listed.runs.extend(self.led_to(&key)?);
            newest.extend(self.next_of(&mut orders[at])?.map(|(run, key)| (run, at, key)));
        }
        Ok(listed)
    }

    /// The next run of an order, and the key that leads to it.
    fn next_of(
        &self,
        order: &mut impl DoubleEndedIterator<Item = sled::Result<sled::IVec>>,
    ) -> Result<Option<(u64, sled::IVec)>> {
        let Some(key) = order.next_back().transpose().map_err(failed("read", &self.dir))? else {
            return Ok(None);
        };
        let run = keys::run_of(&key).ok_or_else(|| self.damaged("an order's key"))?;
        Ok(Some((run, key)))
    }

    fn looked_through(&self, before: u64, among: &Among, limit: usize) -> Result<Listed> {
        let mut listed = Listed::default();
        for (looked_at, row) in self.runs.range(..before.to_be_bytes()).rev().enumerate() {
            let (_, row) = row.map_err(failed("read", &self.dir))?;
            let run = self.decoded(&row)?;
            if listed.runs.len() == limit || looked_at == ROWS_READ_MAX {
                listed.next = Some(run.run + 1);
                break;
            }
            if among.has(&run) {
                listed.runs.push(run);
            }
        }
        Ok(listed)
    }
}
