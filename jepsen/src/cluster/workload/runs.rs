//! Reading back what the cluster says about the runs of a workload, and waiting for their end.
//!
//! Each workload has a namespace of its own, named as itself. Start at [`settle`] and [`whole`].

use std::time::{Duration, Instant};

use matins_proto::v1::run::State;
use matins_proto::v1::{
    ApplyWorkflowsRequest, Attempt, GetRunRequest, GetWorkflowRequest, GetWorkflowResponse, ListRunsRequest,
    ListRunsResponse, Run, Source, Task,
};
use tokio::time::sleep;

use crate::report::Report;

use super::doors::Doors;
use super::{Site, Trouble};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(300);

/// States of a run that has not ended.
pub(crate) const ACTIVE: [State; 3] = [State::Queued, State::Running, State::Stopping];

/// Registers a text, which must go well.
pub(crate) async fn apply(doors: &Doors, namespace: &str, text: String) -> Result<(), Trouble> {
    let source = Source { path: format!("{namespace}.matins.yaml"), text, files: Vec::new() };
    let ask = ApplyWorkflowsRequest {
        sources: vec![source],
        namespace: namespace.to_owned(),
        ..ApplyWorkflowsRequest::default()
    };
    doors.surely(ask).await.map(drop)
}

/// All runs of a namespace in these states (none: in any), each retry in a line of its own, the newest first.
///
/// A node that still fetches its history says so; then it is asked again, since a list with holes proves nothing.
pub(crate) async fn list(doors: &Doors, namespace: &str, states: &[State]) -> Result<Vec<Run>, Trouble> {
    let deadline = Instant::now() + Duration::from_secs(60);
    'anew: while Instant::now() < deadline {
        let mut runs = Vec::new();
        let mut ask = ListRunsRequest {
            namespace: namespace.to_owned(),
            states: states.iter().map(|state| *state as i32).collect(),
            retries: true,
            page_size: 1_000,
            ..ListRunsRequest::default()
        };
        loop {
            let ListRunsResponse { read_at, runs: page, next_page_token } = doors.surely(ask.clone()).await?;
            if read_at.is_none_or(|at| at.incomplete || at.stale) {
                sleep(PAUSE).await;
                continue 'anew;
            }
            runs.extend(page);
            if next_page_token.is_empty() {
                return Ok(runs);
            }
            ask.page_token = next_page_token;
        }
    }
    Err(Trouble("no node has a complete history within a minute".into()))
}

/// All runs of a namespace with their tasks, items and attempts.
pub(crate) async fn whole(doors: &Doors, namespace: &str) -> Result<Vec<Run>, Trouble> {
    let mut runs = list(doors, namespace, &[]).await?;
    for run in &mut runs {
        let ask = GetRunRequest { run: run.id.clone(), items_max: 1_000, ..GetRunRequest::default() };
        let got = doors.surely(ask).await?.run;
        *run = got.ok_or_else(|| Trouble(format!("{} was listed and is not shown", run.id)))?;
        let mut tasks = Vec::new();
        for task in std::mem::take(&mut run.tasks) {
            tasks.push(with_attempts(doors, &run.id, task).await?);
        }
        run.tasks = tasks;
    }
    Ok(runs)
}

/// A task whose attempts are all there, and those of its items: where they are left out they are asked for.
async fn with_attempts(doors: &Doors, run: &str, mut task: Task) -> Result<Task, Trouble> {
    for place in &mut task.items {
        if place.attempts.len() < place.attempt_count as usize {
            *place = one_task(doors, run, &place.address).await?;
        }
    }
    if task.items.is_empty() && task.attempts.len() < task.attempt_count as usize {
        task = one_task(doors, run, &task.address).await?;
    }
    Ok(task)
}

async fn one_task(doors: &Doors, run: &str, address: &str) -> Result<Task, Trouble> {
    let ask = GetRunRequest { run: run.to_owned(), task: address.to_owned(), ..GetRunRequest::default() };
    let tasks = doors.surely(ask).await?.run.unwrap_or_default().tasks;
    let all = tasks.into_iter().flat_map(|mut task| {
        let items = std::mem::take(&mut task.items);
        std::iter::once(task).chain(items)
    });
    let found = all.into_iter().find(|task| task.address == address);
    found.ok_or_else(|| Trouble(format!("{run}/{address} was listed and is not shown")))
}

/// Every attempt of a run, with the address of its task.
pub(crate) fn attempts(run: &Run) -> impl Iterator<Item = (&str, &Attempt)> {
    let tasks = run.tasks.iter().flat_map(|task| std::iter::once(task).chain(&task.items));
    tasks.flat_map(|task| task.attempts.iter().map(|attempt| (task.address.as_str(), attempt)))
}

/// Waits until no run of the namespace is under way. What still is breaks I15.
pub(crate) async fn settle(
    site: &Site,
    namespace: &str,
    within: Duration,
    report: &mut Report,
) -> Result<(), Trouble> {
    let doors = Doors::open(site)?;
    let deadline = Instant::now() + within;
    loop {
        let left = list(&doors, namespace, &ACTIVE).await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let say = |run: &Run| {
                let why = run.reason.as_ref().map_or("no reason", |reason| reason.text.as_str());
                format!(
                    "I15: {} of {} is still {} after {within:?}: {why}",
                    run.id,
                    run.workflow,
                    word(run.state())
                )
            };
            site.report(namespace, left.iter().map(say).collect(), report);
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

/// The state in the language's own word.
pub(crate) fn word(state: State) -> &'static str {
    state.as_str_name()
}

/// One workflow as it stands.
pub(crate) async fn workflow(doors: &Doors, name: &str) -> Result<matins_proto::v1::Workflow, Trouble> {
    let ask = GetWorkflowRequest { workflow: name.to_owned(), ..GetWorkflowRequest::default() };
    let GetWorkflowResponse { workflow, .. } = doors.surely(ask).await?;
    workflow.ok_or_else(|| Trouble(format!("{name} is not shown")))
}
