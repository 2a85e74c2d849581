//! What can go wrong between a client and its cluster, and what to do about it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use matins_proto::v1::error::Reason;
use matins_proto::{ERROR_DOMAIN, HINT};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Why a call has no answer, or none that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An endpoint cannot be read.
    #[error("`{text}` is not an endpoint: {why}")]
    Endpoint {
        /// What was given.
        text: String,
        /// What is wrong with it, as a clause.
        why: &'static str,
    },
    /// The cluster answered, and the answer is no.
    #[error("{0}")]
    Answered(Box<Answered>),
    /// No node gave an answer in time. A command may have been carried out all the same.
    #[error("no answer within {within:.0?} ({})", Failures(failures))]
    NoAnswer {
        /// How long it was tried.
        within: Duration,
        /// What each node that was tried said last.
        failures: Vec<Failure>,
        /// The request id of the command, with which it can be repeated safely. `None`: it was no command.
        request_id: Option<String>,
    },
    /// What a node sent cannot be right, so it was not used.
    #[error("{endpoint} sent {what}")]
    BadAnswer {
        /// Which node.
        endpoint: String,
        /// What is wrong, as a noun with its article.
        what: String,
    },
}

/// A final answer of the cluster that is an error: `error.proto` says what it consists of.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The kind of error.
    pub code: Code,
    /// Which error exactly. `Unspecified`: one that this client does not know, or not one of Matins.
    pub reason: Reason,
    /// For people: what happened.
    pub message: String,
    /// For people: what to do next.
    pub hint: Option<String>,
    /// What `error.proto` lists for the reason, without the hint.
    pub metadata: BTreeMap<String, String>,
    /// Every fault of the request, where it could not be understood.
    pub violations: Vec<Violation>,
}

/// One fault of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, or `path:line:column` in a definition.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// What a node said, or why it could not be asked.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which node.
    pub endpoint: String,
    /// The kind of failure.
    pub code: Code,
    /// Which error exactly, if the node answered with one.
    pub reason: Reason,
    /// In its own words.
    pub message: String,
}

impl Failure {
    fn is_without_leader(&self) -> bool {
        is_without_leader(self.reason)
    }
}

/// Nodes say so at once: they did nothing, and cannot until there is a leader.
fn is_without_leader(reason: Reason) -> bool {
    matches!(reason, Reason::NotReady | Reason::NoQuorum)
}

/// A call that has no answer yet. `Display` says why.
#[derive(Clone, Debug)]
pub struct Delay {
    /// What each node that was tried said last.
    pub failures: Vec<Failure>,
    /// For how long it is tried on.
    pub left: Duration,
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer yet ({}), trying for {:.0?} more", Failures(&self.failures), self.left)
    }
}

/// What kind of failure it is, by the table of exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request makes no sense.
    Usage,
    /// There is no such thing.
    NotFound,
    /// A precondition or a limit forbids it.
    Refused,
    /// No leader, or no answer.
    NoAnswer,
    /// The caller may not do it.
    Denied,
}

impl ErrorClass {
    /// The exit code of every verb that ends so.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::NoAnswer => 5,
            Self::Denied => 7,
        }
    }
}

impl ClientError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Endpoint { .. } => ErrorClass::Usage,
            Self::Answered(answered) => answered.class(),
            Self::NoAnswer { .. } | Self::BadAnswer { .. } => ErrorClass::NoAnswer,
        }
    }

    /// The exit code of a verb that ends with it.
    pub fn exit_code(&self) -> u8 {
        self.class().exit_code()
    }

    /// Which error exactly, if the cluster answered with one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Answered(answered) => Some(answered.reason),
            Self::Endpoint { .. } | Self::NoAnswer { .. } | Self::BadAnswer { .. } => None,
        }
    }

    /// What to do next, as a sentence for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Endpoint { .. } => {
                Some("write host:port, several with commas: 10.0.0.1:7070,10.0.0.2:7070".into())
            }
            Self::Answered(answered) => answered.hint.clone(),
            Self::NoAnswer { request_id, failures, .. } => {
                let missing = if failures.iter().any(Failure::is_without_leader) {
                    "nobody leads: `matins cluster status` says which nodes are missing"
                } else {
                    "is a node running there? --endpoint or MATINS_ENDPOINT names them"
                };
                let repeat = request_id.as_ref().map(|id| {
                    format!(
                        "; it may have been done all the same, and is safe to repeat with request id {id}"
                    )
                });
                Some(missing.to_owned() + &repeat.unwrap_or_default())
            }
            Self::BadAnswer { .. } => Some("check that client and nodes are of fitting versions".into()),
        }
    }
}

impl Answered {
    pub(crate) fn is_without_leader(&self) -> bool {
        is_without_leader(self.reason)
    }

    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self.code {
            Code::NotFound => ErrorClass::NotFound,
            Code::InvalidArgument | Code::OutOfRange => ErrorClass::Usage,
            Code::PermissionDenied | Code::Unauthenticated => ErrorClass::Denied,
            Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::AlreadyExists
            | Code::Unimplemented => ErrorClass::Refused,
            // `Ok` is never an error; where a server says so all the same, there was no answer.
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => ErrorClass::NoAnswer,
        }
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // With a sole fault the message tells it already.
        let more = self.violations.iter().filter(|fault| !self.message.ends_with(&fault.description));
        for Violation { field, description } in more {
            write!(f, "\n{field}: {description}")?;
        }
        Ok(())
    }
}

impl From<&Status> for Answered {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let mut metadata = BTreeMap::new();
        if let Some(info) = details.error_info() {
            metadata.extend(info.metadata.clone());
        }
        let violations = details.bad_request().map(|it| it.field_violations.clone()).unwrap_or_default();
        // A server that does not know a call says no more than that.
        let is_unknown = status.code() == Code::Unimplemented && status.message().is_empty();
        let message = if is_unknown {
            "the node that answered does not know this call: it is of an older release".to_owned()
        } else {
            status.message().to_owned()
        };
        Self {
            code: status.code(),
            reason: reason(&details).unwrap_or(Reason::Unspecified),
            message,
            hint: metadata.remove(HINT),
            metadata,
            violations: violations
                .into_iter()
                .map(|it| Violation { field: it.field, description: it.description })
                .collect(),
        }
    }
}

/// The reason that an error of Matins names, if this client knows it.
fn reason(details: &ErrorDetails) -> Option<Reason> {
    let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN)?;
    Reason::from_str_name(&info.reason)
}

/// What follows from an error status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the cluster's answer.
    Final,
    /// Another node, or the same one a moment later, may know better.
    Elsewhere,
    /// The same request may succeed, but not before this time has passed.
    Later(Duration),
}

impl Verdict {
    /// Judges by `error.proto`: what may pass by itself is tried again, all else is an answer.
    pub(crate) fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        // Without it the error was made by a layer below the handlers: a broken connection, a full queue.
        let is_ours = details.error_info().is_some_and(|info| info.domain == ERROR_DOMAIN);
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        match (status.code(), delay) {
            (Code::ResourceExhausted, Some(delay)) => Self::Later(delay),
            (Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled, _) => {
                Self::Elsewhere
            }
            (Code::Internal | Code::ResourceExhausted, None) if !is_ours => Self::Elsewhere,
            (
                Code::Ok
                | Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::ResourceExhausted
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Internal
                | Code::DataLoss
                | Code::Unauthenticated,
                _,
            ) => Self::Final,
        }
    }
}

/// Nodes and what they said, in one line.
struct Failures<'a>(&'a [Failure]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Failure { endpoint, message, code, reason: _ }) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            let message = if message.is_empty() { code.description() } else { message };
            write!(f, "{separator}{endpoint}: {message}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn ours(reason: Reason, retry: Option<Duration>) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason.as_str_name(), ERROR_DOMAIN, [(HINT.to_owned(), "do so".to_owned())]);
        if let Some(delay) = retry {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(reason.code(), "no", details)
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let second = Duration::from_secs(1);
        for (status, verdict) in [
            (ours(Reason::NotReady, None), Verdict::Elsewhere),
            (ours(Reason::OutcomeUnknown, None), Verdict::Elsewhere),
            (ours(Reason::Overloaded, Some(second)), Verdict::Later(second)),
            (ours(Reason::LimitExceeded, None), Verdict::Final),
            (ours(Reason::RunNotFound, None), Verdict::Final),
            (ours(Reason::Conflict, Some(second)), Verdict::Final),
            (ours(Reason::Fault, None), Verdict::Final),
            // Made by the layers below.
            (Status::internal("h2 protocol error"), Verdict::Elsewhere),
            (Status::resource_exhausted("too many active requests"), Verdict::Elsewhere),
            (Status::cancelled("Timeout expired"), Verdict::Elsewhere),
            (Status::unimplemented(""), Verdict::Final),
        ] {
            assert_eq!(Verdict::of(&status), verdict, "{status:?}");
        }
    }

    #[test]
    fn an_answer_names_its_reason_and_exit_code() {
        for (reason, code) in [
            (Reason::BadArgument, 2),
            (Reason::RunNotFound, 3),
            (Reason::Conflict, 4),
            (Reason::LimitExceeded, 4),
            (Reason::NotInThisRelease, 4),
            (Reason::NotReady, 5),
            (Reason::OutcomeUnknown, 5),
            (Reason::Denied, 7),
        ] {
            let error = ClientError::Answered(Box::new(Answered::from(&ours(reason, None))));
            assert_eq!(error.exit_code(), code, "{error:?}");
            assert_eq!(error.reason(), Some(reason));
            assert_eq!(error.hint().as_deref(), Some("do so"));
        }
    }

    #[test]
    fn an_answer_shows_every_fault() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("a.yaml:3:5", "unknown key `ned`\nhint: `needs`");
        details.add_bad_request_violation("a.yaml:9:1", "duplicate key `tasks`");
        let status = Status::with_error_details(Code::InvalidArgument, "a.yaml has 2 faults", details);
        assert_eq!(
            Answered::from(&status).to_string(),
            "a.yaml has 2 faults\na.yaml:3:5: unknown key `ned`\nhint: `needs`\na.yaml:9:1: duplicate key `tasks`"
        );
    }
}
