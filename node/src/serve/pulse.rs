//! What every watch stands on: the next state worth telling, or a sign of life.
//!
//! A watch is pulled by its reader and tells the difference between the state it told last and the newest one. So a
//! slow reader costs nothing and is never waited for: what it did not fetch is folded into its next message, and a dead
//! one is found by the connection's keep-alive (PROTOCOL 7).

use std::sync::Arc;
use std::time::Duration;

use matins_core::State;
use matins_proto::v1::error::Reason;
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::Api;
use super::error::ApiError;

/// A message comes at least so often; a node without a leader for so long ends its watches.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Changes that come closer together are told together.
const APART: Duration = Duration::from_millis(50);

/// Waits for changes on behalf of one watch.
pub(crate) struct Pulse {
    api: Api,
    states: watch::Receiver<Arc<State>>,
    beat_at: Option<Instant>,
    leaderless_since: Option<Instant>,
}

impl Pulse {
    /// The first beat comes at once.
    pub(crate) fn new(api: Api) -> Self {
        let mut states = api.cluster.states();
        states.mark_changed();
        Self { api, states, beat_at: None, leaderless_since: None }
    }

    /// The newest state: when it changed, or after five seconds of quiet. An error ends the watch.
    pub(crate) async fn next(&mut self) -> Result<Arc<State>, ApiError> {
        let stopping = self.api.stopping.clone();
        let api = self.api.clone();
        let wait = async {
            if let Some(last) = self.beat_at {
                tokio::time::sleep_until(last + APART).await;
            }
            // Quiet is told like a change: the message has the index and nothing else.
            match tokio::time::timeout(QUIET_MAX, self.states.changed()).await {
                Ok(Ok(())) | Err(_) => Ok(()),
                Ok(Err(_)) => Err(stopped()),
            }
        };
        tokio::select! {
            waited = wait => waited?,
            () = stopping.cancelled() => return Err(stopped()),
        }
        let now = Instant::now();
        self.beat_at = Some(now);
        if api.cluster.status().leader.is_some() {
            self.leaderless_since = None;
        } else if now - *self.leaderless_since.get_or_insert(now) >= QUIET_MAX {
            return Err(ApiError::new(Reason::NotReady, "this node has known of no leader for 5 seconds"));
        }
        Ok(self.states.borrow_and_update().clone())
    }
}

fn stopped() -> ApiError {
    ApiError::new(Reason::ShuttingDown, "this node is shutting down")
}
