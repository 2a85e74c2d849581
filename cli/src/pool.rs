//! Verbs about pools: named numbers of slots that tasks of any workflow share.

use clap::{Args, Subcommand};
use matins_proto::v1::{DeletePoolRequest, ListPoolsRequest, Pool, SetPoolRequest};

use crate::context::{Context, Outcome, Repeat};
use crate::output::{Cell, Column, Look, Row};
use crate::pages::{LIST_MAX, Page, Watching, show};

/// What can be done with pools.
#[derive(Subcommand, Debug)]
pub(crate) enum PoolVerb {
    List(ListArgs),
    Set(SetArgs),
    Delete(DeleteArgs),
}

/// List pools, how full they are, and how many tasks wait for them
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins pool list")]
pub(crate) struct ListArgs {
    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = LIST_MAX, hide_default_value = true)]
    limit: usize,

    #[command(flatten)]
    watching: Watching,
}

/// Make a pool, or change its number of slots
///
/// A smaller number ends nothing: it is reached as tasks end.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins pool set source-db 2 --description 'two readers at a time'")]
pub(crate) struct SetArgs {
    /// Its name
    name: String,

    /// How many tasks may hold it at once; 0 lets nothing start
    slots: u32,

    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Delete a pool; refused while a workflow names it
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins pool delete source-db")]
pub(crate) struct DeleteArgs {
    /// Its name
    name: String,

    #[command(flatten)]
    repeat: Repeat,
}

impl Row for Pool {
    const PLURAL: &'static str = "pools";
    const COLUMNS: &'static [Column] = &[
        Column::new("POOL"),
        Column::new("SLOTS"),
        Column::new("USED"),
        Column::new("WAITING"),
        Column::new("DESCRIPTION"),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        vec![
            Cell::text(&self.name),
            Cell::Number(self.slots.into()),
            Cell::Number(self.used.into()),
            Cell::Number(self.waiting.into()),
            Cell::text(&self.description),
        ]
    }
}

impl PoolVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::List(args) => list(args, context).await,
            Self::Set(args) => set(args, context).await,
            Self::Delete(args) => delete(args, context).await,
        }
    }
}

async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    show(context, (args.limit, args.watching), async |page_size, page_token| {
        let answer = client.call(ListPoolsRequest { stale: false, page_size, page_token }).await?;
        Ok(Page { rows: answer.pools, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await
}

async fn set(args: SetArgs, context: &Context) -> Outcome {
    let SetArgs { name, slots, description, repeat } = args;
    let sentence = format!("pool {name} has {slots} slots");
    let ask = SetPoolRequest { request_id: repeat.request_id, not_after: None, name, slots, description };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, sentence)
}

async fn delete(args: DeleteArgs, context: &Context) -> Outcome {
    context.confirm(&format!("delete pool {}?", args.name))?;
    let sentence = format!("pool {} is deleted", args.name);
    let ask = DeletePoolRequest { request_id: args.repeat.request_id, not_after: None, name: args.name };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, sentence)
}
