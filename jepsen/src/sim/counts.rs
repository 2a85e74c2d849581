//! What was exercised, so that a simulation in which nothing happened is told apart.

use std::ops::AddAssign;

use super::happening::{KIND_NAMES, KINDS};
use crate::report::Report;

/// Figures of one seed, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) seeds: u64,
    pub(super) cluster_seconds: u64,
    pub(super) events: u64,
    pub(super) entries: u64,
    pub(super) refused: u64,
    pub(super) leaderships: u64,
    pub(super) runs: u64,
    pub(super) attempts: u64,
    pub(super) lost: u64,
    pub(super) processes: u64,
    pub(super) ticks: u64,
    pub(super) skipped: u64,
    pub(super) missed: u64,
    pub(super) hashes: u64,
    pub(super) retired: u64,
    pub(super) commands: u64,
    pub(super) repeats: u64,
    pub(super) maybe: u64,
    pub(super) told_apart: u64,
    pub(super) longest_end_s: u64,
    pub(super) busy: u64,
    pub(super) faults: [u64; KINDS],
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.cluster_seconds += other.cluster_seconds;
        self.events += other.events;
        self.entries += other.entries;
        self.refused += other.refused;
        self.leaderships += other.leaderships;
        self.runs += other.runs;
        self.attempts += other.attempts;
        self.lost += other.lost;
        self.processes += other.processes;
        self.ticks += other.ticks;
        self.skipped += other.skipped;
        self.missed += other.missed;
        self.hashes += other.hashes;
        self.retired += other.retired;
        self.commands += other.commands;
        self.repeats += other.repeats;
        self.maybe += other.maybe;
        self.told_apart += other.told_apart;
        self.busy += other.busy;
        self.longest_end_s = self.longest_end_s.max(other.longest_end_s);
        for (mine, others) in self.faults.iter_mut().zip(other.faults) {
            *mine += others;
        }
    }
}

impl Counts {
    /// Writes what was exercised. Of what matters there must be enough, in proportion to the seeds.
    pub(super) fn tell(&self, report: &mut Report) {
        let many = self.seeds / 20;
        report.figure("seeds", self.seeds);
        report.needs("cluster-hours", self.cluster_seconds / 3_600, many);
        report.figure("events", self.events);
        report.needs("entries", self.entries, self.seeds);
        report.figure("commands of leaders refused", self.refused);
        report.needs("leaderships", self.leaderships, self.seeds);
        report.needs("runs", self.runs, self.seeds);
        report.needs("attempts", self.attempts, self.seeds);
        report.needs("attempts lost", self.lost, many);
        report.figure("processes", self.processes);
        report.needs("ticks checked", self.ticks, self.seeds);
        report.needs("ticks skipped", self.skipped, many);
        report.needs("ticks missed by an outage", self.missed, many);
        report.needs("state hashes compared", self.hashes, self.seeds / 2);
        report.needs("runs in history", self.retired, many);
        report.needs("commands of clients", self.commands, self.seeds);
        report.needs("commands sent again", self.repeats, many);
        report.figure("commands without an answer", self.maybe);
        report.figure("overlaps told apart (rho exceeded, suspended, supervisor killed)", self.told_apart);
        report.figure("longest time to the end of all work (s)", self.longest_end_s);
        report.figure("seeds with more work than their executors can do", self.busy);
        for (name, count) in KIND_NAMES.iter().zip(self.faults) {
            report.needs(format!("fault: {name}"), count, many.min(20) / 2);
        }
    }
}
