//! Backfills: the runs of a past range.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::id::{LogIndex, ScheduleId};
use crate::ir::Json;
use crate::time::Timestamp;

/// A backfill, running or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillRow {
    /// Of which schedule.
    pub schedule: ScheduleId,
    /// The first logical time, inclusive.
    pub from: Timestamp,
    /// The last one, inclusive.
    pub to: Timestamp,
    /// Which ticks run again.
    pub reprocess: Reprocess,
    /// How many runs are active at once.
    pub active_max: u32,
    /// In which order.
    pub newest_first: bool,
    /// Parameters for each run.
    pub params: Json,
    /// Where it stands.
    pub state: BackfillState,
    /// From where its ticks are still unknown; `None` when all are known.
    pub cursor: Option<Timestamp>,
    /// The number of its next tick.
    pub ticks_next: u64,
    /// What has become of its ticks.
    pub counts: BackfillCounts,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// The entry that changed it last.
    pub changed: LogIndex,
}

/// Where a backfill stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackfillState {
    /// It makes runs.
    Running,
    /// A person holds it; active runs go on.
    Paused,
    /// A person ended it; active runs are being cancelled.
    Stopping,
    /// All its runs have ended, none failed.
    Success,
    /// All its runs have ended, some failed.
    Failed,
    /// A person ended it.
    Cancelled,
}

/// What has become of the ticks of a backfill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillCounts {
    /// Ticks that wait for their run.
    pub waiting: u32,
    /// Runs that are not over.
    pub active: u32,
    /// Runs that ended in success.
    pub success: u32,
    /// Runs that failed.
    pub failed: u32,
    /// Runs that were cancelled.
    pub cancelled: u32,
    /// Ticks left out, because they had their run.
    pub left_out: u32,
    /// Ticks left alone, because a run was active there.
    pub left_alone: u32,
}

/// Which ticks of the range run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reprocess {
    /// Those without a run that succeeded (LANGUAGE 1.20).
    #[default]
    Missing,
    /// Those whose newest run failed.
    Failed,
    /// All.
    All,
}

/// A tick that waits for its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillTickRow {
    /// The nominal time.
    pub logical_time: Timestamp,
    /// The tick before it.
    pub interval_start: Timestamp,
    /// Resolved parameters, or why they could not be.
    pub params: Result<Json, String>,
}
