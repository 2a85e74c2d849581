//! End-to-end tests: real nodes, real tasks, real deaths, all through the command line. One binary, so that a test run
//! on a small machine starts only as many clusters at once as it has cores.

#[path = "../common/mod.rs"]
mod common;

mod backfill;
mod backup;
mod bad_days;
mod bad_tasks;
mod clocks;
mod executors;
mod frozen;
mod keeping;
mod levels;
mod logs;
mod members;
mod one_node;
mod overload;
mod power_off;
mod public_port;
mod recover;
mod restart;
mod seeing;
mod snapshot;
mod three_nodes;
mod told;
