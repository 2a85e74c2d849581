//! A node with nothing to do: its memory, its time on a core, and how long it takes to start.

use std::time::{Duration, Instant};

use matins_proto::v1;
use tokio::time::sleep;

use crate::cluster::{Cluster, until};
use crate::figure::{Figure, Unit, median};
use crate::processes;
use crate::trouble::Trouble;
use crate::workload::{Stage, Workload};

/// Before it is looked at: buffers of its start are given back.
const REST: Duration = Duration::from_secs(2);

pub(crate) struct Idle;

#[tonic::async_trait(?Send)]
impl Workload for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn about(&self) -> &'static str {
        "a node with nothing to do: memory with its supervisor, time on a core, start until it knows a ready leader"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let mut cluster = stage.cluster(4).await?;
        sleep(REST).await;
        let leader = cluster.leader().await?;
        let memory = memory(&cluster, leader)?;
        let pid = cluster.nodes[leader].pid().ok_or_else(|| Trouble("the leader is down".into()))?;
        let (span, before) =
            (stage.size.of(Duration::from_secs(30), Duration::from_millis(500)), processes::cpu(pid)?);
        sleep(span).await;
        let busy = processes::cpu(pid)?.saturating_sub(before);
        let mut starts = Vec::new();
        for _ in 0..stage.size.of(5, 1) {
            // A follower where there is one: it comes back to a cluster that goes on.
            let at = (cluster.leader().await? + 1) % stage.nodes;
            cluster.nodes[at].kill();
            let began = Instant::now();
            cluster.nodes[at].up()?;
            until_knows_leader(&cluster, at).await?;
            starts.push(began.elapsed());
            cluster.until_ready().await?;
        }
        Ok(vec![
            Figure::new("memory of the leader", memory as f64 / 1e6, Unit::Megabytes)
                .aim(40.0)
                .rival("330 MB"),
            Figure::new(
                "time of a core, the leader",
                busy.as_secs_f64() / span.as_secs_f64() * 100.0,
                Unit::Percent,
            )
            .aim(0.5),
            Figure::seconds("start, median of 5", median(&starts)).aim(0.5),
        ])
    }
}

/// Of a node with its supervisor, in bytes.
fn memory(cluster: &Cluster, at: usize) -> Result<u64, Trouble> {
    let mut sum = 0;
    for pid in processes::of(&cluster.nodes[at].data_dir) {
        sum += processes::memory(pid)?;
    }
    Ok(sum)
}

/// Waits until a node answers that the leader is ready.
pub(crate) async fn until_knows_leader(cluster: &Cluster, at: usize) -> Result<(), Trouble> {
    let client = cluster.client_of(at)?;
    until("the node knows a ready leader", async || {
        Ok(client.call(v1::ClusterStatusRequest {}).await.is_ok_and(|status| status.ready))
    })
    .await
}
