//! Proof of the promises of Matins: simulators, faults, checkers.
//!
//! Each verb is a module that fills a [`report::Report`]; what it comes to is printed here, and the exit code is 0 only
//! if everything held and enough was exercised. Start reading at [`Verb`].

mod child;
mod cluster;
mod crash;
mod mutations;
mod report;
mod sim;
mod soak;
mod worlds;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use matins_core::mutation::{Mutation, plant};

use report::{Report, Verdict};

/// Checks the promises of Matins.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// Write the report to this file, as JSON
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Plant a deliberate bug first, which the verb must then catch
    #[arg(long, global = true)]
    plant: Option<Mutation>,
}

#[derive(Subcommand)]
enum Verb {
    /// Simulate the pure core under faults, then without: first nothing may break, then everything must end
    Sim(sim::Arguments),
    /// Plant deliberate bugs, one at a time, and show that each is caught
    Mutations(mutations::Arguments),
    /// Run everything over and over with new seeds until the time is up
    Soak(soak::Arguments),
    /// Look at every state that small worlds can come to
    Worlds(worlds::Arguments),
    /// Run workloads on a cluster of real processes under real faults, and check what came of them
    Cluster(cluster::Arguments),
    /// One workload against a cluster that is already there
    #[command(hide = true)]
    Trial(cluster::trial::Arguments),
    /// What the tasks of workloads do
    #[command(hide = true)]
    Task(cluster::workload::task::Arguments),
    /// Cut the power at every write of a node's store, then look what is left
    Crash(crash::Arguments),
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a report is what this program is for")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(mutation) = arguments.plant {
        eprintln!("planted: {mutation}. {}", mutation.what());
        plant(mutation);
    }
    let began = Instant::now();
    let mut report: Report = match arguments.verb {
        Verb::Sim(arguments) => sim::run(&arguments),
        Verb::Mutations(arguments) => mutations::run(&arguments),
        Verb::Soak(arguments) => soak::run(&arguments),
        Verb::Worlds(arguments) => worlds::run(&arguments),
        Verb::Cluster(arguments) => cluster::run(&arguments),
        Verb::Trial(arguments) => cluster::trial::run(&arguments),
        Verb::Task(arguments) => return cluster::workload::task::run(&arguments),
        Verb::Crash(arguments) => crash::run(&arguments),
    };
    report.took(began.elapsed());
    print!("{report}");
    if let Some(file) = arguments.json
        && let Err(error) = report.write(&file)
    {
        eprintln!("cannot write the report to {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    match report.verdict() {
        Verdict::Held => ExitCode::SUCCESS,
        Verdict::Broken | Verdict::Invalid => ExitCode::FAILURE,
    }
}
