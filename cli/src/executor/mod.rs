//! Verbs about executors.

mod run;

use std::time::Duration;

use clap::{Args, Subcommand};
use matins_proto::v1::{
    DrainExecutorRequest, Executor, ListExecutorsRequest, RemoveExecutorRequest, UndrainExecutorRequest,
};

use crate::context::{Context, Outcome, Repeat};
use crate::fault::Fault;
use crate::output::{Cell, Column, Look, Row};
use crate::pages::{LIST_MAX, Page, Watching, show};
#[cfg(test)]
pub(crate) use run::ExecutorLayer;

/// Between looks at an executor that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What can be done with executors.
#[derive(Subcommand, Debug)]
pub(crate) enum ExecutorVerb {
    List(ExecutorListArgs),
    Drain(DrainArgs),
    Undrain(UndrainArgs),
    Remove(ExecutorRemoveArgs),
    Run(Box<run::ExecutorRunArgs>),
}

/// List executors and how busy they are
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor list")]
pub(crate) struct ExecutorListArgs {
    #[command(flatten)]
    watching: Watching,
}

/// Give an executor nothing new; what it runs goes on
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor drain node-9")]
pub(crate) struct DrainArgs {
    /// Its node, by id or by name
    executor: String,

    /// Come back only when it runs nothing any more
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    repeat: Repeat,
}

/// Give a drained executor work again
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor undrain node-9")]
pub(crate) struct UndrainArgs {
    /// Its node, by id or by name
    executor: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Forget an executor that is gone, or is to go
///
/// It gets nothing new, and leaves the list with its last session. `undrain` takes that back until then.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor remove node-9")]
pub(crate) struct ExecutorRemoveArgs {
    /// Its node, by id or by name
    executor: String,

    #[command(flatten)]
    repeat: Repeat,
}

impl Row for Executor {
    const PLURAL: &'static str = "executors";
    const COLUMNS: &'static [Column] = &[
        Column::new("EXECUTOR"),
        Column::new("NAME"),
        Column::new("STATE"),
        Column::new("USED"),
        Column::new("SLOTS"),
        Column::new("LABELS"),
        Column::wide("SESSION"),
        Column::wide("SINCE"),
    ];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            Cell::text(&self.id),
            Cell::text(&self.name),
            Cell::State(self.state().as_str_name().into()),
            Cell::Number(self.used.into()),
            Cell::Number(self.slots.into()),
            Cell::text(labels.join(",")),
            Cell::Number(self.session),
            Cell::Time(self.session_since),
        ]
    }
}

impl ExecutorVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::List(ExecutorListArgs { watching }) => {
                let client = context.client()?;
                show(context, (LIST_MAX, watching), async |_, _| {
                    let answer = client.call(ListExecutorsRequest { stale: false }).await?;
                    Ok(Page { rows: answer.executors, next: String::new(), read_at: answer.read_at })
                })
                .await
            }
            Self::Run(args) => run::run(*args).await,
            Self::Drain(DrainArgs { executor, wait, repeat }) => {
                let name = executor.clone();
                let ask = DrainExecutorRequest { request_id: repeat.request_id, not_after: None, executor };
                let answer = context.client()?.call(ask).await?;
                if wait {
                    until_idle(&name, context).await?;
                    return context
                        .done(&answer, format!("{name} gets nothing new, and runs nothing any more"));
                }
                context.done(&answer, format!("{name} gets nothing new; it still runs {}", answer.running))
            }
            Self::Undrain(UndrainArgs { executor, repeat }) => {
                let name = executor.clone();
                let ask = UndrainExecutorRequest { request_id: repeat.request_id, not_after: None, executor };
                let answer = context.client()?.call(ask).await?;
                context.done(&answer, format!("{name} gets work again"))
            }
            Self::Remove(ExecutorRemoveArgs { executor, repeat }) => {
                let name = executor.clone();
                let ask = RemoveExecutorRequest { request_id: repeat.request_id, not_after: None, executor };
                let answer = context.client()?.call(ask).await?;
                let sentence =
                    format!("{name} is forgotten with its last session; it still runs {}", answer.running);
                context.done(&answer, sentence)
            }
        }
    }
}

/// Waits until an executor runs nothing, or is there no more.
async fn until_idle(name: &str, context: &Context) -> Result<(), Fault> {
    let client = context.client()?;
    loop {
        let executors = client.call(ListExecutorsRequest { stale: false }).await?.executors;
        let found = executors.iter().find(|executor| executor.id == name || executor.name == name);
        if found.is_none_or(|executor| executor.used == 0) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
