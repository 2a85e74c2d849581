//! What a node's directory holds, and whether that is what it may hold after a crash.
//!
//! Start reading at [`Known::check`], which has the rules; [`open`] opens a directory as a node does when it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use matins_core::id::{Digest, NodeId};
use matins_node::store::Position;
use matins_node::store::blobs::Blobs;
use matins_node::store::files::Files;
use matins_node::store::log::{Kind, Log, LogConfig, Record};
use matins_node::store::marker::{DataDir, Expected, Marker};
use matins_node::store::snapshot::Snapshots;
use matins_node::store::vote::{VoteFile, VoteRecord};

/// The directory of every node here.
pub(super) const ROOT: &str = "/data";
/// The node whose directory it is.
pub(super) const OWN: NodeId = NodeId(7);
/// So small that every few records begin a new segment.
pub(super) const SEGMENT_BYTES: u64 = 700;

/// What a snapshot is known to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) last: Position,
    pub(super) digest: Digest,
    /// The blocks that it names, which must lie beside it (PROTOCOL 6.8).
    pub(super) blocks: Vec<Digest>,
}

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) marker: Option<Marker>,
    pub(super) vote: Option<VoteRecord>,
    pub(super) purged: Option<Position>,
    pub(super) records: BTreeMap<u64, Record>,
    /// The newest index told as committed, plus 1.
    pub(super) committed: u64,
    /// Published snapshots, by the index of their last record.
    pub(super) snapshots: BTreeMap<u64, Body>,
    pub(super) blobs: BTreeSet<Digest>,
}

impl Contents {
    /// The last record, or the purge point.
    pub(super) fn last(&self) -> Option<Position> {
        let last = self.records.last_key_value().map(|(_, record)| record.position());
        last.or(self.purged)
    }

    /// The index that the next record has.
    pub(super) fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    /// Takes the records up to `upto` away.
    pub(super) fn purge(&mut self, upto: Position) {
        self.purged = Some(upto);
        self.records = self.records.split_off(&(upto.index + 1));
    }
}

/// What a disk must hold because it was acknowledged, and what it may hold because it was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) acked: Contents,
    pub(super) asked: Contents,
}

/// What was found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) marker: Marker,
    pub(super) vote: Option<VoteRecord>,
    pub(super) purged: Option<Position>,
    pub(super) records: BTreeMap<u64, Record>,
    pub(super) committed: Option<Position>,
    pub(super) snapshot: Option<(Position, Digest)>,
    pub(super) damaged: Vec<String>,
    pub(super) blobs: BTreeSet<Digest>,
}

/// Opens a directory as a node does when it starts, and reads everything in it. The error is what the node says, with the
/// file's name; a panic becomes one that begins with `panic`.
pub(super) fn open(files: &Arc<dyn Files>, root: &Path) -> Result<Found, String> {
    catch_unwind(AssertUnwindSafe(|| open_all(files, root)))
        .unwrap_or_else(|_| Err("panic: opening the directory panicked".into()))
}

/// What a node opens, held open.
pub(super) struct Opened {
    pub(super) dir: DataDir,
    pub(super) log: Log,
    pub(super) vote: VoteFile,
    pub(super) snapshots: Snapshots,
    pub(super) blobs: Blobs,
}

impl Opened {
    /// In the order of `raft::start`.
    pub(super) fn at(files: &Arc<dyn Files>, root: &Path) -> Result<Self, String> {
        let told = |error: &dyn std::error::Error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let expected = Expected { node: None, cluster: None, level_max: 9 };
        let dir = DataDir::open(Arc::clone(files), root, expected, || OWN).map_err(|error| told(&error))?;
        let config = LogConfig { segment_bytes: SEGMENT_BYTES };
        let log = Log::open(Arc::clone(files), &root.join("log"), config).map_err(|error| told(&error))?;
        let vote = VoteFile::new(Arc::clone(files), root);
        let snapshots =
            Snapshots::open(Arc::clone(files), &root.join("snapshots")).map_err(|error| told(&error))?;
        let blobs = Blobs::open(Arc::clone(files), &root.join("blobs")).map_err(|error| told(&error))?;
        Ok(Self { dir, log, vote, snapshots, blobs })
    }
}

fn open_all(files: &Arc<dyn Files>, root: &Path) -> Result<Found, String> {
    let Opened { dir, log, vote, snapshots, blobs } = Opened::at(files, root)?;
    let told = |error: matins_node::store::StoreError| error.to_string();
    let mut records = BTreeMap::new();
    if let Some(first) = log.first() {
        let read = log.read(first..u64::MAX, u64::MAX).map_err(told)?;
        records.extend(read.into_iter().map(|record| (record.index, record)));
    }
    let snapshot = match snapshots.newest() {
        Some(newest) => {
            let mut body = Vec::new();
            newest.reader().read_to_end(&mut body).map_err(|error| error.to_string())?;
            Some((newest.meta().last, Digest::of(&body)))
        }
        None => None,
    };
    let mut held = BTreeSet::new();
    for (digest, _) in blobs.list() {
        // Verified by its name.
        blobs.get(&digest).map_err(told)?.ok_or_else(|| format!("{digest} is listed and not there"))?;
        held.insert(digest);
    }
    Ok(Found {
        marker: dir.marker(),
        vote: vote.load_for_start(OWN.0).map_err(told)?,
        purged: log.purged(),
        records,
        committed: log.committed().map_err(told)?,
        snapshot,
        damaged: snapshots.damaged().map_err(told)?,
        blobs: held,
    })
}

/// A broken promise, in words.
type Held<T = ()> = Result<T, String>;

impl Known {
    /// Compares what was found after a crash. Answers how many acknowledged things were found there and right.
    pub(super) fn check(&self, found: &Found) -> Held<u64> {
        let mut checked = self.check_marker(found)?;
        checked += self.check_vote(found)?;
        checked += self.check_log(found)?;
        checked += self.check_snapshot(found)?;
        checked += self.check_blobs(found)?;
        Ok(checked)
    }

    fn check_marker(&self, found: &Found) -> Held<u64> {
        let Some(acked) = &self.acked.marker else { return Ok(0) };
        // One call may change it twice, so that a field may be new and another old.
        let asked = self.asked.marker.as_ref().unwrap_or(acked);
        let (Marker { format, node, cluster, level, stopped }, there) = (acked, &found.marker);
        let is_same = there.format == *format && there.node == *node && there.stopped == *stopped;
        let is_cluster = there.cluster == *cluster || there.cluster == asked.cluster;
        if is_same && is_cluster && (there.level == *level || there.level == asked.level) {
            return Ok(1);
        }
        Err(format!("2.7: the marker was {acked:?}, and is {:?}", found.marker))
    }

    fn check_vote(&self, found: &Found) -> Held<u64> {
        let own_lead = |vote: &VoteRecord| vote.committed && vote.node == OWN.0;
        if found.vote.as_ref().is_some_and(own_lead) {
            return Err(format!("2.2: a restarted leader comes back with the lead: {:?}", found.vote));
        }
        let as_read = |vote: Option<VoteRecord>| {
            vote.map(|vote| VoteRecord { committed: vote.committed && vote.node != OWN.0, ..vote })
        };
        let (acked, asked) = (as_read(self.acked.vote), as_read(self.asked.vote));
        if found.vote != acked && found.vote != asked {
            return Err(format!("6.1: the vote was {acked:?} or {asked:?}, and is {:?}", found.vote));
        }
        Ok(acked.is_some().into())
    }

    fn check_log(&self, found: &Found) -> Held<u64> {
        let is_purge_known = |purged| purged == self.acked.purged || purged == self.asked.purged;
        let was_purged = self.acked.purged.map_or(0, |purged| purged.index + 1);
        let purged = found.purged.map_or(0, |purged| purged.index + 1);
        let purge_max = self.asked.purged.map_or(0, |purged| purged.index + 1);
        // Between the two it may be at any record, or at a snapshot: which purge came last is the node's own affair.
        let at_snapshot = found.purged.is_some_and(|at| {
            let is_record = |of: &Contents| of.records.get(&at.index).map(Record::position) == Some(at);
            let is_body = |of: &Contents| of.snapshots.get(&at.index).map(|body| body.last) == Some(at);
            [&self.acked, &self.asked].into_iter().any(|of| is_record(of) || is_body(of))
        });
        let is_between = at_snapshot && (was_purged..=purge_max).contains(&purged);
        if !is_purge_known(found.purged) && !is_between {
            return Err(format!(
                "6.1: the log was purged to {:?}, and says {:?}",
                self.acked.purged, found.purged
            ));
        }
        let reaches = found.snapshot.map_or(0, |(last, _)| last.index + 1);
        if purged > reaches {
            return Err(format!(
                "6.8: records before {purged} are purged, and the newest snapshot ends before {reaches}"
            ));
        }
        let first = found.records.keys().next().copied().unwrap_or(purged);
        if let Some((expected, index)) = (first..).zip(found.records.keys()).find(|(a, b)| a != *b) {
            return Err(format!("6.1: record {expected} is missing before {index}"));
        }
        if found.purged.is_some() && first != purged {
            return Err(format!(
                "6.1: the log begins with record {first}, and not behind the purge at {purged}"
            ));
        }
        self.check_records(found, purged)
    }

    fn check_records(&self, found: &Found, purged: u64) -> Held<u64> {
        let (acked, asked) = (&self.acked.records, &self.asked.records);
        let is_asked_away = |index: &u64, record: &Record| asked.get(index) != Some(record);
        let mut checked = 0;
        for (index, record) in acked.range(purged..) {
            match found.records.get(index) {
                Some(there) if there == record => checked += 1,
                _ if is_asked_away(index, record) => {}
                Some(there) => return Err(format!("I10: record {index} was {record:?}, and is {there:?}")),
                None => {
                    return Err(format!("I10: record {index} was acknowledged and is not there: {record:?}"));
                }
            }
        }
        // What replaces records comes after all of those have gone.
        let mut is_new = false;
        for (index, record) in &found.records {
            let is_old = acked.get(index) == Some(record);
            if !is_old && asked.get(index) != Some(record) {
                return Err(format!("6.1: record {index} was never asked for: {record:?}"));
            }
            if is_new && is_old && asked.get(index) != Some(record) {
                return Err(format!("6.1: record {index} stands behind one that replaced it"));
            }
            is_new |= !is_old;
        }
        if let Some(committed) = found.committed {
            let is_there = found.records.get(&committed.index).map(Record::position) == Some(committed);
            let known = self.asked.committed.max(purged);
            if committed.index >= known || !(is_there || Some(committed) == found.purged) {
                return Err(format!(
                    "6.8: {committed:?} counts as committed, and {known} records were told to be"
                ));
            }
        }
        Ok(checked)
    }

    fn check_snapshot(&self, found: &Found) -> Held<u64> {
        if !found.damaged.is_empty() {
            return Err(format!("6.8: a crash damaged snapshots: {:?}", found.damaged));
        }
        let newest = self.acked.snapshots.last_key_value();
        let Some((last, digest)) = found.snapshot else {
            return match newest {
                Some((index, _)) => {
                    Err(format!("6.8: the snapshot of {index} was published and is not there"))
                }
                None => Ok(0),
            };
        };
        if newest.is_some_and(|(index, _)| *index > last.index) {
            return Err(format!(
                "6.8: the snapshot of {newest:?} was published, and the newest is of {last:?}"
            ));
        }
        let body = self.asked.snapshots.get(&last.index).or_else(|| self.acked.snapshots.get(&last.index));
        match body {
            Some(body) if body.last == last && body.digest == digest => {
                let missing = body.blocks.iter().find(|block| !found.blobs.contains(block));
                match missing {
                    Some(block) => {
                        Err(format!("6.8: the snapshot of {last:?} names {block}, which is not there"))
                    }
                    None => Ok(1 + body.blocks.len() as u64),
                }
            }
            Some(body) => Err(format!("6.8: the snapshot of {last:?} is {digest}, and should be {body:?}")),
            None => Err(format!("6.8: nobody asked for the snapshot of {last:?}")),
        }
    }

    fn check_blobs(&self, found: &Found) -> Held<u64> {
        if let Some(lost) = self.acked.blobs.difference(&found.blobs).next() {
            return Err(format!("6.4: blob {lost} was taken in and is not there"));
        }
        if let Some(invented) = found.blobs.iter().find(|blob| !self.asked.blobs.contains(blob)) {
            return Err(format!("6.4: nobody asked for blob {invented}"));
        }
        Ok(self.acked.blobs.len() as u64)
    }
}

/// A record whose body tells what it is of.
pub(super) fn record(index: u64, term: u64, bytes: usize) -> Record {
    let body: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + index * 7 + term) as u8).collect();
    Record { index, term, leader: term % 3 + 1, kind: Kind::Entry, body: body.into() }
}
