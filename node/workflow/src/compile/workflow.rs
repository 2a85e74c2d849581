//! One `workflow` document.

use std::collections::BTreeMap;

use matins_core::id::{Namespace, ScheduleName, TaskName, WorkflowName};
use matins_core::ir::{Concurrency, OnFull, ParamKind, Retention, Task, Workflow};
use matins_core::time::Millis;

use super::keys::{CONCURRENCY, RETENTION, WORKFLOW};
use super::read::{self, Fields};
use super::tasks::{self, Shared};
use super::{CompiledWorkflow, DEFINITION_BYTES_MAX, FileLookup, Graph, Positions, files, params, schedules};
use crate::calendar::Zone;
use crate::diagnostic::{Place, Reporter, Span};
use crate::yaml::{Entry, Node, Value};

/// LANGUAGE names no limit; the IR numbers tasks by 16 bits, and 512 KiB hold no more.
const TASKS_MAX: usize = 10_000;
/// A repeat of a command finds the run that it made for an hour (PROTOCOL 4.6).
const KEPT_LEAST: Millis = Millis::from_hours(1);
/// Ten years.
const KEPT_MOST: Millis = Millis::from_hours(3_660 * 24);

/// What the caller gives besides the document.
pub(crate) struct Around<'a> {
    pub(crate) source: &'a str,
    pub(crate) files: &'a dyn FileLookup,
    pub(crate) namespace: Option<&'a Namespace>,
}

/// None: it has errors, which were reported.
pub(crate) fn workflow(
    reporter: &mut Reporter<'_>,
    node: &Node,
    around: &Around<'_>,
) -> Option<CompiledWorkflow> {
    let errors_before = reporter.error_count();
    let fields = read::fields(reporter, node, &WORKFLOW, "a workflow")?;
    let key_span = fields.key_span("workflow").unwrap_or(node.span);
    let name = name(reporter, &fields, around);
    let zone = schedules::timezone(reporter, &fields, &Zone::utc());
    let params = fields.get("params").map(|node| params::params(reporter, node, &zone)).unwrap_or_default();
    let schedules = fields.get("schedules");
    let schedules = schedules.map(|node| schedules::schedules(reporter, node, &zone, &params));
    let schedules = schedules.unwrap_or_default();
    let priority = fields.get("priority").and_then(|node| tasks::priority(reporter, node)).unwrap_or(0);
    let kinds: BTreeMap<_, _> = params.iter().map(|param| (param.name.to_string(), param.kind)).collect();
    let mut positions = Positions::new(reporter.place(key_span));
    let tasks = tasks_of(reporter, &fields, (&kinds, priority), &mut positions);
    let files = fields.get("files").map(|node| files::files(reporter, node, around.source, around.files));
    let description = fields.get("description").and_then(|node| read::text(reporter, node, "`description`"));
    positions
        .schedules
        .extend(schedules.iter().map(|(schedule, span)| (schedule.name.clone(), reporter.place(*span))));
    let ir = Workflow {
        name: name?,
        description: description.unwrap_or_default(),
        labels: fields.get("labels").map(|node| tasks::labels(reporter, node)).unwrap_or_default(),
        timezone: zone.name().to_owned(),
        concurrency: concurrency(reporter, fields.get("concurrency"), !schedules.is_empty()),
        schedules: schedules.into_iter().map(|(schedule, _)| schedule).collect(),
        params,
        priority,
        tasks,
        files: files.unwrap_or_default(),
        retention: fields.get("retention").map(|node| retention(reporter, node)).unwrap_or_default(),
    };
    let bytes = super::encode(&ir).len();
    if bytes > DEFINITION_BYTES_MAX && reporter.error_count() == errors_before {
        too_large(reporter, key_span, bytes);
    }
    (reporter.error_count() == errors_before).then_some(CompiledWorkflow { ir, positions })
}

fn too_large(reporter: &mut Reporter<'_>, span: Span, bytes: usize) {
    let message =
        format!("a workflow has {DEFINITION_BYTES_MAX} bytes compiled at most, this one {bytes} or more");
    reporter
        .error(span, "limit-definition", message)
        .hint("put long scripts into files, and split large workflows");
}

fn name(reporter: &mut Reporter<'_>, fields: &Fields<'_>, around: &Around<'_>) -> Option<WorkflowName> {
    let name = fields.get("workflow").and_then(|node| {
        let text = read::text(reporter, node, "`workflow`")?;
        match text.split_once('/') {
            Some((namespace, name)) if name.parse::<Namespace>().is_ok() => {
                reporter
                    .error(node.span, "name", format!("`{text}` is a namespace and a name"))
                    .hint(format!("write `workflow: {name}` and `namespace: {namespace}`"));
                None
            }
            _ => read::name_of::<Namespace>(reporter, &text, node.span, "`workflow`"),
        }
    });
    let named = fields.get("namespace");
    let in_file = named.and_then(|node| read::name::<Namespace>(reporter, node, "`namespace`"));
    let namespace = match (in_file, around.namespace) {
        (Some(in_file), Some(asked)) if in_file != *asked => {
            let span = named.map_or(Span::default(), |node| node.span);
            reporter
                .error(span, "namespace", format!("this file is of `{in_file}`, and `-n {asked}` was given"))
                .hint("leave out one of the two");
            return None;
        }
        (Some(in_file), _) => in_file,
        (None, Some(asked)) => asked.clone(),
        (None, None) => "default".parse().expect("`default` is a name"),
    };
    Some(WorkflowName { namespace, name: name? })
}

fn concurrency(reporter: &mut Reporter<'_>, node: Option<&Node>, has_schedules: bool) -> Concurrency {
    let mut concurrency = Concurrency { active_runs_max: has_schedules.then_some(1), on_full: OnFull::Queue };
    let Some(node) = node else { return concurrency };
    let Some(fields) = read::fields(reporter, node, &CONCURRENCY, "`concurrency`") else {
        return concurrency;
    };
    if let Some(node) = fields.get("max_active_runs") {
        let most = read::integer(reporter, node, "`max_active_runs`", (1, 1_000_000));
        concurrency.active_runs_max = most.map(|most| most as u32);
    }
    if let Some(node) = fields.get("on_full") {
        let words =
            [("queue", OnFull::Queue), ("skip", OnFull::Skip), ("cancel_running", OnFull::CancelRunning)];
        concurrency.on_full = read::choice(reporter, node, "`on_full`", &words).unwrap_or_default();
    }
    concurrency
}

/// LANGUAGE 1.26: how long its finished runs and their logs stay.
fn retention(reporter: &mut Reporter<'_>, node: &Node) -> Retention {
    let Some(fields) = read::fields(reporter, node, &RETENTION, "`retention`") else {
        return Retention::default();
    };
    let mut kept = |key: &str| {
        let node = fields.get(key)?;
        read::duration(reporter, node, &format!("`{key}` of `retention`"), (KEPT_LEAST, KEPT_MOST))
    };
    let (runs, logs) = (kept("runs"), kept("logs"));
    if let (Some(runs), Some(logs), Some(node)) = (runs, logs, fields.get("logs"))
        && logs > runs
    {
        reporter
            .error(
                node.span,
                "out-of-range",
                format!("logs are kept for {logs}, and their runs for {runs} only"),
            )
            .hint("a log goes with its run at the latest: give `runs` as long a time, or leave it out");
    }
    Retention { runs, logs }
}

fn tasks_of(
    reporter: &mut Reporter<'_>,
    fields: &Fields<'_>,
    (params, priority): (&BTreeMap<String, ParamKind>, i32),
    positions: &mut Positions,
) -> Vec<Task> {
    // Read in any case, so that its faults are said.
    let defaults = fields.get("defaults").map_or_else(Fields::none, |node| tasks::defaults(reporter, node));
    let Some(node) = fields.get("tasks") else {
        let span = fields.key_span("workflow").unwrap_or_default();
        if !fields.has("tasks") {
            reporter
                .error(span, "no-tasks", "the workflow has no `tasks`")
                .hint("write `tasks: { hello: { run: [echo, hello] } }`");
        }
        return Vec::new();
    };
    let entries = read::map(reporter, node, "`tasks`").unwrap_or_default();
    let span = fields.key_span("tasks").unwrap_or(node.span);
    if entries.is_empty() && matches!(node.value, Value::Map(_)) {
        reporter.error(span, "no-tasks", "the workflow has no tasks");
    }
    if entries.len() > TASKS_MAX {
        let message = format!("a workflow has {TASKS_MAX} tasks at most, this one {}", entries.len());
        reporter.error(span, "limit-tasks", message).hint("use `for_each`, or several workflows");
        return Vec::new();
    }
    for entry in entries {
        read::name_of::<TaskName>(reporter, &entry.key, entry.key_span, &format!("task `{}`", entry.key));
    }
    let named: Vec<_> = entries.iter().map(|entry| (entry.key.clone(), &entry.value)).collect();
    let graph = Graph::read(reporter, &named);
    if entries.len() > 1 && !graph.has_needs() && reporter.error_count() == 0 {
        reporter
            .warning(span, "no-needs", "no task has `needs`, so all of them start at once")
            .hint("the order in the file means nothing; write `needs: NAME` where one follows another");
    }
    let shared = Shared { graph: &graph, params, defaults, priority };
    let (mut tasks, mut bytes) = (Vec::new(), 0);
    for (index, entry) in entries.iter().enumerate() {
        let Some(task) = tasks::task(reporter, index, entry, &shared, positions) else { continue };
        // While they are read: defaults that are large go into every task.
        bytes += super::encode(&task).len();
        if bytes > DEFINITION_BYTES_MAX {
            too_large(reporter, span, bytes);
            break;
        }
        tasks.push(task);
    }
    warn_of_skips(reporter, entries, &graph);
    tasks
}

/// LANGUAGE 1.10: who comes from engines where a skipped need passes is told that here it does not.
fn warn_of_skips(reporter: &mut Reporter<'_>, entries: &[Entry], graph: &Graph) {
    let has = |task: usize, key: &str| match &entries[task].value.value {
        Value::Map(fields) => fields.iter().any(|field| field.key == key),
        Value::Scalar(_) | Value::List(_) => false,
    };
    for task in 0..entries.len() {
        if has(task, "trigger_rule") {
            continue;
        }
        for need in graph.needs[task].iter().filter(|need| has(need.task, "when")) {
            let (name, needed) = (&graph.names[task], &graph.names[need.task]);
            let message = format!("when `when` skips task `{needed}`, task `{name}` is skipped too");
            reporter.warning(need.span, "skip-travels", message).hint(format!(
                "if `{name}` must run all the same, write `trigger_rule: none_failed`; if this is meant, \
                 `trigger_rule: all_success`"
            ));
        }
    }
}

impl Positions {
    fn new(workflow: Place) -> Self {
        Self {
            workflow,
            schedules: BTreeMap::<ScheduleName, Place>::new(),
            tasks: BTreeMap::new(),
            pools: Vec::new(),
        }
    }
}
