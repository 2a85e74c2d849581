//! What the cluster remembers. Everything that must survive a leader is here; nothing else is (DESIGN 3.7).
//!
//! Start with [`State`]: one field per table. Rows live beside their subject: [`run`], [`schedule`], [`executor`],
//! [`backfill`]. Only `crate::apply` changes anything in here.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{
    BackfillId, Digest, ExecutorId, Fence, Leadership, LogIndex, NodeId, PoolName, RequestId, RunId,
    ScheduleId, SessionNumber, TaskId, VersionNumber, WorkflowName,
};
use crate::table::Table;
use crate::time::{Millis, Timestamp};

pub mod backfill;
pub mod executor;
pub mod history;
pub mod run;
pub mod schedule;
pub mod settings;

pub use backfill::{BackfillCounts, BackfillRow, BackfillState, BackfillTickRow, Reprocess};
pub use executor::{ExecutorRow, SessionRow};
pub use history::{BlockRow, CheckpointRow, LogPlace, LogState, PastOutcome, PastRow};
pub use run::{
    AttemptOutcome, AttemptRow, AttemptState, Class, FanOut, LimitId, LostReason, Output, QueuePlace,
    RunOrigin, RunRow, RunState, StopReason, TaskRow, TaskState, TransitionRow, TransitionState, WhyFailed,
    WhySkipped,
};
pub use schedule::{
    DecisionCounts, DefinitionRow, Next, PoolRow, SKIPS_KEPT_MAX, ScheduleRow, SkipReason, SkipRow,
    VersionRow, WorkflowRow,
};
pub use settings::Settings;

/// The state of the cluster at one log index. A copy costs O(1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Leader time; never falls (I13).
    pub now: Timestamp,
    /// The last entry that was applied.
    pub index: LogIndex,
    /// What is there once in a cluster.
    pub cluster: Cluster,

    /// Workflows, the deleted ones too, since their version numbers are never used again.
    pub workflows: Table<WorkflowName, WorkflowRow>,
    /// Versions of workflows.
    pub versions: Table<(WorkflowName, VersionNumber), VersionRow>,
    /// Compiled forms, by their digest.
    pub definitions: Table<Digest, DefinitionRow>,
    /// Schedules of registered workflows.
    pub schedules: Table<ScheduleId, ScheduleRow>,
    /// Schedules in order of what is due: by `next`, unknown first. Those that never fire are not in it.
    pub due: Table<(Timestamp, ScheduleId), ()>,
    /// Ticks that were skipped, by schedule and their last tick; bounded per schedule.
    pub skips: Table<(ScheduleId, Timestamp), SkipRow>,
    /// Pools.
    pub pools: Table<PoolName, PoolRow>,

    /// Runs that have not left for history.
    pub runs: Table<RunId, RunRow>,
    /// Their tasks.
    pub tasks: Table<TaskId, TaskRow>,
    /// The attempts of their tasks, counted from 1.
    pub attempts: Table<(TaskId, u32), AttemptRow>,
    /// Live attempts, by fence.
    pub live: Table<Fence, (TaskId, u32)>,
    /// What happened to each run, with index and time; bounded per run.
    pub transitions: Table<(RunId, u32), TransitionRow>,
    /// Runs in the state by schedule and logical time.
    pub runs_by_tick: Table<(ScheduleId, Timestamp, RunId), ()>,
    /// Runs that wait at the gate of their workflow, in order of logical time.
    pub gate: Table<(WorkflowName, Timestamp, RunId), ()>,
    /// Active runs that count at the gate of their workflow, oldest first.
    pub active: Table<(WorkflowName, RunId), ()>,
    /// Tasks that are ready, by what room they need, in order of dispatch.
    pub queue: Table<(Class, QueuePlace), ()>,
    /// Each class in the queue: the limit that holds it back, and its first task (DESIGN 5, I9).
    pub classes: Table<Class, (LimitId, QueuePlace)>,
    /// The same by limit: who is served first when it has room.
    pub blocked: Table<(LimitId, QueuePlace, Class), ()>,
    /// Limits in use, and how much of each.
    pub limits: Table<LimitId, u32>,
    /// Tasks whose condition or list is open (PROTOCOL 4.2).
    pub deciding: Table<TaskId, ()>,
    /// Tasks that wait for a run at an earlier tick: schedule, that tick, task (LANGUAGE 1.25).
    pub past_waits: Table<(ScheduleId, Timestamp, TaskId), ()>,
    /// Outcomes of `depends_on_past` tasks per tick.
    pub past: Table<(ScheduleId, Timestamp), PastRow>,
    /// Live retries: the old run and its retry (PROTOCOL 4.4).
    pub retries: Table<RunId, RunId>,

    /// Executors.
    pub executors: Table<ExecutorId, ExecutorRow>,
    /// Sessions that are open or still have attempts bound to them.
    pub sessions: Table<(ExecutorId, SessionNumber), SessionRow>,
    /// Live attempts by the session they are bound to.
    pub bound: Table<(ExecutorId, SessionNumber, Fence), ()>,

    /// Timers, in order of time.
    pub timers: Table<(Timestamp, TimerKey), ()>,
    /// Answers to commands with a request id (PROTOCOL 4.6).
    pub requests: Table<RequestId, RequestRow>,
    /// The same in the order in which they are forgotten.
    pub requests_by_expiry: Table<(Timestamp, RequestId), ()>,
    /// Work too large for one command (PROTOCOL 4.5), continued by the leader.
    pub work: Table<WorkKey, ()>,

    /// Backfills.
    pub backfills: Table<BackfillId, BackfillRow>,
    /// Ticks that a backfill has still to run, in its own order.
    pub backfill_ticks: Table<(BackfillId, u64), BackfillTickRow>,

    /// Ended attempts whose logs are neither attached nor given up, and who has them.
    pub logs_open: Table<Fence, (ExecutorId, TaskId, u32)>,
    /// Finished runs whose logs are settled, by the time they ended: they can leave.
    pub finished: Table<(Timestamp, RunId), ()>,
    /// Blocks of history, oldest first, by their number.
    pub blocks: Table<u64, BlockRow>,
    /// The newest leaderships: who decided what an entry holds. Bounded.
    pub leaderships: Table<Leadership, LeadershipRow>,
    /// How many runs of a workflow have left for history (PROTOCOL 6.6).
    pub retired_runs: Table<WorkflowName, u64>,
}

/// What is there once in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Drawn by `init`; `None` before it.
    pub id: Option<u64>,
    /// The feature level in force.
    pub level: u16,
    /// The log index of the newest membership (PROTOCOL 6.9); zero is the one that the cluster was made with.
    pub members: LogIndex,
    /// The rules.
    pub settings: Settings,
    /// Who leads: node, nonce and the name of the leadership. `None` before the first.
    pub leader: Option<Leader>,
    /// When the newest outage ended, if one ever did (PROTOCOL 3.2).
    pub outage_end: Option<Timestamp>,
    /// Clock readings up to here are believed, by a person's word (PROTOCOL 1.2).
    pub time_accepted: Timestamp,
    /// The newest checkpoint.
    pub checkpoint: Option<CheckpointRow>,
    /// Version of the zone tables by which `next` was worked out; empty before the first schedule.
    pub zone_tables: String,
    /// The last number given to a run, a backfill, a fence, a version of a schedule, a block.
    pub counters: Counters,
    /// What it began anew from, if it did (PROTOCOL 6.10).
    pub refounded: Option<Refounded>,
    /// What was for a logical time up to here may have left history (PROTOCOL 6.11); `None` while nothing has.
    pub forgotten: Option<Timestamp>,
    /// Why no new runs are made, while disks are full (PROTOCOL 6.12).
    pub full_disk: Option<crate::command::FullDisk>,
    /// Nodes that were to be taken out, with their labels, the newest last; [`REMOVALS_KEPT_MAX`] at most. One whose change
    /// failed is a member still.
    pub removals: Vec<(NodeId, String)>,
}

/// So many nodes that were taken out are remembered.
pub const REMOVALS_KEPT_MAX: usize = 100;

/// What a cluster began anew from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refounded {
    /// The id of the cluster before.
    pub from: u64,
    /// The last entry of that cluster that is in this one.
    pub index: LogIndex,
    /// Leader time there. Workflows paused at this instant were paused by it.
    pub at: Timestamp,
    /// Whether its schedules are held until a person lets them go on.
    pub is_held: bool,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    /// The nonce of its `LeaderReady`.
    pub nonce: u64,
    /// The index of its `LeaderReady`.
    pub leadership: Leadership,
    /// When it became ready.
    pub since: Timestamp,
}

/// A leadership of the past, or the present one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadershipRow {
    /// Who led.
    pub node: NodeId,
    /// From when on.
    pub since: Timestamp,
}

/// Leaderships kept; older ones are only counted.
pub const LEADERSHIPS_KEPT_MAX: usize = 1_000;

/// Numbers that only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Runs made.
    pub run: u64,
    /// Backfills made.
    pub backfill: u64,
    /// Fences granted.
    pub fence: u64,
    /// Versions of schedules: one counter for all, so that none is ever used again (PROTOCOL 3.5).
    pub schedule_version: u64,
    /// Blocks of history.
    pub block: u64,
    /// Leaderships.
    pub leaderships: u64,
    /// Runs that retention took out of history (PROTOCOL 6.11).
    pub forgotten_runs: u64,
}

/// What fires when leader time reaches it (PROTOCOL 1.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TimerKey {
    /// A task's next attempt becomes ready.
    Retry(TaskId),
    /// An attempt has had its time.
    Timeout(Fence),
    /// An attempt's log is given up (PROTOCOL 6.7).
    LogGivenUp(Fence),
    /// A stored definition that nothing names is dropped (LANGUAGE 1.22).
    DropDefinition(Digest),
}

impl TimerKey {
    /// After every timer of the same instant.
    pub const LAST: Self = Self::DropDefinition(Digest([u8::MAX; 32]));
}

/// Work that goes on in slices (PROTOCOL 4.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WorkKey {
    /// Tasks of a stopping run are ended, from this one on.
    CancelRun {
        /// Which run.
        run: RunId,
        /// Tasks before it are done.
        from: TaskId,
        /// How processes are ended.
        how: crate::command::StopHow,
    },
    /// Waiting tasks are placed, since more room came at once than one command may fill.
    Place(LimitId),
    /// Runs at a gate that has room.
    OpenGate(WorkflowName),
    /// Ticks of a backfill that has room.
    Backfill(BackfillId),
    /// Runs of a cancelled backfill, from this one on.
    CancelBackfill {
        /// Which backfill.
        backfill: BackfillId,
        /// Runs before it are done.
        from: RunId,
    },
}

/// An answer that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    /// Of the command.
    pub digest: Digest,
    /// Of the entry that did it.
    pub index: LogIndex,
    /// Forgotten then.
    pub not_after: Timestamp,
    /// What was answered.
    pub answer: Result<crate::Answer, crate::Refusal>,
}

impl State {
    /// The schedules of a workflow, in order; costs what they are and not what others there are.
    pub fn schedules_of<'s>(
        &'s self,
        workflow: &WorkflowName,
    ) -> impl Iterator<Item = (&'s ScheduleId, &'s ScheduleRow)> {
        let from = self.schedules.range(workflow.first_schedule()..);
        from.take_while(|(id, _)| id.workflow == *workflow)
    }

    /// The row of a run.
    pub fn run(&self, run: RunId) -> Option<&RunRow> {
        self.runs.get(&run)
    }

    /// The compiled form that a run was made from.
    pub fn definition_of(&self, run: RunId) -> Option<&DefinitionRow> {
        self.definitions.get(&self.runs.get(&run)?.definition)
    }

    /// The tasks of a run in order: a fan-out before its items.
    pub fn tasks_of(&self, run: RunId) -> impl DoubleEndedIterator<Item = (&TaskId, &TaskRow)> {
        let first = TaskId { run, task: 0, item: None };
        let last = TaskId { run, task: u16::MAX, item: Some(u32::MAX) };
        self.tasks.range(first..=last)
    }

    /// The items of a fan-out, in order.
    pub fn items_of(&self, task: TaskId) -> impl DoubleEndedIterator<Item = (&TaskId, &TaskRow)> {
        let first = TaskId { item: Some(0), ..task };
        self.tasks.range(first..=TaskId { item: Some(u32::MAX), ..task })
    }

    /// The newest attempt of a task, if it had one.
    pub fn last_attempt(&self, task: TaskId) -> Option<&AttemptRow> {
        let number = self.tasks.get(&task)?.attempts;
        self.attempts.get(&(task, number))
    }

    /// The node that led when an entry was made; `None` before the leaderships that are kept.
    pub fn leader_at(&self, index: LogIndex) -> Option<NodeId> {
        self.leaderships.range(..=Leadership(index.0)).next_back().map(|(_, row)| row.node)
    }

    /// All attempts of a task, oldest first.
    pub fn attempts_of(&self, task: TaskId) -> impl DoubleEndedIterator<Item = &AttemptRow> {
        self.attempts.range((task, 0)..=(task, u32::MAX)).map(|(_, attempt)| attempt)
    }

    /// Canonical bytes of all rows, as the budget counts them (PROTOCOL 6.3).
    pub fn bytes(&self) -> u64 {
        let definitions = self.workflows.bytes() + self.versions.bytes() + self.definitions.bytes();
        let schedules = self.schedules.bytes() + self.due.bytes() + self.skips.bytes() + self.pools.bytes();
        let runs = self.runs.bytes() + self.tasks.bytes() + self.attempts.bytes() + self.live.bytes();
        let indexes =
            self.transitions.bytes() + self.runs_by_tick.bytes() + self.gate.bytes() + self.active.bytes();
        let queues = self.queue.bytes()
            + self.classes.bytes()
            + self.blocked.bytes()
            + self.limits.bytes()
            + self.deciding.bytes()
            + self.timers.bytes();
        let past = self.past_waits.bytes() + self.past.bytes() + self.retries.bytes();
        let executors = self.executors.bytes() + self.sessions.bytes() + self.bound.bytes();
        let requests = self.requests.bytes() + self.requests_by_expiry.bytes() + self.work.bytes();
        let backfills = self.backfills.bytes() + self.backfill_ticks.bytes();
        let history = self.logs_open.bytes()
            + self.finished.bytes()
            + self.blocks.bytes()
            + self.leaderships.bytes()
            + self.retired_runs.bytes();
        definitions + schedules + runs + indexes + queues + past + executors + requests + backfills + history
    }

    /// The digest of the canonical encoding (PROTOCOL 6.8, I11).
    pub fn hash(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The canonical encoding: the same bytes on every replica at the same index.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("rows have no sequence of unknown length and no custom error")
    }

    /// Reads back what `encode` wrote; `None` if these bytes are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// How long after its last renewal a session is dead (PROTOCOL 5.3).
    pub fn session_dead_after(&self) -> Millis {
        self.cluster.settings.lease.dead_after()
    }
}
