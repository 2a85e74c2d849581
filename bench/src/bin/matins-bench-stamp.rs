//! What timed tasks run: its first instruction notes the time, then it adds a line with that to the file it is given.
//!
//! A program of its own, as small as can be, so that loading it adds little to what is timed.

use std::env::{args_os, var};
use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

fn main() -> ExitCode {
    let now = SystemTime::now();
    let Some(path) = args_os().nth(1) else { return ExitCode::from(2) };
    let Ok(since) = now.duration_since(SystemTime::UNIX_EPOCH) else { return ExitCode::from(2) };
    let of = |name| var(name).unwrap_or_default();
    let line = format!(
        "{} {} {} {}\n",
        of("MATINS_RUN_ID"),
        of("MATINS_ATTEMPT"),
        of("MATINS_LOGICAL_TIME"),
        since.as_nanos()
    );
    // One write in append mode, so that lines of tasks that run at once do not mix.
    let written = File::options().create(true).append(true).open(path);
    match written.and_then(|mut file| file.write_all(line.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
