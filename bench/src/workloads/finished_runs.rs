//! What finished runs cost: the start of a node that has very many, and the pages of their list.
//!
//! On one node: each node keeps all of history and answers from its own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use matins_proto::v1;
use tokio::time::{Instant, sleep};

use super::idle::until_knows_leader;
use crate::cluster::Cluster;
use crate::figure::{Figure, Unit, median};
use crate::finished::{Filled, NIGHTLY, bytes_below, fill, has_failed, name_of, workflow_at};
use crate::processes;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Size, Stage, Workload};

/// A page as the command line asks for it.
const PAGE: u32 = 50;
/// An index over ten million runs is built within this.
const INDEXED_MAX: Duration = Duration::from_secs(3_600);

pub(crate) struct FinishedRuns;

#[tonic::async_trait(?Send)]
impl Workload for FinishedRuns {
    fn name(&self) -> &'static str {
        "finished-runs"
    }

    fn about(&self) -> &'static str {
        "1,000,000 and 10,000,000 finished runs: start after a kill, and pages of their list, plain and filtered for one in 10,000"
    }

    fn nodes(&self) -> &'static [usize] {
        &[1]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let counts: [u64; 2] = match stage.size {
            Size::Full => [1_000_000, 10_000_000],
            Size::Quick => [2_500, 22_500],
        };
        let mut figures = Vec::new();
        for count in counts {
            let filled = fill(stage, count).await?;
            figures.extend(measure(stage, &filled).await?);
            if count == counts[0] {
                must_be_whole(&stage.binary, &filled.folder.join("n1"))?;
            }
            // Ten gigabytes are not kept until the end, as the folders of others are.
            fs::remove_dir_all(&filled.folder)?;
        }
        Ok(figures)
    }
}

async fn measure(stage: &Stage, filled: &Filled) -> Result<Vec<Figure>, Trouble> {
    let count = filled.count;
    let began = Instant::now();
    let mut cluster = Cluster::waiting(&stage.binary, &filled.folder, 1, 4)?;
    until_whole(&cluster).await?;
    let indexed = began.elapsed();
    cluster.until_ready().await?;
    let mut starts = Vec::new();
    for _ in 0..stage.size.of(5, 1) {
        cluster.nodes[0].kill();
        let began = Instant::now();
        cluster.nodes[0].up()?;
        until_knows_leader(&cluster, 0).await?;
        starts.push(began.elapsed());
        cluster.until_ready().await?;
    }
    let mut figures = vec![
        Figure::seconds(format!("{count} runs: index built anew"), indexed),
        Figure::seconds(format!("{count} runs: start after kill -9"), median(&starts)).aim(3.0),
    ];
    figures.extend(pages(&cluster, stage, filled).await?);
    let pid = cluster.nodes[0].pid().ok_or_else(|| Trouble("the node is down".into()))?;
    let memory = processes::memory(pid)? as f64 / 1e6;
    figures.push(Figure::new(format!("{count} runs: memory of the node"), memory, Unit::Megabytes));
    let index = bytes_below(&filled.folder.join("n1/history"))? as f64 / 1e6;
    let blocks = filled.bytes as f64 / 1e6;
    figures.push(Figure::new(format!("{count} runs: blocks on the disk"), blocks, Unit::Megabytes));
    figures.push(Figure::new(format!("{count} runs: index on the disk"), index, Unit::Megabytes));
    Ok(figures)
}

/// Each kind of page: what is asked, and which runs must be in it.
async fn pages(cluster: &Cluster, stage: &Stage, filled: &Filled) -> Result<Vec<Figure>, Trouble> {
    let is_nightly = |at: u64| workflow_at(at) == NIGHTLY;
    let ask = |workflow: &str, filter: &str| v1::ListRunsRequest {
        page_size: PAGE,
        workflow: workflow.into(),
        filter: filter.into(),
        ..v1::ListRunsRequest::default()
    };
    let asked: [(&str, v1::ListRunsRequest, &dyn Fn(u64) -> bool); 4] = [
        ("first page", ask("", ""), &|_| true),
        ("page of one workflow", ask(&name_of(NIGHTLY), ""), &is_nightly),
        ("page of state=failed", ask("", "state=failed"), &has_failed),
        (
            "page of state=failed and workflow=~nightly",
            ask("", "state=failed and workflow=~nightly"),
            &|at| has_failed(at) && is_nightly(at),
        ),
    ];
    let mut figures = Vec::new();
    for (what, ask, holds) in asked {
        let expected: Vec<String> = filled.newest(holds).take(PAGE as usize).collect();
        let (mut spans, mut calls) = (Vec::new(), 0);
        for _ in 0..stage.size.of(21, 2) {
            let (runs, pages, span) = first_lines(cluster, &ask, expected.len()).await?;
            must_be(what, runs, expected.clone())?;
            spans.extend(span);
            calls = pages;
        }
        let longest = spans.iter().copied().max().unwrap_or_default();
        let what = format!("{} runs: {what}", filled.count);
        figures.push(Figure::millis(format!("{what}, median of a call"), median(&spans)).aim(50.0));
        figures.push(Figure::millis(format!("{what}, the longest call"), longest));
        if calls > 1 {
            let text = format!("{what}, calls until it has {}", expected.len());
            figures.push(Figure::new(text, calls as f64, Unit::Count));
        }
    }
    Ok(figures)
}

/// The first lines of a list, how many calls these took, and how long each was.
async fn first_lines(
    cluster: &Cluster,
    ask: &v1::ListRunsRequest,
    wanted: usize,
) -> Result<(Vec<String>, usize, Vec<Duration>), Trouble> {
    let (mut runs, mut spans, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let ask = v1::ListRunsRequest { page_token, ..ask.clone() };
        let began = Instant::now();
        let page = cluster.client.call(ask).await?;
        spans.push(began.elapsed());
        runs.extend(page.runs.into_iter().map(|run| run.id));
        page_token = page.next_page_token;
        if page_token.is_empty() || runs.len() >= wanted {
            runs.truncate(wanted);
            return Ok((runs, spans.len(), spans));
        }
    }
}

/// Waits until the index has all blocks.
async fn until_whole(cluster: &Cluster) -> Result<(), Trouble> {
    let deadline = Instant::now() + INDEXED_MAX;
    loop {
        let ask = v1::ListRunsRequest { page_size: 1, ..v1::ListRunsRequest::default() };
        let is_whole = match cluster.client.call(ask).await {
            Ok(page) => page.read_at.is_some_and(|at| !at.incomplete),
            Err(_) => false,
        };
        if is_whole {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Trouble(format!("the index is not built after {INDEXED_MAX:?}")));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Has the product look through the directory: what was filled in must be what a node would have.
fn must_be_whole(binary: &Path, root: &Path) -> Result<(), Trouble> {
    let looked = Command::new(binary).args(["cluster", "check"]).arg(root).output()?;
    let said = String::from_utf8_lossy(&looked.stdout);
    must_be(&format!("`cluster check` of what was filled in says {said}"), looked.status.code(), Some(0))
}
