//! Why a verb did not do what was asked: what happened, why, and what to do next.
//!
//! `Display` says a fault's own part; [`Fault::report`] prints the chain of causes and the hint.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use matins_client::ClientError;

use crate::exit::Exit;

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The cluster said no, or nothing.
    #[error(transparent)]
    Cluster(#[from] ClientError),
    /// This program knows by itself.
    #[error("{message}")]
    Own {
        /// How the verb ends.
        exit: Exit,
        /// What happened, as a clause.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// What is behind it.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Ctrl-C while waiting. The text says what goes on without the waiting.
    #[error("{0}")]
    Interrupted(String),
}

impl Fault {
    /// What was given makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::own(Exit::Usage, message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::own(Exit::NotFound, message)
    }

    /// A fault with an exit code of its own.
    pub(crate) fn own(exit: Exit, message: impl Into<String>) -> Self {
        Self::Own { exit, message: message.into(), hint: None, source: None }
    }

    /// Something of the machine failed: a file, a process.
    pub(crate) fn machine(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        let source = Some(Box::new(source) as Box<dyn Error + Send + Sync>);
        Self::Own { exit: Exit::Usage, message: message.into(), hint: None, source }
    }

    /// A file that the user named cannot be read.
    pub(crate) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::machine(format!("cannot read `{}`", path.display()), source)
    }

    /// Adds what to do next. Those of the cluster bring their own.
    #[must_use]
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Own { exit, message, source, hint: _ } => {
                Self::Own { exit, message, source, hint: Some(text.into()) }
            }
            other @ (Self::Cluster(_) | Self::Output(_) | Self::Interrupted(_)) => other,
        }
    }

    /// How the verb ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Cluster(error) => error.class().into(),
            Self::Own { exit, .. } => *exit,
            // `matins run list | head` is done when `head` has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) => Exit::NoAnswer,
            Self::Interrupted(_) => Exit::Interrupted,
        }
    }

    /// What standard error shows; empty if there is nothing to say.
    pub(crate) fn report(&self) -> String {
        let mut text = match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return String::new(),
            Self::Interrupted(text) => return format!("{text}\n"),
            Self::Cluster(_) | Self::Own { .. } | Self::Output(_) => format!("error: {self}\n"),
        };
        let mut cause = self.source();
        while let Some(error) = cause {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  because: {error}");
            cause = error.source();
        }
        let hint = match self {
            Self::Cluster(error) => error.hint(),
            Self::Own { hint, .. } => hint.clone(),
            Self::Output(_) | Self::Interrupted(_) => None,
        };
        if let Some(hint) = hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_why_and_what_next() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let fault = Fault::unreadable(Path::new("a.yaml"), cause).hint("look around");
        assert_eq!(
            fault.report(),
            "error: cannot read `a.yaml`\n  because: no such file\nhint: look around\n"
        );
        assert_eq!(fault.exit(), Exit::Usage);
    }

    #[test]
    fn a_closed_pipe_is_no_fault() {
        let fault = Fault::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((fault.exit(), fault.report().as_str()), (Exit::Done, ""));
    }

    #[test]
    fn an_endpoint_that_is_none_is_usage() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let error = matins_client::Client::new("nonsense", matins_client::Limits::default()).unwrap_err();
        let fault = Fault::from(error);
        assert_eq!(fault.exit(), Exit::Usage);
        assert_eq!(
            fault.report(),
            "error: `nonsense` is not an endpoint: it has no port\n\
             hint: write host:port, several with commas: 10.0.0.1:7070,10.0.0.2:7070\n"
        );
    }
}
