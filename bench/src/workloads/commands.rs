//! Callers that send one command after the other: how many are accepted a second, durably, and how long one takes.

use std::time::Duration;

use matins_client::Client;
use matins_proto::v1;

use crate::callers::keep_asking;
use crate::cluster::Cluster;
use crate::figure::{Figure, median};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

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
    let (spans, took) = keep_asking(&leader, callers, span, set_pool).await?;
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

/// Sets the caller's own pool.
async fn set_pool(client: Client, caller: usize, slots: u32) -> Result<(), Trouble> {
    let ask = v1::SetPoolRequest { name: format!("bench-{caller}"), slots, ..v1::SetPoolRequest::default() };
    let answer = client.call(ask).await?;
    must_be("slots", answer.pool.map(|pool| pool.slots), Some(slots))
}
