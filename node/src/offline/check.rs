//! Looks at a data directory and says what is wrong with it, and what to do (PROTOCOL 6.13). Changes nothing.
//!
//! Each part is looked at although another is damaged, as far as it can be: a person wants to know everything at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use matins_core::history::Block;
use matins_core::id::Digest;
use matins_core::{Effect, State};

use super::OfflineError;
use super::look::Look;
use crate::raft::replay::{Replayed, replay};
use crate::raft::{named, named_by_block};
use crate::store::StoreError;
use crate::store::blobs::Blobs;
use crate::store::files::Files;
use crate::store::history::History;
use crate::store::log::{Log, LogConfig};
use crate::store::marker::{self, MarkerError};
use crate::store::snapshot::Snapshots;
use crate::store::vote::VoteFile;

/// So many names are told where many things are missing.
const NAMES_TOLD: usize = 3;
/// What to do with a member whose disk lost what it had acknowledged.
const REPLACE: &str = "`matins cluster replace NODE HOST:PORT` puts a node with an empty directory in its place; if it is the last \
                       one with this data, restore a backup";

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Nothing is wrong.
    Good,
    /// Something is left over or missing, and the node mends it by itself.
    Mends,
    /// A person has to do something.
    Bad,
}

/// What was found of one part of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `marker`, `vote`, `log`, `snapshots`, `state`, `blobs`, `history`.
    pub part: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found, one sentence.
    pub what: String,
    /// What to do; empty if nothing is.
    pub to_do: String,
}

/// What was found of a directory.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which a node opens the parts.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst of it.
    pub fn health(&self) -> Health {
        self.findings.iter().map(|finding| finding.health).max().unwrap_or(Health::Good)
    }

    fn good(&mut self, part: &'static str, what: impl Into<String>) {
        self.add(part, Health::Good, what.into(), "");
    }

    fn mends(&mut self, part: &'static str, what: impl Into<String>, to_do: &str) {
        self.add(part, Health::Mends, what.into(), to_do);
    }

    fn bad(&mut self, part: &'static str, what: impl Into<String>, to_do: &str) {
        self.add(part, Health::Bad, what.into(), to_do);
    }

    fn fault(&mut self, part: &'static str, error: &StoreError) {
        let to_do = match error {
            StoreError::Corrupt { .. } => REPLACE,
            StoreError::Full { .. }
            | StoreError::Io { .. }
            | StoreError::Stopped { .. }
            | StoreError::Newer { .. }
            | StoreError::TooLarge { .. }
            | StoreError::OutOfOrder { .. }
            | StoreError::BadTransfer { .. } => error.hint(),
        };
        self.bad(part, error_text(error), to_do);
    }

    fn add(&mut self, part: &'static str, health: Health, what: String, to_do: &str) {
        self.findings.push(Finding { part, health, what, to_do: to_do.to_owned() });
    }
}

fn error_text(error: &StoreError) -> String {
    crate::history::error_chain(error)
}

/// Looks at everything that a node keeps below `root`. Refused while a node runs in it.
pub fn check(root: &Path) -> Result<Report, OfflineError> {
    let look = Look::new();
    let files: Arc<dyn Files> = Arc::new(look.clone());
    // A directory whose marker alone is gone is a damaged one, and looked at.
    let is_marked = || !matches!(marker::look(&*files, root), Ok(None));
    if !root.is_dir() || !(root.join("log").is_dir() || is_marked()) {
        return Err(OfflineError::NotOfNode(root.into()));
    }
    if marker::is_held(&*files, root) {
        return Err(MarkerError::InUse(root.into()).into());
    }
    let mut checked = Check { root, files, look, report: Report::default() };
    checked.marker();
    checked.vote();
    let state = checked.log_and_snapshots();
    let blobs = checked.blobs();
    if let (Some(state), Some(blobs)) = (&state, &blobs) {
        checked.named(state, blobs);
        checked.history(state, blobs);
    }
    Ok(checked.report)
}

struct Check<'a> {
    root: &'a Path,
    files: Arc<dyn Files>,
    look: Look,
    report: Report,
}

/// What lies in the blobs, and what of it is whole.
struct Held {
    blobs: Blobs,
    whole: BTreeSet<Digest>,
}

impl Check<'_> {
    fn marker(&mut self) {
        match marker::look(&*self.files, self.root) {
            Ok(Some(marker)) => {
                let cluster = marker
                    .cluster
                    .map_or("no cluster yet".to_owned(), |cluster| format!("{:016x}", cluster.0));
                match marker.stopped {
                    Some(why) => {
                        let to_do = "do what it says; a node that stopped for good is replaced";
                        self.report.bad("marker", format!("stopped for good: {why}"), to_do);
                    }
                    None => self.report.good("marker", format!("{} of {cluster}", marker.node)),
                }
            }
            Ok(None) => self.report.bad(
                "marker",
                "there is no matins.json: this is no data directory, or the start of its node was cut short",
                "look at the path",
            ),
            Err(error) => self.report.fault("marker", &error),
        }
    }

    fn vote(&mut self) {
        match VoteFile::new(Arc::clone(&self.files), self.root).load() {
            Ok(Some(vote)) => self.report.good("vote", format!("term {}, for node-{}", vote.term, vote.node)),
            Ok(None) => self.report.good("vote", "none yet"),
            Err(error) => self.report.fault("vote", &error),
        }
    }

    /// The log, the snapshots, and the state that both come to.
    fn log_and_snapshots(&mut self) -> Option<State> {
        let log = Log::open(Arc::clone(&self.files), &self.root.join("log"), LogConfig::default());
        let torn = self.look.take_changes();
        let snapshots = Snapshots::open(Arc::clone(&self.files), &self.root.join("snapshots"));
        let damaged = self.look.take_changes();
        if let Err(error) = &log {
            self.report.fault("log", error);
        }
        if let Err(error) = &snapshots {
            self.report.fault("snapshots", error);
        }
        let (log, snapshots) = (log.ok()?, snapshots.ok()?);
        self.snapshots(&snapshots, &damaged);
        let newest = snapshots.newest();
        let (purged, reaches) =
            (log.purged().map(|at| at.index), newest.as_ref().map(|it| it.meta().last.index));
        if purged > reaches {
            let what = format!(
                "it begins after record {purged:?}, and the newest whole snapshot ends with {reaches:?}"
            );
            self.report.bad("log", what, REPLACE);
            return None;
        }
        let mut hashes: BTreeMap<u64, Digest> = BTreeMap::new();
        let mut differing = Vec::new();
        let mut compare = |state: &State, effect: &Effect| match effect {
            Effect::Checkpoint => {
                hashes.insert(state.index.0, state.hash());
            }
            Effect::Agreed { index, hash } => {
                differing.extend(hashes.get(index).filter(|own| *own != hash).map(|_| *index));
            }
            Effect::Granted { .. }
            | Effect::Stop { .. }
            | Effect::Ended { .. }
            | Effect::Deciding(_)
            | Effect::Schedule(_)
            | Effect::Timer
            | Effect::Backfill(_)
            | Effect::Run(_)
            | Effect::LogsSettled(..)
            | Effect::Block { .. }
            | Effect::Executor(_)
            | Effect::Definitions => {}
        };
        match replay(newest.as_ref(), &log, &mut compare) {
            Ok(replayed) => {
                self.log(&replayed, &torn);
                self.state(&replayed.state, &differing);
                Some(replayed.state)
            }
            Err(error) => {
                self.report.fault("log", &error);
                None
            }
        }
    }

    fn snapshots(&mut self, snapshots: &Snapshots, noted: &[String]) {
        let aside = snapshots.damaged().unwrap_or_default();
        let newly = noted.iter().filter(|change| change.contains(".damaged"));
        let all: Vec<String> = newly.cloned().chain(aside).collect();
        match snapshots.newest() {
            _ if !all.is_empty() => self.report.bad(
                "snapshots",
                format!("damaged: {}", all.join(", ")),
                "the node goes on from an older one if the log reaches that far; look at the disk",
            ),
            Some(newest) => {
                let what = format!(
                    "the newest ends with record {}, {} bytes",
                    newest.meta().last.index,
                    newest.bytes()
                );
                self.report.good("snapshots", what);
            }
            None => self.report.good("snapshots", "none yet"),
        }
    }

    fn log(&mut self, replayed: &Replayed, torn: &[String]) {
        let last = replayed
            .last
            .map_or("nothing".to_owned(), |last| format!("record {} of term {}", last.index, last.term));
        let what = format!("{} records, the last is {last}", replayed.records);
        if torn.is_empty() {
            self.report.good("log", what);
        } else {
            self.report.mends(
                "log",
                format!("{what}; {}", torn.join("; ")),
                "nothing: the next start cleans it up",
            );
        }
    }

    fn state(&mut self, state: &State, differing: &[u64]) {
        let faults = state.check();
        if let Some(first) = faults.first() {
            let what = format!("{} contradictions, the first: {first}", faults.len());
            self.report.bad(
                "state",
                what,
                "this is a defect of Matins: please report it, and keep a copy of this directory",
            );
        }
        if let Some(index) = differing.first() {
            self.report.bad("state", format!("it differs from the majority's at index {index}"), REPLACE);
        }
        if faults.is_empty() && differing.is_empty() {
            self.report.good("state", format!("index {}, {} bytes", state.index.0, state.bytes()));
        }
    }

    fn blobs(&mut self) -> Option<Held> {
        let blobs = match Blobs::open(Arc::clone(&self.files), &self.root.join("blobs")) {
            Ok(blobs) => blobs,
            Err(error) => {
                self.report.fault("blobs", &error);
                return None;
            }
        };
        self.look.take_changes();
        let all = blobs.list();
        let (mut whole, mut damaged) = (BTreeSet::new(), Vec::new());
        for (digest, _) in &all {
            match blobs.get(digest) {
                Ok(Some(_)) => {
                    whole.insert(*digest);
                }
                Ok(None) | Err(_) => damaged.push(*digest),
            }
        }
        if damaged.is_empty() {
            self.report.good("blobs", format!("{} of {} bytes", all.len(), blobs.total_bytes()));
        } else {
            self.report.bad(
                "blobs",
                format!("damaged: {}", names(&damaged)),
                "delete these files below blobs/: the node fetches them from others; what the last member lost is lost",
            );
        }
        Some(Held { blobs, whole })
    }

    /// What state and history name and this node has not.
    fn named(&mut self, state: &State, held: &Held) {
        let mut names_of_all = named(state);
        for (_, row) in state.blocks.iter().filter(|(_, row)| held.whole.contains(&row.digest)) {
            let block = held.blobs.get(&row.digest).ok().flatten().and_then(|bytes| Block::decode(&bytes));
            let Some(block) = block else {
                let what = format!("block {} is of a form that this release does not know", row.digest);
                self.report.bad("history", what, "use the release that wrote it, or a later one");
                continue;
            };
            let (outputs, logs) = named_by_block(&block);
            names_of_all.extend(outputs);
            if row.logs_stay.is_some() {
                names_of_all.extend(logs);
            }
        }
        let missing: Vec<Digest> =
            names_of_all.into_iter().filter(|digest| !held.blobs.has(digest)).collect();
        if !missing.is_empty() {
            self.report.mends(
                "blobs",
                format!("{} are named and missing: {}", missing.len(), names(&missing)),
                "nothing while other members have them: they are fetched; in a cluster of one they are lost",
            );
        }
    }

    /// The index of history is built anew whenever there is doubt, so a fault of it is never bad.
    fn history(&mut self, state: &State, held: &Held) {
        const AGAIN: &str = "nothing: delete the folder history/ and the next start builds it anew";
        let listed: BTreeSet<Digest> = state.blocks.iter().map(|(_, row)| row.digest).collect();
        let folder = self.root.join("history");
        if !folder.is_dir() {
            self.report.good("history", format!("{} blocks, and no index yet", listed.len()));
            return;
        }
        match index_faults(&folder, &listed, held) {
            Ok(faults) if faults.is_empty() => {
                self.report.good("history", format!("{} blocks, and an index that agrees", listed.len()));
            }
            Ok(faults) => self.report.mends("history", faults.join("; "), AGAIN),
            Err(why) => self.report.mends("history", format!("its index cannot be read: {why}"), AGAIN),
        }
    }
}

/// What the index says that the blocks do not. It is opened in a copy, since sled writes whenever it is open.
fn index_faults(folder: &Path, listed: &BTreeSet<Digest>, held: &Held) -> Result<Vec<String>, String> {
    let copy = std::env::temp_dir().join(format!("matins-check-{}", std::process::id()));
    let copied = copy_all(folder, &copy).map_err(|error| error.to_string());
    let faults = copied.and_then(|()| {
        let index = History::open_as_it_is(&copy).map_err(|error| error_text(&error))?;
        compare(&index, listed, held).map_err(|error| error_text(&error))
    });
    drop(std::fs::remove_dir_all(&copy));
    faults
}

fn compare(index: &History, listed: &BTreeSet<Digest>, held: &Held) -> Result<Vec<String>, StoreError> {
    let mut faults = Vec::new();
    let indexed: BTreeSet<Digest> = index.indexed_blocks()?.into_iter().collect();
    let strange = indexed.difference(listed).count();
    if strange > 0 {
        faults.push(format!("the index has {strange} blocks that are not on the list"));
    }
    let lacking = listed.difference(&indexed).count();
    if lacking > 0 {
        faults.push(format!("{lacking} blocks are not in the index"));
    }
    for digest in indexed.intersection(listed).filter(|digest| held.whole.contains(digest)) {
        let Some(bytes) = held.blobs.get(digest)? else { continue };
        let wrong = Block::places(&bytes).unwrap_or_default().into_iter().filter(|(run, place)| {
            let found = index.find(run.id.0).ok().flatten();
            found.is_none_or(|found| found.block != *digest || found.offset as usize != place.start)
        });
        let wrong = wrong.count();
        if wrong > 0 {
            faults.push(format!("{wrong} runs of block {digest} are not where the index says"));
        }
    }
    Ok(faults)
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &there)?;
        } else {
            std::fs::copy(entry.path(), there)?;
        }
    }
    Ok(())
}

fn names(digests: &[Digest]) -> String {
    let told: Vec<String> = digests.iter().take(NAMES_TOLD).map(ToString::to_string).collect();
    let more = digests.len().saturating_sub(NAMES_TOLD);
    if more == 0 { told.join(", ") } else { format!("{} and {more} more", told.join(", ")) }
}
