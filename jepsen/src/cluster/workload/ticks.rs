//! **ticks**: each due tick of hundreds of schedules has exactly one decision and the right one, at its nominal time.
//!
//! Most schedules make runs whose only task is skipped by its condition, so that ticks are plenty and cheap; some work
//! longer than their interval, so that `on_full` has to decide. Some are paused and resumed on the way. What must come
//! of it is worked out by a calendar of our own ([`super::calendar`]). Start at [`Ticks`]; `ticks/check.rs` is the checker.

mod check;
mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use matins_client::{Call as _, Command};
use matins_proto::v1::run_origin::Kind;
use matins_proto::v1::{
    ClusterStatusRequest, ListSchedulesRequest, ListWorkflowsRequest, PauseScheduleRequest,
    PauseWorkflowRequest, ResumeScheduleRequest, ResumeWorkflowRequest, Run, Schedule, run,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use crate::report::Report;

use super::doors::{Doors, Heard};
use super::{Site, Trouble, Until, Workload, runs};
use check::{GRACE, History, Outage, Pause, TickRun, broken_together};
use plan::Plan;

const NAME: &str = "ticks";

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Ticks {
    plans: Vec<Plan>,
    /// By schedule, when all were just made.
    begin: BTreeMap<String, Schedule>,
    pauses: BTreeMap<String, Vec<Pause>>,
    /// The leader time that was heard last, and the jump beyond the grace that was seen.
    heard: i64,
    leaderships: u64,
    outage: Option<Outage>,
    /// The bounds of the instant from which all schedules were held for good.
    held: (i64, i64),
}

#[tonic::async_trait]
impl Workload for Ticks {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let now = leader_time(&doors).await?;
        let (plans, texts) = plan::plans(site, now)?;
        self.plans = plans;
        for text in texts {
            runs::apply(&doors, NAME, text).await?;
        }
        for workflow in workflows(&doors).await? {
            // Only where it ran here before: a new workflow is not held.
            doors.surely(ResumeWorkflowRequest { workflow, ..ResumeWorkflowRequest::default() }).await?;
        }
        self.begin = schedules(&doors).await?;
        self.heard = leader_time(&doors).await?;
        Ok(())
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let mut random = StdRng::seed_from_u64(site.seed);
        while !until.is_over() {
            sleep(Duration::from_millis(500)).await;
            if let Heard::Done(status) = doors.at(doors.any(&mut random), ClusterStatusRequest {}).await?
                && let Some(now) = status.leader_time.filter(|_| status.ready)
            {
                self.hear(now.as_millis(), status.leaderships);
            }
            let plan = &self.plans[random.random_range(0..self.plans.len())];
            if random.random_bool(0.5) && plan.may_pause {
                let (key, hold) = (plan.key(), Duration::from_millis(random.random_range(500..2_500)));
                let pause = pause_for(&doors, plan, self.heard, hold).await?;
                self.heard = self.heard.max(pause.until_late);
                self.pauses.entry(key).or_default().push(pause);
            }
        }
        Ok(())
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let now = leader_time(&doors).await?;
        let leaderships = doors.surely(ClusterStatusRequest {}).await?.leaderships;
        self.hear(now, leaderships);
        for workflow in workflows(&doors).await? {
            doors.surely(PauseWorkflowRequest { workflow, ..PauseWorkflowRequest::default() }).await?;
        }
        self.held = (now, leader_time(&doors).await?);
        runs::settle(site, NAME, within, report).await
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let end = schedules(&doors).await?;
        let mut by_schedule: BTreeMap<String, Vec<TickRun>> = BTreeMap::new();
        let all = runs::list(&doors, NAME, &[]).await?;
        for run in all.iter().filter(|run| run.origin() == Kind::Schedule) {
            let key = format!("{}/{}", run.workflow, run.schedule.as_deref().unwrap_or_default());
            by_schedule.entry(key).or_default().push(tick_run(run));
        }
        let (mut found, mut ticks, mut late) = (Vec::new(), 0, 0);
        let mut histories = Vec::with_capacity(self.plans.len());
        let (mut skipped, mut fired) = (BTreeMap::<String, u64>::new(), 0);
        for plan in &self.plans {
            let key = plan.key();
            let runs = by_schedule.remove(&key).unwrap_or_default();
            let history = self.history(plan, end.get(&key), runs)?;
            ticks += history.due.len() as u64;
            fired += history.fired;
            for (why, count) in &history.skipped {
                *skipped.entry(why.clone()).or_default() += count;
            }
            late = history.runs.iter().map(|run| run.created - run.logical).fold(late, i64::max);
            histories.push(history);
        }
        found.extend(broken_together(&histories));
        for (key, runs) in by_schedule {
            found.push(format!("I3: {} runs of schedule {key}, which is not there", runs.len()));
        }
        report.needs("ticks: schedules", self.plans.len() as u64, 200);
        report.needs("ticks: ticks checked", ticks, 300);
        report.needs("ticks: became runs", fired, 200);
        for (why, least) in [("running", 1), ("paused", 0)] {
            report.needs(format!("ticks: skipped, {why}"), skipped.remove(why).unwrap_or(0), least);
        }
        for (why, count) in skipped {
            report.figure(format!("ticks: skipped, {why}"), count);
        }
        report.figure("ticks: latest decision after its tick (ms)", late.max(0) as u64);
        site.report(NAME, found, report);
        Ok(())
    }
}

impl Ticks {
    /// Notes what leader time is, and whether it jumped while nobody led: only that is an outage. Where clocks are set
    /// under a leader that goes on leading, all ticks run, however late (LANGUAGE 1.18).
    fn hear(&mut self, now: i64, leaderships: u64) {
        if self.heard > 0 && now - self.heard > GRACE && leaderships > self.leaderships {
            self.outage = Some(Outage { before: self.heard, end: now });
        }
        self.heard = self.heard.max(now);
        self.leaderships = self.leaderships.max(leaderships);
    }

    /// Puts together what one schedule should have done, and what it did.
    fn history(&self, plan: &Plan, end: Option<&Schedule>, runs: Vec<TickRun>) -> Result<History, Trouble> {
        let key = plan.key();
        let (Some(begin), Some(end)) = (self.begin.get(&key), end) else {
            return Err(Trouble(format!("schedule {key} is not listed")));
        };
        let (from, to) = (mark(begin), mark(end));
        let due = plan.rule.due(from, to)?;
        let mut with_before = Vec::with_capacity(due.len());
        for (at, tick) in due.iter().enumerate() {
            // Going back to find the tick before costs; within the range it is the neighbour.
            let before = match at.checked_sub(1) {
                Some(before) => Some(due[before]),
                None if runs.iter().any(|run| run.logical == *tick) => plan.rule.before(*tick)?,
                None => None,
            };
            with_before.push((*tick, before));
        }
        let before: BTreeMap<&str, u64> =
            begin.skipped.iter().map(|it| (it.reason.as_str(), it.count)).collect();
        let skips = end.skipped.iter().map(|it| {
            let already = before.get(it.reason.as_str()).copied().unwrap_or(0);
            (it.reason.clone(), it.count.saturating_sub(already))
        });
        let mut pauses = self.pauses.get(&key).cloned().unwrap_or_default();
        let (from_early, from_late) = self.held;
        pauses.push(Pause { from_early, from_late, until_early: to, until_late: to });
        Ok(History {
            name: key.clone(),
            due: with_before,
            due_undecided: plan.rule.due(to, self.held.0.max(to))?,
            catchup: plan.catchup,
            on_full: plan.on_full,
            from,
            to,
            fired: end.fired.saturating_sub(begin.fired),
            skipped: skips.collect(),
            runs,
            pauses,
            outage: self.outage,
        })
    }
}

/// Pauses and resumes one schedule, and tells between which bounds that was so. Repeats each command under one request id
/// until it is answered, since a pause that may or may not be there would leave nothing to check.
async fn pause_for(doors: &Doors, plan: &Plan, heard: i64, hold: Duration) -> Result<Pause, Trouble> {
    let (workflow, schedule) = (format!("{NAME}/{}", plan.workflow), plan.schedule.clone());
    let ask =
        PauseScheduleRequest { workflow: workflow.clone(), schedule: schedule.clone(), ..Default::default() };
    let from_late = committed(doors, ask).await?;
    sleep(hold).await;
    let ask = ResumeScheduleRequest { workflow, schedule, ..Default::default() };
    let until_late = committed(doors, ask).await?;
    // It was resumed after the answer to the pause was heard.
    Ok(Pause { from_early: heard, from_late, until_early: from_late, until_late })
}

/// Asks until it is answered, and gives a leader time at which the command had surely been applied.
async fn committed<C: matins_client::Call>(doors: &Doors, mut ask: C) -> Result<i64, Trouble> {
    if let Some(Command { request_id, .. }) = ask.command() {
        *request_id = format!("{:032x}", rand::random::<u128>());
    }
    let answer = doors.surely(ask).await?;
    let at = C::leader_time(&answer).ok_or_else(|| Trouble(format!("{} tells no time", C::PATH)))?;
    Ok(at.as_millis())
}

async fn leader_time(doors: &Doors) -> Result<i64, Trouble> {
    let answer = doors.surely(ListSchedulesRequest { page_size: 1, ..Default::default() }).await?;
    let at = ListSchedulesRequest::leader_time(&answer).ok_or_else(|| Trouble("no leader time".into()))?;
    Ok(at.as_millis())
}

/// The names of all workflows of this workload.
async fn workflows(doors: &Doors) -> Result<Vec<String>, Trouble> {
    let ask = ListWorkflowsRequest { namespace: NAME.into(), page_size: 1_000, ..Default::default() };
    Ok(doors.surely(ask).await?.workflows.into_iter().map(|it| it.name).collect())
}

/// All schedules of this workload, by `namespace/workflow/schedule`.
async fn schedules(doors: &Doors) -> Result<BTreeMap<String, Schedule>, Trouble> {
    let ask = ListSchedulesRequest { namespace: NAME.into(), page_size: 1_000, ..Default::default() };
    let answer = doors.surely(ask).await?;
    Ok(answer.schedules.into_iter().map(|it| (format!("{}/{}", it.workflow, it.name), it)).collect())
}

fn mark(schedule: &Schedule) -> i64 {
    schedule.mark.map_or(0, matins_proto::Timestamp::as_millis)
}

fn tick_run(run: &Run) -> TickRun {
    let millis = |at: Option<matins_proto::Timestamp>| at.map(matins_proto::Timestamp::as_millis);
    TickRun {
        id: run.id.clone(),
        logical: millis(run.logical_time).unwrap_or(0),
        interval_start: millis(run.interval_start).unwrap_or(0),
        created: millis(run.created_at).unwrap_or(0),
        started: millis(run.started_at),
        finished: millis(run.finished_at),
        is_cancelled: run.state() == run::State::Cancelled,
    }
}
