//! Which spans follow from an entry: a run, its attempts, and the commits that moved it on.
//!
//! Pure. Trace and span ids come from the ids of cluster, run and attempt, so that whichever node leads tells parts of one
//! tree, and telling a part twice tells the same. Start reading at [`spans_of`].

use std::collections::BTreeSet;

use matins_core::Effect;
use matins_core::id::{Digest, RunId, TaskId};
use matins_core::state::{AttemptOutcome, AttemptRow, AttemptState, RunRow, RunState, State};
use matins_core::time::Timestamp;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::metrics::Change;

/// Runs of one entry that are told about a commit: a cancelled backfill moves thousands at once.
const RUNS_PER_COMMIT_MAX: usize = 100;

/// The commit of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// Leader time that the entry was given.
    pub(crate) at: Timestamp,
    /// Leader time when it was applied here.
    pub(crate) applied_at: Timestamp,
}

/// The spans of what an entry ended, and of its commit for each run that it moved on.
pub(crate) fn spans_of(change: &Change<'_>, commit: Commit) -> Vec<Span> {
    let cluster = change.after.cluster.id.unwrap_or(0);
    let mut spans = Vec::new();
    let mut runs = BTreeSet::new();
    for effect in change.effects {
        match effect {
            Effect::Run(run) => {
                runs.insert(*run);
            }
            Effect::Ended { fence, .. } => {
                let attempt = change.ended_attempt(*fence);
                spans.extend(
                    attempt.and_then(|(which, row)| attempt_span((cluster, change.after), which, row)),
                );
            }
            Effect::Granted { .. }
            | Effect::Stop { .. }
            | Effect::Deciding(_)
            | Effect::Schedule(_)
            | Effect::Timer
            | Effect::Backfill(_)
            | Effect::LogsSettled(..)
            | Effect::Block { .. }
            | Effect::Checkpoint
            | Effect::Agreed { .. }
            | Effect::Executor(_)
            | Effect::Definitions => {}
        }
    }
    for run in &runs {
        spans.extend(change.ended_run(*run).map(|row| run_span(cluster, *run, row)));
    }
    let moved = runs.iter().filter(|run| change.after.runs.contains(run)).take(RUNS_PER_COMMIT_MAX);
    spans.extend(moved.map(|run| commit_span(cluster, *run, (change, commit))));
    spans
}

fn run_span(cluster: u64, id: RunId, row: &RunRow) -> Span {
    let trace = trace_of(cluster, id);
    let mut attributes = vec![
        text("matins.run", &id),
        text("matins.workflow", &row.workflow),
        text("matins.state", &row.state.as_str()),
        text("matins.logical_time", &rfc3339(row.logical_time)),
    ];
    attributes.extend(row.version.map(|version| text("matins.version", &version)));
    attributes.extend(row.schedule.as_ref().map(|schedule| text("matins.schedule", schedule)));
    let status = match row.state {
        RunState::Failed => failed(row.reason.clone().unwrap_or_else(|| "a task failed".into())),
        RunState::Cancelled => failed("cancelled".into()),
        RunState::Success => status(StatusCode::Ok, String::new()),
        RunState::Queued | RunState::Running | RunState::Stopping => status(StatusCode::Unset, String::new()),
    };
    Span {
        span_id: root_of(&trace),
        trace_id: trace,
        name: row.workflow.to_string(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(row.created_at),
        end_time_unix_nano: nanos(row.ended_at.unwrap_or(row.created_at)),
        attributes,
        status: Some(status),
        ..Span::default()
    }
}

fn attempt_span(
    (cluster, state): (u64, &State),
    (task, number): (TaskId, u32),
    row: &AttemptRow,
) -> Option<Span> {
    let AttemptState::Ended { outcome, at } = &row.state else { return None };
    let trace = trace_of(cluster, task.run);
    let name = state.definition_of(task.run)?.workflow.tasks.get(usize::from(task.task))?.name.to_string();
    let name = task.item.map_or(name.clone(), |item| format!("{name}.{item}"));
    let executor = state.executors.get(&row.executor).map_or("", |executor| executor.name.as_str());
    Some(Span {
        span_id: id_of(&[b"attempt", &row.fence.0.to_be_bytes(), &trace]),
        parent_span_id: root_of(&trace),
        trace_id: trace,
        name: name.clone(),
        kind: SpanKind::Internal.into(),
        // What the executor saw, if it came to that.
        start_time_unix_nano: nanos(row.started_at.unwrap_or(row.granted_at)),
        end_time_unix_nano: nanos((*at).max(row.started_at.unwrap_or(row.granted_at))),
        attributes: vec![
            text("matins.run", &task.run),
            text("matins.task", &name),
            text("matins.attempt", &number),
            text("matins.fence", &row.fence.0),
            text("matins.executor", &executor),
            text("matins.outcome", outcome),
            text("matins.granted_at", &rfc3339(row.granted_at)),
        ],
        status: Some(match outcome {
            AttemptOutcome::Success => status(StatusCode::Ok, String::new()),
            AttemptOutcome::Exit(_)
            | AttemptOutcome::Signal(_)
            | AttemptOutcome::Error(_)
            | AttemptOutcome::Broken(_)
            | AttemptOutcome::TimedOut
            | AttemptOutcome::Cancelled
            | AttemptOutcome::Lost(_) => failed(outcome.to_string()),
        }),
        ..Span::default()
    })
}

fn commit_span(cluster: u64, run: RunId, (change, commit): (&Change<'_>, Commit)) -> Span {
    let trace = trace_of(cluster, run);
    let index = change.after.index.0;
    Span {
        span_id: id_of(&[b"commit", &index.to_be_bytes(), &trace]),
        parent_span_id: root_of(&trace),
        trace_id: trace,
        name: "commit".into(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(commit.at),
        end_time_unix_nano: nanos(commit.applied_at.max(commit.at)),
        attributes: vec![
            text("matins.run", &run),
            text("matins.index", &index),
            text("matins.commands", &change.answers.len()),
        ],
        ..Span::default()
    }
}

/// The trace of a run.
fn trace_of(cluster: u64, run: RunId) -> Vec<u8> {
    let text = format!("matins trace {cluster:016x} {run}");
    Digest::of(text.as_bytes()).0[..16].to_vec()
}

/// The span of the run itself.
fn root_of(trace: &[u8]) -> Vec<u8> {
    id_of(&[b"run", trace])
}

fn id_of(parts: &[&[u8]]) -> Vec<u8> {
    Digest::of(&parts.concat()).0[..8].to_vec()
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(0) * 1_000_000
}

fn rfc3339(at: Timestamp) -> String {
    matins_proto::Timestamp::from_millis(at.as_millis()).to_string()
}

fn text(key: &str, value: &impl ToString) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_string())) };
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

fn status(code: StatusCode, message: String) -> Status {
    Status { code: code.into(), message }
}

fn failed(why: String) -> Status {
    status(StatusCode::Error, why)
}
