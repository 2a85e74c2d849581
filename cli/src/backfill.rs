//! Verbs about backfills: the runs of a past range, with their own limits and progress.

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use matins_proto::v1::{
    Backfill, BackfillTick, CancelBackfillRequest, CreateBackfillRequest, GetBackfillRequest,
    ListBackfillsRequest, PauseBackfillRequest, ResumeBackfillRequest, WatchBackfillRequest, backfill::State,
    backfill_tick::Action, create_backfill_request::Reprocess as WireReprocess,
};

use crate::context::{Context, Format, Outcome, Repeat, now, until_interrupted};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Cell, Column, Look, Row, as_jsonl, fields};
use crate::pages::{Page, Watching, show};
use crate::run::{ParamArgs, params_json};

/// What can be done with backfills.
#[derive(Subcommand, Debug)]
pub(crate) enum BackfillVerb {
    Create(CreateArgs),
    List(ListArgs),
    Get(GetArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Cancel(CancelArgs),
}

/// Make the runs of a past range
///
/// Both ends are included; a date means that whole day in the schedule's zone. A day is named by its logical time: the
/// night of 2013-01-02 loads the day before. Ticks whose run is active are left alone.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins backfill create nightly-flights --from 2013-01-02 --to 2013-02-01 --dry-run
  matins backfill create nightly-flights --from 2013-01-02 --to 2013-02-01 --max-active 4
  matins backfill create nightly-flights --from 2013-01-02 --to 2013-02-01 --reprocess failed")]
pub(crate) struct CreateArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// The first logical time: a date or RFC 3339
    #[arg(long, value_name = "TIME")]
    from: String,

    /// The last logical time: a date or RFC 3339
    #[arg(long, value_name = "TIME")]
    to: String,

    /// Whose ticks; not needed if the workflow has one schedule
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    schedule: String,

    /// Which ticks become runs
    #[arg(long, value_enum, default_value = "missing")]
    reprocess: Reprocess,

    /// How many of its runs may be active at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    max_active: u32,

    /// Begin with the newest
    #[arg(long)]
    newest_first: bool,

    #[command(flatten)]
    params: ParamArgs,

    /// List what it would do, but make nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    repeat: Repeat,
}

/// Which ticks become runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reprocess {
    /// Those for which no run succeeded.
    Missing,
    /// Those whose newest run failed or was cancelled.
    Failed,
    /// All of them.
    All,
}

/// List backfills, the newest first
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins backfill list nightly-flights")]
pub(crate) struct ListArgs {
    /// Only backfills of this workflow
    workflow: Option<String>,

    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    watching: Watching,
}

/// Show a backfill, or follow it until it has ended
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins backfill get backfill-7
  matins backfill get backfill-7 -w                       leaves with 0 only if all runs succeeded
  matins run list --filter backfill=backfill-7            its runs")]
pub(crate) struct GetArgs {
    /// `backfill-7`
    backfill: String,

    /// Follow it until it has ended
    #[arg(short, long)]
    watch: bool,
}

/// Make no further runs until it is resumed; active ones go on
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins backfill pause backfill-7")]
pub(crate) struct PauseArgs {
    /// `backfill-7`
    backfill: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Let a paused backfill go on
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins backfill resume backfill-7")]
pub(crate) struct ResumeArgs {
    /// `backfill-7`
    backfill: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// End a backfill for good: its active runs are cancelled
///
/// Asks first, on a terminal.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins backfill cancel backfill-7")]
pub(crate) struct CancelArgs {
    /// `backfill-7`
    backfill: String,

    /// KILL the tasks of its runs at once
    #[arg(long)]
    now: bool,

    #[command(flatten)]
    repeat: Repeat,
}

impl BackfillVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Create(args) => create(args, context).await,
            Self::List(args) => list(args, context).await,
            Self::Get(args) => get(args, context).await,
            Self::Pause(args) => pause(args, context).await,
            Self::Resume(args) => resume(args, context).await,
            Self::Cancel(args) => cancel(args, context).await,
        }
    }
}

impl Row for Backfill {
    const PLURAL: &'static str = "backfills";
    const COLUMNS: &'static [Column] = &[
        Column::new("BACKFILL"),
        Column::new("WORKFLOW"),
        Column::new("SCHEDULE"),
        Column::new("STATE"),
        Column::new("FROM"),
        Column::new("TO"),
        Column::new("DONE"),
        Column::new("ACTIVE"),
        Column::new("FAILED"),
        Column::wide("MAX ACTIVE"),
        Column::wide("CREATED"),
        Column::new("REASON"),
    ];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let counts = self.counts.unwrap_or_default();
        let exact = |time: Option<matins_proto::Timestamp>| time.map(|it| it.to_string()).unwrap_or_default();
        let reason = self.reason.as_ref().map(|reason| reason.text.clone()).unwrap_or_default();
        vec![
            Cell::text(&self.id),
            Cell::text(&self.workflow),
            Cell::text(&self.schedule),
            Cell::State(self.state().as_str_name().into()),
            Cell::text(exact(self.from)),
            Cell::text(exact(self.to)),
            Cell::text(format!("{}/{}", counts.success + counts.failed + counts.cancelled, counts.total)),
            Cell::Number(counts.active.into()),
            Cell::Number((counts.failed + counts.cancelled).into()),
            Cell::Number(self.max_active.into()),
            Cell::Time(self.created_at),
            Cell::text(reason),
        ]
    }
}

impl Row for BackfillTick {
    const PLURAL: &'static str = "ticks in this range";
    const COLUMNS: &'static [Column] = &[
        Column::new("LOGICAL TIME"),
        Column::new("LOCAL"),
        Column::new("INTERVAL"),
        Column::new("ACTION"),
        Column::new("RUN"),
    ];

    fn name(&self) -> String {
        self.logical_time.map(|time| time.to_string()).unwrap_or_default()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let interval = self.interval_start.zip(self.interval_end);
        let interval = interval.map(|(start, end)| format!("{start} to {end}")).unwrap_or_default();
        let action = match self.action() {
            Action::Run => "run",
            Action::Done => "nothing to do",
            Action::Active => "left alone, active",
            Action::Unspecified => "",
        };
        vec![
            Cell::text(self.name()),
            Cell::text(&self.local),
            Cell::text(interval),
            Cell::text(action),
            Cell::text(self.run_id.clone().unwrap_or_default()),
        ]
    }
}

async fn create(args: CreateArgs, context: &Context) -> Outcome {
    let reprocess = match args.reprocess {
        Reprocess::Missing => WireReprocess::Missing,
        Reprocess::Failed => WireReprocess::Failed,
        Reprocess::All => WireReprocess::All,
    };
    let ask = CreateBackfillRequest {
        request_id: args.repeat.request_id,
        not_after: None,
        workflow: context.workflow(&args.workflow),
        schedule: args.schedule,
        from: args.from,
        to: args.to,
        reprocess: reprocess.into(),
        max_active: args.max_active,
        newest_first: args.newest_first,
        params: params_json(&args.params)?,
        dry_run: args.dry_run,
    };
    let answer = context.client()?.call(ask).await?;
    if !answer.active_runs.is_empty() {
        context.say(format!("left alone since they are active: {}", answer.active_runs.join(" ")));
    }
    if args.dry_run {
        context.list(&answer.ticks)?;
        let runs = answer.ticks.iter().filter(|tick| tick.action() == Action::Run).count();
        let is_whole = answer.backfill.as_ref().and_then(|it| it.counts).is_none_or(|counts| counts.counted);
        let first = if is_whole { "" } else { "the first " };
        context.say(format!("a dry run: {runs} of {first}{} ticks would become runs", answer.ticks.len()));
        if !is_whole {
            context.say("note: the list was cut, the range has more ticks");
        }
        return Ok(Exit::Done);
    }
    let id = answer.backfill.as_ref().map(|backfill| backfill.id.clone()).unwrap_or_default();
    context.one(&answer, &id, |_| format!("{id}\n"))?;
    Ok(Exit::Done)
}

async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let workflow = args.workflow.map(|name| context.workflow(&name)).unwrap_or_default();
    show(context, (args.limit, args.watching), async |page_size, page_token| {
        let (namespace, workflow) = (context.namespace(), workflow.clone());
        let states = Vec::new();
        let ask = ListBackfillsRequest { stale: false, workflow, namespace, states, page_size, page_token };
        let answer = client.call(ask).await?;
        Ok(Page { rows: answer.backfills, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await
}

async fn get(args: GetArgs, context: &Context) -> Outcome {
    if args.watch {
        let id = args.backfill.clone();
        return until_interrupted(watch(args.backfill, context), || format!("{id} goes on")).await;
    }
    let ask = GetBackfillRequest { stale: false, backfill: args.backfill.clone() };
    let found = context.client()?.call(ask).await?.backfill;
    let found = found.ok_or_else(|| Fault::not_found(format!("there is no backfill `{}`", args.backfill)))?;
    context.one(&found, &found.id, |look| backfill_text(&found, look))?;
    Ok(Exit::Done)
}

fn backfill_text(backfill: &Backfill, look: &Look) -> String {
    let counts = backfill.counts.unwrap_or_default();
    let range =
        backfill.from.zip(backfill.to).map(|(from, to)| format!("{from} to {to}")).unwrap_or_default();
    let reprocess = match backfill.reprocess() {
        WireReprocess::Missing | WireReprocess::Unspecified => "missing",
        WireReprocess::Failed => "failed",
        WireReprocess::All => "all",
    };
    let params = backfill.params.as_ref().map(|params| params.text.clone()).filter(|text| text != "{}");
    let more = if counts.counted { "" } else { " so far" };
    fields(
        &[
            ("Backfill", Cell::text(&backfill.id)),
            ("Workflow", Cell::text(&backfill.workflow)),
            ("Schedule", Cell::text(&backfill.schedule)),
            ("State", Cell::State(backfill.state().as_str_name().into())),
            ("Reason", Cell::text(backfill.reason.as_ref().map(|it| it.text.clone()).unwrap_or_default())),
            ("Range", Cell::text(range)),
            ("Reprocess", Cell::text(reprocess)),
            ("Max active", Cell::Number(backfill.max_active.into())),
            ("Order", Cell::text(if backfill.newest_first { "newest first" } else { "oldest first" })),
            ("Params", Cell::text(params.unwrap_or_default())),
            ("Runs", Cell::text(format!("{}{more}: {}", counts.total, progress(backfill)))),
            ("Left out", Cell::text(format!("{} done, {} active", counts.left_out, counts.left_alone))),
            ("Created", Cell::Time(backfill.created_at)),
            ("Finished", Cell::Time(backfill.finished_at)),
        ],
        look,
    )
}

/// How its runs stand, in words.
fn progress(backfill: &Backfill) -> String {
    let counts = backfill.counts.unwrap_or_default();
    format!(
        "{} success, {} failed, {} cancelled, {} active, {} waiting",
        counts.success, counts.failed, counts.cancelled, counts.active, counts.waiting
    )
}

async fn watch(backfill: String, context: &Context) -> Outcome {
    let mut watch = context.client()?.watch_backfill(WatchBackfillRequest { backfill, after_index: 0 });
    let draws = context.screen().err && matches!(context.format(), Format::Table | Format::Wide);
    let target = if draws { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}");
    bar.set_style(style.map_err(|error| Fault::machine("the progress bar cannot be drawn", error))?);
    while let Some(change) = watch.next().await? {
        let backfill = watch.backfill();
        let counts = backfill.counts.unwrap_or_default();
        bar.set_prefix(backfill.id.clone());
        bar.set_length(counts.total.into());
        bar.set_position((counts.success + counts.failed + counts.cancelled).into());
        bar.set_message(format!("{} active, {} failed", counts.active, counts.failed));
        match context.format() {
            Format::Jsonl => context.print(&as_jsonl(&change))?,
            Format::Table | Format::Wide if !draws => {
                context.say(format!("{} {} {}", now(), backfill.id, progress(backfill)));
            }
            Format::Table | Format::Wide | Format::Json | Format::Yaml | Format::Name => {}
        }
    }
    bar.finish_and_clear();
    let backfill = watch.backfill();
    if context.format() != Format::Jsonl {
        context.one(backfill, &backfill.id, |look| backfill_text(backfill, look))?;
    }
    Ok(match backfill.state() {
        State::Success => Exit::Done,
        State::Failed | State::Cancelled => Exit::NotSuccess,
        State::Running | State::Paused | State::Stopping | State::Unspecified => Exit::WaitEnded,
    })
}

async fn pause(args: PauseArgs, context: &Context) -> Outcome {
    let request_id = args.repeat.request_id;
    let ask = PauseBackfillRequest { request_id, not_after: None, backfill: args.backfill.clone() };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{} is paused; active runs go on", args.backfill))
}

async fn resume(args: ResumeArgs, context: &Context) -> Outcome {
    let request_id = args.repeat.request_id;
    let ask = ResumeBackfillRequest { request_id, not_after: None, backfill: args.backfill.clone() };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{} goes on", args.backfill))
}

async fn cancel(args: CancelArgs, context: &Context) -> Outcome {
    context.confirm(&format!("cancel {} and its active runs?", args.backfill))?;
    let request_id = args.repeat.request_id;
    let ask =
        CancelBackfillRequest { request_id, not_after: None, backfill: args.backfill.clone(), now: args.now };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{} is being cancelled", args.backfill))
}
