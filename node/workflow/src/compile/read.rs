//! Reads nodes by the type of their place (LANGUAGE 1.15): a scalar is text, a number or a word because the key wants
//! one, never because of how it looks. Every function reports what is wrong and gives `None`, so that the reader
//! of the next key still runs.

use std::collections::BTreeMap;
use std::str::FromStr;

use matins_core::id::{NotAnId, RunId};
use matins_core::time::Millis;
use serde_json::{Map, Number, Value as Json};

use super::keys::{ELSEWHERE, Keys};
use crate::calendar::parse_duration;
use crate::diagnostic::{Reporter, Span, did_you_mean, nearest};
use crate::yaml::{Entry, Node, Scalar, Style, Value};

/// The known keys of one map.
pub(crate) struct Fields<'n> {
    entries: BTreeMap<&'n str, &'n Entry>,
    /// Keys without a value; they have been reported.
    empty: Vec<&'n str>,
    /// Keys of the language that are not of this release; they have been reported.
    pub(crate) later: Vec<&'n str>,
}

impl<'n> Fields<'n> {
    pub(crate) fn none() -> Self {
        Self { entries: BTreeMap::new(), empty: Vec::new(), later: Vec::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Whether the key stands there, be it without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key) || self.empty.contains(&key)
    }

    pub(crate) fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.get(key).map(|entry| entry.key_span)
    }
}

/// The keys of `node`, which is `what`.
pub(crate) fn fields<'n>(
    reporter: &mut Reporter<'_>,
    node: &'n Node,
    keys: &Keys,
    what: &str,
) -> Option<Fields<'n>> {
    let entries = map(reporter, node, what)?;
    let mut fields = Fields::none();
    for entry in entries {
        let key = entry.key.as_str();
        if keys.now.contains(&key) {
            if entry.value.is_null() && !keys.nullable.contains(&key) {
                reporter
                    .error(entry.key_span, "empty-value", format!("`{key}` of {what} has no value"))
                    .hint("give it one, or delete the line");
                fields.empty.push(key);
            } else {
                fields.entries.insert(key, entry);
            }
        } else if keys.later.contains(&key) {
            let message = format!("`{key}` is part of the language but not of this release");
            reporter.error(entry.key_span, "later", message);
            fields.later.push(key);
        } else {
            unknown_key(reporter, entry, keys, what);
        }
    }
    Some(fields)
}

fn unknown_key(reporter: &mut Reporter<'_>, entry: &Entry, keys: &Keys, what: &str) {
    let key = entry.key.as_str();
    let known = || keys.now.iter().chain(keys.later).copied();
    let lower = key.to_lowercase().replace('-', "_");
    let elsewhere = ELSEWHERE.iter().find(|(other, ours)| *other == lower && keys.now.contains(ours));
    let hint = match elsewhere {
        _ if reporter.is_full() => None,
        Some((_, ours)) => Some(format!("that is `{ours}` here")),
        None => nearest(key, known())
            .map(|name| format!("did you mean `{name}`?"))
            .or_else(|| did_you_mean(key, keys.now.iter().copied())),
    };
    reporter.error(entry.key_span, "unknown-key", format!("{what} has no key `{key}`")).maybe_hint(hint);
}

pub(crate) fn map<'n>(reporter: &mut Reporter<'_>, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        Value::Scalar(_) | Value::List(_) => {
            wrong_type(reporter, node, what, "a map of keys");
            None
        }
    }
}

pub(crate) fn wrong_type(reporter: &mut Reporter<'_>, node: &Node, what: &str, wanted: &str) {
    // To YAML a plain `{{ x }}` is a map in a map; it has been reported as what it is.
    if !reporter.text[node.span.start..].starts_with("{{") {
        reporter.error(node.span, "wrong-type", format!("{what} takes {wanted}, not {}", node.kind()));
    }
}

pub(crate) fn scalar<'n>(reporter: &mut Reporter<'_>, node: &'n Node, what: &str) -> Option<&'n Scalar> {
    match &node.value {
        Value::Scalar(scalar) if !scalar.is_null() => Some(scalar),
        Value::Scalar(_) => {
            reporter
                .error(node.span, "empty-value", format!("{what} has no value"))
                .hint("an empty text is written `\"\"`");
            None
        }
        Value::List(_) | Value::Map(_) => {
            wrong_type(reporter, node, what, "one value");
            None
        }
    }
}

/// The text as the source has it: `1.10` stays `1.10`.
pub(crate) fn text(reporter: &mut Reporter<'_>, node: &Node, what: &str) -> Option<String> {
    scalar(reporter, node, what).map(|scalar| scalar.text.clone())
}

/// One text, or a list of them.
pub(crate) fn one_or_more(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::List(items) => items.iter().collect(),
        Value::Scalar(_) | Value::Map(_) => vec![node],
    }
}

/// A whole number without quotes, within `least..=most`.
pub(crate) fn integer(
    reporter: &mut Reporter<'_>,
    node: &Node,
    what: &str,
    (least, most): (i64, i64),
) -> Option<i64> {
    let scalar = scalar(reporter, node, what)?;
    let number = whole_number(scalar);
    let Some(number) = number else {
        let message = format!("{what} takes a whole number, not {}", shown(scalar));
        reporter.error(node.span, "wrong-type", message);
        return None;
    };
    if (least..=most).contains(&number) {
        return Some(number);
    }
    let bound = if number < least { format!("{least} at least") } else { format!("{most} at most") };
    reporter.error(node.span, "out-of-range", format!("{what} takes {bound}, not {number}"));
    None
}

/// As it stands in the file, and with what tells a text from a number.
fn shown(scalar: &Scalar) -> String {
    match scalar.style {
        Style::Plain => format!("`{}`", scalar.text),
        Style::SingleQuoted | Style::DoubleQuoted | Style::Block => format!("the text `{}`", scalar.text),
    }
}

fn whole_number(scalar: &Scalar) -> Option<i64> {
    let digits = scalar.text.strip_prefix('-').unwrap_or(&scalar.text);
    let is_plain = scalar.style == Style::Plain && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { scalar.text.parse().ok() } else { None }
}

/// A number with up to three decimals, in thousandths, within `least..=most` thousandths.
pub(crate) fn permille(
    reporter: &mut Reporter<'_>,
    node: &Node,
    what: &str,
    (least, most): (u32, u32),
) -> Option<u32> {
    let scalar = scalar(reporter, node, what)?;
    let (whole, part) = scalar.text.split_once('.').unwrap_or((&scalar.text, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let permille = if are_digits(whole) && are_digits(part) && part.len() <= 3 {
        format!("{whole}{part:0<3}").parse::<u32>().ok()
    } else {
        None
    };
    let Some(permille) = permille else {
        let message = format!("{what} takes a number such as `1.5`, not `{}`", scalar.text);
        reporter.error(node.span, "wrong-type", message).hint("three decimals at most");
        return None;
    };
    if (least..=most).contains(&permille) {
        return Some(permille);
    }
    let shown = |permille: u32| format!("{}", f64::from(permille) / 1_000.0);
    let message = format!("{what} lies between {} and {}, not at {}", shown(least), shown(most), scalar.text);
    reporter.error(node.span, "out-of-range", message);
    None
}

/// `true` or `false` without quotes.
pub(crate) fn boolean(reporter: &mut Reporter<'_>, node: &Node, what: &str) -> Option<bool> {
    let scalar = scalar(reporter, node, what)?;
    match (scalar.style, scalar.text.as_str()) {
        (Style::Plain, "true") => return Some(true),
        (Style::Plain, "false") => return Some(false),
        _ => {}
    }
    let hint = match scalar.text.to_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => Some("write `true`"),
        "no" | "off" | "false" | "0" => Some("write `false`"),
        _ => None,
    };
    let message = format!("{what} takes `true` or `false`, not {}", shown(scalar));
    reporter.error(node.span, "wrong-type", message).maybe_hint(hint.map(str::to_owned));
    None
}

/// A length of time, within `least..=most`.
pub(crate) fn duration(
    reporter: &mut Reporter<'_>,
    node: &Node,
    what: &str,
    (least, most): (Millis, Millis),
) -> Option<Millis> {
    let scalar = scalar(reporter, node, what)?;
    match parse_duration(&scalar.text) {
        Ok(span) if (least..=most).contains(&span) => Some(span),
        Ok(span) => {
            let bound = if span < least { format!("{least} at least") } else { format!("{most} at most") };
            let message = format!("{what} takes {bound}, not {}", scalar.text);
            reporter.error(node.span, "out-of-range", message);
            None
        }
        Err(fault) => {
            reporter.error(node.span, "duration", format!("{what}: {fault}")).hint(fault.hint.clone());
            None
        }
    }
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(
    reporter: &mut Reporter<'_>,
    node: &Node,
    what: &str,
    words: &[(&str, T)],
) -> Option<T> {
    let scalar = scalar(reporter, node, what)?;
    if let Some((_, choice)) = words.iter().find(|(word, _)| *word == scalar.text) {
        return Some(*choice);
    }
    let hint = did_you_mean(&scalar.text, words.iter().map(|(word, _)| *word));
    let message = format!("{what} cannot be `{}`", scalar.text);
    reporter.error(node.span, "unknown-word", message).maybe_hint(hint);
    None
}

/// A name of the kind `T`, from a scalar.
pub(crate) fn name<T>(reporter: &mut Reporter<'_>, node: &Node, what: &str) -> Option<T>
where
    T: FromStr<Err = NotAnId>,
{
    let scalar = scalar(reporter, node, what)?;
    name_of(reporter, &scalar.text, node.span, what)
}

/// A name of the kind `T`, from a key or a scalar (LANGUAGE 1.7).
pub(crate) fn name_of<T>(reporter: &mut Reporter<'_>, text: &str, span: Span, what: &str) -> Option<T>
where
    T: FromStr<Err = NotAnId>,
{
    let fault = match text.parse() {
        Ok(name) => return Some(name),
        Err(fault) => fault,
    };
    let hyphens = || text.trim().to_lowercase().replace([' ', '/'], "-");
    let better = [text.replace(['-', ' ', '.'], "_"), hyphens()];
    let hint = if text.len() > 63 {
        Some("a name has 63 characters at most".to_owned())
    } else if text.parse::<RunId>().is_ok() {
        Some("a name of the form `run-42` would be read as a run".to_owned())
    } else {
        better
            .into_iter()
            .find(|better| better.parse::<T>().is_ok())
            .map(|better| format!("write `{better}`"))
    };
    // The rule stands in brackets behind the kind of name.
    let rule = fault.expected.split_once('(').map_or(fault.expected, |(_, rule)| rule.trim_end_matches(')'));
    let message = format!("{what} cannot be named `{text}`: a name here is {rule}");
    reporter.error(span, "name", message).maybe_hint(hint);
    None
}

/// A map of texts, in the order of the file.
pub(crate) fn texts<'n>(reporter: &mut Reporter<'_>, node: &'n Node, what: &str) -> Vec<(&'n Entry, String)> {
    let entries = map(reporter, node, what).unwrap_or_default();
    let read = |entry: &'n Entry| {
        let value = text(reporter, &entry.value, &format!("`{}` of {what}", entry.key))?;
        Some((entry, value))
    };
    entries.iter().filter_map(read).collect()
}

/// A node in a place for JSON: here, and only here, a plain scalar is what it looks like.
pub(crate) fn json(reporter: &mut Reporter<'_>, node: &Node) -> Json {
    match &node.value {
        Value::Scalar(scalar) => scalar_json(scalar).unwrap_or_else(|| {
            let message = format!("the number `{}` needs more than 64 bits", scalar.text);
            reporter.error(node.span, "out-of-range", message).hint("quotes make it text");
            Json::Null
        }),
        Value::List(items) => Json::Array(items.iter().map(|item| json(reporter, item)).collect()),
        Value::Map(entries) => {
            let mut fields = Map::new();
            for entry in entries {
                fields.insert(entry.key.clone(), json(reporter, &entry.value));
            }
            Json::Object(fields)
        }
    }
}

/// None: a whole number that is too large.
pub(crate) fn scalar_json(scalar: &Scalar) -> Option<Json> {
    let text = scalar.text.as_str();
    if scalar.is_null() {
        return Some(Json::Null);
    }
    if scalar.style != Style::Plain {
        return Some(Json::String(text.to_owned()));
    }
    match text {
        "true" => return Some(Json::Bool(true)),
        "false" => return Some(Json::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let begins_like_number = unsigned.starts_with(|first: char| first.is_ascii_digit());
    // `0123` is a text: a number would lose its zero.
    let has_lost_zero = unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.starts_with("0.");
    if !begins_like_number || has_lost_zero {
        return Some(Json::String(text.to_owned()));
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let signed = text.parse::<i64>().ok().map(Number::from);
        return signed.or_else(|| text.parse::<u64>().ok().map(Number::from)).map(Json::Number);
    }
    let is_float = unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    let number = if is_float { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None };
    Some(number.map_or_else(|| Json::String(text.to_owned()), Json::Number))
}
