//! The pure core of Matins: what the cluster agreed on, and how one agreed command changes it.
//!
//! `apply` is the one door: the same state and the same entry give the same result on every
//! replica, release and machine. The crate is `no_std`, so that a clock, a file, a socket, a random number or a
//! hash map cannot be reached from here; what depends on the outside world is computed by the proposer
//! and travels in the command (DESIGN 3).
//!
//! Start reading at [`command`] (what can be asked), then [`state`] (what is remembered), then `apply`.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

/// The newest feature level that this release can write and read (PROTOCOL 6.9).
pub const LEVEL: u16 = 1;

mod answer;
mod apply;
mod check;
pub mod clock;
mod codec;
pub mod command;
mod effect;
pub mod election;
pub mod executor;
pub mod history;
pub mod id;
pub mod ir;
pub mod lease;
pub mod mutation;
pub mod state;
pub mod supervisor;
mod table;
pub mod time;
pub mod trigger;
pub mod why;

pub use answer::{Answer, Applied, Refusal, Stale, Thing};
pub use apply::{Outcome, apply, members_changed};
pub use codec::Unreadable;
pub use effect::Effect;
pub use state::State;
pub use table::Table;
