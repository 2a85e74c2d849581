//! `workflow list`, `get`, `versions` and `diff`.

use clap::Args;
use matins_proto::v1::{
    DiffWorkflowRequest, GetWorkflowRequest, ListWorkflowVersionsRequest, ListWorkflowsRequest, Parameter,
    TaskOutline, Workflow, WorkflowVersion,
};

use crate::context::{Context, Format, Outcome};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Cell, Column, Look, Row, fields, table};
use crate::pages::{LIST_MAX, Page, Watching, gather, show};

/// List workflows
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins workflow list
  matins workflow list -n warehouse --filter 'labels.tier=gold'")]
pub(crate) struct ListArgs {
    /// Only those that fit: `name`, `labels.KEY` or `paused`, with = and *
    #[arg(long, value_name = "EXPR", default_value = "", hide_default_value = true)]
    filter: String,

    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = LIST_MAX, hide_default_value = true)]
    limit: usize,

    #[command(flatten)]
    watching: Watching,
}

/// Show a workflow: its schedules, params and tasks
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins workflow get nightly-flights
  matins workflow get nightly-flights --source > nightly-flights.matins.yaml")]
pub(crate) struct GetArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// This version instead of the current one
    #[arg(long, value_name = "N")]
    version: Option<u32>,

    /// Print the document as it was applied
    #[arg(long)]
    source: bool,
}

/// List the versions of a workflow, the newest first
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins workflow versions nightly-flights")]
pub(crate) struct VersionsArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = LIST_MAX, hide_default_value = true)]
    limit: usize,
}

/// Compare two versions of a workflow
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins workflow diff nightly-flights        the current version against the one before
  matins workflow diff nightly-flights 3 5")]
pub(crate) struct DiffArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// The older version [default: the one before TO]
    from: Option<u32>,

    /// The newer version [default: the current one]
    to: Option<u32>,
}

impl Row for Workflow {
    const PLURAL: &'static str = "workflows";
    const COLUMNS: &'static [Column] = &[
        Column::new("WORKFLOW"),
        Column::new("VERSION"),
        Column::new("STATE"),
        Column::new("SCHEDULES"),
        Column::new("ACTIVE"),
        Column::new("QUEUED"),
        Column::new("NEXT TICK"),
        Column::new("LATEST RUN"),
        Column::wide("CHANGED"),
        Column::wide("DESCRIPTION"),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let names: Vec<&str> = self.schedules.iter().map(|schedule| schedule.name.as_str()).collect();
        vec![
            Cell::text(&self.name),
            Cell::Number(self.version.into()),
            Cell::State(if self.paused { "paused" } else { "active" }.into()),
            Cell::text(names.join(" ")),
            Cell::Number(self.active_runs.into()),
            Cell::Number(self.queued_runs.into()),
            Cell::Time(self.schedules.iter().filter_map(|schedule| schedule.next).min()),
            Cell::text(self.latest_run_id.clone().unwrap_or_default()),
            Cell::Time(self.created_at),
            Cell::text(&self.description),
        ]
    }
}

impl Row for Parameter {
    const PLURAL: &'static str = "params";
    const COLUMNS: &'static [Column] =
        &[Column::new("PARAM"), Column::new("TYPE"), Column::new("DEFAULT"), Column::new("DESCRIPTION")];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let default = self.default.as_ref().map_or_else(|| "(required)".into(), |json| json.text.clone());
        vec![
            Cell::text(&self.name),
            Cell::text(&self.r#type),
            Cell::text(default),
            Cell::text(&self.description),
        ]
    }
}

impl Row for TaskOutline {
    const PLURAL: &'static str = "tasks";
    const COLUMNS: &'static [Column] = &[
        Column::new("TASK"),
        Column::new("KIND"),
        Column::new("NEEDS"),
        Column::new("TRIGGER RULE"),
        Column::new("WHEN"),
        Column::new("DESCRIPTION"),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let kind = if self.fan_out { format!("{} for_each", self.kind) } else { self.kind.clone() };
        vec![
            Cell::text(&self.name),
            Cell::text(kind),
            Cell::text(self.needs.join(" ")),
            Cell::text(&self.trigger_rule),
            Cell::text(&self.when),
            Cell::text(&self.description),
        ]
    }
}

impl Row for WorkflowVersion {
    const PLURAL: &'static str = "versions";
    const COLUMNS: &'static [Column] = &[
        Column::new("VERSION"),
        Column::new("CURRENT"),
        Column::new("CREATED"),
        Column::new("DIGEST"),
        Column::new("DESCRIPTION"),
    ];

    fn name(&self) -> String {
        self.version.to_string()
    }

    fn cells(&self, look: &Look) -> Vec<Cell> {
        let short = self.digest.get(..12).unwrap_or(&self.digest);
        vec![
            Cell::Number(self.version.into()),
            Cell::text(if self.current { "yes" } else { "" }),
            Cell::Time(self.created_at),
            Cell::text(if look.wide { &self.digest } else { short }),
            Cell::text(&self.description),
        ]
    }
}

pub(super) async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    show(context, (args.limit, args.watching), async |page_size, page_token| {
        let (namespace, filter) = (context.namespace(), args.filter.clone());
        let ask = ListWorkflowsRequest { stale: false, namespace, filter, page_size, page_token };
        let answer = client.call(ask).await?;
        Ok(Page { rows: answer.workflows, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await
}

pub(super) async fn get(args: GetArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let ask = GetWorkflowRequest { stale: false, workflow: workflow.clone(), version: args.version };
    let answer = context.client()?.call(ask).await?;
    let found =
        answer.workflow.ok_or_else(|| Fault::not_found(format!("there is no workflow `{workflow}`")))?;
    if args.source {
        context.print(&found.source)?;
        return Ok(Exit::Done);
    }
    context.one(&found, &found.name, |look| workflow_text(&found, look))?;
    Ok(Exit::Done)
}

/// A workflow for people.
fn workflow_text(workflow: &Workflow, look: &Look) -> String {
    let labels: Vec<String> = workflow.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let gate = workflow.concurrency.as_ref().and_then(|gate| {
        let max = gate.max_active_runs?;
        Some(format!("{max} at once, then {}", gate.on_full().as_str_name()))
    });
    let current = if workflow.current { "" } else { ", not the current one" };
    let mut text = fields(
        &[
            ("Workflow", Cell::text(&workflow.name)),
            ("Version", Cell::text(format!("{}{current}", workflow.version))),
            ("State", Cell::State(if workflow.paused { "paused" } else { "active" }.into())),
            ("Description", Cell::text(&workflow.description)),
            ("Labels", Cell::text(labels.join(" "))),
            ("Time zone", Cell::text(&workflow.timezone)),
            ("Active runs", Cell::Number(workflow.active_runs.into())),
            ("Queued runs", Cell::Number(workflow.queued_runs.into())),
            ("Runs", Cell::text(gate.unwrap_or_else(|| "no limit".into()))),
            ("Latest run", Cell::text(workflow.latest_run_id.clone().unwrap_or_default())),
            ("Changed", Cell::Time(workflow.created_at)),
        ],
        look,
    );
    let mut part = |rows: String| {
        text.push('\n');
        text.push_str(&rows);
    };
    if !workflow.schedules.is_empty() {
        part(table(&workflow.schedules, look));
    }
    if !workflow.params.is_empty() {
        part(table(&workflow.params, look));
    }
    if !workflow.tasks.is_empty() {
        part(table(&workflow.tasks, look));
    }
    text
}

pub(super) async fn versions(args: VersionsArgs, context: &Context) -> Outcome {
    let (client, workflow) = (context.client()?, context.workflow(&args.workflow));
    let rows = gather(context, args.limit, async |page_size, page_token| {
        let workflow = workflow.clone();
        let ask = ListWorkflowVersionsRequest { stale: false, workflow, page_size, page_token };
        let answer = client.call(ask).await?;
        Ok(Page { rows: answer.versions, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await?;
    context.list(&rows)?;
    Ok(Exit::Done)
}

pub(super) async fn diff(args: DiffArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let ask = DiffWorkflowRequest { stale: false, workflow, from: args.from, to: args.to };
    let answer = context.client()?.call(ask).await?;
    if matches!(context.format(), Format::Table | Format::Wide) {
        if answer.unified.is_empty() && answer.files.is_empty() {
            context.say(format!("versions {} and {} are equal", answer.from, answer.to));
        }
        for file in &answer.files {
            context.say(format!("file {file} differs"));
        }
    }
    context.one(&answer, &format!("{}..{}", answer.from, answer.to), |_| answer.unified.clone())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use matins_proto::v1::Concurrency;

    use super::*;

    #[test]
    fn a_workflow_is_told_with_its_params_and_tasks() {
        let workflow = Workflow {
            name: "default/hello".into(),
            version: 2,
            current: true,
            timezone: "UTC".into(),
            labels: [("team".to_owned(), "data".to_owned())].into(),
            concurrency: Some(Concurrency { max_active_runs: Some(3), on_full: 1 }),
            params: vec![Parameter { name: "name".into(), r#type: "string".into(), ..Parameter::default() }],
            tasks: vec![TaskOutline {
                name: "greet".into(),
                kind: "run".into(),
                fan_out: true,
                needs: vec!["a".into(), "b".into()],
                trigger_rule: "all_success".into(),
                ..TaskOutline::default()
            }],
            ..Workflow::default()
        };
        assert_eq!(
            workflow_text(&workflow, &Look::PLAIN),
            "\
Workflow      default/hello
Version       2
State         active
Labels        team=data
Time zone     UTC
Active runs   0
Queued runs   0
Runs          3 at once, then queue

PARAM   TYPE     DEFAULT      DESCRIPTION
name    string   (required)   -

TASK    KIND           NEEDS   TRIGGER RULE   WHEN   DESCRIPTION
greet   run for_each   a b     all_success    -      -
"
        );
    }
}
