//! The log and the vote as openraft wants them, over the store's (PROTOCOL 6.1).
//!
//! Every call that waits for the disk runs on a blocking thread. The newest records stay in memory too, since a leader reads
//! each of them at once for its followers and for itself.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matins_core::mutation::{Mutation, planted};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader, StorageIOError};
use tokio::sync::watch;

use super::network::APPEND_BYTES_MAX;
use super::record;
use super::types::{LogId, Record, StorageError, TypeConfig, Vote};
use crate::metrics::Timings;
use crate::store::StoreError;
use crate::store::log::{Log, Record as Stored};
use crate::store::vote::{VoteFile, VoteRecord};
use crate::system::{blocking, boot_time};

/// Bytes of the newest records that stay in memory.
const RECENT_BYTES_MAX: usize = 16 << 20;
/// How long to wait before a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// openraft's log storage. Clones are readers of the same log.
#[derive(Clone)]
pub(crate) struct RaftLog {
    log: Arc<Log>,
    vote: Arc<VoteFile>,
    node: u64,
    recent: Arc<Mutex<Recent>>,
    /// The newest committed record that openraft told of; the store has it once it appends again.
    committed: Arc<Mutex<Option<LogId>>>,
    /// The disk was full when it was last written to, and is being waited for.
    is_full: Arc<AtomicBool>,
    signals: Signals,
}

/// What the log tells, and what it waits for.
#[derive(Clone)]
pub(crate) struct Signals {
    /// The last record that is durable here.
    pub(crate) written: watch::Sender<u64>,
    /// Counts votes that came to be on disk: the election timer counts from there (PROTOCOL 2.5).
    pub(crate) votes: watch::Sender<u64>,
    /// The newest index whose snapshot is durable: nothing beyond it is purged (PROTOCOL 6.8).
    pub(crate) snapshot: watch::Receiver<u64>,
    /// How long an append takes.
    pub(crate) timings: Timings,
}

impl RaftLog {
    pub(crate) fn new(log: Log, vote: VoteFile, node: u64, signals: Signals) -> Self {
        let recent = Arc::new(Mutex::new(Recent::default()));
        let (committed, is_full) = Default::default();
        Self { log: Arc::new(log), vote: Arc::new(vote), node, recent, committed, is_full, signals }
    }

    /// The store's log, for what openraft does not ask about it.
    pub(crate) fn store(&self) -> &Arc<Log> {
        &self.log
    }

    /// Whether writing waits for room on the disk.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call of the store where it may wait. A full disk is waited for (nothing is lost, and a leader that waits too long
    /// gives up the lead, PROTOCOL 2.3); every other error stops the node.
    async fn wait<T: Send + 'static>(
        &self,
        call: impl Fn(&Log, &VoteFile) -> Result<T, StoreError> + Send + Sync + 'static,
    ) -> io::Result<T> {
        let call = Arc::new(call);
        loop {
            let (log, vote, once) = (Arc::clone(&self.log), Arc::clone(&self.vote), Arc::clone(&call));
            match blocking(move || once(&log, &vote)).await {
                Ok(done) => {
                    self.is_full.store(false, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error @ StoreError::Full { .. }) => {
                    self.is_full.store(true, Ordering::Relaxed);
                    tracing::error!(hint = error.hint(), "{error}");
                    tokio::time::sleep(FULL_RETRY).await;
                }
                Err(error) => {
                    tracing::error!(hint = error.hint(), "{error}");
                    return Err(io::Error::other(error));
                }
            }
        }
    }

    /// The records of `from..to` that are there: all of them, or the first of them up to `bytes_max`.
    async fn read(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Record>, StorageError> {
        let found = self.recent().range(from, to, bytes_max);
        let stored = match found {
            Some(stored) => stored,
            None => self
                .wait(move |log, _| log.read(from..to, bytes_max))
                .await
                .map_err(|error| StorageIOError::read_logs(&error))?,
        };
        let read = |stored: &Stored| {
            record::from_stored(stored)
                .map_err(|error| StorageError::from(StorageIOError::read_log_at_index(stored.index, &error)))
        };
        stored.iter().map(read).collect()
    }
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Record>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        // openraft may begin before what is left of the log.
        let from = from.max(self.log.first().unwrap_or(u64::MAX));
        if from >= to { Ok(Vec::new()) } else { self.read(from, to, u64::MAX).await }
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> Result<Vec<Record>, StorageError> {
        self.read(from, to, APPEND_BYTES_MAX as u64).await
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(record::to_log_id),
            last_log_id: self.log.last().map(record::to_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let stored =
            VoteRecord { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed };
        let saved = self.wait(move |_, file| file.save(&stored)).await;
        saved.map_err(|error| StorageIOError::write_vote(&error))?;
        self.signals.votes.send_modify(|votes| *votes += 1);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let node = self.node;
        // PROTOCOL 2.2: a restarted leader must be elected.
        let stored = self.wait(move |_, file| file.load_for_start(node)).await;
        let stored = stored.map_err(|error| StorageIOError::read_vote(&error))?;
        Ok(stored.map(|stored| {
            let mut vote = Vote::new(stored.term, stored.node);
            vote.committed = stored.committed;
            vote
        }))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // In memory only: it rides with the next append (PROTOCOL 6.8).
        if let Some(committed) = committed {
            self.log.save_committed(committed.index).map_err(|error| StorageIOError::write(&error))?;
            *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        if let Some(committed) = *self.committed.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(committed));
        }
        let committed = self.log.committed().map_err(|error| StorageIOError::read_logs(&error))?;
        // What is purged is in a snapshot, which says so itself; openraft would look for it in the log.
        let purged = self.log.purged();
        Ok(committed.filter(|at| Some(at.index) > purged.map(|purged| purged.index)).map(record::to_log_id))
    }

    async fn append<I>(&mut self, records: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Record> + Send,
        I::IntoIter: Send,
    {
        // What was purged is in a snapshot: there is nothing to write.
        let purged = self.log.purged().map(|purged| purged.index);
        let stored: Arc<[Stored]> = records
            .into_iter()
            .filter(|record| Some(record.log_id.index) > purged)
            .map(|record| record::to_stored(&record))
            .collect();
        let last = stored.last().map(|record| record.index);
        let written = Arc::clone(&stored);
        let timings = self.signals.timings.clone();
        let append = move |log: &Log, _: &VoteFile| {
            let began = boot_time();
            log.append(&written)?;
            timings.synced(boot_time().0 - began.0);
            Ok(())
        };
        let appended = self.wait(append).await;
        if let (Ok(()), Some(last)) = (&appended, last) {
            self.recent().push(&stored);
            self.signals.written.send_replace(last);
        }
        callback.log_io_completed(appended);
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        self.recent().truncate(from.index);
        let truncated = self.wait(move |log, _| log.truncate(from.index)).await;
        truncated.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        // When openraft installs a snapshot it purges at once; until the snapshot is durable the log is all there is.
        let is_durable =
            |index: &u64| *index >= upto.index || planted(Mutation::PurgeBeforeSnapshotIsDurable);
        let durable = self.signals.snapshot.wait_for(is_durable).await.map(drop);
        durable.map_err(|error| StorageIOError::write_logs(&error))?;
        self.recent().purge(upto.index);
        let purged = self.wait(move |log, _| log.purge(record::to_position(upto))).await;
        purged.map_err(|error| StorageIOError::write_logs(&error).into())
    }
}

/// The newest records, without gaps.
#[derive(Default)]
struct Recent {
    records: VecDeque<Stored>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, records: &[Stored]) {
        let follows = |last: &Stored| records.first().is_some_and(|first| first.index == last.index + 1);
        if !self.records.back().is_none_or(follows) {
            *self = Self::default();
        }
        for record in records {
            self.bytes += record.body.len();
            self.records.push_back(record.clone());
        }
        while self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.body.len();
        }
    }

    fn truncate(&mut self, from: u64) {
        while self.records.back().is_some_and(|record| record.index >= from) {
            let Some(newest) = self.records.pop_back() else { break };
            self.bytes -= newest.body.len();
        }
    }

    fn purge(&mut self, upto: u64) {
        while self.records.front().is_some_and(|record| record.index <= upto) {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.body.len();
        }
    }

    /// As `Log::read`; `None` if this does not hold the first of them.
    fn range(&self, from: u64, to: u64, bytes_max: u64) -> Option<Vec<Stored>> {
        let skip = from.checked_sub(self.records.front()?.index)? as usize;
        if skip >= self.records.len() {
            return None;
        }
        let mut found: Vec<Stored> = Vec::new();
        let mut bytes = 0;
        for record in self.records.iter().skip(skip).take_while(|record| record.index < to) {
            bytes += record.body.len() as u64;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(record.clone());
        }
        Some(found)
    }
}
