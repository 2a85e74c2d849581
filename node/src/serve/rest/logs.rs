//! What tasks print, as events or, to whoever accepts `text/plain`, as the text itself.
//!
//! In JSON a line is base64, since tasks may print any bytes; `curl` wants to see them.

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use matins_proto::v1::ReadLogsResponse;
use matins_proto::v1::log_notice::Kind;
use matins_proto::v1::logs_server::Logs as _;
use serde_json::Value;
use tonic::{Request, Status};

use super::events::{self, Event, Seat, bodied, next_of};
use super::table::read as read_request;
use crate::serve::service::Services;

/// Reads or follows logs.
pub(crate) async fn read(
    services: &Services,
    asked: Value,
    (seat, wants_text): (Seat, bool),
) -> Result<Response, Status> {
    let mut pieces = services.logs.read(Request::new(read_request(asked)?)).await?.into_inner();
    if !wants_text {
        let messages = pieces.map(|piece| piece.and_then(|piece| Event::of(&piece)));
        return Ok(events::response(messages.boxed(), seat));
    }
    // An error that comes at once still becomes a status.
    let first = pieces.next().await.transpose()?;
    let rest = futures::stream::unfold((pieces, seat), |(mut pieces, seat)| async move {
        Some(match next_of(&mut pieces, &seat).await? {
            Ok(piece) => (text(&piece), (pieces, seat)),
            Err(status) => {
                let mut last = BytesMut::new();
                note(&mut last, status.message());
                (last.freeze(), (futures::stream::empty().boxed(), seat))
            }
        })
    });
    let first = futures::stream::iter(first.as_ref().map(text));
    let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((head, bodied(first.chain(rest))).into_response())
}

/// The lines alone, and what has to be said about them in a line of its own.
fn text(piece: &ReadLogsResponse) -> Bytes {
    let mut text = BytesMut::new();
    for line in &piece.lines {
        text.extend_from_slice(&line.text);
        if line.complete {
            text.extend_from_slice(b"\n");
        }
    }
    match piece.notice.as_ref().map(|notice| (notice.kind(), notice.text.as_str())) {
        Some((Kind::Lost | Kind::Dropped | Kind::Unreachable | Kind::LogExpired, why)) => {
            note(&mut text, why);
        }
        Some((Kind::Unspecified | Kind::End | Kind::Started, _)) | None => {}
    }
    text.freeze()
}

/// What is no line of the task's.
fn note(text: &mut BytesMut, why: &str) {
    text.extend_from_slice(format!("[matins] {why}\n").as_bytes());
}
