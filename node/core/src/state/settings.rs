//! The rules a cluster runs under, changed by command.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// The rules. Defaults are those of PROTOCOL and DESIGN 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Leases of sessions opened from now on.
    pub lease: LeaseTerms,
    /// A jump of leader time beyond this is an outage (PROTOCOL 3.2).
    pub grace: Millis,
    /// Canonical bytes of the state (PROTOCOL 6.3).
    pub state_bytes_max: u64,
    /// Items of one fan-out.
    pub items_max: u32,
    /// Parameters of one run, in bytes.
    pub params_bytes_max: u32,
    /// A compiled definition, in bytes.
    pub definition_bytes_max: u32,
    /// Rows that one command may touch (PROTOCOL 4.5).
    pub rows_per_command_max: u32,
    /// The share of the budget that remembered answers may fill, in thousandths (PROTOCOL 4.6).
    pub requests_permille_max: u32,
    /// A log that is not attached so long after its attempt is given up (PROTOCOL 6.7).
    pub log_wait_max: Millis,
    /// Transitions kept of one run.
    pub transitions_max: u32,
    /// How long history stays (PROTOCOL 6.11).
    pub retention: Retention,
    /// When finished runs make a block (PROTOCOL 6.5).
    pub blocks: BlockTerms,
}

/// How long history stays, in time, number and size: whatever is reached first (PROTOCOL 6.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Finished runs, where their workflow says nothing else.
    pub runs_age: Millis,
    /// Runs in history.
    pub runs_max: u64,
    /// Bytes of history, large outputs included, on each node.
    pub history_bytes_max: u64,
    /// Logs of attempts, where their workflow says nothing else.
    pub logs_age: Millis,
    /// Bytes of logs, on each node.
    pub logs_bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            // A year's runs can be set beside those of the year before.
            runs_age: Millis::from_hours(400 * 24),
            runs_max: 10_000_000,
            history_bytes_max: 50 << 30,
            // Whoever looks into a log does so soon, and logs are what fills disks.
            logs_age: Millis::from_hours(30 * 24),
            logs_bytes_max: 20 << 30,
        }
    }
}

/// When finished runs make a block (PROTOCOL 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockTerms {
    /// So many bytes of them make one at once.
    pub gathered_bytes: u64,
    /// No finished run waits longer.
    pub wait_max: Millis,
}

impl Default for BlockTerms {
    fn default() -> Self {
        Self { gathered_bytes: 1 << 20, wait_max: Millis::from_mins(10) }
    }
}

/// A change of one rule. The order of variants is the format on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// `retention.runs`.
    RunsAge(Millis),
    /// `retention.runs-max`.
    RunsMax(u64),
    /// `retention.history-bytes`.
    HistoryBytesMax(u64),
    /// `retention.logs`.
    LogsAge(Millis),
    /// `retention.logs-bytes`.
    LogsBytesMax(u64),
    /// `state-bytes`.
    StateBytesMax(u64),
    /// `grace`.
    Grace(Millis),
}

impl Settings {
    /// These rules with one of them changed.
    #[must_use]
    pub fn with(mut self, change: Change) -> Self {
        match change {
            Change::RunsAge(age) => self.retention.runs_age = age,
            Change::RunsMax(runs) => self.retention.runs_max = runs,
            Change::HistoryBytesMax(bytes) => self.retention.history_bytes_max = bytes,
            Change::LogsAge(age) => self.retention.logs_age = age,
            Change::LogsBytesMax(bytes) => self.retention.logs_bytes_max = bytes,
            Change::StateBytesMax(bytes) => self.state_bytes_max = bytes,
            Change::Grace(grace) => self.grace = grace,
        }
        self
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: LeaseTerms::default(),
            grace: Millis::from_mins(10),
            state_bytes_max: 1 << 30,
            items_max: 10_000,
            params_bytes_max: 256 * 1024,
            definition_bytes_max: 512 * 1024,
            rows_per_command_max: 10_000,
            requests_permille_max: 100,
            log_wait_max: Millis::from_mins(10),
            transitions_max: 1_000,
            retention: Retention::default(),
            blocks: BlockTerms::default(),
        }
    }
}

/// What a session is worth (PROTOCOL 5.3). A session keeps the terms that it was opened under.
///
/// What follows from them is computed in [`lease`](crate::lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// L: how long a renewal lasts.
    pub length: Millis,
    /// K: how long it takes at most to end all processes of a lost lease.
    pub kill_budget: Millis,
    /// rho: the bound on the error of a clock's rate, in parts per million.
    pub rho_ppm: u32,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { length: Millis::from_secs(10), kill_budget: Millis::from_secs(4), rho_ppm: 1_000 }
    }
}
