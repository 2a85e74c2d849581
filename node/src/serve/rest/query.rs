//! A request message in JSON, put together from path, query and body.
//!
//! Path goes over query, and query over body. What stands in a path or a query is text, so the description of the message
//! says what it means; the message itself refuses what does not fit, also fields that it has not.

use matins_proto::v1::error::Reason;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::describe::{Field, Kind, Message};
use super::path::Fields;
use crate::serve::error::ApiError;

/// The request as JSON.
pub(crate) fn request(
    message: &Message,
    fields: Fields,
    query: Option<&str>,
    body: &[u8],
) -> Result<Map<String, Value>, ApiError> {
    let mut asked = Map::new();
    for (name, value) in object(body)? {
        let name = message.field(&name).map_or(name, |field| field.json_name.clone());
        asked.insert(name, value);
    }
    let mut lists = Map::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, text) = (decoded(name)?, decoded(text)?);
        put(message, &mut lists, (&name, text))?;
    }
    asked.extend(lists);
    for (name, text) in fields {
        asked.remove(&message.field(name).map_or_else(|| name.to_owned(), |field| field.json_name.clone()));
        put(message, &mut asked, (name, text))?;
    }
    Ok(asked)
}

fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::bad_field("body", "it is no JSON object")),
        Err(error) => Err(ApiError::bad_field("body", format!("it is no JSON: {error}"))),
    }
}

fn put(
    message: &Message,
    into: &mut Map<String, Value>,
    (name, text): (&str, String),
) -> Result<(), ApiError> {
    let Some(field) = message.field(name) else {
        let error =
            ApiError::new(Reason::BadArgument, format!("there is no field `{name}`")).field(name, "unknown");
        return Err(error.hint(format!("the fields are {}", message.field_names())));
    };
    let value = value(field, text)?;
    if !field.is_list {
        into.insert(field.json_name.clone(), value);
    } else if let Value::Array(list) =
        into.entry(field.json_name.clone()).or_insert_with(|| Value::Array(Vec::new()))
    {
        list.push(value);
    }
    Ok(())
}

fn value(field: &Field, text: String) -> Result<Value, ApiError> {
    match field.kind {
        Kind::Bool => match text.as_str() {
            // A name alone is a flag that is set.
            "" | "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            other => {
                Err(ApiError::bad_field(&field.json_name, format!("`{other}` is neither true nor false")))
            }
        },
        // Numbers and instants may be text in JSON.
        Kind::Text => Ok(Value::String(text)),
        Kind::Message => serde_json::from_str(&text)
            .map_err(|error| ApiError::bad_field(&field.json_name, format!("it is no JSON: {error}"))),
    }
}

fn decoded(text: &str) -> Result<String, ApiError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| ApiError::bad_field("query", "it is not UTF-8"))
}
