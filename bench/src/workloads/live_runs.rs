//! A cost curve: what a commit costs while more and more runs are live.

use std::time::{Duration, Instant};

use matins_client::{Client, Limits};
use matins_proto::v1;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::figure::{Figure, median};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Size, Stage, Workload};

/// Callers that start runs at once.
const CALLERS: usize = 64;

pub(crate) struct LiveRuns;

#[tonic::async_trait(?Send)]
impl Workload for LiveRuns {
    fn name(&self) -> &'static str {
        "live-runs"
    }

    fn about(&self) -> &'static str {
        "one `pool set` after the other beside 10 to 100,000 live runs, whose tasks wait for an executor that is not there"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(4).await?;
        let text =
            "workflow: waiting\ntasks:\n  work: { executor: { labels: { no: where } }, run: \"true\" }\n";
        cluster.apply(text).await?;
        let counts: &[usize] = match stage.size {
            Size::Full => &[10, 100, 1_000, 10_000, 100_000],
            Size::Quick => &[10, 100],
        };
        let (mut figures, mut live) = (Vec::new(), 0);
        for count in counts {
            start(&cluster, count - live).await?;
            live = *count;
            let status = cluster.client.call(v1::ClusterStatusRequest {}).await?;
            must_be("live runs", status.live_runs as usize, live)?;
            let mut spans = Vec::new();
            for slots in 0..stage.size.of(300, 10) {
                let ask = v1::SetPoolRequest { name: "other".into(), slots, ..v1::SetPoolRequest::default() };
                let began = Instant::now();
                cluster.client.call(ask).await?;
                spans.push(began.elapsed());
            }
            figures.push(Figure::millis(format!("median beside {count} live runs"), median(&spans)));
            if *count == counts[counts.len() - 1] {
                figures.push(Figure::millis(
                    "the slowest beside as many",
                    spans.iter().copied().max().unwrap_or(Duration::ZERO),
                ));
            }
        }
        Ok(figures)
    }
}

/// Starts so many runs.
async fn start(cluster: &Cluster, count: usize) -> Result<(), Trouble> {
    let leader = cluster.nodes[cluster.leader().await?].endpoint();
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS.min(count) {
        let mine = (caller..count).step_by(CALLERS).count();
        let client = Client::new(&leader, Limits::default())?;
        tasks.spawn(async move {
            for _ in 0..mine {
                let ask =
                    v1::StartRunRequest { workflow: "waiting".into(), ..v1::StartRunRequest::default() };
                client.call(ask).await?;
            }
            Ok::<(), Trouble>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
