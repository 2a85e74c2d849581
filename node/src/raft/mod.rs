//! One order of commands for all nodes. Everything of openraft stays in here (STYLE 6, DESIGN 8).
//!
//! The rest of the engine holds a [`Consensus`]: it proposes commands, reads the state at an index, follows applied
//! entries and knows who leads. This module decides nothing about workflows, ticks or leases, and computes no leader
//! time: it asks an [`EntryClock`], which `lead` has.
//!
//! Start reading at [`Consensus`], then [`start`](Consensus::start).

#![expect(clippy::result_large_err, reason = "openraft's traits fix the error types, which are large")]

mod blobs;
mod change;
mod clock;
mod consensus;
mod elect;
mod error;
mod forward;
mod hand_over;
mod keep;
mod lead;
mod leave;
mod level;
mod links;
mod local;
mod log;
mod machine;
mod meant;
mod members;
mod network;
mod peer;
mod propose;
mod reads;
mod record;
pub(crate) mod replay;
#[cfg(feature = "simulation")]
mod runtime;
pub(crate) mod snapshot;
mod start;
mod storage;
#[cfg(test)]
mod tests;
mod times;
mod types;
mod watchdog;
mod wire;

pub(crate) use blobs::{named, named_by_block, put_there, receive};
pub use change::MemberChange;
pub use clock::{ClockReading, EntryClock};
pub use consensus::{Answered, AppliedEntry, Consensus, LeaderView, StartConfig, Subscription};
pub use error::{
    BlobError, ChangeError, InitError, LevelError, ProposeError, ReadError, StartError, TransferError,
};
pub(crate) use forward::decode;
pub use level::SupportedLevel;
pub(crate) use links::{Link, Links};
pub use peer::PeerService;
pub(crate) use start::draw_node;
pub use storage::StorageConfig;
pub use times::{RaftTimes, TimesError};
pub use types::{HeardStatus, Member, Members, PeerStatus};
pub use watchdog::{Exit, OnExit, exit_process};
pub use wire::members_in;
