//! Disks that rot while their node is down, and disks that are lost.
//!
//! A node with a flipped bit must refuse to start, or repair what it finds; either way it never serves wrong data, which
//! the checkers of the workload see.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matins_client::{Client, Limits};
use matins_proto::v1::ReplaceNodeRequest;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Field, Nemesis, names};
use crate::cluster::nodes::DiskHealth;
use crate::cluster::processes;
use crate::cluster::workload::Trouble;

/// There is something to damage within this.
const THERE_MAX: Duration = Duration::from_secs(30);
/// A node has refused or answers within this.
const VERDICT_MAX: Duration = Duration::from_secs(30);
/// A node that answers for so long has started.
const STABLE: Duration = Duration::from_secs(3);
/// A node with an empty disk is a voter within this.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// The bytes of a file that are left alone at its start: the head of the file is as small.
const HEAD: u64 = 16;

/// What rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Log,
    Vote,
    Snapshot,
}

/// A bit that was flipped.
#[derive(Clone, Debug)]
struct Flip {
    path: PathBuf,
    at: u64,
    bit: u8,
}

/// What a node made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Refused(String),
    Runs,
}

/// A bit flips while the node is down.
pub(super) struct Corrupt {
    target: usize,
    part: Part,
    /// Where in the file, from 0 to 1.
    place: f64,
    bit: u8,
    flip: Option<Flip>,
    logged: usize,
    answering_since: Option<Instant>,
    answer: Option<Answer>,
}

impl Corrupt {
    pub(super) fn new(target: usize, part: Part, random: &mut StdRng) -> Self {
        // Not in the last record: a bit that flips there cannot be told from a torn write (PROTOCOL 6.1).
        let place = random.random_range(0.0..0.75);
        let bit = random.random_range(0..8);
        Self { target, part, place, bit, flip: None, logged: 0, answering_since: None, answer: None }
    }

    fn judge(&mut self, field: &Field) -> Result<Option<Answer>, Trouble> {
        let node = &field.nodes.all[self.target];
        if let Some(status) = node.verdict()? {
            let said = node.logged_since(self.logged);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
            let names_damage = said.contains("damaged") || said.contains("checksum");
            if status.code().is_none() || said.contains("panicked at") || !names_damage {
                field.fail(format!("6.1: {} met a flipped bit and ended with {status}: {last}", node.name));
            }
            return Ok(Some(Answer::Refused(last)));
        }
        if field.runtime.block_on(field.observer.status(self.target)).is_none() {
            self.answering_since = None;
            return Ok(None);
        }
        let since = *self.answering_since.get_or_insert_with(Instant::now);
        Ok((since.elapsed() >= STABLE).then_some(Answer::Runs))
    }
}

impl Nemesis for Corrupt {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        let node = &field.nodes.all[self.target];
        let is_there = || Ok(self.part.newest(&node.data_dir).is_ok().then_some(()));
        if field.until(THERE_MAX, is_there)?.is_none() {
            // Nothing is seen to be damaged then.
            return Ok(());
        }
        node.kill();
        let path = self.part.newest(&node.data_dir)?;
        let used = used_bytes(&path)?;
        let span = used.saturating_sub(HEAD) as f64;
        let flip = Flip { path, at: HEAD + (span * self.place) as u64, bit: self.bit };
        flip.turn()?;
        self.flip = Some(flip);
        self.logged = node.logged();
        field.nodes.try_up(self.target)?;
        let deadline = Instant::now() + VERDICT_MAX;
        while self.answer.is_none() && Instant::now() < deadline {
            self.answer = self.judge(field)?;
            field.sleep(super::PAUSE);
        }
        if self.answer.is_none() {
            field.fail(format!("6.1: {} neither refused a flipped bit nor answered", node.name));
        }
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        let (Some(flip), Some(answer)) = (&self.flip, &self.answer) else { return Ok(None) };
        let place = format!("bit {} of byte {} of {} was flipped", flip.bit, flip.at, flip.path.display());
        Ok(Some(match answer {
            Answer::Refused(why) => format!("{place}, and refused: {why}"),
            Answer::Runs => format!("{place}, and the node repaired it or never reads it"),
        }))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        let node = &field.nodes.all[self.target];
        if self.flip.is_none() && node.pid().is_some() {
            return Ok(());
        }
        if self.answer == Some(Answer::Runs) {
            // What it has not read yet may stop it later.
            node.blame_disk(DiskHealth::Bad);
            node.acquit();
            return Ok(());
        }
        node.kill();
        if let Some(flip) = self.flip.take() {
            // As from a copy of the disk: it held nothing newer, since the node was down.
            flip.undo()?;
        }
        field.nodes.up(self.target)
    }
}

impl Part {
    /// The newest file of it.
    pub(super) fn newest(self, data_dir: &Path) -> Result<PathBuf, Trouble> {
        let (folder, ending) = match self {
            Self::Vote => return Ok(data_dir.join("vote")),
            Self::Log => (data_dir.join("log"), "log"),
            Self::Snapshot => (data_dir.join("snapshots"), "snapshot"),
        };
        let mut files: Vec<PathBuf> = Vec::new();
        collect(&folder, &mut files);
        files.retain(|file| file.extension().is_some_and(|it| it == ending));
        files.retain(|file| used_bytes(file).is_ok_and(|used| used > HEAD));
        files.sort();
        files.pop().ok_or_else(|| Trouble(format!("there is nothing to damage in {}", folder.display())))
    }
}

impl Flip {
    /// Flips it back, also where the node has put the file aside.
    fn undo(&self) -> Result<(), Trouble> {
        let aside = self.path.with_extension("damaged");
        if !self.path.exists() && aside.exists() {
            fs::rename(&aside, &self.path)
                .map_err(|error| Trouble(format!("cannot put {} back: {error}", aside.display())))?;
        }
        self.turn()
    }

    /// Flips the bit, or flips it back.
    fn turn(&self) -> Result<(), Trouble> {
        use std::os::unix::fs::FileExt as _;
        let turn = || {
            let file = fs::File::options().read(true).write(true).open(&self.path)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, self.at)?;
            file.write_all_at(&[byte[0] ^ (1 << self.bit)], self.at)?;
            file.sync_all()
        };
        turn().map_err(|error| Trouble(format!("cannot flip a bit of {}: {error}", self.path.display())))
    }
}

/// All files below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Bytes of a file up to its last one that is not zero: room that was set aside holds nothing to damage.
fn used_bytes(path: &Path) -> Result<u64, Trouble> {
    let bytes =
        fs::read(path).map_err(|error| Trouble(format!("cannot read {}: {error}", path.display())))?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1))
}

/// The disk of a node is gone. An empty one takes its place by one command, as a new node (PROTOCOL 2.7).
pub(super) struct Replace {
    target: usize,
    before: Option<String>,
    after: Option<String>,
    voters: u32,
}

impl Replace {
    pub(super) fn new(target: usize) -> Self {
        Self { target, before: None, after: None, voters: 0 }
    }
}

impl Nemesis for Replace {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        let node = &field.nodes.all[self.target];
        self.before = field.runtime.block_on(field.observer.status(self.target)).map(|status| status.node);
        node.kill();
        processes::end_all(|pid| node.is_own(pid));
        fs::remove_dir_all(&node.data_dir)
            .map_err(|error| Trouble(format!("cannot wipe {}: {error}", node.data_dir.display())))?;
        field.nodes.up(self.target)?;
        let waits = || {
            let status = field.runtime.block_on(field.observer.status(self.target));
            Ok(status.filter(|status| status.cluster_id.is_none()))
        };
        let Some(status) = field.until(VERDICT_MAX, waits)? else {
            field.fail(format!("2.7: {} has an empty disk and does not wait to be added", node.name));
            return Ok(());
        };
        self.after = Some(status.node);
        let limits = Limits { total_max: JOIN_MAX, ..Limits::default() };
        let others = field.nodes.members().iter().enumerate().filter(|(at, _)| *at != self.target);
        let endpoints = others.map(|(_, node)| node.public.to_string()).collect::<Vec<_>>().join(",");
        // By its id, if it was known: the empty node has the same name. Else by that name, which only one voter has.
        let lost = self.before.clone().unwrap_or_else(|| node.name.clone());
        let ask = ReplaceNodeRequest {
            node: lost,
            address: node.cluster.to_string(),
            ..ReplaceNodeRequest::default()
        };
        let answer = field.runtime.block_on(async { Client::new(&endpoints, limits)?.call(ask).await });
        match answer {
            Ok(answer) => self.voters = answer.voters,
            Err(error) => {
                field.fail(format!("I15: {} with an empty disk did not take its place: {error}", node.name));
            }
        }
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return Ok(None) };
        Ok((before != after)
            .then(|| format!("{after} took the place of {before}; there are {} voters", self.voters)))
    }

    fn heal(&mut self, _: &Field) -> Result<(), Trouble> {
        Ok(())
    }
}
