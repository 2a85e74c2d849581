//! The rows of the state as the wire shows them.
//!
//! Nothing here decides or waits: every function is a conversion of rows. `run` has runs, `task` their tasks and attempts,
//! `reason` why they wait or were left out, `definition` workflows and schedules, `backfill` backfills.

pub(crate) mod backfill;
pub(crate) mod definition;
pub(crate) mod executor;
pub(crate) mod reason;
pub(crate) mod run;
pub(crate) mod task;

pub(crate) use super::api::wire_time;
