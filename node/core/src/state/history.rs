//! What links the state to history: blocks, logs, checkpoints, and outcomes that later runs ask for.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::TaskState;
use crate::id::{Digest, ExecutorId, NodeId, RunId, TaskName};
use crate::time::{Millis, Timestamp};

/// A block of finished runs (PROTOCOL 6.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// The blob that holds it.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// The lowest id in it.
    pub first: RunId,
    /// The highest id in it.
    pub last: RunId,
    /// How many runs.
    pub runs: u32,
    /// When it was made.
    pub at: Timestamp,
    /// Bytes of the large outputs that its runs name.
    pub output_bytes: u64,
    /// Bytes of the logs that its runs name; zero once they are gone.
    pub log_bytes: u64,
    /// How long its runs stay.
    pub runs_stay: Stay,
    /// How long their logs stay; `None`: they have none, or retention took them.
    pub logs_stay: Option<Stay>,
    /// The latest logical time of a run in it, and not later than its latest end.
    pub logical_last: Timestamp,
}

/// How long what is in a block stays: until all of it has had its time (PROTOCOL 6.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The latest end of a run whose workflow says nothing: the cluster's age counts from there.
    pub ended: Option<Timestamp>,
    /// The latest instant that the workflow of a run names.
    pub until: Option<Timestamp>,
}

impl Stay {
    /// Counts a run that ended at `ended` and whose workflow keeps it for `kept`.
    pub fn add(&mut self, ended: Timestamp, kept: Option<Millis>) {
        match kept {
            Some(kept) => self.until = self.until.max(Some(ended + kept)),
            None => self.ended = self.ended.max(Some(ended)),
        }
    }

    /// When all of it has had its time, if what has no time of its own is kept for `age`.
    pub fn over_at(&self, age: Millis) -> Option<Timestamp> {
        self.ended.map(|ended| ended + age).max(self.until)
    }
}

/// Where the log of an attempt lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogPlace {
    /// A range of a pack.
    Pack {
        /// The blob.
        digest: Digest,
        /// Where in it.
        offset: u64,
        /// How long.
        bytes: u64,
    },
    /// Its executor has it no more.
    Lost,
}

/// What is known of the log of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogState {
    /// With the executor that runs or ran it.
    At(ExecutorId),
    /// Copied to the voters.
    Attached(LogPlace),
    /// It wrote nothing.
    Empty,
    /// Given up (PROTOCOL 6.7).
    Lost,
    /// Retention took it (PROTOCOL 6.11). Never in a row: whoever reads a run from history puts it in.
    Expired,
}

/// A checkpoint and what the nodes found (PROTOCOL 6.8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRow {
    /// The index at which states are compared.
    pub index: u64,
    /// When.
    pub at: Timestamp,
    /// What each node found.
    pub reports: Vec<(NodeId, Digest)>,
    /// What a majority found.
    pub agreed: Option<Digest>,
    /// Nodes found different states and no majority found one, here or at a checkpoint before: nothing is lent until a
    /// majority agrees again.
    pub is_split: bool,
}

/// How the newest run at a tick went, for tasks that depend on the past (LANGUAGE 1.25).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRow {
    /// The newest run there.
    pub run: RunId,
    /// `None` while it is active; else what became of each `depends_on_past` task.
    pub ended: Option<BTreeMap<TaskName, PastOutcome>>,
}

/// How a task went in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PastOutcome {
    /// `success` or `skipped`: those after it go on.
    Good,
    /// Anything else: they wait for a repair.
    Bad,
}

impl PastOutcome {
    /// What a task's state means for the same task of later runs (LANGUAGE 1.25).
    pub const fn of(state: &TaskState) -> Self {
        match state {
            TaskState::Success | TaskState::Skipped(_) => Self::Good,
            TaskState::Waiting
            | TaskState::WaitingForPast { .. }
            | TaskState::Deciding
            | TaskState::Queued
            | TaskState::Expanded
            | TaskState::Running { .. }
            | TaskState::Stopping { .. }
            | TaskState::Retrying { .. }
            | TaskState::Failed(_)
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => Self::Bad,
        }
    }
}
