//! The lines that timed tasks leave behind: which run, which attempt, and when its first instruction was carried out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::trouble::Trouble;

/// One attempt's first instruction. Times are those of the wall clock, which is the same for all processes of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: String,
    pub(crate) attempt: u32,
    /// The tick, or the time of asking, since 1970.
    pub(crate) logical: Duration,
    /// When it began, since 1970.
    pub(crate) at: Duration,
}

/// The program that leaves them: it lies beside this one.
pub(crate) fn program() -> Result<PathBuf, Trouble> {
    Ok(std::env::current_exe()?.with_file_name("matins-bench-stamp"))
}

/// All that are in a file; none if there is no file yet.
pub(crate) fn read(path: &Path) -> Result<Vec<Stamp>, Trouble> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    text.lines().map(|line| parse(line).ok_or_else(|| Trouble(format!("not a stamp: {line}")))).collect()
}

/// The wall clock now, since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("this machine's clock is set after 1970")
}

fn parse(line: &str) -> Option<Stamp> {
    let mut words = line.split(' ');
    let (run, attempt) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let logical: jiff::Timestamp = words.next()?.parse().ok()?;
    let logical = Duration::from_millis(u64::try_from(logical.as_millisecond()).ok()?);
    let at = Duration::from_nanos(words.next()?.parse().ok()?);
    Some(Stamp { run, attempt, logical, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back() {
        let stamp = parse("run-7 1 1970-01-01T00:00:02Z 2500000000").unwrap();
        assert_eq!((stamp.run.as_str(), stamp.attempt), ("run-7", 1));
        assert_eq!(stamp.at.saturating_sub(stamp.logical), Duration::from_millis(500));
        assert_eq!(parse("run-7 1"), None);
    }
}
