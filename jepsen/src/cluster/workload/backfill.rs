//! **backfill**: every tick of a past range has exactly one finished run, across failovers, also where ranges overlap.
//!
//! Ranges lie around nights on which clocks change, so that the calendar is proved too. Start at [`Backfill`]; [`broken`]
//! is the checker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use matins_proto::Timestamp;
use matins_proto::v1::backfill::State;
use matins_proto::v1::create_backfill_request::Reprocess;
use matins_proto::v1::{
    CreateBackfillRequest, GetBackfillRequest, ListSchedulesRequest, PauseBackfillRequest,
    ResumeBackfillRequest, run,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use crate::report::Report;

use super::calendar::{Field, Fold, Rule};
use super::call::Call;
use super::doors::{Doors, Heard};
use super::excuse::Excuses;
use super::record::read;
use super::spans::{Use, spans, within};
use super::{Site, Trouble, Until, Workload, runs};

const NAME: &str = "backfill";

/// Backfills that are under way at the same time.
const ACTIVE_MAX: usize = 3;

/// Ticks of a range, about.
const TICKS: i64 = 8;

const DAY: i64 = 86_400_000;

/// One backfill that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: String,
    /// Place of its rule.
    pub(crate) rule: usize,
    pub(crate) max_active: u32,
    /// The ticks of its range by the independent calendar.
    pub(crate) ticks: Vec<i64>,
}

/// A run that a backfill made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) run: String,
    pub(crate) backfill: String,
    pub(crate) rule: usize,
    pub(crate) logical: i64,
    pub(crate) is_success: bool,
    /// When it got its place, in leader time.
    pub(crate) started: i64,
}

/// What was asked, and what came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) asked: Vec<Asked>,
    pub(crate) made: Vec<Made>,
    /// Backfills that ended other than in success, and how.
    pub(crate) unsuccessful: Vec<(String, String)>,
}

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Backfill {
    asked: Vec<Asked>,
    pauses: u64,
}

/// The schedules whose past is run again, one workflow each.
fn rules() -> [Rule; 3] {
    let list = |values: &[i8]| Field::List(values.to_vec());
    [
        // In New York this time does not exist on one night of the year.
        Rule {
            minutes: list(&[30]),
            hours: list(&[2]),
            zone: "America/New_York",
            fold: Fold::First,
            ..Rule::minutely()
        },
        // In Berlin this one exists twice on another.
        Rule {
            minutes: list(&[15]),
            hours: list(&[2, 14]),
            zone: "Europe/Berlin",
            fold: Fold::Both,
            ..Rule::minutely()
        },
        // Either day will do; there is no gap here, and the offset is odd.
        Rule {
            minutes: list(&[45]),
            hours: list(&[6]),
            days: list(&[1, 15, 28]),
            weekdays: list(&[1, 4]),
            zone: "Asia/Kathmandu",
            gap_shifts: false,
            ..Rule::minutely()
        },
    ]
}

#[tonic::async_trait]
impl Workload for Backfill {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let mut text = String::new();
        for (number, rule) in rules().iter().enumerate() {
            let run =
                Call { lock: Some(format!("{number}-{{{{ logical_time | unix }}}}")), ..Call::hold(120) };
            let _ = writeln!(
                text,
                "---\nworkflow: past-{number}\nschedules:\n  nightly: {{ {}, catchup: none }}\ntasks:\n  load: {{ run: {} }}",
                rule.keys(),
                run.run(site, NAME)?
            );
        }
        let doors = Doors::open(site)?;
        runs::apply(&doors, NAME, text).await?;
        let ask = ListSchedulesRequest { namespace: NAME.into(), ..ListSchedulesRequest::default() };
        let there = doors.surely(ask).await?.schedules.len();
        if there == rules().len() { Ok(()) } else { Err(Trouble(format!("{there} schedules are there"))) }
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let mut random = StdRng::seed_from_u64(site.seed);
        // Each rule goes its way through the past, so that only ranges that are meant to overlap do.
        let start = |text: &str| Timestamp::parse(text).map_or(0, Timestamp::as_millis);
        let begins = ["2026-03-04T00:00:00Z", "2025-10-23T00:00:00Z", "2025-01-10T00:00:00Z"];
        let mut next = begins.map(start);
        while !until.is_over() {
            let active = self.active(&doors, &mut random).await?;
            if active.len() >= ACTIVE_MAX {
                self.pause_one(&doors, &mut random, &active).await?;
                sleep(Duration::from_millis(300)).await;
                continue;
            }
            let rule = random.random_range(0..next.len());
            let days = if rule == 1 { TICKS / 2 } else { TICKS };
            // Every other one begins inside of the one before, which may still be at work.
            let overlap = if random.random_bool(0.5) { 2 } else { 0 };
            let (from, to) = (next[rule] - overlap * DAY, next[rule] + days * DAY);
            next[rule] = to;
            let max_active = random.random_range(1..=4);
            self.create(&doors, (rule, from, to), max_active).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let deadline = Instant::now() + within;
        for asked in &self.asked {
            // One that has ended refuses, which is as well.
            let ask = ResumeBackfillRequest { backfill: asked.id.clone(), ..Default::default() };
            if let Heard::Maybe = doors.patiently(ask).await? {
                return Err(Trouble(format!("nobody answers whether {} goes on", asked.id)));
            }
        }
        loop {
            let mut left = Vec::new();
            for asked in &self.asked {
                let ask = GetBackfillRequest { backfill: asked.id.clone(), ..GetBackfillRequest::default() };
                let backfill = doors.surely(ask).await?.backfill.unwrap_or_default();
                match backfill.state() {
                    State::Success | State::Failed | State::Cancelled => {}
                    State::Unspecified | State::Running | State::Paused | State::Stopping => {
                        left.push(format!("I15: {} is still {}", asked.id, backfill.state().as_str_name()));
                    }
                }
            }
            if left.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                site.report(NAME, left, report);
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        runs::settle(site, NAME, deadline.saturating_duration_since(Instant::now()), report).await
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let mut history = History { asked: self.asked.clone(), ..History::default() };
        let mut backfill_of: BTreeMap<String, String> = BTreeMap::new();
        let all = runs::whole(&doors, NAME).await?;
        let excuses = Excuses::read(site, &all);
        for run in all {
            let Some(backfill) = run.backfill.clone() else { continue };
            let rule = run.workflow.rsplit('-').next().and_then(|number| number.parse().ok());
            backfill_of.insert(run.id.clone(), backfill.clone());
            history.made.push(Made {
                rule: rule.ok_or_else(|| Trouble(format!("{} is of {}", run.id, run.workflow)))?,
                is_success: run.state() == run::State::Success,
                logical: run.logical_time.map_or(0, Timestamp::as_millis),
                started: run.started_at.map_or(0, Timestamp::as_millis),
                run: run.id,
                backfill,
            });
        }
        for asked in &self.asked {
            let ask = GetBackfillRequest { backfill: asked.id.clone(), ..GetBackfillRequest::default() };
            let backfill = doors.surely(ask).await?.backfill.unwrap_or_default();
            if backfill.state() != State::Success {
                history.unsuccessful.push((asked.id.clone(), backfill.state().as_str_name().to_owned()));
            }
        }
        let (spans, mut found) = spans(&read(&site.record_file(NAME))?);
        excuses.tell(NAME, &spans, report);
        let spans = excuses.counted(spans);
        found.extend(broken(&history));
        // Each backfill keeps to its own number of active runs, as the tasks themselves saw it.
        let uses: Vec<Use> = spans
            .iter()
            .filter_map(|span| {
                let limit = backfill_of.get(&span.run)?.clone();
                Some(Use { limit, holder: span.run.clone(), amount: 1, start: span.start, end: span.end })
            })
            .collect();
        let limits = self.asked.iter().map(|asked| (asked.id.clone(), asked.max_active)).collect();
        found.extend(within(&uses, &limits));
        report.needs("backfill: backfills", self.asked.len() as u64, 4);
        report.needs("backfill: ticks", history.asked.iter().map(|it| it.ticks.len() as u64).sum(), 30);
        report.needs("backfill: runs", history.made.len() as u64, 30);
        report.figure("backfill: pauses", self.pauses);
        site.report(NAME, found, report);
        Ok(())
    }
}

impl Backfill {
    /// Those that have not ended, as some node knows it now.
    async fn active(&self, doors: &Doors, random: &mut StdRng) -> Result<Vec<String>, Trouble> {
        let mut active = Vec::new();
        for asked in self.asked.iter().rev().take(2 * ACTIVE_MAX) {
            let ask = GetBackfillRequest { backfill: asked.id.clone(), ..GetBackfillRequest::default() };
            let is_over = match doors.at(doors.any(random), ask).await? {
                Heard::Done(answer) => matches!(
                    answer.backfill.unwrap_or_default().state(),
                    State::Success | State::Failed | State::Cancelled
                ),
                Heard::Refused(_) | Heard::Maybe => false,
            };
            if !is_over {
                active.push(asked.id.clone());
            }
        }
        Ok(active)
    }

    /// Now and then pauses one for a moment.
    async fn pause_one(
        &mut self,
        doors: &Doors,
        random: &mut StdRng,
        active: &[String],
    ) -> Result<(), Trouble> {
        if random.random_bool(0.7) {
            return Ok(());
        }
        let backfill = active[random.random_range(0..active.len())].clone();
        let ask = PauseBackfillRequest { backfill: backfill.clone(), ..PauseBackfillRequest::default() };
        if let Heard::Done(_) = doors.at(doors.any(random), ask).await? {
            self.pauses += 1;
        }
        sleep(Duration::from_millis(400)).await;
        // Where nobody answers it stays paused, until all are resumed in the end.
        doors.at(doors.any(random), ResumeBackfillRequest { backfill, ..Default::default() }).await?;
        Ok(())
    }

    /// Makes a backfill, and repeats that under one request id until it is known which it is.
    async fn create(
        &mut self,
        doors: &Doors,
        (rule, from, to): (usize, i64, i64),
        max_active: u32,
    ) -> Result<(), Trouble> {
        let instant = |at| Timestamp::from_millis(at).to_string();
        let ask = CreateBackfillRequest {
            request_id: format!("backfill-{rule}-{from}-{to}"),
            workflow: format!("{NAME}/past-{rule}"),
            from: instant(from),
            to: instant(to - 1),
            reprocess: Reprocess::Missing.into(),
            max_active,
            ..CreateBackfillRequest::default()
        };
        let made = doors.surely(ask).await?.backfill.unwrap_or_default();
        // Both ends belong to the range.
        let ticks = rules()[rule].due(from - 1, to - 1)?;
        self.asked.push(Asked { id: made.id, rule, max_active, ticks });
        Ok(())
    }
}

/// Every tick that was asked for has exactly one finished run, and nothing else has one; one at a time means in order.
pub(crate) fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let asked: BTreeSet<(usize, i64)> =
        history.asked.iter().flat_map(|it| it.ticks.iter().map(|tick| (it.rule, *tick))).collect();
    let mut made: BTreeMap<(usize, i64), Vec<&Made>> = BTreeMap::new();
    for run in &history.made {
        made.entry((run.rule, run.logical)).or_default().push(run);
    }
    let time = |millis| Timestamp::from_millis(millis).to_string();
    for (rule, tick) in &asked {
        let runs = made.get(&(*rule, *tick)).map_or(&[][..], Vec::as_slice);
        let names: Vec<&str> = runs.iter().map(|run| run.run.as_str()).collect();
        match runs {
            [run] if run.is_success => {}
            [run] => broken.push(format!("past-{rule}, {}: {} did not succeed", time(*tick), run.run)),
            [] => broken.push(format!("I1: past-{rule}, {}: there is no run", time(*tick))),
            _ => broken.push(format!("I3: past-{rule}, {}: there are {names:?}", time(*tick))),
        }
    }
    for ((rule, tick), runs) in made.iter().filter(|(key, _)| !asked.contains(key)) {
        let (run, time) = (&runs[0].run, time(*tick));
        broken.push(format!("I1: past-{rule}: {run} is for {time}, which nobody asked for or is no tick"));
    }
    for (id, state) in &history.unsuccessful {
        broken.push(format!("{id} ended {state}, and all its runs can succeed"));
    }
    for asked in history.asked.iter().filter(|asked| asked.max_active == 1) {
        let mut runs: Vec<&Made> = history.made.iter().filter(|run| run.backfill == asked.id).collect();
        runs.sort_by_key(|run| (run.started, run.logical));
        for pair in runs.windows(2).filter(|pair| pair[1].logical < pair[0].logical) {
            let (first, second) = (&pair[0].run, &pair[1].run);
            broken.push(format!("{}: {first} went before {second}, which is for an earlier tick", asked.id));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> History {
        let made = |logical: i64| Made {
            run: format!("run-{logical}"),
            backfill: "backfill-1".into(),
            rule: 0,
            logical,
            is_success: true,
            started: 100 + logical,
        };
        let asked =
            |id: &str, ticks: &[i64]| Asked { id: id.into(), rule: 0, max_active: 1, ticks: ticks.to_vec() };
        History {
            // The second overlaps the first, and finds all but one of its ticks done.
            asked: vec![asked("backfill-1", &[1, 2, 3]), asked("backfill-2", &[2, 3])],
            made: [1, 2, 3].map(made).to_vec(),
            unsuccessful: Vec::new(),
        }
    }

    #[test]
    fn one_run_for_each_tick_is_right() {
        assert_eq!(broken(&good()), Vec::<String>::new());
    }

    #[test]
    fn a_missing_a_doubled_and_a_failed_one_are_found() {
        let mut history = good();
        history.made.remove(1);
        assert_eq!(broken(&history).len(), 1);
        let mut history = good();
        history.made.push(Made {
            run: "run-x".into(),
            backfill: "backfill-2".into(),
            ..history.made[1].clone()
        });
        assert!(broken(&history)[0].contains("run-x"));
        let mut history = good();
        history.made[1].is_success = false;
        assert_eq!(broken(&history).len(), 1);
    }

    #[test]
    fn a_run_that_nobody_asked_for_is_found() {
        let mut history = good();
        history.made.push(Made { run: "run-9".into(), logical: 9, ..history.made[0].clone() });
        assert_eq!(broken(&history).len(), 1 + 1, "it is out of order too");
    }

    #[test]
    fn a_wrong_order_is_found() {
        let mut history = good();
        history.made[0].started = 1_000;
        assert_eq!(broken(&history).len(), 1);
    }

    #[test]
    fn a_backfill_that_failed_is_found() {
        let mut history = good();
        history.unsuccessful.push(("backfill-1".into(), "failed".into()));
        assert_eq!(broken(&history).len(), 1);
    }
}
