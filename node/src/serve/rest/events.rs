//! Streams as server-sent events, as a browser's `EventSource` and `curl -N` read them.
//!
//! `event: message` has a message of the rpc as JSON, with its index as `id`, so that `Last-Event-ID` goes on where the
//! reader was. `event: end` says that nothing more will come, `event: failure` has an error. A comment comes when nothing else
//! does. A reader that takes nothing is not waited for: its connection is closed (`DoorLimits::stalled_max`).

use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::error::body;
use crate::serve::bounds::{self, Seats};
use crate::serve::error::{ApiError, fault_of};

/// A comment comes after so long without a message, so that proxies keep the connection.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// A message as an event.
pub(crate) struct Event {
    /// Where the reader can go on. `None`: nowhere.
    id: Option<String>,
    data: String,
}

impl Event {
    /// Writes a message.
    pub(crate) fn of<M: Serialize>(message: &M) -> Result<Self, Status> {
        let value = serde_json::to_value(message).map_err(|error| fault_of("json", &error.to_string()))?;
        let id = value.get("index").and_then(|index| index.as_str()).map(str::to_owned);
        Ok(Self { id, data: value.to_string() })
    }
}

/// The messages of one stream.
pub(crate) type Events = BoxStream<'static, Result<Event, Status>>;

/// Bounds the streams that are open at once.
#[derive(Clone)]
pub(crate) struct Streams {
    seats: Seats,
    stopping: CancellationToken,
}

/// The right to one open stream.
pub(crate) struct Seat {
    _seat: bounds::Seat,
    stopping: CancellationToken,
}

impl Streams {
    pub(crate) fn new(seats: Seats, stopping: CancellationToken) -> Self {
        Self { seats, stopping }
    }

    pub(crate) fn take(&self) -> Result<Seat, ApiError> {
        Ok(Seat { _seat: self.seats.take()?, stopping: self.stopping.clone() })
    }
}

impl Seat {
    /// Whether the node is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }
}

/// The answer that goes on.
pub(crate) fn response(messages: Events, seat: Seat) -> Response {
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    // Whoever is cut off comes back after a second.
    let first = futures::stream::iter([Bytes::from_static(b"retry: 1000\n\n")]);
    (head, bodied(first.chain(told(messages, seat)))).into_response()
}

/// A body of pieces that cannot fail.
pub(crate) fn bodied(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>))
}

fn told(messages: Events, seat: Seat) -> impl Stream<Item = Bytes> + Send {
    futures::stream::unfold(Some((messages, seat)), |open| async move {
        let (mut messages, seat) = open?;
        let next = tokio::time::timeout(QUIET_MAX, next_of(&mut messages, &seat)).await;
        Some(match next {
            Err(_) => (Bytes::from_static(b": quiet\n\n"), Some((messages, seat))),
            Ok(Some(Ok(event))) => (written(&event).into(), Some((messages, seat))),
            Ok(Some(Err(status))) => (format!("event: failure\ndata: {}\n\n", body(&status)).into(), None),
            Ok(None) => (Bytes::from_static(b"event: end\ndata: {}\n\n"), None),
        })
    })
}

/// The next of some messages; none any more when the node stops.
pub(crate) async fn next_of<T>(
    messages: &mut Pin<Box<dyn Stream<Item = T> + Send>>,
    seat: &Seat,
) -> Option<T> {
    tokio::select! {
        biased;
        message = messages.next() => message,
        () = seat.stopping.cancelled() => None,
    }
}

fn written(event: &Event) -> String {
    let id = event.id.as_ref().map(|id| format!("id: {id}\n")).unwrap_or_default();
    // Compact JSON has no line break, so it is one line of data.
    format!("event: message\n{id}data: {}\n\n", event.data)
}
