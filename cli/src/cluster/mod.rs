//! Verbs about the cluster: how it is made and grows, how it is, and what time it has.

mod backup;
mod check;
mod level;
mod members;
mod settings;
pub(crate) mod status;

use clap::{Args, Subcommand};
use matins_proto::v1::{AcceptTimeRequest, InitClusterRequest};

use self::backup::{BackupArgs, RestoreArgs, ResumeArgs, backup, restore, resume};
use self::check::{CheckDirArgs, RecoverArgs, check, recover};
use self::level::{RaiseLevelArgs, raise_level};
use self::members::{AddArgs, RemoveArgs, ReplaceArgs, TransferArgs, WaitArgs};
use self::settings::{SettingsArgs, settings};
use self::status::{StatusArgs, status};
use crate::context::{Context, Outcome, Repeat};
use crate::fault::Fault;
use crate::run::parse_instant;

/// What can be done with the cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum ClusterVerb {
    Init(InitArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Replace(ReplaceArgs),
    TransferLeader(TransferArgs),
    Wait(WaitArgs),
    Status(StatusArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Resume(ResumeArgs),
    Check(CheckDirArgs),
    Recover(RecoverArgs),
    Settings(SettingsArgs),
    RaiseLevel(RaiseLevelArgs),
    /// The cluster's time
    #[command(subcommand)]
    Time(TimeVerb),
}

/// What can be done with the cluster's time.
#[derive(Subcommand, Debug)]
pub(crate) enum TimeVerb {
    Accept(AcceptArgs),
}

/// Make the cluster, once, with the node at --endpoint as its first member
///
/// Other nodes are added to it. A node with an empty directory waits until one or the other happens.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins --endpoint 10.0.0.1:7070 cluster init
  matins --endpoint 10.0.0.1:7070 cluster add 10.0.0.2:7071
  matins --endpoint 10.0.0.1:7070 cluster add 10.0.0.3:7071")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    repeat: Repeat,
}

/// Accept a reading of the clocks that is far ahead
///
/// Nodes do not follow clocks that jump by more than 31 days until a person says that they are right.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster status                             shows the reading that waits
  matins cluster time accept 2026-11-22T05:00:00Z")]
pub(crate) struct AcceptArgs {
    /// The reading, as `cluster status` shows it; refused if another one waits by now
    #[arg(value_name = "TIME", value_parser = parse_instant)]
    reading: matins_proto::Timestamp,

    #[command(flatten)]
    repeat: Repeat,
}

impl ClusterVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Init(args) => {
                let ask = InitClusterRequest { request_id: args.repeat.request_id };
                let answer = context.client()?.call(ask).await?;
                let sentence =
                    format!("cluster {} is made, its first node is {}", answer.cluster_id, answer.node);
                context.done(&answer, sentence)
            }
            Self::Add(args) => members::add(args, context).await,
            Self::Remove(args) => members::remove(args, context).await,
            Self::Replace(args) => members::replace(args, context).await,
            Self::TransferLeader(args) => members::transfer(args, context).await,
            Self::Wait(args) => members::wait(args, context).await,
            Self::Status(StatusArgs {}) => status(context).await,
            Self::Backup(args) => backup(args, context).await,
            Self::Restore(args) => restore(&args, context),
            Self::Resume(args) => resume(args, context).await,
            Self::Check(args) => check(&args, context),
            Self::Recover(args) => recover(&args, context),
            Self::Settings(args) => settings(args, context).await,
            Self::RaiseLevel(args) => raise_level(args, context).await,
            Self::Time(TimeVerb::Accept(args)) => accept(args, context).await,
        }
    }
}

async fn accept(args: AcceptArgs, context: &Context) -> Outcome {
    context.confirm(&format!("set the cluster's time to {}? it never goes back", args.reading))?;
    let request_id = args.repeat.request_id;
    let ask = AcceptTimeRequest { request_id, not_after: None, reading: Some(args.reading) };
    let answer = context.client()?.call(ask).await.map_err(Fault::from)?;
    context.done(&answer, format!("the cluster's time is {} from now on", args.reading))
}
