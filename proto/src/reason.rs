//! Which status code goes with which error reason, for servers and clients alike.

use tonic::Code;

use crate::v1::error::Reason;

/// `domain` of the `ErrorInfo` in every error of ours.
pub const ERROR_DOMAIN: &str = "matins.v1";

/// Key in the metadata of an `ErrorInfo`: the next thing to do, as a sentence for people.
pub const HINT: &str = "hint";

impl Reason {
    /// The status code of errors with this reason, by the table in `error.proto`.
    pub const fn code(self) -> Code {
        match self {
            Self::Unspecified | Self::OutcomeUnknown => Code::Unknown,
            Self::RunNotFound
            | Self::TaskNotFound
            | Self::AttemptNotFound
            | Self::WorkflowNotFound
            | Self::VersionNotFound
            | Self::ScheduleNotFound
            | Self::BackfillNotFound
            | Self::PoolNotFound
            | Self::NodeNotFound
            | Self::BlobNotFound => Code::NotFound,
            Self::BadArgument
            | Self::DefinitionInvalid
            | Self::ParamsInvalid
            | Self::PageTokenInvalid
            | Self::ScheduleRequired => Code::InvalidArgument,
            Self::Conflict
            | Self::Stale
            | Self::Expired
            | Self::RequestIdReused
            | Self::AlreadyInitialized
            | Self::NodeNotAdmitted
            | Self::MembershipChanging
            | Self::NoTimeWaiting
            | Self::LevelNotSupported
            | Self::MembershipUnsafe
            | Self::LeadNotTaken => Code::FailedPrecondition,
            Self::LimitExceeded | Self::Overloaded => Code::ResourceExhausted,
            Self::NotReady | Self::NoQuorum | Self::NotInitialized | Self::ShuttingDown | Self::DiskFull => {
                Code::Unavailable
            }
            Self::Denied => Code::PermissionDenied,
            Self::NotInThisRelease => Code::Unimplemented,
            Self::Fault => Code::Internal,
        }
    }
}
