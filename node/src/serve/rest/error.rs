//! An error of the API as an HTTP answer: the status that fits, and in the body what `error.proto` lists, as JSON.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use matins_proto::HINT;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The answer.
pub(crate) fn response(status: &Status) -> Response {
    let mut response = Response::new(Body::from(format!("{}\n", body(status))));
    *response.status_mut() = http_status(status.code());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(after) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        // Whole seconds, and never 0.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

/// What the body says; also the data of an event that ends a stream.
pub(crate) fn body(status: &Status) -> Value {
    let mut error = Map::new();
    error.insert("code".into(), code_name(status.code()).into());
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        error.insert("reason".into(), info.reason.as_str().into());
    }
    error.insert("message".into(), status.message().into());
    if let Some(info) = details.error_info() {
        if let Some(hint) = info.metadata.get(HINT) {
            error.insert("hint".into(), hint.as_str().into());
        }
        let mut metadata: Vec<_> = info.metadata.iter().filter(|(key, _)| *key != HINT).collect();
        metadata.sort();
        let metadata = metadata.into_iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        error.insert("metadata".into(), Value::Object(metadata.collect()));
    }
    let violations = details.bad_request().map(|bad| &bad.field_violations[..]).unwrap_or_default();
    if !violations.is_empty() {
        let violation =
            |it: &tonic_types::FieldViolation| json!({ "field": it.field, "description": it.description });
        error.insert("violations".into(), violations.iter().map(violation).collect());
    }
    json!({ "error": error })
}

/// The HTTP status that says the same.
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // Nobody knows whether it was done: as when a proxy has no answer of its server.
        Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The name of a code as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
