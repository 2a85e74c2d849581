//! What tasks write down about themselves: one line of JSON per event, appended with one write.
//!
//! Times are of the boot-time clock, which all processes of this machine share, so that two records can be compared to
//! the nanosecond. Start at [`Line`].

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::Trouble;

/// One event in the life of an attempt, as its own process saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) event: Event,
    /// Nanoseconds of the boot-time clock.
    pub(crate) at: u64,
    pub(crate) fence: u64,
    /// `namespace/name`.
    pub(crate) workflow: String,
    pub(crate) run: String,
    /// Its address: `extract.3` for an item.
    pub(crate) task: String,
    /// From 1.
    pub(crate) attempt: u32,
    /// What the run is for, as the task was told it.
    pub(crate) logical_time: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Event {
    /// The process runs.
    Start,
    /// It still runs.
    Alive,
    /// It is about to exit by itself, with this code.
    End(i32),
    /// At its start another process held the lock that is its alone: that one had not ended.
    Held,
    /// The register took a value from it.
    Accepted(u64),
    /// The register refused it, since it had heard a higher fence: this one.
    Rejected(u64),
}

/// The boot-time clock, in nanoseconds.
pub(crate) fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Appends one line. Others append to the same file at the same time.
pub(crate) fn append(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    // One write: with O_APPEND the kernel keeps lines of several processes apart.
    file.write_all(&text)
}

/// Reads all lines; a file that is not there has none.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>, Trouble> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Trouble(format!("cannot read {}: {error}", path.display()))),
    };
    let parse = |line: &str| {
        serde_json::from_str(line)
            .map_err(|error| Trouble(format!("a record that cannot be read: {error}: {line}")))
    };
    text.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutex.jsonl");
        assert_eq!(read(&path).unwrap(), Vec::new());
        let line = Line {
            event: Event::End(3),
            at: boot_time(),
            fence: 7,
            workflow: "default/one".into(),
            run: "run-1".into(),
            task: "work.2".into(),
            attempt: 1,
            logical_time: "2026-01-01T00:00:00Z".into(),
        };
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        append(&mut file, &line).unwrap();
        append(&mut file, &Line { event: Event::Held, ..line.clone() }).unwrap();
        assert_eq!(read(&path).unwrap(), [line.clone(), Line { event: Event::Held, ..line }]);
    }

    #[test]
    fn a_torn_line_is_trouble_and_not_a_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutex.jsonl");
        fs::write(&path, "{\"event\":\"start\",").unwrap();
        assert!(read(&path).is_err());
    }
}
