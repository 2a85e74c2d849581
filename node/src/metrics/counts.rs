//! What is counted as entries are applied: ticks, runs, attempts, leases and commands, on the node that leads.
//!
//! Each count is the difference between the states before and after an entry, at the places that the effects name. So nothing
//! in `apply` knows that it is counted. Start reading at [`Counts::entry`].

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use matins_core::id::{Fence, RunId, ScheduleId, TaskId};
use matins_core::state::{
    AttemptOutcome, AttemptRow, AttemptState, LostReason, RunOrigin, RunRow, SkipReason, State, TaskState,
};
use matins_core::time::Timestamp;
use matins_core::{Answer, Effect, Refusal, Stale};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::registrar::Registrar;

/// One label.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;

/// Skips, in the order of `DecisionCounts::skips`, by words that make good labels.
const SKIPS: [(SkipReason, &str); SkipReason::COUNT] = [
    (SkipReason::Running, "running"),
    (SkipReason::Paused, "paused"),
    (SkipReason::CatchupPolicy, "catchup_policy"),
    (SkipReason::CatchupWindow, "catchup_window"),
    (SkipReason::CatchupLimit, "catchup_limit"),
    (SkipReason::Changed, "changed"),
    (SkipReason::Quarantine, "quarantine"),
];

/// What is counted. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Counts {
    tick_lateness: Histogram,
    ticks_skipped: Counters,
    runs_started: Counters,
    runs_finished: Counters,
    run_duration: Histogram,
    task_queued: Histogram,
    attempts_finished: Counters,
    lease_expiries: Counter,
    stale_fences: Counter,
    commands: Counters,
    leader_changes: Counter,
    without_leader: Counter<f64, AtomicU64>,
    entries_missed: Counter,
    spans_dropped: Counter,
}

/// An entry, with what it did.
pub(crate) struct Change<'a> {
    pub(crate) before: &'a State,
    pub(crate) after: &'a State,
    pub(crate) answers: &'a [Result<Answer, Refusal>],
    pub(crate) effects: &'a [Effect],
}

impl Change<'_> {
    /// The attempt that an effect says has ended under this fence, as it is afterwards.
    pub(crate) fn ended_attempt(&self, fence: Fence) -> Option<((TaskId, u32), &AttemptRow)> {
        let key = self.before.live.get(&fence)?;
        Some((*key, self.after.attempts.get(key)?))
    }

    /// A run, if it ended by this. It may have been made and ended in one entry.
    pub(crate) fn ended_run(&self, id: RunId) -> Option<&RunRow> {
        let was_active = self.before.runs.get(&id).is_none_or(RunRow::is_active);
        self.after.runs.get(&id).filter(|row| was_active && !row.is_active())
    }
}

impl Counts {
    pub(crate) fn register(registrar: &mut Registrar) -> Self {
        let lateness =
            [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0];
        let long = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0];
        let counts = Self {
            tick_lateness: Histogram::new(lateness),
            ticks_skipped: Family::default(),
            runs_started: Family::default(),
            runs_finished: Family::default(),
            run_duration: Histogram::new(long),
            task_queued: Histogram::new(lateness),
            attempts_finished: Family::default(),
            lease_expiries: Counter::default(),
            stale_fences: Counter::default(),
            commands: Family::default(),
            leader_changes: Counter::default(),
            without_leader: Counter::default(),
            entries_missed: Counter::default(),
            spans_dropped: Counter::default(),
        };
        counts.name(registrar);
        counts.begin();
        counts
    }

    fn name(&self, to: &mut Registrar) {
        let it = self.clone();
        to.add(
            ("tick_lateness_seconds", &[]),
            "From the time of a tick until its run was made",
            it.tick_lateness,
        );
        to.add(("ticks_skipped", &["reason"]), "Ticks that made no run", it.ticks_skipped);
        to.add(("runs_started", &["origin"]), "Runs that were made", it.runs_started);
        to.add(("runs_finished", &["state"]), "Runs that ended", it.runs_finished);
        to.add(("run_duration_seconds", &[]), "From the beginning of a run until its end", it.run_duration);
        to.add(("task_queued_seconds", &[]), "From being ready until the lease was granted", it.task_queued);
        to.add(("attempts_finished", &["outcome"]), "Attempts that ended", it.attempts_finished);
        to.add(
            ("lease_expiries", &[]),
            "Attempts that were lost because their lease expired",
            it.lease_expiries,
        );
        to.add(
            ("stale_fences", &[]),
            "Reports under a fence that was over, which changed nothing",
            it.stale_fences,
        );
        to.add(
            ("commands", &["result"]),
            "Commands that were applied, by whether they were accepted",
            it.commands,
        );
        to.add(("leader_changes", &[]), "Changes of the leader that this node saw", it.leader_changes);
        to.add(
            ("time_without_leader_seconds", &[]),
            "Time in which this node knew of no leader",
            it.without_leader,
        );
        to.add(
            ("entries_not_counted", &[]),
            "Entries that came faster than they could be counted: the counters lack them",
            it.entries_missed,
        );
        to.add(("spans_dropped", &[]), "Spans that their receiver did not take", it.spans_dropped);
    }

    /// A series that is there from the start tells its first change: a rate over one that appears with 1 is 0.
    fn begin(&self) {
        for (_, reason) in SKIPS {
            drop(self.ticks_skipped.get_or_create(&[("reason", reason)]));
        }
        for origin in ["schedule", "manual", "submitted", "backfill", "retry"] {
            drop(self.runs_started.get_or_create(&[("origin", origin)]));
        }
        for state in ["success", "failed", "cancelled"] {
            drop(self.runs_finished.get_or_create(&[("state", state)]));
        }
        for outcome in ["success", "failed", "timed_out", "cancelled", "lost"] {
            drop(self.attempts_finished.get_or_create(&[("outcome", outcome)]));
        }
        for result in ["accepted", "refused"] {
            drop(self.commands.get_or_create(&[("result", result)]));
        }
    }

    /// An entry was applied on the leader.
    pub(crate) fn entry(&self, change: &Change<'_>) {
        for answer in change.answers {
            self.answer(answer);
        }
        let (mut runs, mut schedules) = (BTreeSet::new(), BTreeSet::new());
        for effect in change.effects {
            match effect {
                // One entry may name the same thing several times.
                Effect::Run(run) => {
                    if runs.insert(*run) {
                        self.run(change, *run);
                    }
                }
                Effect::Schedule(schedule) => {
                    if schedules.insert(schedule) {
                        self.skips(change, schedule);
                    }
                }
                Effect::Granted { task, .. } => {
                    let ready = change.before.tasks.get(task).filter(|row| row.state == TaskState::Queued);
                    let since = ready.map_or(change.after.now, |row| row.since);
                    self.task_queued.observe(between(since, change.after.now));
                }
                Effect::Ended { fence, .. } => {
                    let attempt = change.ended_attempt(*fence);
                    if let Some(AttemptState::Ended { outcome, .. }) = attempt.map(|(_, row)| &row.state) {
                        self.attempt(outcome);
                    }
                }
                Effect::Stop { .. }
                | Effect::Deciding(_)
                | Effect::Timer
                | Effect::Backfill(_)
                | Effect::LogsSettled(..)
                | Effect::Block { .. }
                | Effect::Checkpoint
                | Effect::Agreed { .. }
                | Effect::Executor(_)
                | Effect::Definitions => {}
            }
        }
    }

    /// Entries were applied and not counted.
    pub(crate) fn missed(&self, entries: u64) {
        self.entries_missed.inc_by(entries);
    }

    /// Spans were given up.
    pub(crate) fn spans_dropped(&self, spans: usize) {
        self.spans_dropped.inc_by(spans as u64);
    }

    /// Another node leads, or this one does.
    pub(crate) fn leader_changed(&self) {
        self.leader_changes.inc();
    }

    /// No leader was known for so long.
    pub(crate) fn without_leader(&self, seconds: f64) {
        self.without_leader.inc_by(seconds);
    }

    fn answer(&self, answer: &Result<Answer, Refusal>) {
        let result = if answer.is_ok() { "accepted" } else { "refused" };
        self.commands.get_or_create(&[("result", result)]).inc();
        if matches!(answer, Err(Refusal::Stale(Stale::Fence(_)))) {
            self.stale_fences.inc();
        }
    }

    fn run(&self, change: &Change<'_>, id: RunId) {
        let before = change.before.runs.get(&id);
        let Some(after) = change.after.runs.get(&id) else { return };
        if before.is_none() {
            let origin = match after.origin {
                RunOrigin::Schedule => "schedule",
                RunOrigin::Manual => "manual",
                RunOrigin::Submitted => "submitted",
                RunOrigin::Backfill(_) => "backfill",
                RunOrigin::Retry => "retry",
            };
            self.runs_started.get_or_create(&[("origin", origin)]).inc();
            if after.origin == RunOrigin::Schedule {
                self.tick_lateness.observe(between(after.logical_time, after.created_at));
            }
        }
        if let Some(after) = change.ended_run(id) {
            self.runs_finished.get_or_create(&[("state", after.state.as_str())]).inc();
            let began = after.started_at.unwrap_or(after.created_at);
            self.run_duration.observe(between(began, after.ended_at.unwrap_or(change.after.now)));
        }
    }

    fn skips(&self, change: &Change<'_>, schedule: &ScheduleId) {
        let none = [0; SkipReason::COUNT];
        let of = |state: &State| state.schedules.get(schedule).map_or(none, |row| row.counts.skips);
        let (before, after) = (of(change.before), of(change.after));
        for (reason, word) in SKIPS {
            let more = after[reason as usize].saturating_sub(before[reason as usize]);
            if more > 0 {
                self.ticks_skipped.get_or_create(&[("reason", word)]).inc_by(more);
            }
        }
    }

    fn attempt(&self, outcome: &AttemptOutcome) {
        let word = match outcome {
            AttemptOutcome::Success => "success",
            AttemptOutcome::Exit(_)
            | AttemptOutcome::Signal(_)
            | AttemptOutcome::Error(_)
            | AttemptOutcome::Broken(_) => "failed",
            AttemptOutcome::TimedOut => "timed_out",
            AttemptOutcome::Cancelled => "cancelled",
            AttemptOutcome::Lost(_) => "lost",
        };
        self.attempts_finished.get_or_create(&[("outcome", word)]).inc();
        if matches!(outcome, AttemptOutcome::Lost(LostReason::Expired | LostReason::Deadline)) {
            self.lease_expiries.inc();
        }
    }
}

fn between(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).0 as f64 / 1e3
}
