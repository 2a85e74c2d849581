//! What an entry asks the shell to do. Effects are hints; the state is the truth (DESIGN 3.6): all of it can also be
//! found by looking at `State`, which is what a new leader does.

use alloc::vec::Vec;

use crate::command::StopHow;
use crate::id::{BackfillId, Digest, ExecutorId, Fence, RunId, ScheduleId, SessionNumber, TaskId};

/// Something the shell may want to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A lease was granted: the leader sends the start message.
    Granted {
        /// Which task.
        task: TaskId,
        /// Which attempt of it.
        attempt: u32,
        /// Its right to act.
        fence: Fence,
        /// To whom.
        executor: ExecutorId,
        /// In which session.
        session: SessionNumber,
    },
    /// An attempt is to be ended: the leader sends a stop message.
    Stop {
        /// Which one.
        fence: Fence,
        /// Whose.
        executor: ExecutorId,
        /// How.
        how: StopHow,
    },
    /// An attempt has ended: the executor may forget it.
    Ended {
        /// Which one.
        fence: Fence,
        /// Whose.
        executor: ExecutorId,
    },
    /// A condition or list is open.
    Deciding(TaskId),
    /// `next` of a schedule moved, or is unknown.
    Schedule(ScheduleId),
    /// A timer was set, or work is left to continue.
    Timer,
    /// A backfill wants its next ticks.
    Backfill(BackfillId),
    /// Something about a run changed: for watches and lists.
    Run(RunId),
    /// Logs were attached or given up: the executor deletes its copies.
    LogsSettled(ExecutorId, Vec<Fence>),
    /// Every node writes this block and syncs it.
    Block {
        /// Its name.
        digest: Digest,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Every node copies and hashes its state as it is now.
    Checkpoint,
    /// A majority agreed on the hash of a checkpoint: its snapshot may be published.
    Agreed {
        /// At which index.
        index: u64,
        /// The hash.
        hash: Digest,
    },
    /// An executor or a session changed.
    Executor(ExecutorId),
    /// A workflow or a pool changed.
    Definitions,
}
