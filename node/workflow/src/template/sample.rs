//! Evaluates an expression with sample values, before there is a run: finds syntax errors, wrong arguments of filters
//! and what can never be right, without a real value being near.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the template engine's, and grow without us"
)]

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, ErrorKind};

use super::names::{Checked, Finding, Names};
use super::value::{from_json, kind_name};
use super::{dates, engine, moment};
use crate::calendar::Zone;
use crate::diagnostic::Severity;
use matins_core::ir::ParamKind;
use matins_core::time::Timestamp;
use serde_json::json;

/// What the place wants of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Text, for which null is no value.
    Text,
    /// Any JSON.
    Json,
    /// True or false.
    Condition,
}

/// Debug information names what is undefined and where; there are only sample values to be seen.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut engine = engine();
    engine.set_debug(true);
    engine
});

/// 2013-01-02T07:30:00Z, any tick.
const SAMPLE_TIME: Timestamp = Timestamp::from_millis(1_357_111_800_000);

/// What an evaluation of `expr` with sample values finds beyond `checked`.
pub(crate) fn sample(expr: &str, names: &Names<'_>, checked: &Checked, wanted: Wanted) -> Option<Finding> {
    let result = ENGINE.compile_expression(expr).and_then(|compiled| compiled.eval(context(names)));
    match result {
        Err(error) => finding(expr, &error, checked),
        // Another value may be right.
        Ok(_) if checked.is_open || !checked.findings.is_empty() => None,
        Ok(value) if wanted == Wanted::Condition && value.kind() != ValueKind::Bool => Some(Finding {
            range: whole(expr),
            severity: Severity::Error,
            code: "condition-type",
            message: format!("a condition must give true or false, and this gives {}", kind_name(&value)),
            hint: Some("compare it, as in `params.mode == 'full'`, or use `| bool`".to_owned()),
        }),
        Ok(value) if wanted == Wanted::Text && value.is_none() => Some(Finding {
            range: whole(expr),
            severity: Severity::Error,
            code: "template-null",
            message: "this is null, which has no text".to_owned(),
            hint: Some("write `| default('', true)` behind it".to_owned()),
        }),
        Ok(_) => None,
    }
}

fn finding(expr: &str, error: &minijinja::Error, checked: &Checked) -> Option<Finding> {
    let range = error.range().filter(|range| range.end <= expr.len()).unwrap_or_else(|| whole(expr));
    let detail = || error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let (severity, code, message) = match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape => {
            (Severity::Error, "template-syntax", format!("this expression cannot be read: {}", detail()))
        }
        ErrorKind::TooManyArguments => {
            (Severity::Error, "template-arguments", format!("too many arguments{}", colon(error)))
        }
        ErrorKind::MissingArgument => {
            (Severity::Error, "template-arguments", format!("an argument is missing{}", colon(error)))
        }
        ErrorKind::OutOfFuel => (Severity::Error, "template-limit", "this takes too many steps".to_owned()),
        // Names were checked in the tree, where they have a better place.
        ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod => return None,
        _ if checked.is_open || !checked.findings.is_empty() => return None,
        _ => (
            Severity::Warning,
            "template-value",
            format!("with sample values this cannot be evaluated: {}", detail()),
        ),
    };
    let hint = if code == "template-syntax" { syntax_hint(expr) } else { None };
    Some(Finding { range, severity, code, message, hint })
}

/// What people bring along from other languages.
fn syntax_hint(expr: &str) -> Option<String> {
    let is_single_equals = expr.match_indices('=').any(|(at, _)| {
        let before = expr[..at].chars().next_back();
        let after = expr[at + 1..].chars().next();
        after != Some('=') && !matches!(before, Some('=' | '!' | '<' | '>'))
    });
    let hint = if expr.contains("&&") || expr.contains("||") {
        "write `and` and `or`"
    } else if expr.contains('!') && !expr.contains("!=") {
        "write `not`"
    } else if expr.contains('$') {
        "variables of a shell need no braces of ours: `$NAME`"
    } else if is_single_equals {
        "`==` compares"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

fn colon(error: &minijinja::Error) -> String {
    error.detail().map(|detail| format!(": {detail}")).unwrap_or_default()
}

fn whole(expr: &str) -> Range<usize> {
    let start = expr.len() - expr.trim_start().len();
    start..expr.trim_end().len().max(start)
}

fn context(names: &Names<'_>) -> Value {
    let zone = Zone::utc();
    let time = || moment::Moment::value(SAMPLE_TIME, &zone);
    let anything = || Value::from_object(Anything);
    let params = names.params.iter().flat_map(|params| params.iter());
    let params = Value::from_pairs(params.map(|(name, kind)| (name.clone(), sample_of(*kind))));
    Value::from_pairs([
        (dates::ZONE_KEY, time()),
        ("params", params),
        ("logical_time", time()),
        ("interval_end", time()),
        ("interval_start", time()),
        (
            "run",
            from_json(&json!({
                "id": "run-1", "workflow": "workflow", "namespace": "default", "version": 1, "schedule": "nightly",
                "backfill": null, "started_at": "2013-01-02T07:30:00Z",
            })),
        ),
        ("tasks", anything()),
        ("env", anything()),
        ("item", anything()),
        ("item_index", Value::from(0)),
    ])
}

fn sample_of(kind: ParamKind) -> Value {
    match kind {
        ParamKind::String | ParamKind::Enum => Value::from("text"),
        ParamKind::Int => Value::from(1),
        ParamKind::Float => Value::from(1.5),
        ParamKind::Bool => Value::from(true),
        ParamKind::Date => Value::from("2013-01-02"),
        ParamKind::Datetime => Value::from("2013-01-02T07:30:00Z"),
        ParamKind::Duration => Value::from("1h"),
        ParamKind::Json | ParamKind::List => Value::from_object(Anything),
    }
}

/// Stands for a value that only a run knows: it has every part, and one item.
#[derive(Debug)]
struct Anything;

impl Object for Anything {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::from_object(Self))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(1)
    }
}
