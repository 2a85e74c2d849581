//! The one table of exit codes, the same for every verb (LANGUAGE 4).

use std::process::ExitCode;

use matins_client::ErrorClass;
use matins_proto::v1::run::State;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The run ended other than in success, or `check` found faults.
    NotSuccess,
    /// The command line or what it names makes no sense.
    Usage,
    /// There is no such thing.
    NotFound,
    /// A precondition or a limit forbids it; the message says which.
    Refused,
    /// No leader, or no answer.
    NoAnswer,
    /// The waiting ended, the run goes on.
    WaitEnded,
    /// The caller may not do it.
    Denied,
    /// Ctrl-C; the run goes on.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotSuccess => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::NoAnswer => 5,
            Self::WaitEnded => 6,
            Self::Denied => 7,
            Self::Interrupted => 130,
        }
    }

    /// How a verb ends that waited for a run which ended in `state`.
    pub(crate) const fn of_run(state: State) -> Self {
        match state {
            State::Success => Self::Done,
            State::Failed | State::Cancelled => Self::NotSuccess,
            State::Queued | State::Running | State::Stopping | State::Unspecified => Self::WaitEnded,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<ErrorClass> for Exit {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Usage => Self::Usage,
            ErrorClass::NotFound => Self::NotFound,
            ErrorClass::Refused => Self::Refused,
            ErrorClass::NoAnswer => Self::NoAnswer,
            ErrorClass::Denied => Self::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_language() {
        let table = [
            (Exit::Done, 0),
            (Exit::NotSuccess, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Refused, 4),
            (Exit::NoAnswer, 5),
            (Exit::WaitEnded, 6),
            (Exit::Denied, 7),
            (Exit::Interrupted, 130),
        ];
        for (exit, code) in table {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn classes_of_errors_have_the_codes_that_the_client_gives_them() {
        for class in [
            ErrorClass::Usage,
            ErrorClass::NotFound,
            ErrorClass::Refused,
            ErrorClass::NoAnswer,
            ErrorClass::Denied,
        ] {
            assert_eq!(Exit::from(class).code(), class.exit_code(), "{class:?}");
        }
    }

    #[test]
    fn only_success_is_success() {
        assert_eq!(Exit::of_run(State::Success), Exit::Done);
        assert_eq!(Exit::of_run(State::Cancelled), Exit::NotSuccess);
        assert_eq!(Exit::of_run(State::Stopping), Exit::WaitEnded);
    }
}
