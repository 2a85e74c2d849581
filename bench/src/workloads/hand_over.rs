//! The lead is handed over on purpose, again and again, while runs are started: how long until the new leader answers, and
//! the longest that a caller waits meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matins_proto::v1;
use tokio::time::sleep;

use super::ad_hoc::{stamping, until_stamped};
use super::failover::{Accepted, QUIET, start_runs};
use crate::figure::{Figure, Unit, median, percentile};
use crate::stamps;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

pub(crate) struct HandOver;

#[tonic::async_trait(?Send)]
impl Workload for HandOver {
    fn name(&self) -> &'static str {
        "hand-over"
    }

    fn about(&self) -> &'static str {
        "`cluster transfer-leader` while 50 runs a second are started: until the new leader has answered"
    }

    fn nodes(&self) -> &'static [usize] {
        &[3]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(8).await?;
        let file = stage.folder.path().join("stamps");
        cluster.apply(&stamping("load", "", &file)?).await?;
        let is_over = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(start_runs(cluster.client.clone(), Arc::clone(&is_over)));
        let (mut spans, mut asked_at) = (Vec::new(), Vec::new());
        for _ in 0..stage.size.of(30, 2) {
            sleep(QUIET).await;
            let before = cluster.leader().await?;
            asked_at.push(stamps::now());
            let began = Instant::now();
            cluster.client.call(v1::TransferLeaderRequest::default()).await?;
            // The answer says that it was elected; it leads once it answers.
            cluster.until_ready().await?;
            spans.push(began.elapsed());
            must_be("another node leads", cluster.leader().await? != before, true)?;
        }
        sleep(QUIET).await;
        is_over.store(true, Ordering::Relaxed);
        let accepted = load.await??;
        until_stamped(&file, accepted.len()).await?;
        let mut by_run: BTreeMap<String, usize> = BTreeMap::new();
        for stamp in stamps::read(&file)? {
            *by_run.entry(stamp.run).or_default() += 1;
        }
        let never = accepted.iter().filter(|it| !by_run.contains_key(&it.run)).count();
        must_be("accepted runs whose task never ran", never, 0)?;
        let twice = by_run.values().filter(|count| **count > 1).count();
        let pauses: Vec<Duration> = asked_at.iter().map(|at| pause(&accepted, *at)).collect();
        let count = spans.len();
        Ok(vec![
            Figure::seconds(format!("until the new leader answers, median of {count}"), median(&spans))
                .aim(2.0),
            Figure::seconds("until the new leader answers, at most", percentile(&spans, 1.0)).aim(2.0),
            Figure::seconds("longest pause between two accepted starts, median", median(&pauses)),
            Figure::seconds("longest pause between two accepted starts, at most", percentile(&pauses, 1.0)),
            Figure::new(format!("tasks that ran twice, of {}", by_run.len()), twice as f64, Unit::Count),
        ])
    }
}

/// The longest time without an accepted start between this instant and the next hand-over.
fn pause(accepted: &[Accepted], from: Duration) -> Duration {
    let until = from + QUIET;
    let near = accepted.iter().map(|it| it.answered);
    // One before and one behind, so that a pause that begins or ends outside counts as a whole.
    let first = near.clone().filter(|at| *at <= from).max();
    let mut times: Vec<Duration> = first.into_iter().collect();
    times.extend(near.clone().filter(|at| (from..until).contains(at)));
    times.extend(near.filter(|at| *at >= until).min());
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
}
