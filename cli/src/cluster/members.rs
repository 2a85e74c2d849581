//! Nodes that come, go, and take the place of others; and who leads.

use clap::Args;
use matins_proto::v1::{AddNodeRequest, RemoveNodeRequest, ReplaceNodeRequest, TransferLeaderRequest};

use crate::context::{Context, Outcome, Repeat};

/// Add a node that waits with an empty directory
///
/// It becomes a voter once it has caught up.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster add 10.0.0.2:7071")]
pub(crate) struct AddArgs {
    /// Where its cluster port is, as the other nodes reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Take a node out for good
///
/// It stops, and its directory is of no use any more. What it still runs is run again elsewhere when its lease has ended:
/// drain its executor first if that is not wanted. Refused if the voters that are left could not go on. Asks first, on a
/// terminal.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster remove n3
  matins cluster remove n3 --force n2      n2 is dead, and is taken out by the same change")]
pub(crate) struct RemoveArgs {
    /// Its id or name
    node: String,

    /// A dead voter that is in the way, by its id or name: it is taken out too
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    force: Vec<String>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Put an empty node in the place of another, such as one that is dead
///
/// The new one gets the log, the blobs and the history first; then one change of the voters puts it in the other's place.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster replace n3 10.0.0.4:7071")]
pub(crate) struct ReplaceArgs {
    /// Id or name of the one that goes; it need not be alive
    node: String,

    /// Where the cluster port of the new one is, as the other nodes reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,

    /// Another dead voter, by its id or name: it is taken out too
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    force: Vec<String>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Make another node the leader, without an election
///
/// Commands wait for a moment, and none is lost.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster transfer-leader           the voter that is least behind
  matins cluster transfer-leader n2")]
pub(crate) struct TransferArgs {
    /// Its id or name [default: the other voter that is least behind]
    node: Option<String>,

    #[command(flatten)]
    repeat: Repeat,
}

pub(super) async fn add(args: AddArgs, context: &Context) -> Outcome {
    let AddArgs { address, repeat } = args;
    let ask = AddNodeRequest { request_id: repeat.request_id, not_after: None, address };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} is a voter; there are {} now", answer.node, answer.voters);
    context.done(&answer, sentence)
}

pub(super) async fn remove(args: RemoveArgs, context: &Context) -> Outcome {
    let RemoveArgs { node, force, repeat } = args;
    context.confirm(&format!("take {node} out of the cluster for good?"))?;
    let ask = RemoveNodeRequest { request_id: repeat.request_id, not_after: None, node, force };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} is out; {}", answer.node, voters_left(answer.voters));
    context.done(&answer, sentence)
}

pub(super) async fn replace(args: ReplaceArgs, context: &Context) -> Outcome {
    let ReplaceArgs { node, address, force, repeat } = args;
    let gone = node.clone();
    let ask = ReplaceNodeRequest { request_id: repeat.request_id, not_after: None, node, address, force };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} is a voter in the place of {gone}; there are {}", answer.node, answer.voters);
    context.done(&answer, sentence)
}

pub(super) async fn transfer(args: TransferArgs, context: &Context) -> Outcome {
    let node = args.node.unwrap_or_default();
    let ask = TransferLeaderRequest { request_id: args.repeat.request_id, not_after: None, node };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} leads", answer.leader);
    context.done(&answer, sentence)
}

/// How many are left, and what they bear.
fn voters_left(voters: u32) -> String {
    let may_die = voters.saturating_sub(1) / 2;
    match (voters, may_die) {
        (1, _) => "1 voter is left, and nothing goes on without it".into(),
        (_, 0) => format!("{voters} voters are left, of which none may die"),
        (_, _) => format!("{voters} voters are left, of which {may_die} may die"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_says_what_the_rest_bears() {
        assert_eq!(voters_left(1), "1 voter is left, and nothing goes on without it");
        assert_eq!(voters_left(2), "2 voters are left, of which none may die");
        assert_eq!(voters_left(5), "5 voters are left, of which 2 may die");
    }
}
