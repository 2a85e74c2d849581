//! The same API by plain HTTP: JSON for what answers once, server-sent events for what goes on answering.
//!
//! One implementation: each row of the table names an rpc, and its handler calls the very service that gRPC calls. A request
//! in JSON is the rpc's request message by proto3's mapping; fields may stand in the path, in the query or in the body.
//! Nothing here decides anything about workflows. Start reading at [`table`], then [`Rest::answer`].

mod backup;
mod describe;
mod error;
mod events;
mod logs;
mod openapi;
mod path;
mod query;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use matins_proto::v1::error::Reason;
use serde_json::{Map, Value};
use tonic::Status;

use super::api::Api;
use super::bounds::{Seats, status_in};
use super::error::ApiError;
use super::service::{BLOB_BYTES_MAX, Services};
use describe::{Description, Message};
pub(crate) use error::response as error_response;
use events::Streams;
use table::{Call, ROUTES, Route};

/// The descriptions of all messages, read once.
static DESCRIPTION: LazyLock<Description> = LazyLock::new(Description::read);

/// What REST stands on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rest {
    services: Services,
    streams: Streams,
    request_bytes_max: usize,
    answer_bytes_max: usize,
}

impl Rest {
    pub(crate) fn new(api: &Api, services: Services, (streams, limits): (Seats, &super::DoorLimits)) -> Self {
        Self {
            services,
            streams: Streams::new(streams, api.stopping.clone()),
            request_bytes_max: limits.request_bytes_max,
            answer_bytes_max: limits.answer_bytes_max,
        }
    }

    /// Answers whatever came; errors too.
    pub(crate) async fn answer(self, request: Request) -> Response {
        if request.headers().contains_key(header::ORIGIN) {
            return error::response(&page_of_the_web().into());
        }
        let found = path::find(ROUTES, request.method(), request.uri().path());
        let answered = match found {
            path::Found::Route(route, fields) => self.call(route, fields, request).await,
            path::Found::OtherMethods(methods) => return wrong_method(request.method(), &methods),
            path::Found::Nothing => return not_found(request).await,
        };
        answered.unwrap_or_else(|status| error::response(&status))
    }

    async fn call(&self, route: &Route, fields: path::Fields, request: Request) -> Result<Response, Status> {
        let (head, body) = request.into_parts();
        if let Call::Upload = route.call {
            return self.upload(body).await;
        }
        let message = DESCRIPTION.request_of(route.rpc);
        let body = self.body(body).await?;
        let mut asked = query::request(&message, fields, head.uri.query(), &body)?;
        match route.call {
            Call::Unary(call) => {
                let answer = call(self.services.clone(), Value::Object(asked)).await?;
                self.json(&answer)
            }
            Call::Events(call) => {
                go_on(&message, &head.headers, &mut asked);
                let seat = self.streams.take()?;
                let messages = call(self.services.clone(), Value::Object(asked)).await?;
                Ok(events::response(messages, seat))
            }
            Call::Logs => {
                let seat = self.streams.take()?;
                let wants_text = accepts(&head.headers, "text/plain");
                logs::read(&self.services, Value::Object(asked), (seat, wants_text)).await
            }
            Call::Backup => backup::backup(&self.services, self.streams.take()?).await,
            Call::Upload => Err(nothing_at(head.uri.path()).into()),
        }
    }

    async fn body(&self, body: Body) -> Result<bytes::Bytes, Status> {
        let limit = self.request_bytes_max;
        to_bytes(body, limit).await.map_err(|error| not_read("bytes of one request", limit as u64, &error))
    }

    /// A file comes as it is, without JSON around it.
    async fn upload(&self, body: Body) -> Result<Response, Status> {
        let bytes = to_bytes(body, BLOB_BYTES_MAX as usize).await;
        let bytes = bytes.map_err(|error| not_read("bytes of a file", BLOB_BYTES_MAX, &error))?;
        let stored = self.services.workflows.store(bytes).await?;
        self.json(&table::written(&stored)?)
    }

    fn json(&self, text: &str) -> Result<Response, Status> {
        if text.len() > self.answer_bytes_max {
            let limit = self.answer_bytes_max as u64;
            let error = ApiError::limit("bytes of one answer", limit, text.len() as u64);
            return Err(error.hint("ask for less at once, as by `pageSize`").into());
        }
        Ok(([(header::CONTENT_TYPE, "application/json")], format!("{text}\n")).into_response())
    }
}

/// A watch goes on behind the event that its reader heard last.
fn go_on(message: &Message, headers: &HeaderMap, asked: &mut Map<String, Value>) {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    if let Some(last) = last.filter(|_| message.field("after_index").is_some()) {
        asked.insert("afterIndex".into(), last.into());
    }
}

/// A page of the web must not start programs on the machine, or in the network, of whoever looks at it. Browsers say where
/// what they send comes from, and nobody else does.
fn page_of_the_web() -> ApiError {
    ApiError::new(Reason::Denied, "requests of web pages are not taken")
        .with("action", "ask from a web page")
        .hint("ask from a program, without the header `Origin`")
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let kinds = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    kinds.flat_map(|kinds| kinds.split(',')).any(|one| one.trim().starts_with(kind))
}

/// Why a request could not be read: this node has no room for it now, or it is too long.
fn not_read(limit: &str, value: u64, error: &axum::Error) -> Status {
    if let Some(status) = status_in(error) {
        return status;
    }
    let text = format!("{limit} is {value}, or the connection broke: {error}");
    let error = ApiError::new(Reason::LimitExceeded, text).with("limit", limit);
    error.with("value", value.to_string()).into()
}

fn nothing_at(path: &str) -> ApiError {
    ApiError::new(Reason::NotInThisRelease, format!("there is nothing at `{path}`"))
        .with("what", path)
        .hint("`/openapi.json` lists what there is")
}

/// Whatever is not found on the public port by plain HTTP.
pub(crate) async fn not_found(request: Request) -> Response {
    let mut response = error::response(&nothing_at(request.uri().path()).into());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn wrong_method(method: &Method, allowed: &[&str]) -> Response {
    let allowed = allowed.join(", ");
    let error = ApiError::new(Reason::BadArgument, format!("{method} is not for this path"))
        .hint(format!("use {allowed}"));
    let mut response = error::response(&error.into());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    if let Ok(allowed) = allowed.parse() {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// The description of this API, as text.
pub(crate) fn openapi_text() -> Arc<str> {
    static TEXT: LazyLock<Arc<str>> = LazyLock::new(|| {
        let text = serde_json::to_string_pretty(&openapi::document(ROUTES, &DESCRIPTION));
        (text.expect("a JSON value can be written") + "\n").into()
    });
    Arc::clone(&TEXT)
}
