//! What a command of a client carries: its times and its parameters, worked out before it is proposed (DESIGN 3.2).

use matins_core::command::Tick;
use matins_core::id::ScheduleName;
use matins_core::ir;
use matins_core::time::Timestamp;
use matins_proto::v1::error::Reason;
use matins_workflow::calendar::{Calendar, Zone};
use matins_workflow::resolve_params;
use matins_workflow::template::{Scope, Times};
use serde_json::{Map, Value};

use super::api::{named, nearest};
use super::error::ApiError;

/// What a person asks of a run.
pub(crate) struct Wanted<'a> {
    /// Of what.
    pub(crate) workflow: &'a ir::Workflow,
    /// Whose calendar and params; empty: the sole schedule's calendar, and nobody's params.
    pub(crate) schedule: &'a str,
    /// What the run is for.
    pub(crate) logical_time: Timestamp,
    /// Values that were given.
    pub(crate) params: Map<String, Value>,
}

/// The tick of a run by hand, and the schedule that it belongs to if one was named (LANGUAGE 1.6).
pub(crate) fn tick(wanted: &Wanted<'_>) -> Result<(Option<ScheduleName>, Tick), ApiError> {
    let workflow = wanted.workflow;
    let named = named_schedule(workflow, wanted.schedule)?;
    let calendar_of = match (named, workflow.schedules.as_slice()) {
        (Some(schedule), _) | (None, [schedule]) => Some(schedule),
        (None, _) => None,
    };
    let interval_start = match calendar_of {
        Some(schedule) => {
            let calendar = calendar(schedule)?;
            calendar.previous_before(wanted.logical_time).map_or(wanted.logical_time, |tick| tick.at)
        }
        None => wanted.logical_time,
    };
    let times = Times { logical: wanted.logical_time, interval_start };
    let params = params(workflow, named, &wanted.params, times)?;
    let name = named.map(|schedule| schedule.name.clone());
    Ok((name, Tick { logical_time: wanted.logical_time, interval_start, params: Ok(params) }))
}

/// The schedule of a definition by name; `None` if the name is empty.
pub(crate) fn named_schedule<'w>(
    workflow: &'w ir::Workflow,
    name: &str,
) -> Result<Option<&'w ir::Schedule>, ApiError> {
    if name.is_empty() {
        return Ok(None);
    }
    let asked: ScheduleName = named("schedule", name)?;
    let found = workflow.schedules.iter().find(|schedule| schedule.name == asked);
    found.map(Some).ok_or_else(|| {
        let error = ApiError::not_found(Reason::ScheduleNotFound, "schedule", name)
            .with("workflow", workflow.name.to_string());
        nearest(error, name, workflow.schedules.iter().map(|schedule| schedule.name.as_str()))
    })
}

/// Resolved parameters as a JSON object, or every fault of them.
pub(crate) fn params(
    workflow: &ir::Workflow,
    schedule: Option<&ir::Schedule>,
    given: &Map<String, Value>,
    times: Times,
) -> Result<ir::Json, ApiError> {
    let timezone = zone(&workflow.timezone)?;
    let mut scope = Scope::new(times, schedule.map_or(Ok(timezone.clone()), |one| zone(&one.timezone))?);
    scope.timezone = timezone;
    scope.run.workflow = workflow.name.name.to_string();
    scope.run.namespace = workflow.name.namespace.to_string();
    scope.run.schedule = schedule.map(|schedule| schedule.name.to_string());
    let resolved = resolve_params(workflow, schedule.map(|schedule| &schedule.name), given, &scope);
    resolved.map(|params| Value::Object(params).to_string()).map_err(|faults| {
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let error = ApiError::new(Reason::ParamsInvalid, texts.join("; "));
        faults.into_iter().fold(error, |error, fault| {
            let what = match fault.hint {
                Some(hint) => format!("{}\nhint: {hint}", fault.message),
                None => fault.message,
            };
            error.field(format!("params.{}", fault.param), what)
        })
    })
}

/// Reads the object of parameters that a request carries; absent means none.
pub(crate) fn given(params: Option<&matins_proto::Json>) -> Result<Map<String, Value>, ApiError> {
    let bad = |what: String| ApiError::bad_field("params", what);
    match params.map(matins_proto::Json::value).transpose() {
        Ok(None | Some(Value::Null)) => Ok(Map::new()),
        Ok(Some(Value::Object(given))) => Ok(given),
        Ok(Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) => {
            Err(bad("it is no JSON object".to_owned()))
        }
        Err(error) => Err(bad(format!("it is no JSON: {error}"))),
    }
}

fn calendar(schedule: &ir::Schedule) -> Result<Calendar, ApiError> {
    Calendar::from_schedule(schedule).map_err(|error| {
        ApiError::new(Reason::Conflict, format!("schedule `{}` cannot be evaluated: {error}", schedule.name))
            .hint("change the schedule and apply its workflow")
    })
}

fn zone(name: &str) -> Result<Zone, ApiError> {
    Zone::parse(name).map_err(|error| ApiError::new(Reason::Conflict, error.to_string()).hint(error.hint()))
}
