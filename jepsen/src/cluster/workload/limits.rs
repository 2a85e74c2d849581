//! **limits**: slots of executors, pools and `max_active_runs` are never exceeded, at any instant, and nothing leaks.
//!
//! What is in use is taken from the tasks' own records, not from what the cluster believes; runs are cancelled on the
//! way, some with tasks that do not listen, since a stopping attempt still holds its slot. Start at [`Limits`].

use std::collections::BTreeMap;
use std::time::Duration;

use matins_proto::v1::{
    CancelRunRequest, ListExecutorsRequest, ListPoolsRequest, ListRunsRequest, Run, SetPoolRequest,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use crate::report::Report;

use super::call::Call;
use super::doors::{Doors, Heard};
use super::excuse::Excuses;
use super::mutex::keep_busy;
use super::record::read;
use super::spans::{Span, Use, peaks, spans, within};
use super::{Site, Trouble, Until, Workload, runs};

const NAME: &str = "limits";

/// Pools and their slots.
const POOLS: [(&str, u32); 2] = [("limits-narrow", 2), ("limits-wide", 4)];

/// Tasks and the slots that each attempt takes: of pool `limits-narrow`, of pool `limits-wide`.
const TASKS: [(&str, [u32; 2]); 5] =
    [("first", [0, 0]), ("thin", [1, 0]), ("thick", [0, 2]), ("both", [1, 1]), ("many", [0, 0])];

/// The workflow that has few active runs, and how many.
const GATED: (&str, u32) = ("limits/gated", 2);

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Limits;

#[tonic::async_trait]
impl Workload for Limits {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        for (name, slots) in POOLS {
            let ask = SetPoolRequest { name: name.into(), slots, ..SetPoolRequest::default() };
            doors.surely(ask).await?;
        }
        let call = |hold| Call::hold(hold).run(site, NAME);
        let deaf = Call { is_stubborn: true, ..Call::hold(900) }.run(site, NAME)?;
        let tasks = format!(
            "tasks:\n  first: {{ run: {} }}\n  \
             thin: {{ pool: limits-narrow, for_each: '{{{{ range(3) }}}}', run: {} }}\n  \
             thick: {{ pool: {{ limits-wide: 2 }}, for_each: '{{{{ range(2) }}}}', max_parallel: 2, run: {deaf} }}\n  \
             both: {{ needs: first, pool: {{ limits-narrow: 1, limits-wide: 1 }}, run: {} }}\n",
            call(200)?,
            call(300)?,
            call(250)?,
        );
        let (gated, most) = GATED;
        let gated = gated.trim_start_matches("limits/");
        let text = format!(
            "workflow: {gated}\nconcurrency: {{ max_active_runs: {most}, on_full: queue }}\n{tasks}\
             ---\nworkflow: free\n{tasks}  many: {{ for_each: '{{{{ range(12) }}}}', run: {} }}\n",
            call(400)?
        );
        runs::apply(&doors, NAME, text).await
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let workflows = [GATED.0, GATED.0, "limits/free"];
        let (busy, cancel) = tokio::join!(keep_busy(site, &workflows, 8, until), cancel_some(site, until));
        busy.and(cancel)
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        runs::settle(site, NAME, within, report).await
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let lines = read(&site.record_file(NAME))?;
        let (spans, mut broken) = spans(&lines);
        let all = runs::whole(&doors, NAME).await?;
        let excuses = Excuses::read(site, &all);
        excuses.tell(NAME, &spans, report);
        let spans = excuses.counted(spans);
        let executors = doors.surely(ListExecutorsRequest::default()).await?.executors;
        let mut limits: BTreeMap<String, u32> =
            executors.iter().map(|it| (format!("executor {}", it.id), it.slots)).collect();
        limits.extend(POOLS.map(|(name, slots)| (format!("pool {name}"), slots)));
        limits.insert(GATED.0.to_owned(), GATED.1);
        let (uses, unknown) = uses(&spans, &executors_of(&all));
        broken.extend(unknown);
        broken.extend(within(&uses, &limits));
        let mut busiest = 0;
        for (limit, peak) in peaks(&uses) {
            // A limit that was never used up was not tested; that of an executor may never be.
            if limit.starts_with("executor") {
                busiest = peak.max(busiest);
                continue;
            }
            let least = limits.get(&limit).copied().unwrap_or(0);
            report.needs(format!("limits: most in use, {limit}"), u64::from(peak), u64::from(least));
        }
        report.figure("limits: most in use, an executor", u64::from(busiest));
        broken.extend(leaks(&doors).await?);
        report.needs("limits: runs", all.len() as u64, 8);
        report.needs("limits: attempts", spans.len() as u64, 50);
        let killed = spans.iter().filter(|span| span.code.is_none()).count() as u64;
        report.figure("limits: attempts that were killed", killed);
        site.report(NAME, broken, report);
        Ok(())
    }
}

/// Now and then cancels a run, by TERM or at once.
async fn cancel_some(site: &Site, until: &Until) -> Result<(), Trouble> {
    let doors = Doors::open(site)?;
    let mut random = StdRng::seed_from_u64(site.seed ^ 1);
    while !until.is_over() {
        sleep(Duration::from_millis(1_500)).await;
        let states = vec![matins_proto::v1::run::State::Running as i32];
        let ask = ListRunsRequest { namespace: NAME.into(), states, ..ListRunsRequest::default() };
        let Heard::Done(answer) = doors.at(doors.any(&mut random), ask).await? else { continue };
        if answer.runs.is_empty() {
            continue;
        }
        let run = answer.runs[random.random_range(0..answer.runs.len())].id.clone();
        let ask = CancelRunRequest { run, now: random.random_bool(0.3), ..CancelRunRequest::default() };
        doors.at(doors.any(&mut random), ask).await?;
    }
    Ok(())
}

/// Which executor held each fence, as the cluster recorded it.
fn executors_of(runs: &[Run]) -> BTreeMap<u64, String> {
    let attempts = runs.iter().flat_map(runs::attempts);
    attempts.map(|(_, attempt)| (attempt.fence, attempt.executor.clone())).collect()
}

/// What the lives used. A life whose fence the cluster does not know is a broken promise of its own.
fn uses(spans: &[Span], executors: &BTreeMap<u64, String>) -> (Vec<Use>, Vec<String>) {
    let mut uses = Vec::new();
    let mut broken = Vec::new();
    let mut gated: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for span in spans {
        let Span { fence, workflow, run, task, start, end, .. } = span;
        let (holder, start, end) = (fence.to_string(), *start, *end);
        match executors.get(fence) {
            Some(executor) => {
                let limit = format!("executor {executor}");
                uses.push(Use { limit, holder: holder.clone(), amount: 1, start, end });
            }
            None => broken.push(format!("I7: {run}/{task} ran under fence {fence}, which no attempt has")),
        }
        let name = task.split('.').next().unwrap_or(task);
        let takes = TASKS.iter().find(|(task, _)| *task == name).map_or([0, 0], |(_, takes)| *takes);
        for ((pool, _), amount) in POOLS.iter().zip(takes).filter(|(_, amount)| *amount > 0) {
            uses.push(Use { limit: format!("pool {pool}"), holder: holder.clone(), amount, start, end });
        }
        if workflow == GATED.0 {
            let whole = gated.entry(run).or_insert((start, end));
            *whole = (whole.0.min(start), whole.1.max(end));
        }
    }
    // A run is active from the start of its first task to the end of its last one.
    uses.extend(gated.into_iter().map(|(run, (start, end))| Use {
        limit: GATED.0.to_owned(),
        holder: run.to_owned(),
        amount: 1,
        start,
        end,
    }));
    (uses, broken)
}

/// What the cluster says is still in use when nothing runs any more.
async fn leaks(doors: &Doors) -> Result<Vec<String>, Trouble> {
    let mut broken = Vec::new();
    for executor in doors.surely(ListExecutorsRequest::default()).await?.executors {
        if executor.used > 0 {
            broken.push(format!("I9: {} of executor {} leaked", executor.used, executor.id));
        }
    }
    for pool in doors.surely(ListPoolsRequest::default()).await?.pools {
        if pool.used > 0 || pool.waiting > 0 {
            broken.push(format!("I9: of pool {} leaked {} and wait {}", pool.name, pool.used, pool.waiting));
        }
    }
    for name in [GATED.0, "limits/free"] {
        let workflow = runs::workflow(doors, name).await?;
        if workflow.active_runs > 0 || workflow.queued_runs > 0 {
            let (active, queued) = (workflow.active_runs, workflow.queued_runs);
            broken.push(format!(
                "I9: {name} has {active} active runs and {queued} queued ones, and none is there"
            ));
        }
    }
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(fence: u64, run: &str, task: &str, start: u64) -> Span {
        Span {
            fence,
            workflow: GATED.0.into(),
            run: run.into(),
            task: task.into(),
            attempt: 1,
            start,
            end: start + 10,
            code: Some(0),
        }
    }

    #[test]
    fn each_life_uses_an_executor_its_pools_and_its_run() {
        let executors = BTreeMap::from([(1, "node-1".to_owned()), (2, "node-1".to_owned())]);
        let (uses, broken) = uses(&[span(1, "run-1", "thick.0", 0), span(2, "run-1", "both", 5)], &executors);
        assert_eq!(broken, Vec::<String>::new());
        let expected =
            [("executor node-1", 2), ("limits/gated", 1), ("pool limits-narrow", 1), ("pool limits-wide", 3)];
        assert_eq!(peaks(&uses), expected.map(|(limit, peak)| (limit.to_owned(), peak)).into());
    }

    #[test]
    fn a_run_is_active_between_its_tasks_too() {
        let executors = (1..4).map(|fence| (fence, format!("node-{fence}"))).collect();
        let spans =
            [span(1, "run-1", "first", 0), span(2, "run-2", "first", 20), span(3, "run-1", "both", 40)];
        assert_eq!(peaks(&uses(&spans, &executors).0).get(GATED.0), Some(&2));
    }

    #[test]
    fn a_life_that_nobody_granted_is_found() {
        let (_, broken) = uses(&[span(9, "run-1", "first", 0)], &BTreeMap::new());
        assert_eq!(broken, ["I7: run-1/first ran under fence 9, which no attempt has"]);
    }
}
