//! The next ticks of a backfill (PROTOCOL 3.4, 6.6; LANGUAGE 1.20). Pure: history is asked through a trait.

use matins_core::command::{BackfillSlice, Command, Tick};
use matins_core::id::{BackfillId, RunId, ScheduleId};
use matins_core::state::{BackfillRow, BackfillState, PastRow, Reprocess, RunState, State};
use matins_core::time::{Millis, Timestamp};
use matins_workflow::calendar::Calendar;

use super::scope::TickTimes;
use super::ticks::{TickTools, workflow_of};

/// Ticks that one slice looks at.
const TICKS_PER_SLICE: usize = 200;
/// A backfill with so many ticks that wait gets no more for now.
const WAITING_ENOUGH: u32 = 200;
/// Parameters that one slice carries: an entry has 1 MiB (DESIGN 5).
const SLICE_BYTES_MAX: usize = 512 * 1024;

/// Finished runs that have left the state.
pub trait History {
    /// Those for one tick of a schedule, with how they ended, in order of their ids; or why they cannot be told now.
    fn runs_at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Vec<(RunId, RunState)>, NoHistory>;

    /// What `depends_on_past` needs to know of a tick; `None`: no run was made for it.
    fn past_at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Option<PastRow>, NoHistory>;
}

/// This node's history is not complete yet: the slice is worked out later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoHistory;

/// The next slice of a backfill, if it wants one. A calendar that cannot be evaluated ends its ticks.
pub fn slice(
    state: &State,
    id: BackfillId,
    history: &dyn History,
    tools: &mut TickTools<'_>,
) -> Result<Option<Command>, NoHistory> {
    let Some(row) = state.backfills.get(&id) else { return Ok(None) };
    let is_open = matches!(row.state, BackfillState::Running | BackfillState::Paused);
    let (Some(cursor), true) = (row.cursor, is_open && row.counts.waiting < WAITING_ENOUGH) else {
        return Ok(None);
    };
    let retired_runs = state.retired_runs.get(&row.schedule.workflow).copied().unwrap_or(0);
    let mut draft = BackfillSlice {
        backfill: id,
        from: cursor,
        cursor: None,
        ticks: Vec::new(),
        left_out: 0,
        retired_runs,
        past: Vec::new(),
    };
    // A schedule that is gone, or cannot be evaluated, has no ticks any more.
    let calendar = state
        .schedules
        .get(&row.schedule)
        .and_then(|schedule| tools.calendars.of(&row.schedule, schedule).ok());
    if let Some(calendar) = calendar {
        fill(&mut draft, &Look { state, row, history, calendar: &calendar }, tools)?;
    }
    Ok(Some(Command::BackfillSlice(draft)))
}

/// What a slice is made from.
struct Look<'a> {
    state: &'a State,
    row: &'a BackfillRow,
    history: &'a dyn History,
    calendar: &'a Calendar,
}

fn fill(draft: &mut BackfillSlice, look: &Look<'_>, tools: &TickTools<'_>) -> Result<(), NoHistory> {
    let Look { state, row, .. } = look;
    let Some(workflow) = workflow_of(state, &row.schedule) else { return Ok(()) };
    let spec = state.schedules.get(&row.schedule).map(|schedule| schedule.spec.clone());
    let depends_on_past = workflow.tasks.iter().any(|task| task.depends_on_past);
    let mut bytes = 0;
    for (looked_at, tick) in look.ticks(draft.from).enumerate() {
        if looked_at == TICKS_PER_SLICE || bytes > SLICE_BYTES_MAX {
            draft.cursor = Some(tick);
            return Ok(());
        }
        if look.has_its_run(tick)? {
            draft.left_out += 1;
            continue;
        }
        let previous = look.calendar.previous_before(tick).map_or(tick, |tick| tick.at);
        let times = TickTimes { logical_time: tick, interval_start: previous };
        let params = tools.resolve.params(&workflow, spec.as_deref(), &row.params, times);
        bytes += params.as_ref().map_or_else(String::len, String::len) + 64;
        let is_known = state.past.contains(&(row.schedule.clone(), previous));
        let is_before = draft.ticks.last().is_some_and(|last| last.logical_time == previous);
        if depends_on_past && !is_known && !is_before {
            let past = look.history.past_at(&row.schedule, previous)?;
            draft.past.extend(past.map(|past| (previous, past)));
        }
        draft.ticks.push(Tick { logical_time: tick, interval_start: previous, params });
    }
    Ok(())
}

impl Look<'_> {
    /// The ticks from `cursor` (inclusive) to the end of the range, in the order of the backfill.
    fn ticks(&self, cursor: Timestamp) -> impl Iterator<Item = Timestamp> {
        let (from, to, back) = (self.row.from, self.row.to, self.row.newest_first);
        let next = move |at: Timestamp| {
            if back { self.calendar.at_or_before(at) } else { self.calendar.next_after(at - Millis(1)) }
        };
        let first = next(cursor).map(|tick| tick.at);
        std::iter::successors(first, move |at| {
            next(if back { *at - Millis(1) } else { *at + Millis(1) }).map(|tick| tick.at)
        })
        .take_while(move |at| (from..=to).contains(at))
    }

    /// Whether a tick has had what the backfill would give it, whoever made that run (LANGUAGE 1.20). Runs that are still
    /// active are `apply`'s business.
    fn has_its_run(&self, tick: Timestamp) -> Result<bool, NoHistory> {
        let schedule = &self.row.schedule;
        if self.row.reprocess == Reprocess::All {
            return Ok(false);
        }
        let mut runs = self.history.runs_at(schedule, tick)?;
        let first = (schedule.clone(), tick, RunId(0));
        let live = self.state.runs_by_tick.range(first..=(schedule.clone(), tick, RunId(u64::MAX)));
        let live = live.filter_map(|((_, _, run), ())| Some((*run, self.state.runs.get(run)?.state)));
        runs.extend(live);
        Ok(match self.row.reprocess {
            Reprocess::Missing => runs.iter().any(|(_, state)| *state == RunState::Success),
            // Only ticks whose newest run failed.
            Reprocess::Failed => {
                runs.iter().max_by_key(|(run, _)| *run).is_none_or(|(_, state)| *state != RunState::Failed)
            }
            Reprocess::All => false,
        })
    }
}
