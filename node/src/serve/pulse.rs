//! What every watch stands on: the next state worth telling, or a sign of life.
//!
//! A watch is pulled by its reader and tells the difference between the state it told last and the newest one. So a
//! slow reader costs nothing and is never waited for: what it did not fetch is folded into its next message, and a dead
//! one is found by the connection's keep-alive (PROTOCOL 7). All watches of a node together look so often at most, so that
//! ten thousand of them cost no more than one hundred: each is told later then, and what came in between is told together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use matins_core::State;
use matins_proto::v1::error::Reason;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::Api;
use super::error::ApiError;
use crate::system;

/// A message comes at least so often; a node without a leader for so long ends its watches.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Changes that come closer together are told together.
const APART: Duration = Duration::from_millis(50);
/// What one watch adds to that: all of them look some 2,000 times a second at most. From 10,000 on it is `QUIET_MAX`.
const APART_FOR_EACH: Duration = Duration::from_micros(500);

/// The watches that are open. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches(Arc<AtomicU32>);

/// One that is open, until it is dropped.
struct Open(Watches);

impl Watches {
    fn open(&self) -> Open {
        self.0.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    /// How long a watch leaves between two looks.
    fn apart(&self) -> Duration {
        (APART_FOR_EACH * self.0.load(Ordering::Relaxed)).clamp(APART, QUIET_MAX)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for changes on behalf of one watch.
pub(crate) struct Pulse {
    api: Api,
    open: Open,
    states: watch::Receiver<Arc<State>>,
    beat_at: Option<Instant>,
    leaderless_since: Option<Instant>,
}

impl Pulse {
    /// The first beat comes at once.
    pub(crate) fn new(api: Api) -> Self {
        let mut states = api.cluster.states();
        states.mark_changed();
        let open = api.watches.open();
        Self { api, open, states, beat_at: None, leaderless_since: None }
    }

    /// The newest state: when it changed, or after five seconds of quiet. An error ends the watch.
    pub(crate) async fn next(&mut self) -> Result<Arc<State>, ApiError> {
        let stopping = self.api.stopping.clone();
        let api = self.api.clone();
        let wait = async {
            if let Some(last) = self.beat_at {
                // Not all at once, once something has made them beat together.
                let apart = self.open.0.apart().mul_f64(system::random().random_range(0.5..1.0));
                tokio::time::sleep_until(last + apart.max(APART)).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_watches_look_no_more_often_than_some() {
        let watches = Watches::default();
        let some: Vec<Open> = (0..100).map(|_| watches.open()).collect();
        assert_eq!(watches.apart(), APART);
        let many: Vec<Open> = (0..3_900).map(|_| watches.open()).collect();
        assert_eq!(watches.apart(), Duration::from_secs(2));
        let more: Vec<Open> = (0..20_000).map(|_| watches.open()).collect();
        assert_eq!(watches.apart(), QUIET_MAX);
        drop((many, more));
        assert_eq!(watches.apart(), APART);
        drop(some);
    }
}
