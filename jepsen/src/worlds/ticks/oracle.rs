//! What must hold of ticks, counted without the help of the code that decides them.

use std::collections::BTreeMap;

use matins_core::State;
use matins_core::state::{ScheduleRow, SkipReason};
use matins_core::time::Timestamp;
use matins_workflow::compile::{NoFiles, Options, SourceFile, compile};

use super::Ticks;

const MINUTE_MS: i64 = 60_000;

/// The workflow of this world, with one spec or the other.
pub(super) fn compiled(cron: &str) -> Result<matins_workflow::compile::CompiledWorkflow, String> {
    let text = format!(
        "workflow: nightly\nschedules: {{ main: {{ cron: \"{cron}\" }} }}\ntasks: {{ a: {{ run: [x] }} }}\n"
    );
    let source = SourceFile { name: "world.yaml".into(), text: text.into() };
    let mut compiled = compile(&[source], &NoFiles, &Options::default());
    if compiled.has_errors() {
        return Err(format!("the workflow of the world is wrong: {:?}", compiled.diagnostics));
    }
    Ok(compiled.workflows.remove(0))
}

/// Compares the state before and after one command.
pub(super) fn check(before: &State, after: &State, world: &Ticks) -> Result<(), String> {
    if let Some(fault) = after.check().into_iter().next() {
        return Err(fault);
    }
    let id = &world.schedule;
    let (old, new) = (before.schedules.get(id), after.schedules.get(id));
    if let (Some(old), Some(new)) = (old, new) {
        check_counts(old, new)?;
        check_missed(old, new, world)?;
    }
    let mut by_tick: BTreeMap<Timestamp, u32> = BTreeMap::new();
    for (_, run) in after.runs.iter() {
        *by_tick.entry(run.logical_time).or_default() += 1;
    }
    if let Some((tick, runs)) = by_tick.into_iter().find(|(_, runs)| *runs > 1) {
        return Err(format!("I1: the tick of {} has {runs} runs", clock(tick)));
    }
    let fresh = after.runs.iter().filter(|(run, _)| !before.runs.contains(run));
    for (_, run) in fresh {
        let tick = run.logical_time;
        if tick > after.now || old.is_none_or(|old| tick <= old.mark || !is_tick(old, tick)) {
            return Err(format!("I1: a run was made for {}, which is no tick that was due", clock(tick)));
        }
        let in_pause = |(from, until): &(Timestamp, Option<Timestamp>)| {
            tick > *from && until.is_none_or(|until| tick <= until)
        };
        if world.pauses.iter().any(in_pause) {
            return Err(format!("3.5: the tick of {} in a pause became a run", clock(tick)));
        }
    }
    Ok(())
}

/// Each tick that the mark passed was decided once, and no other.
fn check_counts(old: &ScheduleRow, new: &ScheduleRow) -> Result<(), String> {
    if new.mark < old.mark {
        return Err(format!("I2: a mark fell from {} to {}", clock(old.mark), clock(new.mark)));
    }
    if new.version < old.version {
        return Err("3.5: the version of a schedule fell".into());
    }
    let passed = ticks_between(old, old.mark, new.mark);
    let decided = |row: &ScheduleRow| row.counts.runs + row.counts.skips.iter().sum::<u64>();
    let decided = decided(new) - decided(old);
    if passed != decided {
        return Err(format!(
            "I1: the mark passed {passed} ticks from {} to {}, and {decided} were decided",
            clock(old.mark),
            clock(new.mark)
        ));
    }
    Ok(())
}

/// No tick is missed but through an outage (PROTOCOL 3.2).
fn check_missed(old: &ScheduleRow, new: &ScheduleRow, world: &Ticks) -> Result<(), String> {
    let of = |row: &ScheduleRow, reason: SkipReason| row.counts.skips[reason as usize];
    let reasons = [SkipReason::CatchupPolicy, SkipReason::CatchupWindow, SkipReason::CatchupLimit];
    let has_missed = reasons.into_iter().any(|reason| of(new, reason) > of(old, reason));
    if has_missed && !world.had_outage {
        return Err("3.2: a tick was missed without an outage".into());
    }
    Ok(())
}

/// Whole minutes, or every other one.
fn is_tick(row: &ScheduleRow, tick: Timestamp) -> bool {
    tick.as_millis() % every(row) == 0
}

fn ticks_between(row: &ScheduleRow, after: Timestamp, until: Timestamp) -> u64 {
    (until.as_millis().div_euclid(every(row)) - after.as_millis().div_euclid(every(row))) as u64
}

fn every(row: &ScheduleRow) -> i64 {
    if row.spec.cron.first().is_some_and(|cron| cron.starts_with("*/2")) { 2 * MINUTE_MS } else { MINUTE_MS }
}

fn clock(at: Timestamp) -> String {
    let seconds = at.as_millis().div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
