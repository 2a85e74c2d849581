//! The filters, tests and the one function of the language: exactly those of LANGUAGE 3. Nothing that reads a clock or
//! draws a random number, so that a text renders the same on a new leader (LANGUAGE 1.4).

#![expect(clippy::needless_pass_by_value, reason = "the engine hands the arguments of filters over")]

use std::borrow::Cow;

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, filters, tests};

use super::dates;
use super::value::{RENDERED_BYTES_MAX, from_json, invalid, kind_name, text, to_json};

/// Every filter there is.
pub(crate) const FILTERS: &[&str] = &[
    "abs",
    "add",
    "add_days",
    "add_months",
    "basename",
    "batch",
    "bool",
    "date",
    "datetime",
    "default",
    "dirname",
    "first",
    "float",
    "format",
    "fromjson",
    "in_zone",
    "int",
    "join",
    "last",
    "length",
    "lower",
    "map",
    "max",
    "min",
    "quote",
    "regex_replace",
    "rejectattr",
    "replace",
    "round",
    "select",
    "selectattr",
    "sha256",
    "sort",
    "split",
    "start_of",
    "strftime",
    "sum",
    "tojson",
    "trim",
    "unique",
    "unix",
    "upper",
    "urlencode",
    "weekday",
];

/// Every test there is, as in `x is defined` and `selectattr('n', 'gt', 0)`.
pub(crate) const TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
    "upper",
];

/// Every function there is.
pub(crate) const FUNCTIONS: &[&str] = &["range"];

/// The most numbers that `range` gives.
pub(crate) const RANGE_MAX: i64 = 10_000;

/// Jinja's own, below ours: no expression can write this name.
const JINJA_FORMAT: &str = " format";

pub(crate) fn add_all(env: &mut Environment<'static>) {
    add_filters(env);
    dates::add_all(env);
    add_tests(env);
    env.add_function("range", range);
}

fn add_filters(env: &mut Environment<'static>) {
    env.add_filter("abs", filters::abs);
    env.add_filter("basename", basename);
    env.add_filter("batch", filters::batch);
    env.add_filter("bool", to_bool);
    env.add_filter("default", filters::default);
    env.add_filter("dirname", dirname);
    env.add_filter("first", filters::first);
    env.add_filter("float", filters::float);
    env.add_filter("format", format);
    env.add_filter("fromjson", fromjson);
    env.add_filter("int", filters::int);
    env.add_filter("join", join);
    env.add_filter("last", filters::last);
    env.add_filter("length", length);
    env.add_filter("lower", filters::lower);
    env.add_filter("map", map);
    env.add_filter(JINJA_FORMAT, filters::format);
    env.add_filter("max", filters::max);
    env.add_filter("min", filters::min);
    env.add_filter("quote", quote);
    env.add_filter("regex_replace", regex_replace);
    env.add_filter("rejectattr", filters::rejectattr);
    env.add_filter("replace", replace);
    env.add_filter("round", filters::round);
    env.add_filter("select", filters::select);
    env.add_filter("selectattr", filters::selectattr);
    env.add_filter("sha256", sha256);
    env.add_filter("sort", filters::sort);
    env.add_filter("split", filters::split);
    env.add_filter("sum", filters::sum);
    env.add_filter("tojson", tojson);
    env.add_filter("trim", filters::trim);
    env.add_filter("unique", filters::unique);
    env.add_filter("upper", filters::upper);
    env.add_filter("urlencode", filters::urlencode);
}

fn add_tests(env: &mut Environment<'static>) {
    env.add_test("boolean", tests::is_boolean);
    env.add_test("defined", tests::is_defined);
    env.add_test("divisibleby", tests::is_divisibleby);
    env.add_test("endingwith", tests::is_endingwith);
    env.add_test("eq", tests::is_eq);
    env.add_test("equalto", tests::is_eq);
    env.add_test("even", tests::is_even);
    env.add_test("false", tests::is_false);
    env.add_test("float", tests::is_float);
    env.add_test("ge", tests::is_ge);
    env.add_test("gt", tests::is_gt);
    env.add_test("in", tests::is_in);
    env.add_test("integer", tests::is_integer);
    env.add_test("iterable", tests::is_iterable);
    env.add_test("le", tests::is_le);
    env.add_test("lower", tests::is_lower);
    env.add_test("lt", tests::is_lt);
    env.add_test("mapping", tests::is_mapping);
    env.add_test("ne", tests::is_ne);
    env.add_test("none", tests::is_none);
    env.add_test("number", tests::is_number);
    env.add_test("odd", tests::is_odd);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("startingwith", tests::is_startingwith);
    env.add_test("string", tests::is_string);
    env.add_test("true", tests::is_true);
    env.add_test("undefined", tests::is_undefined);
    env.add_test("upper", tests::is_upper);
}

/// `range(5)`, `range(1, 6)`, `range(0, 10, 2)`: the end is left out.
fn range(first: i64, end: Option<i64>, step: Option<i64>) -> Result<Vec<i64>, Error> {
    let (start, end) = end.map_or((0, first), |end| (first, end));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid("the step of `range` is 0"));
    }
    let distance = i128::from(end) - i128::from(start);
    let steps = i128::from(step);
    let count = ((distance + steps - steps.signum()) / steps).max(0);
    if count > i128::from(RANGE_MAX) {
        return Err(invalid(format!("`range` gives {RANGE_MAX} numbers at most, not {count}")));
    }
    Ok((0..count as i64).map(|index| start + index * step).collect())
}

/// Like Jinja's, but null items give null under `attribute`: an item of a fan-out without outputs is null
/// (LANGUAGE 1.12).
fn map(state: &mut State, value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (names, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    if !names.is_empty() || !kwargs.has("attribute") {
        return map_filter(state, &value, &args);
    }
    let attribute: Value = kwargs.get("attribute")?;
    let default = if kwargs.has("default") { Some(kwargs.get::<Value>("default")?) } else { None };
    kwargs.assert_all_used()?;
    let mut found = Vec::new();
    for item in value.try_iter()? {
        let part = part_of(&item, &attribute)?;
        found.push(match (part.is_undefined(), &default) {
            (true, Some(default)) => default.clone(),
            (true, None) if item.is_none() => Value::from(()),
            (true, None) => return Err(invalid(format!("an item has no `{}`", text(&attribute)?))),
            (false, _) => part,
        });
    }
    Ok(Value::from(found))
}

/// `map('upper')`: the filter once per item. What it gives counts, since it may be long each time.
fn map_filter(state: &mut State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [name, rest @ ..] = args else { return Err(invalid("`map` takes a filter or `attribute`")) };
    let name = name.as_str().ok_or_else(|| invalid("`map` takes the name of a filter"))?;
    let mut found = Vec::new();
    for item in value.try_iter()? {
        let args: Vec<_> = std::iter::once(item).chain(rest.iter().cloned()).collect();
        let given = state.apply_filter(name, &args)?;
        charge(state, 64 + given.as_str().map_or(0, str::len))?;
        found.push(given);
    }
    Ok(Value::from(found))
}

/// `user.name` by parts; undefined where there is none.
fn part_of(item: &Value, attribute: &Value) -> Result<Value, Error> {
    let Some(path) = attribute.as_str() else { return item.get_item(attribute) };
    let mut value = item.clone();
    for part in path.split('.') {
        if value.is_undefined() || value.is_none() {
            return Ok(Value::UNDEFINED);
        }
        value = match part.parse::<usize>() {
            Ok(index) => value.get_item_by_index(index)?,
            Err(_) => value.get_attr(part)?,
        };
    }
    Ok(value)
}

/// Items as text by our rules, not by Python's.
fn join(
    state: &mut State,
    value: &Value,
    joiner: Option<Cow<'_, str>>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let attribute: Option<Value> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let joiner = joiner.unwrap_or_default();
    let mut joined = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            joined.push_str(&joiner);
        }
        joined.push_str(&match &attribute {
            Some(attribute) => text(&part_of(&item, attribute)?)?,
            None => text(&item)?,
        });
        bounded(joined.len())?;
    }
    charge(state, joined.len())?;
    Ok(joined)
}

/// `'%s-%03d' | format(a, b)`, with our text for what `%s` shows.
fn format(state: &mut State, pattern: Value, args: Rest<Value>) -> Result<Value, Error> {
    let mut all = vec![pattern];
    for arg in args.0 {
        let shows_as_python = matches!(
            arg.kind(),
            ValueKind::Bool | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::None
        );
        all.push(if shows_as_python && !arg.is_kwargs() { Value::from(text(&arg)?) } else { arg });
    }
    // The width stands in the pattern: `%999999999d` would be a gigabyte.
    let widths = all[0].as_str().unwrap_or_default();
    if widths.split(|letter: char| !letter.is_ascii_digit()).any(|digits| digits.len() > 4) {
        return Err(invalid("a width in the pattern is larger than 9999"));
    }
    let formatted = state.apply_filter(JINJA_FORMAT, &all)?;
    charge(state, formatted.as_str().map_or(0, str::len))?;
    Ok(formatted)
}

fn replace(
    state: &mut State,
    value: Cow<'_, str>,
    from: Cow<'_, str>,
    to: Cow<'_, str>,
) -> Result<String, Error> {
    let hits = value.matches(from.as_ref()).count();
    charge(state, value.len().saturating_add(hits.saturating_mul(to.len())))?;
    Ok(value.replace(from.as_ref(), &to))
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        Some(length) => Ok(length),
        None => Ok(value.try_iter()?.count()),
    }
}

/// `true` and `false` also as text: to Jinja the text `false` is true.
fn to_bool(value: &Value) -> Result<bool, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::Bool | ValueKind::Number, _) => Ok(value.is_true()),
        (ValueKind::None, _) | (_, Some("false" | "")) => Ok(false),
        (_, Some("true")) => Ok(true),
        _ => Err(invalid(format!("`bool` takes `true` or `false`, not {}", kind_name(value)))),
    }
}

fn tojson(state: &mut State, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let json = to_json(value)?;
    let json = match indent {
        None => json.to_string(),
        Some(_) => serde_json::to_string_pretty(&json).map_err(|_| invalid("the value has no JSON"))?,
    };
    charge(state, json.len())?;
    Ok(json)
}

fn fromjson(value: Cow<'_, str>) -> Result<Value, Error> {
    let json = serde_json::from_str(&value).map_err(|fault| {
        invalid(format!("the text is not JSON (line {}, column {})", fault.line(), fault.column()))
    })?;
    Ok(from_json(&json))
}

/// For a shell, as one word: `it's` becomes `'it'\''s'`.
fn quote(state: &mut State, value: &Value) -> Result<String, Error> {
    let value = text(value)?;
    charge(state, value.len().saturating_add(value.matches('\'').count() * 3))?;
    Ok(format!("'{}'", value.replace('\'', "'\\''")))
}

fn basename(path: Cow<'_, str>) -> String {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn dirname(path: Cow<'_, str>) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((dir, _)) => dir.to_owned(),
        None => ".".to_owned(),
    }
}

fn sha256(value: &Value) -> Result<String, Error> {
    Ok(matins_core::id::Digest::of(text(value)?.as_bytes()).to_string())
}

fn regex_replace(
    state: &mut State,
    value: Cow<'_, str>,
    pattern: Cow<'_, str>,
    with: Cow<'_, str>,
) -> Result<String, Error> {
    // Building one takes far longer than using it.
    charge(state, 64 << 10)?;
    let regex = regex::RegexBuilder::new(&pattern)
        .size_limit(1 << 20)
        .build()
        .map_err(|_| invalid(format!("`{pattern}` is not a regular expression")))?;
    // Before it is made: each hit gives the replacement, and no group is longer than the text.
    let hits = regex.find_iter(&value).count();
    let groups = with.matches('$').count().saturating_mul(value.len());
    charge(state, value.len().saturating_add(hits.saturating_mul(with.len().saturating_add(groups))))?;
    Ok(regex.replace_all(&value, with.as_ref()).into_owned())
}

/// Takes `bytes` from what the filters of one expression may make together: a filter under `map` runs often.
fn charge(state: &mut State, bytes: usize) -> Result<(), Error> {
    const USED: &str = "bytes";
    let used = state.get_temp(USED).and_then(|used| used.as_usize()).unwrap_or(0);
    let used = used.saturating_add(bytes);
    bounded(used)?;
    state.set_temp(USED, Value::from(used));
    Ok(())
}

fn bounded(bytes: usize) -> Result<(), Error> {
    if bytes <= RENDERED_BYTES_MAX {
        return Ok(());
    }
    Err(invalid(format!("the text is larger than {RENDERED_BYTES_MAX} bytes, the limit of one rendering")))
}
