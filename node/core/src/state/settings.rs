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
