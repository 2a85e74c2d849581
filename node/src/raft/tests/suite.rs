//! openraft's own suite of storage tests, on real files.

use std::ops::{Deref, DerefMut};

use matins_core::time::Timestamp;
use openraft::storage::RaftStateMachine;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{RaftSnapshotBuilder, Snapshot};
use tokio::sync::{broadcast, mpsc, watch};

use super::super::log::{RaftLog, Signals};
use super::super::machine::{AgreedCopy, Builder, Keep, Machine, Outlets, StateCopy};
use super::super::snapshot::{Agreed, SnapshotFile, Snapshots};
use super::super::types::{Applied, LogId, Record, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use super::*;
use crate::metrics::Timings;
use crate::store::files::{Disk, Files};
use crate::store::log::{Log, LogConfig};
use crate::store::vote::VoteFile;

/// The machine, but every state may become a snapshot at once: the suite knows no checkpoints.
struct AlwaysAgreed {
    machine: Machine,
    agreed: AgreedCopy,
    _keep: mpsc::UnboundedReceiver<Keep>,
}

impl Deref for AlwaysAgreed {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl DerefMut for AlwaysAgreed {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

impl RaftStateMachine<TypeConfig> for AlwaysAgreed {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        self.machine.applied_state().await
    }

    async fn apply<I>(&mut self, records: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Record> + Send,
        I::IntoIter: Send,
    {
        self.machine.apply(records).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The suite also asks for a snapshot of nothing, behind a log that it has purged.
        let nothing = || StateCopy {
            state: State::default(),
            log_id: LogId::default(),
            membership: StoredMembership::default(),
        };
        let copy = self.copy().unwrap_or_else(nothing);
        *self.agreed.lock().unwrap() = Some(Agreed { hash: copy.state.hash(), copy });
        self.machine.get_snapshot_builder().await
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        self.machine.begin_receiving_snapshot().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        file: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        self.machine.install_snapshot(meta, file).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        self.machine.get_current_snapshot().await
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, RaftLog, AlwaysAgreed, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, RaftLog, AlwaysAgreed), StorageError> {
        let root = TempDir::new().unwrap();
        let files: Arc<dyn Files> = Arc::new(Disk);
        let log = Log::open(Arc::clone(&files), &root.path().join("log"), LogConfig::default()).unwrap();
        let vote = VoteFile::new(Arc::clone(&files), root.path());
        let store = crate::store::snapshot::Snapshots::open(files, &root.path().join("snapshots")).unwrap();
        // The suite purges without snapshots.
        let snapshot = watch::channel(u64::MAX).1;
        let (written, votes) = (watch::Sender::new(0), watch::Sender::new(0));
        let signals = Signals { written, votes, snapshot, timings: Timings::default() };
        let log = RaftLog::new(log, vote, 0, signals);
        let (keep, asked) = mpsc::unbounded_channel();
        let outlets = Outlets {
            clock: Arc::new(MajorityClock::default()),
            states: watch::Sender::default(),
            applied: watch::Sender::new(0),
            entries: broadcast::Sender::new(8),
            keep,
        };
        let snapshots = Snapshots::new(Arc::new(store), watch::Sender::new(0));
        let agreed = AgreedCopy::default();
        let machine = Machine::new(None, outlets, (snapshots, Arc::clone(&agreed)), LEVEL);
        Ok((root, log, AlwaysAgreed { machine, agreed, _keep: asked }))
    }
}

#[test]
fn openrafts_suite_passes() {
    Suite::test_all(OnDisk).unwrap();
}

/// PROTOCOL 6.8: a snapshot is never of a state that no majority has confirmed.
#[tokio::test]
async fn nothing_is_published_without_agreement() {
    let (_root, _log, mut machine) = OnDisk.build().await.unwrap();
    machine.machine.apply([Record::default()]).await.unwrap();
    assert!(machine.machine.get_snapshot_builder().await.build_snapshot().await.is_err());
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
    assert_eq!(machine.copy().unwrap().state.now, Timestamp::ZERO);
}
