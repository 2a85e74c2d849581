//! `Runs`: executions of workflows.

mod again;
mod events;
mod list;
mod looks;
mod show;
mod start;
mod watch;
mod why;

use std::pin::Pin;
use std::time::Duration;

use matins_core::command::{Command, StopHow};
use matins_core::id::TaskId;
use matins_core::{Refusal, State, Thing};
use matins_proto::v1::error::Reason;
use matins_proto::v1::runs_server::Runs;
use matins_proto::v1::{
    AbandonAttemptRequest, AbandonAttemptResponse, CancelRunRequest, CancelRunResponse, GetRunRequest,
    GetRunResponse, ListItemsRequest, ListItemsResponse, ListRunEventsRequest, ListRunEventsResponse,
    ListRunsRequest, ListRunsResponse, RetryRunRequest, RetryRunResponse, RetryTaskRequest,
    RetryTaskResponse, Run, StartRunRequest, StartRunResponse, SubmitRunRequest, SubmitRunResponse,
    WaitRunsRequest, WaitRunsResponse, WatchRunRequest, WatchRunResponse, WatchRunsRequest,
    WatchRunsResponse, WhyRequest, WhyResponse, run,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use looks::Looks;

use crate::serve::api::{Api, Found};
use crate::serve::error::{Answer, ApiError};
use crate::serve::view::run::{has_ended, live_summary, retired_summary, run_state};
use crate::serve::view::task::TaskViews;

/// A client that wants to wait longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Runs that one call waits for.
const WAIT_RUNS_MAX: usize = 100;

/// Answers `Runs`.
pub(crate) struct RunsService(Api, Looks);

#[tonic::async_trait]
impl Runs for RunsService {
    async fn start(&self, request: Request<StartRunRequest>) -> Answer<StartRunResponse> {
        Ok(Response::new(start::start(&self.0, request.into_inner()).await?))
    }

    async fn submit(&self, request: Request<SubmitRunRequest>) -> Answer<SubmitRunResponse> {
        Ok(Response::new(start::submit(&self.0, request.into_inner()).await?))
    }

    async fn get(&self, request: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        Ok(Response::new(show::get(&self.0, request.into_inner()).await?))
    }

    async fn why(&self, request: Request<WhyRequest>) -> Answer<WhyResponse> {
        Ok(Response::new(why::why(&self.0, request.into_inner()).await?))
    }

    async fn list(&self, request: Request<ListRunsRequest>) -> Answer<ListRunsResponse> {
        Ok(Response::new(list::list(&self.0, request.into_inner()).await?))
    }

    async fn list_events(&self, request: Request<ListRunEventsRequest>) -> Answer<ListRunEventsResponse> {
        Ok(Response::new(events::list(&self.0, request.into_inner()).await?))
    }

    async fn list_items(&self, request: Request<ListItemsRequest>) -> Answer<ListItemsResponse> {
        Ok(Response::new(show::items(&self.0, request.into_inner()).await?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchRunResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRunRequest>) -> Answer<Self::WatchStream> {
        Ok(Response::new(watch::run((self.0.clone(), self.1.clone()), request.into_inner()).await?))
    }

    type WatchListStream = Pin<Box<dyn Stream<Item = Result<WatchRunsResponse, Status>> + Send>>;

    async fn watch_list(&self, request: Request<WatchRunsRequest>) -> Answer<Self::WatchListStream> {
        Ok(Response::new(watch::list((self.0.clone(), self.1.clone()), request.into_inner()).await?))
    }

    async fn wait(&self, request: Request<WaitRunsRequest>) -> Answer<WaitRunsResponse> {
        Ok(Response::new(wait(&self.0, request.into_inner()).await?))
    }

    async fn cancel(&self, request: Request<CancelRunRequest>) -> Answer<CancelRunResponse> {
        let request = request.into_inner();
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let read = self.0.read(false).await?;
        let found = self.0.find_run(&read.state, &request.run).await?;
        let run = found.id();
        let how = if request.now { StopHow::Now } else { StopHow::Grace };
        let (answered, answer) = self.0.propose(&ask, Command::Cancel { run, how }).await?;
        // A run that left for history ended before; the cluster only knows that it has it no more.
        if let (Err(Refusal::NotFound(Thing::Run(_))), Found::Retired(retired)) = (&answer, &found) {
            return Err(ended(&retired.id.to_string(), retired.run.state.as_str()).into());
        }
        answer.map_err(|refusal| ApiError::refused(&refusal, &self.0.state()))?;
        let committed = crate::serve::api::committed(&ask, &answered);
        let state = self.0.state_at(committed.index).await;
        let now = match self.0.found_run(&state, run).await? {
            Found::Live(_) => {
                state.runs.get(&run).map_or(run::State::Unspecified, |row| run_state(row.state))
            }
            Found::Retired(retired) => run_state(retired.run.state),
        };
        Ok(Response::new(CancelRunResponse {
            committed: Some(committed),
            state: now.into(),
            run_id: run.to_string(),
        }))
    }

    async fn retry(&self, request: Request<RetryRunRequest>) -> Answer<RetryRunResponse> {
        Ok(Response::new(again::retry(&self.0, request.into_inner()).await?))
    }

    async fn retry_task(&self, request: Request<RetryTaskRequest>) -> Answer<RetryTaskResponse> {
        let request = request.into_inner();
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let read = self.0.read(false).await?;
        let task = self.live_task(&read.state, (&request.run, &request.task)).await?;
        let (_, committed) = self.0.command(&ask, Command::RetryTask(task)).await?;
        Ok(Response::new(RetryTaskResponse { committed: Some(committed), run_id: task.run.to_string() }))
    }

    async fn abandon_attempt(
        &self,
        request: Request<AbandonAttemptRequest>,
    ) -> Answer<AbandonAttemptResponse> {
        let request = request.into_inner();
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let read = self.0.read(false).await?;
        let task = self.live_task(&read.state, (&request.run, &request.task)).await?;
        let attempt = read.state.tasks.get(&task).map_or(0, |row| row.attempts);
        let row = read.state.attempts.get(&(task, attempt));
        let asked = request.attempt.unwrap_or(attempt);
        let fence = row.filter(|_| asked == attempt).map(|row| row.fence).ok_or_else(|| {
            ApiError::not_found(Reason::AttemptNotFound, "attempt", &asked.to_string())
                .with("run", task.run.to_string())
                .with("task", request.task.clone())
        })?;
        let (_, committed) = self.0.command(&ask, Command::Abandon(task)).await?;
        Ok(Response::new(AbandonAttemptResponse { committed: Some(committed), attempt, fence: fence.0 }))
    }
}

impl RunsService {
    pub(crate) fn new(api: Api) -> Self {
        Self(api, Looks::default())
    }

    /// A task of a run that has not left for history.
    async fn live_task(&self, state: &State, (run, task): (&str, &str)) -> Result<TaskId, ApiError> {
        let found = self.0.find_run(state, run).await?;
        if let Found::Retired(retired) = &found {
            return Err(ended(&retired.id.to_string(), retired.run.state.as_str()));
        }
        let name = found.id().to_string();
        let rows = found.rows(state).ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &name))?;
        let views = TaskViews::new(&rows, state);
        views.find(task).ok_or_else(|| no_task(&name, task))
    }
}

fn ended(run: &str, state: &str) -> ApiError {
    ApiError::new(Reason::Conflict, format!("{run} has ended: {state}"))
        .with("subject", run)
        .with("state", state)
        .hint("a finished run is final; `matins retry` makes a new one of it")
}

fn no_task(run: &str, task: &str) -> ApiError {
    ApiError::not_found(Reason::TaskNotFound, "task", task).with("run", run)
}

/// The runs as lines of a list, wherever they are.
async fn summaries(api: &Api, state: &State, names: &[String]) -> Result<Vec<Run>, ApiError> {
    let mut runs = Vec::with_capacity(names.len());
    for name in names {
        runs.push(match api.find_run(state, name).await? {
            Found::Live(id) => match state.runs.get(&id) {
                Some(row) => live_summary(id, row, state),
                None => return Err(ApiError::not_found(Reason::RunNotFound, "run", name)),
            },
            Found::Retired(retired) => retired_summary(&retired, state),
        });
    }
    Ok(runs)
}

async fn wait(api: &Api, request: WaitRunsRequest) -> Result<WaitRunsResponse, ApiError> {
    if request.runs.len() > WAIT_RUNS_MAX {
        return Err(ApiError::limit("runs to wait for", WAIT_RUNS_MAX as u64, request.runs.len() as u64));
    }
    let asked = request
        .timeout
        .map_or(WAIT_MAX, |span| Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(0)));
    let until = tokio::time::Instant::now() + asked.min(WAIT_MAX);
    let mut read = api.read(false).await?;
    // `latest:` is resolved once: a run that is made meanwhile is not the one that is waited for.
    let mut names = Vec::with_capacity(request.runs.len());
    for name in &request.runs {
        names.push(api.find_run(&read.state, name).await?.id().to_string());
    }
    let mut states = api.cluster.states();
    loop {
        let runs = summaries(api, &read.state, &names).await?;
        let done = runs.iter().all(has_ended);
        let is_over = done || tokio::time::timeout_at(until, states.changed()).await.is_err();
        if is_over {
            return Ok(WaitRunsResponse { read_at: Some(read.at), runs, done });
        }
        let state = states.borrow_and_update().clone();
        read.at.index = state.index.0.max(read.at.index);
        read.at.leader_time = Some(crate::serve::view::wire_time(state.now));
        // A node that is behind the index it read at must not go back.
        if state.index >= read.state.index {
            read.state = state;
        }
    }
}
