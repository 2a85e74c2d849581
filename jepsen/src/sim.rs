//! A seeded simulation of the pure core.
//!
//! Each seed has two phases: first commands and faults at random, with the invariants of DESIGN 6 checked after every
//! entry and, from outside, that no task ever has two live processes (I6). Then the faults end, and every run must end too
//! (I15). The leader here is perfect in what it sees and free in when it acts; its own decision logic, a network and
//! clocks join in a later issue.

mod world;

use std::fmt;
use std::ops::AddAssign;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use world::World;

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
    /// Whether each kind of thing happened at all.
    pub(crate) fn is_enough(self) -> bool {
        self.runs > 0 && self.attempts > 0 && self.lost > 0 && self.leaders > 0 && self.retired > 0
    }
}

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

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, refused, runs, attempts, lost, leaders, retired } = self;
        write!(
            f,
            "entries   {entries}, of them {refused} refused\nruns      {runs}, of them {retired} in history\n"
        )?;
        write!(f, "attempts  {attempts}, of them {lost} lost\nleaders   {leaders}")
    }
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

    #[test]
    fn nothing_breaks_under_faults_and_everything_ends_without() {
        let mut total = Counts::default();
        for seed in 1..=24 {
            match run_seed(seed) {
                Ok(counts) => total += counts,
                Err(fault) => panic!("{fault}\nrepeat it with: matins-jepsen sim --from {seed} --seeds 1"),
            }
        }
        assert!(total.is_enough(), "{total}");
    }

    #[test]
    fn a_seed_tells_the_same_story_twice() {
        let story = |seed| format!("{:?}", run_seed(seed).map(|counts| counts.to_string()));
        assert_eq!(story(7), story(7));
    }
}
