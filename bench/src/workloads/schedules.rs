//! A cost curve: what a tick costs while more and more schedules are held, and what these cost in memory.

use std::path::Path;
use std::time::Duration;

use super::ad_hoc::{stamping, until_stamped};
use crate::cluster::Cluster;
use crate::figure::{Figure, Unit, median};
use crate::processes;
use crate::stamps;
use crate::trouble::Trouble;
use crate::workload::{Size, Stage, Workload};

/// Schedules of one workflow: its definition stays far below its limit.
pub(super) const EACH_WORKFLOW: usize = 1_000;

pub(crate) struct Schedules;

#[tonic::async_trait(?Send)]
impl Workload for Schedules {
    fn name(&self) -> &'static str {
        "schedules"
    }

    fn about(&self) -> &'static str {
        "a schedule due each second beside 10 to 1,000,000 that are due once a year: tick to first instruction"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(4).await?;
        let file = stage.folder.path().join("stamps");
        let each_second = "schedules:\n  each-second: { cron: \"* * * * * *\" }\n";
        cluster.apply(&stamping("tick", each_second, &file)?).await?;
        let counts: &[usize] = match stage.size {
            Size::Full => &[10, 100, 1_000, 10_000, 100_000, 1_000_000],
            Size::Quick => &[10, 2_000],
        };
        let (mut figures, mut held) = (Vec::new(), 0);
        for count in counts {
            held = hold(&cluster, held, *count).await?;
            let median = ticks(&file, stage.size.of(20, 2)).await?;
            figures.push(Figure::millis(format!("median beside {count} schedules"), median));
        }
        let leader = cluster.leader().await?;
        let pid = cluster.nodes[leader].pid().ok_or_else(|| Trouble("the leader is down".into()))?;
        let memory = processes::memory(pid)? as f64 / 1e6;
        figures.push(Figure::new(format!("memory of the leader with {held}"), memory, Unit::Megabytes));
        Ok(figures)
    }
}

/// Registers workflows until so many schedules are held, and gives how many are.
pub(super) async fn hold(cluster: &Cluster, held: usize, count: usize) -> Result<usize, Trouble> {
    for first in (held..count).step_by(EACH_WORKFLOW) {
        let last = (first + EACH_WORKFLOW).min(count);
        // Each day of the year at some minute: none is due while this lasts but by a rare chance, and then it is one.
        let schedule = |at: usize| {
            let (minute, hour, day, month) = (at % 60, at / 60 % 24, at / 7 % 28 + 1, at / 196 % 12 + 1);
            format!("  s{at}: {{ cron: \"{minute} {hour} {day} {month} *\" }}\n")
        };
        let schedules: String = (first..last).map(schedule).collect();
        let text =
            format!("workflow: held-{first}\nschedules:\n{schedules}tasks:\n  work: {{ run: \"true\" }}\n");
        cluster.apply(&text).await?;
    }
    Ok(count)
}

/// Waits for so many ticks from now on, and gives the median from tick to first instruction.
async fn ticks(file: &Path, count: usize) -> Result<Duration, Trouble> {
    let before = stamps::read(file)?.len();
    for more in 1..=count {
        until_stamped(file, before + more).await?;
    }
    let stamps = stamps::read(file)?;
    let spans: Vec<Duration> =
        stamps[before..].iter().map(|stamp| stamp.at.saturating_sub(stamp.logical)).collect();
    Ok(median(&spans))
}
