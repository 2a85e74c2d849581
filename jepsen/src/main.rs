//! Proof of the promises of Matins: simulators, faults, checkers.
//!
//! So far there is `sim`, a seeded simulation of the pure core: one state, executors that die, are cut off and come
//! back, leaders that change. Start reading at [`sim::run_seed`].

mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Checks the promises of Matins.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Simulate the pure core under faults, then without: first nothing may break, then everything must end
    Sim {
        /// How many seeds
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first one
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a report is what this program is for")]
fn main() -> ExitCode {
    let Verb::Sim { seeds, from } = Arguments::parse().verb;
    let mut total = sim::Counts::default();
    for seed in from..from.saturating_add(seeds) {
        match sim::run_seed(seed) {
            Ok(counts) => total += counts,
            Err(fault) => {
                eprintln!("seed {seed}: {fault}\nrepeat it with: matins-jepsen sim --from {seed} --seeds 1");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("seeds     {seeds}\n{total}");
    if total.is_enough() {
        return ExitCode::SUCCESS;
    }
    eprintln!("too little happened for this to say anything: give more seeds");
    ExitCode::FAILURE
}
