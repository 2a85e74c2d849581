//! The checker of ticks: pure, over what one schedule should have done and what it did.
//!
//! Times are milliseconds of leader time. Where an instant is known only within bounds (a pause whose answer was late),
//! ticks between the bounds may be decided either way, and all others in exactly one. Start at [`broken`].

use std::collections::{BTreeMap, BTreeSet};

/// What PROTOCOL 3.2 calls the grace: an absence of leader time that is longer than this is an outage.
pub(crate) const GRACE: i64 = 600_000;

/// How exactly the begin and the end of an outage are known: leader time is asked for twice a second.
const SAMPLED: i64 = 1_500;

/// Which missed ticks become runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Catchup {
    None,
    Latest { window: i64 },
    All { window: i64, limit: usize },
}

/// What happens to a run for which there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFull {
    /// There is place for all.
    Unlimited,
    Queue(usize),
    Skip(usize),
    CancelRunning(usize),
}

/// A run that a tick made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TickRun {
    pub(crate) id: String,
    pub(crate) logical: i64,
    pub(crate) interval_start: i64,
    pub(crate) created: i64,
    /// When it got its place.
    pub(crate) started: Option<i64>,
    pub(crate) finished: Option<i64>,
    pub(crate) is_cancelled: bool,
}

/// A time in which a schedule was held. `early` is the earliest instant at which that may have been so, `late` the first
/// at which it surely was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) from_early: i64,
    pub(crate) from_late: i64,
    pub(crate) until_early: i64,
    pub(crate) until_late: i64,
}

/// Leader time jumped from one instant to another, by more than the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) before: i64,
    pub(crate) end: i64,
}

/// All that is known of one schedule.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// `namespace/workflow/schedule`.
    pub(crate) name: String,
    /// Its ticks by the independent calendar, in order, each with the one before it: those in `(from, to]`.
    pub(crate) due: Vec<(i64, Option<i64>)>,
    /// Ticks after `to` that were due before the schedule was held for good.
    pub(crate) due_undecided: Vec<i64>,
    pub(crate) catchup: Catchup,
    pub(crate) on_full: OnFull,
    /// The mark at the begin and at the end.
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// What the cluster counted between the two.
    pub(crate) fired: u64,
    pub(crate) skipped: BTreeMap<String, u64>,
    /// Runs that ticks of this schedule made, whatever their time.
    pub(crate) runs: Vec<TickRun>,
    pub(crate) pauses: Vec<Pause>,
    pub(crate) outage: Option<Outage>,
}

/// What must become of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    Run,
    /// A run, or a skip with one of these reasons.
    Either(&'static [&'static str]),
    Skip(&'static str),
}

/// Each due tick has exactly one decision and the right one, at its nominal time.
pub(crate) fn broken(history: &History) -> Vec<String> {
    let mut broken = runs_at_their_times(history);
    let musts = musts(history);
    let ran: BTreeSet<i64> = history.runs.iter().map(|run| run.logical).collect();
    let mut skips: BTreeMap<&str, u64> = BTreeMap::new();
    let mut either: Vec<&[&str]> = Vec::new();
    for (tick, must) in &musts {
        match (must, ran.contains(tick)) {
            (Must::Run | Must::Either(_), true) => {}
            (Must::Run, false) => broken.push(format!("I1: tick {} has no run", time(*tick))),
            (Must::Skip(why), true) => {
                broken.push(format!("I1: tick {} has a run and must be skipped: {why}", time(*tick)));
            }
            (Must::Skip(why), false) => *skips.entry(why).or_default() += 1,
            (Must::Either(reasons), false) => either.push(reasons),
        }
    }
    if !is_sum(&history.skipped, &skips, &either) {
        let counted = &history.skipped;
        broken.push(format!(
            "I1: it counts as skipped {counted:?}, and by the calendar it is {skips:?} and {either:?}"
        ));
    }
    let in_range = |run: &&TickRun| (history.from + 1..=history.to).contains(&run.logical);
    let fired = history.runs.iter().filter(in_range).count() as u64;
    if fired != history.fired {
        broken.push(format!(
            "I1: it counts {} ticks that fired, and there are runs for {fired}",
            history.fired
        ));
    }
    for tick in &history.due_undecided {
        broken.push(format!("I15: tick {} was due before the end, and is not decided", time(*tick)));
    }
    broken.extend(gate(history));
    broken.into_iter().map(|what| format!("{}: {what}", history.name)).collect()
}

/// As [`broken`], for all schedules together. They share one outage, whose end is known to the second only: whatever end
/// it was, it was the same for all of them.
pub(crate) fn broken_together(histories: &[History]) -> Vec<String> {
    let Some(outage) = histories.iter().find_map(|history| history.outage) else {
        return histories.iter().flat_map(broken).collect();
    };
    let second = outage.end.div_euclid(1_000) * 1_000;
    // All ticks are at whole seconds, so that only the second counts, and whether it is hit exactly.
    let ends = (0..4).flat_map(|earlier| [second - earlier * 1_000 + 500, second - earlier * 1_000]);
    let with_end = |end: i64| {
        let outage = Some(Outage { end, ..outage });
        let found = histories.iter().flat_map(|history| broken(&History { outage, ..history.clone() }));
        found.collect::<Vec<String>>()
    };
    ends.map(with_end).min_by_key(Vec::len).unwrap_or_default()
}

/// Whether what was counted is what must be skipped and, each with one of its reasons, what may be.
fn is_sum(counted: &BTreeMap<String, u64>, skips: &BTreeMap<&str, u64>, either: &[&[&str]]) -> bool {
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    for (why, count) in counted {
        // Which of the three reasons a missed tick is given (policy, window, limit) is not looked at.
        *left.entry(why.split(' ').next().unwrap_or(why)).or_default() += count;
    }
    for (why, count) in skips {
        match left.get_mut(why).and_then(|left| left.checked_sub(*count).map(|rest| *left = rest)) {
            Some(()) => {}
            None => return false,
        }
    }
    // Those with the fewest reasons first, so that none takes what another needs.
    let mut either = either.to_vec();
    either.sort_by_key(|reasons| reasons.len());
    for reasons in either {
        match reasons.iter().find(|why| left.get(**why).is_some_and(|left| *left > 0)) {
            Some(why) => *left.entry(why).or_default() -= 1,
            None => return false,
        }
    }
    left.values().all(|left| *left == 0)
}

/// Every run is for a due tick, one for each, with the right interval, and not made before its time.
fn runs_at_their_times(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let due: BTreeMap<i64, Option<i64>> = history.due.iter().copied().collect();
    let mut seen: BTreeMap<i64, &str> = BTreeMap::new();
    for run in &history.runs {
        let TickRun { id, logical, interval_start, created, .. } = run;
        if let Some(other) = seen.insert(*logical, id) {
            broken.push(format!("I3: tick {} has two runs, {other} and {id}", time(*logical)));
        }
        if *logical > history.to {
            broken.push(format!("I1: {id} is for {}, beyond the mark {}", time(*logical), time(history.to)));
        } else if *logical > history.from {
            match due.get(logical) {
                None => broken.push(format!("I1: {id} is for {}, which is no tick", time(*logical))),
                Some(Some(before)) if before != interval_start => broken.push(format!(
                    "LANGUAGE 1.6: the interval of {id} begins at {}, the tick before is {}",
                    time(*interval_start),
                    time(*before)
                )),
                Some(_) => {}
            }
        }
        if created < logical {
            let early = logical - created;
            broken.push(format!("3.1: {id} was made {early} ms before its tick {}", time(*logical)));
        }
    }
    broken
}

/// What must become of each due tick.
fn musts(history: &History) -> Vec<(i64, Must)> {
    let kept = kept_of_missed(history);
    let must = |tick: i64| {
        if let Some(Outage { before, end }) = history.outage
            && tick < end - GRACE
        {
            // Whether it was decided before the outage is not known from outside.
            if (before - SAMPLED..=before + SAMPLED).contains(&tick) {
                return Must::Either(&["catch-up"]);
            }
            if tick > before {
                return if kept.contains(&tick) { Must::Run } else { Must::Skip("catch-up") };
            }
        }
        for pause in &history.pauses {
            if (pause.from_late + 1..=pause.until_early).contains(&tick) {
                return Must::Skip("paused");
            }
            if (pause.from_early + 1..=pause.until_late).contains(&tick) {
                return match history.on_full {
                    OnFull::Skip(_) => Must::Either(&["paused", "running"]),
                    OnFull::Unlimited | OnFull::Queue(_) | OnFull::CancelRunning(_) => {
                        Must::Either(&["paused"])
                    }
                };
            }
        }
        match history.on_full {
            OnFull::Skip(_) => Must::Either(&["running"]),
            OnFull::Unlimited | OnFull::Queue(_) | OnFull::CancelRunning(_) => Must::Run,
        }
    };
    history.due.iter().map(|(tick, _)| (*tick, must(*tick))).collect()
}

/// Which missed ticks become runs (PROTOCOL 3.2).
fn kept_of_missed(history: &History) -> BTreeSet<i64> {
    let Some(Outage { before, end }) = history.outage else { return BTreeSet::new() };
    let (window, limit) = match history.catchup {
        Catchup::None => return BTreeSet::new(),
        Catchup::Latest { window } => (window, 1),
        Catchup::All { window, limit } => (window, limit),
    };
    let missed =
        history.due.iter().map(|(tick, _)| *tick).filter(|tick| *tick > before && *tick < end - GRACE);
    missed.rev().take_while(|tick| *tick >= end - window).take(limit).collect()
}

/// The places of active runs: never too many at the same time, and a tick is only skipped while they are taken.
fn gate(history: &History) -> Vec<String> {
    let (places, is_skip) = match history.on_full {
        OnFull::Unlimited => return Vec::new(),
        OnFull::Queue(places) | OnFull::CancelRunning(places) => (places, false),
        OnFull::Skip(places) => (places, true),
    };
    let mut runs: Vec<&TickRun> = history.runs.iter().filter(|run| run.started.is_some()).collect();
    runs.sort_by_key(|run| (run.started, run.logical));
    let active = |at: i64| {
        let is_active = |run: &&&TickRun| {
            run.started.is_some_and(|it| it <= at) && run.finished.is_none_or(|finished| finished > at)
        };
        runs.iter().filter(is_active).count()
    };
    let mut broken = Vec::new();
    for run in &runs {
        let started = run.started.unwrap_or(run.created);
        if active(started) > places {
            let count = active(started);
            broken.push(format!("I9: {count} active runs when {} started, {places} are allowed", run.id));
        }
    }
    for pair in runs.windows(2).filter(|pair| pair[1].logical < pair[0].logical) {
        let (first, second) = (&pair[0].id, &pair[1].id);
        broken.push(format!("LANGUAGE 1.19: {first} started before {second}, which is for an earlier tick"));
    }
    for run in history.runs.iter().filter(|run| run.is_cancelled) {
        let is_replaced = matches!(history.on_full, OnFull::CancelRunning(_))
            && runs
                .iter()
                .any(|it| it.logical > run.logical && run.finished.is_some_and(|at| it.created <= at));
        if !is_replaced {
            broken.push(format!("I1: {} was cancelled, and no later run needed its place", run.id));
        }
    }
    if is_skip {
        broken.extend(skips_in_vain(history, &runs, places));
    }
    broken
}

/// Ticks that were skipped though there was place at every moment at which they may have been decided.
fn skips_in_vain(history: &History, runs: &[&TickRun], places: usize) -> Vec<String> {
    let ran: BTreeSet<i64> = history.runs.iter().map(|run| run.logical).collect();
    let is_held = |tick: i64| {
        history.pauses.iter().any(|it| (it.from_early + 1..=it.until_late).contains(&tick))
            || history.outage.is_some_and(|it| tick < it.end - GRACE)
    };
    let mut broken = Vec::new();
    for (tick, _) in history.due.iter().filter(|(tick, _)| !ran.contains(tick) && !is_held(*tick)) {
        // Decided in order: not before its time, and not after the next tick that made a run.
        let next = history.runs.iter().filter(|run| run.logical > *tick).map(|run| run.created).min();
        let until = next.unwrap_or(i64::MAX);
        // The number of active runs is highest at its time or where a run starts.
        let moments = runs.iter().filter_map(|run| run.started).filter(|at| (*tick..=until).contains(at));
        let was_full = moments.chain([*tick]).any(|at| {
            let is_active = |run: &&&TickRun| {
                run.started.is_some_and(|it| it <= at)
                    && run.finished.is_none_or(|it| it >= at)
                    && run.logical < *tick
            };
            runs.iter().filter(is_active).count() >= places
        });
        if !was_full {
            broken.push(format!("I1: tick {} was skipped though there was place", time(*tick)));
        }
    }
    broken
}

/// An instant for people.
fn time(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |it| it.to_string())
}

#[cfg(test)]
mod tests;
