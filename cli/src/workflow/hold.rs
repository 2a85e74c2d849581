//! `workflow rollback`, `delete`, `pause` and `resume`.

use clap::Args;
use matins_proto::v1::{
    DeleteWorkflowRequest, PauseWorkflowRequest, ResumeWorkflowRequest, RollbackWorkflowRequest,
};

use crate::context::{Context, Outcome, Repeat};

/// Make an older version current again
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins workflow rollback nightly-flights               the version before
  matins workflow rollback nightly-flights --version 3")]
pub(crate) struct RollbackArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// Which version [default: the one that was current before]
    #[arg(long, value_name = "N")]
    version: Option<u32>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Delete a workflow with its schedules; its finished runs stay
///
/// Refused while runs of it are active. Asks first, on a terminal.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins workflow delete nightly-flights")]
pub(crate) struct DeleteArgs {
    /// `namespace/name` or `name`
    workflow: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Hold all schedules of a workflow; starts by hand and backfills go on
///
/// Ticks before the pause stay due, those inside it are skipped.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins workflow pause nightly-flights")]
pub(crate) struct PauseArgs {
    /// `namespace/name` or `name`
    workflow: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Let all schedules of a workflow go on, from now
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins workflow resume nightly-flights")]
pub(crate) struct ResumeArgs {
    /// `namespace/name` or `name`
    workflow: String,

    #[command(flatten)]
    repeat: Repeat,
}

pub(super) async fn rollback(args: RollbackArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let ask = RollbackWorkflowRequest {
        request_id: args.repeat.request_id,
        not_after: None,
        workflow: workflow.clone(),
        version: args.version,
    };
    let answer = context.client()?.call(ask).await?;
    let sentence = match args.version {
        Some(older) => format!(
            "{workflow} has version {} now, equal to version {older}; it had {}",
            answer.version, answer.old_version
        ),
        None => format!(
            "{workflow} has version {} now, equal to the one before {}",
            answer.version, answer.old_version
        ),
    };
    context.done(&answer, sentence)
}

pub(super) async fn delete(args: DeleteArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    context.confirm(&format!("delete workflow {workflow} with its schedules?"))?;
    let request_id = args.repeat.request_id;
    let ask = DeleteWorkflowRequest { request_id, not_after: None, workflow: workflow.clone() };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{workflow} is deleted; its finished runs stay"))
}

pub(super) async fn pause(args: PauseArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let request_id = args.repeat.request_id;
    let ask = PauseWorkflowRequest { request_id, not_after: None, workflow: workflow.clone() };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("the schedules of {workflow} are paused"))
}

pub(super) async fn resume(args: ResumeArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let request_id = args.repeat.request_id;
    let ask = ResumeWorkflowRequest { request_id, not_after: None, workflow: workflow.clone() };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("the schedules of {workflow} go on from now"))
}
