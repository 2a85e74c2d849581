//! Backfills: the runs of a past range (PROTOCOL 3.4, 6.6; LANGUAGE 1.19, 1.20).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{BackfillSlice, CreateBackfill, StopHow, Tick};
use crate::effect::Effect;
use crate::history::RetiredRun;
use crate::id::{BackfillId, RunId, ScheduleId};
use crate::state::{
    BackfillCounts, BackfillRow, BackfillState, BackfillTickRow, Reprocess, RunOrigin, RunState, State,
    WorkKey,
};
use crate::time::Timestamp;

use super::run::NewRun;
use super::{Applied, Step, conflict};

/// What is already there at a tick.
enum There {
    Nothing,
    Active,
    Enough,
}

impl State {
    /// Whether a tick needs a run, as far as the state knows; history was looked at by the proposer.
    fn there_at(&self, schedule: &ScheduleId, tick: Timestamp, reprocess: Reprocess) -> There {
        let runs = (schedule.clone(), tick, RunId(0))..=(schedule.clone(), tick, RunId(u64::MAX));
        let mut newest = None;
        let mut has_success = false;
        for ((_, _, run), ()) in self.runs_by_tick.range(runs) {
            let Some(row) = self.runs.get(run) else { continue };
            if row.is_active() {
                return There::Active;
            }
            has_success |= row.state == RunState::Success;
            newest = Some(row.state);
        }
        let is_enough = match reprocess {
            Reprocess::Missing => has_success,
            Reprocess::Failed => newest.is_some_and(|state| state != RunState::Failed),
            Reprocess::All => false,
        };
        if is_enough { There::Enough } else { There::Nothing }
    }
}

impl Step<'_> {
    /// Makes a backfill; its ticks come in slices.
    pub(super) fn create_backfill(&mut self, create: CreateBackfill) -> Applied {
        self.check_backfill(&create)?;
        self.state.cluster.counters.backfill += 1;
        let id = BackfillId(self.state.cluster.counters.backfill);
        let cursor = if create.newest_first { create.to } else { create.from };
        let row = BackfillRow {
            schedule: create.schedule,
            from: create.from,
            to: create.to,
            reprocess: create.reprocess,
            active_max: create.active_max,
            newest_first: create.newest_first,
            params: create.params,
            state: BackfillState::Running,
            cursor: Some(cursor),
            ticks_next: 0,
            counts: BackfillCounts::default(),
            created_at: self.now(),
            ended_at: None,
            changed: self.state.index,
        };
        self.state.backfills.insert(id, row);
        self.effects.push(Effect::Backfill(id));
        Ok(Answer::Backfill(id))
    }

    fn check_backfill(&self, create: &CreateBackfill) -> Result<(), Refusal> {
        let id = &create.schedule;
        let schedule =
            self.state.schedules.get(id).ok_or_else(|| Refusal::NotFound(Thing::Schedule(id.clone())))?;
        if create.from > create.to || create.active_max == 0 {
            return Err(Refusal::Invalid(
                "a backfill needs a range that is not empty and a max_active above 0".into(),
            ));
        }
        // Later ticks are the schedule's own (PROTOCOL 3.4).
        if create.to > schedule.mark {
            return Err(conflict(
                Thing::Schedule(id.clone()),
                "the range reaches beyond the last tick that is decided",
                "end the range earlier; the schedule itself makes the later runs",
            ));
        }
        let is_forgotten = self.state.cluster.forgotten.is_some_and(|forgotten| create.from <= forgotten);
        if is_forgotten && create.reprocess != Reprocess::All {
            return Err(conflict(
                Thing::Schedule(id.clone()),
                "the range reaches back to what retention may have taken, so what is missing there is not known",
                "begin the range later, or take all of it with `--reprocess all`",
            ));
        }
        let definition = self.current_definition(&id.workflow);
        let depends =
            definition.is_some_and(|row| row.workflow.tasks.iter().any(|task| task.depends_on_past));
        if create.newest_first && depends {
            return Err(conflict(
                Thing::Workflow(id.workflow.clone()),
                "a task of it depends on the past, so the newest day cannot go first",
                "leave --newest-first out",
            ));
        }
        Ok(())
    }

    /// The next ticks of a backfill, as the leader worked them out.
    pub(super) fn backfill_slice(&mut self, slice: BackfillSlice) -> Applied {
        let id = slice.backfill;
        let row = self.state.backfills.get(&id).cloned().ok_or(Refusal::NotFound(Thing::Backfill(id)))?;
        let retired = self.state.retired_runs.get(&row.schedule.workflow).copied().unwrap_or(0);
        let is_open = matches!(row.state, BackfillState::Running | BackfillState::Paused);
        if row.cursor != Some(slice.from) || retired != slice.retired_runs || !is_open {
            return Err(Refusal::Stale(Stale::History));
        }
        for (tick, past) in slice.past {
            let key = (row.schedule.clone(), tick);
            if !self.state.past.contains(&key) {
                self.state.past.insert(key, past);
            }
        }
        let mut counts = row.counts;
        counts.left_out += slice.left_out;
        let mut number = row.ticks_next;
        for tick in slice.ticks {
            match self.state.there_at(&row.schedule, tick.logical_time, row.reprocess) {
                There::Active => counts.left_alone += 1,
                There::Enough => counts.left_out += 1,
                There::Nothing => {
                    let Tick { logical_time, interval_start, params } = tick;
                    let tick = BackfillTickRow { logical_time, interval_start, params };
                    self.state.backfill_ticks.insert((id, number), tick);
                    number += 1;
                    counts.waiting += 1;
                }
            }
            self.touch(1);
        }
        self.change_backfill(id, |row| {
            row.counts = counts;
            row.ticks_next = number;
            row.cursor = slice.cursor;
        });
        self.backfills.insert(id);
        Ok(Answer::Done)
    }

    fn change_backfill(&mut self, id: BackfillId, change: impl FnOnce(&mut BackfillRow)) {
        let index = self.state.index;
        self.state.backfills.update(&id, |row| {
            change(row);
            row.changed = index;
        });
    }

    /// Makes runs while there is room, and ends the backfill when nothing is left.
    pub(super) fn advance_backfill(&mut self, id: BackfillId) {
        while let Some(row) = self.state.backfills.get(&id).cloned() {
            let has_room = row.state == BackfillState::Running && row.counts.active < row.active_max;
            if !has_room || row.counts.waiting == 0 {
                break;
            }
            if self.rows_left == 0 || self.state.check_room_for_runs().is_err() {
                self.leave(WorkKey::Backfill(id));
                break;
            }
            self.make_next_run(id, &row);
        }
        self.end_backfill_if_done(id);
        self.effects.push(Effect::Backfill(id));
    }

    fn make_next_run(&mut self, id: BackfillId, row: &BackfillRow) {
        let next = self.state.backfill_ticks.range((id, 0)..=(id, u64::MAX)).next().map(|(key, _)| *key);
        let tick = next.and_then(|key| self.state.backfill_ticks.remove(&key));
        let current = self.current_version(&row.schedule.workflow);
        self.change_backfill(id, |row| row.counts.waiting = row.counts.waiting.saturating_sub(1));
        let (Some(tick), Some((version, definition))) = (tick, current) else { return };
        // Somebody else may have made that run since the tick was taken in.
        match self.state.there_at(&row.schedule, tick.logical_time, row.reprocess) {
            There::Active => {
                self.change_backfill(id, |row| row.counts.left_alone += 1);
                return;
            }
            There::Enough => {
                self.change_backfill(id, |row| row.counts.left_out += 1);
                return;
            }
            There::Nothing => {}
        }
        self.change_backfill(id, |row| row.counts.active += 1);
        let BackfillTickRow { logical_time, interval_start, params } = tick;
        self.make_run(NewRun {
            workflow: row.schedule.workflow.clone(),
            definition,
            version: Some(version),
            origin: RunOrigin::Backfill(id),
            schedule: Some(row.schedule.schedule.clone()),
            tick: Tick { logical_time, interval_start, params },
            retry_of: None,
        });
    }

    /// Settles ticks that wait and have their run among those that leave for history now: nobody looks there again before
    /// they become runs, and one day would be loaded twice (PROTOCOL 6.6).
    pub(super) fn settle_waiting_ticks(&mut self, leaving: &[RetiredRun]) {
        let mut waiting: BTreeMap<(ScheduleId, Timestamp), Vec<(BackfillId, u64)>> = BTreeMap::new();
        for (key, tick) in self.state.backfill_ticks.iter() {
            if let Some(row) = self.state.backfills.get(&key.0) {
                waiting.entry((row.schedule.clone(), tick.logical_time)).or_default().push(*key);
            }
        }
        if waiting.is_empty() {
            return;
        }
        for run in leaving {
            let Some(schedule) = run.run.schedule_id() else { continue };
            let tick = (schedule, run.run.logical_time);
            let keys = waiting.get(&tick).cloned().unwrap_or_default();
            for key in keys {
                if self.is_enough(run, &tick, key.0) && self.state.backfill_ticks.remove(&key).is_some() {
                    self.change_backfill(key.0, |row| {
                        row.counts.waiting = row.counts.waiting.saturating_sub(1);
                        row.counts.left_out += 1;
                    });
                    self.backfills.insert(key.0);
                    self.touch(1);
                }
            }
        }
    }

    /// Whether a run that leaves is what a backfill wants of its tick.
    fn is_enough(&self, leaving: &RetiredRun, tick: &(ScheduleId, Timestamp), id: BackfillId) -> bool {
        let state = leaving.run.state;
        let runs = (tick.0.clone(), tick.1, RunId(0))..=(tick.0.clone(), tick.1, RunId(u64::MAX));
        match self.state.backfills.get(&id).map(|row| row.reprocess) {
            Some(Reprocess::Missing) => state == RunState::Success,
            // The newest run of a tick decides.
            Some(Reprocess::Failed) => {
                let newest = self.state.runs_by_tick.range(runs).last().map(|((_, _, run), ())| *run);
                newest == Some(leaving.id) && state != RunState::Failed
            }
            Some(Reprocess::All) | None => false,
        }
    }

    /// A run of a backfill ended: there is room for the next.
    pub(super) fn backfill_run_ended(&mut self, id: BackfillId, state: RunState) {
        self.change_backfill(id, |row| {
            row.counts.active = row.counts.active.saturating_sub(1);
            match state {
                RunState::Success => row.counts.success += 1,
                RunState::Cancelled => row.counts.cancelled += 1,
                RunState::Failed | RunState::Queued | RunState::Running | RunState::Stopping => {
                    row.counts.failed += 1;
                }
            }
        });
        self.backfills.insert(id);
    }

    fn end_backfill_if_done(&mut self, id: BackfillId) {
        let (now, index) = (self.now(), self.state.index);
        self.state.backfills.update(&id, |row| {
            let is_done = row.counts.waiting == 0 && row.counts.active == 0 && row.cursor.is_none();
            let state = match row.state {
                BackfillState::Running | BackfillState::Paused if is_done && row.counts.failed > 0 => {
                    BackfillState::Failed
                }
                BackfillState::Running | BackfillState::Paused if is_done => BackfillState::Success,
                BackfillState::Stopping if row.counts.active == 0 => BackfillState::Cancelled,
                BackfillState::Running
                | BackfillState::Paused
                | BackfillState::Stopping
                | BackfillState::Success
                | BackfillState::Failed
                | BackfillState::Cancelled => return,
            };
            row.state = state;
            row.ended_at = Some(now);
            row.changed = index;
        });
    }

    /// Holds a backfill; its active runs go on.
    pub(super) fn pause_backfill(&mut self, id: BackfillId) -> Applied {
        self.turn_backfill(id, BackfillState::Running, BackfillState::Paused)
    }

    /// Lets it go on.
    pub(super) fn resume_backfill(&mut self, id: BackfillId) -> Applied {
        self.turn_backfill(id, BackfillState::Paused, BackfillState::Running)
    }

    fn turn_backfill(&mut self, id: BackfillId, from: BackfillState, to: BackfillState) -> Applied {
        let row = self.state.backfills.get(&id).ok_or(Refusal::NotFound(Thing::Backfill(id)))?;
        if row.state != from && row.state != to {
            return Err(conflict(Thing::Backfill(id), "it is over or being cancelled", "create a new one"));
        }
        self.change_backfill(id, |row| row.state = to);
        self.backfills.insert(id);
        Ok(Answer::Done)
    }

    /// Ends a backfill: no new runs, and its active ones are cancelled.
    pub(super) fn cancel_backfill(&mut self, id: BackfillId) -> Applied {
        let row = self.state.backfills.get(&id).ok_or(Refusal::NotFound(Thing::Backfill(id)))?;
        if row.ended_at.is_some() {
            return Err(conflict(Thing::Backfill(id), "it is over already", "see `matins backfill get`"));
        }
        self.change_backfill(id, |row| {
            row.state = BackfillState::Stopping;
            row.cursor = None;
        });
        self.drop_backfill_ticks(id);
        self.cancel_runs_of(id, RunId(0), StopHow::Grace);
        self.backfills.insert(id);
        Ok(Answer::Done)
    }

    /// Ticks that were waiting are forgotten at once: they are rows of one table only.
    fn drop_backfill_ticks(&mut self, id: BackfillId) {
        let waiting = self.state.backfill_ticks.range((id, 0)..=(id, u64::MAX));
        let keys: Vec<_> = waiting.map(|(key, _)| *key).collect();
        for key in keys {
            self.state.backfill_ticks.remove(&key);
        }
        self.change_backfill(id, |row| {
            row.counts.cancelled += core::mem::take(&mut row.counts.waiting);
        });
    }
}
