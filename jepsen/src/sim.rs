//! A seeded simulation of the pure core.
//!
//! Each seed has two phases: first commands and faults at random, with the invariants of DESIGN 6 checked after every
//! entry and, from outside, that no task ever has two live processes (I6). Then the faults end, and every run must end too
//! (I15). The leader here is perfect in what it sees and free in when it acts; its own decision logic, a network and
//! clocks join in a later issue.

mod world;

use std::ops::AddAssign;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use world::World;

use crate::report::Report;

/// What `sim` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// Entries under faults.
const STEPS: u32 = 600;
/// Entries within which everything must have ended once the faults are over.
const STEPS_TO_END: u32 = 20_000;

/// What happened, so that a run in which nothing did is told apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) refused: u64,
    pub(crate) runs: u64,
    pub(crate) attempts: u64,
    pub(crate) lost: u64,
    pub(crate) leaders: u64,
    pub(crate) retired: u64,
}

impl Counts {
    /// Writes what was exercised, and how much of each had to be.
    fn tell(self, report: &mut Report) {
        report.figure("entries", self.entries);
        report.figure("refused", self.refused);
        report.needs("runs", self.runs, 1);
        report.needs("runs in history", self.retired, 1);
        report.needs("attempts", self.attempts, 1);
        report.needs("attempts lost", self.lost, 1);
        report.needs("leaders", self.leaders, 1);
    }
}

impl Counts {}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.refused += other.refused;
        self.runs += other.runs;
        self.attempts += other.attempts;
        self.lost += other.lost;
        self.leaders += other.leaders;
        self.retired += other.retired;
    }
}

/// Runs seed after seed, up to the first that breaks something.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("sim");
    let mut total = Counts::default();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        match run_seed(seed) {
            Ok(counts) => total += counts,
            Err(fault) => {
                let repeat = format!("matins-jepsen sim --from {seed} --seeds 1");
                report.fail(format!("seed {seed}: {fault}"), repeat);
                break;
            }
        }
    }
    total.tell(&mut report);
    report
}

/// One seed. The same seed gives the same story, entry by entry.
pub(crate) fn run_seed(seed: u64) -> Result<Counts, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::founded()?;
    // Swarm testing: which faults there are at all, and how many, is drawn for each seed.
    let faults = random.random_range(0..40);
    for _ in 0..STEPS {
        if random.random_range(0..100) < faults {
            world.fault(&mut random)?;
        } else {
            world.work(&mut random)?;
        }
    }
    world.heal()?;
    for _ in 0..STEPS_TO_END {
        if world.is_done() {
            return Ok(world.counts());
        }
        world.end(&mut random)?;
    }
    Err(format!(
        "I15: {STEPS_TO_END} entries after the last fault there are runs that have not ended: {}",
        world.open()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    #[test]
    fn nothing_breaks_under_faults_and_everything_ends_without() {
        let report = run(&Arguments { seeds: 24, from: 1 });
        assert_eq!(report.verdict(), Verdict::Held, "{report}");
    }

    #[test]
    fn a_seed_tells_the_same_story_twice() {
        let story = |seed| format!("{:?}", run_seed(seed).map(|counts| format!("{counts:?}")));
        assert_eq!(story(7), story(7));
    }
}
