//! Executor and supervisor: running tasks as processes (PROTOCOL 5).

pub mod clock;
pub mod log;
pub mod supervisor;
pub mod task_exec;
