//! The oracle of ticks: what every tick of every schedule had to become, worked out from the log alone by a calendar and
//! rules of its own, against what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use matins_core::Answer;
use matins_core::command::{Apply, Command, Decision, Fire};
use matins_core::id::{RunId, ScheduleId, WorkflowName};
use matins_core::state::{Next, SkipReason, State};

use super::stories::{Due, POOL_SLOTS, Policy};
use super::world::World;

/// What was decided about one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    Run,
    Skip(SkipReason),
}

/// All that is known of the schedule of one workflow.
#[derive(Default)]
struct Book {
    due: Option<Due>,
    mark: i64,
    paused_at: Option<i64>,
    /// Spans of time under one calendar, closed ones: `(from, to]`.
    spans: Vec<(Due, i64, i64)>,
    since: i64,
    decided: BTreeMap<i64, Decided>,
    /// Ticks of the present calendar, worked out up to an instant.
    ahead: Vec<i64>,
    ahead_until: i64,
}

/// All books of one seed.
pub(super) struct Ledger {
    books: BTreeMap<ScheduleId, Book>,
    workflow_paused_at: BTreeMap<WorkflowName, i64>,
    /// The newest outage, the one before it, and the entry that noted it.
    outage: (Option<i64>, Option<i64>, u64),
    runs: BTreeMap<(ScheduleId, i64), Vec<RunId>>,
    /// The most slots that the pool ever had.
    pub(super) pool_slots_max: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            books: BTreeMap::new(),
            workflow_paused_at: BTreeMap::new(),
            outage: (None, None, 0),
            runs: BTreeMap::new(),
            pool_slots_max: POOL_SLOTS,
        }
    }
}

/// PROTOCOL 3.2, by default.
const GRACE: i64 = 600_000;
/// A Fire that was computed before an outage was noted may be applied after it, within so many entries.
const ON_ITS_WAY: u64 = 64;
const DAY: i64 = 86_400_000;

impl Book {
    /// The ticks in `(mark, until]`.
    fn ticks_until(&mut self, until: i64) -> Vec<i64> {
        let Some(due) = &self.due else { return Vec::new() };
        if until > self.ahead_until {
            let to = until + 2 * DAY;
            self.ahead = due.almanac.ticks(self.mark, to);
            self.ahead_until = to;
        }
        let first = self.ahead.partition_point(|tick| *tick <= self.mark);
        let last = self.ahead.partition_point(|tick| *tick <= until);
        self.ahead[first.min(last)..last].to_vec()
    }

    /// A change was accepted: nothing may be left undecided before it (PROTOCOL 3.5).
    fn renew(&mut self, due: Option<Due>, now: i64) -> Result<(), String> {
        let left = self.ticks_until(now);
        if let (Some(old), true) = (self.due.clone(), self.since < now) {
            self.spans.push((old, self.since, now));
        }
        self.due = due;
        self.mark = self.mark.max(now);
        self.since = now;
        self.ahead_until = i64::MIN;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("3.5: a change was accepted and left {} due ticks undecided", left.len()))
        }
    }
}

/// PROTOCOL 3.5: a pause raises the version, so that what was computed before it is refused.
fn check_version_rises((before, after): (&State, &State), id: &ScheduleId) -> Result<(), String> {
    let version = |state: &State| state.schedules.get(id).map(|row| row.version);
    if version(before).is_some() && version(before) == version(after) {
        return Err(format!("3.5: a pause of {id} left its version as it was"));
    }
    Ok(())
}

impl World {
    /// Takes one accepted command into the books.
    pub(super) fn book(&mut self, states: (&Arc<State>, &Arc<State>), command: &Command, answer: &Answer) {
        let now = states.1.now.as_millis();
        if let Err(fault) = self.book_command((states.0, states.1), command, answer, now) {
            self.breaks(fault);
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other commands decide nothing about ticks")]
    fn book_command(
        &mut self,
        (before, after): (&State, &State),
        command: &Command,
        answer: &Answer,
        now: i64,
    ) -> Result<(), String> {
        match command {
            Command::LeaderReady { .. } | Command::Time(_) => {
                let was = before.now.as_millis();
                if was > 0 && now - was > GRACE {
                    // No Fire from before a `LeaderReady` may come after it (PROTOCOL 2.1); one from before a `Time` may.
                    let before =
                        if matches!(command, Command::Time(_)) { self.ledger.outage.0 } else { Some(now) };
                    self.ledger.outage = (Some(now), before, self.index().0);
                }
                Ok(())
            }
            Command::Fire(fire) => self.book_fire((before, after), fire, answer),
            Command::PauseSchedule(id) => {
                let book = self.ledger.books.entry(id.clone()).or_default();
                book.paused_at.get_or_insert(now);
                check_version_rises((before, after), id)
            }
            Command::ResumeSchedule(id) => {
                let book = self.ledger.books.entry(id.clone()).or_default();
                if book.paused_at.take().is_some() {
                    return book.renew(book.due.clone(), now);
                }
                Ok(())
            }
            Command::PauseWorkflow(name) => {
                self.ledger.workflow_paused_at.entry(name.clone()).or_insert(now);
                Ok(())
            }
            Command::ResumeWorkflow(name) => {
                if self.ledger.workflow_paused_at.remove(name).is_some() {
                    return self.renew_of(name, now);
                }
                Ok(())
            }
            Command::DeleteWorkflow(name) => {
                self.ledger.workflow_paused_at.remove(name);
                for (id, book) in self.ledger.books.iter_mut().filter(|(id, _)| id.workflow == *name) {
                    book.paused_at = None;
                    book.renew(None, now).map_err(|fault| format!("{fault} ({id} was deleted)"))?;
                }
                Ok(())
            }
            Command::Apply(apply) => self.book_apply(apply, now),
            Command::Recalculate { schedules, .. } => {
                for (id, _) in schedules {
                    let book = self.ledger.books.entry(id.clone()).or_default();
                    book.renew(book.due.clone(), now)?;
                }
                Ok(())
            }
            Command::SetPool { slots, .. } => {
                self.ledger.pool_slots_max = self.ledger.pool_slots_max.max(*slots);
                Ok(())
            }
            Command::Quarantine { schedule, .. } => {
                Err(format!("3.6: {schedule} was quarantined for nothing"))
            }
            Command::Decide(decide) => {
                let task = decide.task;
                if before.deciding.contains(&task) && before.inputs_of(task) != decide.inputs {
                    return Err(format!(
                        "4.2: a decision about {task:?} was taken that was made from other inputs"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A schedule that an apply changed begins anew; one that it left as it was goes on.
    fn book_apply(&mut self, apply: &Apply, now: i64) -> Result<(), String> {
        for workflow in &apply.workflows {
            let due = self.stories.get(&workflow.definition).and_then(|story| story.due.clone());
            let id =
                ScheduleId { workflow: workflow.name.clone(), schedule: "tick".parse().expect("a name") };
            let book = self.ledger.books.entry(id).or_default();
            if book.due != due {
                book.renew(due, now)?;
            }
        }
        Ok(())
    }

    fn renew_of(&mut self, name: &WorkflowName, now: i64) -> Result<(), String> {
        for (_, book) in self.ledger.books.iter_mut().filter(|(id, _)| id.workflow == *name) {
            book.renew(book.due.clone(), now)?;
        }
        Ok(())
    }

    /// Compares one Fire with what the oracle says (I1, PROTOCOL 3.1 to 3.3).
    fn book_fire(
        &mut self,
        (before, after): (&State, &State),
        fire: &Fire,
        answer: &Answer,
    ) -> Result<(), String> {
        let Answer::Fired(runs) = answer else {
            return Err("3.1: a Fire was answered something else".into());
        };
        let id = &fire.schedule;
        let paused = self.ledger.workflow_paused_at.get(&id.workflow).copied();
        let outage = self.ledger.outage;
        let (from, to) = (fire.from_mark.as_millis(), fire.to_mark.as_millis());
        let index = self.index().0;
        let book = self.ledger.books.entry(id.clone()).or_default();
        if from != book.mark {
            return Err(format!("I1: a Fire of {id} was accepted from {from}, its mark was {}", book.mark));
        }
        let paused = [paused, book.paused_at].into_iter().flatten().min();
        let ticks = book.ticks_until(after.now.as_millis());
        let actual = decided(fire, &ticks)?;
        let Some(due) = book.due.clone() else { return Err(format!("I1: {id} fired without a calendar")) };
        let expect = |outage| expected(&due, &ticks, to, paused, outage);
        let is_on_its_way = index - outage.2 < ON_ITS_WAY;
        if expect(outage.0) != actual && !(is_on_its_way && expect(outage.1) == actual) {
            let expected = expect(outage.0);
            let differ = expected.iter().zip(&actual).find(|(expected, actual)| expected != actual);
            return Err(format!(
                "I1: {id} decided {} ticks up to {to}, the oracle {}; first difference (oracle, cluster): {differ:?}; outage {outage:?}, paused {paused:?}",
                actual.len(),
                expected.len()
            ));
        }
        book.mark = to;
        let mut wanted = 0;
        for (tick, what) in &actual {
            if book.decided.insert(*tick, *what).is_some() {
                return Err(format!("I1: {id} decided {tick} twice"));
            }
            wanted += usize::from(*what == Decided::Run);
            self.counts.missed += u64::from(outage.0.is_some_and(|outage| *tick < outage - GRACE));
            self.counts.skipped += u64::from(*what != Decided::Run);
        }
        self.counts.ticks += actual.len() as u64;
        self.book_runs((before, after), fire, runs, wanted)
    }

    /// Each tick that was to run has its run, unless the gate was full and the workflow skips then.
    fn book_runs(
        &mut self,
        (before, after): (&State, &State),
        fire: &Fire,
        runs: &[RunId],
        wanted: usize,
    ) -> Result<(), String> {
        let id = &fire.schedule;
        for run in runs {
            let Some(row) = after.runs.get(run) else {
                return Err(format!("3.1: {run} was made and is not there"));
            };
            if row.schedule_id().as_ref() != Some(id) {
                return Err(format!("3.1: {run} was made for {id} and is of something else"));
            }
            self.ledger.runs.entry((id.clone(), row.logical_time.as_millis())).or_default().push(*run);
        }
        if runs.len() == wanted {
            return Ok(());
        }
        let current = |state: &State| {
            let version = state.workflows.get(&id.workflow)?.current?;
            state.versions.get(&(id.workflow.clone(), version)).map(|row| row.definition)
        };
        let story = current(before).and_then(|definition| self.stories.get(&definition));
        let most = story.filter(|story| story.skips_when_full).and_then(|story| story.active_max);
        let active = |state: &State| state.workflows.get(&id.workflow).map_or(0, |row| row.active_runs);
        if runs.len() < wanted && most.is_some_and(|most| active(before).max(active(after)) >= most) {
            return Ok(());
        }
        Err(format!("I1: {id} decided that {wanted} ticks run and made {} runs", runs.len()))
    }

    /// The last word: all ticks of all schedules up to their marks, against decisions, runs and outcomes.
    pub(super) fn close_the_books(&mut self) -> Result<(), String> {
        let state = self.state();
        for (id, book) in &self.ledger.books {
            let mut spans = book.spans.clone();
            spans.extend(book.due.clone().map(|due| (due, book.since, book.mark)));
            let all: Vec<i64> =
                spans.iter().flat_map(|(due, from, to)| due.almanac.ticks(*from, *to)).collect();
            let decided: Vec<i64> = book.decided.keys().copied().collect();
            if all != decided {
                return Err(format!(
                    "I1: {id} has {} ticks up to its mark, {} are decided",
                    all.len(),
                    decided.len()
                ));
            }
            if let Some(row) = state.schedules.get(id) {
                let next = book
                    .due
                    .as_ref()
                    .and_then(|due| due.almanac.ticks(book.mark, book.mark + 40 * DAY).first().copied());
                let told = match row.next {
                    Next::At(at) => Some(at.as_millis()),
                    Next::Unknown | Next::Never => None,
                };
                if row.mark.as_millis() != book.mark || (next.is_some() && told != next) {
                    return Err(format!(
                        "I2: {id} has mark and next {:?} {told:?}, the oracle {} {next:?}",
                        row.mark, book.mark
                    ));
                }
            }
        }
        for ((id, tick), runs) in &self.ledger.runs {
            if runs.len() != 1 {
                return Err(format!("I3: {id} at {tick} made {runs:?}"));
            }
            let is_known = |run: &RunId| state.runs.contains(run) || self.past.ended.contains_key(run);
            if !runs.iter().all(is_known) {
                return Err(format!("I3: the run of {id} at {tick} is neither in the state nor in history"));
            }
        }
        Ok(())
    }
}

/// What a Fire says about each tick.
fn decided(fire: &Fire, ticks: &[i64]) -> Result<Vec<(i64, Decided)>, String> {
    let mut all = Vec::new();
    for decision in &fire.decisions {
        match decision {
            Decision::Run(tick) => all.push((tick.logical_time.as_millis(), Decided::Run)),
            Decision::Skip { from, to, count, reason } => {
                let (from, to) = (from.as_millis(), to.as_millis());
                let range: Vec<i64> =
                    ticks.iter().copied().filter(|tick| (from..=to).contains(tick)).collect();
                if range.len() != *count as usize || range.first() != Some(&from) || range.last() != Some(&to)
                {
                    return Err(format!(
                        "I1: a range from {from} to {to} counts {count} ticks, the oracle {}",
                        range.len()
                    ));
                }
                all.extend(range.into_iter().map(|tick| (tick, Decided::Skip(*reason))));
            }
        }
    }
    Ok(all)
}

/// What the ticks up to `to` have to become; `ticks` are all that are undecided and due.
fn expected(
    due: &Due,
    ticks: &[i64],
    to: i64,
    paused: Option<i64>,
    outage: Option<i64>,
) -> Vec<(i64, Decided)> {
    let is_paused = |tick: i64| paused.is_some_and(|paused| tick > paused);
    let is_missed = |tick: i64| !is_paused(tick) && outage.is_some_and(|outage| tick < outage - GRACE);
    let opens = outage.map_or(i64::MIN, |outage| outage - due.window_ms);
    let keep = match due.policy {
        Policy::None => 0,
        Policy::Latest => 1,
        Policy::All => due.limit.min(500),
    };
    let in_window: Vec<i64> =
        ticks.iter().copied().filter(|tick| is_missed(*tick) && *tick >= opens).collect();
    let kept = &in_window[in_window.len().saturating_sub(keep)..];
    let of = |tick: i64| {
        if is_paused(tick) {
            Decided::Skip(SkipReason::Paused)
        } else if !is_missed(tick) || kept.contains(&tick) {
            Decided::Run
        } else if due.policy != Policy::None && tick < opens {
            Decided::Skip(SkipReason::CatchupWindow)
        } else if due.policy == Policy::All {
            Decided::Skip(SkipReason::CatchupLimit)
        } else {
            Decided::Skip(SkipReason::CatchupPolicy)
        }
    };
    ticks.iter().take_while(|tick| **tick <= to).map(|tick| (*tick, of(*tick))).collect()
}
