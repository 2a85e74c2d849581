//! Retention: what has had its time leaves history (PROTOCOL 6.11).
//!
//! What goes, and when, is decided by the leader, from these same rows; here it is only taken off the list. The blobs go when
//! nothing names them any more (PROTOCOL 6.4).

use crate::answer::{Answer, Refusal, Stale};
use crate::command::Retain;
use crate::history::RetiredRun;
use crate::state::{BlockRow, LogPlace, LogState, Output, State};

use super::{Applied, Step};

impl State {
    /// What a block says of how long these runs stay, and what they name besides it. The rest is for the caller.
    pub(super) fn terms_of(&self, runs: &[RetiredRun]) -> BlockRow {
        let mut row = BlockRow::default();
        let mut ended_last = crate::time::Timestamp::ZERO;
        for run in runs {
            let kept = self.definitions.get(&run.run.definition).map(|row| row.workflow.retention);
            let kept = kept.unwrap_or_default();
            let ended = run.run.ended_at.unwrap_or(run.run.created_at);
            row.runs_stay.add(ended, kept.runs);
            row.output_bytes = row.output_bytes.saturating_add(output_bytes(run));
            let log_bytes = log_bytes(run);
            if log_bytes > 0 {
                row.log_bytes = row.log_bytes.saturating_add(log_bytes);
                row.logs_stay.get_or_insert_default().add(ended, kept.logs);
            }
            ended_last = ended_last.max(ended);
            row.logical_last = row.logical_last.max(run.run.logical_time);
        }
        row.logical_last = row.logical_last.min(ended_last);
        row
    }
}

fn output_bytes(run: &RetiredRun) -> u64 {
    let of_task = |output: &Option<Output>| match output {
        Some(Output::Blob { bytes, .. }) => *bytes,
        Some(Output::Inline(_)) | None => 0,
    };
    run.tasks.iter().map(|(_, task)| of_task(&task.output)).fold(0, u64::saturating_add)
}

fn log_bytes(run: &RetiredRun) -> u64 {
    let of_attempt = |log: &LogState| match log {
        LogState::Attached(LogPlace::Pack { bytes, .. }) => *bytes,
        LogState::Attached(LogPlace::Lost)
        | LogState::At(_)
        | LogState::Empty
        | LogState::Lost
        | LogState::Expired => 0,
    };
    run.attempts.iter().map(|(_, attempt)| of_attempt(&attempt.log)).fold(0, u64::saturating_add)
}

impl Step<'_> {
    /// Takes blocks off the list, and logs of others.
    pub(super) fn retain(&mut self, retain: &Retain) -> Applied {
        let mut named = retain.blocks.iter().chain(&retain.logs);
        if named.any(|number| !self.state.blocks.contains(number)) {
            return Err(Refusal::Stale(Stale::History));
        }
        for number in &retain.blocks {
            // One that is named twice is gone by now.
            let Some(row) = self.state.blocks.remove(number) else { continue };
            let forgotten = &mut self.state.cluster.forgotten;
            *forgotten = (*forgotten).max(Some(row.logical_last));
            self.state.cluster.counters.forgotten_runs += u64::from(row.runs);
            self.touch(1);
        }
        for number in &retain.logs {
            self.state.blocks.update(number, |row| {
                row.log_bytes = 0;
                row.logs_stay = None;
            });
            self.touch(1);
        }
        Ok(Answer::Done)
    }
}
