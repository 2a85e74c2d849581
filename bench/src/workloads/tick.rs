//! A schedule that is due each second on an idle cluster: from the tick to the first instruction of its task.

use std::collections::BTreeSet;
use std::time::Duration;

use matins_proto::v1;

use super::ad_hoc::{stamping, until_stamped};
use crate::figure::{Figure, median, percentile};
use crate::stamps;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

pub(crate) struct Tick;

#[tonic::async_trait(?Send)]
impl Workload for Tick {
    fn name(&self) -> &'static str {
        "tick"
    }

    fn about(&self) -> &'static str {
        "from the second at which a schedule is due to the first instruction of its task"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(4).await?;
        let file = stage.folder.path().join("stamps");
        let schedule = "schedules:\n  each-second: { cron: \"* * * * * *\" }\n";
        cluster.apply(&stamping("tick", schedule, &file)?).await?;
        let count = stage.size.of(100, 3);
        // `until` has a deadline for one thing: here each tick is one.
        for so_far in 1..=count {
            until_stamped(&file, so_far).await?;
        }
        let pause = v1::PauseScheduleRequest {
            workflow: "tick".into(),
            schedule: "each-second".into(),
            ..Default::default()
        };
        cluster.client.call(pause).await?;
        let stamps = stamps::read(&file)?;
        let ticks: BTreeSet<Duration> = stamps.iter().map(|stamp| stamp.logical).collect();
        must_be("ticks that were stamped once", ticks.len(), stamps.len())?;
        let between = ticks
            .last()
            .zip(ticks.first())
            .map(|(last, first)| last.saturating_sub(*first).as_secs() as usize + 1);
        must_be("ticks in a row", between, Some(ticks.len()))?;
        let spans: Vec<Duration> =
            stamps.iter().map(|stamp| stamp.at.saturating_sub(stamp.logical)).collect();
        Ok(vec![
            Figure::millis("median", median(&spans)).aim(5.0).rival("30 ms; Airflow 0.55 s"),
            Figure::millis("99 of 100", percentile(&spans, 0.99)).aim(50.0),
        ])
    }
}
