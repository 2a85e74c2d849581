//! Verbs about runs: started, seen, followed, ended, made again.
//!
//! One file for each group of verbs, with its flags and its help beside what it does. Start at [`RunVerb`].

mod again;
mod events;
mod get;
mod list;
mod logs;
mod start;
mod watch;

use clap::Subcommand;

pub(crate) use again::{CancelArgs, RetryArgs};
pub(crate) use events::EventsArgs;
pub(crate) use get::GetArgs;
pub(crate) use list::{ListArgs, parse_since};
pub(crate) use logs::LogsArgs;
pub(crate) use start::{ParamArgs, StartArgs, SubmitArgs, params_json, parse_instant};
pub(crate) use watch::{WaitArgs, WatchArgs, parse_span};

use crate::context::{Context, Outcome};
use crate::why::{self, WhyArgs};

/// What can be done with runs.
#[derive(Subcommand, Debug)]
pub(crate) enum RunVerb {
    Start(StartArgs),
    Submit(SubmitArgs),
    List(ListArgs),
    Get(GetArgs),
    Events(EventsArgs),
    Watch(WatchArgs),
    Wait(WaitArgs),
    Logs(LogsArgs),
    Why(WhyArgs),
    Retry(RetryArgs),
    Cancel(CancelArgs),
}

impl RunVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Start(args) => start::start(args, context).await,
            Self::Submit(args) => start::submit(args, context).await,
            Self::List(args) => list::list(args, context).await,
            Self::Get(args) => get::get(args, context).await,
            Self::Events(args) => events::events(args, context).await,
            Self::Watch(args) => watch::watch(args, context).await,
            Self::Wait(args) => watch::wait(args, context).await,
            Self::Logs(args) => logs::logs(args, context).await,
            Self::Why(args) => why::why(args, context).await,
            Self::Retry(args) => again::retry(args, context).await,
            Self::Cancel(args) => again::cancel(args, context).await,
        }
    }
}
