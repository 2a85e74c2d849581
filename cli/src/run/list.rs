//! `run list`: runs, the newest first, once or live.

use clap::Args;
use matins_proto::Timestamp;
use matins_proto::v1::{ListRunsRequest, Run, WatchRunsRequest, run::State, run_origin};
use matins_workflow::calendar::parse_duration;

use crate::context::{Context, Format, Outcome, now, until_interrupted};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::live::Live;
use crate::output::{Cell, Column, Look, Row, as_jsonl, as_names, span_between, table};
use crate::pages::{Page, gather};
use crate::run::start::parse_instant;

/// List runs, the newest first
///
/// A run and its retries stand in the line of the newest; --retries shows each.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins run list nightly-flights --state failed --since 24h
  matins run list --filter 'state=failed and workflow=~nightly'
  matins run list --filter '(took > 1h or late > 5m) and not labels.team=ops'
  matins run list -w

A filter is FIELD OP VALUE, joined by AND, OR, NOT and parentheses. Fields: id workflow namespace version schedule backfill
origin state reason retry_of, logical_time created_at started_at finished_at, took waited late (durations: 10m, 1h30m),
labels.KEY, params.NAME. Operators: = != < <= > >=, with * for any text, and =~ for a regular expression.")]
pub(crate) struct ListArgs {
    /// Only runs of this workflow
    workflow: Option<String>,

    /// Only runs in this state; can be given several times
    #[arg(long, value_name = "STATE", value_parser = parse_state, value_delimiter = ',')]
    state: Vec<State>,

    /// Only runs made in this time (24h) or after this instant
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,

    /// Each retry in a line of its own
    #[arg(long)]
    retries: bool,

    /// Only runs that fit, such as 'origin=backfill AND params.mode=full'
    #[arg(long, value_name = "EXPR", default_value = "", hide_default_value = true)]
    filter: String,

    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Go on showing what changes
    #[arg(short, long)]
    watch: bool,
}

/// Reads a state by its word.
fn parse_state(text: &str) -> Result<State, String> {
    let state = State::from_str_name(text).filter(|state| *state != State::Unspecified);
    state.ok_or_else(|| "a run is queued, running, stopping, success, failed or cancelled".into())
}

/// Reads a span back from now, or an instant.
pub(crate) fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = parse_instant(text) {
        return Ok(time);
    }
    let span = parse_duration(text).map_err(|error| format!("{error}; {}", error.hint))?;
    let millis = i64::try_from(span.0).unwrap_or(i64::MAX);
    Ok(Timestamp::from_millis(now().as_millis().saturating_sub(millis)))
}

impl Row for Run {
    const PLURAL: &'static str = "runs";
    const COLUMNS: &'static [Column] = &[
        Column::new("RUN"),
        Column::new("WORKFLOW"),
        Column::wide("VERSION"),
        Column::new("STATE"),
        Column::spare("LOGICAL TIME"),
        Column::wide("ORIGIN"),
        Column::new("TASKS"),
        Column::spare("CREATED"),
        Column::spare("TOOK"),
        Column::wide("RETRIES"),
        Column::new("REASON"),
    ];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, look: &Look) -> Vec<Cell> {
        let counts = self.task_counts.unwrap_or_default();
        let ended =
            counts.success + counts.failed + counts.upstream_failed + counts.skipped + counts.cancelled;
        // What a run is for is a name for people too, so it is never told relative to now.
        let logical_time = self.logical_time.map(|time| time.to_string()).unwrap_or_default();
        vec![
            Cell::text(&self.id),
            Cell::text(&self.workflow),
            Cell::text(version(self)),
            Cell::State(self.state().as_str_name().into()),
            Cell::text(logical_time),
            Cell::text(origin(self)),
            Cell::text(format!("{ended}/{}", counts.total)),
            Cell::Time(self.created_at),
            Cell::text(span_between(self.started_at, self.finished_at, look)),
            Cell::text(self.retries.join(" ")),
            Cell::text(reason(self)),
        ]
    }
}

/// Why a run is in its state; empty if there is nothing to say.
pub(super) fn reason(run: &Run) -> String {
    let reason = run.reason.as_ref();
    reason.map(|it| if it.text.is_empty() { it.code.clone() } else { it.text.clone() }).unwrap_or_default()
}

/// Its version, or that it has none.
pub(super) fn version(run: &Run) -> String {
    run.version.map_or_else(|| "submitted".into(), |version| version.to_string())
}

/// What made it.
pub(super) fn origin(run: &Run) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    match run.origin() {
        run_origin::Kind::Schedule => format!("schedule {}", name(&run.schedule)),
        run_origin::Kind::Backfill => name(&run.backfill),
        run_origin::Kind::Retry => format!("retry of {}", name(&run.retry_of)),
        run_origin::Kind::Start => "start".into(),
        run_origin::Kind::Submit => "submit".into(),
        run_origin::Kind::Unspecified => String::new(),
    }
}

/// `matins run list`.
pub(super) async fn list(args: ListArgs, context: &Context) -> Outcome {
    let workflow = args.workflow.as_ref().map(|name| context.workflow(name)).unwrap_or_default();
    if args.watch {
        return until_interrupted(watch(args, workflow, context), || "stopped watching".into()).await;
    }
    let client = context.client()?;
    let runs = gather(context, args.limit as usize, async |page_size, page_token| {
        let ask = ListRunsRequest {
            stale: false,
            workflow: workflow.clone(),
            namespace: context.namespace(),
            states: args.state.iter().map(|state| (*state).into()).collect(),
            since: args.since,
            retries: args.retries,
            filter: args.filter.clone(),
            page_size,
            page_token,
        };
        let answer = client.call(ask).await?;
        Ok(Page { rows: answer.runs, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await?;
    context.list(&runs)?;
    Ok(Exit::Done)
}

async fn watch(args: ListArgs, workflow: String, context: &Context) -> Outcome {
    let ask = WatchRunsRequest {
        workflow,
        namespace: context.namespace(),
        states: args.state.iter().map(|state| (*state).into()).collect(),
        since: args.since,
        retries: args.retries,
        filter: args.filter,
        limit: args.limit.min(1_000),
        after_index: 0,
    };
    let mut watch = context.client()?.watch_runs(ask);
    let mut live = Live::new(context);
    while let Some(change) = watch.next().await? {
        match context.format() {
            Format::Table | Format::Wide if live.redraws() => {
                let look = context.look();
                let shown = &watch.runs()[..watch.runs().len().min(args.limit as usize)];
                live.draw(&table(shown, &look))?;
            }
            Format::Table | Format::Wide => {
                for run in &change.runs {
                    context.print(&format!(
                        "{} {} {} {}\n",
                        now(),
                        run.id,
                        run.workflow,
                        run.state().as_str_name()
                    ))?;
                }
            }
            Format::Name => {
                context.print(&as_names(change.runs.iter().map(|run| run.id.clone())))?;
            }
            Format::Jsonl => context.print(&as_jsonl(&change))?,
            Format::Json | Format::Yaml => {
                return Err(Fault::usage("what goes on and on is no single document")
                    .hint("use -o jsonl, which is one document a line"));
            }
        }
    }
    Ok(Exit::Done)
}
