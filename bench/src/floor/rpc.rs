//! One gRPC round trip to a node on loopback that neither writes nor asks anybody: `cluster status`.

use std::time::Instant;

use matins_proto::v1;

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
        Ok(vec![
            Figure::micros("median", median(&spans)),
            Figure::micros("99 of 100", percentile(&spans, 0.99)),
        ])
    }
}
