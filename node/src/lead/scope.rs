//! What templates see: the scope of one task of one run, made of `State` in one place.
//!
//! Conditions, lists and start messages all render from here, so they cannot see different things. Large outputs are
//! blobs, which the caller reads beforehand; what is not read yet is asked for by name, never waited for.

use std::sync::Arc;

use matins_core::id::{Digest, TaskId};
use matins_core::ir;
use matins_core::state::{Output, RunOrigin, RunRow, State, TaskRow, TaskState};
use matins_core::time::Timestamp;
use matins_workflow::calendar::Zone;
use matins_workflow::resolve_params;
use matins_workflow::template::{RunScope, Scope, TaskScope, Times};
use serde_json::{Value as Json, json};

/// Large outputs that were read so far.
pub trait Outputs {
    /// What is known of a blob that holds an output.
    fn output(&self, digest: &Digest) -> Fetched;
}

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Its text, a JSON object.
    Text(Arc<str>),
    /// Not read yet.
    NotYet,
    /// No node has it.
    Lost,
}

/// Why there is no scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoScope {
    /// These outputs have to be read first.
    Needs(Vec<Digest>),
    /// It will never be there (PROTOCOL 4.2): says why, for people.
    Never(String),
    /// The run or the task is not in this state.
    Gone,
}

/// Works out the parameters of a run.
pub trait Resolve {
    /// The resolved parameters as a JSON object: what was `given` (an object), over those of the schedule, over the
    /// defaults; or why they cannot be resolved, in words for people.
    fn params(
        &self,
        workflow: &ir::Workflow,
        schedule: Option<&ir::Schedule>,
        given: &str,
        times: TickTimes,
    ) -> Result<ir::Json, String>;
}

/// The parameters as the language resolves them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params;

impl Resolve for Params {
    fn params(
        &self,
        workflow: &ir::Workflow,
        schedule: Option<&ir::Schedule>,
        given: &str,
        times: TickTimes,
    ) -> Result<ir::Json, String> {
        let Ok(Json::Object(given)) = serde_json::from_str(given) else {
            return Err("the parameters that were given are not an object".into());
        };
        let times = Times { logical: times.logical_time, interval_start: times.interval_start };
        let mut scope =
            Scope::new(times, zone(schedule.map_or(&workflow.timezone, |schedule| &schedule.timezone)));
        scope.timezone = zone(&workflow.timezone);
        match resolve_params(workflow, schedule.map(|schedule| &schedule.name), &given, &scope) {
            Ok(params) => Ok(Json::Object(params).to_string()),
            Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// When a run is for (LANGUAGE 1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TickTimes {
    /// The tick, or the time of asking. The interval ends here.
    pub logical_time: Timestamp,
    /// The tick before it by the same calendar.
    pub interval_start: Timestamp,
}

/// The scope of a task: run, parameters, times, and the states and outputs of all tasks upstream of it.
pub fn scope_of(state: &State, task: TaskId, outputs: &dyn Outputs) -> Result<Scope, NoScope> {
    let run = state.runs.get(&task.run).ok_or(NoScope::Gone)?;
    let workflow = &state.definition_of(task.run).ok_or(NoScope::Gone)?.workflow;
    let row = state.tasks.get(&task).ok_or(NoScope::Gone)?;
    let times = Times { logical: run.logical_time, interval_start: run.interval_start };
    let mut scope = Scope::new(times, zone_of_run(workflow, run));
    scope.timezone = zone(&workflow.timezone);
    scope.params = match serde_json::from_str(&run.params) {
        Ok(Json::Object(params)) => params,
        Ok(_) | Err(_) => return Err(NoScope::Never("the parameters of this run are not an object".into())),
    };
    scope.run = run_scope(task, run);
    if let (Some(index), Some(item)) = (task.item, &row.item) {
        scope.item = Some((index, parse(item)?));
    }
    let mut reader = Reader { outputs, needs: Vec::new() };
    for (index, _) in state.inputs_of(task) {
        let upstream = TaskId { task: index, item: None, ..task };
        let Some(spec) = workflow.tasks.get(usize::from(index)) else { continue };
        let seen = match spec.for_each {
            Some(_) => reader.fan_out(state, upstream)?,
            None => reader.task(state, upstream)?,
        };
        scope.tasks.insert(spec.name.to_string(), seen);
    }
    if reader.needs.is_empty() { Ok(scope) } else { Err(NoScope::Needs(reader.needs)) }
}

/// The zone in which the times of a run are shown: its schedule's, else its workflow's (LANGUAGE 1.6).
pub fn zone_of_run(workflow: &ir::Workflow, run: &RunRow) -> Zone {
    let schedule = workflow.schedules.iter().find(|schedule| Some(&schedule.name) == run.schedule.as_ref());
    zone(schedule.map_or(&workflow.timezone, |schedule| &schedule.timezone))
}

/// Zones were checked when the definition was compiled; a zone that this release does not know shows as UTC.
fn zone(name: &str) -> Zone {
    Zone::parse(name).unwrap_or_else(|_| Zone::utc())
}

fn run_scope(task: TaskId, run: &RunRow) -> RunScope {
    RunScope {
        id: task.run.to_string(),
        workflow: run.workflow.name.to_string(),
        namespace: run.workflow.namespace.to_string(),
        version: run.version,
        schedule: run.schedule.as_ref().map(ToString::to_string),
        backfill: match run.origin {
            RunOrigin::Backfill(backfill) => Some(backfill.to_string()),
            RunOrigin::Schedule | RunOrigin::Manual | RunOrigin::Submitted | RunOrigin::Retry => None,
        },
        started_at: run.started_at.unwrap_or(run.created_at),
    }
}

/// Reads outputs, and notes those that have to be read first.
struct Reader<'a> {
    outputs: &'a dyn Outputs,
    needs: Vec<Digest>,
}

impl Reader<'_> {
    /// A task that never ran, or has not ended, has outputs `{}` (LANGUAGE 1.12).
    fn task(&mut self, state: &State, task: TaskId) -> Result<TaskScope, NoScope> {
        let row = state.tasks.get(&task).ok_or(NoScope::Gone)?;
        let outputs = self.outputs_of(row)?.unwrap_or_else(|| json!({}));
        Ok(TaskScope { state: row.state.as_str().to_owned(), outputs, items: None })
    }

    /// A fan-out gives lists in the order of its items; one that has not ended gives empty ones.
    fn fan_out(&mut self, state: &State, task: TaskId) -> Result<TaskScope, NoScope> {
        let row = state.tasks.get(&task).ok_or(NoScope::Gone)?;
        let mut lists = (Vec::new(), Vec::new());
        if row.state.has_ended() {
            for (id, item) in state.items_of(task) {
                let outputs = self.outputs_of(item)?.unwrap_or(Json::Null);
                let value = item.item.as_ref().map_or(Ok(Json::Null), |text| parse(text))?;
                let word = item.state.as_str();
                lists.1.push(
                    json!({ "index": id.item, "item": value, "state": word, "outputs": outputs.clone() }),
                );
                lists.0.push(outputs);
            }
        }
        let (outputs, items) = (Json::Array(lists.0), Json::Array(lists.1));
        Ok(TaskScope { state: row.state.as_str().to_owned(), outputs, items: Some(items) })
    }

    /// Only what succeeded has outputs (LANGUAGE 1.13).
    fn outputs_of(&mut self, row: &TaskRow) -> Result<Option<Json>, NoScope> {
        match &row.output {
            Some(output) if row.state == TaskState::Success => self.read(output).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    fn read(&mut self, output: &Output) -> Result<Json, NoScope> {
        match output {
            Output::Inline(text) => parse(text),
            Output::Blob { digest, .. } => match self.outputs.output(digest) {
                Fetched::Text(text) => parse(&text),
                Fetched::Lost => Err(NoScope::Never(format!("output lost: no node has blob {digest}"))),
                Fetched::NotYet => {
                    self.needs.push(*digest);
                    Ok(Json::Null)
                }
            },
        }
    }
}

fn parse(text: &str) -> Result<Json, NoScope> {
    serde_json::from_str(text).map_err(|_| NoScope::Never("an output of this run is not JSON".into()))
}
