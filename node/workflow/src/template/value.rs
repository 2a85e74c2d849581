//! Values between JSON and the template engine, and values as text (LANGUAGE 1.3).

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the template engine's, and grow without us"
)]

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::{Map, Number, Value as Json};

use super::moment::Moment;

/// What one rendering may give: bytes of text, or of JSON.
pub(crate) const RENDERED_BYTES_MAX: usize = 16 << 20;
/// How deep a value may be.
const DEPTH_MAX: usize = 128;

pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(yes) => Value::from(*yes),
        Json::Number(number) => from_number(number),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.clone(), from_json(value))))
        }
    }
}

fn from_number(number: &Number) -> Value {
    number.as_i64().map(Value::from).or_else(|| number.as_u64().map(Value::from)).unwrap_or_else(|| {
        // Without serde_json's `arbitrary_precision` every number is one of the three.
        Value::from(number.as_f64().unwrap_or_default())
    })
}

/// `value` as JSON; times become text.
pub(crate) fn to_json(value: &Value) -> Result<Json, Error> {
    let mut left = RENDERED_BYTES_MAX;
    json(value, &mut left, DEPTH_MAX)
}

fn json(value: &Value, left: &mut usize, depth: usize) -> Result<Json, Error> {
    let depth = depth.checked_sub(1).ok_or_else(|| invalid("the value is nested too deeply"))?;
    take(left, 4)?;
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number => Json::Number(number(value)?),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            take(left, text.len())?;
            Json::String(text.to_owned())
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| json(&item, left, depth));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut fields = Map::new();
            for key in value.try_iter()? {
                let name = text(&key)?;
                take(left, name.len())?;
                fields.insert(name, json(&value.get_item(&key)?, left, depth)?);
            }
            Json::Object(fields)
        }
        ValueKind::Plain => match value.downcast_object_ref::<Moment>() {
            Some(moment) => Json::String(moment.text()),
            None => return Err(invalid("this is not a value that JSON has")),
        },
        _ => return Err(invalid("this is not a value that JSON has")),
    })
}

fn number(value: &Value) -> Result<Number, Error> {
    if value.is_integer() {
        let small = value.as_i64().map(Number::from);
        let number = small.or_else(|| u64::try_from(value.clone()).ok().map(Number::from));
        return number.ok_or_else(|| invalid("the number needs more than 64 bits"));
    }
    let float = f64::try_from(value.clone())?;
    Number::from_f64(float).ok_or_else(|| invalid("the number is not finite"))
}

/// `value` in a place for text: lists, records and booleans as JSON, numbers in shortest form. Null is an error.
pub(crate) fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Err(invalid("the value is null, which has no text")),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number if !value.is_integer() => {
            let float = f64::try_from(value.clone())?;
            // Checks that it is finite; `{}` writes the fewest digits that read back, and `5`, not `5.0`.
            number(value)?;
            Ok(if (1e-5..1e16).contains(&float.abs()) || float == 0.0 {
                format!("{float}")
            } else {
                format!("{float:e}")
            })
        }
        _ => match to_json(value)? {
            Json::String(text) => Ok(text),
            json => Ok(json.to_string()),
        },
    }
}

/// The type of a value in the words of the language.
pub(crate) fn kind_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "no value",
        ValueKind::None => "null",
        ValueKind::Bool => "true or false",
        ValueKind::Number => "a number",
        ValueKind::String => "text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a record",
        _ if value.downcast_object_ref::<Moment>().is_some() => "a time",
        _ => "something that is no value",
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn take(left: &mut usize, bytes: usize) -> Result<(), Error> {
    *left = left.checked_sub(bytes).ok_or_else(|| {
        invalid(format!("the value is larger than {RENDERED_BYTES_MAX} bytes, the limit of one rendering"))
    })?;
    Ok(())
}
