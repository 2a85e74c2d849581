//! Why something is in its state, as `matins_core::why` tells it.

use matins_core::id::BackfillId;
use matins_core::why;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{WhyRequest, WhyResponse};

use super::no_task;
use crate::serve::api::{Api, Read, find_workflow, named, workflow_name};
use crate::serve::error::ApiError;
use crate::serve::view::reason;

pub(super) async fn why(api: &Api, request: WhyRequest) -> Result<WhyResponse, ApiError> {
    let given = [&request.run, &request.backfill, &request.workflow];
    if given.iter().filter(|text| !text.is_empty()).count() != 1 {
        return Err(ApiError::bad_field("run", "give exactly one of run, backfill and workflow"));
    }
    let read = api.read(request.stale).await?;
    let why = if !request.run.is_empty() {
        of_run(api, &read, (&request.run, &request.task)).await?
    } else if !request.backfill.is_empty() {
        let id: BackfillId = named("backfill", &request.backfill)?;
        let not_found = || ApiError::not_found(Reason::BackfillNotFound, "backfill", &request.backfill);
        why::of_backfill(id, &read.state).ok_or_else(not_found)?
    } else {
        let name = workflow_name(&request.workflow)?;
        find_workflow(&read.state, &name)?;
        let not_found = || ApiError::not_found(Reason::WorkflowNotFound, "workflow", &name.to_string());
        why::of_workflow(&name, &read.state).ok_or_else(not_found)?
    };
    Ok(WhyResponse { read_at: Some(read.at), ..reason::why(why) })
}

async fn of_run(api: &Api, read: &Read, (run, task): (&str, &str)) -> Result<why::Why, ApiError> {
    let found = api.find_run(&read.state, run).await?;
    let rows = found.rows(&read.state);
    let rows = rows.ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", run))?;
    if task.is_empty() {
        return Ok(why::of_run(&rows, &read.state));
    }
    let id = rows.task_named(task).ok_or_else(|| no_task(&rows.id.to_string(), task))?;
    Ok(why::of_task(&rows, id, &read.state))
}
