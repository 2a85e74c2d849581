//! What entries ask of this node's disk: blocks of history, checkpoints, snapshots, and the purge behind them (PROTOCOL 6.5, 6.8).
//!
//! One task does it in order, so that a snapshot is published only after the blocks before it are written. It never holds
//! `apply` up.

use std::sync::{Arc, PoisonError};

use matins_core::command::{Command, Proposal};
use matins_core::id::Digest;
use matins_core::mutation::{Mutation, planted};
use tokio::sync::mpsc;

use super::blobs::put_here;
use super::consensus::{Consensus, Inner};
use super::machine::{AgreedCopy, Keep, StateCopy};
use super::snapshot::Agreed;
use super::storage::StorageConfig;
use super::types::LogId;
use super::watchdog::{Exit, OnExit};
use crate::system::blocking;

/// Keeps what is to be kept.
pub(crate) struct Keeper {
    pub(crate) inner: Arc<Inner>,
    pub(crate) storage: StorageConfig,
    pub(crate) asked: mpsc::UnboundedReceiver<Keep>,
    pub(crate) agreed: AgreedCopy,
    /// The newest checkpoint and what this node found there.
    pub(crate) found: Option<Agreed>,
    pub(crate) on_exit: OnExit,
}

impl Keeper {
    pub(crate) async fn run(mut self) {
        let stop = self.inner.stop.clone();
        loop {
            let keep = tokio::select! {
                () = stop.cancelled() => return,
                keep = self.asked.recv() => match keep {
                    Some(keep) => keep,
                    None => return,
                },
            };
            match keep {
                Keep::Block { .. } if planted(Mutation::SnapshotBeforeItsBlocks) => {}
                Keep::Block { digest, bytes } => self.keep_block(digest, bytes).await,
                Keep::Checkpoint(copy) => self.check(*copy).await,
                Keep::Agreed { index, hash } => self.publish(index, hash).await,
                Keep::Level(level) => self.raise(level).await,
            }
        }
    }

    async fn keep_block(&self, digest: Digest, bytes: Vec<u8>) {
        match put_here(&self.inner.blobs, bytes.into()).await {
            Ok(written) if written == digest => {}
            Ok(written) => tracing::error!(%digest, %written, "a block is not what its entry says"),
            // It is named as missing from now on, and fetched from a peer.
            Err(error) => tracing::error!(%digest, "cannot keep a block of history: {error}"),
        }
    }

    /// A crash before this is made up for when the entry is applied again.
    async fn raise(&self, level: u16) {
        let dir = Arc::clone(&self.inner.dir);
        if dir.marker().level >= u32::from(level) {
            return;
        }
        if let Err(error) = blocking(move || dir.raise_level(level.into())).await {
            tracing::error!(level, "cannot mark the data directory with the feature level: {error}");
        }
    }

    /// Hashes the state of a checkpoint and reports it.
    async fn check(&mut self, copy: StateCopy) {
        let state = copy.state.clone();
        let hash = blocking(move || state.hash()).await;
        let index = copy.log_id.index;
        self.found = Some(Agreed { copy, hash });
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            let consensus = Consensus::of(inner);
            let voters = consensus.members().voters();
            // A majority is one of voters; a learner only keeps its copy, to publish what they agree on.
            if !voters.contains(&consensus.node()) {
                return;
            }
            let (node, voters) = (consensus.node(), voters.len() as u32);
            let command = Command::CheckpointReport { node, index, hash, voters };
            let within = consensus.times().lease;
            let report = Proposal { request: None, leadership: None, command };
            // Without it the others may still be a majority; the next checkpoint comes within the hour.
            if let Err(error) = consensus.forward(report, within).await {
                tracing::warn!(index, "a checkpoint was not reported: {error}");
            }
        });
    }

    /// Publishes the snapshot of a checkpoint that a majority agrees on, and cuts the log behind it.
    async fn publish(&mut self, index: u64, hash: Digest) {
        let Some(found) = self.found.take_if(|found| found.copy.log_id.index == index) else {
            tracing::debug!(index, "agreed on a checkpoint that this node has no copy of");
            return;
        };
        if found.hash != hash {
            self.stop_for_good(index, (found.hash, hash)).await;
            return;
        }
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        let published = async {
            self.inner.raft.trigger().snapshot().await.ok()?;
            // Not the durable file but openraft's own knowledge of it: before that it purges nothing.
            let mut metrics = self.inner.raft.data_metrics();
            let is_known = |known: Option<LogId>| known.is_some_and(|known| known.index >= index);
            metrics.wait_for(|metrics| is_known(metrics.snapshot)).await.ok().map(drop)
        };
        let done = tokio::select! {
            () = self.inner.stop.cancelled() => None,
            done = published => done,
        };
        if done.is_some() {
            self.purge(index).await;
        }
    }

    /// This node's state is not what a majority found: it must not answer, apply or vote any more, and cannot be mended from
    /// here (PROTOCOL 6.8). Its directory says so at every start.
    async fn stop_for_good(&self, index: u64, (here, agreed): (Digest, Digest)) {
        let reason = format!(
            "its state differs from the majority's at index {index} (here {here}, there {agreed}): replace this node"
        );
        tracing::error!(index, %agreed, %here, "this node's state differs from the majority's");
        let (dir, marked) = (Arc::clone(&self.inner.dir), reason.clone());
        if let Err(error) = blocking(move || dir.stop(&marked)).await {
            tracing::error!(%error, "the directory cannot be marked");
        }
        (self.on_exit)(&Exit::Fault(reason));
    }

    /// openraft keeps what a replication still reads and purges it when that has gone on.
    async fn purge(&self, snapshot: u64) {
        let log = self.inner.log.store();
        let Some(first) = log.first() else { return };
        let Some(upto) = purge_upto(first, snapshot, &self.storage, |at| log.bytes_from(at)) else { return };
        drop(self.inner.raft.trigger().purge_log(upto).await);
    }
}

/// The last record to purge: all up to the snapshot but the newest, so many or so many bytes, whichever is less. `None` if
/// nothing goes.
fn purge_upto(
    first: u64,
    snapshot: u64,
    kept: &StorageConfig,
    bytes_from: impl Fn(u64) -> u64,
) -> Option<u64> {
    let by_count = (snapshot + 1).saturating_sub(kept.keep_records);
    // The first record such that it and all after it have so many bytes at most.
    let (mut low, mut high) = (first, snapshot + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if bytes_from(middle) <= kept.keep_bytes {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let keep_from = by_count.max(low);
    (keep_from > first).then(|| keep_from - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_keeps_what_followers_may_still_need() {
        let kept = StorageConfig::default();
        let purge_upto =
            |first, snapshot, bytes_from: &dyn Fn(u64) -> u64| purge_upto(first, snapshot, &kept, bytes_from);
        let thousand_each = |end: u64| move |at: u64| (end - at) * 1_000;
        // 50,000 records of 1,000 bytes are less than either bound.
        assert_eq!(purge_upto(0, 50_000, &thousand_each(50_001)), None);
        // 64 MiB are 67,108 such records.
        assert_eq!(purge_upto(0, 199_999, &thousand_each(200_000)), Some(132_891));
        // Small records: 100,000 of them.
        assert_eq!(purge_upto(0, 199_999, &|at: u64| (200_000 - at) * 10), Some(99_999));
        assert_eq!(purge_upto(150_000, 199_999, &|at: u64| (200_000 - at) * 10), None);
    }
}
