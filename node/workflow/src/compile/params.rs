//! `params` of a workflow and of a schedule.

use std::collections::BTreeMap;

use matins_core::id::TaskName;
use matins_core::ir::{Param, ParamKind};
use serde_json::Value as Json;

use super::keys::{PARAM, PARAM_KINDS_LATER};
use super::read::{self, Fields};
use super::texts;
use crate::calendar::Zone;
use crate::diagnostic::{Reporter, did_you_mean};
use crate::params::{check_value, has_order, typed, whole_pattern};
use crate::template::names::{ItemUse, Names};
use crate::yaml::{Node, Style, Value};

const KINDS: &[(&str, ParamKind)] = &[
    ("string", ParamKind::String),
    ("int", ParamKind::Int),
    ("float", ParamKind::Float),
    ("bool", ParamKind::Bool),
    ("date", ParamKind::Date),
    ("datetime", ParamKind::Datetime),
    ("duration", ParamKind::Duration),
    ("enum", ParamKind::Enum),
    ("json", ParamKind::Json),
    ("list", ParamKind::List),
];

/// The names that a default, or a schedule's value, may use: times, since there is no run yet.
pub(crate) fn names_before_run(place: &str) -> Names<'_> {
    Names { place, params: None, tasks: None, item: ItemUse::None, env: None }
}

pub(crate) fn params(reporter: &mut Reporter<'_>, node: &Node, zone: &Zone) -> Vec<Param> {
    let entries = read::map(reporter, node, "`params`").unwrap_or_default();
    let read = |entry: &crate::yaml::Entry| {
        let what = format!("param `{}`", entry.key);
        let name = read::name_of(reporter, &entry.key, entry.key_span, &what)?;
        param(reporter, name, &entry.value, zone)
    };
    entries.iter().filter_map(read).collect()
}

fn param(reporter: &mut Reporter<'_>, name: TaskName, node: &Node, zone: &Zone) -> Option<Param> {
    let what = format!("param `{name}`");
    match &node.value {
        Value::Scalar(scalar) if scalar.is_null() => {
            reporter
                .error(node.span, "empty-value", format!("{what} has neither a type nor a default"))
                .hint(format!("write `{name}: {{ type: string }}`"));
            None
        }
        Value::Scalar(scalar) => {
            let is_type = KINDS.iter().any(|(word, _)| *word == scalar.text);
            if is_type && scalar.style == Style::Plain {
                let text = &scalar.text;
                reporter
                    .warning(
                        node.span,
                        "type-as-default",
                        format!("the default of {what} is the text `{text}`"),
                    )
                    .hint(format!(
                        "for the type write `{name}: {{ type: {text} }}`, for the text put it in quotes"
                    ));
            }
            short_form(reporter, name, node, zone)
        }
        Value::List(_) => {
            reporter
                .error(node.span, "wrong-type", format!("{what} takes a default value or a map of keys"))
                .hint(format!("write `{name}: {{ type: list, default: [..] }}`"));
            None
        }
        Value::Map(_) => long_form(reporter, name, node, zone),
    }
}

/// `batch: 500`: the type is that of the value.
fn short_form(reporter: &mut Reporter<'_>, name: TaskName, node: &Node, zone: &Zone) -> Option<Param> {
    let Value::Scalar(scalar) = &node.value else { return None };
    let kind = match read::scalar_json(scalar) {
        Some(Json::Bool(_)) => ParamKind::Bool,
        Some(Json::Number(number)) if number.is_i64() => ParamKind::Int,
        Some(Json::Number(_)) => ParamKind::Float,
        _ => ParamKind::String,
    };
    let mut param = empty(name, kind);
    default(reporter, &mut param, node, zone);
    Some(param)
}

fn empty(name: TaskName, kind: ParamKind) -> Param {
    Param {
        name,
        kind,
        default: None,
        values: Vec::new(),
        min: None,
        max: None,
        pattern: None,
        length_max: None,
        items: None,
        description: String::new(),
    }
}

fn long_form(reporter: &mut Reporter<'_>, name: TaskName, node: &Node, zone: &Zone) -> Option<Param> {
    let what = format!("param `{name}`");
    let fields = read::fields(reporter, node, &PARAM, &what)?;
    let kind = match fields.get("type") {
        Some(node) => kind(reporter, node)?,
        None if fields.get("values").is_some() => ParamKind::Enum,
        None => {
            let Some(node) = fields.get("default").filter(|node| !node.is_null()) else {
                reporter
                    .error(node.span, "missing-key", format!("{what} has no `type`"))
                    .hint("write `type: string`, or another of int, float, bool, date, datetime, duration, enum, json, list");
                return None;
            };
            short_form(reporter, name.clone(), node, zone)?.kind
        }
    };
    let mut param = empty(name, kind);
    if let Some(node) = fields.get("description") {
        param.description = read::text(reporter, node, "`description`").unwrap_or_default();
    }
    constraints(reporter, &mut param, &fields, zone);
    if let Some(node) = fields.get("default") {
        default(reporter, &mut param, node, zone);
    }
    if kind == ParamKind::Enum && fields.get("values").is_none() {
        reporter
            .error(node.span, "missing-key", format!("{what} is an enum without `values`"))
            .hint("write `values: [delta, full]`");
    }
    Some(param)
}

fn kind(reporter: &mut Reporter<'_>, node: &Node) -> Option<ParamKind> {
    let text = read::text(reporter, node, "`type`")?;
    if PARAM_KINDS_LATER.contains(&text.as_str()) {
        let message = format!("the type `{text}` is part of the language but not of this release");
        reporter.error(node.span, "later", message);
        return None;
    }
    read::choice(reporter, node, "`type`", KINDS)
}

fn constraints(reporter: &mut Reporter<'_>, param: &mut Param, fields: &Fields<'_>, zone: &Zone) {
    let kind = param.kind;
    for node in fields.get("values").map(read::one_or_more).unwrap_or_default() {
        param.values.extend(constraint(reporter, kind, node, zone));
    }
    for (key, is_least) in [("min", true), ("max", false)] {
        let Some(node) = fields.get(key) else { continue };
        if !has_order(kind) {
            let span = fields.key_span(key).unwrap_or(node.span);
            reporter
                .error(span, "useless-key", format!("`{key}` means nothing for this type"))
                .hint("int, float, date, datetime and duration have an order; texts have `max_length`");
            continue;
        }
        let bound = constraint(reporter, kind, node, zone);
        if is_least {
            param.min = bound;
        } else {
            param.max = bound;
        }
    }
    if let Some(node) = fields.get("pattern") {
        let pattern = read::text(reporter, node, "`pattern`");
        if let Some(fault) = pattern.as_deref().and_then(|pattern| whole_pattern(pattern).err()) {
            let fault = fault.to_string();
            let reason = fault.lines().last().unwrap_or_default().trim_start_matches("error: ");
            reporter.error(node.span, "pattern", format!("this is no regular expression: {reason}"));
        } else {
            param.pattern = pattern;
        }
    }
    if let Some(node) = fields.get("max_length") {
        let length = read::integer(reporter, node, "`max_length`", (0, i64::from(u32::MAX)));
        param.length_max = length.map(|length| length as u32);
    }
    if let Some(node) = fields.get("items") {
        if kind == ParamKind::List {
            param.items = self::kind(reporter, node);
        } else {
            reporter.error(node.span, "useless-key", "`items` goes with `type: list`");
        }
    }
}

/// A value of the param's kind that is written in the file.
fn constraint(reporter: &mut Reporter<'_>, kind: ParamKind, node: &Node, zone: &Zone) -> Option<String> {
    let json = value_of_kind(reporter, kind, node);
    match typed(kind, &json, zone) {
        Ok(json) => Some(json.to_string()),
        Err(message) => {
            reporter.error(node.span, "param-value", message);
            None
        }
    }
}

/// The source text decides for params of text, dates and the like: `1.10` stays `1.10` (LANGUAGE 1.15).
fn value_of_kind(reporter: &mut Reporter<'_>, kind: ParamKind, node: &Node) -> Json {
    match (&node.value, kind) {
        (
            Value::Scalar(scalar),
            ParamKind::String | ParamKind::Enum | ParamKind::Date | ParamKind::Datetime | ParamKind::Duration,
        ) if !scalar.is_null() => Json::String(scalar.text.clone()),
        _ => read::json(reporter, node),
    }
}

fn default(reporter: &mut Reporter<'_>, param: &mut Param, node: &Node, zone: &Zone) {
    let json = value_of_kind(reporter, param.kind, node);
    param.default = Some(json.to_string());
    check(reporter, param, node, (&json, zone), "the default of a param");
}

/// Checks a value as far as it is known: one with templates must wait for a run.
fn check(reporter: &mut Reporter<'_>, param: &Param, node: &Node, (json, zone): (&Json, &Zone), place: &str) {
    if holds_template(node) {
        texts::json(reporter, node, &names_before_run(place));
    } else if let Err(fault) = check_value(param, json, zone) {
        reporter.error(node.span, "param-value", fault.to_string()).maybe_hint(fault.hint);
    }
}

fn holds_template(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.contains("{{"),
        Value::List(items) => items.iter().any(holds_template),
        Value::Map(entries) => entries.iter().any(|entry| holds_template(&entry.value)),
    }
}

/// `params` of a schedule: over the defaults of the workflow.
pub(crate) fn of_schedule(
    reporter: &mut Reporter<'_>,
    node: &Node,
    params: &[Param],
    zone: &Zone,
) -> BTreeMap<TaskName, String> {
    let mut found = BTreeMap::new();
    for entry in read::map(reporter, node, "`params` of a schedule").unwrap_or_default() {
        let Some(param) = params.iter().find(|param| param.name.as_str() == entry.key) else {
            let hint = did_you_mean(&entry.key, params.iter().map(|param| param.name.as_str()));
            let message = format!("the workflow declares no param `{}`", entry.key);
            reporter.error(entry.key_span, "unknown-param", message).maybe_hint(hint);
            continue;
        };
        let json = value_of_kind(reporter, param.kind, &entry.value);
        check(reporter, param, &entry.value, (&json, zone), "the params of a schedule");
        found.insert(param.name.clone(), json.to_string());
    }
    found
}
