//! How many calls one side of the public port takes at once, and how long each may take.
//!
//! gRPC and plain HTTP have one of these each, so that neither can shut the other out, and each says in its own terms why it
//! turned a call away. A call counts until its answer begins: a stream that has opened counts no longer and has no deadline.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use matins_proto::v1::error::Reason;
use tokio::sync::Semaphore;

use super::error::ApiError;

/// Bounds of calls in flight.
#[derive(Clone)]
pub(crate) struct Bounds {
    seats: Arc<Semaphore>,
    answer_max: Duration,
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
    pub(crate) fn new(calls_in_flight_max: usize, answer_max: Duration) -> Self {
        Self { seats: Arc::new(Semaphore::new(calls_in_flight_max)), answer_max }
    }

    /// Answers a call, or turns it away at once: nothing is queued.
    pub(crate) async fn hold(&self, answer: impl Future<Output = Response>) -> Result<Response, TurnedAway> {
        let _seat = self.seats.try_acquire().map_err(|_| TurnedAway::Full)?;
        tokio::time::timeout(self.answer_max, answer).await.map_err(|_| TurnedAway::Late)
    }
}

/// What a caller hears who may come again in a moment.
pub(crate) fn overloaded() -> ApiError {
    ApiError::new(Reason::Overloaded, "this node answers as many calls as it can").later()
}
