//! What can be asked of the cluster: every change is one of these, proposed by one function and applied by one.
//!
//! A command holds all that `apply` may know. What depends on the outside world (the time, cron, zones, rendered
//! conditions) was worked out by the proposer and comes with the precondition it was worked out under.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::history::RetiredRun;
use crate::id::{
    BackfillId, Digest, ExecutorId, Fence, JournalId, Leadership, LogIndex, NodeId, PoolName, RequestId,
    RunId, ScheduleId, SessionNumber, TaskId, WorkflowName,
};
use crate::ir::{Json, Workflow};
use crate::state::settings::Change;
use crate::state::{
    AttemptOutcome, LogPlace, Output, PastRow, Reprocess, RunOrigin, Settings, SkipReason, TimerKey,
};
use crate::time::{Millis, Timestamp};

/// What one log entry carries: the commands that gathered while the entry before it was being written
/// (PROTOCOL 6.2), in order, each with an answer of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The feature level it was written at (PROTOCOL 6.9).
    pub level: u16,
    /// Leader time (PROTOCOL 1.1).
    pub at: Timestamp,
    /// Applied one after the other.
    pub proposals: Vec<Proposal>,
}

/// A command, and under what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Who asked, so that a repeat gets the same answer. `None` for what a leader makes.
    pub request: Option<Request>,
    /// The leadership under which a leader computed it (PROTOCOL 2.1). `None` for what a client asked.
    pub leadership: Option<Leadership>,
    /// What is asked.
    pub command: Command,
}

/// Makes a command safe to repeat (PROTOCOL 4.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Drawn once by the client, the same in every repeat.
    pub id: RequestId,
    /// Past it the command is refused and its answer forgotten; at most an hour ahead.
    pub not_after: Timestamp,
}

/// The wall clocks that a leader saw when it wrote `LeaderReady` or `Time` (PROTOCOL 1.1, 1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// The newest instant that a majority of the voters' wall clocks have reached.
    pub majority: Timestamp,
    /// Each reading it was made of.
    pub by_node: Vec<(NodeId, Timestamp)>,
}

/// A change the cluster agreed on.
///
/// The order of variants is the format on disk: new ones go to the end, behind a feature level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    // Made by a leader (each carries its leadership, but for `LeaderReady`, which founds one).
    /// The first entry of a leadership. Cordons all executors (PROTOCOL 5.6).
    LeaderReady {
        /// Who leads.
        node: NodeId,
        /// Drawn at its election: tells its own entry from a copy.
        nonce: u64,
        /// What time it is.
        readings: Readings,
    },
    /// Written once a minute by a leader with nothing to say.
    Time(Readings),
    /// Opens a session of an executor (PROTOCOL 5.4).
    OpenSession(OpenSession),
    /// Declares a session dead: ends what is still bound to it and may not go on without the cluster for so long.
    ExpireSession {
        /// Whose.
        executor: ExecutorId,
        /// Which one.
        session: SessionNumber,
        /// For how long it has been dead beyond its lease: attempts with a longer `on_disconnect` stay bound
        /// (PROTOCOL 5.9). Zero the first time.
        dead_for: Millis,
    },
    /// No new attempts for this executor; refused if its session has moved on.
    Cordon {
        /// Which one.
        executor: ExecutorId,
        /// The session that fell silent.
        session: SessionNumber,
    },
    /// New attempts again; refused if its session has moved on.
    Uncordon {
        /// Which one.
        executor: ExecutorId,
        /// The session that is heard again.
        session: SessionNumber,
    },
    /// Decides the ticks of a schedule in `(from_mark, to_mark]` (PROTOCOL 3.1).
    Fire(Fire),
    /// Settles a condition or a fan-out list (PROTOCOL 4.2).
    Decide(Decide),
    /// Fires timers that are due; each that is no longer set is passed over.
    FireTimers(Vec<(Timestamp, TimerKey)>),
    /// Ends the attempt that holds `fence`.
    Finish(Finish),
    /// The executor has a large output and makes its copies first (PROTOCOL 6.7).
    Publishing {
        /// Of which attempt.
        fence: Fence,
    },
    /// Still there K after KILL: an alarm (PROTOCOL 5.7).
    Unkillable {
        /// Of which attempt.
        fence: Fence,
    },
    /// The logs of finished attempts, in bulk (PROTOCOL 6.7).
    AttachLogs(Vec<(Fence, LogPlace)>),
    /// Goes on with work too large for one command (PROTOCOL 4.5).
    Continue,
    /// The next ticks of a backfill, as the calendar gives them.
    BackfillSlice(BackfillSlice),
    /// Finished runs leave the state (PROTOCOL 6.5).
    RetireRuns {
        /// Which, ascending; all finished, all logs settled.
        runs: Vec<RunId>,
    },
    /// Every node hashes its state at this index (PROTOCOL 6.8).
    Checkpoint,
    /// What a node found at a checkpoint.
    CheckpointReport {
        /// Which node.
        node: NodeId,
        /// The index of the checkpoint.
        index: u64,
        /// The digest of its state there.
        hash: Digest,
        /// How many voters there are.
        voters: u32,
    },
    /// A schedule that cannot be evaluated (PROTOCOL 3.6).
    Quarantine {
        /// Which one.
        schedule: ScheduleId,
        /// Its version.
        version: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The leader's zone tables differ from those in use (PROTOCOL 3.5): `next` is worked out anew.
    Recalculate {
        /// Which schedules.
        schedules: Vec<(ScheduleId, u64)>,
        /// The tables now in use.
        tables: String,
    },

    // Asked by clients.
    /// Founds the cluster (PROTOCOL 2.7).
    Init {
        /// Drawn by the node that was told to.
        cluster: u64,
        /// The rules it starts with.
        settings: Settings,
    },
    /// Changes the rules.
    SetSettings(Settings),
    /// A person confirms that the clocks are right (PROTOCOL 1.2).
    AcceptTime {
        /// Readings up to this instant are believed.
        up_to: Timestamp,
    },
    /// Stores a version, which changes nothing that can be seen.
    StoreDefinition {
        /// Its compiled form.
        definition: Box<Workflow>,
        /// The blob of its source.
        source: Option<Digest>,
    },
    /// One atomic change over workflows and pools.
    Apply(Apply),
    /// Pauses all schedules of a workflow.
    PauseWorkflow(WorkflowName),
    /// Ends that pause.
    ResumeWorkflow(WorkflowName),
    /// Pauses one schedule.
    PauseSchedule(ScheduleId),
    /// Ends that pause.
    ResumeSchedule(ScheduleId),
    /// Deletes a workflow; refused while runs are active.
    DeleteWorkflow(WorkflowName),
    /// Makes a run by hand.
    Start(Start),
    /// A new run from a finished one (PROTOCOL 4.4).
    Retry(Retry),
    /// Retries a failed task of an active run in place.
    RetryTask(TaskId),
    /// Stops a run.
    Cancel {
        /// Which one.
        run: RunId,
        /// How its processes are ended.
        how: StopHow,
    },
    /// Makes the runs of a past range.
    CreateBackfill(CreateBackfill),
    /// No new runs of it.
    PauseBackfill(BackfillId),
    /// New runs again.
    ResumeBackfill(BackfillId),
    /// No new runs, and its active ones are cancelled.
    CancelBackfill(BackfillId),
    /// Makes or changes a pool.
    SetPool {
        /// Which one.
        pool: PoolName,
        /// How many slots.
        slots: u32,
        /// For people.
        description: String,
    },
    /// Deletes a pool; refused while a registered workflow names it.
    DeletePool(PoolName),
    /// A person's switch: no new attempts for this executor.
    Drain(ExecutorId),
    /// Takes that back.
    Undrain(ExecutorId),
    /// A person declares an attempt gone (PROTOCOL 5.7); recorded.
    Abandon(TaskId),
    /// A person raises the feature level, for good (PROTOCOL 6.9).
    RaiseLevel {
        /// The level from the next entry on.
        level: u16,
        /// The log index of the membership under which all members said that they support it; refused under another.
        members: LogIndex,
    },
    /// This executor is to be forgotten: no new attempts, and its row goes with its last session (PROTOCOL 2.7).
    Dismiss(ExecutorId),
    /// A cluster begins anew from what one directory or a backup holds (PROTOCOL 6.10). Entered offline, by the one who makes
    /// the new cluster; never proposed.
    Refound(Refound),
    /// Blocks of history, and logs of the runs in them, that have had their time (PROTOCOL 6.11). Made by a leader.
    Retain(Retain),
    /// Changes some of the rules and leaves the others as they are.
    ChangeSettings(Vec<Change>),
    /// Whether the nodes' disks have room for new runs (PROTOCOL 6.12). Made by a leader.
    Disks(Option<FullDisk>),
    /// A member is about to be taken out (PROTOCOL 2.7). Made by a leader before it changes the membership, so that a repeat
    /// can be told that it is done.
    MemberGoes {
        /// Its id.
        node: NodeId,
        /// Its label.
        name: String,
    },
}

/// What becomes of a cluster that begins anew (PROTOCOL 6.10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refound {
    /// Its new id, so that no node of the old one can come back to it.
    pub cluster: u64,
    /// The last entry of the old one that is in the state: the new one begins far behind it.
    pub last: LogIndex,
    /// Whether schedules and backfills go on by themselves.
    pub schedules: After,
    /// Whether the runs that had not finished go on.
    pub runs: After,
    /// Whether executors and their sessions of before are still there.
    pub executors: After,
}

/// Whether something goes on in a cluster that begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    /// As if nothing had happened.
    GoesOn,
    /// Schedules are held until a person lets them go on, runs are cancelled, executors are forgotten.
    Ends,
}

/// What retention takes (PROTOCOL 6.11).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retain {
    /// Blocks that go, by number, ascending.
    pub blocks: Vec<u64>,
    /// Blocks whose logs go while their runs stay, by number, ascending.
    pub logs: Vec<u64>,
}

/// Nodes whose disks are too full for new runs (PROTOCOL 6.12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullDisk {
    /// The node that has the least room.
    pub node: NodeId,
    /// Its data directory.
    pub path: String,
    /// How much of that disk is used, in thousandths.
    pub used_permille: u16,
    /// From how much on that node takes no new runs, in thousandths.
    pub limit_permille: u16,
}

/// How the processes of an attempt are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StopHow {
    /// TERM, and KILL 10 s later.
    Grace,
    /// KILL at once.
    Now,
}

/// An executor comes, or comes back (PROTOCOL 5.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenSession {
    /// Which one.
    pub executor: ExecutorId,
    /// Higher than every one before.
    pub session: SessionNumber,
    /// The machine's boot id.
    pub boot: String,
    /// The journal's id.
    pub journal: JournalId,
    /// What its supervisor holds, running or ended without acknowledgement; sorted.
    pub held: Vec<Fence>,
    /// For people.
    pub name: String,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// What tasks may ask for.
    pub labels: BTreeMap<String, String>,
    /// Host and port where its logs are read; empty: those of the node that it belongs to.
    pub address: String,
}

/// Decisions about ticks (PROTOCOL 3.1, 3.2). Without any it only sets `next`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fire {
    /// Of which schedule.
    pub schedule: ScheduleId,
    /// The version it was computed for.
    pub version: u64,
    /// The mark it was computed from.
    pub from_mark: Timestamp,
    /// Every tick up to this is decided afterwards; not later than `state.now`.
    pub to_mark: Timestamp,
    /// In order of time.
    pub decisions: Vec<Decision>,
    /// The first tick after `to_mark`, if there is one.
    pub next: Option<Timestamp>,
}

/// What became of one tick, or of a range of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// It makes a run (or is skipped by `on_full`, which `apply` decides).
    Run(Tick),
    /// Skipped.
    Skip {
        /// The first tick of the range.
        from: Timestamp,
        /// The last one.
        to: Timestamp,
        /// How many.
        count: u32,
        /// Why.
        reason: SkipReason,
    },
}

/// What a run needs to know of its tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The nominal time.
    pub logical_time: Timestamp,
    /// The tick before it by the same calendar.
    pub interval_start: Timestamp,
    /// Resolved parameters, or why they could not be: that run fails at once and says so.
    pub params: Result<Json, String>,
}

/// Settles a task that is deciding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decide {
    /// Which one.
    pub task: TaskId,
    /// What it was computed from: each upstream task with its last attempt, 0 if it had none.
    pub inputs: Vec<(u16, u32)>,
    /// What came out.
    pub outcome: DecideOutcome,
}

/// What a condition or a fan-out list came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecideOutcome {
    /// `when` is true and there is no `for_each`.
    Run,
    /// `when` is false.
    Skip,
    /// The items, 10,000 at most; none skips the task.
    Items(Vec<Json>),
    /// It could not be evaluated: never retried.
    Failed(String),
}

/// An attempt came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finish {
    /// Which one.
    pub fence: Fence,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// What it wrote to its output file, if it succeeded.
    pub output: Option<Output>,
    /// When its first process started, as far as is known.
    pub started_at: Option<Timestamp>,
    /// Bytes of its log; zero means that there is none to wait for.
    pub log_bytes: u64,
}

/// The next ticks of a backfill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillSlice {
    /// Which one.
    pub backfill: BackfillId,
    /// The cursor it was computed from.
    pub from: Timestamp,
    /// The cursor afterwards; `None` when the range is done.
    pub cursor: Option<Timestamp>,
    /// Ticks to run, in the order of the backfill.
    pub ticks: Vec<Tick>,
    /// Ticks left out because a run succeeded (or did not fail) there.
    pub left_out: u32,
    /// The number of retired runs of the workflow under which it was computed (PROTOCOL 6.6).
    pub retired_runs: u64,
    /// What `depends_on_past` needs from history, if the backfill starts behind what the state keeps.
    pub past: Vec<(Timestamp, PastRow)>,
}

/// One atomic change (LANGUAGE 1.22).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// Workflows to create or change.
    pub workflows: Vec<ApplyWorkflow>,
    /// Pools to create or change: name, slots, description.
    pub pools: Vec<(PoolName, u32, String)>,
    /// Workflows to delete.
    pub prune: Vec<WorkflowName>,
    /// Where its due ticks could not be fired (PROTOCOL 3.5): they are decided as skipped, so many each.
    pub skip_due: Vec<(ScheduleId, u32)>,
}

/// A workflow of an `Apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyWorkflow {
    /// Which one.
    pub name: WorkflowName,
    /// A stored definition.
    pub definition: Digest,
    /// A run to start with it.
    pub start: Option<Tick>,
}

/// A run by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Of which workflow.
    pub workflow: WorkflowName,
    /// A stored definition: a version of the workflow, or that of a submitted file.
    pub definition: Digest,
    /// How it came about; `Submitted` runs count in no gate.
    pub origin: RunOrigin,
    /// Its schedule, if it has one.
    pub schedule: Option<crate::id::ScheduleName>,
    /// When it is for, and its parameters (always resolved).
    pub tick: Tick,
}

/// What a retry takes over from the old run (LANGUAGE 4, `retry`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryScope {
    /// What succeeded or was skipped.
    Failed,
    /// All but this task and what follows it.
    From(u16),
    /// Nothing.
    All,
}

/// A new run from a finished one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The finished run.
    pub run: RunId,
    /// What is taken over.
    pub scope: RetryScope,
    /// Another definition, for `--all --latest`.
    pub definition: Option<Digest>,
    /// The old run as history has it, and the number of retired runs of its workflow under which it was
    /// read; `None`: it is still in the state.
    pub retired: Option<Box<(RetiredRun, u64)>>,
}

/// The runs of a past range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateBackfill {
    /// Of which schedule.
    pub schedule: ScheduleId,
    /// The first logical time, inclusive.
    pub from: Timestamp,
    /// The last one, inclusive; not later than the schedule's mark.
    pub to: Timestamp,
    /// Which ticks run again.
    pub reprocess: Reprocess,
    /// How many of its runs are active at once, one at least.
    pub active_max: u32,
    /// In which order.
    pub newest_first: bool,
    /// Parameters for each of its runs, a JSON object.
    pub params: Json,
}

/// How long an answer is remembered if the client does not say (PROTOCOL 4.6).
pub const NOT_AFTER_DEFAULT: Millis = Millis::from_mins(10);
/// How long it may be remembered at most.
pub const NOT_AFTER_MAX: Millis = Millis::from_hours(1);
