//! Blobs between nodes (PROTOCOL 6.4): a majority has one before a command names it; who lacks one fetches it; who keeps one that
//! nothing names drops it after a day.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use matins_core::State;
use matins_core::history::Block;
use matins_core::id::{Digest, NodeId};
use matins_core::state::{LogPlace, LogState, Output};
use matins_core::time::{Millis, Timestamp};
use matins_proto::v1;
use tonic::Status;

use super::consensus::{Consensus, Inner};
use super::error::BlobError;
use super::links::{Link, PART_BYTES};
use crate::store::StoreError;
use crate::store::blobs::Blobs;
use crate::system::blocking;

/// How long copies to a majority may take: a workflow's files have 64 MiB.
const COPY_WITHIN: Duration = Duration::from_secs(60);
/// How often what is missing is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// The same on a node that does not vote yet.
const LOOK_EVERY_NEW: Duration = Duration::from_millis(200);
/// A blob that came or was asked for stays so long, in leader time as applied here.
const HOLD: Millis = Millis::from_hours(24);

/// What this node knows of its blobs besides their bytes.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// Until when a blob stays although nothing names it.
    holds: Mutex<BTreeMap<Digest, Timestamp>>,
    /// What is missing here, by the last look, and the index of the state that was looked at.
    missing: Mutex<(u64, BTreeSet<Digest>)>,
    /// Blobs that each block of history names; read once.
    by_block: Mutex<BTreeMap<Digest, NamedByBlock>>,
    /// The newest block such that it and all before it are here.
    blocks_durable: Mutex<u64>,
}

/// What the runs of a block name.
#[derive(Debug, Default)]
struct NamedByBlock {
    outputs: Vec<Digest>,
    /// Retention may take these before the block (PROTOCOL 6.11).
    logs: Vec<Digest>,
}

impl Holdings {
    pub(crate) fn hold(&self, digest: Digest, now: Timestamp) {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, now + HOLD);
    }

    pub(crate) fn missing(&self) -> (u64, BTreeSet<Digest>) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads what blocks of history name, each once. `false`: some of them are not here, or cannot be read.
    fn read_blocks(&self, state: &State, blobs: &Blobs) -> bool {
        let mut by_block = self.by_block.lock().unwrap_or_else(PoisonError::into_inner);
        let listed: BTreeSet<Digest> = state.blocks.iter().map(|(_, block)| block.digest).collect();
        by_block.retain(|digest, _| listed.contains(digest));
        let mut is_whole = true;
        for digest in listed {
            let Entry::Vacant(unread) = by_block.entry(digest) else { continue };
            let bytes = blobs.get(&digest).ok().flatten();
            match bytes.and_then(|bytes| Block::decode(&bytes)) {
                Some(block) => drop(unread.insert(named_by(&block))),
                None => is_whole = false,
            }
        }
        is_whole
    }

    /// What the blocks of history name that were read.
    fn named_by_blocks(&self, state: &State) -> BTreeSet<Digest> {
        let by_block = self.by_block.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = BTreeSet::new();
        for (_, row) in state.blocks.iter() {
            let Some(named) = by_block.get(&row.digest) else { continue };
            names.extend(&named.outputs);
            if row.logs_stay.is_some() {
                names.extend(&named.logs);
            }
        }
        names
    }

    /// Looks on from where the last look ended.
    pub(crate) fn blocks_durable(&self, state: &State, blobs: &Blobs) -> u64 {
        let mut durable = self.blocks_durable.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, block) in state.blocks.range(*durable + 1..) {
            if !blobs.has(&block.digest) {
                return *durable;
            }
            *durable = *number;
        }
        // What retention took off the list is not waited for.
        *durable = state.cluster.counters.block.max(*durable);
        *durable
    }

    /// Every blob that history names, the blocks themselves left out. `None`: a block is not here, so it is not known what
    /// it names. Blocks.
    fn named_by_history(&self, state: &State, blobs: &Blobs) -> Option<BTreeSet<Digest>> {
        self.read_blocks(state, blobs).then(|| self.named_by_blocks(state))
    }
}

/// Every blob that the state names.
pub(crate) fn named(state: &State) -> BTreeSet<Digest> {
    let mut names = BTreeSet::new();
    for (_, row) in state.definitions.iter() {
        names.extend(row.source);
        names.extend(row.workflow.files.iter().map(|file| file.digest));
    }
    for (_, task) in state.tasks.iter() {
        name_output(task.output.as_ref(), &mut names);
    }
    for (_, attempt) in state.attempts.iter() {
        name_log(&attempt.log, &mut names);
    }
    names.extend(state.blocks.iter().map(|(_, block)| block.digest));
    names
}

fn name_output(output: Option<&Output>, names: &mut BTreeSet<Digest>) {
    match output {
        Some(Output::Blob { digest, .. }) => {
            names.insert(*digest);
        }
        Some(Output::Inline(_)) | None => {}
    }
}

fn name_log(log: &LogState, names: &mut BTreeSet<Digest>) {
    match log {
        LogState::Attached(LogPlace::Pack { digest, .. }) => {
            names.insert(*digest);
        }
        LogState::Attached(LogPlace::Lost)
        | LogState::At(_)
        | LogState::Empty
        | LogState::Lost
        | LogState::Expired => {}
    }
}

/// Stores a blob on this node, durably. A full disk is the caller's to bear.
pub(crate) async fn put_here(blobs: &Arc<Blobs>, bytes: Bytes) -> Result<Digest, StoreError> {
    let blobs = Arc::clone(blobs);
    blocking(move || blobs.put(&bytes)).await
}

impl Consensus {
    /// Stores a blob, durable on a majority of the voters when this answers (PROTOCOL 6.4). Only then may a command name it.
    pub async fn put_blob(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let inner = self.inner();
        let digest = put_here(&inner.blobs, bytes.clone()).await?;
        inner.holdings.hold(digest, self.state().now);
        let members = self.members();
        let mut stored = BTreeSet::from([self.node()]);
        let mut copies = FuturesUnordered::new();
        for voter in members.voters() {
            let address = members.nodes.get(&voter).map(|member| member.cluster_address.clone());
            let link = address.and_then(|address| inner.links.at(&address).ok());
            if let Some(link) = link.filter(|_| voter != self.node()) {
                let copy = put_there(link, inner.links.address_to(voter), digest, bytes.clone());
                // Tasks of their own: the copies beyond a majority are made too.
                let copy = inner.tasks.spawn(async move {
                    matches!(tokio::time::timeout(COPY_WITHIN, copy).await, Ok(Ok(()))).then_some(voter)
                });
                copies.push(copy);
            }
        }
        while !members.is_majority(&stored) {
            match copies.next().await {
                Some(Ok(copied)) => stored.extend(copied),
                Some(Err(_)) => {}
                None => {
                    let voters = members.voters();
                    let stored = stored.intersection(&voters).count();
                    return Err(BlobError::NoMajority { stored, voters: voters.len() });
                }
            }
        }
        Ok(digest)
    }

    /// Reads a blob, from a peer if this node lacks it.
    pub async fn get_blob(&self, digest: Digest) -> Result<Bytes, BlobError> {
        let inner = self.inner();
        if !inner.blobs.has(&digest) {
            fetch(inner, digest).await?;
        }
        inner.holdings.hold(digest, self.state().now);
        let blobs = Arc::clone(&inner.blobs);
        let read = blocking(move || blobs.get(&digest)).await;
        read?.map(Bytes::from).ok_or(BlobError::Lost(digest))
    }

    /// Some bytes of a blob that is here, not held to its name. `None`: it is not here, or cannot be read.
    pub async fn part_of_blob(&self, digest: Digest, place: Range<usize>) -> Option<Bytes> {
        let blobs = Arc::clone(&self.inner().blobs);
        let read = move || blobs.read(&digest, place.start as u64, place.len() as u64);
        blocking(read).await.ok().flatten().map(Bytes::from)
    }

    /// Every blob that a state and its history name, held for a day. Blocks that this node lacks are fetched first.
    pub(crate) async fn hold_named(&self, state: &State) -> Result<BTreeSet<Digest>, BlobError> {
        let now = self.state().now;
        for (_, row) in state.blocks.iter() {
            self.inner().holdings.hold(row.digest, now);
            if !self.has_blob(&row.digest) {
                fetch(self.inner(), row.digest).await?;
            }
        }
        let (inner, copy) = (Arc::clone(self.inner()), state.clone());
        let in_history = blocking(move || inner.holdings.named_by_history(&copy, &inner.blobs)).await;
        // A block that was here a moment ago and cannot be read is damaged.
        let first = || state.blocks.first().map_or(Digest::default(), |(_, row)| row.digest);
        let mut names = in_history.ok_or_else(|| BlobError::Lost(first()))?;
        names.extend(named(state));
        for digest in &names {
            self.inner().holdings.hold(*digest, now);
        }
        Ok(names)
    }

    /// Whether a blob lies on this node.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.inner().blobs.has(digest)
    }
}

/// Copies a blob to the node behind `link`; it is durable there when this answers.
pub(crate) async fn put_there(
    mut link: Link,
    to: v1::PeerTo,
    digest: Digest,
    bytes: Bytes,
) -> Result<(), Status> {
    let head = v1::PeerBlobPart {
        to: Some(to),
        digest: Bytes::copy_from_slice(&digest.0),
        ..v1::PeerBlobPart::default()
    };
    let parts = (0..bytes.len()).step_by(PART_BYTES).map(move |at| {
        let part = bytes.slice(at..bytes.len().min(at + PART_BYTES));
        v1::PeerBlobPart { part, ..v1::PeerBlobPart::default() }
    });
    link.bulk.put_blob(tokio_stream::iter(std::iter::once(head).chain(parts))).await.map(drop)
}

/// Takes a blob from the first node that has it.
async fn fetch(inner: &Arc<Inner>, digest: Digest) -> Result<(), BlobError> {
    match fetch_from_any(inner, digest).await? {
        Fetched::Here => Ok(()),
        Fetched::NotFound | Fetched::Unreachable => Err(BlobError::Lost(digest)),
    }
}

/// What came of asking everybody for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    Here,
    /// A majority of the voters answered, and nobody who did has it: it is lost, and nothing waits for it.
    NotFound,
    /// Somebody who did not answer may have it.
    Unreachable,
}

async fn fetch_from_any(inner: &Arc<Inner>, digest: Digest) -> Result<Fetched, BlobError> {
    let members = inner.members();
    let mut lack_it = BTreeSet::from([inner.node]);
    for (node, member) in &members.nodes {
        let link = inner.links.at(&member.cluster_address).ok().filter(|_| *node != inner.node);
        let Some(link) = link else { continue };
        match fetch_from(inner, link, *node, digest).await {
            Ok(()) => return Ok(Fetched::Here),
            Err(FetchError::Store(error)) => return Err(error.into()),
            Err(FetchError::Peer(status)) => {
                tracing::debug!(%digest, %node, "no blob from there: {}", status.message());
                if status.code() == tonic::Code::NotFound {
                    lack_it.insert(*node);
                }
            }
        }
    }
    Ok(if members.is_majority(&lack_it) { Fetched::NotFound } else { Fetched::Unreachable })
}

async fn fetch_from(inner: &Inner, link: Link, node: NodeId, digest: Digest) -> Result<(), FetchError> {
    let _fetching = inner.fetching.lock().await;
    if inner.blobs.has(&digest) {
        return Ok(());
    }
    receive(&inner.blobs, link, inner.links.address_to(node), digest).await
}

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The node does not have it, or did not send all of it.
    #[error("{}", .0.message())]
    Peer(Status),
    /// This disk failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Takes a blob from the node behind `link`, going on where an earlier try ended. One receive at a time writes the file of a
/// blob: the caller sees to that.
pub(crate) async fn receive(
    blobs: &Arc<Blobs>,
    mut link: Link,
    to: v1::PeerTo,
    digest: Digest,
) -> Result<(), FetchError> {
    let mut offset = blobs.received(&digest).map_err(FetchError::Store)?;
    let request = v1::PeerGetBlobRequest { to: Some(to), digest: Bytes::copy_from_slice(&digest.0), offset };
    let mut parts = link.bulk.get_blob(request).await.map_err(FetchError::Peer)?.into_inner();
    while let Some(part) = parts.message().await.map_err(FetchError::Peer)? {
        offset = blobs.receive(&digest, offset, &part.part).map_err(FetchError::Store)?;
    }
    let blobs = Arc::clone(blobs);
    match blocking(move || blobs.finish_receive(&digest)).await {
        Ok(()) => Ok(()),
        // What came is thrown away; another node may have it whole.
        Err(error @ StoreError::BadTransfer { .. }) => {
            Err(FetchError::Peer(Status::data_loss(error.to_string())))
        }
        Err(error) => Err(FetchError::Store(error)),
    }
}

/// Fetches what is missing and drops what nothing names, now and then.
pub(crate) async fn tend(inner: Arc<Inner>, sweep_every: Duration) {
    let mut swept_at = tokio::time::Instant::now();
    loop {
        // A node that is to become a voter is waited for.
        let is_voter = inner.members().voters().contains(&inner.node);
        let every = if is_voter { LOOK_EVERY } else { LOOK_EVERY_NEW };
        let depth = tokio::select! {
            () = inner.stop.cancelled() => return,
            () = inner.count.notified() => Depth::All,
            () = tokio::time::sleep(every) => if is_voter { Depth::Known } else { Depth::All },
        };
        look(&inner, depth).await;
        if swept_at.elapsed() >= sweep_every {
            swept_at = tokio::time::Instant::now();
            let inner = Arc::clone(&inner);
            blocking(move || sweep(&inner)).await;
        }
    }
}

/// Which blobs of history are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The blocks, and what those of them name that were read before.
    Known,
    /// The blocks and all that they name: each is read once. Only such a look counts what is missing.
    All,
}

/// Has missing blobs counted, unless they were in a state of this index or a later one. Does not wait for it.
pub(crate) fn ask_to_count(inner: &Inner, count_from: u64) {
    if inner.holdings.missing().0 < count_from {
        inner.count.notify_one();
    }
}

/// The same, and waits.
pub(crate) async fn count(inner: &Arc<Inner>, count_from: u64) {
    if inner.holdings.missing().0 < count_from {
        look(inner, Depth::All).await;
    }
}

/// Fetches what state and history name and this node lacks.
pub(crate) async fn look(inner: &Arc<Inner>, depth: Depth) {
    // Blocks that came name more; one that is not to be had holds nothing up.
    while look_once(inner, depth).await {}
}

/// `true`: look again, a block has come.
async fn look_once(inner: &Arc<Inner>, depth: Depth) -> bool {
    let state = inner.state();
    let counted_at = match depth {
        Depth::Known => inner.holdings.missing().0,
        Depth::All => state.index.0,
    };
    let blocks: BTreeSet<Digest> = state.blocks.iter().map(|(_, block)| block.digest).collect();
    let shared = Arc::clone(inner);
    let mut missing = blocking(move || {
        if depth == Depth::All {
            shared.holdings.read_blocks(&state, &shared.blobs);
        }
        let mut names = named(&state);
        names.extend(shared.holdings.named_by_blocks(&state));
        names.retain(|digest| !shared.blobs.has(digest));
        names
    })
    .await;
    let set = |missing: &BTreeSet<Digest>| {
        let mut held = inner.holdings.missing.lock().unwrap_or_else(PoisonError::into_inner);
        *held = (counted_at, missing.clone());
    };
    set(&missing);
    let mut has_news = false;
    for digest in missing.clone() {
        if inner.stop.is_cancelled() {
            return false;
        }
        match fetch_from_any(inner, digest).await {
            Ok(Fetched::Here) => has_news |= blocks.contains(&digest),
            Ok(Fetched::NotFound) => tracing::debug!(%digest, "a blob is lost"),
            Ok(Fetched::Unreachable) | Err(_) => continue,
        }
        missing.remove(&digest);
        // What a block names that has just come is not counted yet.
        if !has_news {
            set(&missing);
        }
    }
    has_news && depth == Depth::All
}

/// Deletes what neither state nor history names and nobody holds. Blocks.
fn sweep(inner: &Inner) {
    let state = inner.state();
    let mut names = named(&state);
    // What a block that is not here names is not known: nothing is deleted until it is.
    let Some(in_history) = inner.holdings.named_by_history(&state, &inner.blobs) else { return };
    names.extend(in_history);
    let mut holds = inner.holdings.holds.lock().unwrap_or_else(PoisonError::into_inner);
    for (digest, _) in inner.blobs.list() {
        // A hold that is unknown starts anew.
        let until = *holds.entry(digest).or_insert(state.now + HOLD);
        if !names.contains(&digest) && until <= state.now {
            holds.remove(&digest);
            if let Err(error) = inner.blobs.delete(&digest) {
                tracing::warn!(%digest, "cannot delete a blob: {error}");
            }
        }
    }
}

fn named_by(block: &Block) -> NamedByBlock {
    let (mut outputs, mut logs) = (BTreeSet::new(), BTreeSet::new());
    for run in &block.runs {
        run.tasks.iter().for_each(|(_, task)| name_output(task.output.as_ref(), &mut outputs));
        run.attempts.iter().for_each(|(_, attempt)| name_log(&attempt.log, &mut logs));
    }
    NamedByBlock { outputs: outputs.into_iter().collect(), logs: logs.into_iter().collect() }
}

/// The outputs and the packs of logs that the runs of a block name.
pub(crate) fn named_by_block(block: &Block) -> (Vec<Digest>, Vec<Digest>) {
    let NamedByBlock { outputs, logs } = named_by(block);
    (outputs, logs)
}
