//! The tree of verbs (LANGUAGE 4). A top verb is an exact alias of its noun's verb: both are the same type.
//!
//! What a verb's flags are and what its help says stands beside what the verb does. Start at [`Cli`] and [`Verb`].

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::attempt::AttemptVerb;
use crate::backfill::BackfillVerb;
use crate::cluster::ClusterVerb;
use crate::complete::{self, Shell};
use crate::context::{Context, Global, Outcome};
use crate::demo::DemoArgs;
use crate::dev::DevArgs;
use crate::executor::ExecutorVerb;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::pool::PoolVerb;
use crate::run::{CancelArgs, LogsArgs, RetryArgs, RunVerb, StartArgs, SubmitArgs, WaitArgs, WatchArgs};
use crate::schedule::ScheduleVerb;
use crate::server::ServerArgs;
use crate::top::TopArgs;
use crate::why::WhyArgs;
use crate::workflow::{ApplyArgs, CheckArgs, WorkflowVerb};

/// Runs the work that must be done by morning: schedules, DAGs of tasks, backfills, on nodes of which any minority may die
#[derive(Parser, Debug)]
#[command(name = "matins", version, max_term_width = 110, propagate_version = false)]
#[command(after_help = "\
First steps:
  matins dev                                     a cluster of three nodes on this machine
  matins apply hello.matins.yaml                 register a workflow (in another terminal)
  matins start hello --wait && matins logs latest:hello
  matins demo                                    see a nightly ETL survive its leader, twice

`matins VERB -h` shows flags and examples. `check` and `apply` are short for `workflow check` and
`workflow apply`; `start`, `submit`, `watch`, `wait`, `logs`, `why`, `retry` and `cancel` for `run start` ..

Exit codes: 0 done, 1 the run did not succeed, 2 usage, 3 not found, 4 refused, 5 no answer,
6 the waiting ended, 7 denied, 130 Ctrl-C.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Everything that can be asked for.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    Check(CheckArgs),
    Apply(ApplyArgs),
    Start(StartArgs),
    Submit(SubmitArgs),
    Watch(WatchArgs),
    Wait(WaitArgs),
    Logs(LogsArgs),
    Why(WhyArgs),
    Top(TopArgs),
    Retry(RetryArgs),
    Cancel(CancelArgs),
    /// Runs: start, list, get, events, why, watch, logs, retry, cancel
    #[command(subcommand)]
    Run(RunVerb),
    /// Workflows: check, apply, list, get, versions, diff, rollback, pause, delete
    #[command(subcommand)]
    Workflow(WorkflowVerb),
    /// Schedules: list, next, decisions, pause, resume
    #[command(subcommand)]
    Schedule(ScheduleVerb),
    /// Backfills: the runs of a past range
    #[command(subcommand)]
    Backfill(BackfillVerb),
    /// Pools: slots that tasks of any workflow share
    #[command(subcommand)]
    Pool(PoolVerb),
    /// Executors: list, drain, undrain, remove; run one without a node
    #[command(subcommand)]
    Executor(ExecutorVerb),
    /// Attempts that nobody can end
    #[command(subcommand)]
    Attempt(AttemptVerb),
    /// The cluster: init, add, remove, replace, transfer-leader, wait, status, time
    #[command(subcommand)]
    Cluster(ClusterVerb),
    Dev(DevArgs),
    Demo(DemoArgs),
    Server(Box<ServerArgs>),
    Completion(CompletionArgs),
    /// The parent of an executor's tasks. `main` looks for it before it reads any flag.
    #[command(hide = true)]
    Supervisor(Passed),
}

/// Print a script that completes verbs, flags and names in your shell
///
/// Runs, tasks and workflows are those of the cluster that `MATINS_ENDPOINT` names.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  matins completion bash > ~/.local/share/bash-completion/completions/matins
  matins completion zsh > ~/.zfunc/_matins
  matins completion fish > ~/.config/fish/completions/matins.fish")]
pub(crate) struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments that are for somebody else.
#[derive(clap::Args, Debug)]
pub(crate) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Verb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Check(args) => WorkflowVerb::Check(args).perform(context).await,
            Self::Apply(args) => WorkflowVerb::Apply(args).perform(context).await,
            Self::Start(args) => RunVerb::Start(args).perform(context).await,
            Self::Submit(args) => RunVerb::Submit(args).perform(context).await,
            Self::Watch(args) => RunVerb::Watch(args).perform(context).await,
            Self::Wait(args) => RunVerb::Wait(args).perform(context).await,
            Self::Logs(args) => RunVerb::Logs(args).perform(context).await,
            Self::Why(args) => RunVerb::Why(args).perform(context).await,
            Self::Retry(args) => RunVerb::Retry(args).perform(context).await,
            Self::Cancel(args) => RunVerb::Cancel(args).perform(context).await,
            Self::Top(TopArgs {}) => crate::top::top(context).await,
            Self::Run(verb) => verb.perform(context).await,
            Self::Workflow(verb) => verb.perform(context).await,
            Self::Schedule(verb) => verb.perform(context).await,
            Self::Backfill(verb) => verb.perform(context).await,
            Self::Pool(verb) => verb.perform(context).await,
            Self::Executor(verb) => verb.perform(context).await,
            Self::Attempt(verb) => verb.perform(context).await,
            Self::Cluster(verb) => verb.perform(context).await,
            Self::Dev(args) => crate::dev::dev(args, context).await,
            Self::Demo(args) => crate::demo::demo(args, context).await,
            Self::Server(args) => Box::pin(crate::server::serve(*args)).await,
            Self::Completion(args) => completion(&args, context),
            Self::Supervisor(Passed { arguments }) => {
                unreachable!("`main` takes this before clap does: {arguments:?}")
            }
        }
    }
}

fn completion(args: &CompletionArgs, context: &Context) -> Outcome {
    let script = complete::script(args.shell);
    context.print(&script.map_err(|error| Fault::machine("cannot write the script", error))?)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `why` tells a person to type can be typed.
    #[test]
    fn every_command_that_why_offers_is_one() {
        let script = include_str!("../../node/core/tests/scripts/why");
        let commands: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("  > ")).collect();
        assert!(commands.len() > 20, "{commands:?}");
        for command in commands {
            let read = Cli::try_parse_from(command.split_whitespace());
            assert!(read.is_ok(), "{command}: {}", read.unwrap_err());
        }
    }
}
