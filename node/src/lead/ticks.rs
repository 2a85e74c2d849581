//! Which ticks are due, and what becomes of them (PROTOCOL 3).
//!
//! Pure: the state, the time and the calendar in, a command out. Nothing is remembered between two calls but calendars,
//! so a new leader decides as the old one did. Start reading at [`decide_due`].

use std::sync::Arc;

use matins_core::command::{Command, Decision, Fire, Tick};
use matins_core::id::ScheduleId;
use matins_core::ir::{self, CatchupPolicy};
use matins_core::state::{Next, ScheduleRow, SkipReason, State};
use matins_core::time::{Millis, Timestamp};
use matins_workflow::calendar::Calendar;

use super::calendars::Calendars;
use super::scope::{Resolve, TickTimes};

/// Ticks that one `Fire` makes runs of, at most (PROTOCOL 3.2).
pub const RUNS_PER_FIRE: usize = 500;
/// Ticks that one `Fire` skips, at most: a schedule of every second that was away for a year must not hold the
/// leader up. What is left over is decided alike by the next one.
pub const SKIPS_PER_FIRE: u32 = 50_000;
/// Parameters that one `Fire` carries: an entry has 1 MiB (DESIGN 5).
const FIRE_BYTES_MAX: usize = 512 * 1024;

/// What a planner of ticks needs besides the state.
pub struct TickTools<'a> {
    /// Made once per version.
    pub calendars: &'a mut Calendars,
    /// Works out the parameters of a run.
    pub resolve: &'a dyn Resolve,
}

/// Decides what is due of one schedule at `now`: a `Fire`, a `Quarantine` if its spec cannot be evaluated, or nothing.
pub fn decide_due(
    state: &State,
    now: Timestamp,
    id: &ScheduleId,
    tools: &mut TickTools<'_>,
) -> Option<Command> {
    let row = state.schedules.get(id)?;
    row.next.due_at().filter(|at| *at <= now)?;
    let calendar = match tools.calendars.of(id, row) {
        Ok(calendar) => calendar,
        Err(reason) => {
            return Some(Command::Quarantine { schedule: id.clone(), version: row.version, reason });
        }
    };
    let workflow = workflow_of(state, id)?;
    let mut draft = Draft {
        calendar: &calendar,
        workflow: &workflow,
        spec: &row.spec,
        resolve: tools.resolve,
        decisions: Vec::new(),
        to_mark: row.mark,
        runs_left: RUNS_PER_FIRE,
        skips_left: SKIPS_PER_FIRE,
        bytes_left: FIRE_BYTES_MAX,
        is_full: false,
    };
    draft.missed(state, row, now);
    draft.regular(row, now);
    let next = calendar.next_after(draft.to_mark).map(|tick| tick.at);
    Some(Command::Fire(Fire {
        schedule: id.clone(),
        version: row.version,
        from_mark: row.mark,
        to_mark: draft.to_mark,
        decisions: draft.decisions,
        next,
    }))
}

/// The leader's zone tables are not those in use: the schedules whose next tick they move (PROTOCOL 3.5). Looks at
/// every schedule, so it is asked once per leadership.
pub fn recalculate(state: &State, calendars: &mut Calendars, tables: &str) -> Option<Command> {
    if state.cluster.zone_tables == tables || state.schedules.is_empty() {
        return None;
    }
    let mut schedules = Vec::new();
    for (id, row) in state.schedules.iter() {
        let known = match row.next {
            // It is worked out with these tables anyway.
            Next::Unknown => continue,
            Next::At(at) => Some(at),
            Next::Never if !row.spec.is_enabled || row.quarantine.is_some() => continue,
            Next::Never => None,
        };
        let Ok(calendar) = calendars.of(id, row) else { continue };
        if calendar.next_after(row.mark).map(|tick| tick.at) != known {
            schedules.push((id.clone(), row.version));
        }
    }
    Some(Command::Recalculate { schedules, tables: tables.to_owned() })
}

/// The version in use of the workflow that a schedule belongs to.
pub fn workflow_of(state: &State, id: &ScheduleId) -> Option<Arc<ir::Workflow>> {
    let number = state.workflows.get(&id.workflow)?.current?;
    let version = state.versions.get(&(id.workflow.clone(), number))?;
    Some(state.definitions.get(&version.definition)?.workflow.clone())
}

/// A `Fire` in the making. Ranges are half open, `(after, until]`, and come in order.
struct Draft<'a> {
    calendar: &'a Calendar,
    workflow: &'a ir::Workflow,
    spec: &'a ir::Schedule,
    resolve: &'a dyn Resolve,
    decisions: Vec<Decision>,
    to_mark: Timestamp,
    runs_left: usize,
    skips_left: u32,
    bytes_left: usize,
    /// Nothing more is decided, since what comes before it is not.
    is_full: bool,
}

impl Draft<'_> {
    /// Ticks that an outage left behind (PROTOCOL 3.2): the newest within window and limit run, the rest is skipped.
    ///
    /// Window and limit count from the end of the outage, not from now, so that deciding in several slices, or late,
    /// comes out the same.
    fn missed(&mut self, state: &State, row: &ScheduleRow, now: Timestamp) {
        let Some(outage_end) = state.cluster.outage_end else { return };
        let missed_before = outage_end - state.cluster.settings.grace;
        let until = (missed_before - Millis(1)).min(now).min(row.paused_since().unwrap_or(Timestamp::MAX));
        if until <= row.mark {
            return;
        }
        let window_start = outage_end - row.spec.catchup.window;
        let policy = row.spec.catchup.policy;
        let before_kept = match self.oldest_kept(row, window_start, until) {
            Some(oldest) => oldest - Millis(1),
            None => until,
        };
        let beyond_policy = match policy {
            CatchupPolicy::None | CatchupPolicy::Latest => SkipReason::CatchupPolicy,
            CatchupPolicy::All => SkipReason::CatchupLimit,
        };
        if policy != CatchupPolicy::None {
            self.skip((window_start - Millis(1)).min(before_kept), SkipReason::CatchupWindow);
        }
        self.skip(before_kept, beyond_policy);
        self.run(until);
    }

    /// The oldest of the missed ticks that become runs.
    fn oldest_kept(&self, row: &ScheduleRow, window_start: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let limit = match row.spec.catchup.policy {
            CatchupPolicy::None => 0,
            CatchupPolicy::Latest => row.spec.catchup.limit.min(1),
            CatchupPolicy::All => row.spec.catchup.limit.min(RUNS_PER_FIRE as u32),
        };
        let from = row.mark.max(window_start - Millis(1));
        self.calendar.newest(from, until, limit as usize).first().map(|tick| tick.at)
    }

    /// All other due ticks: they run, however late, but for those of a pause.
    fn regular(&mut self, row: &ScheduleRow, now: Timestamp) {
        match row.paused_since() {
            Some(paused) => {
                self.run(paused.min(now));
                self.skip(now, SkipReason::Paused);
            }
            None => self.run(now),
        }
    }

    /// Skips what is left up to `until`, in one range.
    fn skip(&mut self, until: Timestamp, reason: SkipReason) {
        if self.is_full || until <= self.to_mark {
            return;
        }
        let mut ticks = self.calendar.ticks(self.to_mark, until, self.skips_left as usize);
        let Some(first) = ticks.next().map(|tick| tick.at) else { return };
        let (count, last) = ticks.fold((1, first), |(count, _), tick| (count + 1, tick.at));
        self.decisions.push(Decision::Skip { from: first, to: last, count, reason });
        self.to_mark = last;
        self.skips_left -= count;
        self.is_full = self.skips_left == 0;
    }

    /// Makes runs of what is left up to `until`.
    fn run(&mut self, until: Timestamp) {
        if self.is_full || until <= self.to_mark {
            return;
        }
        let mut previous = None;
        // One more than there is room for, so as to know whether anything is left over.
        for tick in self.calendar.ticks(self.to_mark, until, self.runs_left + 1) {
            let times = TickTimes {
                logical_time: tick.at,
                interval_start: previous
                    .or_else(|| self.calendar.previous_before(tick.at).map(|tick| tick.at))
                    .unwrap_or(tick.at),
            };
            previous = Some(tick.at);
            let params = self.resolve.params(self.workflow, Some(self.spec), "{}", times);
            let bytes = params.as_ref().map_or_else(String::len, String::len) + 64;
            if self.runs_left == 0 || (bytes > self.bytes_left && self.runs_left < RUNS_PER_FIRE) {
                self.is_full = true;
                return;
            }
            self.runs_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.to_mark = tick.at;
            let TickTimes { logical_time, interval_start } = times;
            self.decisions.push(Decision::Run(Tick { logical_time, interval_start, params }));
        }
    }
}

#[cfg(test)]
mod tests;
