//! What a command is answered: an answer, or a refusal, which is an answer too and the same on every replica.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::command::FullDisk;
use crate::id::{
    BackfillId, Digest, ExecutorId, Fence, Leadership, PoolName, RunId, ScheduleId, SessionNumber, TaskId,
    VersionNumber, WorkflowName,
};
use crate::state::settings::LeaseTerms;
use crate::time::Timestamp;

/// What a command that was accepted is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, and there is nothing to say.
    Done,
    /// A leader is ready.
    Ready(Leadership),
    /// A session is open.
    Session {
        /// Fences bound to it; the supervisor stops all others.
        bound: Vec<Fence>,
        /// What it is worth.
        terms: LeaseTerms,
    },
    /// A definition is stored.
    Definition(Digest),
    /// A run was made, or was there already.
    Run(RunId),
    /// What an `apply` changed.
    Applied(Applied),
    /// A backfill was made.
    Backfill(BackfillId),
    /// Ticks were decided: the runs that were made.
    Fired(Vec<RunId>),
}

/// What an `apply` changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Each workflow: version before, version now. Equal if it did not change.
    pub workflows: Vec<(WorkflowName, Option<VersionNumber>, VersionNumber)>,
    /// Each pool: slots before and now.
    pub pools: Vec<(PoolName, Option<u32>, u32)>,
    /// What was deleted.
    pub pruned: Vec<WorkflowName>,
    /// Runs that were started.
    pub runs: Vec<RunId>,
}

/// Why a command was not accepted. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no such thing.
    NotFound(Thing),
    /// There is such a thing already.
    Exists(Thing),
    /// Something has moved on since the command was computed; whoever computed it does so again.
    Stale(Stale),
    /// It does not fit the state that the thing is in.
    Conflict {
        /// The thing.
        thing: Thing,
        /// Why not, as a clause: "run-42 is running".
        why: String,
        /// What to do.
        hint: String,
    },
    /// A limit is used up.
    Limit {
        /// Its name.
        limit: String,
        /// Its value.
        value: u64,
        /// What was asked for.
        asked: u64,
        /// How to raise it, or what else to do.
        hint: String,
    },
    /// A disk is too full for new runs (PROTOCOL 6.12).
    FullDisk(FullDisk),
    /// The time of the entry is too far ahead (PROTOCOL 1.3).
    TimeAhead {
        /// What the entry says.
        at: Timestamp,
        /// What the state says.
        now: Timestamp,
    },
    /// Past its `not_after` (PROTOCOL 4.6).
    Expired {
        /// When it ended.
        not_after: Timestamp,
    },
    /// A request id was used for something else.
    RequestReused,
    /// The command itself makes no sense.
    Invalid(String),
    /// The cluster has not been founded.
    NotInitialised,
    /// A schedule has ticks that are due: they are fired first (PROTOCOL 3.5).
    TicksDue(Vec<ScheduleId>),
    /// The entry is of a level that is not in force (I12).
    AboveLevel {
        /// Its level.
        level: u16,
        /// The level in force.
        in_force: u16,
    },
}

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Thing {
    /// A workflow.
    Workflow(WorkflowName),
    /// A version of one.
    Version(WorkflowName, VersionNumber),
    /// A stored definition.
    Definition(Digest),
    /// A schedule.
    Schedule(ScheduleId),
    /// A run.
    Run(RunId),
    /// A task.
    Task(TaskId),
    /// A fence.
    Fence(Fence),
    /// A backfill.
    Backfill(BackfillId),
    /// A pool.
    Pool(PoolName),
    /// An executor.
    Executor(ExecutorId),
    /// The cluster.
    Cluster,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workflow(name) => write!(f, "workflow `{name}`"),
            Self::Version(name, number) => write!(f, "version {number} of workflow `{name}`"),
            Self::Definition(digest) => write!(f, "definition {digest}"),
            Self::Schedule(id) => write!(f, "schedule `{id}`"),
            Self::Run(run) => write!(f, "{run}"),
            Self::Task(task) => match task.item {
                Some(item) => write!(f, "item {item} of task {} of {}", task.task, task.run),
                None => write!(f, "task {} of {}", task.task, task.run),
            },
            Self::Fence(fence) => write!(f, "{fence}"),
            Self::Backfill(backfill) => write!(f, "{backfill}"),
            Self::Pool(pool) => write!(f, "pool `{pool}`"),
            Self::Executor(executor) => write!(f, "executor {executor}"),
            Self::Cluster => write!(f, "the cluster"),
        }
    }
}

/// What has moved on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stale {
    /// Another leadership.
    Leadership(Option<Leadership>),
    /// A higher session; names the last one.
    Session(SessionNumber),
    /// The fence is over.
    Fence(Fence),
    /// The schedule's version or mark.
    Schedule(ScheduleId),
    /// The task is not deciding any more, or its inputs changed.
    Inputs(TaskId),
    /// The number of retired runs, or the cursor of a backfill.
    History,
    /// The members of the cluster.
    Members,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(thing) => write!(f, "there is no {thing}"),
            Self::Exists(thing) => write!(f, "{thing} exists already"),
            Self::Stale(stale) => match stale {
                Stale::Leadership(Some(newest)) => {
                    write!(f, "computed under an older leadership than {newest}")
                }
                Stale::Leadership(None) => write!(f, "there is no leader yet"),
                Stale::Session(last) => write!(f, "{last} is newer"),
                Stale::Fence(fence) => write!(f, "{fence} is over"),
                Stale::Schedule(id) => write!(f, "schedule `{id}` has moved on"),
                Stale::Inputs(task) => write!(f, "{} has moved on", Thing::Task(*task)),
                Stale::History => write!(f, "history has moved on"),
                Stale::Members => write!(f, "the members of the cluster have changed"),
            },
            Self::Conflict { thing, why, .. } => write!(f, "{thing}: {why}"),
            Self::Limit { limit, value, asked, .. } => {
                write!(f, "{limit} is {value}, and {asked} would be needed")
            }
            Self::FullDisk(FullDisk { node, path, used_permille, limit_permille }) => {
                let (used, limit) = (Percent(*used_permille), Percent(*limit_permille));
                write!(
                    f,
                    "the disk of {node} under {path} is {used} full: no new runs are made from {limit} on"
                )
            }
            Self::TimeAhead { at, now } => {
                write!(f, "its time lies {} ahead of the cluster's", at.since(*now))
            }
            Self::Expired { .. } => write!(f, "it came after its `not_after`"),
            Self::RequestReused => write!(f, "this request id was used for something else"),
            Self::Invalid(why) => f.write_str(why),
            Self::NotInitialised => write!(f, "the cluster has not been founded"),
            Self::TicksDue(schedules) => write!(f, "ticks are due of {} schedules", schedules.len()),
            Self::AboveLevel { level, in_force } => {
                write!(f, "it is of feature level {level}, and {in_force} is in force")
            }
        }
    }
}

/// Thousandths, written as per cent.
struct Percent(u16);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
    }
}

impl core::error::Error for Refusal {}

impl Refusal {
    /// What to do next, where the refusal knows.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Conflict { hint, .. } | Self::Limit { hint, .. } => Some(hint),
            Self::FullDisk(_) => Some(
                "free some space there, or keep less (`matins cluster settings`); what runs goes on, and due ticks wait",
            ),
            Self::Expired { .. } => Some("repeat it with a new request id if it was not done"),
            Self::RequestReused => Some("draw a new request id for each new command"),
            Self::NotInitialised => Some("`matins cluster init` on one node founds it"),
            Self::NotFound(_)
            | Self::Exists(_)
            | Self::Stale(_)
            | Self::TimeAhead { .. }
            | Self::Invalid(_)
            | Self::TicksDue(_)
            | Self::AboveLevel { .. } => None,
        }
    }
}
