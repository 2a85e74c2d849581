//! Ticks: each due tick of a schedule is decided once (PROTOCOL 3).

use alloc::string::String;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{Decision, Fire, Tick};
use crate::effect::Effect;
use crate::id::{RunId, ScheduleId};
use crate::ir::OnFull;
use crate::mutation::{Mutation, planted};
use crate::state::{DecisionCounts, Next, RunOrigin, SKIPS_KEPT_MAX, ScheduleRow, SkipReason, SkipRow};
use crate::time::Timestamp;

use super::run::NewRun;
use super::{Applied, Step};

impl Step<'_> {
    /// Decides the ticks of a schedule in `(from_mark, to_mark]`: runs, decisions, mark and `next` change together.
    pub(super) fn fire(&mut self, fire: Fire) -> Applied {
        self.check_fire(&fire)?;
        let makes_runs = fire.decisions.iter().any(|decision| matches!(decision, Decision::Run(_)));
        if makes_runs {
            // The ticks stay due: a full state delays them and loses none (PROTOCOL 3.3).
            self.state.check_room_for_runs()?;
        }
        let mut runs = Vec::new();
        let moves_only = planted(Mutation::MarkMovedWithoutDecisions);
        for decision in fire.decisions.into_iter().filter(|_| !moves_only) {
            match decision {
                Decision::Run(tick) => runs.extend(self.fire_tick(&fire.schedule, tick)),
                Decision::Skip { from, to, count, reason } => {
                    self.skip(&fire.schedule, (from, to), (count, reason));
                }
            }
        }
        self.move_mark(&fire.schedule, fire.to_mark, fire.next.map_or(Next::Never, Next::At));
        Ok(Answer::Fired(runs))
    }

    fn check_fire(&self, fire: &Fire) -> Result<(), Refusal> {
        let id = &fire.schedule;
        let row =
            self.state.schedules.get(id).ok_or_else(|| Refusal::NotFound(Thing::Schedule(id.clone())))?;
        let is_marked = row.mark == fire.from_mark || planted(Mutation::FireMarkNotChecked);
        if row.version != fire.version || !is_marked || row.quarantine.is_some() {
            return Err(Refusal::Stale(Stale::Schedule(id.clone())));
        }
        if fire.to_mark > self.now() || fire.to_mark < fire.from_mark {
            return Err(Refusal::Invalid("a Fire decides ticks that are not due yet".into()));
        }
        if fire.next.is_some_and(|next| next <= fire.to_mark) {
            return Err(Refusal::Invalid("the next tick of a Fire lies before its mark".into()));
        }
        self.check_decisions(fire, row)
    }

    fn check_decisions(&self, fire: &Fire, row: &ScheduleRow) -> Result<(), Refusal> {
        let mut decided = fire.from_mark;
        for decision in &fire.decisions {
            let (first, last) = match decision {
                Decision::Run(tick) => (tick.logical_time, tick.logical_time),
                Decision::Skip { from, to, .. } => (*from, *to),
            };
            if first <= decided || last < first || last > fire.to_mark {
                return Err(Refusal::Invalid(
                    "the decisions of a Fire are out of order or out of range".into(),
                ));
            }
            decided = last;
            if let Decision::Run(tick) = decision {
                if row.paused_since().is_some_and(|since| tick.logical_time > since) {
                    return Err(Refusal::Stale(Stale::Schedule(fire.schedule.clone())));
                }
                self.check_tick_size(tick)?;
            }
        }
        Ok(())
    }

    fn check_tick_size(&self, tick: &Tick) -> Result<(), Refusal> {
        if tick.params.is_ok() { self.check_params(tick) } else { Ok(()) }
    }

    /// One tick becomes a run, unless the gate is full and the workflow skips then.
    fn fire_tick(&mut self, schedule: &ScheduleId, tick: Tick) -> Option<RunId> {
        let (version, definition) = self.current_version(&schedule.workflow)?;
        let skips = matches!(self.state.gate_of(&schedule.workflow), Some((_, OnFull::Skip)));
        if skips && self.state.is_gate_full(&schedule.workflow) {
            let at = tick.logical_time;
            self.skip(schedule, (at, at), (1, SkipReason::Running));
            return None;
        }
        self.state.schedules.update(schedule, |row| {
            row.counts.runs += 1;
            row.counts.last_run = Some(tick.logical_time);
        });
        Some(self.make_run(NewRun {
            workflow: schedule.workflow.clone(),
            definition,
            version: Some(version),
            origin: RunOrigin::Schedule,
            schedule: Some(schedule.schedule.clone()),
            tick,
            retry_of: None,
        }))
    }

    /// Counts ticks that were skipped, and keeps a record of them. What one leader skipped for one reason, with no
    /// run between, is one row: a pause of a month is one, however many ticks it has.
    pub(super) fn skip(
        &mut self,
        schedule: &ScheduleId,
        (from, to): (Timestamp, Timestamp),
        (count, reason): (u32, SkipReason),
    ) {
        let last_run = self.state.schedules.update(schedule, |row| {
            row.counts.skip(to, count, reason);
            row.counts.last_run
        });
        let first = (schedule.clone(), Timestamp::from_millis(i64::MIN));
        let kept = self.state.skips.range(first..=(schedule.clone(), to));
        let (kept, newest) = kept.fold((0, None), |(kept, _), row| (kept + 1, Some(row)));
        let newest = newest.map(|((_, to), row)| (*to, row.clone()));
        let mut row = SkipRow { from, count, reason, index: self.state.index, at: self.now() };
        let leader = self.state.leader_at(self.state.index);
        let goes_on = |before: &SkipRow| {
            before.reason == reason
                && self.state.leader_at(before.index) == leader
                && last_run.flatten().is_none_or(|run| run < before.from)
        };
        match newest {
            Some((before_to, before)) if goes_on(&before) => {
                row.from = before.from;
                row.count = row.count.saturating_add(before.count);
                self.state.skips.remove(&(schedule.clone(), before_to));
            }
            Some(_) if kept >= SKIPS_KEPT_MAX => self.forget_oldest_skip(schedule),
            Some(_) | None => {}
        }
        self.state.skips.insert((schedule.clone(), to), row);
        self.touch(2);
    }

    fn forget_oldest_skip(&mut self, schedule: &ScheduleId) {
        let first = (schedule.clone(), Timestamp::from_millis(i64::MIN));
        let oldest = self.state.skips.range(first..=(schedule.clone(), Timestamp::MAX)).next();
        if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
            self.state.skips.remove(&oldest);
        }
    }

    /// Moves the mark of a schedule and sets what comes next. A mark never falls (I2).
    pub(super) fn move_mark(&mut self, schedule: &ScheduleId, mark: Timestamp, next: Next) {
        let before = self.state.schedules.update(schedule, |row| {
            let before = row.next;
            row.mark = row.mark.max(mark);
            row.next = next;
            before
        });
        if let Some(due) = before.and_then(Next::due_at) {
            self.state.due.remove(&(due, schedule.clone()));
        }
        if let Some(due) = next.due_at() {
            self.state.due.insert((due, schedule.clone()), ());
        }
        self.effects.push(Effect::Schedule(schedule.clone()));
        self.touch(3);
    }

    /// A schedule that cannot be evaluated fires no more until it is changed; others go on (PROTOCOL 3.6).
    pub(super) fn quarantine(&mut self, schedule: &ScheduleId, version: u64, reason: String) -> Applied {
        let row = self.state.schedules.get(schedule);
        let row = row.ok_or_else(|| Refusal::NotFound(Thing::Schedule(schedule.clone())))?;
        if row.version != version {
            return Err(Refusal::Stale(Stale::Schedule(schedule.clone())));
        }
        let now = self.now();
        let mark = row.mark;
        if let Some(due) = row.next.due_at().filter(|due| *due <= now) {
            self.skip(schedule, (due.max(mark), now), (1, SkipReason::Quarantine));
        }
        self.state.schedules.update(schedule, |row| row.quarantine = Some(reason));
        self.move_mark(schedule, now, Next::Never);
        Ok(Answer::Done)
    }
}

impl DecisionCounts {
    fn skip(&mut self, last: Timestamp, count: u32, reason: SkipReason) {
        self.skips[reason as usize] += u64::from(count);
        self.last_skip = Some((last, reason));
    }
}
