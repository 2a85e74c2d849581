//! The power is cut at every write of a node's store, on a disk that forgets what was not synced (PROTOCOL 6).
//!
//! A workload runs once over a disk that keeps a tape; then the power is cut after every change of the tape, with every
//! subset of what was not synced, and with writes torn in the middle. Whatever a cut leaves is opened as a node opens it,
//! and compared with what had been acknowledged. Start reading at [`run`]; `tape` is the disk, `cuts` says where and how
//! the power is cut, `contents` what must be there, `store` and `faults` what is done.

mod contents;
mod cuts;
mod faults;
mod leader;
mod node;
mod points;
mod power;
mod store;
mod tape;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use self::cuts::Kind;
use self::faults::Faults;
use self::points::{Counts, Story};
use self::tape::TapeDisk;
use crate::report::Report;

/// So many points are needed for the report to say anything.
const POINTS_MIN: u64 = 50_000;

/// What `crash` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this workload; all of them if it is not given
    #[arg(long)]
    workload: Option<Workload>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds of the workload on the store
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Only this point of the seed
    #[arg(long, requires = "workload")]
    point: Option<u64>,
    /// Only this: so many power cuts under ext4 on a loop device, where the machine allows it
    #[arg(long, conflicts_with = "workload")]
    power_cuts: Option<u64>,
    /// Be the writer under whom the power is cut
    #[arg(long, hide = true)]
    write_in: Option<PathBuf>,
}

/// What is done to a disk before its power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Log, vote, marker, snapshots and blobs, by themselves
    Store,
    /// A whole node that follows a leader
    Node,
    /// The same, and every sync in turn fails
    Syncs,
    /// The same, and every write in turn finds the disk full
    Full,
    /// The same, and afterwards a bit of each file is damaged
    Flips,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Node => "node",
            Self::Syncs => "syncs",
            Self::Full => "full",
            Self::Flips => "flips",
        }
    }
}

/// Cuts the power everywhere, up to the first promise that breaks.
pub(crate) fn run(arguments: &Arguments) -> Report {
    if let Some(root) = &arguments.write_in {
        return write(root, arguments.seed);
    }
    if let Some(wanted) = arguments.power_cuts {
        return cut_power(wanted, arguments.seed);
    }
    let mut report = Report::new("crash");
    if cfg!(feature = "whole-node") {
        let why = "this build simulates whole nodes and their disks: `cargo build --release -p matins-jepsen` makes the other";
        report.invalid.push(why.into());
        return report;
    }
    let (mut counts, mut faults) = (Counts::default(), Faults::default());
    let all = [Workload::Syncs, Workload::Full, Workload::Flips, Workload::Node, Workload::Store];
    for workload in all.into_iter().filter(|one| arguments.workload.is_none_or(|only| only == *one)) {
        let seeds = match workload {
            Workload::Store if arguments.point.is_none() => arguments.seeds,
            Workload::Store | Workload::Node | Workload::Syncs | Workload::Full | Workload::Flips => 1,
        };
        for seed in arguments.seed..arguments.seed + seeds {
            let done = run_seed(workload, seed, arguments.point, (&mut counts, &mut faults));
            if let Err((point, what)) = done {
                let repeat = format!(
                    "matins-jepsen crash --workload {} --seed {seed} --point {point}",
                    workload.name()
                );
                report.fail(what, repeat);
                tell(&mut report, arguments, &counts, faults);
                return report;
            }
        }
    }
    tell(&mut report, arguments, &counts, faults);
    report
}

/// One seed of a workload; the point and what broke there.
fn run_seed(
    workload: Workload,
    seed: u64,
    only: Option<u64>,
    (counts, faults): (&mut Counts, &mut Faults),
) -> Result<(), (u64, String)> {
    match workload {
        Workload::Store => {
            let disk = TapeDisk::default();
            let work = store::run(&disk, seed).map_err(|error| (0, error))?;
            cut(&Story { tape: disk.tape(), notes: work.notes, seed }, only, counts)
        }
        Workload::Node => cut(&node::run(seed).map_err(|error| (0, error))?, only, counts),
        Workload::Syncs => faults::syncs_fail(seed, only, faults),
        Workload::Full => faults::disk_full(seed, only, faults),
        Workload::Flips => faults::flip(seed, only, faults),
    }
}

/// Power cuts under a real file system. Where there can be none the report says so, and nothing has been shown.
fn cut_power(wanted: u64, seed: u64) -> Report {
    let mut report = Report::new("crash power cuts");
    let mut cuts = power::Cuts::default();
    let is_skipped = match power::cut(wanted, seed, &mut cuts) {
        Ok(()) => false,
        Err(power::Ended::Skipped(why)) => {
            report.notes.push(format!("skipped: no power cuts on this machine: {why}"));
            true
        }
        Err(power::Ended::Broken(seed, what)) => {
            report.fail(what, format!("matins-jepsen crash --power-cuts {wanted} --seed {seed}"));
            false
        }
    };
    report.needs("power cuts under ext4", cuts.done, if is_skipped { 0 } else { wanted });
    report.figure("acknowledged things that were there", cuts.checked);
    report.figure("copies not used, since ext4 wrote meanwhile", cuts.thrown_away);
    report
}

/// The other side of it; its standard output is a pipe, and its report goes nowhere.
fn write(root: &Path, seed: u64) -> Report {
    let mut report = Report::new("crash writer");
    if let Err(error) = power::write(root, seed) {
        report.invalid.push(error);
    }
    report
}

fn cut(story: &Story, only: Option<u64>, counts: &mut Counts) -> Result<(), (u64, String)> {
    let (found, broken) = story.cut_everywhere(only);
    counts.add(&found);
    broken.map_or(Ok(()), |broken| Err((broken.point, broken.what)))
}

fn tell(report: &mut Report, arguments: &Arguments, counts: &Counts, faults: Faults) {
    // A part that was asked for alone says something of that part.
    let is_whole = arguments.workload.is_none();
    let least = |value: u64| if is_whole { value } else { 0 };
    report.needs("crash points", counts.points(), least(POINTS_MIN));
    let of = |kind| counts.kinds.get(&kind).copied().unwrap_or(0);
    report.figure("of these, everything was synced", of(Kind::Synced));
    report.needs("of these, a subset of unsynced changes", of(Kind::Subset), least(1_000));
    report.needs("of these, a torn write", of(Kind::Torn), least(1_000));
    report.needs("of these, a second crash while opening", counts.again, least(1_000));
    report.needs("syncs that failed", faults.syncs, least(100));
    report.needs("writes that found the disk full", faults.full, least(100));
    report.needs("damaged bits", faults.flips, least(1_000));
    report.figure("of these, an error named the file", faults.flips_found);
    report.figure("of these, cut as a torn last append", faults.flips_cut);
    report.figure("acknowledged things that were there", counts.checked + faults.checked);
}

#[cfg(test)]
mod tests;
