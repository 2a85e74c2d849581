//! What a whole node measures of itself, for `/metrics`: it follows entries and the leader, and looks round when asked.
//!
//! Decides nothing, and nothing waits for it. Start reading at [`Measured`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use matins_core::id::NodeId;
use tokio::sync::broadcast::error::RecvError;

use crate::lead::time::LeaderTime;
use crate::metrics::{Change, Disk, Metrics, Peer, Scrape, Seen};
use crate::raft::{Consensus, HeardStatus};
use crate::system::boot_time;

/// A peer that was not heard of for so long is not reachable.
const HEARD_WITHIN_MILLIS: u64 = 3_000;
/// How often the time without a leader is brought up to date.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node, as its metrics see it.
pub(super) struct Measured {
    pub(super) metrics: Metrics,
    pub(super) consensus: Consensus,
    pub(super) clock: Arc<LeaderTime>,
    pub(super) data_dir: PathBuf,
}

impl Scrape for Measured {
    fn scrape(&self) -> String {
        self.metrics.text(&self.seen())
    }
}

impl Measured {
    fn seen(&self) -> Seen {
        let consensus = &self.consensus;
        let (term, last) = consensus.progress();
        let own = consensus.status();
        let state = consensus.state();
        let leads = consensus.leader().borrow().leading.is_some();
        Seen {
            now: self.clock.now().max(state.now),
            state,
            leads,
            term,
            last,
            applied: own.applied,
            // Only the leader asks after the others, so only it knows.
            peers: if leads { self.peers() } else { Vec::new() },
            log_bytes: consensus.log_bytes_after(0),
            blob_bytes: consensus.inner().blobs.total_bytes(),
            blobs_missing: own.blobs_missing,
            disk: disk_of(&self.data_dir),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let members = self.consensus.members();
        let heard = self.consensus.peers().borrow().clone();
        let others = members.nodes.iter().filter(|(id, _)| **id != self.consensus.node());
        let peer = |(id, member): (&NodeId, &crate::raft::Member)| {
            let heard = heard.iter().find(|heard| heard.status.node == *id);
            let is_fresh = |heard: &HeardStatus| boot_time().since(heard.asked_at).0 < HEARD_WITHIN_MILLIS;
            Peer {
                name: member.name.clone(),
                is_reachable: heard.is_some_and(is_fresh),
                lag: heard.map(|heard| heard.lag),
            }
        };
        others.map(peer).collect()
    }
}

/// The disk with this folder, if it can be asked.
pub(super) fn disk_of(folder: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // What only root may still write is not free.
    Some(Disk { free: found.f_bavail * found.f_frsize, size: found.f_blocks * found.f_frsize })
}

/// Counts what entries do, while this node leads.
pub(super) async fn count_entries(consensus: Consensus, metrics: Metrics) {
    let leader = consensus.leader();
    let mut entries = consensus.subscribe();
    let mut before = Some(consensus.state());
    loop {
        match entries.recv().await {
            Ok(entry) => {
                let known = before.replace(Arc::clone(&entry.state));
                let leads = leader.borrow().leading.is_some();
                match known {
                    // It was in the state that counting began with.
                    Some(known) if known.index >= entry.index => before = Some(known),
                    Some(known) if leads => metrics.counts().entry(&Change {
                        before: &known,
                        after: &entry.state,
                        answers: &entry.answers,
                        effects: &entry.effects,
                    }),
                    Some(_) => {}
                    None => metrics.counts().missed(1),
                }
            }
            Err(RecvError::Lagged(entries)) => {
                metrics.counts().missed(entries);
                before = None;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Counts changes of the leader, and the time without one.
pub(super) async fn watch_leader(consensus: Consensus, metrics: Metrics) {
    let mut view = consensus.leader();
    let mut last = None;
    let mut alone_since = None;
    loop {
        view.mark_unchanged();
        let leader = consensus.living_leader();
        let now = boot_time();
        if let Some(since) = alone_since.take() {
            metrics.counts().without_leader(now.since(since).0 as f64 / 1e3);
        }
        // Before it belongs to a cluster nobody is missing.
        let is_member = consensus.cluster().is_some();
        match leader {
            Some(leader) if last.replace(leader).is_some_and(|last: NodeId| last != leader) => {
                metrics.counts().leader_changed();
            }
            None if is_member => alone_since = Some(now),
            Some(_) | None => {}
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
