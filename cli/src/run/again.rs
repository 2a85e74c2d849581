//! `retry` and `cancel`.

use clap::Args;
use matins_proto::v1::{CancelRunRequest, RetryRunRequest, RetryTaskRequest, retry_run_request::Mode};

use crate::context::{Context, Format, Outcome, Repeat};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::refs::TaskRef;

/// Make a finished run again, or try a failed task of an active run again
///
/// A finished run stays as it is: this makes a new run of the same logical time and params, and prints its id. With a
/// task, the run must be active, and the task is tried again in place.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins retry run-42                    what failed, and what follows it
  matins retry run-42 --from transform   transform and what follows it, though it succeeded
  matins retry run-42 --all --latest     everything, with the newest version of the workflow
  matins retry run-42/load               one failed task of a run that is still active")]
pub(crate) struct RetryArgs {
    /// `run-42`, `latest:WORKFLOW`, or a task of an active run: `run-42/load`
    #[arg(value_name = "RUN[/TASK]")]
    run: String,

    /// Take over what succeeded or was skipped (the default)
    #[arg(long, conflicts_with_all = ["from", "all"])]
    failed: bool,

    /// Take over all but TASK and what follows it
    #[arg(long, value_name = "TASK", conflicts_with = "all")]
    from: Option<String>,

    /// Take over nothing
    #[arg(long)]
    all: bool,

    /// With the newest version of the workflow
    #[arg(long, requires = "all")]
    latest: bool,

    /// Say what would run again, but make nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    repeat: Repeat,
}

/// End a run
///
/// Its tasks get TERM and, 10 seconds later, KILL. What has not started is cancelled.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cancel run-42")]
pub(crate) struct CancelArgs {
    /// `run-42` or `latest:WORKFLOW`
    run: String,

    /// KILL at once
    #[arg(long)]
    now: bool,

    #[command(flatten)]
    repeat: Repeat,
}

/// `matins retry`.
pub(super) async fn retry(args: RetryArgs, context: &Context) -> Outcome {
    let TaskRef { run, task } = TaskRef::parse(&args.run, context)?;
    if !task.is_empty() {
        return retry_task(run, task, args, context).await;
    }
    let mode = match (&args.from, args.all) {
        (Some(_), _) => Mode::FromTask,
        (None, true) => Mode::All,
        (None, false) => Mode::Failed,
    };
    let ask = RetryRunRequest {
        request_id: args.repeat.request_id,
        not_after: None,
        run,
        mode: mode.into(),
        from: args.from.unwrap_or_default(),
        latest: args.latest,
        dry_run: args.dry_run,
    };
    let answer = context.client()?.call(ask).await?;
    let is_text = matches!(context.format(), Format::Table | Format::Wide);
    if is_text {
        let list = |tasks: &[String]| if tasks.is_empty() { "nothing".to_owned() } else { tasks.join(" ") };
        let verb = if args.dry_run { "would run" } else { "runs" };
        context.say(format!("{verb} again: {}", list(&answer.runs_again)));
        context.say(format!("taken over from {}: {}", answer.retry_of, list(&answer.taken_over)));
    }
    let id = answer.run_id.clone().unwrap_or_default();
    if is_text && args.dry_run {
        return Ok(Exit::Done);
    }
    context.one(&answer, &id, |_| format!("{id}\n"))?;
    Ok(Exit::Done)
}

async fn retry_task(run: String, task: String, args: RetryArgs, context: &Context) -> Outcome {
    if args.all || args.failed || args.dry_run || args.from.is_some() {
        let text = "a task is tried again in place: --failed, --from, --all and --dry-run are for whole runs";
        return Err(Fault::usage(text)
            .hint(format!("leave them out, or name the run alone; `matins run get {run}` shows both")));
    }
    let ask =
        RetryTaskRequest { request_id: args.repeat.request_id, not_after: None, run, task: task.clone() };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{}/{task} will be tried again", answer.run_id))
}

/// `matins cancel`.
pub(super) async fn cancel(args: CancelArgs, context: &Context) -> Outcome {
    let run = TaskRef::parse_run(&args.run, context)?;
    let request_id = args.repeat.request_id;
    let ask = CancelRunRequest { request_id, not_after: None, run, now: args.now };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{} is {}", answer.run_id, answer.state().as_str_name()))
}
