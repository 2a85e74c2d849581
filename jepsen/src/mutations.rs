//! Deliberate bugs, each planted in a process of its own: the proof must catch every one.
//!
//! Each bug is hunted with the commands below, the cheapest first, until one calls a promise broken. The same commands
//! run without a bug first and must hold, or "caught" would say nothing. Whether a bug is caught is the figure that proves
//! the tests; who adds a rule adds the bug that breaks it. The bugs themselves stand in `matins_core::mutation`.
//!
//! Start reading at [`hunts`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use matins_core::mutation::Mutation;

use crate::child;
use crate::report::{Report, Verdict};

/// How long one hunt may take.
const HUNT_MAX: Duration = Duration::from_secs(240);

/// What `mutations` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these, with commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<Mutation>,
    /// Name them all with what each does, and run nothing
    #[arg(long)]
    list: bool,
}

/// The arguments of a command that may catch a bug.
type Hunt = &'static [&'static str];

/// The simulation of the pure core.
const SIM: Hunt = &["sim", "--seeds", "60"];
/// The search through small worlds.
const WORLDS: Hunt = &["worlds", "--states", "300000"];
/// The same in worlds of which a bug needs one, as far as that goes.
const SESSIONS: Hunt = &["worlds", "--only", "sessions"];
const WIPES: Hunt = &["worlds", "--only", "wipes"];
/// The crash points of the store.
const CRASH: Hunt = &["crash", "--seeds", "1"];
/// The simulation of whole nodes.
const WHOLE: Hunt = &["whole", "--seeds", "6"];

/// What hunts a bug, in this order.
fn hunts(mutation: Mutation) -> &'static [Hunt] {
    match mutation {
        Mutation::LeaseAnchoredAtNow
        | Mutation::RenewalCountedFromAnswer
        | Mutation::MarkMovedWithoutDecisions
        | Mutation::FireMarkNotChecked
        | Mutation::IdempotencyInTheHandler
        | Mutation::PoolSlotFreedTwice
        | Mutation::TimerLostAtLeaderChange
        | Mutation::WallClockInEntries
        | Mutation::UnorderedMapInApply
        | Mutation::StoppingFreesItsSlot
        | Mutation::SessionRevivedAfterExpiry
        | Mutation::SilenceCountedFromOldLeader
        | Mutation::ClockRateIgnored
        | Mutation::LeadershipNotChecked
        | Mutation::DecideWithStaleInputs
        | Mutation::PauseKeepsVersion
        | Mutation::ChangeWhileDue
        | Mutation::FailoverMissesTicks
        | Mutation::CordonedForEver => &[SIM, WORLDS],
        Mutation::SessionNumberNotChecked
        | Mutation::StartBeforeSessionIsOpen
        | Mutation::DeadlineForgottenAtNewSession
        | Mutation::StopOfUnheldForgotten
        | Mutation::ReportBeforeGroupIsGone
        | Mutation::ChangedIdIsProofOfDeath => &[WORLDS, SIM],
        Mutation::FenceNotChecked => &[SIM, SESSIONS],
        Mutation::DeadlineBeforeStops => &[WIPES],
        Mutation::LogAcknowledgedBeforeSync
        | Mutation::DirectoryNotSynced
        | Mutation::TornTailKept
        | Mutation::VoteWrittenInPlace
        | Mutation::SnapshotOffByOne
        | Mutation::SnapshotBeforeItsBlocks
        | Mutation::PurgeBeforeSnapshotIsDurable
        | Mutation::SyncErrorIgnored
        | Mutation::RestartedLeaderSkipsElection => &[CRASH, WHOLE],
        Mutation::AnsweredBeforeApplied | Mutation::ReadWithoutReadIndex => &[WHOLE],
    }
}

/// What became of one bug.
enum Fate {
    Caught { by: String, promise: String, seconds: f64 },
    Missed(Vec<String>),
}

/// Runs the hunts.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("mutations");
    if arguments.list {
        report.notes.extend(Mutation::ALL.iter().map(|one| format!("{one}: {}", one.what())));
        return report;
    }
    let wanted: Vec<Mutation> =
        if arguments.only.is_empty() { Mutation::ALL.to_vec() } else { arguments.only.clone() };
    let plan: BTreeMap<Mutation, Vec<Hunt>> =
        wanted.into_iter().map(|mutation| (mutation, hunts(mutation).to_vec())).collect();
    if !controls_hold(&plan, &mut report) {
        return report;
    }
    let fates = hunt_all(&plan);
    tell(&fates, &mut report);
    report
}

/// Without a bug the same commands must hold.
fn controls_hold(plan: &BTreeMap<Mutation, Vec<Hunt>>, report: &mut Report) -> bool {
    let hunts: BTreeSet<Hunt> = plan.values().flatten().copied().collect();
    for hunt in hunts {
        match child::run(&arguments_of(hunt, None), HUNT_MAX) {
            Ok(found) if found.verdict() == Verdict::Held => {}
            Ok(found) => {
                let command = hunt.join(" ");
                report.invalid.push(format!("without a bug, `{command}` does not hold: {found}"));
            }
            Err(error) => {
                report.invalid.push(format!("without a bug, `{}`: {error}", hunt.join(" ")));
            }
        }
    }
    report.invalid.is_empty()
}

/// Hunts each bug, as many at a time as there are cores.
fn hunt_all(plan: &BTreeMap<Mutation, Vec<Hunt>>) -> BTreeMap<Mutation, Fate> {
    let waiting = Mutex::new(plan.iter());
    let fates = Mutex::new(BTreeMap::new());
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("a hunt does not panic").next();
                    let Some((mutation, hunts)) = next else { return };
                    let fate = hunt_one(*mutation, hunts);
                    fates.lock().expect("a hunt does not panic").insert(*mutation, fate);
                }
            });
        }
    });
    fates.into_inner().expect("a hunt does not panic")
}

fn hunt_one(mutation: Mutation, hunts: &[Hunt]) -> Fate {
    let began = Instant::now();
    let mut misses = Vec::new();
    for hunt in hunts {
        let why = match child::run(&arguments_of(hunt, Some(mutation)), HUNT_MAX) {
            Ok(found) if found.verdict() == Verdict::Broken => {
                return Fate::Caught {
                    by: hunt.join(" "),
                    promise: found.failures.first().map(|failure| failure.what.clone()).unwrap_or_default(),
                    seconds: began.elapsed().as_secs_f64(),
                };
            }
            Ok(found) if found.verdict() == Verdict::Held => "it held".to_owned(),
            Ok(found) => format!("it said nothing: {}", found.invalid.join(", ")),
            Err(error) => error.to_string(),
        };
        misses.push(format!("`{}`: {why}", hunt.join(" ")));
    }
    Fate::Missed(misses)
}

fn arguments_of(hunt: Hunt, planted: Option<Mutation>) -> Vec<String> {
    let plant = planted.iter().flat_map(|mutation| ["--plant", mutation.name()]);
    hunt.iter().copied().chain(plant).map(str::to_owned).collect()
}

fn tell(fates: &BTreeMap<Mutation, Fate>, report: &mut Report) {
    let mut caught = 0;
    for (mutation, fate) in fates {
        match fate {
            Fate::Caught { by, promise, seconds } => {
                caught += 1;
                let promise = promise.lines().next().unwrap_or_default();
                report.notes.push(format!("{mutation}: caught in {seconds:.1} s by `{by}`: {promise}"));
            }
            Fate::Missed(misses) => {
                let repeat = format!("matins-jepsen mutations --only {mutation}");
                report.fail(
                    format!("{mutation} is not caught. {} {}", mutation.what(), misses.join("; ")),
                    repeat,
                );
            }
        }
    }
    report.needs("bugs planted", fates.len() as u64, 1);
    report.needs("bugs caught", caught, fates.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_that_is_missed_breaks_the_report_and_names_the_command() {
        let mut report = Report::new("mutations");
        let caught = Fate::Caught { by: "sim".to_owned(), promise: "I6".to_owned(), seconds: 1.0 };
        let missed = Fate::Missed(vec!["`sim`: it held".to_owned()]);
        tell(
            &BTreeMap::from([(Mutation::FenceNotChecked, caught), (Mutation::ClockRateIgnored, missed)]),
            &mut report,
        );
        assert_eq!(report.verdict(), Verdict::Broken);
        assert_eq!(report.failures[0].repeat, "matins-jepsen mutations --only clock-rate-ignored");
    }

    #[test]
    fn every_bug_has_a_hunt_and_a_name_of_its_own() {
        let names: BTreeSet<_> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        assert_eq!(names.len(), Mutation::ALL.len());
        for mutation in Mutation::ALL {
            assert!(!hunts(*mutation).is_empty());
            assert_eq!(mutation.name().parse(), Ok(*mutation));
        }
    }
}
