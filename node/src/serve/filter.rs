//! The filter of lists: terms `FIELD OP VALUE`, joined by AND, OR, NOT and parentheses (`ListRunsRequest.filter`).
//!
//! A filter is read once, with its fault named and shown, and then asked of each line of a list. `read` has the
//! grammar, `fields` what a line has in a field. Start reading at [`Filter::of_runs`].

mod fields;
mod read;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use matins_core::id::WorkflowName;
use matins_core::state::RunState;
use matins_core::time::Timestamp;
use matins_proto::v1::{Run, Workflow};
use regex::Regex;

use self::fields::{Field, number_in, run_field, run_kind, workflow_field, workflow_kind};
use super::error::ApiError;

/// A filter that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter(Option<Expr>);

/// What a filter asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Is(Term),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    op: Op,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Matches,
}

/// A value, read by what its field is.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    /// The first and last instant of a time.
    Time(Timestamp, Timestamp),
    /// Milliseconds.
    Span(u64),
    Pattern(Regex),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Time(a, b), Self::Time(c, d)) => (a, b) == (c, d),
            (Self::Span(a), Self::Span(b)) => a == b,
            (Self::Pattern(a), Self::Pattern(b)) => a.as_str() == b.as_str(),
            (Self::Text(_) | Self::Time(..) | Self::Span(_) | Self::Pattern(_), _) => false,
        }
    }
}

impl Eq for Value {}

impl Filter {
    /// Reads a filter of runs.
    pub(crate) fn of_runs(text: &str) -> Result<Self, ApiError> {
        read::filter(text, run_kind).map(Self)
    }

    /// Reads a filter of workflows.
    pub(crate) fn of_workflows(text: &str) -> Result<Self, ApiError> {
        read::filter(text, workflow_kind).map(Self)
    }

    /// Whether a run is meant.
    pub(crate) fn takes_run(&self, run: &Run) -> bool {
        self.0.as_ref().is_none_or(|expr| expr.takes(&|field| run_field(run, field)))
    }

    /// Whether no run of this workflow that ended in this state is meant, whatever else is known of it.
    pub(crate) fn leaves_out(&self, workflow: &WorkflowName, state: RunState) -> bool {
        let known = |field: &str| match field {
            "workflow" => Some(Field::Text(workflow.to_string())),
            "namespace" => Some(Field::Text(workflow.namespace.to_string())),
            "state" => Some(Field::Text(state.as_str().to_owned())),
            _ => None,
        };
        self.0.as_ref().is_some_and(|expr| expr.judges(&known) == Some(false))
    }

    /// Whether a workflow is meant.
    pub(crate) fn takes_workflow(&self, workflow: &Workflow) -> bool {
        self.0.as_ref().is_none_or(|expr| expr.takes(&|field| workflow_field(workflow, field)))
    }
}

impl Expr {
    /// No deeper than what was read, which is bounded.
    fn takes(&self, field: &dyn Fn(&str) -> Field) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.takes(field)),
            Self::Any(parts) => parts.iter().any(|part| part.takes(field)),
            Self::Not(part) => !part.takes(field),
            Self::Is(term) => term.takes(&field(&term.field)),
        }
    }

    /// The same where only some fields are known. `None`: the others decide.
    fn judges(&self, known: &dyn Fn(&str) -> Option<Field>) -> Option<bool> {
        // What one part is enough to decide, and what all of them come to otherwise.
        let joined = |parts: &[Self], enough: bool| {
            let judged: Vec<Option<bool>> = parts.iter().map(|part| part.judges(known)).collect();
            if judged.contains(&Some(enough)) {
                return Some(enough);
            }
            (!judged.contains(&None)).then_some(!enough)
        };
        match self {
            Self::All(parts) => joined(parts, false),
            Self::Any(parts) => joined(parts, true),
            Self::Not(part) => part.judges(known).map(|is_meant| !is_meant),
            Self::Is(term) => known(&term.field).map(|field| term.takes(&field)),
        }
    }
}

impl Term {
    fn takes(&self, field: &Field) -> bool {
        let order = match (field, &self.value) {
            // What is absent differs from every value, and is in no order with any.
            (Field::Absent, _) => return self.op == Op::NotEqual,
            (Field::Time(at), Value::Time(first, _)) if at < first => Ordering::Less,
            (Field::Time(at), Value::Time(_, last)) if at > last => Ordering::Greater,
            (Field::Time(_), Value::Time(..)) => Ordering::Equal,
            (Field::Span(span), Value::Span(asked)) => span.cmp(asked),
            (Field::Number(number, text), Value::Text(asked)) => match number_in(asked) {
                Some(asked) => number.cmp(&asked),
                None => return self.takes_text(text, asked),
            },
            (Field::Text(text), Value::Text(asked)) => return self.takes_text(text, asked),
            (Field::Text(text) | Field::Number(_, text), Value::Pattern(pattern)) => {
                return pattern.is_match(text);
            }
            // A value is read by what its field is, so these do not meet.
            (Field::Text(_) | Field::Number(..) | Field::Time(_) | Field::Span(_), _) => return false,
        };
        match self.op {
            Op::Equal => order == Ordering::Equal,
            Op::NotEqual => order != Ordering::Equal,
            Op::Less => order == Ordering::Less,
            Op::LessOrEqual => order != Ordering::Greater,
            Op::Greater => order == Ordering::Greater,
            Op::GreaterOrEqual => order != Ordering::Less,
            Op::Matches => false,
        }
    }

    fn takes_text(&self, text: &str, asked: &str) -> bool {
        match self.op {
            Op::Equal => matches_stars(asked, text),
            Op::NotEqual => !matches_stars(asked, text),
            Op::Less => text < asked,
            Op::LessOrEqual => text <= asked,
            Op::Greater => text > asked,
            Op::GreaterOrEqual => text >= asked,
            Op::Matches => false,
        }
    }
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
