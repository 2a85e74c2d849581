//! Forty tasks in a row, each a Python process of its own that works out fibo(10).

use std::process::Command;
use std::time::{Duration, Instant};

use super::chain::chain;
use crate::figure::{Figure, median};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

const WITHIN: Duration = Duration::from_secs(120);
/// As rivals were measured: the naive one.
const FIBO: &str = "python3 -c 'f = lambda n: n if n < 2 else f(n - 1) + f(n - 2); assert f(10) == 55'";

pub(crate) struct Python;

#[tonic::async_trait(?Send)]
impl Workload for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn about(&self) -> &'static str {
        "40 Python tasks of fibo(10) in a row, a process each; and one such process alone"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let length = stage.size.of(40, 3);
        let cluster = stage.cluster(4).await?;
        cluster.apply(&chain(length, FIBO)).await?;
        let mut spans = Vec::new();
        for _ in 0..=stage.size.of(3, 0) {
            let began = Instant::now();
            let run = cluster.begin("chain").await?;
            cluster.finish(&run, WITHIN).await?;
            spans.push(began.elapsed());
        }
        let mut alone = Vec::new();
        for _ in 0..stage.size.of(20, 2) {
            let began = Instant::now();
            let status = Command::new("sh").args(["-e", "-c", FIBO]).status()?;
            alone.push(began.elapsed());
            must_be("its exit code", status.code(), Some(0))?;
        }
        Ok(vec![
            Figure::seconds("total, median of 4", median(&spans))
                .aim(1.5)
                .rival("Hatchet 1.22 s, one node, warm worker"),
            Figure::seconds("the same processes without Matins", median(&alone) * length as u32),
        ])
    }
}
