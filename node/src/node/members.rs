//! Changes of the membership and of the leader, as the public port asks for them on any node: only the leader makes them.
//!
//! It decides nothing: it finds the leader, and says its words again. Start at [`change`] and [`hand_over`].

use std::time::Duration;

use matins_core::id::NodeId;
use matins_proto::HINT;
use matins_proto::v1;
use matins_proto::v1::cluster_client::ClusterClient;
use matins_proto::v1::error::Reason;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use super::door::CONNECT_WITHIN;
use crate::history::error_chain;
use crate::raft::{ChangeError, Consensus, Member, MemberChange, TransferError};
use crate::serve::cluster::{MembersAsk, MembersChanged, MembershipError, Unanswered};
use crate::system::connect;

/// How long a new leader may take to be ready, when the old one had to give up its lead first.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(5);
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

type Outcome = Result<MembersChanged, MembershipError>;

/// Changes the membership here, if this node leads, or through the leader.
pub(super) async fn change(consensus: &Consensus, ask: MembersAsk) -> Outcome {
    let MembersAsk { request, add, remove, force } = ask.clone();
    match consensus.change_members(&request, MemberChange { add, remove, force }).await {
        Ok(node) => Ok(MembersChanged { node, voters: consensus.members().voters().len() as u32 }),
        Err(ChangeError::NotLeader { leader: Some((_, leader)) }) => change_at(&leader, &ask).await,
        Err(ChangeError::NotLeader { leader: None }) => Err(Unanswered::NotReady.into()),
        // The leader is to go: another one leads first, and takes this one out.
        Err(ChangeError::Leads) => {
            hand_over(consensus, None).await?;
            let again = |leader: Member| {
                let ask = ask.clone();
                async move { change_at(&leader, &ask).await }
            };
            at_next(consensus, again).await
        }
        Err(ChangeError::Busy) => Err(MembershipError::Busy),
        Err(ChangeError::NoMember(text)) => Err(MembershipError::NoMember(text)),
        Err(ChangeError::Unsafe { why, hint }) => Err(MembershipError::Unsafe { why, hint }),
        Err(
            error @ (ChangeError::Unreachable { .. }
            | ChangeError::Foreign { .. }
            | ChangeError::Behind { .. }
            | ChangeError::Failed(_)),
        ) => Err(MembershipError::NotAdmitted(error_chain(&error))),
    }
}

/// Hands the lead over from here, if this node leads, or asks the leader to. Where a third node missed the heartbeats on its
/// own and was elected first, that one is asked again.
pub(super) async fn hand_over(consensus: &Consensus, to: Option<&str>) -> Result<NodeId, MembershipError> {
    match consensus.hand_over(to).await {
        Ok(node) => match to {
            Some(to) if consensus.members().find(to) != Some(node) => {
                let again = |leader: Member| {
                    let to = to.to_owned();
                    async move { hand_over_at(&leader, Some(&to)).await }
                };
                at_next(consensus, again).await
            }
            Some(_) | None => Ok(node),
        },
        Err(TransferError::NotLeader { leader: Some((_, leader)) }) => hand_over_at(&leader, to).await,
        Err(TransferError::NotLeader { leader: None }) => Err(Unanswered::NotReady.into()),
        Err(TransferError::Busy) => Err(MembershipError::Busy),
        Err(TransferError::NoMember(text)) => Err(MembershipError::NoMember(text)),
        Err(TransferError::NotTaken(why)) => Err(MembershipError::LeadNotTaken(why)),
    }
}

/// Asks the leader that has just taken over, once it is ready.
async fn at_next<T, F>(consensus: &Consensus, ask: impl Fn(Member) -> F) -> Result<T, MembershipError>
where
    F: Future<Output = Result<T, MembershipError>>,
{
    let deadline = Instant::now() + NEW_LEADER_WITHIN;
    loop {
        let leader = consensus.leader().borrow().leader.clone();
        let leader = leader.filter(|(node, _)| *node != consensus.node());
        let outcome = match leader {
            Some((_, leader)) => ask(leader).await,
            None => Err(Unanswered::NotReady.into()),
        };
        match outcome {
            // Busy: the membership it found is not committed in its own term yet, or a joint one is being finished.
            Err(MembershipError::Unanswered(Unanswered::NotReady) | MembershipError::Busy)
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            outcome => return outcome,
        }
    }
}

async fn hand_over_at(leader: &Member, to: Option<&str>) -> Result<NodeId, MembershipError> {
    let node = to.unwrap_or_default().to_owned();
    let request = v1::TransferLeaderRequest { node, ..v1::TransferLeaderRequest::default() };
    let answer = client(leader).await?.transfer_leader(request).await.map_err(said)?;
    node_of(&answer.into_inner().leader)
}

async fn change_at(leader: &Member, ask: &MembersAsk) -> Outcome {
    let mut leader = client(leader).await?;
    let (request_id, force) = (ask.request.to_string(), ask.force.clone());
    let (node, voters) = match (ask.add.clone(), ask.remove.clone()) {
        (Some(address), None) => {
            let request = v1::AddNodeRequest { request_id, not_after: None, address };
            let answer = leader.add_node(request).await.map_err(said)?.into_inner();
            (answer.node, answer.voters)
        }
        (Some(address), Some(node)) => {
            let request = v1::ReplaceNodeRequest { request_id, not_after: None, node, address, force };
            let answer = leader.replace_node(request).await.map_err(said)?.into_inner();
            (answer.node, answer.voters)
        }
        (None, node) => {
            let node = node.unwrap_or_default();
            let request = v1::RemoveNodeRequest { request_id, not_after: None, node, force };
            let answer = leader.remove_node(request).await.map_err(said)?.into_inner();
            (answer.node, answer.voters)
        }
    };
    Ok(MembersChanged { node: node_of(&node)?, voters })
}

async fn client(leader: &Member) -> Result<ClusterClient<Channel>, MembershipError> {
    let not_ready = |_| MembershipError::Unanswered(Unanswered::NotReady);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", leader.public_address));
    let channel = connect(&endpoint.map_err(not_ready)?.connect_timeout(CONNECT_WITHIN)).await;
    Ok(ClusterClient::new(channel.map_err(not_ready)?))
}

fn node_of(text: &str) -> Result<NodeId, MembershipError> {
    text.parse().map_err(|error| {
        MembershipError::NotAdmitted(format!("the leader answered with a strange node id: {error}"))
    })
}

/// What the leader said, in our words.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
fn said(status: Status) -> MembershipError {
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.and_then(|info| Reason::from_str_name(&info.reason)).unwrap_or_default();
    let told = |key: &str| info.and_then(|info| info.metadata.get(key)).cloned().unwrap_or_default();
    let message = status.message().to_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "any other refusal is said as it was said to us")]
    match reason {
        Reason::MembershipUnsafe => MembershipError::Unsafe { why: message, hint: told(HINT) },
        Reason::MembershipChanging => MembershipError::Busy,
        Reason::NodeNotFound => MembershipError::NoMember(told("node")),
        Reason::LeadNotTaken => MembershipError::LeadNotTaken(message),
        _ if status.code() == tonic::Code::Unavailable => Unanswered::NotReady.into(),
        _ => MembershipError::NotAdmitted(message),
    }
}
