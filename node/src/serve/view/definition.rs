//! Workflows, their versions and schedules on the wire.

use matins_core::State;
use matins_core::id::{Digest, ScheduleId, VersionNumber, WorkflowName};
use matins_core::ir::{self, Action, CatchupPolicy, Fold, Gap, OnFull, ParamKind};
use matins_core::state::{Next, RunOrigin, ScheduleRow, SkipReason, VersionRow};
use matins_core::time::Timestamp;
use matins_proto::v1::{
    Catchup, Concurrency, Parameter, Schedule, SkippedTicks, TaskOutline, Workflow, WorkflowFile,
    WorkflowVersion, catchup, concurrency, schedule,
};

use super::task::{json, rule_word};
use super::wire_time;

/// A workflow as a line of a list.
pub(crate) fn workflow(name: &WorkflowName, number: VersionNumber, state: &State) -> Option<Workflow> {
    let version = state.versions.get(&(name.clone(), number))?;
    let ir = &state.definitions.get(&version.definition)?.workflow;
    let row = state.workflows.get(name);
    let first = (name.clone(), Timestamp::from_millis(i64::MIN), matins_core::id::RunId(0));
    let queued = state.gate.range(first..).take_while(|((of, _, _), ())| of == name).count();
    Some(Workflow {
        name: name.to_string(),
        version: number,
        current: row.and_then(|row| row.current) == Some(number),
        description: ir.description.clone(),
        labels: ir.labels.clone(),
        timezone: ir.timezone.clone(),
        paused: row.is_some_and(|row| row.paused_at.is_some()),
        schedules: state.schedules_of(name).map(|(id, row)| schedule(id, row, state)).collect(),
        concurrency: Some(Concurrency {
            max_active_runs: ir.concurrency.active_runs_max,
            on_full: on_full(ir.concurrency.on_full).into(),
        }),
        active_runs: row.map_or(0, |row| row.active_runs),
        queued_runs: queued as u32,
        latest_run_id: row.and_then(|row| row.latest_run).map(|run| run.to_string()),
        created_at: Some(wire_time(version.created_at)),
        params: Vec::new(),
        tasks: Vec::new(),
        source: String::new(),
        files: Vec::new(),
    })
}

/// Adds to a workflow what lists leave out.
pub(crate) fn with_everything(workflow: Workflow, ir: &ir::Workflow, source: String) -> Workflow {
    Workflow {
        params: ir.params.iter().map(parameter).collect(),
        tasks: ir.tasks.iter().map(|task| outline(task, ir)).collect(),
        source,
        files: ir.files.iter().map(file).collect(),
        ..workflow
    }
}

/// A version.
pub(crate) fn version(
    number: VersionNumber,
    row: &VersionRow,
    current: bool,
    state: &State,
) -> WorkflowVersion {
    let definition = state.definitions.get(&row.definition);
    WorkflowVersion {
        version: number,
        current,
        digest: row.definition.to_string(),
        created_at: Some(wire_time(row.created_at)),
        description: definition.map(|row| row.workflow.description.clone()).unwrap_or_default(),
    }
}

/// A schedule.
pub(crate) fn schedule(id: &ScheduleId, row: &ScheduleRow, state: &State) -> Schedule {
    let spec = &row.spec;
    let paused = row.paused_since().is_some();
    Schedule {
        workflow: id.workflow.to_string(),
        name: id.schedule.to_string(),
        description: spec.description.clone(),
        cron: spec.cron.clone(),
        timezone: spec.timezone.clone(),
        gap: match spec.gap {
            Gap::Shift => schedule::Gap::Shift,
            Gap::Skip => schedule::Gap::Skip,
        }
        .into(),
        fold: fold(spec).into(),
        catchup: Some(catchup(spec.catchup)),
        params: Some(json(&params_of(spec))),
        enabled: spec.is_enabled,
        paused,
        version: row.version,
        mark: Some(wire_time(row.mark)),
        next: match row.next {
            Next::At(at) if !paused => Some(wire_time(at)),
            Next::At(_) | Next::Unknown | Next::Never => None,
        },
        quarantine: row.quarantine.clone(),
        fired: row.counts.runs,
        skipped: skipped(row),
        latest_run_id: latest_run(id, state),
    }
}

const SKIP_REASONS: [SkipReason; SkipReason::COUNT] = [
    SkipReason::Running,
    SkipReason::Paused,
    SkipReason::CatchupPolicy,
    SkipReason::CatchupWindow,
    SkipReason::CatchupLimit,
    SkipReason::Changed,
    SkipReason::Quarantine,
];

fn skipped(row: &ScheduleRow) -> Vec<SkippedTicks> {
    let counts = SKIP_REASONS.iter().zip(row.counts.skips).filter(|(_, count)| *count > 0);
    let latest = |reason: SkipReason| row.counts.last_skip.filter(|(_, last)| *last == reason);
    counts
        .map(|(reason, count)| SkippedTicks {
            reason: reason.as_str().to_owned(),
            count,
            latest: latest(*reason).map(|(at, _)| wire_time(at)),
        })
        .collect()
}

/// The newest run in the state that this schedule made itself.
fn latest_run(id: &ScheduleId, state: &State) -> Option<String> {
    let first = (id.clone(), Timestamp::from_millis(i64::MIN), matins_core::id::RunId(0));
    let last = (id.clone(), Timestamp::MAX, matins_core::id::RunId(u64::MAX));
    let runs = state.runs_by_tick.range(first..=last).rev().map(|((_, _, run), ())| run);
    let is_own = |run: &&_| state.runs.get(run).is_some_and(|row| row.origin == RunOrigin::Schedule);
    runs.into_iter().find(is_own).map(ToString::to_string)
}

fn fold(spec: &ir::Schedule) -> schedule::Fold {
    match spec.fold {
        Some(Fold::First) => schedule::Fold::First,
        Some(Fold::Second) => schedule::Fold::Second,
        Some(Fold::Both) => schedule::Fold::Both,
        None => {
            let is_every_hour = |text: &String| {
                matins_workflow::calendar::Cron::parse(text).is_ok_and(|cron| cron.is_every_hour())
            };
            if spec.cron.iter().any(is_every_hour) { schedule::Fold::Both } else { schedule::Fold::First }
        }
    }
}

fn catchup(catchup: ir::Catchup) -> Catchup {
    let policy = match catchup.policy {
        CatchupPolicy::None => catchup::Policy::None,
        CatchupPolicy::Latest => catchup::Policy::Latest,
        CatchupPolicy::All => catchup::Policy::All,
    };
    let window = i64::try_from(catchup.window.0).unwrap_or(i64::MAX);
    Catchup {
        policy: policy.into(),
        window: Some(matins_proto::Duration::from_millis(window)),
        limit: catchup.limit,
    }
}

/// The parameters of a schedule as one object; each value is a JSON document already.
fn params_of(spec: &ir::Schedule) -> String {
    let fields: Vec<String> = spec.params.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

const fn on_full(on_full: OnFull) -> concurrency::OnFull {
    match on_full {
        OnFull::Queue => concurrency::OnFull::Queue,
        OnFull::Skip => concurrency::OnFull::Skip,
        OnFull::CancelRunning => concurrency::OnFull::CancelRunning,
    }
}

fn parameter(param: &ir::Param) -> Parameter {
    let kind = match param.kind {
        ParamKind::String => "string",
        ParamKind::Int => "int",
        ParamKind::Float => "float",
        ParamKind::Bool => "bool",
        ParamKind::Date => "date",
        ParamKind::Datetime => "datetime",
        ParamKind::Duration => "duration",
        ParamKind::Enum => "enum",
        ParamKind::Json => "json",
        ParamKind::List => "list",
    };
    Parameter {
        name: param.name.to_string(),
        r#type: kind.to_owned(),
        default: param.default.as_deref().map(json),
        values: param.values.iter().map(|value| json(value)).collect(),
        description: param.description.clone(),
    }
}

fn outline(task: &ir::Task, ir: &ir::Workflow) -> TaskOutline {
    let name = |need: &u16| ir.tasks.get(usize::from(*need)).map(|task| task.name.to_string());
    TaskOutline {
        name: task.name.to_string(),
        kind: match task.action {
            Action::Argv(_) | Action::Shell { .. } => "run",
            Action::Script { .. } => "script",
        }
        .to_owned(),
        needs: task.needs.iter().filter_map(name).collect(),
        trigger_rule: rule_word(task.trigger_rule).to_owned(),
        fan_out: task.for_each.is_some(),
        when: task.when.clone().unwrap_or_default(),
        description: task.description.clone(),
    }
}

fn file(file: &ir::File) -> WorkflowFile {
    WorkflowFile {
        path: file.path.clone(),
        digest: Digest::to_string(&file.digest),
        size: file.bytes,
        executable: file.is_executable,
    }
}
