//! Executor and supervisor: running tasks as processes (PROTOCOL 5).

mod collect;
mod executor;
mod files;
mod journal;
mod link;
pub mod log;
mod output;
mod prepare;
mod spares;
pub mod supervisor;
mod supervisors;
mod tail;
pub mod wire;

pub use executor::{Activity, Blobs, Executor, ExecutorConfig, ExecutorHandle};
pub use link::LeaderAddress;
pub use prepare::TaskEnvironment;
pub use tail::LogFolder;
