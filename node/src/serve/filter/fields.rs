//! The fields that a filter may ask for, and what a line of a list has in them.

use matins_core::time::Timestamp;
use matins_proto::v1::{Run, Workflow, run_origin};

use crate::serve::api::core_time;

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// A workflow, `namespace/name`; a bare name is one of the namespace `default`, as wherever a workflow is named.
    Workflow,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An id or a version: compared by its number.
    Number,
    Time,
    /// A duration.
    Span,
}

/// What a line has in a field.
pub(super) enum Field {
    Text(String),
    /// Ids and versions: compared by number, written as text.
    Number(u64, String),
    Time(Timestamp),
    /// Milliseconds.
    Span(u64),
    Absent,
}

const STATES: &[&str] = &["queued", "running", "stopping", "success", "failed", "cancelled"];
const ORIGINS: &[&str] = &["schedule", "start", "submit", "backfill", "retry"];
const SWITCH: &[&str] = &["true", "false"];

/// Fields of a run, `labels.KEY` and `params.NAME` apart.
const RUN_FIELDS: [(&str, Kind); 17] = [
    ("id", Kind::Number),
    ("workflow", Kind::Workflow),
    ("namespace", Kind::Text),
    ("version", Kind::Number),
    ("schedule", Kind::Text),
    ("backfill", Kind::Number),
    ("origin", Kind::Word(ORIGINS)),
    ("state", Kind::Word(STATES)),
    ("reason", Kind::Text),
    ("logical_time", Kind::Time),
    ("created_at", Kind::Time),
    ("started_at", Kind::Time),
    ("finished_at", Kind::Time),
    ("retry_of", Kind::Number),
    ("took", Kind::Span),
    ("waited", Kind::Span),
    ("late", Kind::Span),
];

/// What a field of a run is; for one that there is not, the names of those there are.
pub(super) fn run_kind(field: &str) -> Result<Kind, Vec<&'static str>> {
    if has_key(field, &["labels.", "params."]) {
        return Ok(Kind::Text);
    }
    let found = RUN_FIELDS.iter().find(|(name, _)| *name == field).map(|(_, kind)| *kind);
    found.ok_or_else(|| {
        RUN_FIELDS.iter().map(|(name, _)| *name).chain(["labels.KEY", "params.NAME"]).collect()
    })
}

/// As `run_kind`, of a workflow.
pub(super) fn workflow_kind(field: &str) -> Result<Kind, Vec<&'static str>> {
    match field {
        "name" => Ok(Kind::Workflow),
        "paused" => Ok(Kind::Word(SWITCH)),
        _ if has_key(field, &["labels."]) => Ok(Kind::Text),
        _ => Err(vec!["name", "paused", "labels.KEY"]),
    }
}

fn has_key(field: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| field.strip_prefix(prefix).is_some_and(|key| !key.is_empty()))
}

pub(super) fn workflow_field(workflow: &Workflow, field: &str) -> Field {
    match field.strip_prefix("labels.") {
        Some(label) => text_or_absent(workflow.labels.get(label).cloned()),
        None if field == "paused" => Field::Text(workflow.paused.to_string()),
        None => Field::Text(workflow.name.clone()),
    }
}

pub(super) fn run_field(run: &Run, field: &str) -> Field {
    let time =
        |at: Option<matins_proto::Timestamp>| at.map_or(Field::Absent, |at| Field::Time(core_time(at)));
    let span = |from: Option<matins_proto::Timestamp>, to: Option<matins_proto::Timestamp>| {
        let span = from.zip(to).map(|(from, to)| core_time(to).since(core_time(from)).0);
        span.map_or(Field::Absent, Field::Span)
    };
    if let Some(label) = field.strip_prefix("labels.") {
        return text_or_absent(run.labels.get(label).cloned());
    }
    if let Some(param) = field.strip_prefix("params.") {
        let params = run.params.as_ref().and_then(|params| params.value().ok());
        return match params.as_ref().and_then(|params| params.get(param)) {
            None | Some(serde_json::Value::Null) => Field::Absent,
            Some(serde_json::Value::String(text)) => Field::Text(text.clone()),
            Some(other) => Field::Text(other.to_string()),
        };
    }
    match field {
        "id" => number_or_absent(Some(run.id.clone())),
        "workflow" => Field::Text(run.workflow.clone()),
        "namespace" => {
            text_or_absent(run.workflow.split_once('/').map(|(namespace, _)| namespace.to_owned()))
        }
        "version" => number_or_absent(run.version.map(|version| version.to_string())),
        "schedule" => text_or_absent(run.schedule.clone()),
        "backfill" => number_or_absent(run.backfill.clone()),
        "retry_of" => number_or_absent(run.retry_of.clone()),
        "origin" => Field::Text(origin_word(run.origin()).to_owned()),
        "state" => Field::Text(run.state().as_str_name().to_owned()),
        "reason" => text_or_absent(run.reason.as_ref().map(|reason| reason.code.clone())),
        "logical_time" => time(run.logical_time),
        "created_at" => time(run.created_at),
        "started_at" => time(run.started_at),
        "finished_at" => time(run.finished_at),
        "took" => span(run.started_at, run.finished_at),
        "waited" => span(run.created_at, run.started_at),
        "late" if run.origin() == run_origin::Kind::Schedule => span(run.logical_time, run.created_at),
        _ => Field::Absent,
    }
}

fn origin_word(kind: run_origin::Kind) -> &'static str {
    kind.as_str_name()
}

/// The number of `run-42`, `backfill-7` or `3`.
pub(super) fn number_in(text: &str) -> Option<u64> {
    text.rsplit('-').next().and_then(|digits| digits.parse().ok())
}

fn text_or_absent(text: Option<String>) -> Field {
    text.map_or(Field::Absent, Field::Text)
}

fn number_or_absent(text: Option<String>) -> Field {
    match text {
        Some(text) => match number_in(&text) {
            Some(number) => Field::Number(number, text),
            None => Field::Text(text),
        },
        None => Field::Absent,
    }
}
