//! The state as openraft sees it: applies records in order and tells everybody who listens.
//!
//! `matins_core::apply` is the only thing that changes the state. Readers get an O(1) copy after each entry and never hold
//! this up (PROTOCOL 6.3). An entry that cannot be read stops the node before replicas part (STYLE 20).

use std::sync::{Arc, Mutex, PoisonError};

use matins_core::command::Entry;
use matins_core::id::{Digest, LogIndex};
use matins_core::{Effect, State, apply, members_changed};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder, Snapshot, StorageIOError};
use tokio::sync::{broadcast, mpsc, watch};

use super::clock::EntryClock;
use super::consensus::AppliedEntry;
use super::snapshot::{Agreed, SnapshotFile, Snapshots};
use super::types::{
    Applied, EntryBytes, LogId, Record, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};

/// The state at one index, and what a snapshot of it needs besides.
#[derive(Clone, Debug)]
pub(crate) struct StateCopy {
    pub(crate) state: State,
    pub(crate) log_id: LogId,
    pub(crate) membership: StoredMembership,
}

/// What an entry asks of this node's disk, in order.
#[derive(Debug)]
pub(crate) enum Keep {
    /// A block of history is written (PROTOCOL 6.5).
    Block { digest: Digest, bytes: Vec<u8> },
    /// The state at a checkpoint is hashed and reported (PROTOCOL 6.8).
    Checkpoint(Box<StateCopy>),
    /// A majority found this hash there.
    Agreed { index: u64, hash: Digest },
    /// The feature level was raised: older releases must not open this directory any more (PROTOCOL 6.9).
    Level(u16),
}

/// Where applied entries go.
pub(crate) struct Outlets {
    pub(crate) clock: Arc<dyn EntryClock>,
    pub(crate) states: watch::Sender<Arc<State>>,
    /// The last applied record of any kind; `State::index` knows none of the blank ones.
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) entries: broadcast::Sender<Arc<AppliedEntry>>,
    /// Not bounded: the protocol bounds it, since a checkpoint comes once an hour and a block only when a majority has the
    /// block before the last; and `apply` cannot wait for a disk.
    pub(crate) keep: mpsc::UnboundedSender<Keep>,
}

/// openraft's state machine.
pub(crate) struct Machine {
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    outlets: Outlets,
    snapshots: Snapshots,
    agreed: AgreedCopy,
    level_max: u16,
}

/// The state that is to become the next snapshot: of a checkpoint that a majority agrees on, never of another index.
pub(crate) type AgreedCopy = Arc<Mutex<Option<Agreed>>>;

impl Machine {
    /// Begins with the newest snapshot, or with nothing.
    pub(crate) fn new(
        start: Option<StateCopy>,
        outlets: Outlets,
        (snapshots, agreed): (Snapshots, AgreedCopy),
        level_max: u16,
    ) -> Self {
        let mut machine = Self {
            state: State::default(),
            last_applied: None,
            membership: StoredMembership::default(),
            outlets,
            snapshots,
            agreed,
            level_max,
        };
        if let Some(copy) = start {
            machine.replace(copy);
        }
        machine
    }

    /// The state as it is now, for a snapshot of it that no checkpoint asks for.
    #[cfg(test)]
    pub(crate) fn copy(&self) -> Option<StateCopy> {
        let log_id = self.last_applied?;
        Some(StateCopy { state: self.state.clone(), log_id, membership: self.membership.clone() })
    }

    fn replace(&mut self, copy: StateCopy) {
        self.note_level(copy.state.cluster.level);
        self.state = copy.state;
        self.last_applied = Some(copy.log_id);
        self.membership = copy.membership;
        self.outlets.clock.applied(self.state.now);
        self.outlets.states.send_replace(Arc::new(self.state.clone()));
        self.outlets.applied.send_replace(copy.log_id.index);
    }

    fn apply_record(&mut self, record: Record) -> Result<Applied, StorageError> {
        let log_id = record.log_id;
        self.last_applied = Some(log_id);
        let applied = match record.payload {
            EntryPayload::Blank => Applied::default(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                members_changed(&mut self.state, LogIndex(log_id.index));
                self.outlets.states.send_replace(Arc::new(self.state.clone()));
                Applied::default()
            }
            EntryPayload::Normal(bytes) => self.apply_entry(log_id, &bytes)?,
        };
        self.outlets.applied.send_replace(log_id.index);
        Ok(applied)
    }

    fn apply_entry(&mut self, log_id: LogId, bytes: &EntryBytes) -> Result<Applied, StorageError> {
        let entry = Entry::decode(&bytes.0).map_err(|unreadable| {
            tracing::error!(index = log_id.index, "{unreadable}: a later version of matins is needed");
            StorageIOError::apply(log_id, &unreadable)
        })?;
        let at = entry.at;
        let index = LogIndex(log_id.index);
        let before = self.state.cluster.level;
        let outcome = apply(&mut self.state, index, entry);
        self.check_level().map_err(|error| StorageIOError::apply(log_id, &error))?;
        if self.state.cluster.level != before {
            self.note_level(self.state.cluster.level);
        }
        self.outlets.clock.applied(self.state.now);
        self.keep(log_id, &outcome.effects);
        let state = Arc::new(self.state.clone());
        self.outlets.states.send_replace(Arc::clone(&state));
        let applied = Applied { at, answers: outcome.answers.clone(), indexes: outcome.indexes };
        let entry = AppliedEntry { index, at, answers: outcome.answers, effects: outcome.effects, state };
        // Nobody listening is no error: effects are hints (DESIGN 3.6).
        drop(self.outlets.entries.send(Arc::new(entry)));
        Ok(applied)
    }

    /// What a later release decides from here on, this one would decide otherwise (PROTOCOL 6.9).
    fn check_level(&self) -> Result<(), std::io::Error> {
        let (level, known) = (self.state.cluster.level, self.level_max);
        if level <= known {
            return Ok(());
        }
        let why = format!(
            "the cluster is at feature level {level}, and this version of matins knows up to {known}"
        );
        tracing::error!("{why}: install the version that the other nodes run");
        Err(std::io::Error::other(why))
    }

    /// Has the directory marked. The one who does it is gone only when the node stops.
    fn note_level(&self, level: u16) {
        drop(self.outlets.keep.send(Keep::Level(level)));
    }

    /// Hands what the disk is to keep to the one who keeps it. He is gone only when the node stops.
    fn keep(&self, log_id: LogId, effects: &[Effect]) {
        for effect in effects {
            let keep = match effect {
                Effect::Block { digest, bytes } => Keep::Block { digest: *digest, bytes: bytes.clone() },
                Effect::Checkpoint => {
                    let membership = self.membership.clone();
                    Keep::Checkpoint(Box::new(StateCopy { state: self.state.clone(), log_id, membership }))
                }
                Effect::Agreed { index, hash } => Keep::Agreed { index: *index, hash: *hash },
                Effect::Granted { .. }
                | Effect::Stop { .. }
                | Effect::Ended { .. }
                | Effect::Deciding(_)
                | Effect::Schedule(_)
                | Effect::Timer
                | Effect::Backfill(_)
                | Effect::Run(_)
                | Effect::LogsSettled(..)
                | Effect::Executor(_)
                | Effect::Definitions => continue,
            };
            drop(self.outlets.keep.send(keep));
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, records: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Record> + Send,
        I::IntoIter: Send,
    {
        records.into_iter().map(|record| self.apply_record(record)).collect()
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { agreed: Arc::clone(&self.agreed), snapshots: self.snapshots.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        // Parts are received by the peer service, which hands over a whole file.
        Ok(Box::new(SnapshotFile::default()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let copy = self.snapshots.install(*file).await.map_err(|error| {
            tracing::error!("cannot install a snapshot: {error}");
            StorageIOError::write_snapshot(Some(meta.signature()), &error)
        })?;
        self.replace(copy);
        self.check_level().map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error))?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = self.snapshots.current();
        current.map_err(|error| StorageIOError::read_snapshot(None, &error).into())
    }
}

/// Writes the agreed copy as a snapshot.
pub(crate) struct Builder {
    agreed: AgreedCopy,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(agreed) = agreed else {
            // We ask for a snapshot only with an agreed copy; openraft itself asks for one only if the log was purged and the
            // snapshot is gone: a damaged directory.
            let error = std::io::Error::other("there is no checkpoint that a majority agrees on");
            return Err(StorageIOError::write_snapshot(None, &error).into());
        };
        self.snapshots
            .write(agreed)
            .await
            .map_err(|error| StorageIOError::write_snapshot(None, &error).into())
    }
}
