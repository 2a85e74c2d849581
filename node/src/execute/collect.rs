//! Making the one report of an attempt, when all its processes are gone.

use std::fs;

use matins_core::id::{Digest, Fence};
use matins_core::supervisor::Exit;
use matins_core::time::Timestamp;
use matins_proto::v1;
use matins_proto::v1::attempt_report::{Outcome, Outputs};

use super::journal::Journal;
use super::log::{LogWriter, Stream};
use super::output;
use super::prepare::output_path;
use super::supervisor::StatusFile;
use super::supervisor::group::{self, Cgroup, ProcessTable};
use crate::system::wall_time;

/// Outputs above this become a blob (DESIGN 5).
const INLINE_BYTES_MAX: usize = 64 << 10;
/// The limit of an attempt whose job is unknown: its journal was wiped.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// A report, and what is still to be stored as a blob before it counts.
pub(crate) struct Collected {
    pub(crate) report: v1::AttemptReport,
    /// Outputs too large to travel in it.
    pub(crate) large: Option<Vec<u8>>,
}

/// The status of an attempt that never ran.
pub(crate) fn never_started(reason: String) -> StatusFile {
    let now = wall_time();
    StatusFile { exit: Exit::NotStarted(reason), started_at: Timestamp::ZERO, ended_at: now, log_bytes: 0 }
}

/// Whether an attempt wrote any output.
pub(crate) fn has_outputs(journal: &Journal, fence: Fence) -> bool {
    fs::symlink_metadata(output_path(&journal.attempt(fence))).is_ok()
}

/// Reads status and outputs of an attempt that has ended. `told` is what the supervisor said, for a status file that
/// could not be written.
pub(crate) fn collect(journal: &Journal, fence: Fence, told: Option<&Exit>) -> Collected {
    let status = journal.status(fence);
    let exit = status.as_ref().map(|status| &status.exit).or(told);
    let mut report = v1::AttemptReport {
        fence: fence.0,
        ended_at: status.as_ref().map_or_else(wall_time, |status| status.ended_at).as_millis(),
        started_at: status.as_ref().map_or(0, |status| status.started_at.as_millis()),
        log_bytes: fs::metadata(journal.log(fence)).map_or(0, |file| file.len()),
        ..Default::default()
    };
    report.outcome = Some(match exit {
        Some(Exit::Code(code)) => Outcome::ExitCode(*code),
        Some(Exit::Signal(signal)) => Outcome::Signal(*signal),
        Some(Exit::NotStarted(reason)) => Outcome::CouldNotStart(reason.clone()),
        Some(Exit::LeaseEnded) => {
            lost(v1::LostCause::LeaseEnded, "its executor lost the cluster and ended it")
        }
        None => lost(v1::LostCause::NotHeld, "its status is gone"),
    });
    let mut large = None;
    // Only a successful attempt's outputs count (LANGUAGE 1.13).
    if report.outcome == Some(Outcome::ExitCode(0)) && has_outputs(journal, fence) {
        let bytes_max = journal.job(fence).map_or(OUTPUT_BYTES_MAX, |job| job.output_bytes_max);
        match output::read(&output_path(&journal.attempt(fence)), bytes_max) {
            Ok(outputs) if outputs.is_empty() => {}
            Ok(outputs) => {
                let text = serde_json::Value::Object(outputs).to_string();
                if text.len() <= INLINE_BYTES_MAX {
                    report.outputs = Some(Outputs::OutputsJson(text));
                } else {
                    large = Some(text.into_bytes());
                }
            }
            Err(fault) => report.output_fault = fault,
        }
    }
    Collected { report, large }
}

fn lost(cause: v1::LostCause, reason: &str) -> Outcome {
    Outcome::Lost(v1::Lost { cause: cause.into(), reason: reason.to_owned() })
}

/// Names the blob that the outputs were stored as.
pub(crate) fn attach(report: &mut v1::AttemptReport, digest: Digest, size: usize) {
    let blob = v1::OutputBlob { digest: digest.0.to_vec(), size: size as u64 };
    report.outputs = Some(Outputs::OutputsBlob(blob));
}

/// Kills what may be left of an attempt that no supervisor knows, and reports it lost (PROTOCOL 5.5).
pub(crate) fn lose(journal: &Journal, fence: Fence) -> v1::AttemptReport {
    kill_leftovers(journal, fence);
    let log = journal.log(fence);
    // Whoever follows the log must learn that nothing comes any more.
    if let Ok(mut writer) = LogWriter::resume(&log) {
        writer.write(Stream::Note, b"lost: its supervisor is gone");
        writer.end();
    }
    v1::AttemptReport {
        fence: fence.0,
        outcome: Some(lost(v1::LostCause::NotHeld, "its supervisor is gone")),
        ended_at: wall_time().as_millis(),
        log_bytes: fs::metadata(&log).map_or(0, |file| file.len()),
        ..Default::default()
    }
}

fn kill_leftovers(journal: &Journal, fence: Fence) {
    let attempt = journal.attempt(fence);
    if let Ok(path) = fs::read_to_string(attempt.join("cgroup")) {
        let cgroup = Cgroup::at(path.into());
        cgroup.kill();
        cgroup.remove();
    }
    let Ok(table) = ProcessTable::read() else { return };
    // The fence alone would also find the tasks of another cluster on this machine.
    let output = output_path(&attempt).to_string_lossy().into_owned();
    for pid in table.pids() {
        let raw = pid.as_raw_pid();
        if group::has_env(raw, "MATINS_OUTPUT", &output)
            && group::has_env(raw, "MATINS_FENCE", &fence.0.to_string())
        {
            // ESRCH: it is gone already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
