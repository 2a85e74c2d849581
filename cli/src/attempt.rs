//! Verbs about attempts that nobody can end.

use clap::{Args, Subcommand};
use matins_proto::v1::AbandonAttemptRequest;

use crate::context::{Context, Outcome, Repeat};
use crate::refs::TaskRef;

/// What can be done with attempts.
#[derive(Subcommand, Debug)]
pub(crate) enum AttemptVerb {
    Abandon(AbandonArgs),
}

/// Give up an attempt that cannot be ended
///
/// Its slot is free at once, though its processes may still live and write: only a person can know that they do no harm.
/// Asks first, on a terminal.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins attempt abandon run-42/load")]
pub(crate) struct AbandonArgs {
    /// `run-42/load`
    #[arg(value_name = "RUN/TASK")]
    task: String,

    /// Which attempt [default: the one that is live]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,

    #[command(flatten)]
    repeat: Repeat,
}

impl AttemptVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        let Self::Abandon(args) = self;
        let TaskRef { run, task } = TaskRef::parse_task(&args.task, context)?;
        context.confirm(&format!("give up the attempt of {run}/{task}, whatever its processes still do?"))?;
        let request_id = args.repeat.request_id;
        let sentence = format!("{run}/{task}");
        let ask = AbandonAttemptRequest { request_id, not_after: None, run, task, attempt: args.attempt };
        let answer = context.client()?.call(ask).await?;
        let sentence =
            format!("attempt {} of {sentence} is given up (fence {})", answer.attempt, answer.fence);
        context.done(&answer, sentence)
    }
}
