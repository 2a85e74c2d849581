//! The engine of Matins: the shell around the pure core (DESIGN 2, 4).
//!
//! What decides lives in `matins-core` and `matins-workflow`; what acts lives here: `raft` brings commands into one
//! order, `store` keeps them through a power cut, `lead` does what only a leader does, `execute` runs tasks,
//! `serve` answers clients.

pub mod disk;
pub mod execute;
pub mod history;
pub mod lead;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod packs;
pub mod raft;
pub mod serve;
mod shrink;
pub mod store;
pub mod system;
pub mod traces;
pub use matins_core::LEVEL;
pub use node::{ExecutorSettings, Node, NodeConfig, NodeError};
