//! A tenth of all schedules comes due within one minute: whether each tick is decided, and by when.
//!
//! No tick starts anything: each workflow has one active run that waits for an executor, and `on_full: skip`, as a user says
//! who wants no second run beside one that is late. So a tick costs its decision and its record, and nothing else.

use std::time::{Duration, SystemTime};

use matins_proto::v1;
use tokio::time::{Instant, sleep};

use super::schedules::{EACH_WORKFLOW, hold};
use crate::cluster::Cluster;
use crate::figure::{Figure, Unit};
use crate::processes;
use crate::stamps;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

/// All are decided within this after the last was due.
const WITHIN: Duration = Duration::from_secs(600);
/// A look takes time from the leader too.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
const MORE: &str = "concurrency: { max_active_runs: 1, on_full: skip }\n\
                    tasks:\n  work: { executor: { labels: { no: where } }, run: \"true\" }\n";

pub(crate) struct DueInAMinute;

#[tonic::async_trait(?Send)]
impl Workload for DueInAMinute {
    fn name(&self) -> &'static str {
        "due-in-a-minute"
    }

    fn about(&self) -> &'static str {
        "1,000,000 schedules of which 100,000 are due within one minute, while runs of their workflows are active: each is skipped"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let (all, due) = stage.size.of((1_000_000, 100_000), (2_000, 1_000));
        let span = stage.size.of(Duration::from_secs(60), Duration::from_secs(2));
        let cluster = stage.cluster(4).await?;
        let began = Instant::now();
        let held = hold(&cluster, 0, all - due).await?;
        let each = began.elapsed() / (held / EACH_WORKFLOW).max(1) as u32;
        let calls = due.div_ceil(EACH_WORKFLOW) as u32;
        let first = SystemTime::now()
            + each * calls * 3
            + stage.size.of(Duration::from_secs(60), Duration::from_secs(4));
        let last = register(&cluster, due, (first, span)).await?;
        let registered = SystemTime::now();
        must_be("all are registered before the first is due", registered < first, true)?;
        sleep(first.duration_since(registered).unwrap_or_default()).await;
        let leader =
            cluster.nodes[cluster.leader().await?].pid().ok_or_else(|| Trouble("no leader".into()))?;
        let busy = processes::cpu(leader)?;
        let late = until_decided(&cluster, due, last).await?;
        let busy = processes::cpu(leader)?.saturating_sub(busy);
        let memory = processes::memory(leader)? as f64 / 1e6;
        Ok(vec![
            Figure::seconds(format!("{due} ticks within {span:?}: the last decided after it was due"), late),
            Figure::new("ticks missed, run or skipped for another reason", 0.0, Unit::Count),
            Figure::micros("time of the leader on a core, a tick", busy / due as u32),
            Figure::new(format!("memory of the leader with {all}"), memory, Unit::Megabytes),
        ])
    }
}

/// Registers schedules that are due one after the other in this time, starts a run of each workflow, and gives when the last
/// is due, since 1970.
async fn register(
    cluster: &Cluster,
    count: usize,
    (first, span): (SystemTime, Duration),
) -> Result<Duration, Trouble> {
    let first = jiff::Timestamp::try_from(first)?.to_zoned(jiff::tz::TimeZone::UTC);
    let due_at = |at: usize| {
        &first + jiff::SignedDuration::from_secs((at as u64 * span.as_secs() / count as u64) as i64)
    };
    for from in (0..count).step_by(EACH_WORKFLOW) {
        let schedule = |at: usize| {
            let cron = due_at(at).strftime("%-S %-M %-H %-d %-m *");
            format!("  s{at}: {{ cron: \"{cron}\" }}\n")
        };
        let schedules: String = (from..(from + EACH_WORKFLOW).min(count)).map(schedule).collect();
        let name = name_of(from);
        cluster.apply(&format!("workflow: {name}\nschedules:\n{schedules}{MORE}")).await?;
        // It waits for good, so that the gate is full.
        cluster.begin_of(&name, &format!("s{from}")).await?;
    }
    Ok(Duration::from_secs(due_at(count - 1).timestamp().as_second().unsigned_abs()))
}

fn name_of(first: usize) -> String {
    format!("due-{first}")
}

/// Waits until each of them is decided, holds each to how it must be, and gives how late the last was.
async fn until_decided(cluster: &Cluster, count: usize, last: Duration) -> Result<Duration, Trouble> {
    let deadline = Instant::now() + WITHIN;
    // They come due in the order of their workflows, so that looking keeps up with them and the last look tells the end.
    for first in (0..count).step_by(EACH_WORKFLOW) {
        loop {
            let open = open_of(cluster, first, count).await?;
            if open == 0 {
                break;
            }
            if Instant::now() > deadline {
                return Err(Trouble(format!("{open} ticks of {} are open after {WITHIN:?}", name_of(first))));
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }
    Ok(stamps::now().saturating_sub(last))
}

/// How many schedules of a workflow have an undecided tick. Each that has none must have skipped exactly one.
async fn open_of(cluster: &Cluster, first: usize, count: usize) -> Result<usize, Trouble> {
    let (mut open, mut seen, mut page_token) = (0, 0, String::new());
    loop {
        let workflow = name_of(first);
        let ask = v1::ListSchedulesRequest { workflow, page_size: 1_000, page_token, ..Default::default() };
        let page = cluster.client.call(ask).await?;
        for schedule in page.schedules {
            seen += 1;
            let skipped: Vec<(String, u64)> =
                schedule.skipped.iter().map(|it| (it.reason.clone(), it.count)).collect();
            if skipped.is_empty() && schedule.fired == 0 {
                open += 1;
                continue;
            }
            must_be(&format!("ticks of {} that became runs", schedule.name), schedule.fired, 0)?;
            must_be(
                &format!("skipped ticks of {}", schedule.name),
                skipped,
                vec![("running".to_owned(), 1)],
            )?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            must_be("schedules", seen, EACH_WORKFLOW.min(count - first))?;
            return Ok(open);
        }
    }
}
