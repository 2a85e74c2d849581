//! This program run by itself: one verb, in a process of its own, by the build that has it, with a limit of time, and the
//! report it wrote.
//!
//! A mutation is planted for a whole process, and a soak must outlive whatever it starts: so both start children.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use matins_core::mutation::now_planted;

use crate::report::Report;

/// How often a child is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// The arguments that plant in another process what is planted in this one.
pub(crate) fn plant_arguments() -> Vec<&'static str> {
    now_planted().map_or_else(Vec::new, |mutation| vec!["--plant", mutation.name()])
}

/// The same at the end of a command for people.
pub(crate) fn plant_flag() -> String {
    now_planted().map_or_else(String::new, |mutation| format!(" --plant {mutation}"))
}

/// Why a child has no report.
#[derive(Debug)]
pub(crate) enum NoReport {
    /// It could not be started, or its report could not be read.
    Io(io::Error),
    /// It took longer than it may and was ended.
    TooLong(Duration),
    /// It ended without a report: the end of what it said.
    Died(String),
}

impl std::fmt::Display for NoReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "it cannot be run: {error}"),
            Self::TooLong(limit) => write!(f, "it was ended after {} s", limit.as_secs()),
            Self::Died(said) => write!(f, "it died without a report: {said}"),
        }
    }
}

impl From<io::Error> for NoReport {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The build that has a verb: this one, or another in the same folder of builds. `jepsen/prove build` makes them all.
fn program(verb: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let builds = own.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let program = match verb {
        "whole" => builds.join("simulation/release/matins-jepsen"),
        // The clocks and bounds of real processes can be set off in a debug build only.
        "cluster" => builds.join("debug/matins-jepsen"),
        _ => own,
    };
    if program.exists() {
        return Ok(program);
    }
    let why =
        format!("`{verb}` wants {}, which is not there: `jepsen/prove build` makes it", program.display());
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

/// Runs this program with these arguments and gives the report that it wrote.
pub(crate) fn run(arguments: &[String], within: Duration) -> Result<Report, NoReport> {
    let folder = tempfile::tempdir()?;
    let (report, said) = (folder.path().join("report.json"), folder.path().join("said"));
    let mut child = Command::new(program(arguments.first().map_or("", String::as_str))?)
        .args(arguments)
        .arg("--json")
        .arg(&report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&said)?)
        .spawn()?;
    if !wait(&mut child, within)? {
        return Err(NoReport::TooLong(within));
    }
    if report.exists() { Ok(Report::read(&report)?) } else { Err(NoReport::Died(last_lines(&said))) }
}

/// Waits for the end of a child; `false`: it had to be ended.
fn wait(child: &mut Child, within: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + within;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        sleep(PAUSE);
    }
    Ok(true)
}

/// The last of what was said, in one line.
fn last_lines(said: &Path) -> String {
    let text = std::fs::read_to_string(said).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}
