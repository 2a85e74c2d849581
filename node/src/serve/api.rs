//! What all services share: how a command is asked, how a read is answered, and how things are named.
//!
//! A service reads the wire, asks through [`Api`] once, and writes the wire.

use std::sync::Arc;
use std::time::Duration;

use matins_core::command::{Command, NOT_AFTER_DEFAULT, Proposal, Request};
use matins_core::history::RetiredRun;
use matins_core::id::{ExecutorId, LogIndex, RequestId, RunId, ScheduleName, WorkflowName};
use matins_core::state::{DefinitionRow, ScheduleRow, WorkflowRow};
use matins_core::time::Timestamp;
use matins_core::{Answer, Refusal, State};
use matins_proto::v1::error::Reason;
use matins_proto::v1::{Committed, ReadAt};
use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use super::cluster::{Answered, Cluster, History, LogSource, Unanswered};
use super::error::ApiError;
use super::pulse::Watches;
use super::recent::Recent;
use crate::system;

/// A command or read that has no answer by then has none.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Ticks that are due are fired before a command that waits for them (PROTOCOL 3.5): it is asked again for so long.
const TICKS_DUE_WITHIN: Duration = Duration::from_secs(5);
/// History that is still on its way to this node is waited for so long.
const HISTORY_WITHIN: Duration = Duration::from_secs(8);
/// Where to a run may have gone that was made and is not there.
const FORGOTTEN: &str =
    "it may have left history: `matins cluster settings` says how long finished runs are kept";
/// The first pause before a command is asked again; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// The node as the services see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) logs: Arc<dyn LogSource>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) watches: Watches,
    /// Ends every stream, so that a shutdown need not wait for its readers.
    pub(crate) stopping: CancellationToken,
}

/// Under what a command is asked (PROTOCOL 4.6).
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) id: RequestId,
    pub(crate) not_after: Timestamp,
}

/// A state, and what it may be told as.
pub(crate) struct Read {
    pub(crate) state: Arc<State>,
    pub(crate) at: ReadAt,
}

/// A run, wherever it is.
pub(crate) enum Found {
    /// In the state.
    Live(RunId),
    /// In history.
    Retired(Box<RetiredRun>),
}

impl Api {
    /// Reads the state: as the leader confirms it, or as it lies here.
    pub(crate) async fn read(&self, is_stale: bool) -> Result<Read, ApiError> {
        let state = if is_stale {
            self.cluster.states().borrow().clone()
        } else {
            match self.cluster.read_index(ANSWER_WITHIN).await {
                Err(Unanswered::NotReady) if self.state().cluster.id.is_none() => {
                    return Err(not_initialised());
                }
                other => other?,
            }
        };
        if state.cluster.id.is_none() {
            return Err(not_initialised());
        }
        let at = ReadAt {
            index: state.index.0,
            leader_time: Some(wire_time(state.now)),
            stale: is_stale,
            incomplete: self.history.is_incomplete(),
        };
        Ok(Read { state, at })
    }

    /// The newest state that this node has.
    pub(crate) fn state(&self) -> Arc<State> {
        self.cluster.states().borrow().clone()
    }

    /// A state that shows what a client who heard up to `index` knows, to tell the difference from. `None`: it heard
    /// nothing, or too long ago, and everything is told anew.
    pub(crate) fn heard(&self, index: u64) -> Option<Arc<State>> {
        self.recent.note(self.state());
        (index > 0).then(|| self.recent.at_or_before(LogIndex(index))).flatten()
    }

    /// The very state that a client heard of who heard up to `index`. `None`: it heard nothing, or that state was not kept.
    pub(crate) fn heard_exactly(&self, index: u64) -> Option<Arc<State>> {
        self.recent.note(self.state());
        (index > 0).then(|| self.recent.at(LogIndex(index))).flatten()
    }

    /// Leader time as this node reckons it.
    pub(crate) fn leader_time(&self) -> Timestamp {
        let now = self.state().now;
        self.recent.leader_time().map_or(now, |time| time.max(now))
    }

    /// Under what a command is asked: as the client says, or as this node stamps it.
    pub(crate) fn ask(
        &self,
        request_id: &str,
        not_after: Option<matins_proto::Timestamp>,
    ) -> Result<Ask, ApiError> {
        let id = if request_id.is_empty() { drawn_id() } else { named("request_id", request_id)? };
        let not_after = match not_after {
            Some(at) => core_time(at),
            None => self.leader_time() + NOT_AFTER_DEFAULT,
        };
        Ok(Ask { id, not_after })
    }

    /// Asks the cluster for a change, and waits for its answer. Asks again while ticks are due.
    pub(crate) async fn command(&self, ask: &Ask, command: Command) -> Result<(Answer, Committed), ApiError> {
        let (answered, answer) = self.propose(ask, command).await?;
        let answer = answer.map_err(|refusal| ApiError::refused(&refusal, &self.state()))?;
        Ok((answer, committed(ask, &answered)))
    }

    /// As `command`, for those who mend a refusal themselves.
    pub(crate) async fn propose(
        &self,
        ask: &Ask,
        command: Command,
    ) -> Result<(Answered, Result<Answer, Refusal>), ApiError> {
        let request = Request { id: ask.id.clone(), not_after: ask.not_after };
        let proposal = Proposal { request: Some(request), leadership: None, command };
        let until = tokio::time::Instant::now() + TICKS_DUE_WITHIN;
        let mut pause = PAUSE_FIRST;
        loop {
            let answered = match self.cluster.propose(proposal.clone(), ANSWER_WITHIN).await {
                Err(Unanswered::NotReady) if self.state().cluster.id.is_none() => {
                    return Err(not_initialised());
                }
                other => other?,
            };
            let must_wait = matches!(answered.answer, Err(Refusal::TicksDue(_)));
            if !must_wait || tokio::time::Instant::now() + pause > until {
                let answer = answered.answer.clone();
                return Ok((answered, answer));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// What was answered to a request before, if that is still remembered at `index`.
    pub(crate) async fn remembered(&self, ask: &Ask, index: LogIndex) -> Option<Answer> {
        self.state_at(index.0).await.requests.get(&ask.id).and_then(|row| row.answer.clone().ok())
    }

    /// Finds a run by id, or the newest of a workflow by `latest:namespace/name`.
    pub(crate) async fn find_run(&self, state: &State, text: &str) -> Result<Found, ApiError> {
        let run = match text.strip_prefix("latest:") {
            Some(name) => {
                let name = workflow_name(name)?;
                let row = state.workflows.get(&name);
                let latest = row.and_then(|row| row.latest_run);
                latest.ok_or_else(|| {
                    if row.is_some() {
                        ApiError::new(Reason::RunNotFound, format!("workflow `{name}` has no run yet"))
                            .with("run", text)
                    } else {
                        no_workflow(state, &name)
                    }
                })?
            }
            None => named("run", text)?,
        };
        self.found_run(state, run).await
    }

    /// Finds a run by id.
    pub(crate) async fn found_run(&self, state: &State, run: RunId) -> Result<Found, ApiError> {
        if state.runs.contains(&run) {
            return Ok(Found::Live(run));
        }
        // A number that was given out and is not in the state is in history, which may still be on its way to this node.
        let was_made = run.0 <= state.cluster.counters.run;
        let deadline = tokio::time::Instant::now() + HISTORY_WITHIN;
        loop {
            // Asked before the look, so that what comes in between is not taken for missing.
            let is_incomplete = self.history.is_incomplete();
            if let Some(retired) = self.history.run(run).await? {
                return Ok(Found::Retired(Box::new(retired)));
            }
            if !was_made || !is_incomplete {
                let missing = ApiError::not_found(Reason::RunNotFound, "run", &run.to_string());
                let is_forgotten = was_made && state.cluster.forgotten.is_some();
                return Err(if is_forgotten { missing.hint(FORGOTTEN) } else { missing });
            }
            if tokio::time::Instant::now() > deadline {
                let text = format!("{run} is in history, of which this node does not have all yet");
                return Err(ApiError::new(Reason::NotReady, text).hint("ask another node, or try again soon"));
            }
            tokio::time::sleep(PAUSE_MAX).await;
        }
    }

    /// Waits until this node has applied what was committed at `index`, so that an answer can show it. A node that does not get
    /// there in time answers from what it has.
    pub(crate) async fn state_at(&self, index: u64) -> Arc<State> {
        let mut states = self.cluster.states();
        let reached = states.wait_for(|state| state.index >= LogIndex(index));
        match tokio::time::timeout(ANSWER_WITHIN, reached).await {
            Ok(Ok(state)) => Arc::clone(&state),
            Ok(Err(_)) | Err(_) => self.state(),
        }
    }
}

impl Found {
    /// Its id.
    pub(crate) fn id(&self) -> RunId {
        match self {
            Self::Live(run) => *run,
            Self::Retired(retired) => retired.id,
        }
    }

    /// The run with all its rows.
    pub(crate) fn rows(self, state: &State) -> Option<RetiredRun> {
        match self {
            Self::Live(run) => state.retired(run),
            Self::Retired(retired) => Some(*retired),
        }
    }
}

/// How the command was committed, for the client.
pub(crate) fn committed(ask: &Ask, answered: &Answered) -> Committed {
    Committed {
        index: answered.index.0,
        leader_time: Some(wire_time(answered.at)),
        not_after: Some(wire_time(ask.not_after)),
    }
}

/// How a dry run was committed: not at all.
pub(crate) fn not_committed(now: Timestamp) -> Committed {
    Committed { index: 0, leader_time: Some(wire_time(now)), not_after: None }
}

fn not_initialised() -> ApiError {
    ApiError::new(Reason::NotInitialized, "the cluster has not been founded")
        .hint("`matins cluster init` on one node founds it")
}

/// A request id that nobody else draws.
pub(crate) fn drawn_id() -> RequestId {
    format!("node-{:032x}", system::random().random::<u128>()).parse().expect("it is printable and short")
}

/// An instant on the wire.
pub(crate) fn wire_time(at: Timestamp) -> matins_proto::Timestamp {
    matins_proto::Timestamp::from_millis(at.as_millis())
}

/// An instant from the wire, rounded down to the millisecond.
pub(crate) fn core_time(at: matins_proto::Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis())
}

/// Reads an id or a name from a field.
pub(crate) fn named<T>(field: &str, text: &str) -> Result<T, ApiError>
where
    T: std::str::FromStr<Err = matins_core::id::NotAnId>,
{
    text.parse().map_err(|error: T::Err| ApiError::bad_field(field, error.to_string()))
}

/// Reads a workflow's name; without a namespace it is one of `default`.
pub(crate) fn workflow_name(text: &str) -> Result<WorkflowName, ApiError> {
    let full = if text.contains('/') { text.to_owned() } else { format!("default/{text}") };
    named("workflow", &full)
}

/// Finds a registered workflow with its current compiled form.
pub(crate) fn find_workflow<'s>(
    state: &'s State,
    name: &WorkflowName,
) -> Result<(&'s WorkflowRow, &'s DefinitionRow), ApiError> {
    let found = state.workflows.get(name).and_then(|row| {
        let version = state.versions.get(&(name.clone(), row.current?))?;
        Some((row, state.definitions.get(&version.definition)?))
    });
    found.ok_or_else(|| no_workflow(state, name))
}

/// That there is no such workflow, and which one may be meant.
pub(crate) fn no_workflow(state: &State, name: &WorkflowName) -> ApiError {
    let registered = state.workflows.iter().filter(|(_, row)| row.current.is_some());
    let names: Vec<String> = registered.map(|(name, _)| name.to_string()).collect();
    let error = ApiError::not_found(Reason::WorkflowNotFound, "workflow", &name.to_string());
    nearest(error, &name.to_string(), names.iter().map(String::as_str))
}

/// Adds the most similar name, if one is similar enough to be meant.
pub(crate) fn nearest<'n>(error: ApiError, name: &str, names: impl Iterator<Item = &'n str>) -> ApiError {
    match matins_workflow::nearest(name, names) {
        Some(near) => error.with("nearest", near).hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// Finds a schedule by name, or the only one.
pub(crate) fn find_schedule<'s>(
    state: &'s State,
    workflow: &WorkflowName,
    schedule: &str,
) -> Result<(matins_core::id::ScheduleId, &'s ScheduleRow), ApiError> {
    let all: Vec<_> = state.schedules_of(workflow).collect();
    if !schedule.is_empty() {
        let name: ScheduleName = named("schedule", schedule)?;
        let found = all.iter().find(|(id, _)| id.schedule == name);
        return found.map(|(id, row)| ((*id).clone(), *row)).ok_or_else(|| {
            let error = ApiError::not_found(Reason::ScheduleNotFound, "schedule", schedule)
                .with("workflow", workflow.to_string());
            nearest(error, schedule, all.iter().map(|(id, _)| id.schedule.as_str()))
        });
    }
    match all.as_slice() {
        [(id, row)] => Ok(((*id).clone(), *row)),
        several => {
            let names: Vec<&str> = several.iter().map(|(id, _)| id.schedule.as_str()).collect();
            let message = if names.is_empty() {
                format!("workflow `{workflow}` has no schedule")
            } else {
                format!("workflow `{workflow}` has several schedules, and none is named")
            };
            Err(ApiError::new(Reason::ScheduleRequired, message)
                .with("workflow", workflow.to_string())
                .with("schedules", names.join(" "))
                .hint(if names.is_empty() {
                    String::new()
                } else {
                    format!("name one of: {}", names.join(", "))
                }))
        }
    }
}

/// Finds an executor by its node's id or by its name. A name is a label that several may have: the node that was lost and
/// the one that took its place, or an executor without a node. Then nobody guesses.
pub(crate) fn find_executor(state: &State, text: &str) -> Result<ExecutorId, ApiError> {
    if let Some(id) = text.parse().ok().filter(|id| state.executors.contains(id)) {
        return Ok(id);
    }
    let named: Vec<_> = state.executors.iter().filter(|(_, row)| row.name == text).collect();
    match named.as_slice() {
        [] => Err(ApiError::not_found(Reason::NodeNotFound, "node", text)),
        [(id, _)] => Ok(**id),
        several => {
            let told = several.iter().map(|(id, row)| match state.sessions.get(&(**id, row.session)) {
                Some(session) if !session.is_expired => format!("{id}, which runs {} attempts", row.used),
                Some(_) | None => format!("{id}, which is gone"),
            });
            let told: Vec<String> = told.collect();
            Err(ApiError::bad_field("executor", format!("`{text}` is the name of {}", told.join(" and ")))
                .hint(
                    "give the id of the one you mean; `matins executor remove ID` forgets one that is gone",
                ))
        }
    }
}

/// The size of a page: the default for 0, and never above the most.
pub(crate) fn page_size(asked: u32, default: u32) -> Result<usize, ApiError> {
    const MAX: u32 = 1_000;
    match asked {
        0 => Ok(default as usize),
        size if size <= MAX => Ok(size as usize),
        size => Err(ApiError::limit("page_size", u64::from(MAX), u64::from(size))),
    }
}
