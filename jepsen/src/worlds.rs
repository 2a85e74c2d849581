//! Small worlds, exhaustively: every interleaving of messages, losses, time, crashes and elections within a budget.
//!
//! The pieces are those of production: `apply` on a real `State`, the leader's machine, the executor's and the
//! supervisor's. A search looks at every state that they can come to, the nearest first, and checks the invariants
//! of DESIGN 6 in each; from a share of them, chosen by hash, it is also tried whether every run ends once the faults are
//! over (I15). [`shapes`] has the worlds; start reading at [`run`], then [`search::Search`].

mod cluster;
mod fingerprint;
mod host;
mod search;
mod shapes;

use std::sync::Arc;

use cluster::Cluster;
use search::{Bounds, Found, Search};
use shapes::Shape;

use crate::report::Report;

/// What `worlds` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many states to look at in all
    #[arg(long, default_value_t = 1_500_000)]
    states: u64,
    /// Look at this world alone
    #[arg(long)]
    only: Option<String>,
    /// Try from one state in so many whether everything ends
    #[arg(long, default_value_t = 16)]
    ends_of_one_in: u64,
}

/// Fewer states than this say little.
const STATES_MIN: u64 = 1_000_000;

/// Looks at one world after the other.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("worlds");
    let mut states = 0;
    for shape in shapes::all() {
        if arguments.only.as_deref().is_some_and(|only| only != shape.name) {
            continue;
        }
        let share = if arguments.only.is_some() { 100 } else { shape.share };
        let bounds =
            Bounds { states: arguments.states * share / 100, ends_of_one_in: arguments.ends_of_one_in.max(1) };
        states += look_at(shape, bounds, &mut report);
    }
    report.needs("states in all", states, STATES_MIN.min(arguments.states));
    report
}

fn look_at(shape: Shape, bounds: Bounds, report: &mut Report) -> u64 {
    let (name, what) = (shape.name, shape.what);
    let first = match Cluster::founded(Arc::new(shape)) {
        Ok(first) => first,
        Err(why) => {
            report.fail(format!("{name}: {why}"), format!("matins-jepsen worlds --only {name}"));
            return 0;
        }
    };
    let found = Search::new(first, bounds).run();
    tell((name, what), &found, report);
    found.states
}

fn tell((name, what): (&str, &str), found: &Found, report: &mut Report) {
    report.figure(format!("{name}: states"), found.states);
    report.figure(format!("{name}: transitions"), found.transitions);
    report.figure(format!("{name}: depth"), found.depth);
    report.figure(format!("{name}: states per second"), (found.states as f64 / found.took.as_secs_f64()) as u64);
    report.figure(format!("{name}: tried to the end"), found.ends_tried);
    report.figure(format!("{name}: states on the way there"), found.states_to_ends);
    let closed = if found.is_closed { "every state was looked at" } else { "more states lie beyond the bound" };
    report.notes.push(format!("{name} ({what}): {closed}"));
    if let Some(violation) = &found.violation {
        let story: Vec<String> =
            violation.story.iter().enumerate().map(|(at, step)| format!("      {}. {step}", at + 1)).collect();
        let what = format!("{name}: {}\n{}", violation.what, story.join("\n"));
        report.fail(what, format!("matins-jepsen worlds --only {name}"));
    }
}
