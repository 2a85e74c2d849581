//! One gRPC round trip to a node on loopback that neither writes nor asks anybody, `cluster status`; and how many a second
//! of it many callers get, above which `commands` cannot come.

use std::time::{Duration, Instant};

use matins_client::Client;
use matins_proto::v1;

use crate::callers::keep_asking;
use crate::figure::{Figure, median, percentile};
use crate::trouble::Trouble;
use crate::workload::{Stage, Workload};

pub(crate) struct Rpc;

#[tonic::async_trait(?Send)]
impl Workload for Rpc {
    fn name(&self) -> &'static str {
        "floor-rpc"
    }

    fn about(&self) -> &'static str {
        "one gRPC round trip over loopback to a node, which asks nobody and writes nothing"
    }

    fn nodes(&self) -> &'static [usize] {
        &[1]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(1).await?;
        let client = cluster.client_of(0)?;
        let mut spans = Vec::new();
        for _ in 0..stage.size.of(2_000, 50) {
            let began = Instant::now();
            client.call(v1::ClusterStatusRequest {}).await?;
            spans.push(began.elapsed());
        }
        let mut figures = vec![
            Figure::micros("median", median(&spans)),
            Figure::micros("99 of 100", percentile(&spans, 0.99)),
        ];
        let span = stage.size.of(Duration::from_secs(3), Duration::from_millis(300));
        for callers in [16, 256, 1_024] {
            // Some of it unmeasured, as `commands` does.
            keep_asking(&cluster.nodes[0].endpoint(), callers, span / 5, ask_status).await?;
            let (spans, took) = keep_asking(&cluster.nodes[0].endpoint(), callers, span, ask_status).await?;
            figures.push(Figure::per_second(format!("{callers} callers"), spans.len(), took));
        }
        Ok(figures)
    }
}

async fn ask_status(client: Client, _caller: usize, _times: u32) -> Result<(), Trouble> {
    client.call(v1::ClusterStatusRequest {}).await?;
    Ok(())
}
