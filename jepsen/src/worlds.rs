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
mod ticks;

use std::sync::Arc;

use cluster::Cluster;
use search::{Bounds, Found, Search, World};
use ticks::Ticks;

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
        let about = About { name: shape.name, what: shape.what, share: shape.share };
        states += arguments.look_at(about, || Cluster::founded(Arc::new(shape)), &mut report);
    }
    for (about, budget) in shapes::of_ticks() {
        states += arguments.look_at(about, || Ticks::founded(budget), &mut report);
    }
    report.needs("states in all", states, STATES_MIN.min(arguments.states));
    report
}

/// What a world is, for people, and the share of all states that it may have, in hundredths.
#[derive(Clone, Copy, Debug)]
struct About {
    name: &'static str,
    what: &'static str,
    share: u64,
}

impl Arguments {
    /// Looks at one world, if it is asked for. Gives the number of its states.
    fn look_at<W: World>(
        &self,
        about: About,
        found: impl FnOnce() -> Result<W, String>,
        report: &mut Report,
    ) -> u64 {
        if self.only.as_deref().is_some_and(|only| only != about.name) {
            return 0;
        }
        let share = if self.only.is_some() { 100 } else { about.share };
        let ends_of_one_in = self.ends_of_one_in.max(1);
        let bounds = Bounds { states: self.states * share / 100, ends_of_one_in };
        match found() {
            Ok(first) => {
                let found = Search::new(first, bounds).run();
                tell(about, &found, report);
                found.states
            }
            Err(why) => {
                report.fail(format!("{}: {why}", about.name), about.repeat());
                0
            }
        }
    }
}

impl About {
    fn repeat(self) -> String {
        format!("matins-jepsen worlds --only {}", self.name)
    }
}

fn tell(about: About, found: &Found, report: &mut Report) {
    let About { name, what, .. } = about;
    let per_second = (found.states as f64 / found.took.as_secs_f64().max(0.001)) as u64;
    report.figure(format!("{name}: states"), found.states);
    report.figure(format!("{name}: transitions"), found.transitions);
    report.figure(format!("{name}: depth"), found.depth);
    report.figure(format!("{name}: states per second"), per_second);
    report.figure(format!("{name}: states tried to the end"), found.ends_tried);
    report.figure(format!("{name}: states on the way to an end"), found.states_to_ends);
    let bound =
        if found.is_closed { "all its states were looked at" } else { "the bound on states was reached" };
    report.notes.push(format!("{name} ({what}): {bound}"));
    if let Some(violation) = &found.violation {
        let story = violation.story.iter().enumerate();
        let story: Vec<String> = story.map(|(at, step)| format!("\n      {}. {step}", at + 1)).collect();
        report.fail(format!("{name}: {}{}", violation.what, story.concat()), about.repeat());
    }
}
