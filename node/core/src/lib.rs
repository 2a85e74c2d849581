//! The pure core of Matins: what the cluster agreed on, and how one agreed command changes it.
//!
//! `apply` is the one door: the same state and the same entry give the same result on every
//! replica, release and machine. The crate is `no_std`, so that a clock, a file, a socket, a random number or a
//! hash map cannot be reached from here; what depends on the outside world is computed by the proposer
//! and travels in the command (DESIGN 3).
//!
//! Start reading at `command` (what can be asked), then `state` (what is remembered), then `apply`.
#![no_std]

extern crate alloc;

pub mod executor;
pub mod id;
pub mod ir;
pub mod lease;
pub mod supervisor;
pub mod time;
