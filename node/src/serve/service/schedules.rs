//! `Schedules`: when workflows are due.

mod decisions;

use std::ops::Bound;

use matins_core::command::Command;
use matins_core::id::{Namespace, ScheduleId};
use matins_core::time::Timestamp;
use matins_proto::v1::schedules_server::Schedules;
use matins_proto::v1::{
    ListDecisionsRequest, ListDecisionsResponse, ListSchedulesRequest, ListSchedulesResponse,
    NextTicksRequest, NextTicksResponse, PauseScheduleRequest, PauseScheduleResponse, ResumeScheduleRequest,
    ResumeScheduleResponse, Tick, tick,
};
use matins_workflow::calendar::{self, Calendar, FoldCopy, Mark, moment};
use tonic::{Request, Response};

use crate::serve::api::{
    Api, core_time, find_schedule, find_workflow, named, page_size, wire_time, workflow_name,
};
use crate::serve::error::{Answer, ApiError};
use crate::serve::page::{Query, cut, invalid};
use crate::serve::view::definition::schedule;

/// Answers `Schedules`.
pub(crate) struct SchedulesService(pub(crate) Api);

#[tonic::async_trait]
impl Schedules for SchedulesService {
    async fn list(&self, request: Request<ListSchedulesRequest>) -> Answer<ListSchedulesResponse> {
        let request = request.into_inner();
        let query = Query::new("schedules", &(&request.namespace, &request.workflow));
        let size = page_size(request.page_size, 100)?;
        let after = query.last(&request.page_token)?.map(schedule_id).transpose()?;
        let namespace = optional::<Namespace>("namespace", &request.namespace)?;
        let workflow =
            (!request.workflow.is_empty()).then(|| workflow_name(&request.workflow)).transpose()?;
        let read = self.0.read(request.stale).await?;
        if let Some(workflow) = &workflow {
            find_workflow(&read.state, workflow)?;
        }
        // The schedules of a workflow stand together, so that nothing before and behind them is looked at.
        let from = match (after, &workflow) {
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(workflow)) => Bound::Included(workflow.first_schedule()),
            (None, None) => Bound::Unbounded,
        };
        let rows = read.state.schedules.range((from, Bound::Unbounded));
        let rows =
            rows.take_while(|(id, _)| workflow.as_ref().is_none_or(|workflow| id.workflow == *workflow));
        let rows = rows.filter(|(id, _)| namespace.as_ref().is_none_or(|own| id.workflow.namespace == *own));
        let (rows, next_page_token) = cut(rows, size, |(id, _)| query.token(&id.to_string()));
        let schedules = rows.into_iter().map(|(id, row)| schedule(id, row, &read.state)).collect();
        Ok(Response::new(ListSchedulesResponse { read_at: Some(read.at), schedules, next_page_token }))
    }

    async fn next(&self, request: Request<NextTicksRequest>) -> Answer<NextTicksResponse> {
        let request = request.into_inner();
        let name = workflow_name(&request.workflow)?;
        let count = page_size(request.count, 10)?;
        let read = self.0.read(request.stale).await?;
        find_workflow(&read.state, &name)?;
        let (id, row) = find_schedule(&read.state, &name, &request.schedule)?;
        let calendar = calendar_of(&id, &row.spec)?;
        let after = request.after.map_or_else(|| self.0.leader_time(), core_time);
        let ticks = calendar.ticks(after, Timestamp::MAX, count).map(|tick| wire_tick(&calendar, tick));
        let ticks = ticks.collect();
        Ok(Response::new(NextTicksResponse { read_at: Some(read.at), ticks }))
    }

    async fn list_decisions(&self, request: Request<ListDecisionsRequest>) -> Answer<ListDecisionsResponse> {
        Ok(Response::new(decisions::list(&self.0, request.into_inner()).await?))
    }

    async fn pause(&self, request: Request<PauseScheduleRequest>) -> Answer<PauseScheduleResponse> {
        let request = request.into_inner();
        let id = self.find(&request.workflow, &request.schedule).await?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::PauseSchedule(id)).await?;
        Ok(Response::new(PauseScheduleResponse { committed: Some(committed) }))
    }

    async fn resume(&self, request: Request<ResumeScheduleRequest>) -> Answer<ResumeScheduleResponse> {
        let request = request.into_inner();
        let id = self.find(&request.workflow, &request.schedule).await?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::ResumeSchedule(id)).await?;
        Ok(Response::new(ResumeScheduleResponse { committed: Some(committed) }))
    }
}

impl SchedulesService {
    async fn find(&self, workflow: &str, schedule: &str) -> Result<ScheduleId, ApiError> {
        let workflow = workflow_name(workflow)?;
        let read = self.0.read(false).await?;
        find_workflow(&read.state, &workflow)?;
        find_schedule(&read.state, &workflow, schedule).map(|(id, _)| id)
    }
}

/// The calendar of a schedule. One that cannot be evaluated is in quarantine (PROTOCOL 3.6).
pub(crate) fn calendar_of(id: &ScheduleId, spec: &matins_core::ir::Schedule) -> Result<Calendar, ApiError> {
    Calendar::from_schedule(spec).map_err(|error| {
        ApiError::new(
            matins_proto::v1::error::Reason::Conflict,
            format!("schedule `{id}` cannot be evaluated: {error}"),
        )
        .with("subject", id.to_string())
        .hint("change the schedule and apply its workflow")
    })
}

/// A name, or nothing if the field is empty.
pub(crate) fn optional<T>(field: &str, text: &str) -> Result<Option<T>, ApiError>
where
    T: std::str::FromStr<Err = matins_core::id::NotAnId>,
{
    if text.is_empty() { Ok(None) } else { named(field, text).map(Some) }
}

fn schedule_id(text: &str) -> Result<ScheduleId, ApiError> {
    let (workflow, schedule) = text.rsplit_once(':').ok_or_else(invalid)?;
    Ok(ScheduleId { workflow: named("page_token", workflow)?, schedule: named("page_token", schedule)? })
}

fn wire_tick(calendar: &Calendar, tick: calendar::Tick) -> Tick {
    let note = match tick.mark {
        None => tick::Note::Usual,
        Some(Mark::Gap { .. }) => tick::Note::GapShifted,
        Some(Mark::Fold(FoldCopy::First)) => tick::Note::FoldFirst,
        Some(Mark::Fold(FoldCopy::Second)) => tick::Note::FoldSecond,
    };
    let before = calendar.previous_before(tick.at).map_or(tick.at, |before| before.at);
    Tick {
        logical_time: Some(wire_time(tick.at)),
        interval_start: Some(wire_time(before)),
        local: moment::datetime(tick.at, calendar.zone()),
        note: note.into(),
    }
}
