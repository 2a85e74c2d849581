//! A workload on the store of a node, by itself: log, vote, marker, snapshots and blobs in the order that PROTOCOL 6 asks
//! for, with a process that ends now and then.
//!
//! Every step notes what it asks before, and what was acknowledged after. Start reading at [`run`].

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matins_core::id::{ClusterId, Digest};
use matins_node::store::files::Files;
use matins_node::store::log::Record;
use matins_node::store::snapshot::SnapshotMeta;
use matins_node::store::vote::VoteRecord;
use matins_node::store::{Position, StoreError};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::contents::{Body, Contents, Known, OWN, Opened, ROOT, record};
use super::leader::pieces;
use super::tape::TapeDisk;

/// What was known from this change of the tape on.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// So many changes were on the tape.
    pub(super) at: usize,
    /// Whether a step had just been acknowledged; otherwise one began.
    pub(super) is_answer: bool,
    pub(super) known: Known,
}

/// What is known after so many changes.
pub(super) fn known_at(notes: &[Note], after: usize) -> &Known {
    let upto = notes.partition_point(|note| note.at < after || (note.at == after && note.is_answer));
    &notes[upto.saturating_sub(1)].known
}

/// How many steps a seed has.
const STEPS: u32 = 120;
/// Few sizes, so that what replaces a record often has its length.
const SIZES: [usize; 5] = [0, 16, 16, 48, 150];

/// The workload: what it knows, and the store that it works on.
pub(super) struct Work {
    files: Arc<dyn Files>,
    root: PathBuf,
    /// The disk, where it is one with a tape; otherwise what is noted is told on standard output.
    tape: Option<TapeDisk>,
    random: StdRng,
    opened: Option<Opened>,
    known: Known,
    term: u64,
    pub(super) notes: Vec<Note>,
    /// What was acknowledged although an earlier failure forbids it.
    pub(super) broken: Option<String>,
}

/// Does all steps of a seed on a disk. A failed step is met as a node meets it: a full disk and a failed transfer are tried
/// again, a fault ends the process and the next one opens the directory.
pub(super) fn run(disk: &TapeDisk, seed: u64) -> Result<Work, String> {
    run_all(Arc::new(disk.clone()), Path::new(ROOT), Some(disk.clone()), seed)
}

/// The same on another disk. Each note is told as one byte on standard output.
pub(super) fn run_on(files: Arc<dyn Files>, root: &Path, seed: u64) -> Result<Work, String> {
    run_all(files, root, None, seed)
}

fn run_all(files: Arc<dyn Files>, root: &Path, tape: Option<TapeDisk>, seed: u64) -> Result<Work, String> {
    let random = StdRng::seed_from_u64(seed);
    let (root, known, notes) = (root.into(), Known::default(), Vec::new());
    let mut work = Work { files, root, tape, random, opened: None, known, term: 1, notes, broken: None };
    work.reopen()?;
    for _ in 0..STEPS {
        work.step()?;
    }
    Ok(work)
}

/// A step on the store, which changes what is asked for first.
type Do<'a> = dyn Fn(&Opened) -> Result<(), StoreError> + 'a;

impl Work {
    fn note(&mut self, is_answer: bool) {
        let known = self.known.clone();
        let at = self.tape.as_ref().map_or(0, TapeDisk::changes);
        self.notes.push(Note { at, is_answer, known });
        if self.tape.is_none() {
            // Nobody listening any more is no business of the workload.
            let _ = std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush());
        }
    }

    /// A new process. The first one makes the directory.
    fn reopen(&mut self) -> Result<(), String> {
        self.note(false);
        for attempt in 0.. {
            self.opened = None;
            if let Some(disk) = &self.tape {
                disk.kill();
            }
            match Opened::at(&self.files, &self.root) {
                Ok(opened) => {
                    let marker = opened.dir.marker();
                    if self.known.acked.marker.is_some() && self.known.acked.marker.as_ref() != Some(&marker)
                    {
                        // The change that failed before the process ended was there nevertheless.
                        self.known.asked.marker = Some(marker.clone());
                    }
                    self.known.acked.marker = Some(marker.clone());
                    self.known.asked.marker = Some(marker);
                    self.settle(&opened);
                    self.opened = Some(opened);
                    break;
                }
                // The injected fault came in the middle of the open: the process ends, and is started again.
                Err(_) if attempt == 0 => {}
                Err(error) => return Err(format!("it does not open: {error}")),
            }
        }
        self.note(true);
        Ok(())
    }

    /// What an open reports is acknowledged by that: of what had failed, it tells what is there.
    fn settle(&mut self, opened: &Opened) {
        let Known { acked, asked } = &mut self.known;
        acked.purged = opened.log.purged();
        let first = opened.log.first().unwrap_or(u64::MAX);
        let read = opened.log.read(first..u64::MAX, u64::MAX).unwrap_or_default();
        let there: std::collections::BTreeMap<u64, Record> =
            read.into_iter().map(|record| (record.index, record)).collect();
        let purged = acked.purged.map_or(0, |purged| purged.index + 1);
        let lost = acked.records.range(purged..).find(|(index, record)| {
            there.get(index) != Some(record) && asked.records.get(index) == Some(record)
        });
        if let Some((index, _)) = lost {
            self.broken =
                Some(format!("I10: record {index} was acknowledged, and a restart does not find it"));
        }
        acked.records = there;
        acked.vote = opened.vote.load().unwrap_or(acked.vote);
        if let Some(newest) = opened.snapshots.newest()
            && let Some(body) = asked.snapshots.get(&newest.meta().last.index)
        {
            acked.snapshots.insert(body.last.index, body.clone());
        }
        acked.blobs = opened.blobs.list().into_iter().map(|(digest, _)| digest).collect();
        let (blobs, committed) = (std::mem::take(&mut asked.blobs), asked.committed);
        *asked = Contents { committed, ..acked.clone() };
        asked.blobs.extend(blobs);
    }

    /// One step: what is asked for is noted, then done, then noted as acknowledged.
    fn act(
        &mut self,
        ask: impl FnOnce(&mut Contents),
        act: &Do<'_>,
        ack: impl FnOnce(&mut Known),
    ) -> Result<(), String> {
        ask(&mut self.known.asked);
        self.note(false);
        let opened = self.opened.as_ref().expect("opened by the last step");
        match act(opened) {
            Ok(()) => ack(&mut self.known),
            Err(
                error @ (StoreError::Full { .. }
                | StoreError::OutOfOrder { .. }
                | StoreError::BadTransfer { .. }),
            ) => {
                act(opened).map_err(|again| format!("after `{error}` it was tried again: {again}"))?;
                ack(&mut self.known);
            }
            Err(_) => {
                // A fault: whatever is tried again must not be acknowledged by the log any more (PROTOCOL 6.1).
                self.try_on();
                return self.reopen();
            }
        }
        self.note(true);
        Ok(())
    }

    /// The same for what a node tries again in the same process, without ending.
    fn act_twice(
        &mut self,
        ask: impl FnOnce(&mut Contents),
        act: &Do<'_>,
        ack: impl FnOnce(&mut Known),
    ) -> Result<(), String> {
        let twice = |opened: &Opened| act(opened).or_else(|_| act(opened));
        self.act(ask, &twice, ack)
    }

    fn try_on(&mut self) {
        let opened = self.opened.as_ref().expect("opened by the last step");
        let next = opened.log.last().map_or(0, |last| last.index + 1);
        // Only a log that has failed must refuse; another file's fault ends the process as well, but not by itself.
        let was_log = matches!(opened.log.truncate(next), Err(StoreError::Stopped { .. }));
        let other = record(next, self.term, 16);
        if was_log && opened.log.append(std::slice::from_ref(&other)).is_ok() {
            self.broken = Some("6.1: the log took an append after a failed sync".into());
        }
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.random_range(0..100) {
            0..42 => self.append(),
            42..50 => self.replace(),
            50..60 => self.vote(),
            60..68 => self.snapshot(),
            68..73 => self.install(),
            73..79 => self.purge(),
            79..85 => self.put_blob(),
            85..90 => self.receive_blob(),
            90..93 => self.delete_blob(),
            93..96 => self.mark(),
            _ => self.reopen(),
        }
    }

    fn records(&mut self, from: u64) -> Vec<Record> {
        let count = self.random.random_range(1..5);
        let size = |random: &mut StdRng| SIZES[random.random_range(0..SIZES.len())];
        (from..from + count).map(|index| record(index, self.term, size(&mut self.random))).collect()
    }

    fn append(&mut self) -> Result<(), String> {
        let next = self.known.acked.next();
        let records = self.records(next);
        // Some way behind the end, so that there is something to cut.
        let committed = self.random.random_range(0..=next).saturating_sub(4);
        let ask = |asked: &mut Contents| {
            asked.committed = asked.committed.max(committed);
            asked.records.extend(records.iter().map(|record| (record.index, record.clone())));
        };
        let act = |opened: &Opened| {
            if let Some(committed) = committed.checked_sub(1) {
                opened.log.save_committed(committed)?;
            }
            opened.log.append(&records)
        };
        let ack = |known: &mut Known| known.acked.records.clone_from(&known.asked.records);
        self.act(ask, &act, ack)
    }

    /// A new leader's records take the place of the last ones (PROTOCOL 6.1): cut, then append.
    fn replace(&mut self) -> Result<(), String> {
        let (first, next) =
            (self.known.acked.purged.map_or(0, |purged| purged.index + 1), self.known.acked.next());
        // What is committed, or in a snapshot, is never cut.
        let kept = self.known.acked.snapshots.last_key_value().map_or(0, |(index, _)| index + 1);
        let lowest = first.max(kept).max(self.known.asked.committed);
        if lowest >= next {
            return Ok(());
        }
        let from = self.random.random_range(lowest.max(next.saturating_sub(8))..next);
        self.term += 1;
        let ask = |asked: &mut Contents| drop(asked.records.split_off(&from));
        let ack = |known: &mut Known| known.acked.records.clone_from(&known.asked.records);
        self.act(ask, &|opened: &Opened| opened.log.truncate(from), ack)?;
        self.append()
    }

    fn vote(&mut self) -> Result<(), String> {
        self.term += 1;
        let (term, node) = (self.term, self.random.random_range(OWN.0 - 1..=OWN.0));
        for committed in [false, true] {
            let vote = VoteRecord { term, node, committed };
            let ask = |asked: &mut Contents| asked.vote = Some(vote);
            let ack = |known: &mut Known| known.acked.vote = Some(vote);
            self.act(ask, &|opened: &Opened| opened.vote.save(&vote), ack)?;
        }
        Ok(())
    }

    /// A snapshot of a record that is there: written, finished, then published or thrown away.
    fn snapshot(&mut self) -> Result<(), String> {
        let from = self.known.asked.snapshots.last_key_value().map_or(0, |(index, _)| index + 1);
        let records: Vec<Position> =
            self.known.acked.records.range(from..).map(|(_, r)| r.position()).collect();
        if records.is_empty() {
            return Ok(());
        }
        let last = records[self.random.random_range(0..records.len())];
        let (meta, body) = self.body_of(last);
        let is_published = self.random.random_ratio(4, 5);
        let told = Body { last, digest: Digest::of(&body), blocks: Vec::new() };
        let ask = |asked: &mut Contents| {
            if is_published {
                asked.snapshots.insert(last.index, told.clone());
                asked.committed = asked.committed.max(last.index + 1);
            }
        };
        let act = |opened: &Opened| {
            let mut writer = opened.snapshots.write(&meta)?;
            writer.write_all(&body).map_err(unwritten)?;
            let finished = writer.finish()?;
            if is_published { opened.snapshots.publish(finished).map(drop) } else { finished.discard() }
        };
        let ack = |known: &mut Known| known.acked.snapshots.clone_from(&known.asked.snapshots);
        self.act_twice(ask, &act, ack)
    }

    /// A snapshot comes from a peer, in pieces, often beyond the end of the log, and the log behind it goes.
    fn install(&mut self) -> Result<(), String> {
        let next = self.known.acked.next();
        let index = next + self.random.random_range(0..20);
        self.term += 1;
        let last = Position { index, term: self.term, leader: self.term % 3 + 1 };
        let (meta, body) = self.body_of(last);
        let pieces = pieces(&meta, &body)?;
        let half = self.random.random_range(0..pieces.len());
        let (told, digest) = (&pieces, Digest::of(&body));
        let begun = |opened: &Opened| {
            let mut receiver = opened.snapshots.receive(last)?;
            (receiver.next_piece() as usize..half).try_for_each(|at| receiver.add(at as u64, &told[at]))
        };
        self.act_twice(|_| {}, &begun, |_| {})?;
        if self.random.random_ratio(1, 4) {
            self.reopen()?;
        }
        let ask = |asked: &mut Contents| {
            asked.snapshots.insert(index, Body { last, digest, blocks: Vec::new() });
            asked.committed = asked.committed.max(index + 1);
        };
        let rest = |opened: &Opened| {
            let mut receiver = opened.snapshots.receive(last)?;
            (receiver.next_piece() as usize..told.len())
                .try_for_each(|at| receiver.add(at as u64, &told[at]))?;
            opened.snapshots.publish(receiver.finish()?).map(drop)
        };
        let ack = |known: &mut Known| known.acked.snapshots.clone_from(&known.asked.snapshots);
        self.act_twice(ask, &rest, ack)?;
        if self.known.acked.snapshots.contains_key(&index) { self.purge_to(last) } else { Ok(()) }
    }

    /// Never beyond the newest snapshot (PROTOCOL 6.8).
    fn purge(&mut self) -> Result<(), String> {
        let Some((reach, _)) = self.known.acked.snapshots.last_key_value() else { return Ok(()) };
        let upto: Vec<Position> =
            self.known.acked.records.range(..=reach).map(|(_, r)| r.position()).collect();
        if upto.is_empty() {
            return Ok(());
        }
        let upto = upto[self.random.random_range(0..upto.len())];
        self.purge_to(upto)
    }

    fn purge_to(&mut self, upto: Position) -> Result<(), String> {
        let ask = |asked: &mut Contents| asked.purge(upto);
        let ack = |known: &mut Known| known.acked.purge(upto);
        self.act(ask, &|opened: &Opened| opened.log.purge(upto), ack)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = [1, 20, 200][self.random.random_range(0..3)];
        (0..len).map(|_| self.random.random()).collect()
    }

    fn body_of(&mut self, last: Position) -> (SnapshotMeta, Vec<u8>) {
        let body = self.bytes();
        let state_hash = Digest::of(&body);
        (SnapshotMeta { last, level: 1, membership: vec![1, 2, 3], state_hash }, body)
    }

    fn put_blob(&mut self) -> Result<(), String> {
        let bytes = self.bytes();
        let digest = Digest::of(&bytes);
        let ask = |asked: &mut Contents| {
            asked.blobs.insert(digest);
        };
        let ack = |known: &mut Known| {
            known.acked.blobs.insert(digest);
        };
        self.act_twice(ask, &|opened: &Opened| opened.blobs.put(&bytes).map(drop), ack)
    }

    /// A blob comes from a peer, in two parts, with a restart between them now and then.
    fn receive_blob(&mut self) -> Result<(), String> {
        let bytes = self.bytes();
        let digest = Digest::of(&bytes);
        let half = bytes.len() / 2;
        let receive = |opened: &Opened, upto: usize| {
            let at = opened.blobs.received(&digest)?;
            opened.blobs.receive(&digest, at, &bytes[(at as usize).min(upto)..upto]).map(drop)
        };
        self.act_twice(|_| {}, &|opened: &Opened| receive(opened, half), |_| {})?;
        if self.random.random_ratio(1, 4) {
            self.reopen()?;
        }
        let ask = |asked: &mut Contents| {
            asked.blobs.insert(digest);
        };
        let ack = |known: &mut Known| {
            known.acked.blobs.insert(digest);
        };
        let rest = |opened: &Opened| {
            receive(opened, bytes.len())?;
            opened.blobs.finish_receive(&digest)
        };
        self.act_twice(ask, &rest, ack)
    }

    fn delete_blob(&mut self) -> Result<(), String> {
        let held: Vec<Digest> = self.known.acked.blobs.iter().copied().collect();
        if held.is_empty() {
            return Ok(());
        }
        let digest = held[self.random.random_range(0..held.len())];
        // After a crash it may be back: it stays among what may be there.
        self.known.acked.blobs.remove(&digest);
        self.act(|_| {}, &|opened: &Opened| opened.blobs.delete(&digest), |_| {})
    }

    fn mark(&mut self) -> Result<(), String> {
        let level = self.random.random_range(1..5);
        let cluster = ClusterId(5);
        let mut marker = self.known.acked.marker.clone().expect("made by the first open");
        marker.cluster = Some(cluster);
        let join = |opened: &Opened| {
            opened.dir.join(cluster).map_err(|error| StoreError::Io {
                doing: "mark",
                path: ROOT.into(),
                source: std::io::Error::other(error.to_string()),
            })
        };
        let joined = marker.clone();
        self.act(
            |asked| asked.marker = Some(joined.clone()),
            &join,
            |known| known.acked.marker.clone_from(&known.asked.marker),
        )?;
        marker.clone_from(self.known.acked.marker.as_ref().expect("made by the first open"));
        marker.level = marker.level.max(level);
        self.act(
            |asked| asked.marker = Some(marker.clone()),
            &|opened: &Opened| opened.dir.raise_level(level),
            |known| known.acked.marker.clone_from(&known.asked.marker),
        )
    }
}

fn unwritten(source: std::io::Error) -> StoreError {
    let doing = "write";
    let path = "a snapshot".into();
    if source.kind() == std::io::ErrorKind::StorageFull {
        return StoreError::Full { doing, path };
    }
    StoreError::Io { doing, path, source }
}
