//! What only a leader does: ticks, timers, decisions, sessions, retirement (DESIGN 4).
//!
//! Planners are pure functions of the state, the time and a calendar; a thin shell runs them. Everything that a
//! leadership needs is found in `State`; it remembers nothing that a new leader would lack.

pub mod backfill;
pub mod calendars;
pub mod decide;
pub mod disks;
pub mod leader;
pub mod link;
mod outputs;
mod past;
pub mod queue;
mod report;
pub mod retire;
pub mod scope;
pub mod sessions;
pub mod shell;
pub mod start;
#[cfg(test)]
mod testing;
pub mod ticks;
pub mod time;
pub mod timers;
