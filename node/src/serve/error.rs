//! Every error of the public API, and the one place where it becomes a status (`error.proto`).
//!
//! Services make an [`ApiError`], by hand or from what the cluster answered, and never a `tonic::Status`.

use std::collections::HashMap;
use std::time::Duration;

use matins_core::id::{NotAnId, TaskId};
use matins_core::{Refusal, State};
use matins_core::{Stale, Thing};
use matins_proto::v1::error::Reason;
use matins_proto::{ERROR_DOMAIN, HINT};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::cluster::{HistoryError, MembershipError, Unanswered};

/// The least time to wait before asking again, where waiting helps.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Bytes of a message, and of all violations that a status carries. A status travels as a header, and HTTP/2 clients give up
/// on more than 16 KiB of these: they would hear nothing at all. Message and details count there up to three times.
const MESSAGE_BYTES_MAX: usize = 1 << 10;
const FIELDS_BYTES_MAX: usize = 5 << 10;

/// An error of the public API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    reason: Reason,
    message: String,
    hint: Option<String>,
    metadata: Vec<(&'static str, String)>,
    fields: Vec<(String, String)>,
    subject: String,
    retry_after: Option<Duration>,
}

/// What a service answers.
pub(crate) type Answer<T> = Result<tonic::Response<T>, Status>;

impl ApiError {
    /// An error with this reason and message.
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            reason,
            message: message.into(),
            hint: None,
            metadata: Vec::new(),
            fields: Vec::new(),
            subject: String::new(),
            retry_after: None,
        }))
    }

    /// A field that cannot be read.
    pub(crate) fn bad_field(field: &str, what: impl Into<String>) -> Self {
        let what = what.into();
        Self::new(Reason::BadArgument, format!("`{field}`: {what}")).field(field, what)
    }

    /// More than a limit allows.
    pub(crate) fn limit(limit: &str, value: u64, asked: u64) -> Self {
        Self::new(Reason::LimitExceeded, format!("{limit} is {value}, and {asked} were asked for"))
            .with("limit", limit)
            .with("value", value.to_string())
            .with("asked", asked.to_string())
    }

    /// A thing that is not there.
    pub(crate) fn not_found(reason: Reason, word: &'static str, name: &str) -> Self {
        Self::new(reason, format!("there is no {word} `{name}`")).with(word, name)
    }

    /// The next thing to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self
    }

    /// Metadata that the reason's comment lists.
    pub(crate) fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.push((key, value.into()));
        self
    }

    /// A violation of `BadRequest`.
    pub(crate) fn field(mut self, field: impl Into<String>, what: impl Into<String>) -> Self {
        self.0.fields.push((field.into(), what.into()));
        self
    }

    fn subject(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = subject.into();
        self
    }

    /// The same may succeed a moment later.
    pub(crate) fn later(mut self) -> Self {
        self.0.retry_after = Some(RETRY_AFTER);
        self
    }

    /// Why.
    pub(crate) fn reason(&self) -> Reason {
        self.0.reason
    }

    /// What the cluster refused, with names from `state`.
    pub(crate) fn refused(refusal: &Refusal, state: &State) -> Self {
        let error = match refusal {
            Refusal::NotFound(thing) => missing(thing, state),
            Refusal::Exists(thing) => {
                let name = name_of(thing, state);
                Self::new(Reason::Conflict, format!("{name} exists already"))
                    .with("subject", &name)
                    .subject(name)
            }
            Refusal::Stale(what) => {
                let subject = match what {
                    Stale::Schedule(id) => format!("schedule `{id}`"),
                    Stale::Inputs(task) => name_of(&Thing::Task(*task), state),
                    Stale::Members => "the cluster".to_owned(),
                    Stale::Leadership(_) | Stale::Session(_) | Stale::Fence(_) | Stale::History => {
                        "history".to_owned()
                    }
                };
                Self::new(Reason::Stale, refusal.to_string()).with("subject", &subject).subject(subject)
            }
            Refusal::TicksDue(schedules) => {
                let subject = schedules.first().map(ToString::to_string).unwrap_or_default();
                Self::new(Reason::Stale, "ticks are due that could not be fired yet")
                    .with("subject", &subject)
                    .subject(subject)
                    .hint("try again in a moment")
                    .later()
            }
            Refusal::Conflict { thing, why, .. } => {
                let name = name_of(thing, state);
                Self::new(Reason::Conflict, format!("{name}: {why}")).with("subject", &name).subject(name)
            }
            Refusal::Limit { limit, value, asked, .. } => Self::limit(limit, *value, *asked),
            Refusal::FullDisk(full) => Self::new(Reason::LimitExceeded, refusal.to_string())
                .with("limit", format!("disk of {}", full.node))
                .with("value", full.limit_permille.to_string())
                .with("asked", full.used_permille.to_string())
                .with("path", full.path.clone()),
            Refusal::TimeAhead { .. } => Self::new(Reason::NotReady, refusal.to_string()).later(),
            Refusal::Expired { not_after } => Self::new(Reason::Expired, refusal.to_string())
                .with("not_after", rfc3339(*not_after))
                .with("leader_time", rfc3339(state.now)),
            Refusal::RequestReused => Self::new(Reason::RequestIdReused, refusal.to_string()),
            Refusal::Invalid(why) => Self::new(Reason::BadArgument, why.clone()),
            Refusal::AboveLevel { .. } => {
                Self::new(Reason::Stale, refusal.to_string()).with("subject", "the cluster")
            }
            Refusal::NotInitialised => Self::new(Reason::NotInitialized, refusal.to_string()),
        };
        match refusal.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn rfc3339(at: matins_core::time::Timestamp) -> String {
    matins_proto::Timestamp::from_millis(at.as_millis()).to_string()
}

fn missing(thing: &Thing, state: &State) -> ApiError {
    let (reason, word, name) = match thing {
        Thing::Workflow(name) => (Reason::WorkflowNotFound, "workflow", name.to_string()),
        Thing::Version(name, number) => {
            return ApiError::not_found(Reason::VersionNotFound, "version", &number.to_string())
                .with("workflow", name.to_string());
        }
        Thing::Definition(digest) => (Reason::VersionNotFound, "version", digest.to_string()),
        Thing::Schedule(id) => {
            return ApiError::not_found(Reason::ScheduleNotFound, "schedule", id.schedule.as_str())
                .with("workflow", id.workflow.to_string());
        }
        Thing::Run(run) => (Reason::RunNotFound, "run", run.to_string()),
        Thing::Task(task) => {
            return ApiError::not_found(Reason::TaskNotFound, "task", &address(*task, state))
                .with("run", task.run.to_string());
        }
        Thing::Fence(fence) => (Reason::AttemptNotFound, "attempt", fence.to_string()),
        Thing::Backfill(backfill) => (Reason::BackfillNotFound, "backfill", backfill.to_string()),
        Thing::Pool(pool) => (Reason::PoolNotFound, "pool", pool.to_string()),
        Thing::Executor(executor) => (Reason::NodeNotFound, "node", executor.to_string()),
        Thing::Cluster => return ApiError::new(Reason::NotInitialized, "the cluster has not been founded"),
    };
    ApiError::not_found(reason, word, &name)
}

/// A task's address in its run: `extract.3`.
fn address(task: TaskId, state: &State) -> String {
    let definition = state.definition_of(task.run);
    let spec = definition.and_then(|row| row.workflow.tasks.get(usize::from(task.task)));
    let name = spec.map_or_else(|| format!("#{}", task.task), |spec| spec.name.to_string());
    match task.item {
        Some(item) => format!("{name}.{item}"),
        None => name,
    }
}

/// The thing as people name it; tasks by their names, which the refusal does not know.
fn name_of(thing: &Thing, state: &State) -> String {
    match thing {
        Thing::Task(task) => format!("{}/{}", task.run, address(*task, state)),
        Thing::Workflow(_)
        | Thing::Version(..)
        | Thing::Definition(_)
        | Thing::Schedule(_)
        | Thing::Run(_)
        | Thing::Fence(_)
        | Thing::Backfill(_)
        | Thing::Pool(_)
        | Thing::Executor(_)
        | Thing::Cluster => thing.to_string(),
    }
}

impl From<Unanswered> for ApiError {
    fn from(error: Unanswered) -> Self {
        let text = error.to_string();
        match error {
            Unanswered::NotReady => Self::new(Reason::NotReady, text).later(),
            Unanswered::NoQuorum => Self::new(Reason::NoQuorum, text).later(),
            Unanswered::Overloaded => Self::new(Reason::Overloaded, text).later(),
            Unanswered::TooLarge { bytes, limit } => {
                Self::limit("bytes of one entry of the log", limit as u64, bytes as u64)
                    .hint("ask for less at once")
            }
            Unanswered::Unknown => {
                Self::new(Reason::OutcomeUnknown, text).hint("repeat it with the same request id")
            }
            Unanswered::Stopping => Self::new(Reason::ShuttingDown, text).later(),
            Unanswered::DiskFull(node) => Self::new(Reason::DiskFull, text)
                .with("node", node.to_string())
                .hint("free some space on that disk; the node goes on by itself")
                .later(),
            Unanswered::Fault(fault) => fault_of("cluster", &fault),
        }
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> Self {
        fault_of("history", &error.0)
    }
}

impl From<MembershipError> for ApiError {
    fn from(error: MembershipError) -> Self {
        let text = error.to_string();
        match error {
            MembershipError::AlreadyInitialised(cluster) => {
                Self::new(Reason::AlreadyInitialized, text).with("cluster", format!("{cluster:016x}"))
            }
            MembershipError::NotAdmitted(_) => Self::new(Reason::NodeNotAdmitted, text).hint(
                "give the cluster port (7071 unless it was set) of a `matins server` that runs with an empty directory",
            ),
            MembershipError::LevelNotSupported(_) => Self::new(Reason::LevelNotSupported, text)
                .hint("start a release on every node that supports it; `matins cluster status` tells"),
            MembershipError::Busy => Self::new(Reason::MembershipChanging, text)
                .hint("wait until it is done, and ask again")
                .later(),
            MembershipError::NoMember(node) => Self::new(Reason::NodeNotFound, text)
                .with("node", node)
                .hint("`matins cluster status` lists them"),
            MembershipError::Unsafe { hint, .. } => Self::new(Reason::MembershipUnsafe, text).hint(hint),
            MembershipError::LeadNotTaken(_) => Self::new(Reason::LeadNotTaken, text)
                .hint("`matins cluster status` says which nodes answer and how far they are"),
            MembershipError::Unanswered(error) => error.into(),
        }
    }
}

impl From<NotAnId> for ApiError {
    fn from(error: NotAnId) -> Self {
        Self::new(Reason::BadArgument, error.to_string()).field("", error.to_string())
    }
}

/// A fault of the server: the log has what the caller is not told.
pub(crate) fn fault_of(what: &'static str, why: &str) -> ApiError {
    tracing::error!(what, why, "a request failed through a fault of this node");
    ApiError::new(Reason::Fault, format!("a fault of this node: {what}"))
        .with("fault", what)
        .hint("the log of this node says more")
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let Parts { reason, message, hint, metadata, fields, subject, retry_after } = *error.0;
        let mut info: HashMap<String, String> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        info.extend(hint.map(|hint| (HINT.to_owned(), hint)));
        let mut details = ErrorDetails::with_error_info(reason.as_str_name(), ERROR_DOMAIN, info);
        let message = cut(message, MESSAGE_BYTES_MAX);
        let (mut room, mut left_out) = (FIELDS_BYTES_MAX, 0);
        for (field, what) in fields {
            let what = cut(what, MESSAGE_BYTES_MAX);
            let bytes = field.len() + what.len();
            if bytes > room {
                left_out += 1;
                continue;
            }
            room -= bytes;
            details.add_bad_request_violation(field, what);
        }
        if left_out > 0 {
            details.add_bad_request_violation("", format!("and {left_out} more"));
        }
        if reason.code() == tonic::Code::FailedPrecondition {
            details.add_precondition_failure_violation(reason.as_str_name(), subject, message.clone());
        }
        if let Some(after) = retry_after {
            details.set_retry_info(Some(after));
        }
        Self::with_error_details(reason.code(), message, details)
    }
}

/// The beginning of a text, marked as such if it is not all of it.
fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push('\u{2026}');
    }
    text
}
