//! The description of this API as `OpenAPI` 3.1, made from the table and from the protos with their comments.
//!
//! Kept as `docs/openapi.json` and served at `/openapi.json`. Start reading at [`document`].

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::Type;
use serde_json::{Map, Value, json};

use super::describe::{Description, Field, Message, Words};
use super::path::{Segment, parts};
use super::table::{Call, Route};

/// What `error` returns.
const ERROR: &str = "Error";

/// The whole description.
pub(crate) fn document(routes: &'static [Route], description: &Description) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let at = paths.entry(plain(route.path)).or_insert_with(|| json!({}));
        at[route.method.to_lowercase()] = operation(route, description);
    }
    let tags = description.services.iter();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Matins",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of a Matins node: the same services as by gRPC. Fields may stand in the path, in the query or in the body.",
        },
        "tags": tags.map(|(name, comment)| json!({ "name": name, "description": comment })).collect::<Value>(),
        "paths": paths,
        "components": { "schemas": schemas(routes, description) },
    })
}

/// A path without what only the router needs.
fn plain(path: &str) -> String {
    path.replace("=*/*", "")
}

fn operation(route: &'static Route, description: &Description) -> Value {
    let rpc = &description.rpcs[route.rpc];
    let message = &description.messages[&rpc.input];
    let (tag, name) = route.rpc.split_once('.').unwrap_or((route.rpc, ""));
    let in_path: Vec<&str> = parts(route.path)
        .0
        .into_iter()
        .filter_map(|segment| match segment {
            Segment::Word(_) => None,
            Segment::Field(field) | Segment::Pair(field) => Some(field),
        })
        .collect();
    let reads = route.method == "GET" || route.method == "DELETE";
    let mut parameters: Vec<Value> = Vec::new();
    for field in &message.fields {
        if in_path.contains(&field.name.as_str()) {
            parameters.push(parameter(&field.name, "path", field, description));
        } else if reads {
            parameters.push(parameter(&field.json_name, "query", field, description));
        }
    }
    let summary = rpc.comment.split_inclusive(['.', ':']).next().unwrap_or_default().trim_end_matches(':');
    let mut operation = json!({
        "operationId": format!("{tag}{name}"),
        "tags": [tag],
        "summary": summary,
        "description": rpc.comment,
        "parameters": parameters,
        "responses": {
            "200": { "description": "Done.", "content": answer(route, &rpc.output) },
            "default": {
                "description": "It was not done. The body says why and what to do next.",
                "content": { "application/json": { "schema": reference(ERROR) } },
            },
        },
    });
    if let Call::Upload = route.call {
        let file = json!({ "type": "string", "format": "binary" });
        operation["parameters"] = json!([]);
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/octet-stream": { "schema": file } } });
    } else if !reads {
        operation["requestBody"] =
            json!({ "content": { "application/json": { "schema": reference(short(&rpc.input)) } } });
    }
    operation
}

fn answer(route: &Route, output: &str) -> Value {
    let schema = json!({ "schema": reference(short(output)) });
    match route.call {
        Call::Unary(_) | Call::Upload => json!({ "application/json": schema }),
        Call::Events(_) => json!({ "text/event-stream": schema }),
        Call::Backup => {
            json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } })
        }
        Call::Logs => {
            json!({ "text/event-stream": schema, "text/plain": { "schema": { "type": "string" } } })
        }
    }
}

fn parameter(name: &str, place: &str, field: &Field, description: &Description) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": field.comment,
        "schema": schema(field, description),
    })
}

/// Every message and enum that a row needs, and those that they need.
fn schemas(routes: &[Route], description: &Description) -> Value {
    let mut open: Vec<&str> = Vec::new();
    for route in routes {
        let rpc = &description.rpcs[route.rpc];
        open.extend([rpc.input.as_str(), rpc.output.as_str()]);
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        let fields = description.messages.get(name).map_or(&[][..], |message| &message.fields);
        open.extend(
            fields
                .iter()
                .map(|field| field.type_name.as_str())
                .filter(|name| name.starts_with(".matins.v1.") && *name != ".matins.v1.Json"),
        );
    }
    let mut schemas = Map::new();
    for name in seen {
        if let Some(message) = description.messages.get(name).filter(|_| !name.ends_with("Entry")) {
            schemas.insert(short(name).to_owned(), of_message(message, description));
        } else if let Some(words) = description.enums.get(name) {
            schemas.insert(short(name).to_owned(), of_words(words));
        }
    }
    schemas.insert(ERROR.into(), error());
    Value::Object(schemas)
}

fn of_message(message: &Message, description: &Description) -> Value {
    let mut properties = Map::new();
    for field in &message.fields {
        let mut property = schema(field, description);
        property["description"] = field.comment.as_str().into();
        properties.insert(field.json_name.clone(), property);
    }
    json!({ "type": "object", "description": message.comment, "properties": properties })
}

fn of_words(words: &Words) -> Value {
    let each = words.values.iter().map(|(name, comment)| format!("`{name}`: {comment}"));
    let comment = [words.comment.clone()].into_iter().chain(each).collect::<Vec<_>>().join(" ");
    let names: Vec<&str> = words.values.iter().map(|(name, _)| name.as_str()).collect();
    json!({ "type": "string", "description": comment, "enum": names })
}

/// The schema of a field, by proto3's mapping to JSON.
fn schema(field: &Field, description: &Description) -> Value {
    // A map is a list of entries on the wire only.
    let entry = description.messages.get(&field.type_name).filter(|_| field.type_name.ends_with("Entry"));
    if let Some(value) = entry.and_then(|entry| entry.field("value")) {
        return json!({ "type": "object", "additionalProperties": schema(value, description) });
    }
    let one = match field.proto_type {
        Type::Bool => json!({ "type": "boolean" }),
        Type::String => json!({ "type": "string" }),
        Type::Bytes => json!({ "type": "string", "format": "byte" }),
        Type::Double | Type::Float => json!({ "type": "number" }),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
        Type::Uint32 | Type::Fixed32 => json!({ "type": "integer", "format": "uint32" }),
        // As text, since numbers of JSON are doubles to many readers.
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => json!({ "type": "string", "format": "int64" }),
        Type::Uint64 | Type::Fixed64 => json!({ "type": "string", "format": "uint64" }),
        Type::Message | Type::Enum | Type::Group => match field.type_name.as_str() {
            ".google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
            ".google.protobuf.Duration" => json!({ "type": "string", "examples": ["1.500s"] }),
            // Any JSON.
            ".matins.v1.Json" => json!({}),
            name => reference(short(name)),
        },
    };
    if field.is_list { json!({ "type": "array", "items": one }) } else { one }
}

fn short(name: &str) -> &str {
    name.trim_start_matches(".matins.v1.")
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn error() -> Value {
    let text = |comment: &str| json!({ "type": "string", "description": comment });
    json!({
        "type": "object",
        "description": "Why something was not done.",
        "properties": { "error": { "type": "object", "properties": {
            "code": text("The status code of gRPC, as `NOT_FOUND`."),
            "reason": text("Which error exactly, as `RUN_NOT_FOUND`. Stable."),
            "message": text("What happened, for people."),
            "hint": text("The next thing to do, for people. Absent if there is none."),
            "metadata": { "type": "object", "additionalProperties": { "type": "string" }, "description": "What it is about." },
            "violations": { "type": "array", "description": "Every fault of the request, where it could not be understood.",
                "items": { "type": "object", "properties": { "field": text("The field."), "description": text("What is wrong with it.") } } },
        } } },
    })
}
