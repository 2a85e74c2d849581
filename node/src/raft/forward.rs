//! Commands and reads on any node: here if this node leads, else through the leader, following it when it changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use matins_core::State;
use matins_core::command::Proposal;
use matins_core::id::{LogIndex, NodeId};
use matins_core::mutation::{Mutation, planted};
use matins_core::time::Timestamp;
use matins_proto::v1;
use tokio::time::{Instant, timeout_at};

use super::consensus::{Answered, Consensus, LeaderView};
use super::error::{ProposeError, ReadError};
use super::types::Member;

/// Before a leader that was not the one is asked again.
const RETRY: Duration = Duration::from_millis(25);

/// What came of one try.
enum Tried {
    Done(Result<Answered, ProposeError>),
    /// It was not proposed.
    NotProposed,
    /// Whether it was proposed is unknown.
    Unknown,
}

impl Consensus {
    /// Proposes one command from any node: here if this node leads and is ready, else through the leader, following it when
    /// it changes, until `within` has passed. A command without a request id is sent once only; whether it was done
    /// may then be unknown.
    pub async fn forward(&self, proposal: Proposal, within: Duration) -> Result<Answered, ProposeError> {
        let deadline = Instant::now() + within;
        let is_repeatable = proposal.request.is_some();
        let mut was_proposed = false;
        loop {
            let Ok(tried) = timeout_at(deadline, self.try_forward(&proposal, deadline)).await else {
                return Err(ProposeError::Deadline);
            };
            match tried {
                Tried::Done(answered) => return answered,
                Tried::Unknown if !is_repeatable => return Err(ProposeError::Deadline),
                Tried::Unknown => was_proposed = true,
                Tried::NotProposed => {}
            }
            if self.inner().stop.is_cancelled() {
                return Err(ProposeError::Stopping);
            }
            let mut leader = self.leader();
            leader.mark_unchanged();
            // A new leader, or the same one when it has become ready.
            drop(timeout_at(deadline.min(Instant::now() + RETRY), leader.changed()).await);
            if Instant::now() >= deadline {
                let leader = leader.borrow().leader.clone();
                return Err(if was_proposed {
                    ProposeError::Deadline
                } else {
                    ProposeError::NotLeader { leader }
                });
            }
        }
    }

    async fn try_forward(&self, proposal: &Proposal, deadline: Instant) -> Tried {
        let view = self.leader().borrow().clone();
        if view.leading.is_some() {
            return match self.propose(proposal.clone()).await {
                Err(ProposeError::NotLeader { .. }) => Tried::NotProposed,
                Err(ProposeError::Deadline) => Tried::Unknown,
                other => Tried::Done(other),
            };
        }
        let Some((node, member)) = self.other_leader(view) else { return Tried::NotProposed };
        let Ok(mut link) = self.inner().links.at(&member.cluster_address) else { return Tried::NotProposed };
        let bytes = postcard::to_allocvec(proposal);
        let request = v1::PeerForwardRequest {
            to: Some(self.inner().links.address_to(node)),
            proposal: bytes.expect("commands have no sequence of unknown length").into(),
            within_ms: deadline.saturating_duration_since(Instant::now()).as_millis() as u64,
        };
        match link.commands.forward(request).await {
            Ok(response) => forwarded(&response.into_inner()),
            Err(status) => {
                // These two are said before anything is done.
                let is_refused =
                    matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument);
                if is_refused { Tried::NotProposed } else { Tried::Unknown }
            }
        }
    }

    fn other_leader(&self, view: LeaderView) -> Option<(NodeId, Member)> {
        view.leader.filter(|(node, _)| *node != self.node())
    }

    /// A state that holds everything acknowledged before this call (PROTOCOL 7). Works on any node; calls in flight share
    /// one round. Refused until the leader's `LeaderReady` is applied.
    pub async fn read_index(&self, within: Duration) -> Result<Arc<State>, ReadError> {
        let deadline = Instant::now() + within;
        if planted(Mutation::ReadWithoutReadIndex) {
            return Ok(self.state());
        }
        loop {
            if self.inner().stop.is_cancelled() {
                return Err(ReadError::Stopping);
            }
            if let Ok(Some(index)) = timeout_at(deadline, self.try_read_index()).await {
                let mut applied = self.inner().applied.clone();
                return match timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
                    Ok(Ok(_)) => Ok(self.state()),
                    Ok(Err(_)) => Err(ReadError::Stopping),
                    Err(_) => Err(ReadError::NoLeader),
                };
            }
            let mut leader = self.leader();
            leader.mark_unchanged();
            drop(timeout_at(deadline.min(Instant::now() + RETRY), leader.changed()).await);
            if Instant::now() >= deadline {
                return Err(ReadError::NoLeader);
            }
        }
    }

    async fn try_read_index(&self) -> Option<u64> {
        let inner = self.inner();
        let view = self.leader().borrow().clone();
        if view.leading.is_some() {
            return inner.rounds.ask_for_reader(inner.times.heartbeat * 4).await.map(|round| round.index);
        }
        let (node, member) = self.other_leader(view)?;
        let mut link = inner.links.at(&member.cluster_address).ok()?;
        let request = v1::PeerReadIndexRequest { to: Some(inner.links.address_to(node)) };
        // The call begins before the leader's round does, so the index holds for the caller too.
        let answer = tokio::time::timeout(inner.times.heartbeat * 5, link.control.read_index(request)).await;
        Some(answer.ok()?.ok()?.into_inner().index)
    }
}

fn forwarded(response: &v1::PeerForwardResponse) -> Tried {
    use v1::peer_forward_response::Result as Outcome;
    match response.result() {
        Outcome::Answered => match decode(&response.answer) {
            Some(answer) => Tried::Done(Ok(Answered {
                answer,
                index: LogIndex(response.index),
                at: Timestamp::from_millis(response.at_ms),
            })),
            None => Tried::Unknown,
        },
        Outcome::NotLeader => Tried::NotProposed,
        Outcome::Overloaded => Tried::Done(Err(ProposeError::Overloaded { limit: response.limit as usize })),
        Outcome::TooLarge => Tried::Done(Err(ProposeError::TooLarge {
            bytes: response.bytes as usize,
            limit: response.limit as usize,
        })),
        Outcome::Unknown | Outcome::Unspecified => Tried::Unknown,
    }
}

/// What the leader answered. `None`: in a form that this release does not know.
pub(crate) fn decode(bytes: &Bytes) -> Option<Result<matins_core::Answer, matins_core::Refusal>> {
    postcard::from_bytes(bytes).ok()
}
