//! `cluster raise-level`: the last step of an upgrade.

use clap::Args;
use matins_proto::v1::{ClusterStatusRequest, RaiseLevelRequest};

use crate::context::{Context, Outcome, Repeat};

/// Let the cluster use what only newer releases know: the last step of an upgrade
///
/// Until then every node can go back to the release that it had; afterwards those that do not support the level refuse to
/// start. Refused unless all members answer and support it. Asks first, on a terminal.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster status           shows the level in force and what each node supports
  matins cluster raise-level      as far as all nodes support it")]
pub(crate) struct RaiseLevelArgs {
    /// Which level [default: as far as all nodes support it]
    level: Option<u16>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Does it.
pub(crate) async fn raise_level(args: RaiseLevelArgs, context: &Context) -> Outcome {
    let status = context.client()?.call(ClusterStatusRequest {}).await?;
    let to =
        args.level.map_or_else(|| "as far as all nodes support it".to_owned(), |level| format!("to {level}"));
    context.confirm(&format!(
        "raise the feature level from {} {to}? older releases cannot take part from then on",
        status.level
    ))?;
    let level = args.level.unwrap_or(0).into();
    let ask = RaiseLevelRequest { request_id: args.repeat.request_id, not_after: None, level };
    let answer = context.client()?.call(ask).await?;
    let sentence = if answer.level == status.level {
        format!("feature level {} is in force, as before: no node needs more", answer.level)
    } else {
        format!("feature level {} is in force", answer.level)
    };
    context.done(&answer, sentence)
}
