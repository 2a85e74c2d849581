//! A start by hand on an idle cluster: from the request to the first instruction of the task.

use std::time::Duration;

use crate::cluster::until;
use crate::figure::{Figure, median, percentile};
use crate::stamps;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

const WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct AdHoc;

#[tonic::async_trait(?Send)]
impl Workload for AdHoc {
    fn name(&self) -> &'static str {
        "ad-hoc"
    }

    fn about(&self) -> &'static str {
        "from the request to start a run to the first instruction of its task, one after the other"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let cluster = stage.cluster(4).await?;
        let file = stage.folder.path().join("stamps");
        cluster.apply(&stamping("ad-hoc", "", &file)?).await?;
        let (count, mut asked) = (stage.size.of(200, 10), Vec::new());
        for _ in 0..count {
            let at = stamps::now();
            let run = cluster.begin("ad-hoc").await?;
            cluster.finish(&run, WITHIN).await?;
            asked.push((run, at));
        }
        let stamps = stamps::read(&file)?;
        must_be("stamps", stamps.len(), count)?;
        let span = |(run, at): &(String, Duration)| {
            stamps.iter().find(|stamp| stamp.run == *run).map(|stamp| stamp.at.saturating_sub(*at))
        };
        let spans: Vec<Duration> = asked.iter().filter_map(span).collect();
        must_be("runs with a stamp", spans.len(), count)?;
        // The first ones warm up.
        let spans = &spans[count / 10..];
        Ok(vec![
            Figure::millis("median", median(spans)).aim(5.0).rival("11.5 ms"),
            Figure::millis("99 of 100", percentile(spans, 0.99)),
        ])
    }
}

/// A workflow with one task that leaves a stamp, and whatever else is said.
pub(crate) fn stamping(name: &str, more: &str, file: &std::path::Path) -> Result<String, Trouble> {
    let (program, file) = (stamps::program()?, file.display());
    let program = program.display();
    Ok(format!("workflow: {name}\n{more}tasks:\n  work: {{ run: [\"{program}\", \"{file}\"] }}\n"))
}

/// Waits until there are so many stamps.
pub(crate) async fn until_stamped(file: &std::path::Path, count: usize) -> Result<(), Trouble> {
    until("all tasks have left a stamp", async || Ok(stamps::read(file)?.len() >= count)).await
}
