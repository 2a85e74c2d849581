//! Parameters of a run: given values, a schedule's and defaults, checked against what the workflow declares.
//!
//! Start reading at [`resolve_params`].

use matins_core::id::ScheduleName;
use matins_core::ir::{Param, ParamKind, Workflow};
use serde_json::{Map, Number, Value as Json};

use crate::calendar::{UserTime, Zone, parse_duration};
use crate::diagnostic::did_you_mean;
use crate::template::{Scope, render_json};

/// DESIGN 5: all parameters of one run, as JSON.
pub const PARAMS_BYTES_MAX: usize = 256 << 10;

/// Why a parameter was turned down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("param `{param}`: {message}")]
pub struct ParamFault {
    /// Which one.
    pub param: String,
    /// What is wrong.
    pub message: String,
    /// What to give instead.
    pub hint: Option<String>,
}

impl ParamFault {
    fn new(param: &str, message: impl Into<String>) -> Self {
        Self { param: param.to_owned(), message: message.into(), hint: None }
    }

    fn with_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }
}

/// The parameters of a run, in the order of the file: `given` first, then those of `schedule`, then defaults.
///
/// Templates of the latter two are rendered in `scope`, of which they see the times. Values may come as text (from
/// a command line) or typed. All faults at once.
pub fn resolve_params(
    ir: &Workflow,
    schedule: Option<&ScheduleName>,
    given: &Map<String, Json>,
    scope: &Scope,
) -> Result<Map<String, Json>, Vec<ParamFault>> {
    let mut faults: Vec<_> = given
        .keys()
        .filter(|name| !ir.params.iter().any(|param| param.name.as_str() == *name))
        .map(|name| {
            let hint = did_you_mean(name, ir.params.iter().map(|param| param.name.as_str()));
            ParamFault::new(name, "the workflow declares no such param").with_hint(hint)
        })
        .collect();
    let schedule = ir.schedules.iter().find(|one| Some(&one.name) == schedule);
    let mut resolved = Map::new();
    for param in &ir.params {
        let name = param.name.as_str();
        let template =
            schedule.and_then(|schedule| schedule.params.get(&param.name)).or(param.default.as_ref());
        let value = match (given.get(name), template) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(template)) => render_json(template, scope)
                .map_err(|fault| ParamFault::new(name, fault.to_string()).with_hint(fault.hint)),
            (None, None) => {
                let hint = format!("give one, as in `-p {name}=VALUE`");
                Err(ParamFault::new(name, "it has no default and no value was given").with_hint(Some(hint)))
            }
        };
        match value.and_then(|value| check_value(param, &value, &scope.timezone)) {
            Ok(value) => {
                resolved.insert(name.to_owned(), value);
            }
            Err(fault) => faults.push(fault),
        }
    }
    let bytes = Json::Object(resolved.clone()).to_string().len();
    if bytes > PARAMS_BYTES_MAX {
        let message =
            format!("the params of a run have {PARAMS_BYTES_MAX} bytes at most, these have {bytes}");
        faults.push(ParamFault::new("*", message).with_hint(Some("put large data in a file".to_owned())));
    }
    if faults.is_empty() { Ok(resolved) } else { Err(faults) }
}

/// `value` as the parameter keeps it, if it takes it.
pub(crate) fn check_value(param: &Param, value: &Json, zone: &Zone) -> Result<Json, ParamFault> {
    let fault = |message: String| ParamFault::new(param.name.as_str(), message);
    if value.is_null() {
        // `default: null` makes a param optional; `null` is also JSON.
        if param.default.as_deref() == Some("null") || param.kind == ParamKind::Json {
            return Ok(Json::Null);
        }
        return Err(fault("it is null".to_owned())
            .with_hint(Some("`default: null` in the file makes it optional".to_owned())));
    }
    let value = typed(param.kind, value, zone).map_err(fault)?;
    let value = match (&value, param.items) {
        (Json::Array(items), Some(kind)) => {
            let items = items.iter().enumerate().map(|(index, item)| {
                typed(kind, item, zone).map_err(|message| fault(format!("item {index}: {message}")))
            });
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        _ => value,
    };
    check_values(param, &value).map_err(fault)?;
    check_bounds(param, &value, zone).map_err(fault)?;
    check_text(param, &value).map_err(fault)?;
    Ok(value)
}

/// `value` as a value of `kind`; text is read, since a command line has nothing else.
pub(crate) fn typed(kind: ParamKind, value: &Json, zone: &Zone) -> Result<Json, String> {
    let not_a = |what: &str| format!("`{}` is not {what}", shown(value));
    match (kind, value) {
        (ParamKind::String | ParamKind::Enum, Json::String(_))
        | (ParamKind::Json, _)
        | (ParamKind::Float, Json::Number(_))
        | (ParamKind::Bool, Json::Bool(_))
        | (ParamKind::List, Json::Array(_)) => Ok(value.clone()),
        (ParamKind::String | ParamKind::Enum, Json::Number(number)) => Ok(Json::String(number.to_string())),
        (ParamKind::String | ParamKind::Enum, _) => Err(not_a("text")),
        (ParamKind::Int, Json::Number(number)) if number.is_i64() => Ok(value.clone()),
        // 3.0 is what a division gives.
        (ParamKind::Int, Json::Number(number)) => number
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
            .map(|float| Json::from(float as i64))
            .ok_or_else(|| not_a("a whole number of 64 bits")),
        (ParamKind::Int, Json::String(text)) => {
            text.parse::<i64>().map(Json::from).map_err(|_| not_a("a whole number of 64 bits"))
        }
        (ParamKind::Float, Json::String(text)) => {
            let number = text.parse::<f64>().ok().and_then(Number::from_f64);
            number.map(Json::Number).ok_or_else(|| not_a("a number"))
        }
        (ParamKind::Bool, Json::String(text)) if text == "true" => Ok(Json::Bool(true)),
        (ParamKind::Bool, Json::String(text)) if text == "false" => Ok(Json::Bool(false)),
        (ParamKind::Date, Json::String(text)) => match UserTime::parse(text, zone) {
            Ok(UserTime::Day { .. }) => Ok(value.clone()),
            Ok(UserTime::Instant(_)) | Err(_) => Err(not_a("a date such as `2013-01-31`")),
        },
        (ParamKind::Datetime, Json::String(text)) => match UserTime::parse(text, zone) {
            Ok(UserTime::Instant(_)) => Ok(value.clone()),
            Ok(UserTime::Day { .. }) => Err(not_a("a time such as `2013-01-31T02:30:00Z`")),
            Err(fault) => Err(fault.to_string()),
        },
        (ParamKind::Duration, Json::String(text)) => {
            parse_duration(text).map(|_| value.clone()).map_err(|fault| format!("{fault}; {}", fault.hint))
        }
        (ParamKind::List, Json::String(text)) => match serde_json::from_str(text) {
            Ok(Json::Array(items)) => Ok(Json::Array(items)),
            Ok(_) | Err(_) => Err(not_a("a list such as `[1, 2]`")),
        },
        (ParamKind::Int, _) => Err(not_a("a whole number of 64 bits")),
        (ParamKind::Float, _) => Err(not_a("a number")),
        (ParamKind::Bool, _) => Err(not_a("`true` or `false`")),
        (ParamKind::Date, _) => Err(not_a("a date such as `2013-01-31`")),
        (ParamKind::Datetime, _) => Err(not_a("a time such as `2013-01-31T02:30:00Z`")),
        (ParamKind::Duration, _) => Err(not_a("a duration such as `1h30m`")),
        (ParamKind::List, _) => Err(not_a("a list")),
    }
}

fn check_values(param: &Param, value: &Json) -> Result<(), String> {
    if param.values.is_empty() || param.values.contains(&value.to_string()) {
        return Ok(());
    }
    let known: Vec<_> = param.values.iter().map(|known| format!("`{}`", known.trim_matches('"'))).collect();
    Err(format!("`{}` is not one of {}", shown(value), known.join(", ")))
}

fn check_bounds(param: &Param, value: &Json, zone: &Zone) -> Result<(), String> {
    for (bound, is_least) in [(&param.min, true), (&param.max, false)] {
        let Some(bound) = bound else { continue };
        let bound = serde_json::from_str::<Json>(bound).unwrap_or(Json::Null);
        let (Some(at), Some(limit)) = (measure(param.kind, value, zone), measure(param.kind, &bound, zone))
        else {
            continue;
        };
        if (is_least && at < limit) || (!is_least && at > limit) {
            let word = if is_least { "less than the least" } else { "more than the greatest" };
            return Err(format!("`{}` is {word} value, `{}`", shown(value), shown(&bound)));
        }
    }
    Ok(())
}

/// A value on the scale of its kind; none for kinds without one.
fn measure(kind: ParamKind, value: &Json, zone: &Zone) -> Option<Measure> {
    match kind {
        ParamKind::Int => value.as_i64().map(Measure::Whole),
        ParamKind::Float => value.as_f64().map(Measure::Part),
        ParamKind::Date | ParamKind::Datetime => {
            let time = UserTime::parse(value.as_str()?, zone).ok()?;
            Some(Measure::Whole(time.first().as_millis()))
        }
        ParamKind::Duration => Some(Measure::Whole(parse_duration(value.as_str()?).ok()?.0 as i64)),
        ParamKind::String | ParamKind::Bool | ParamKind::Enum | ParamKind::Json | ParamKind::List => None,
    }
}

/// Whether `kind` has an order, so that `min` and `max` mean something.
pub(crate) fn has_order(kind: ParamKind) -> bool {
    matches!(
        kind,
        ParamKind::Int | ParamKind::Float | ParamKind::Date | ParamKind::Datetime | ParamKind::Duration
    )
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Measure {
    Whole(i64),
    Part(f64),
}

fn check_text(param: &Param, value: &Json) -> Result<(), String> {
    if let Some(most) = param.length_max {
        let (length, unit) = match value {
            Json::String(text) => (text.chars().count(), "characters"),
            Json::Array(items) => (items.len(), "items"),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => (0, "characters"),
        };
        if length > most as usize {
            return Err(format!("it has {length} {unit}, {most} at most"));
        }
    }
    if let (Some(pattern), Some(text)) = (&param.pattern, value.as_str()) {
        let matches = whole_pattern(pattern).map_err(|_| "its pattern cannot be read".to_owned())?;
        if !matches.is_match(text) {
            return Err(format!("`{}` does not match the pattern `{pattern}`", shown(value)));
        }
    }
    Ok(())
}

/// `pattern` for the whole text, of bounded size.
pub(crate) fn whole_pattern(pattern: &str) -> Result<regex::Regex, regex::Error> {
    // On its own first: `a)|(b` would be one only inside the brackets.
    regex::RegexBuilder::new(pattern).size_limit(1 << 20).build()?;
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build()
}

/// A value in a message: text without quotes, and not all of a long one.
fn shown(value: &Json) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}
