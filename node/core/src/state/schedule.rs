//! Workflows, their versions and schedules, and pools.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, LogIndex, RunId, VersionNumber};
use crate::ir;
use crate::time::Timestamp;

/// A workflow, or what is left of a deleted one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowRow {
    /// The version in use; `None` after a delete.
    pub current: Option<VersionNumber>,
    /// The last number given to a version; never used again.
    pub version_last: VersionNumber,
    /// All its schedules are paused since then.
    pub paused_at: Option<Timestamp>,
    /// When the current version came into use.
    pub changed_at: Timestamp,
    /// Active runs that count at its gate.
    pub active_runs: u32,
    /// The newest run of it, whatever its state.
    pub latest_run: Option<RunId>,
}

/// A version of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its compiled form.
    pub definition: Digest,
    /// The blob of the source it was made from, if that was kept.
    pub source: Option<Digest>,
    /// When.
    pub created_at: Timestamp,
}

/// A compiled form, and what it takes to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionRow {
    /// The workflow.
    pub workflow: Arc<ir::Workflow>,
    /// For each task, which tasks need it.
    pub downstream: Arc<Vec<Vec<u16>>>,
    /// The blob of its source.
    pub source: Option<Digest>,
    /// Versions and runs in the state that use it. At zero it is dropped, an hour after it was stored at the earliest.
    pub uses: u32,
    /// When it was stored.
    pub stored_at: Timestamp,
}

impl DefinitionRow {
    /// Every task that needs this one, near or far, without it; in the order of the file.
    pub fn followers(&self, task: u16) -> BTreeSet<u16> {
        let (mut found, mut open) = (BTreeSet::new(), alloc::vec![task]);
        while let Some(next) = open.pop() {
            for follower in self.downstream.get(usize::from(next)).map_or(&[][..], Vec::as_slice) {
                if found.insert(*follower) {
                    open.push(*follower);
                }
            }
        }
        found
    }
}

/// A schedule of a registered workflow (PROTOCOL 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRow {
    /// What the file says.
    pub spec: Arc<ir::Schedule>,
    /// Rises with each change; one counter for all schedules, so no number is used again.
    pub version: u64,
    /// Every tick up to here is decided.
    pub mark: Timestamp,
    /// The first tick after it.
    pub next: Next,
    /// A person paused it: ticks after this instant are skipped.
    pub paused_at: Option<Timestamp>,
    /// The same for a pause of the whole workflow.
    pub workflow_paused_at: Option<Timestamp>,
    /// Why it cannot be evaluated (PROTOCOL 3.6).
    pub quarantine: Option<String>,
    /// How its ticks were decided.
    pub counts: DecisionCounts,
}

impl ScheduleRow {
    /// Whether the leader has still to work out its next tick.
    pub fn is_unplanned(&self) -> bool {
        self.next == Next::Unknown
    }

    /// Since when it is paused, by whichever pause came first.
    pub fn paused_since(&self) -> Option<Timestamp> {
        match (self.paused_at, self.workflow_paused_at) {
            (Some(own), Some(workflow)) => Some(own.min(workflow)),
            (own, workflow) => own.or(workflow),
        }
    }
}

/// The next tick of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Not worked out yet, since the schedule was changed: the leader does so at once, by a `Fire` without decisions.
    Unknown,
    /// This instant, later than the mark.
    At(Timestamp),
    /// It will not fire again: switched off in the file, in quarantine, or past its last date.
    Never,
}

impl Next {
    /// When the leader must look at it: at once if unknown.
    pub fn due_at(self) -> Option<Timestamp> {
        match self {
            Self::Unknown => Some(Timestamp::ZERO),
            Self::At(at) => Some(at),
            Self::Never => None,
        }
    }
}

/// How many ticks were decided, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionCounts {
    /// Runs made.
    pub runs: u64,
    /// Skips by reason, in the order of `SkipReason`.
    pub skips: [u64; SkipReason::COUNT],
    /// The newest skip.
    pub last_skip: Option<(Timestamp, SkipReason)>,
    /// The newest tick that became a run.
    pub last_run: Option<Timestamp>,
}

/// Ticks of one schedule that were skipped one after the other for one reason, by their last one: what no run tells. A
/// tick that became a run is remembered by that run, in the state or in history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipRow {
    /// The first of them.
    pub from: Timestamp,
    /// How many.
    pub count: u32,
    /// Why.
    pub reason: SkipReason,
    /// The entry that decided the last of them.
    pub index: LogIndex,
    /// When that was.
    pub at: Timestamp,
}

/// Why a tick made no run (PROTOCOL 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SkipReason {
    /// The gate was full and `on_full` is `skip`.
    Running,
    /// The schedule was paused.
    Paused,
    /// An outage left it behind and the catch-up policy leaves it out.
    CatchupPolicy,
    /// It is older than the catch-up window.
    CatchupWindow,
    /// More than the catch-up limit are newer.
    CatchupLimit,
    /// The schedule was changed and what was due could not be fired.
    Changed,
    /// The schedule is in quarantine.
    Quarantine,
}

/// Skips kept of one schedule, a row for each that differs from the one before; older ones are only counted.
pub const SKIPS_KEPT_MAX: usize = 100;

impl SkipReason {
    /// How many reasons there are.
    pub const COUNT: usize = 7;

    /// The word for it in lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::CatchupPolicy => "catch-up policy",
            Self::CatchupWindow => "catch-up window",
            Self::CatchupLimit => "catch-up limit",
            Self::Changed => "changed",
            Self::Quarantine => "quarantine",
        }
    }
}

/// A pool of slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// How many.
    pub slots: u32,
    /// For people.
    pub description: String,
}
