//! Finished runs: where this node looks for what has left the state (PROTOCOL 6.5).
//!
//! The blocks are blobs, equal on every node; an index says where in them a run stands. One task keeps the index up
//! with the blocks that the state lists, fetching from peers what this node lacks; until then a list says that it is
//! incomplete. Decides nothing. Start reading at [`History`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use matins_core::State;
use matins_core::history::{Block, RetiredRun};
use matins_core::id::{Digest, RunId, ScheduleId};
use matins_core::state::{LogPlace, LogState, RunState};
use matins_core::time::Timestamp;
use thiserror::Error;
use tokio::sync::watch;

use crate::serve::cluster::{PastRun, PastRuns};
use crate::store::StoreError;
#[cfg(not(feature = "simulation"))]
use crate::store::history::History as Index;
#[cfg(feature = "simulation")]
use crate::store::history::memory::History as Index;
use crate::store::history::{Among, Filter, IndexedRun, Order, PageToken};
use crate::system::blocking;

/// Before a block that could not be read is asked for again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long a node that stops takes at most to close its index: the next start can do without.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Between looks whether anybody still reads the index.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// So often it is tried before the log says that it cannot be had.
const TRIES_PER_WARNING: u32 = 10;

/// Runs that one question to the index gives at most.
const PAGE: usize = 1_000;

/// Where blocks come from: this node's blobs, or a peer's.
#[tonic::async_trait]
pub trait Blocks: Send + Sync + 'static {
    /// The whole of a blob; an error says in words why it cannot be had now.
    async fn block(&self, digest: Digest) -> Result<Bytes, String>;

    /// Some bytes of a blob, as they lie here, not held to its name. `None`: it is not here, or cannot be read.
    async fn part(&self, digest: Digest, place: Range<usize>) -> Option<Bytes>;
}

/// Why history cannot be read.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The index failed.
    #[error("cannot read the index of history")]
    Index(#[from] StoreError),
    /// A block cannot be had now.
    #[error("cannot read block {digest} of history: {why}")]
    Block {
        /// Which one.
        digest: Digest,
        /// Why not.
        why: String,
    },
    /// The bytes are not what the index says.
    #[error("block {digest} of history does not hold {run} where the index says")]
    Damaged {
        /// Which block.
        digest: Digest,
        /// Which run.
        run: RunId,
    },
}

/// This node's access to finished runs. Cheap to clone.
#[derive(Clone)]
pub struct History {
    index: Arc<Index>,
    blocks: Arc<dyn Blocks>,
    states: watch::Receiver<Arc<State>>,
    /// The newest block such that it and all before it are in the index.
    indexed: Arc<AtomicU64>,
    /// The numbers of blocks in the state, as far as they were asked for: looking for one costs a look at all.
    numbers: Arc<Mutex<BTreeMap<Digest, u64>>>,
}

impl History {
    /// Opens the index below `dir`. What it lacks is fetched by [`Self::keep_up`].
    pub fn open(
        dir: &Path,
        blocks: Arc<dyn Blocks>,
        states: watch::Receiver<Arc<State>>,
    ) -> Result<Self, HistoryError> {
        let expected: BTreeSet<Digest> = states.borrow().blocks.iter().map(|(_, row)| row.digest).collect();
        let (index, missing) = Index::open(dir, &expected)?;
        let first_missing =
            states.borrow().blocks.iter().find(|(_, row)| missing.contains(&row.digest)).map(|(n, _)| *n);
        let last = states.borrow().blocks.last().map_or(0, |(number, _)| *number);
        let indexed = first_missing.map_or(last, |number| number - 1);
        let (indexed, numbers) = (Arc::new(AtomicU64::new(indexed)), Arc::default());
        Ok(Self { index: Arc::new(index), blocks, states, indexed, numbers })
    }

    /// Brings the index up with the state, for as long as the node lives.
    pub async fn keep_up(self) {
        let mut states = self.states.clone();
        let mut forgotten_before = 0;
        loop {
            let state = states.borrow_and_update().clone();
            // Counts what ever left the list, so that a look at all blocks is needed only then.
            let forgotten = state.cluster.counters.forgotten_runs;
            if std::mem::replace(&mut forgotten_before, forgotten) != forgotten {
                self.take_out(&state).await;
            }
            let from = self.indexed.load(Ordering::Relaxed) + 1;
            for (number, row) in state.blocks.range(from..) {
                let mut tries = 0;
                while let Err(error) = self.add(row.digest).await {
                    // Retention may take a block that is not here yet, and then nobody has it.
                    if !self.states.borrow().blocks.contains(number) {
                        break;
                    }
                    tries += 1;
                    // The block itself may still be on its way to this node's disk: that is nothing to worry about.
                    if tries % TRIES_PER_WARNING == 0 {
                        let error = error_chain(&error);
                        tracing::warn!(block = %row.digest, error, "cannot index a block of history yet");
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                self.indexed.store(*number, Ordering::Relaxed);
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// Closes the index, so that it is believed also after the machine was started anew. For the last who needs it: others
    /// who hold it have a moment to let go. Never fails: an index that was not closed is built again.
    pub async fn close(self) {
        match tokio::time::timeout(CLOSE_WITHIN, close_alone(self.index)).await {
            Ok(Ok(())) => tracing::debug!("the index of history is closed"),
            Ok(Err(error)) => {
                tracing::warn!(error = error_chain(&error), "the index of history is not closed in order");
            }
            Err(_) => tracing::warn!("the index of history is not closed in order: it takes too long"),
        }
    }

    /// Takes out what retention took off the list.
    async fn take_out(&self, state: &State) {
        let expected: BTreeSet<Digest> = state.blocks.iter().map(|(_, row)| row.digest).collect();
        let index = Arc::clone(&self.index);
        let taken_out = blocking(move || index.keep_only(&expected));
        if let Err(error) = taken_out.await {
            tracing::warn!(error = error_chain(&error), "cannot take a block out of the index of history");
        }
    }

    async fn add(&self, digest: Digest) -> Result<(), HistoryError> {
        if self.index.is_indexed(&digest)? {
            return Ok(());
        }
        let bytes = self.read(digest).await?;
        let index = Arc::clone(&self.index);
        blocking(move || {
            let damaged = || HistoryError::Damaged { digest, run: RunId(0) };
            let runs = Block::places(&bytes).ok_or_else(damaged)?;
            let runs: Vec<IndexedRun> = runs
                .iter()
                .map(|(run, place)| indexed(run, (digest, place), &bytes[place.clone()]))
                .collect();
            Ok(index.add_block(&digest, &runs)?)
        })
        .await
    }

    async fn read(&self, digest: Digest) -> Result<Bytes, HistoryError> {
        self.blocks.block(digest).await.map_err(|why| HistoryError::Block { digest, why })
    }

    /// Whether blocks that the state lists are not in the index yet: what is found may be less than there is.
    pub fn is_incomplete(&self) -> bool {
        let last = self.states.borrow().blocks.last().map_or(0, |(number, _)| *number);
        self.indexed.load(Ordering::Relaxed) < last
    }

    /// Number of the newest block such that it and all before it are indexed here; 0 if none.
    pub fn blocks_indexed(&self) -> u64 {
        self.indexed.load(Ordering::Relaxed)
    }

    /// One finished run with all its rows; `None` if it is not in history.
    pub async fn run(&self, run: RunId) -> Result<Option<RetiredRun>, HistoryError> {
        let found = self.index.find(run.0)?;
        Ok(self.load_all(found.into_iter().collect()).await?.pop())
    }

    /// Runs with ids below `before`, the newest first, `limit` at most.
    pub async fn runs_before(
        &self,
        before: RunId,
        among: &Among,
        limit: usize,
    ) -> Result<PastRuns, HistoryError> {
        let listed = self.index.listed(before.0, among, limit)?;
        Ok(PastRuns { runs: self.load_all(listed.runs).await?, next: listed.next.map(RunId) })
    }

    /// Whether a later run than this one is in the same chain of retries.
    pub fn has_later_retry(&self, root: RunId, run: RunId) -> Result<bool, HistoryError> {
        Ok(self.index.has_later_retry(root.0, run.0)?)
    }

    /// Runs of a schedule before this logical time and run, the newest first, with all their rows.
    pub async fn runs_of(
        &self,
        schedule: &ScheduleId,
        (time, run): (Timestamp, RunId),
        limit: usize,
    ) -> Result<Vec<RetiredRun>, HistoryError> {
        let filter = Filter {
            workflow: schedule.workflow.to_string(),
            schedule: Some(schedule.schedule.to_string()),
            from: None,
            until: None,
        };
        let mut after = Some(PageToken { logical_time: time.as_millis(), run: run.0 });
        loop {
            let page = self.index.scan(&filter, after, Order::NewestFirst, limit)?;
            after = page.next;
            // A page without a run of this schedule may still have looked at many of others.
            if !page.runs.is_empty() || after.is_none() {
                return self.load_all(page.runs).await;
            }
        }
    }

    async fn load_all(&self, found: Vec<IndexedRun>) -> Result<Vec<RetiredRun>, HistoryError> {
        let state = self.states.borrow().clone();
        let mut runs = Vec::with_capacity(found.len());
        // Neighbours in a list are mostly neighbours in a block: they are read together.
        for group in found.chunk_by(|one, other| one.block == other.block) {
            let keeps_logs = self.keeps_logs(&state, group[0].block);
            for mut run in self.load(group).await? {
                if !keeps_logs {
                    expire_logs(&mut run);
                }
                runs.push(run);
            }
        }
        Ok(runs)
    }

    /// Runs of one block, from no more of it than they span; from the whole of it, verified, where that is not what it was.
    async fn load(&self, found: &[IndexedRun]) -> Result<Vec<RetiredRun>, HistoryError> {
        let block = found[0].block;
        let first = found.iter().map(|run| run.offset as usize).min().unwrap_or_default();
        let end = found.iter().map(|run| run.offset as usize + run.length as usize).max().unwrap_or_default();
        if let Some(part) = self.blocks.part(block, first..end).await
            && let Ok(runs) = found.iter().map(|run| run_in((&part, first), run)).collect()
        {
            return Ok(runs);
        }
        let bytes = self.read(block).await?;
        found.iter().map(|run| run_in((&bytes, 0), run)).collect()
    }

    /// Whether retention has left the logs of a block (PROTOCOL 6.11). Of one that is off the list nothing is known.
    fn keeps_logs(&self, state: &State, block: Digest) -> bool {
        let row_at = |number: &u64| state.blocks.get(number).filter(|row| row.digest == block);
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.get(&block).and_then(row_at).is_none() {
            *numbers = state.blocks.iter().map(|(number, row)| (row.digest, *number)).collect();
        }
        numbers.get(&block).and_then(row_at).is_none_or(|row| row.logs_stay.is_some())
    }

    /// Runs of a schedule for logical times from the first to the last of these, both included, without their rows.
    pub fn runs_at(
        &self,
        schedule: &ScheduleId,
        (first, last): (Timestamp, Timestamp),
    ) -> Result<Vec<PastRun>, HistoryError> {
        let filter = Filter {
            workflow: schedule.workflow.to_string(),
            schedule: Some(schedule.schedule.to_string()),
            from: Some(first.as_millis()),
            until: Some(last.as_millis().saturating_add(1)),
        };
        let (mut runs, mut after) = (Vec::new(), None);
        loop {
            let page = self.index.scan(&filter, after, Order::OldestFirst, PAGE)?;
            for run in &page.runs {
                runs.push(past_run(run)?);
            }
            after = page.next;
            if after.is_none() {
                return Ok(runs);
            }
        }
    }
}

/// Closes an index once nobody else holds it.
async fn close_alone(mut index: Arc<Index>) -> Result<(), StoreError> {
    // A call for the disk runs to its end though nobody waits for it any more, and streams of clients end by themselves.
    let index = loop {
        match Arc::try_unwrap(index) {
            Ok(alone) => break alone,
            Err(shared) => index = shared,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    blocking(move || index.close()).await
}

/// A run as retention has left it: its logs are gone while it stays (PROTOCOL 6.11).
fn expire_logs(run: &mut RetiredRun) {
    for (_, attempt) in &mut run.attempts {
        match attempt.log {
            LogState::Attached(LogPlace::Pack { .. }) => attempt.log = LogState::Expired,
            LogState::Attached(LogPlace::Lost)
            | LogState::At(_)
            | LogState::Empty
            | LogState::Lost
            | LogState::Expired => {}
        }
    }
}

/// A run at the place in its block that the index names. The bytes are those of the block from `first` on.
fn run_in((bytes, first): (&[u8], usize), found: &IndexedRun) -> Result<RetiredRun, HistoryError> {
    let start = (found.offset as usize).saturating_sub(first);
    let bytes = bytes.get(start..start + found.length as usize).filter(|it| crc32fast::hash(it) == found.sum);
    let run = bytes.and_then(RetiredRun::decode).filter(|run| run.id.0 == found.run);
    run.ok_or(HistoryError::Damaged { digest: found.block, run: RunId(found.run) })
}

fn past_run(run: &IndexedRun) -> Result<PastRun, HistoryError> {
    // A finished run has no other states.
    let finished = [RunState::Success, RunState::Failed, RunState::Cancelled];
    let state = finished.into_iter().find(|state| state.as_str() == run.state);
    let id = RunId(run.run);
    let state = state.ok_or(HistoryError::Damaged { digest: run.block, run: id })?;
    Ok(PastRun { run: id, logical_time: Timestamp::from_millis(run.logical_time), state })
}

fn indexed(run: &RetiredRun, (block, place): (Digest, &Range<usize>), bytes: &[u8]) -> IndexedRun {
    IndexedRun {
        run: run.id.0,
        workflow: run.run.workflow.to_string(),
        state: run.run.state.as_str().to_owned(),
        schedule: run.run.schedule.as_ref().map(ToString::to_string),
        logical_time: run.run.logical_time.as_millis(),
        retry_of: run.run.retry_of.map(|run| run.0),
        retry_root: run.run.retry_root.0,
        block,
        offset: place.start as u32,
        length: (place.end - place.start) as u32,
        sum: crc32fast::hash(bytes),
    }
}

/// An error with its sources, for a log line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
