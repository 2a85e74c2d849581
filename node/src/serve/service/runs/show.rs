//! One run with its tasks, and the items of one fan-out.

use matins_core::id::TaskId;
use matins_core::state::TaskState;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{GetRunRequest, GetRunResponse, ListItemsRequest, ListItemsResponse, Run, task};

use super::no_task;
use crate::serve::api::{Api, page_size};
use crate::serve::error::ApiError;
use crate::serve::page::{Query, cut, invalid};
use crate::serve::view::run::whole;
use crate::serve::view::task::{Detail, TaskViews, state_of};

pub(super) async fn get(api: &Api, request: GetRunRequest) -> Result<GetRunResponse, ApiError> {
    let items_max = page_size(request.items_max, 20)?;
    let read = api.read(request.stale).await?;
    let found = api.find_run(&read.state, &request.run).await?;
    let rows = found
        .rows(&read.state)
        .ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &request.run))?;
    let run = whole(&rows, &read.state, (Detail::Full, items_max));
    if request.task.is_empty() {
        return Ok(GetRunResponse { read_at: Some(read.at), run: Some(run) });
    }
    let views = TaskViews::new(&rows, &read.state);
    let id = views.find(&request.task).ok_or_else(|| no_task(&run.id, &request.task))?;
    let mut task = views
        .task(TaskId { item: None, ..id }, Detail::Full)
        .ok_or_else(|| no_task(&run.id, &request.task))?;
    task.items = if id.item.is_some() {
        views.task(id, Detail::Full).into_iter().collect()
    } else {
        let shown = run.tasks.iter().find(|shown| shown.address == task.address);
        shown.map(|shown| shown.items.clone()).unwrap_or_default()
    };
    Ok(GetRunResponse { read_at: Some(read.at), run: Some(Run { tasks: vec![task], ..run }) })
}

pub(super) async fn items(api: &Api, request: ListItemsRequest) -> Result<ListItemsResponse, ApiError> {
    let query = Query::new("items", &(&request.run, &request.task, &request.states));
    let size = page_size(request.page_size, 100)?;
    let after = query.last(&request.page_token)?.map(|last| last.parse::<u32>().map_err(|_| invalid()));
    let after = after.transpose()?;
    let read = api.read(request.stale).await?;
    let rows = api.find_run(&read.state, &request.run).await?.rows(&read.state);
    let rows = rows.ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &request.run))?;
    let views = TaskViews::new(&rows, &read.state);
    let id = views.find(&request.task).filter(|id| id.item.is_none());
    let id = id.ok_or_else(|| no_task(&rows.id.to_string(), &request.task))?;
    let is_meant = |state: &TaskState| {
        request.states.is_empty() || request.states().any(|wanted: task::State| wanted == state_of(state))
    };
    let items = views
        .items(id.task)
        .filter(|(id, row)| id.item > after && is_meant(&row.state))
        .filter_map(|(id, _)| views.task(id, Detail::Brief));
    let token = |item: &matins_proto::v1::Task| query.token(&item.item_index.unwrap_or(0).to_string());
    let (items, next_page_token) = cut(items, size, token);
    Ok(ListItemsResponse { read_at: Some(read.at), items, next_page_token })
}
