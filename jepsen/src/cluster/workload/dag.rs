//! **dag**: of random graphs with outcomes fixed in advance, order, attempts, retries and final states are exactly as an
//! independent model computes them; attempts that faults took away are told apart and use up no retries.
//!
//! Start at [`Dag`]; `dag/model.rs` is the model, `dag/check.rs` the checker.

mod check;
mod model;

use std::collections::BTreeMap;
use std::time::Duration;

use matins_proto::v1::attempt::State as AttemptState;
use matins_proto::v1::{Attempt, ListRunsRequest, Run, Source, SubmitRunRequest};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::report::Report;

use super::doors::{Doors, Heard};
use super::excuse::Excuses;
use super::record::read;
use super::spans::{Span, spans};
use super::{Site, Trouble, Until, Workload, runs};
use check::{Seen, broken};
use model::{End, Graph};

const NAME: &str = "dag";

/// Runs that are under way at the same time.
const RUNS_MAX: usize = 5;

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Dag {
    /// By name of the workflow.
    graphs: BTreeMap<String, Graph>,
    /// Those whose run was acknowledged.
    acknowledged: Vec<String>,
}

#[tonic::async_trait]
impl Workload for Dag {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, _site: &Site) -> Result<(), Trouble> {
        Ok(())
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let mut random = StdRng::seed_from_u64(site.seed);
        // What is drawn for graphs must not depend on who answers when.
        let mut graphs = StdRng::seed_from_u64(site.seed ^ 1);
        while !until.is_over() {
            sleep(Duration::from_millis(200)).await;
            let states = runs::ACTIVE.iter().map(|state| *state as i32).collect();
            let ask = ListRunsRequest { namespace: NAME.into(), states, ..ListRunsRequest::default() };
            let Heard::Done(active) = doors.at(doors.any(&mut random), ask).await? else { continue };
            if active.runs.len() >= RUNS_MAX {
                continue;
            }
            let graph = Graph::random(&mut graphs);
            let name = format!("g{}-{}", site.seed, self.graphs.len());
            let text = graph.yaml(site, NAME, &name)?;
            self.graphs.insert(format!("{NAME}/{name}"), graph);
            let source = Some(Source { path: format!("{name}.matins.yaml"), text, files: Vec::new() });
            let ask = SubmitRunRequest { source, namespace: NAME.into(), ..SubmitRunRequest::default() };
            match doors.at(doors.any(&mut random), ask).await? {
                Heard::Done(_) => self.acknowledged.push(format!("{NAME}/{name}")),
                Heard::Refused(answered) if answered.code == tonic::Code::InvalidArgument => {
                    return Err(Trouble(format!("a graph was refused: {answered}")));
                }
                Heard::Refused(_) | Heard::Maybe => {}
            }
        }
        Ok(())
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        runs::settle(site, NAME, within, report).await
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let (spans, mut found) = spans(&read(&site.record_file(NAME))?);
        let all = runs::whole(&Doors::open(site)?, NAME).await?;
        let excuses = Excuses::read(site, &all);
        excuses.tell(NAME, &spans, report);
        let spans = excuses.counted(spans);
        let mut runs_of: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut attempts, mut lost, mut retried) = (0, 0, 0);
        for run in &all {
            *runs_of.entry(&run.workflow).or_default() += 1;
            let Some(graph) = self.graphs.get(&run.workflow) else {
                found.push(format!("{} is of {}, which nobody submitted", run.id, run.workflow));
                continue;
            };
            let seen = seen(run, &spans)?;
            for ends in seen.observed.ends.values() {
                attempts += ends.len() as u64;
                lost += ends.iter().filter(|end| **end == End::Lost).count() as u64;
                retried += u64::from(ends.len() > 1);
            }
            found.extend(broken(graph, &seen));
        }
        for workflow in &self.acknowledged {
            let count = runs_of.get(workflow.as_str()).copied().unwrap_or(0);
            if count != 1 {
                found.push(format!("I10: {workflow} was acknowledged, and has {count} runs"));
            }
        }
        report.needs("dag: graphs", all.len() as u64, 8);
        report.needs("dag: attempts", attempts, 40);
        report.needs("dag: tasks tried again", retried, 3);
        report.figure("dag: attempts lost to faults", lost);
        site.report(NAME, found, report);
        Ok(())
    }
}

/// What the cluster says of a run, and what its tasks wrote down.
fn seen(run: &Run, spans: &[Span]) -> Result<Seen, Trouble> {
    let mut seen = Seen {
        run: format!("{} of {}", run.id, run.workflow),
        state: runs::word(run.state()).into(),
        ..Seen::default()
    };
    for task in run.tasks.iter().flat_map(|task| std::iter::once(task).chain(&task.items)) {
        seen.observed.states.insert(task.address.clone(), task.state().as_str_name().to_owned());
        if let Some(at) = task.finished_at {
            seen.observed.finished.insert(task.address.clone(), at.as_millis());
        }
        let ends: Result<Vec<End>, Trouble> = task.attempts.iter().map(end_of).collect();
        seen.observed.ends.insert(task.address.clone(), ends?);
    }
    for span in spans.iter().filter(|span| span.run == run.id) {
        seen.lives.entry(span.task.clone()).or_default().push(span.clone());
    }
    Ok(seen)
}

fn end_of(attempt: &Attempt) -> Result<End, Trouble> {
    let reason = attempt.reason.as_ref().map_or("", |reason| reason.code.as_str());
    let other = || Ok(End::Other(format!("{} ({reason})", attempt.state().as_str_name())));
    match (attempt.state(), attempt.exit_code) {
        (_, Some(125)) => Err(Trouble("a task failed since the harness did: its log has more".into())),
        (AttemptState::Success, Some(0)) => Ok(End::Exited(0)),
        (AttemptState::Failed, Some(code)) if reason == "exit" && attempt.counts => Ok(End::Exited(code)),
        (AttemptState::Lost, _) if !attempt.counts => Ok(End::Lost),
        (
            AttemptState::Success
            | AttemptState::Failed
            | AttemptState::Lost
            | AttemptState::Cancelled
            | AttemptState::Running
            | AttemptState::Stopping
            | AttemptState::Unspecified,
            _,
        ) => other(),
    }
}
