//! The `matins` binary: one program for servers, development clusters, and every verb of a client.
//!
//! It decides nothing about workflows: client verbs ask a cluster and print, `server` starts a node, `dev` and `demo` start
//! several. Start reading at [`args::Verb`]; `context` has what every verb is given, `exit` and `fault` how they end.

mod args;
mod attempt;
mod backfill;
mod cluster;
mod complete;
mod context;
mod demo;
mod dev;
mod executor;
mod exit;
mod fault;
mod live;
mod nodes;
mod output;
mod pages;
mod pool;
#[cfg(test)]
mod reference;
mod refs;
mod run;
mod schedule;
mod server;
mod settings;
mod top;
mod why;
mod workflow;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::args::{Cli, Verb};
use crate::context::{Context, Outcome};
use crate::executor::ExecutorVerb;
use crate::fault::Fault;

/// musl's own has one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long calls for the disk that nobody waits for any more may keep this process.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // A supervisor stays small: it forks for each task, and a fork costs what there is of it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "supervisor") {
        return matins_node::execute::supervisor::main(arguments);
    }
    complete::answer();
    let Cli { global, verb } = Cli::parse();
    match perform(verb, &Context::new(global)) {
        Ok(exit) => exit.into(),
        Err(fault) => {
            // Who closed standard error does not want to know.
            let _ = std::io::stderr().write_all(fault.report().as_bytes());
            fault.exit().into()
        }
    }
}

/// A server gets a thread for each core; a client waits more than it works.
fn perform(verb: Verb, context: &Context) -> Outcome {
    let mut builder = match &verb {
        Verb::Server(_) | Verb::Executor(ExecutorVerb::Run(_)) => tokio::runtime::Builder::new_multi_thread(),
        Verb::Check(_)
        | Verb::Apply(_)
        | Verb::Start(_)
        | Verb::Submit(_)
        | Verb::Watch(_)
        | Verb::Wait(_)
        | Verb::Logs(_)
        | Verb::Why(_)
        | Verb::Top(_)
        | Verb::Retry(_)
        | Verb::Cancel(_)
        | Verb::Run(_)
        | Verb::Workflow(_)
        | Verb::Schedule(_)
        | Verb::Backfill(_)
        | Verb::Pool(_)
        | Verb::Executor(_)
        | Verb::Attempt(_)
        | Verb::Cluster(_)
        | Verb::Dev(_)
        | Verb::Demo(_)
        | Verb::Completion(_)
        | Verb::Supervisor(_) => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Fault::machine("cannot start the runtime", error))?;
    let outcome = runtime.block_on(verb.perform(context));
    // A disk that hangs keeps no process that has nothing left to do.
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    outcome
}
