//! The filter of lists: `FIELD OP VALUE`, joined by `AND` (`ListRunsRequest.filter`).
//!
//! A filter is read once, with every fault named, and then asked of each line of a list.

use std::cmp::Ordering;

use matins_core::time::Timestamp;
use matins_proto::v1::{Run, Workflow, run_origin};
use matins_workflow::calendar::{UserTime, Zone};

use super::api::core_time;
use super::error::ApiError;

/// A filter is at most so long.
const FILTER_BYTES_MAX: usize = 4 << 10;

/// Fields of a run, `labels.KEY` and `params.NAME` apart.
const RUN_FIELDS: [&str; 13] = [
    "id",
    "workflow",
    "namespace",
    "version",
    "schedule",
    "backfill",
    "origin",
    "state",
    "reason",
    "logical_time",
    "created_at",
    "started_at",
    "finished_at",
];

/// A filter that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    op: Op,
    value: String,
    /// The first and last instant of `value`, where the field is a time.
    span: Option<(Timestamp, Timestamp)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a line has in a field.
enum Field {
    Text(String),
    /// Ids and versions: compared by number, written as text.
    Number(u64, String),
    Time(Timestamp),
    Absent,
}

impl Filter {
    /// Reads a filter of runs.
    pub(crate) fn of_runs(text: &str) -> Result<Self, ApiError> {
        let is_known = |field: &str| {
            field == "retry_of"
                || RUN_FIELDS.contains(&field)
                || field.starts_with("labels.")
                || field.starts_with("params.")
        };
        Self::read(text, is_known, |field| field.ends_with("_time") || field.ends_with("_at"))
    }

    /// Reads a filter of workflows.
    pub(crate) fn of_workflows(text: &str) -> Result<Self, ApiError> {
        let is_known = |field: &str| ["name", "paused"].contains(&field) || field.starts_with("labels.");
        Self::read(text, is_known, |_| false)
    }

    fn read(
        text: &str,
        is_known: impl Fn(&str) -> bool,
        is_time: impl Fn(&str) -> bool,
    ) -> Result<Self, ApiError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(ApiError::limit("bytes of a filter", FILTER_BYTES_MAX as u64, text.len() as u64));
        }
        let mut rest = text.trim_start();
        let mut terms = Vec::new();
        while !rest.is_empty() {
            if !terms.is_empty() {
                rest = behind_and(rest).ok_or_else(|| bad(format!("expected AND before `{rest}`")))?;
            }
            let (mut term, behind) = Term::read(rest)?;
            if !is_known(&term.field) {
                return Err(bad(format!("there is no field `{}`", term.field)));
            }
            if is_time(&term.field) {
                let time = UserTime::parse(&term.value, &Zone::utc())
                    .map_err(|error| bad(error.to_string()).hint(error.hint))?;
                term.span = Some((time.first(), time.last()));
            }
            terms.push(term);
            rest = behind.trim_start();
        }
        Ok(Self(terms))
    }

    /// Whether a run is meant.
    pub(crate) fn takes_run(&self, run: &Run) -> bool {
        self.0.iter().all(|term| term.takes(&run_field(run, &term.field)))
    }

    /// Whether a workflow is meant.
    pub(crate) fn takes_workflow(&self, workflow: &Workflow) -> bool {
        self.0.iter().all(|term| {
            let field = match term.field.strip_prefix("labels.") {
                Some(label) => text_or_absent(workflow.labels.get(label).cloned()),
                None if term.field == "paused" => Field::Text(workflow.paused.to_string()),
                None => Field::Text(workflow.name.clone()),
            };
            term.takes(&field)
        })
    }
}

fn bad(what: String) -> ApiError {
    ApiError::bad_field("filter", what)
        .hint("terms are `FIELD OP VALUE` joined by AND, as in `state = failed AND labels.team = data`")
}

fn behind_and(text: &str) -> Option<&str> {
    let (word, behind) = text.split_at_checked(3)?;
    (word.eq_ignore_ascii_case("and") && behind.starts_with(char::is_whitespace)).then(|| behind.trim_start())
}

impl Term {
    fn read(text: &str) -> Result<(Self, &str), ApiError> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
        let end = text.find(|letter| !is_part(letter)).unwrap_or(text.len());
        let (field, rest) = text.split_at(end);
        let (op, rest) = Op::read(rest.trim_start())
            .ok_or_else(|| bad(format!("expected one of = != < <= > >= behind `{field}`")))?;
        let (value, rest) = read_value(rest.trim_start())?;
        Ok((Self { field: field.to_owned(), op, value, span: None }, rest))
    }

    fn takes(&self, field: &Field) -> bool {
        let order = match (field, self.span) {
            (Field::Absent, _) => return self.op == Op::NotEqual,
            (Field::Time(at), Some((first, last))) => {
                if *at < first {
                    Ordering::Less
                } else if *at > last {
                    Ordering::Greater
                } else {
                    Ordering::Equal
                }
            }
            (Field::Number(number, text), _) => match number_in(&self.value) {
                Some(asked) => number.cmp(&asked),
                None => return self.takes_text(text),
            },
            (Field::Text(text), _) => return self.takes_text(text),
            (Field::Time(at), None) => return self.takes_text(&at.as_millis().to_string()),
        };
        match self.op {
            Op::Equal => order == Ordering::Equal,
            Op::NotEqual => order != Ordering::Equal,
            Op::Less => order == Ordering::Less,
            Op::LessOrEqual => order != Ordering::Greater,
            Op::Greater => order == Ordering::Greater,
            Op::GreaterOrEqual => order != Ordering::Less,
        }
    }

    fn takes_text(&self, text: &str) -> bool {
        match self.op {
            Op::Equal => matches_stars(&self.value, text),
            Op::NotEqual => !matches_stars(&self.value, text),
            Op::Less => text < self.value.as_str(),
            Op::LessOrEqual => text <= self.value.as_str(),
            Op::Greater => text > self.value.as_str(),
            Op::GreaterOrEqual => text >= self.value.as_str(),
        }
    }
}

impl Op {
    fn read(text: &str) -> Option<(Self, &str)> {
        // Longer ones first: `<` begins `<=`.
        let words = [
            ("!=", Self::NotEqual),
            ("<=", Self::LessOrEqual),
            (">=", Self::GreaterOrEqual),
            ("=", Self::Equal),
            ("<", Self::Less),
            (">", Self::Greater),
        ];
        words.into_iter().find_map(|(word, op)| Some((op, text.strip_prefix(word)?)))
    }
}

fn read_value(text: &str) -> Result<(String, &str), ApiError> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, rest) =
            quoted.split_once('"').ok_or_else(|| bad("a quoted value has no end".to_owned()))?;
        return Ok((value.to_owned(), rest));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    if value.is_empty() { Err(bad("a value is missing".to_owned())) } else { Ok((value.to_owned(), rest)) }
}

/// The number of `run-42`, `backfill-7` or `3`.
fn number_in(text: &str) -> Option<u64> {
    text.rsplit('-').next().and_then(|digits| digits.parse().ok())
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn matches_stars(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
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

fn run_field(run: &Run, field: &str) -> Field {
    let time =
        |at: Option<matins_proto::Timestamp>| at.map_or(Field::Absent, |at| Field::Time(core_time(at)));
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
        _ => Field::Absent,
    }
}

fn origin_word(kind: run_origin::Kind) -> &'static str {
    kind.as_str_name()
}

#[cfg(test)]
mod tests {
    use matins_proto::v1::run;
    use proptest::prelude::*;

    use super::*;

    fn failed_run() -> Run {
        Run {
            id: "run-42".into(),
            workflow: "warehouse/nightly".into(),
            version: Some(3),
            state: run::State::Failed.into(),
            created_at: Some(matins_proto::Timestamp::parse("2026-03-08T07:30:00Z").unwrap()),
            params: Some(matins_proto::Json { text: r#"{"day":"2026-03-07","batch":500}"#.into() }),
            labels: [("team".to_owned(), "data".to_owned())].into(),
            ..Run::default()
        }
    }

    #[test]
    fn terms_ask_by_text_number_and_time() {
        for (filter, expected) in [
            ("", true),
            ("state = failed", true),
            ("state != failed", false),
            ("workflow=warehouse/* and labels.team = data", true),
            ("workflow = *nightly AND id > run-9", true),
            ("id >= run-43", false),
            ("version < 10", true),
            ("params.batch = 500", true),
            ("params.day = \"2026-03-07\" AND state=success", false),
            ("created_at = 2026-03-08", true),
            ("created_at > 2026-03-08", false),
            ("created_at <= 2026-03-08T07:30:00Z", true),
            ("backfill = backfill-1", false),
            ("backfill != backfill-1", true),
        ] {
            let read = Filter::of_runs(filter).unwrap_or_else(|error| panic!("{filter}: {error:?}"));
            assert_eq!(read.takes_run(&failed_run()), expected, "{filter}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for filter in
            ["stat = failed", "state", "state = ", "state = a state = b", "id = \"x", "created_at > soon"]
        {
            assert!(Filter::of_runs(filter).is_err(), "{filter}");
        }
    }

    proptest! {
        #[test]
        fn a_filter_of_any_text_is_read_or_refused(
            text in "[a-z_.=<>!~\"'()* 0-9]{0,60}", other in ".{0,40}",
        ) {
            for text in [&text, &other] {
                if let Ok(filter) = Filter::of_runs(text) {
                    drop(format!("{filter:?}"));
                }
                drop(Filter::of_workflows(text));
            }
        }
    }
}
