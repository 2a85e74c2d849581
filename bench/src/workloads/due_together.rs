//! A thousand schedules that are due in the same second: until the last of their runs has ended.

use std::time::{Duration, SystemTime};

use matins_proto::v1;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::figure::Figure;
use crate::stamps;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

/// So many go in one call.
const EACH_CALL: usize = 50;
/// From the last call to the second at which they are due.
const AHEAD: Duration = Duration::from_secs(5);
const WITHIN: Duration = Duration::from_secs(180);

pub(crate) struct DueTogether;

#[tonic::async_trait(?Send)]
impl Workload for DueTogether {
    fn name(&self) -> &'static str {
        "due-together"
    }

    fn about(&self) -> &'static str {
        "1,000 schedules of 1,000 workflows due in the same second, until the last run has ended"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let count = stage.size.of(1_000, 20);
        let slots = std::thread::available_parallelism().map_or(4, |cores| cores.get() as u32 * 2);
        let cluster = stage.cluster(slots).await?;
        // Registered twice: when they are due is known only when it is known how long that takes.
        let far = SystemTime::now() + Duration::from_secs(3_600);
        let began = Instant::now();
        register(&cluster, count, far).await?;
        let due = SystemTime::now() + began.elapsed() * 2 + AHEAD;
        let due = register(&cluster, count, due).await?;
        sleep(due.saturating_sub(stamps::now())).await;
        let deadline = Instant::now() + WITHIN;
        loop {
            let ended = ended(&cluster).await?;
            if ended.len() >= count {
                must_be("runs", ended.len(), count)?;
                let last = ended.into_iter().max().unwrap_or_default();
                let took = last.saturating_sub(due);
                return Ok(vec![
                    Figure::seconds("until the last has ended", took).aim(1.5).rival("2.9 s; Airflow 683 s"),
                    Figure::per_second("ticks", count, took),
                ]);
            }
            if Instant::now() > deadline {
                return Err(Trouble(format!("{} of {count} runs have ended after {WITHIN:?}", ended.len())));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Registers workflows that are all due in one second, and gives that second, since 1970.
async fn register(cluster: &Cluster, count: usize, due: SystemTime) -> Result<Duration, Trouble> {
    let at = jiff::Timestamp::try_from(due)?.to_zoned(jiff::tz::TimeZone::UTC);
    let cron = at.strftime("%-S %-M %-H %-d %-m *").to_string();
    let names: Vec<usize> = (0..count).collect();
    for names in names.chunks(EACH_CALL) {
        let document = |at: &usize| {
            format!(
                "workflow: due-{at}\nschedules:\n  once: {{ cron: \"{cron}\" }}\n\
                 tasks:\n  work: {{ run: \"true\" }}\n"
            )
        };
        let documents: Vec<String> = names.iter().map(document).collect();
        cluster.apply(&documents.join("---\n")).await?;
    }
    Ok(Duration::from_secs(at.timestamp().as_second().unsigned_abs()))
}

/// When each run that has ended did so. One that did not succeed fails the workload.
async fn ended(cluster: &Cluster) -> Result<Vec<Duration>, Trouble> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let ask = v1::ListRunsRequest { page_size: 1_000, page_token, ..v1::ListRunsRequest::default() };
        let page = cluster.client.call(ask).await?;
        for run in page.runs {
            let Some(at) = &run.finished_at else { continue };
            must_be("the end of a run", run.state(), v1::run::State::Success)?;
            all.push(Duration::from_millis(at.as_millis().unsigned_abs()));
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}
