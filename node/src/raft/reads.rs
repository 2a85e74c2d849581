//! Rounds that ask a majority whether this node still leads (PROTOCOL 2.1, 5.3, 7). Calls in flight share one.
//!
//! A round answers two things: an index that a linearizable read must have, and the instant before the round began, which
//! anchors leases. Start at [`Rounds::ask`].

use std::sync::Arc;
use std::time::Duration;

use matins_core::time::BootTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::types::Raft;
use super::watchdog::Watch;
use crate::system::boot_time;

/// Readers that may wait for the next round.
const WAITING_MAX: usize = 4096;
/// More room, for leases: however many readers press, executors keep their sessions.
const OWN_ROOM: usize = 64;

/// A majority has confirmed this leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// The boot-time clock before it was asked.
    pub(crate) began: BootTime,
    /// A state at this index holds all that was acknowledged before.
    pub(crate) index: u64,
}

/// The way to a round. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rounds {
    sender: mpsc::Sender<oneshot::Sender<Round>>,
}

/// Makes the rounds, one after the other.
pub(crate) struct Rounder {
    pub(crate) waiting: mpsc::Receiver<oneshot::Sender<Round>>,
    pub(crate) raft: Raft,
    pub(crate) watch: Arc<Watch>,
    /// Held by who keeps this node silent for a moment.
    pub(crate) rounding: Arc<tokio::sync::Mutex<()>>,
    pub(crate) stop: CancellationToken,
}

impl Rounds {
    pub(crate) fn new() -> (Self, mpsc::Receiver<oneshot::Sender<Round>>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX + OWN_ROOM);
        (Self { sender }, receiver)
    }

    /// A round for a reader, that begins after this call. `None`: this node does not lead, no majority answered, or too many
    /// wait.
    pub(crate) async fn ask_for_reader(&self, within: Duration) -> Option<Round> {
        if self.sender.capacity() <= OWN_ROOM {
            return None;
        }
        self.ask(within).await
    }

    /// A round that begins after this call. `None`: this node does not lead, no majority answered, or too many wait.
    pub(crate) async fn ask(&self, within: Duration) -> Option<Round> {
        let (sender, receiver) = oneshot::channel();
        self.sender.try_send(sender).ok()?;
        tokio::time::timeout(within, receiver).await.ok()?.ok()
    }
}

impl Rounder {
    pub(crate) async fn run(mut self) {
        loop {
            let first = tokio::select! {
                () = self.stop.cancelled() => return,
                first = self.waiting.recv() => match first {
                    Some(first) => first,
                    None => return,
                },
            };
            let mut waiting = vec![first];
            while let Ok(another) = self.waiting.try_recv() {
                waiting.push(another);
            }
            let _may_go_out = self.rounding.lock().await;
            let began = boot_time();
            // A round that fails leaves its callers without an answer; they ask again or give up.
            let Ok((read, _)) = self.raft.get_read_log_id().await else { continue };
            self.watch.quorum_round(began);
            let round = Round { began, index: read.map_or(0, |read| read.index) };
            for caller in waiting {
                // A caller that has gone does not want it.
                let _ = caller.send(round);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn readers_who_fill_the_queue_leave_room_for_leases() {
        let (rounds, mut waiting) = Rounds::new();
        let within = Duration::from_secs(60);
        for _ in 0..WAITING_MAX {
            assert!(rounds.ask_for_reader(within).now_or_never().is_none(), "it waits");
        }
        assert!(rounds.ask_for_reader(within).now_or_never().expect("it does not wait").is_none());
        assert!(rounds.ask(within).now_or_never().is_none(), "a lease waits for its round");
        waiting.close();
    }
}
