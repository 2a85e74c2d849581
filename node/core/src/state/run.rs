//! Runs, tasks and attempts.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::history::LogState;
use crate::command::StopHow;
use crate::id::{
    BackfillId, Digest, ExecutorId, Fence, LogIndex, PoolName, RunId, ScheduleName, SessionNumber, TaskId,
    VersionNumber, WorkflowName,
};
use crate::time::{Millis, Timestamp};

/// One execution of one version for one logical time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// Of which workflow.
    pub workflow: WorkflowName,
    /// Its compiled form.
    pub definition: Digest,
    /// The version's number; `None` for a submitted file.
    pub version: Option<VersionNumber>,
    /// How it came about.
    pub origin: RunOrigin,
    /// The schedule it belongs to, if any.
    pub schedule: Option<ScheduleName>,
    /// What it is for.
    pub logical_time: Timestamp,
    /// The tick before that.
    pub interval_start: Timestamp,
    /// Resolved parameters, an object.
    pub params: Arc<str>,
    /// Where it stands.
    pub state: RunState,
    /// Tasks (a fan-out counts as one) that have not ended.
    pub tasks_open: u32,
    /// Whether a task that counts has failed.
    pub has_failed: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it passed its gate.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The run that it retries.
    pub retry_of: Option<RunId>,
    /// The first run of its chain of retries, itself if it is none.
    pub retry_root: RunId,
    /// Why the run as a whole failed, if no task says so.
    pub reason: Option<String>,
    /// How many transitions it has had, those left out too.
    pub transitions: u32,
    /// Ended attempts whose logs are not settled.
    pub logs_open: u32,
}

impl RunRow {
    /// Whether it still may change.
    pub fn is_active(&self) -> bool {
        match self.state {
            RunState::Queued | RunState::Running | RunState::Stopping => true,
            RunState::Success | RunState::Failed | RunState::Cancelled => false,
        }
    }

    /// The schedule it belongs to, in full.
    pub fn schedule_id(&self) -> Option<crate::id::ScheduleId> {
        let schedule = self.schedule.clone()?;
        Some(crate::id::ScheduleId { workflow: self.workflow.clone(), schedule })
    }

    /// Whether it counts at the gate of its workflow: backfills and submitted files have gates of their own.
    pub fn counts_at_gate(&self) -> bool {
        match self.origin {
            RunOrigin::Schedule | RunOrigin::Manual | RunOrigin::Retry => true,
            RunOrigin::Backfill(_) | RunOrigin::Submitted => false,
        }
    }
}

/// How a run came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunOrigin {
    /// A tick of its schedule.
    Schedule,
    /// Somebody started it.
    Manual,
    /// A file without a registered workflow.
    Submitted,
    /// A backfill.
    Backfill(BackfillId),
    /// A retry of a finished run.
    Retry,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RunState {
    /// At the gate.
    Queued,
    /// Its tasks run.
    Running,
    /// Cancelled, and not all its processes are gone.
    Stopping,
    /// Every task that counts succeeded or was skipped.
    Success,
    /// A task that counts failed.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl RunState {
    /// The word for it, the same everywhere (LANGUAGE 3).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A task of a run, a fan-out as a whole, or one of its items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Where it stands.
    pub state: TaskState,
    /// How many attempts it has had.
    pub attempts: u32,
    /// How many of them were lost with their executor.
    pub lost: u32,
    /// How many retries it has used.
    pub retries: u32,
    /// What it wrote to its output file.
    pub output: Option<Output>,
    /// For an item: its value.
    pub item: Option<Arc<str>>,
    /// For a fan-out: what has become of its items.
    pub fan_out: Option<FanOut>,
    /// When it came into this state.
    pub since: Timestamp,
    /// When its first attempt was granted.
    pub started_at: Option<Timestamp>,
    /// The result was taken over from this run, which this one retries.
    pub taken_from: Option<RunId>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// Its trigger rule is not met yet.
    Waiting,
    /// Its trigger rule is met, the past is not: the tick it waits for, and the run that failed there, if one did.
    WaitingForPast {
        /// The tick.
        tick: Timestamp,
        /// `None`: that run is active.
        failed: Option<RunId>,
    },
    /// Its condition or list is open.
    Deciding,
    /// Ready; `State::held_back_by` says by which limit.
    Queued,
    /// A fan-out whose items are at work.
    Expanded,
    /// Its attempt lives.
    Running {
        /// Its right to act.
        fence: Fence,
    },
    /// Its attempt is being ended; still live (PROTOCOL 5.7).
    Stopping {
        /// Its right to act, until it is gone.
        fence: Fence,
    },
    /// Its next attempt is due then.
    Retrying {
        /// When.
        due: Timestamp,
    },
    /// Done.
    Success,
    /// Its last attempt did not succeed.
    Failed(WhyFailed),
    /// Something it needs did not succeed.
    UpstreamFailed,
    /// Left out.
    Skipped(WhySkipped),
    /// The run was cancelled.
    Cancelled,
}

impl TaskState {
    /// Whether it will not change any more, but for a retry in place.
    pub const fn has_ended(&self) -> bool {
        match self {
            Self::Success | Self::Failed(_) | Self::UpstreamFailed | Self::Skipped(_) | Self::Cancelled => {
                true
            }
            Self::Waiting
            | Self::WaitingForPast { .. }
            | Self::Deciding
            | Self::Queued
            | Self::Expanded
            | Self::Running { .. }
            | Self::Stopping { .. }
            | Self::Retrying { .. } => false,
        }
    }

    /// The fence of its live attempt.
    pub const fn fence(&self) -> Option<Fence> {
        match self {
            Self::Running { fence } | Self::Stopping { fence } => Some(*fence),
            Self::Waiting
            | Self::WaitingForPast { .. }
            | Self::Deciding
            | Self::Queued
            | Self::Expanded
            | Self::Retrying { .. }
            | Self::Success
            | Self::Failed(_)
            | Self::UpstreamFailed
            | Self::Skipped(_)
            | Self::Cancelled => None,
        }
    }

    /// The word for it, the same everywhere (LANGUAGE 3).
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting | Self::WaitingForPast { .. } | Self::Deciding => "waiting",
            Self::Queued => "queued",
            Self::Expanded | Self::Running { .. } => "running",
            Self::Stopping { .. } => "stopping",
            Self::Retrying { .. } => "retrying",
            Self::Success => "success",
            Self::Failed(_) => "failed",
            Self::UpstreamFailed => "upstream_failed",
            Self::Skipped(_) => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a task was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhySkipped {
    /// Its `when` is false.
    When,
    /// Its `for_each` list is empty, or all its items were skipped.
    NoItems,
    /// Something it needs was skipped.
    Upstream,
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyFailed {
    /// Its last attempt says how.
    Attempt(AttemptOutcome),
    /// Its condition or list could not be evaluated.
    Decide(String),
    /// So many of its items failed.
    Items(u32),
    /// It waited for room in the state and there was none; names the limit.
    NoRoom(String),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AttemptOutcome {
    /// Exit code 0, and a readable output file.
    Success,
    /// Another exit code.
    Exit(i32),
    /// Ended by a signal that we did not send.
    Signal(i32),
    /// It could not be started, its text could not be rendered, or its output was not acceptable: says why.
    Error(String),
    /// As `Error`, and another try would end the same: never retried (PROTOCOL 4.3).
    Broken(String),
    /// Ended by its timeout.
    TimedOut,
    /// Ended because the run was cancelled.
    Cancelled,
    /// Its executor was lost, or lost it.
    Lost(LostReason),
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => write!(f, "success"),
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Error(why) | Self::Broken(why) => f.write_str(why),
            Self::TimedOut => write!(f, "timed out"),
            Self::Cancelled => write!(f, "cancelled"),
            Self::Lost(LostReason::Expired) => write!(f, "executor lost"),
            Self::Lost(LostReason::NotHeld) => write!(f, "executor came back without it"),
            Self::Lost(LostReason::Abandoned) => write!(f, "abandoned by order"),
            Self::Lost(LostReason::Deadline) => write!(f, "executor lost the cluster and ended it"),
            Self::Lost(LostReason::Restored) => {
                write!(f, "lost with the cluster that this one was restored from")
            }
        }
    }
}

/// How an attempt was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LostReason {
    /// The session ended without a renewal.
    Expired,
    /// The executor came back without it.
    NotHeld,
    /// A person said so.
    Abandoned,
    /// The executor's deadline passed and its supervisor ended it.
    Deadline,
    /// It belonged to the cluster that this one was restored from (PROTOCOL 6.10).
    Restored,
}

/// What a task gives to those that need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Output {
    /// A JSON object of at most 64 KiB.
    Inline(Arc<str>),
    /// A larger one.
    Blob {
        /// Its name.
        digest: Digest,
        /// Its size.
        bytes: u64,
    },
}

/// What has become of the items of a fan-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanOut {
    /// How many there are.
    pub items: u32,
    /// How many succeeded.
    pub success: u32,
    /// How many failed.
    pub failed: u32,
    /// How many were cancelled.
    pub cancelled: u32,
}

impl FanOut {
    /// How many have not ended.
    pub const fn open(&self) -> u32 {
        self.items - self.success - self.failed - self.cancelled
    }
}

/// One try at a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRow {
    /// Its right to act.
    pub fence: Fence,
    /// Who runs it.
    pub executor: ExecutorId,
    /// The session that its lease hangs on.
    pub session: SessionNumber,
    /// Where it stands.
    pub state: AttemptState,
    /// When its lease was granted.
    pub granted_at: Timestamp,
    /// When its process started, as its executor saw it; told with its end, since that costs no entry of its own.
    pub started_at: Option<Timestamp>,
    /// When it timed out or will.
    pub timeout_at: Timestamp,
    /// How long it may go on without the cluster (PROTOCOL 5.9).
    pub on_disconnect: Millis,
    /// Where its log is.
    pub log: LogState,
    /// Bytes of its log.
    pub log_bytes: u64,
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptState {
    /// It holds its lease.
    Running,
    /// As before; its output is being copied (PROTOCOL 6.7).
    Publishing,
    /// Its outcome is fixed, its processes may not be gone (PROTOCOL 5.7).
    Stopping {
        /// Why.
        reason: StopReason,
        /// How.
        how: StopHow,
        /// KILL did not help: an alarm.
        is_unkillable: bool,
    },
    /// Over.
    Ended {
        /// How.
        outcome: AttemptOutcome,
        /// When.
        at: Timestamp,
    },
}

/// Why an attempt is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopReason {
    /// Its run was cancelled.
    Cancelled,
    /// It had its time.
    TimedOut,
}

/// A limit: one general thing. A class of ready tasks waits at the first of its limits that has no room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LimitId {
    /// `max_parallel` of a fan-out.
    FanOut(TaskId),
    /// Slots of a pool.
    Pool(PoolName),
    /// Slots of the executors that have these labels.
    Slots(BTreeMap<String, String>),
}

/// Tasks that need the same room are one class: only the first of a class needs to be looked at, however many wait
/// behind it. Limits in a fixed order, each with how much of it one attempt takes.
pub type Class = Vec<(LimitId, u32)>;

/// The place of a task in every queue: the order of dispatch (DESIGN 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueuePlace {
    /// Higher first.
    pub priority: Reverse<i32>,
    /// Scheduled and manual before backfill.
    pub is_backfill: bool,
    /// Earlier first.
    pub logical_time: Timestamp,
    /// By run, then task, then item.
    pub task: TaskId,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionRow {
    /// By which entry.
    pub index: LogIndex,
    /// When.
    pub at: Timestamp,
    /// To which task; `None`: to the run as a whole.
    pub task: Option<TaskId>,
    /// The state it came into.
    pub state: TransitionState,
}

/// The state that something came into, as a word for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionState {
    /// One of the words of LANGUAGE 3.
    pub word: Arc<str>,
    /// The attempt it happened to; 0 for none.
    pub attempt: u32,
    /// More, for people.
    pub detail: String,
}
