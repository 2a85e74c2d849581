//! What leader and executor say to each other, as the executor's machine takes it.
//!
//! Nothing is decided here. The simulators of the proof hear a leader through it too, so that it is held by them.
//! Start reading at [`heard`].

use matins_core::executor::{Event, HeldAs, StopHow};
use matins_core::id::{Fence, SessionNumber};
use matins_core::state::settings::LeaseTerms;
use matins_core::time::Millis;
use matins_proto::v1;
use matins_proto::v1::leader_message::Message;

/// What the machine is told when the leader says this. The job of a start is not in it. `None`: it is not for the machine;
/// that a node does not lead is read by whoever looks for the one that does.
pub fn heard(message: &Message) -> Option<Event> {
    Some(match message {
        Message::Opened(opened) => Event::Opened {
            number: SessionNumber(opened.session),
            params: LeaseTerms {
                length: Millis(opened.length_ms),
                kill_budget: Millis(opened.kill_budget_ms),
                rho_ppm: opened.rho_ppm,
            },
            bound: opened.bound.iter().copied().map(Fence).collect(),
        },
        Message::Refused(refused) => Event::Refused { last: SessionNumber(refused.last_session) },
        Message::Grant(grant) => Event::Granted { sequence: grant.sequence, length: Millis(grant.length_ms) },
        Message::Start(start) => {
            Event::Start { session: SessionNumber(start.session), fence: Fence(start.fence) }
        }
        Message::Stop(stop) => {
            let how = if stop.now { StopHow::Now } else { StopHow::Graceful };
            Event::Stop { fence: Fence(stop.fence), how }
        }
        Message::ReportAck(ack) => Event::Acknowledged { fence: Fence(ack.fence) },
        Message::NotLeader(_) => return None,
    })
}

/// The fences of a hello.
pub fn held_fences(held: &[(Fence, HeldAs)]) -> Vec<v1::HeldFence> {
    let state = |how: &HeldAs| match how {
        HeldAs::Running => v1::HeldState::Running,
        HeldAs::Ended => v1::HeldState::Ended,
    };
    held.iter().map(|(fence, how)| v1::HeldFence { fence: fence.0, state: state(how).into() }).collect()
}
