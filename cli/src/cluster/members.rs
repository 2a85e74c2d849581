//! Nodes that come, go, and take the place of others; and who leads.

use std::time::Duration;

use clap::Args;
use matins_client::{Client, Limits};
use matins_proto::v1::node_status::Role;
use matins_proto::v1::{
    AddNodeRequest, ClusterStatusRequest, ClusterStatusResponse, ListExecutorsRequest, NodeStatus,
    RemoveNodeRequest, ReplaceNodeRequest, TransferLeaderRequest, TransferLeaderResponse, executor,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::context::{Context, Outcome, Repeat};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::run::parse_span;

/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a node that is waited for is asked at a time.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Add a node that waits with an empty directory
///
/// It becomes a voter once it has caught up.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster add 10.0.0.2:7071")]
pub(crate) struct AddArgs {
    #[command(flatten)]
    new: New,

    #[command(flatten)]
    repeat: Repeat,
}

/// A node that waits.
#[derive(Args, Debug)]
struct New {
    /// Where the cluster port of the new node is, as the other nodes reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,
}

/// Voters that are dead, and would be in the way of a change.
#[derive(Args, Debug)]
struct Dead {
    /// A dead voter that is in the way, by its id or name: it is taken out too
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    force: Vec<String>,
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

    #[command(flatten)]
    dead: Dead,

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

    #[command(flatten)]
    new: New,

    #[command(flatten)]
    dead: Dead,

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
  matins cluster transfer-leader n2
  matins cluster transfer-leader --from n1     does nothing if another one leads")]
pub(crate) struct TransferArgs {
    /// Its id or name [default: the other voter that is least behind]
    node: Option<String>,

    /// Only if this node leads now, by its id or name
    #[arg(long, value_name = "NODE")]
    from: Option<String>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Wait until nodes have caught up
///
/// A node has caught up when it answers at its own address, knows the leader, votes, and has applied all that was committed
/// when it was asked; and when its executor, if it has one, is back. One that is drained stays so.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster wait                      all members
  matins cluster wait n2 --timeout 5m")]
pub(crate) struct WaitArgs {
    /// Their ids or names [default: all members]
    nodes: Vec<String>,

    /// How long at most; exit code 6 if it ends first
    #[arg(long, value_name = "SPAN", default_value = "2m", value_parser = parse_span)]
    timeout: Duration,
}

pub(super) async fn wait(args: WaitArgs, context: &Context) -> Outcome {
    let deadline = Instant::now() + args.timeout;
    let mut last = "no node answers with what the cluster looks like".to_owned();
    loop {
        match timeout_at(deadline, lacking(&args.nodes, context)).await {
            Ok(Ok(None)) => return Ok(Exit::Done),
            Ok(Ok(Some(what))) => last = what,
            // What is no member now will be none later.
            Ok(Err(fault)) if matches!(fault.exit(), Exit::NotFound | Exit::Usage) => return Err(fault),
            Ok(Err(fault)) => last = fault.to_string(),
            Err(_) => return Err(Fault::own(Exit::WaitEnded, last)),
        }
        sleep_until(deadline.min(Instant::now() + LOOK_EVERY)).await;
    }
}

/// The first thing that is not yet so.
async fn lacking(names: &[String], context: &Context) -> Result<Option<String>, Fault> {
    let client = context.client()?;
    let status = client.call(ClusterStatusRequest {}).await?;
    let executors = client.call(ListExecutorsRequest { stale: false }).await?.executors;
    let nodes = if names.is_empty() {
        status.nodes.clone()
    } else {
        names.iter().map(|name| member(&status, name).cloned()).collect::<Result<_, _>>()?
    };
    for node in nodes {
        let name = &node.name;
        if node.role() != Role::Voter {
            return Ok(Some(format!("{name} has no vote yet")));
        }
        let limits = Limits { total_max: ANSWER_WITHIN, ..Limits::default() };
        let Ok(own) = Client::new(&node.address, limits)?.call(ClusterStatusRequest {}).await else {
            return Ok(Some(format!("{name} does not answer at {}", node.address)));
        };
        if own.node != node.id {
            return Ok(Some(format!("{} answers at {} in the place of {name}", own.node, node.address)));
        }
        if own.leader.is_none() || own.leader != status.leader || own.applied_index < status.committed_index {
            return Ok(Some(format!("{name} has not caught up")));
        }
        let executor = executors.iter().find(|executor| executor.id == node.id);
        if executor.is_some_and(|it| matches!(it.state(), executor::State::Gone | executor::State::Cordoned))
        {
            return Ok(Some(format!("the executor of {name} is not back")));
        }
    }
    Ok(None)
}

/// A member by its id or name.
fn member<'a>(status: &'a ClusterStatusResponse, text: &str) -> Result<&'a NodeStatus, Fault> {
    let by_id = status.nodes.iter().find(|node| node.id == text);
    let found = by_id.or_else(|| status.nodes.iter().find(|node| node.name == text));
    found.ok_or_else(|| {
        Fault::own(Exit::NotFound, format!("no member of the cluster is `{text}`"))
            .hint("`matins cluster status` lists them")
    })
}

pub(super) async fn add(args: AddArgs, context: &Context) -> Outcome {
    let AddArgs { new: New { address }, repeat } = args;
    let ask = AddNodeRequest { request_id: repeat.request_id, not_after: None, address };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} is a voter; there are {} now", answer.node, answer.voters);
    context.done(&answer, sentence)
}

pub(super) async fn remove(args: RemoveArgs, context: &Context) -> Outcome {
    let RemoveArgs { node, dead: Dead { force }, repeat } = args;
    context.confirm(&format!("take {node} out of the cluster for good?"))?;
    let ask = RemoveNodeRequest { request_id: repeat.request_id, not_after: None, node, force };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} is out; {}", answer.node, voters_left(answer.voters));
    context.done(&answer, sentence)
}

pub(super) async fn replace(args: ReplaceArgs, context: &Context) -> Outcome {
    let ReplaceArgs { node, new: New { address }, dead: Dead { force }, repeat } = args;
    let gone = node.clone();
    let ask = ReplaceNodeRequest { request_id: repeat.request_id, not_after: None, node, address, force };
    let answer = context.client()?.call(ask).await?;
    let sentence = format!("{} is a voter in the place of {gone}; there are {}", answer.node, answer.voters);
    context.done(&answer, sentence)
}

pub(super) async fn transfer(args: TransferArgs, context: &Context) -> Outcome {
    if let Some(from) = &args.from {
        let status = context.client()?.call(ClusterStatusRequest {}).await?;
        let node = member(&status, from)?;
        if status.leader.as_ref() != Some(&node.id) {
            let leader = status.leader.unwrap_or_default();
            return context
                .done(&TransferLeaderResponse { committed: None, leader }, format!("{from} does not lead"));
        }
    }
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
