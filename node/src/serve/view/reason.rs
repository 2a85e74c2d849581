//! Reasons on the wire. `matins_core::why` decides them.

use matins_core::why::{Reason, Why};
use matins_proto::v1::{StateReason, WhyResponse};

use super::wire_time;

/// A reason without a time.
pub(crate) fn reason(code: &str, text: impl Into<String>) -> StateReason {
    StateReason { code: code.to_owned(), text: text.into(), until: None }
}

/// A reason.
pub(crate) fn wire(reason: Reason) -> StateReason {
    StateReason { code: reason.code.to_owned(), text: reason.text, until: reason.until.map(wire_time) }
}

/// The whole answer to "why", but for the index it was read at.
pub(crate) fn why(why: Why) -> WhyResponse {
    WhyResponse {
        read_at: None,
        subject: why.subject,
        state: why.state.to_owned(),
        since: why.since.map(wire_time),
        reason: Some(wire(why.reason)),
        remedy: why.remedy,
        commands: why.commands,
    }
}
