//! Starting runs: of registered workflows, and of texts of their own.

use matins_core::command::{Command, Start};
use matins_core::id::{Digest, RunId};
use matins_core::ir;
use matins_core::state::RunOrigin;
use matins_core::time::Timestamp;
use matins_core::{Answer, Refusal, State};
use matins_proto::v1::error::Reason;
use matins_proto::v1::{Committed, StartRunRequest, StartRunResponse, SubmitRunRequest, SubmitRunResponse};
use serde_json::{Map, Value};

use crate::serve::api::{Api, Ask, committed, core_time, find_workflow, workflow_name};
use crate::serve::compile::{Document, compile, store};
use crate::serve::error::{ApiError, fault_of};
use crate::serve::plan::{Wanted, given, tick};

/// What is started.
struct What<'a> {
    workflow: &'a ir::Workflow,
    definition: Digest,
    origin: RunOrigin,
    schedule: &'a str,
    params: Map<String, Value>,
}

pub(super) async fn start(api: &Api, request: StartRunRequest) -> Result<StartRunResponse, ApiError> {
    let ask = api.ask(&request.request_id, request.not_after)?;
    let read = api.read(false).await?;
    let (name, params) = named_or_like(api, &read.state, &request).await?;
    let name = workflow_name(&name)?;
    let (row, _) = find_workflow(&read.state, &name)?;
    let number = request.version.or(row.current).unwrap_or(0);
    let version = read.state.versions.get(&(name.clone(), number));
    let definition = version.map(|version| version.definition);
    let definition = definition.ok_or_else(|| no_version(&name.to_string(), number))?;
    let workflow = read.state.definitions.get(&definition).map(|row| row.workflow.clone());
    let workflow = workflow.ok_or_else(|| no_version(&name.to_string(), number))?;
    let what = What {
        workflow: &workflow,
        definition,
        origin: RunOrigin::Manual,
        schedule: &request.schedule,
        params,
    };
    let (run, committed) = make(api, &ask, &what, request.logical_time.map(core_time)).await?;
    Ok(StartRunResponse { committed: Some(committed), run_id: run.to_string() })
}

/// The workflow and the values that a request gives, itself or by the run that it names.
async fn named_or_like(
    api: &Api,
    state: &State,
    request: &StartRunRequest,
) -> Result<(String, Map<String, Value>), ApiError> {
    let params = given(request.params.as_ref())?;
    if request.like.is_empty() {
        return Ok((request.workflow.clone(), params));
    }
    let found = api.find_run(state, &request.like).await?;
    let rows =
        found.rows(state).ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &request.like))?;
    let name = rows.run.workflow.to_string();
    if !request.workflow.is_empty() && workflow_name(&request.workflow)?.to_string() != name {
        return Err(ApiError::bad_field("like", format!("{} is a run of `{name}`", rows.id)));
    }
    let like = serde_json::from_str(&rows.run.params);
    let mut all: Map<String, Value> =
        like.map_err(|error| fault_of("params of a run", &error.to_string()))?;
    all.extend(params);
    Ok((name, all))
}

fn no_version(workflow: &str, number: u32) -> ApiError {
    ApiError::not_found(Reason::VersionNotFound, "version", &number.to_string()).with("workflow", workflow)
}

pub(super) async fn submit(api: &Api, request: SubmitRunRequest) -> Result<SubmitRunResponse, ApiError> {
    let ask = api.ask(&request.request_id, request.not_after)?;
    let source = request.source.as_ref().ok_or_else(|| ApiError::bad_field("source", "it is missing"))?;
    let read = api.read(false).await?;
    let mut compiled = compile(api, std::slice::from_ref(source), &request.namespace).await?;
    compiled.leave_out_pools();
    compiled.check_pools(&read.state)?;
    let [document] = compiled.workflows.as_slice() else {
        return Err(ApiError::bad_field(
            "source",
            format!("it has {} workflows, and exactly one can be submitted", compiled.workflows.len()),
        ));
    };
    store(api, std::slice::from_ref(source), &compiled.workflows).await?;
    let Document { workflow, definition, .. } = document;
    let what = What {
        workflow,
        definition: *definition,
        origin: RunOrigin::Submitted,
        schedule: &request.schedule,
        params: given(request.params.as_ref())?,
    };
    let (run, committed) = make(api, &ask, &what, request.logical_time.map(core_time)).await?;
    let diagnostics = compiled.wire_diagnostics();
    Ok(SubmitRunResponse { committed: Some(committed), run_id: run.to_string(), diagnostics })
}

/// Makes the run. A repeat of a request that named no time is worked out for the time of the first one: otherwise it would
/// be another command, and be refused (PROTOCOL 4.6).
async fn make(
    api: &Api,
    ask: &Ask,
    what: &What<'_>,
    logical_time: Option<Timestamp>,
) -> Result<(RunId, Committed), ApiError> {
    let at = logical_time.unwrap_or_else(|| api.leader_time());
    let (mut answered, mut answer) = api.propose(ask, command(what, what.definition, at)?).await?;
    if answer == Err(Refusal::RequestReused)
        && let Some(Answer::Run(first)) = api.remembered(ask, answered.index).await
    {
        let rows = api.found_run(&api.state(), first).await?.rows(&api.state());
        if let Some(rows) = rows.filter(|rows| rows.run.workflow == what.workflow.name) {
            let at = logical_time.unwrap_or(rows.run.logical_time);
            (answered, answer) = api.propose(ask, command(what, rows.run.definition, at)?).await?;
        }
    }
    let answer = answer.map_err(|refusal| ApiError::refused(&refusal, &api.state()))?;
    let Answer::Run(run) = answer else {
        return Err(fault_of("answer to a start", &format!("{answer:?}")));
    };
    Ok((run, committed(ask, &answered)))
}

fn command(what: &What<'_>, definition: Digest, logical_time: Timestamp) -> Result<Command, ApiError> {
    let params = what.params.clone();
    let wanted = Wanted { workflow: what.workflow, schedule: what.schedule, logical_time, params };
    let (schedule, tick) = tick(&wanted)?;
    Ok(Command::Start(Start {
        workflow: what.workflow.name.clone(),
        definition,
        origin: what.origin,
        schedule,
        tick,
    }))
}
