//! Verbs about definitions: checked, registered, seen, changed, held.
//!
//! `sources` reads files and folders, `check` needs no server, `apply` and `see` do. Start at [`WorkflowVerb`].

mod apply;
mod check;
mod hold;
mod see;
pub(crate) mod sources;

use clap::Subcommand;

pub(crate) use apply::ApplyArgs;
pub(crate) use check::CheckArgs;

use crate::context::{Context, Outcome};

/// What can be done with workflows.
#[derive(Subcommand, Debug)]
pub(crate) enum WorkflowVerb {
    Check(CheckArgs),
    Apply(ApplyArgs),
    List(see::ListArgs),
    Get(see::GetArgs),
    Versions(see::VersionsArgs),
    Diff(see::DiffArgs),
    Rollback(hold::RollbackArgs),
    Delete(hold::DeleteArgs),
    Pause(hold::PauseArgs),
    Resume(hold::ResumeArgs),
}

impl WorkflowVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Check(args) => check::check(&args, context),
            Self::Apply(args) => apply::apply(args, context).await,
            Self::List(args) => see::list(args, context).await,
            Self::Get(args) => see::get(args, context).await,
            Self::Versions(args) => see::versions(args, context).await,
            Self::Diff(args) => see::diff(args, context).await,
            Self::Rollback(args) => hold::rollback(args, context).await,
            Self::Delete(args) => hold::delete(args, context).await,
            Self::Pause(args) => hold::pause(args, context).await,
            Self::Resume(args) => hold::resume(args, context).await,
        }
    }
}
