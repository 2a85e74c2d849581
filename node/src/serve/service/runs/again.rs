//! Retrying finished runs (PROTOCOL 4.4).

use std::collections::BTreeSet;

use matins_core::command::{Command, Retry, RetryScope};
use matins_core::history::RetiredRun;
use matins_core::id::{Digest, RunId, TaskId};
use matins_core::state::TaskState;
use matins_core::{Answer, Refusal, Stale, State};
use matins_proto::v1::error::Reason;
use matins_proto::v1::retry_run_request::Mode;
use matins_proto::v1::{RetryRunRequest, RetryRunResponse};

use super::no_task;
use crate::serve::api::{Api, Found, committed, find_workflow, not_committed};
use crate::serve::error::{ApiError, fault_of};
use crate::serve::view::task::TaskViews;

/// History may move on while a retry is worked out from it; it is worked out anew so often (PROTOCOL 6.6).
const TRIES_MAX: usize = 5;

/// A retry that was worked out.
struct Plan {
    retry: Retry,
    /// The version that the new run has.
    version: Option<u32>,
    taken_over: Vec<String>,
    runs_again: Vec<String>,
    rows: RetiredRun,
}

pub(super) async fn retry(api: &Api, request: RetryRunRequest) -> Result<RetryRunResponse, ApiError> {
    let ask = api.ask(&request.request_id, request.not_after)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let read = api.read(false).await?;
        let found = api.find_run(&read.state, &request.run).await?;
        let plan = plan(&read.state, found, &request)?;
        let retry_of = plan.rows.id;
        let response = RetryRunResponse {
            committed: None,
            run_id: None,
            retry_of: retry_of.to_string(),
            version: plan.version,
            taken_over: plan.taken_over,
            runs_again: plan.runs_again,
        };
        if request.dry_run {
            check_over(&plan.rows)?;
            let committed = Some(not_committed(read.state.now));
            return Ok(RetryRunResponse { committed, ..response });
        }
        let is_retired = plan.retry.retired.is_some();
        let (answered, answer) = api.propose(&ask, Command::Retry(plan.retry)).await?;
        let run = match answer {
            Ok(Answer::Run(run)) => run,
            Ok(other) => return Err(fault_of("answer to a retry", &format!("{other:?}"))),
            Err(Refusal::Stale(Stale::History) | Refusal::NotFound(_)) if tries < TRIES_MAX => continue,
            Err(Refusal::RequestReused) => {
                let first = api.remembered(&ask, answered.index).await;
                match made_before(&api.state(), first.as_ref(), (retry_of, is_retired)) {
                    Some(run) => run,
                    None => return Err(ApiError::refused(&Refusal::RequestReused, &api.state())),
                }
            }
            Err(refusal) => return Err(ApiError::refused(&refusal, &api.state())),
        };
        return Ok(RetryRunResponse {
            committed: Some(committed(&ask, &answered)),
            run_id: Some(run.to_string()),
            ..response
        });
    }
}

/// The run that the first of these requests made. Only for a run of history: its command carries a number that has moved on
/// since, so that a repeat looks like another command.
fn made_before(state: &State, first: Option<&Answer>, (of, is_retired): (RunId, bool)) -> Option<RunId> {
    let Some(&Answer::Run(run)) = first else { return None };
    let is_same = state.runs.get(&run).is_some_and(|row| row.retry_of == Some(of));
    (is_retired && is_same).then_some(run)
}

fn check_over(rows: &RetiredRun) -> Result<(), ApiError> {
    if !rows.run.is_active() {
        return Ok(());
    }
    let (run, state) = (rows.id.to_string(), rows.run.state.as_str());
    Err(ApiError::new(Reason::Conflict, format!("{run} is {state}"))
        .with("subject", run)
        .with("state", state)
        .hint("`matins retry RUN/TASK` retries a failed task of an active run; or cancel the run first"))
}

fn plan(state: &State, found: Found, request: &RetryRunRequest) -> Result<Plan, ApiError> {
    let is_retired = matches!(found, Found::Retired(_));
    let rows =
        found.rows(state).ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &request.run))?;
    let scope = scope(state, &rows, request)?;
    let (definition, version) = match latest(state, &rows, request)? {
        Some((definition, number)) => (Some(definition), Some(number)),
        None => (None, rows.run.version),
    };
    let (taken_over, runs_again) = split(state, &rows, &scope);
    let count = state.retired_runs.get(&rows.run.workflow).copied().unwrap_or(0);
    let retired = is_retired.then(|| Box::new((rows.clone(), count)));
    let retry = Retry { run: rows.id, scope, definition, retired };
    Ok(Plan { retry, version, taken_over, runs_again, rows })
}

fn scope(state: &State, rows: &RetiredRun, request: &RetryRunRequest) -> Result<RetryScope, ApiError> {
    match request.mode() {
        Mode::Unspecified | Mode::Failed => Ok(RetryScope::Failed),
        Mode::All => Ok(RetryScope::All),
        Mode::FromTask => {
            let views = TaskViews::new(rows, state);
            let task = views.find(&request.from).filter(|task| task.item.is_none());
            let task = task.ok_or_else(|| no_task(&rows.id.to_string(), &request.from))?;
            Ok(RetryScope::From(task.task))
        }
    }
}

/// The current version, where it was asked for.
fn latest(
    state: &State,
    rows: &RetiredRun,
    request: &RetryRunRequest,
) -> Result<Option<(Digest, u32)>, ApiError> {
    if !request.latest {
        return Ok(None);
    }
    if request.mode() != Mode::All {
        return Err(ApiError::bad_field(
            "latest",
            "another version takes nothing over: it goes with `all` only",
        ));
    }
    let (row, _) = find_workflow(state, &rows.run.workflow)?;
    let number = row.current.unwrap_or(0);
    let version = state.versions.get(&(rows.run.workflow.clone(), number));
    Ok(version.map(|version| (version.definition, number)))
}

/// Names of tasks whose results are taken over, and of those that run again.
fn split(state: &State, rows: &RetiredRun, scope: &RetryScope) -> (Vec<String>, Vec<String>) {
    let views = TaskViews::new(rows, state);
    let again = match scope {
        RetryScope::Failed => BTreeSet::new(),
        RetryScope::From(task) => with_followers(state, rows, *task),
        RetryScope::All => views.in_order().into_iter().collect(),
    };
    let is_taken = |place: &u16| {
        let row = views.row(TaskId { run: rows.id, task: *place, item: None });
        let is_done = row.is_some_and(|row| matches!(row.state, TaskState::Success | TaskState::Skipped(_)));
        is_done && !again.contains(place)
    };
    let (taken, runs): (Vec<u16>, Vec<u16>) = views.in_order().into_iter().partition(is_taken);
    let names = |places: Vec<u16>| places.into_iter().map(|place| views.name(place)).collect();
    (names(taken), names(runs))
}

fn with_followers(state: &State, rows: &RetiredRun, task: u16) -> BTreeSet<u16> {
    let mut found = BTreeSet::from([task]);
    let Some(definition) = state.definitions.get(&rows.run.definition) else { return found };
    let mut open = vec![task];
    while let Some(next) = open.pop() {
        for follower in definition.downstream.get(usize::from(next)).into_iter().flatten() {
            if found.insert(*follower) {
                open.push(*follower);
            }
        }
    }
    found
}
