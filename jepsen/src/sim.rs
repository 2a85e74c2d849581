//! A seeded simulation of a whole cluster without a runtime.
//!
//! The real decisions are made by the real code: `apply`, the leader, executors, supervisors, sessions and leader time.
//! Around them everything is simulated: true time, clocks that differ from it, consensus, network, processes, machines,
//! people. Each seed has two phases: first faults, under which nothing may break; then a quorum is well for good, and
//! everything must end. Start reading at [`run`], then `world`.

mod agenda;
mod almanac;
mod cases;
mod ceiling;
mod clients;
mod clocks;
mod consensus;
mod counts;
mod ending;
mod faults;
mod happening;
mod hosts;
mod knobs;
mod leading;
mod ledger;
mod network;
mod outside;
mod shrink;
mod stories;
mod supervisors;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use matins_core::mutation::now_planted;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use counts::Counts;
use happening::Happening;
use knobs::Knobs;
use world::World;

use crate::child::plant_flag;
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
    /// Seed after seed until so many hours of a cluster were simulated
    #[arg(long)]
    hours: Option<u64>,
    /// Threads; all there are by default
    #[arg(long)]
    threads: Option<usize>,
}

/// What one seed came to.
pub(crate) struct Told {
    counts: Counts,
    broken: Option<String>,
}

/// Runs seed after seed on all cores, up to the first that breaks something.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("sim");
    for (name, case) in cases::CASES {
        if let Err(broken) = case() {
            report.fail(format!("{name}: {broken}"), format!("matins-jepsen sim --seeds 0{}", plant_flag()));
        }
    }
    if !report.failures.is_empty() {
        return report;
    }
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let (next, stop) = (AtomicU64::new(arguments.from), AtomicBool::new(false));
    let end =
        if arguments.hours.is_some() { u64::MAX } else { arguments.from.saturating_add(arguments.seeds) };
    let seconds_max = arguments.hours.map_or(u64::MAX, |hours| hours.saturating_mul(3_600));
    let total = Mutex::new((Counts::default(), None::<(u64, String)>));
    std::thread::scope(|scope| {
        for _ in 0..threads.unwrap_or(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let told = run_seed(seed);
                    let mut total = total.lock().expect("no thread panics while it holds the lock");
                    total.0 += told.counts;
                    if let Some(broken) = told.broken {
                        let is_first = total.1.as_ref().is_none_or(|(first, _)| seed < *first);
                        if is_first {
                            total.1 = Some((seed, broken));
                        }
                        stop.store(true, Ordering::Relaxed);
                    }
                    if total.0.cluster_seconds >= seconds_max {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (counts, broken) = total.into_inner().expect("all threads have ended");
    counts.tell(&mut report);
    if let Some((seed, broken)) = broken {
        let repeat = format!("matins-jepsen sim --from {seed} --seeds 1{}", plant_flag());
        report.fail(format!("seed {seed}: {broken}"), repeat);
        report.notes.push(format!("seed {seed} drew {:?}", drawn(seed).0));
        // Of a bug that was planted it is enough to know that it was caught.
        if now_planted().is_none() {
            report.notes.extend(shrink::shortest(seed, &broken));
        }
    }
    report
}

/// What a seed draws before anything happens.
fn drawn(seed: u64) -> (Knobs, Vec<Happening>) {
    let mut random = StdRng::seed_from_u64(seed);
    let knobs = Knobs::draw(&mut random);
    let happenings = happening::draw(&knobs, &mut random);
    (knobs, happenings)
}

/// One seed. The same seed tells the same story.
pub(crate) fn run_seed(seed: u64) -> Told {
    let (knobs, happenings) = drawn(seed);
    run_with(seed, knobs, happenings)
}

fn run_with(seed: u64, knobs: Knobs, happenings: Vec<Happening>) -> Told {
    let mut world = World::new(seed, knobs, happenings);
    let broken = world.run().err();
    world.tell_counts();
    Told { counts: world.counts, broken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    #[test]
    fn nothing_breaks_under_faults_and_everything_ends_without() {
        let report = run(&Arguments { seeds: 20, from: 1, hours: None, threads: None });
        assert_ne!(report.verdict(), Verdict::Broken, "{report}");
    }

    /// In this one the first leader comes after the first request has expired.
    #[test]
    fn workflows_are_registered_after_a_long_outage_at_the_beginning() {
        let report = run(&Arguments { seeds: 1, from: 1_000_033, hours: None, threads: Some(1) });
        assert_ne!(report.verdict(), Verdict::Broken, "{report}");
    }

    #[test]
    fn a_seed_tells_the_same_story_twice() {
        let story = |seed| {
            let told = run_seed(seed);
            format!("{:?} {:?}", told.counts, told.broken)
        };
        assert_eq!(story(7), story(7));
    }
}
