//! Proof of the promises of Matins: simulators, faults, checkers.
//!
//! Each verb is a module that fills a [`report::Report`]; what it comes to is printed here, and the exit code is 0 only
//! if everything held and enough was exercised. Start reading at [`Verb`].

mod report;
mod sim;
mod whole;

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
    /// Simulate whole nodes with their network and disks under faults, then without, in a build of its own
    Whole(whole::Arguments),
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
        Verb::Whole(arguments) => whole::run(&arguments),
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
