//! Snapshots as openraft sees them, over the store's (PROTOCOL 6.8): a state in canonical encoding, with its hash.
//!
//! A snapshot is published only of a checkpoint whose hash a majority reported; who decides that is `keep`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use matins_core::State;
use matins_core::id::Digest;
use matins_core::mutation::{Mutation, planted};
use matins_proto::v1;
use openraft::Snapshot;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::Status;

use super::links::Link;
use super::machine::StateCopy;
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use super::{record, wire};
use crate::store::snapshot as stored;
use crate::store::{Position, StoreError};
use crate::system::blocking;

/// The bytes of a snapshot, in openraft's hands.
#[derive(Default)]
pub(crate) enum SnapshotFile {
    /// Not there yet.
    #[default]
    Empty,
    /// One that counts, here.
    Published(Arc<stored::Snapshot>),
    /// One that came whole from a peer.
    Received(Box<stored::UnpublishedSnapshot>),
}

/// A copy of the state, its hash agreed on.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) copy: StateCopy,
    pub(crate) hash: Digest,
}

/// The members in a snapshot.
#[derive(Serialize, Deserialize)]
struct Members {
    at: Option<Position>,
    members: Vec<u8>,
}

/// The snapshots of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Snapshots {
    store: Arc<stored::Snapshots>,
    durable: watch::Sender<u64>,
}

impl Snapshots {
    /// `durable` tells the newest index whose snapshot is durable.
    pub(crate) fn new(store: Arc<stored::Snapshots>, durable: watch::Sender<u64>) -> Self {
        if let Some(newest) = store.newest() {
            durable.send_replace(newest.meta().last.index);
        }
        Self { store, durable }
    }

    pub(crate) fn store(&self) -> &Arc<stored::Snapshots> {
        &self.store
    }

    /// The newest snapshot, for openraft.
    pub(crate) fn current(&self) -> Result<Option<Snapshot<TypeConfig>>, StoreError> {
        self.store.newest().map(for_openraft).transpose()
    }

    /// The state of the newest snapshot. Blocks.
    pub(crate) fn load(&self) -> Result<Option<StateCopy>, StoreError> {
        self.store.newest().map(|snapshot| read(&snapshot)).transpose()
    }

    /// Writes and publishes a snapshot.
    pub(crate) async fn write(&self, agreed: Agreed) -> Result<Snapshot<TypeConfig>, StoreError> {
        let store = Arc::clone(&self.store);
        let publish = move || {
            let Agreed { copy, hash } = agreed;
            let mut writer = store.write(&meta_to_store(&copy, hash))?;
            let written = writer.write_all(&copy.state.encode());
            written.map_err(|source| StoreError::Io { doing: "write", path: "a snapshot".into(), source })?;
            store.publish(writer.finish()?)
        };
        let published = blocking(publish).await?;
        self.is_durable(&published);
        for_openraft(published)
    }

    /// Publishes what came from a peer, and answers its state. A state that is not what its hash says is refused.
    pub(crate) async fn install(&self, file: SnapshotFile) -> Result<StateCopy, StoreError> {
        let store = Arc::clone(&self.store);
        let install = move || {
            let unpublished = match file {
                SnapshotFile::Received(unpublished) => *unpublished,
                SnapshotFile::Published(other) => copy_of(&store, &other)?,
                SnapshotFile::Empty => {
                    let what = "installing a snapshot that was not received";
                    return Err(StoreError::OutOfOrder { what, expected: 1, got: 0 });
                }
            };
            let published = store.publish(unpublished)?;
            Ok((read(&published)?, published))
        };
        let (copy, published) = blocking(install).await?;
        self.is_durable(&published);
        Ok(copy)
    }

    /// One that was agreed on here may come after a newer one from a leader: what is durable stays so.
    fn is_durable(&self, published: &stored::Snapshot) {
        self.durable.send_modify(|durable| *durable = published.meta().last.index.max(*durable));
    }
}

/// Takes over the pieces of a snapshot that lies elsewhere.
fn copy_of(
    store: &stored::Snapshots,
    other: &stored::Snapshot,
) -> Result<stored::UnpublishedSnapshot, StoreError> {
    let mut receiver = store.receive(other.meta().last)?;
    while let Some(piece) = other.piece(receiver.next_piece())? {
        receiver.add(receiver.next_piece(), &piece)?;
    }
    receiver.finish()
}

fn read(snapshot: &Arc<stored::Snapshot>) -> Result<StateCopy, StoreError> {
    let damaged = |why: &str| StoreError::Corrupt { path: "a snapshot".into(), at: 0, why: why.into() };
    let mut bytes = Vec::new();
    let whole = snapshot.reader().read_to_end(&mut bytes);
    whole.map_err(|source| StoreError::Io { doing: "read", path: "a snapshot".into(), source })?;
    let meta = snapshot.meta();
    if Digest::of(&bytes) != meta.state_hash {
        return Err(damaged("its state is not what its hash says"));
    }
    let state = State::decode(&bytes)
        .ok_or_else(|| damaged("its state is of a form that this release does not know"))?;
    let membership = members(&meta.membership)?;
    Ok(StateCopy { state, log_id: record::to_log_id(meta.last), membership })
}

fn meta_to_store(copy: &StateCopy, hash: Digest) -> stored::SnapshotMeta {
    let members = Members {
        at: (*copy.membership.log_id()).map(record::to_position),
        members: record::encode_membership(copy.membership.membership()).to_vec(),
    };
    let mut last = record::to_position(copy.log_id);
    last.index += u64::from(planted(Mutation::SnapshotOffByOne));
    stored::SnapshotMeta {
        last,
        level: copy.state.cluster.level.into(),
        membership: postcard::to_allocvec(&members).expect("its bytes have a known length"),
        state_hash: hash,
    }
}

fn members(bytes: &[u8]) -> Result<StoredMembership, StoreError> {
    let damaged = |why: String| StoreError::Corrupt { path: "the members in a snapshot".into(), at: 0, why };
    let members: Members = postcard::from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
    let membership =
        record::decode_membership(&members.members).map_err(|error| damaged(error.to_string()))?;
    Ok(StoredMembership::new(members.at.map(record::to_log_id), membership))
}

/// What a snapshot holds, for who reads a directory offline.
pub(crate) struct Held {
    pub(crate) state: State,
    pub(crate) last: Position,
    pub(crate) members: super::types::Members,
}

/// Reads a snapshot; a state that is not what its hash says is refused. Blocks.
pub(crate) fn held(snapshot: &Arc<stored::Snapshot>) -> Result<Held, StoreError> {
    let copy = read(snapshot)?;
    let members = super::types::Members::from(copy.membership.membership());
    Ok(Held { state: copy.state, last: record::to_position(copy.log_id), members })
}

/// Writes the snapshot that a cluster of one begins anew from, at `last` (PROTOCOL 6.10). Its member has the labels it is
/// started with. Blocks.
pub(crate) fn found(store: &stored::Snapshots, state: State, last: Position) -> Result<(), StoreError> {
    let log_id = record::to_log_id(last);
    let alone = BTreeMap::from([(last.leader, super::types::Member::default())]);
    let membership = super::types::Membership::new(vec![BTreeSet::from([last.leader])], alone);
    let membership = StoredMembership::new(Some(log_id), membership);
    let hash = state.hash();
    let copy = StateCopy { state, log_id, membership };
    let mut writer = store.write(&meta_to_store(&copy, hash))?;
    let written = writer.write_all(&copy.state.encode());
    written.map_err(|source| StoreError::Io { doing: "write", path: "a snapshot".into(), source })?;
    store.publish(writer.finish()?).map(drop)
}

/// Writes a snapshot again with another state in it, under a hash that holds.
#[cfg(debug_assertions)]
pub(crate) fn corrupt(store: &stored::Snapshots, snapshot: &Arc<stored::Snapshot>) -> Result<(), StoreError> {
    let mut copy = read(snapshot)?;
    copy.state.cluster.counters.leaderships += 1;
    let hash = copy.state.hash();
    let mut writer = store.write(&meta_to_store(&copy, hash))?;
    let written = writer.write_all(&copy.state.encode());
    written.map_err(|source| StoreError::Io { doing: "write", path: "a snapshot".into(), source })?;
    store.publish(writer.finish()?).map(drop)
}

/// What openraft needs to know of a snapshot.
pub(crate) fn meta_for_openraft(meta: &stored::SnapshotMeta) -> Result<SnapshotMeta, StoreError> {
    Ok(SnapshotMeta {
        last_log_id: Some(record::to_log_id(meta.last)),
        last_membership: members(&meta.membership)?,
        snapshot_id: format!("{}-{:?}", meta.last.index, meta.state_hash),
    })
}

fn for_openraft(snapshot: Arc<stored::Snapshot>) -> Result<Snapshot<TypeConfig>, StoreError> {
    let meta = meta_for_openraft(snapshot.meta())?;
    Ok(Snapshot { meta, snapshot: Box::new(SnapshotFile::Published(snapshot)) })
}

/// Sends the pieces that the other node lacks, and answers the vote that holds there.
pub(crate) async fn send(
    mut link: Link,
    to: v1::PeerTo,
    vote: Vote,
    snapshot: Snapshot<TypeConfig>,
) -> Result<Vote, Status> {
    let SnapshotFile::Published(file) = *snapshot.snapshot else {
        return Err(Status::internal("only a published snapshot is sent"));
    };
    let last: LogId = record::to_log_id(file.meta().last);
    let last = Some(wire::log_id_out(last));
    let held = v1::PeerSnapshotHeldRequest { to: Some(to), last };
    let next = link.bulk.snapshot_held(held).await?.into_inner().next_piece;
    let head = v1::PeerSnapshotPart {
        to: Some(to),
        last,
        vote: Some(wire::vote_out(vote)),
        ..v1::PeerSnapshotPart::default()
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let read = async move {
        // The head goes alone, so that all other messages are alike.
        if sender.send(head).await.is_err() {
            return Ok(());
        }
        for number in next..file.pieces() {
            let file = Arc::clone(&file);
            let Some(piece) = blocking(move || file.piece(number)).await? else { break };
            let part = v1::PeerSnapshotPart { number, piece, ..v1::PeerSnapshotPart::default() };
            // Whoever takes them has had enough, or is gone: the answer says which.
            if sender.send(part).await.is_err() {
                break;
            }
        }
        Ok::<(), StoreError>(())
    };
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let (answer, read) = tokio::join!(link.bulk.install_snapshot(stream), read);
    let answer = answer?;
    read.map_err(|error| Status::internal(error.to_string()))?;
    wire::vote_in(answer.into_inner().vote)
}
