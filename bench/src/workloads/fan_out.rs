//! One task, then a thousand at once, then one: how many tasks a second go through.

use std::time::{Duration, Instant};

use matins_proto::v1;

use crate::figure::{Figure, median};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

const WITHIN: Duration = Duration::from_secs(120);

pub(crate) struct FanOut;

#[tonic::async_trait(?Send)]
impl Workload for FanOut {
    fn name(&self) -> &'static str {
        "fan-out"
    }

    fn about(&self) -> &'static str {
        "1 task, then 1,000 at once, then 1; twice as many slots as cores on each node"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let items = stage.size.of(1_000, 50);
        let slots = std::thread::available_parallelism().map_or(4, |cores| cores.get() as u32 * 2);
        let cluster = stage.cluster(slots).await?;
        let text = format!(
            "workflow: fan-out\ntasks:\n  first: {{ run: \"true\" }}\n  \
             each: {{ needs: first, for_each: \"{{{{ range({items}) }}}}\", run: \"true\" }}\n  \
             last: {{ needs: each, run: \"true\" }}\n"
        );
        cluster.apply(&text).await?;
        let mut spans = Vec::new();
        for _ in 0..=stage.size.of(3, 0) {
            let began = Instant::now();
            let run = cluster.begin("fan-out").await?;
            cluster.finish(&run, WITHIN).await?;
            spans.push(began.elapsed());
            let shown =
                cluster.client.call(v1::GetRunRequest { run, ..v1::GetRunRequest::default() }).await?;
            let each = shown.run.and_then(|run| run.tasks.into_iter().find(|task| task.name == "each"));
            let counts = each.and_then(|task| task.item_counts).unwrap_or_default();
            must_be("items that succeeded", counts.success as usize, items)?;
        }
        Ok(vec![
            Figure::per_second("tasks, median of 4 runs", items + 2, median(&spans))
                .aim(1_000.0)
                .rival("147/s; Airflow 3.7/s"),
            Figure::seconds("total", median(&spans)),
        ])
    }
}
