//! How many calls one side of the public port takes at once, how long each may take, and how many streams stay open.
//!
//! gRPC and plain HTTP have one of each, so that neither can shut the other out, and each says in its own terms why it turned
//! a call away. A call counts until its answer begins; an answer that goes on counts as a stream until it ends. Bytes of
//! requests are bounded for both together: a few large ones fill a memory that many small ones do not. Nothing is queued.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use matins_proto::v1::error::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::connections::{Readers, Untaken};
use super::error::ApiError;
use crate::metrics::{Bound, DoorCounts, Used};

/// Bounds of calls in flight.
#[derive(Clone)]
pub(crate) struct Bounds {
    pub(crate) seats: Seats,
    pub(crate) bytes: RequestBytes,
    pub(crate) answer_max: Duration,
}

/// Why a call was not answered by its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// As many calls as may be in flight are.
    Full,
    /// There was no answer in time.
    Late,
}

impl Bounds {
    /// Answers a call, or turns it away at once.
    pub(crate) async fn hold(&self, request: Request, next: Next) -> Result<Response, TurnedAway> {
        let _seat = self.seats.take().map_err(|_| TurnedAway::Full)?;
        let held = Arc::default();
        let request = request.map(|body| self.bytes.metered(body, &held));
        tokio::time::timeout(self.answer_max, next.run(request)).await.map_err(|_| TurnedAway::Late)
    }
}

/// So many of something at once. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    bound: Bound,
    counts: DoorCounts,
}

/// The right to one of them, until it is dropped.
pub(crate) struct Seat {
    _permit: OwnedSemaphorePermit,
    _used: Used,
}

impl Seats {
    pub(crate) fn new(bound: Bound, max: usize, counts: &DoorCounts) -> Self {
        counts.allow(bound, max);
        Self { free: Arc::new(Semaphore::new(max)), bound, counts: counts.clone() }
    }

    /// Takes one; if there is none the caller may come again in a moment.
    pub(crate) fn take(&self) -> Result<Seat, ApiError> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(Seat { _permit: permit, _used: self.counts.hold(self.bound, 1) });
        }
        self.counts.turned_away(self.bound);
        Err(overloaded())
    }
}

/// Bytes of the requests that are in flight, of both sides. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct RequestBytes {
    free: Arc<Semaphore>,
    counts: DoorCounts,
}

/// What the requests of one call hold, until it is answered and the last of it is read.
type HeldBytes = Arc<Mutex<Vec<(OwnedSemaphorePermit, Used)>>>;

impl RequestBytes {
    pub(crate) fn new(max: usize, counts: &DoorCounts) -> Self {
        counts.allow(Bound::RequestBytes, max);
        Self { free: Arc::new(Semaphore::new(max)), counts: counts.clone() }
    }

    /// A body that fails with `RESOURCE_EXHAUSTED` where there is no room for the next piece of it.
    fn metered(&self, body: Body, held: &HeldBytes) -> Body {
        let (own, held) = (self.clone(), Arc::clone(held));
        let look = move |piece: &Bytes| {
            let bytes = piece.len();
            let Ok(permit) = Arc::clone(&own.free).try_acquire_many_owned(bytes as u32) else {
                own.counts.turned_away(Bound::RequestBytes);
                return Err(Status::from(overloaded()));
            };
            let used = own.counts.hold(Bound::RequestBytes, bytes);
            held.lock().unwrap_or_else(PoisonError::into_inner).push((permit, used));
            Ok(())
        };
        Body::new(Watched { body, look })
    }
}

/// An answer that holds its seat until it has ended, or nobody wants it any more, and says when it waits for its reader.
pub(crate) fn seated(answer: Response, seat: Seat, readers: Option<Readers>) -> Response {
    answer.map(|body| Body::new(Seated { body, readers, untaken: None, _seat: seat }))
}

struct Seated {
    body: Body,
    /// `None`: its connection is not known.
    readers: Option<Readers>,
    untaken: Option<Untaken>,
    _seat: Seat,
}

impl HttpBody for Seated {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Whoever asks for more has room for it: the reader has taken what came before, or nearly all.
        self.untaken = None;
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            self.untaken = self.readers.as_ref().map(Readers::wait);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of which every piece is looked at.
struct Watched<L> {
    body: Body,
    look: L,
}

impl<L: FnMut(&Bytes) -> Result<(), Status> + Unpin> HttpBody for Watched<L> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(piece) = frame.data_ref()
            && let Err(status) = (self.look)(piece)
        {
            return Poll::Ready(Some(Err(axum::Error::new(status))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The status that a body failed with, if it was one of ours.
pub(crate) fn status_in(error: &(dyn std::error::Error + 'static)) -> Option<Status> {
    let mut error = Some(error);
    while let Some(it) = error {
        if let Some(status) = it.downcast_ref::<Status>() {
            return Some(status.clone());
        }
        error = it.source();
    }
    None
}

/// What callers hear who may come again in a moment.
pub(crate) fn overloaded() -> ApiError {
    ApiError::new(Reason::Overloaded, "this node answers as many calls as it can").later()
}
