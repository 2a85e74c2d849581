//! The leader is killed, again and again, while runs are started: how long until the next commit and the next task start,
//! and whether any task ran twice or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use matins_client::Client;
use matins_proto::v1;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::ad_hoc::{stamping, until_stamped};
use crate::figure::{Figure, Unit, median, percentile};
use crate::stamps;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

/// Between two starts.
const EACH: Duration = Duration::from_millis(20);
/// The cluster runs undisturbed for so long before each kill.
pub(super) const QUIET: Duration = Duration::from_secs(2);

pub(crate) struct Failover;

/// A run that was accepted: when it was asked for and when the answer came, since 1970.
pub(super) struct Accepted {
    pub(super) run: String,
    asked: Duration,
    pub(super) answered: Duration,
}

#[tonic::async_trait(?Send)]
impl Workload for Failover {
    fn name(&self) -> &'static str {
        "failover"
    }

    fn about(&self) -> &'static str {
        "kill -9 of the leader while 50 runs a second are started: until the next commit, and the next task start"
    }

    fn nodes(&self) -> &'static [usize] {
        &[3]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let mut cluster = stage.cluster(8).await?;
        let file = stage.folder.path().join("stamps");
        cluster.apply(&stamping("load", "", &file)?).await?;
        let is_over = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(start_runs(cluster.client.clone(), Arc::clone(&is_over)));
        let mut kills = Vec::new();
        for _ in 0..stage.size.of(30, 1) {
            sleep(QUIET).await;
            let leader = cluster.leader().await?;
            kills.push(stamps::now());
            cluster.nodes[leader].kill();
            sleep(QUIET).await;
            cluster.nodes[leader].up()?;
            cluster.until_ready().await?;
        }
        is_over.store(true, Ordering::Relaxed);
        let accepted = finish(load).await?;
        until_stamped(&file, accepted.len()).await?;
        figures(&file, &accepted, &kills)
    }
}

/// Starts runs one after the other until told to stop. The client repeats what got no answer, under one request id.
pub(super) async fn start_runs(client: Client, is_over: Arc<AtomicBool>) -> Result<Vec<Accepted>, Trouble> {
    let mut accepted = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let asked = stamps::now();
        let ask = v1::StartRunRequest { workflow: "load".into(), ..v1::StartRunRequest::default() };
        let run = client.call(ask).await?.run_id;
        accepted.push(Accepted { run, asked, answered: stamps::now() });
        sleep(EACH).await;
    }
    Ok(accepted)
}

async fn finish(load: JoinHandle<Result<Vec<Accepted>, Trouble>>) -> Result<Vec<Accepted>, Trouble> {
    load.await?
}

fn figures(file: &Path, accepted: &[Accepted], kills: &[Duration]) -> Result<Vec<Figure>, Trouble> {
    let mut by_run: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for stamp in stamps::read(file)? {
        by_run.entry(stamp.run).or_default().push(stamp.at);
    }
    let never = accepted.iter().filter(|it| !by_run.contains_key(&it.run)).count();
    must_be("accepted runs whose task never ran", never, 0)?;
    let twice = by_run.values().filter(|stamps| stamps.len() > 1).count();
    let (mut commits, mut starts) = (Vec::new(), Vec::new());
    for kill in kills {
        // Asked before the kill and answered after it counts too: the client was waiting for just this.
        let commit = accepted.iter().find(|it| it.answered > *kill);
        let commit = commit.ok_or_else(|| Trouble("nothing was accepted after a kill".into()))?;
        commits.push(commit.answered.saturating_sub(*kill));
        let asked_after = accepted.iter().filter(|it| it.asked > *kill || it.answered > *kill);
        let start = asked_after.filter_map(|it| by_run.get(&it.run)?.iter().min()).min();
        starts.extend(start.map(|at| at.saturating_sub(*kill)));
    }
    must_be("kills after which a task started", starts.len(), kills.len())?;
    let rival = "0.4 to 2.2 s, and 270 to 340 of 1,000 tasks ran twice";
    Ok(vec![
        Figure::seconds(format!("next commit, median of {}", kills.len()), median(&commits))
            .aim(1.0)
            .rival(rival),
        Figure::seconds("next commit, 99 of 100", percentile(&commits, 0.99)).aim(2.0),
        Figure::seconds("next commit, at most", percentile(&commits, 1.0)).aim(5.0),
        Figure::seconds("next task start, median", median(&starts)).aim(1.2),
        Figure::seconds("next task start, 99 of 100", percentile(&starts, 0.99)).aim(2.2),
        Figure::seconds("next task start, at most", percentile(&starts, 1.0)).aim(5.2),
        Figure::new(format!("tasks that ran twice, of {}", by_run.len()), twice as f64, Unit::Count),
    ])
}
