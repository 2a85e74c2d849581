//! Callers that send one command after the other: how many are accepted a second, durably, and how long one takes.
//!
//! The callers are tasks of this process, which shares the cores with the nodes; each 64 of them share a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matins_client::{Client, Limits};
use matins_proto::v1;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::figure::{Figure, median};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

/// Callers on one connection.
const CALLERS_EACH: usize = 64;

pub(crate) struct Commands;

#[tonic::async_trait(?Send)]
impl Workload for Commands {
    fn name(&self) -> &'static str {
        "commands"
    }

    fn about(&self) -> &'static str {
        "`pool set` through the public port, each answered when a majority has it on disk, by 1 to 1,024 callers"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(4).await?;
        let aims = [(1, 1_500.0), (16, 15_000.0), (256, 50_000.0), (1_024, 80_000.0)];
        let span = stage.size.of(Duration::from_secs(5), Duration::from_millis(300));
        let mut figures = Vec::new();
        for (callers, aim) in aims {
            // Some of it unmeasured: connections are made, buffers grow.
            measure(&cluster, callers, span / 5).await?;
            let (spans, took) = measure(&cluster, callers, span).await?;
            let figure = Figure::per_second(format!("{callers} callers"), spans.len(), took).aim(aim);
            figures.push(if callers == 1 { figure.rival("etcd put 1.8 ms") } else { figure });
            figures.push(Figure::millis(format!("{callers} callers, median of one"), median(&spans)));
        }
        Ok(figures)
    }
}

/// How long each command took, and all of it.
async fn measure(
    cluster: &Cluster,
    callers: usize,
    span: Duration,
) -> Result<(Vec<Duration>, Duration), Trouble> {
    let leader = cluster.nodes[cluster.leader().await?].endpoint();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let mut client = Client::new(&leader, Limits::default())?;
    let began = Instant::now();
    for caller in 0..callers {
        if caller % CALLERS_EACH == 0 {
            client = Client::new(&leader, Limits::default())?;
            client.call(v1::ClusterStatusRequest {}).await?;
        }
        tasks.spawn(call(client.clone(), caller, Arc::clone(&is_over)));
    }
    tokio::time::sleep_until((began + span).into()).await;
    is_over.store(true, Ordering::Relaxed);
    let mut spans = Vec::new();
    while let Some(done) = tasks.join_next().await {
        spans.extend(done??);
    }
    let took = began.elapsed();
    let mut pools = 0;
    let mut page_token = String::new();
    loop {
        let ask = v1::ListPoolsRequest { page_token, ..v1::ListPoolsRequest::default() };
        let page = cluster.client.call(ask).await?;
        pools += page.pools.iter().filter(|pool| pool.name.starts_with("bench-")).count();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    must_be("pools that were set at least once", pools >= callers, true)?;
    Ok((spans, took))
}

/// One caller: sets its own pool again and again.
async fn call(client: Client, caller: usize, is_over: Arc<AtomicBool>) -> Result<Vec<Duration>, Trouble> {
    let mut spans = Vec::new();
    let mut slots = 0;
    loop {
        slots += 1;
        let ask =
            v1::SetPoolRequest { name: format!("bench-{caller}"), slots, ..v1::SetPoolRequest::default() };
        let began = Instant::now();
        let answer = client.call(ask).await?;
        must_be("slots", answer.pool.map(|pool| pool.slots), Some(slots))?;
        spans.push(began.elapsed());
        if is_over.load(Ordering::Relaxed) {
            return Ok(spans);
        }
    }
}
