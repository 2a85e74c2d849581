//! A chain of no-op shell tasks, each of which needs the one before: what one step costs, a hundred times.

use std::time::{Duration, Instant};

use crate::figure::{Figure, median, percentile};
use crate::trouble::Trouble;
use crate::workload::{Stage, Workload};

const WITHIN: Duration = Duration::from_secs(120);

pub(crate) struct Chain;

#[tonic::async_trait(?Send)]
impl Workload for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn about(&self) -> &'static str {
        "100 shell tasks in a row that do nothing, from the request to the end of the run"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let length = stage.size.of(100, 10);
        let cluster = stage.cluster(4).await?;
        cluster.apply(&chain(length, "true")).await?;
        let mut spans = Vec::new();
        // The first one warms up: files of the shell come into memory, connections are made.
        for _ in 0..=stage.size.of(10, 1) {
            let began = Instant::now();
            let run = cluster.begin("chain").await?;
            cluster.finish(&run, WITHIN).await?;
            spans.push(began.elapsed());
        }
        let spans = &spans[1..];
        let step = median(spans) / length as u32;
        Ok(vec![
            Figure::seconds("total, median of 10", median(spans))
                .aim(0.25)
                .rival("0.94 s (Restate, 3 nodes); Airflow 119 s, Prefect 9.9 s, Dagster 265 s"),
            Figure::seconds("total, slowest of 10", percentile(spans, 1.0)),
            Figure::millis("one step", step),
        ])
    }
}

/// The workflow `chain`, of tasks that run a line of shell.
pub(crate) fn chain(length: usize, run: &str) -> String {
    let task = |at: usize| {
        let needs = if at == 0 { String::new() } else { format!("needs: t{}, ", at - 1) };
        format!("  t{at}: {{ {needs}run: {run:?} }}\n")
    };
    let tasks: String = (0..length).map(task).collect();
    format!("workflow: chain\ntasks:\n{tasks}")
}
