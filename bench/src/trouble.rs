//! Why a workload could not be measured, for people. Everything that can go wrong becomes one of these.

use std::fmt;

/// What went wrong, as a sentence without its stop.
#[derive(Clone, Debug)]
pub(crate) struct Trouble(pub(crate) String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        Self(text)
    }
}

/// Fails unless a result is what it must be: a wrong one would make its figure worthless.
#[expect(clippy::needless_pass_by_value, reason = "callers compare what they have just made")]
pub(crate) fn must_be<T: PartialEq + fmt::Debug>(what: &str, is: T, wanted: T) -> Result<(), Trouble> {
    if is == wanted {
        return Ok(());
    }
    Err(Trouble(format!("{what}: {is:?} instead of {wanted:?}")))
}
