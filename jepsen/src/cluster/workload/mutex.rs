//! **mutex**: at most one live process per task, whatever happens to nodes, links and clocks, and rising fences.
//!
//! Tasks hold a lock for seconds; some are stopped by their timeout and do not listen, so that the next attempt has to
//! wait for the end of the one before. Start at [`Mutex`].

use std::time::Duration;

use matins_proto::v1::run::State;
use matins_proto::v1::{ListRunsRequest, StartRunRequest};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use crate::report::Report;

use super::call::Call;
use super::doors::{Doors, Heard};
use super::excuse::Excuses;
use super::record::{Event, read};
use super::spans::{exclusive, spans};
use super::{Site, Trouble, Until, Workload, runs};

const NAME: &str = "mutex";

/// Runs that are under way at the same time.
const RUNS_MAX: usize = 5;

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Mutex;

#[tonic::async_trait]
impl Workload for Mutex {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let call = |hold, lock: &str, is_stubborn| {
            Call { lock: Some(lock.to_owned()), is_stubborn, ..Call::hold(hold) }.run(site, NAME)
        };
        let text = format!(
            "workflow: locks\ndefaults: {{ retry: {{ limit: 3, delay: 100ms }} }}\ntasks:\n  \
             long: {{ run: {} }}\n  \
             items: {{ for_each: '{{{{ range(2) }}}}', run: {} }}\n  \
             deaf: {{ timeout: 1s, allow_failure: true, retry: {{ limit: 1, delay: 100ms }}, run: {} }}\n  \
             after: {{ needs: [long, items], run: {} }}\n",
            call(4_000, "{{ run.id }}-long", false)?,
            call(1_500, "{{ run.id }}-items-{{ item_index }}", false)?,
            call(2_500, "{{ run.id }}-deaf", true)?,
            call(300, "{{ run.id }}-after", false)?,
        );
        runs::apply(&Doors::open(site)?, NAME, text).await
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        keep_busy(site, &["mutex/locks"], RUNS_MAX, until).await
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        runs::settle(site, NAME, within, report).await
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let lines = read(&site.record_file(NAME))?;
        let all = runs::whole(&Doors::open(site)?, NAME).await?;
        let excuses = Excuses::read(site, &all);
        let mut broken = exclusive(&lines, &excuses, |run, task| format!("{run}/{task}"));
        let (spans, _) = spans(&lines);
        for run in all.iter().filter(|run| run.state() != State::Success) {
            broken.push(format!(
                "5.10: {} ended {}, though what was lost is retried without using up retries",
                run.id,
                runs::word(run.state())
            ));
        }
        let killed = spans.iter().filter(|span| span.code.is_none()).count();
        report.needs("mutex: runs", all.len() as u64, 5);
        report.needs("mutex: attempts", spans.len() as u64, 20);
        report.needs("mutex: attempts that were killed or stopped", killed as u64, 0);
        excuses.tell(NAME, &spans, report);
        report.needs(
            "mutex: words of the living",
            lines.iter().filter(|it| it.event == Event::Alive).count() as u64,
            100,
        );
        site.report(NAME, broken, report);
        Ok(())
    }
}

/// Starts runs of these workflows at random nodes, so many at the same time, until then.
pub(crate) async fn keep_busy(
    site: &Site,
    workflows: &[&str],
    runs_max: usize,
    until: &Until,
) -> Result<(), Trouble> {
    let doors = Doors::open(site)?;
    let mut random = StdRng::seed_from_u64(site.seed);
    while !until.is_over() {
        let namespace = workflows[0].split('/').next().unwrap_or_default().to_owned();
        let states = runs::ACTIVE.iter().map(|state| *state as i32).collect();
        let ask = ListRunsRequest { namespace, states, ..ListRunsRequest::default() };
        let active = match doors.at(doors.any(&mut random), ask).await? {
            Heard::Done(answer) => answer.runs.len(),
            // Nobody answers: nothing more is started either.
            Heard::Refused(_) | Heard::Maybe => runs_max,
        };
        if active < runs_max {
            let workflow = workflows[random.random_range(0..workflows.len())].to_owned();
            // Not answered means "maybe": this workload does not count its runs.
            doors
                .at(doors.any(&mut random), StartRunRequest { workflow, ..StartRunRequest::default() })
                .await?;
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
