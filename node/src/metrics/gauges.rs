//! What is so when somebody asks: read off an O(1) copy of the state, and off what the node knows of itself and its peers.
//!
//! Start reading at [`Seen`], then [`Gauges::set`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use matins_core::state::{LimitId, Next, State, TaskState};
use matins_core::time::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::process::{Disk, Process};
use super::registrar::Registrar;

/// Gauges with one label each.
type Labelled = Family<[(&'static str, String); 1], Gauge>;
type Seconds = Gauge<f64, AtomicU64>;

/// What can be seen of a node.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its state.
    pub state: Arc<State>,
    /// Leader time on it.
    pub now: Timestamp,
    /// Whether it leads, and is ready.
    pub leads: bool,
    /// Raft's term.
    pub term: u64,
    /// The last record in its log.
    pub last: u64,
    /// The last record that it applied.
    pub applied: u64,
    /// The other members, as the leader knows them; empty on others.
    pub peers: Vec<Peer>,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Bytes of its blobs.
    pub blob_bytes: u64,
    /// Blobs that its state names and that it lacks.
    pub blobs_missing: u64,
    /// The disk of its data directory; `None`: it cannot be asked.
    pub disk: Option<Disk>,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, for people.
    pub name: String,
    /// Whether it was heard of in the last seconds.
    pub is_reachable: bool,
    /// Records behind this node's; `None`: not known.
    pub lag: Option<u64>,
}

/// The gauges.
#[derive(Clone, Default)]
pub(crate) struct Gauges {
    process: Process,
    is_leader: Gauge,
    term: Gauge,
    applied_index: Gauge,
    last_index: Gauge,
    apply_lag: Gauge,
    peer_reachable: Labelled,
    peer_lag: Labelled,
    runs: Labelled,
    tasks: Labelled,
    queue_age: Seconds,
    attempts_live: Gauge,
    schedules: Labelled,
    tick_overdue: Seconds,
    executors: Labelled,
    slots: Gauge,
    slots_used: Gauge,
    pool_slots: Labelled,
    pool_used: Labelled,
    state_bytes: Gauge,
    state_limit: Gauge,
    history_bytes: Gauge,
    history_runs: Gauge,
    blob_bytes: Gauge,
    blobs_missing: Gauge,
    log_bytes: Gauge,
}

impl Gauges {
    pub(crate) fn register(to: &mut Registrar) -> Self {
        let gauges = Self::default();
        gauges.name_node(to);
        gauges.name_work(to);
        gauges.name_bytes(to);
        gauges
    }

    fn name_node(&self, to: &mut Registrar) {
        let it = self.clone();
        it.process.name(to);
        to.add(("is_leader", &[]), "1 on the node that leads and is ready, else 0", it.is_leader);
        to.add(("term", &[]), "Raft's term", it.term);
        to.add(("applied_index", &[]), "The last record of the log that this node applied", it.applied_index);
        to.add(("last_index", &[]), "The last record in this node's log", it.last_index);
        to.add(
            ("apply_lag_entries", &[]),
            "Records in this node's log that it has not applied",
            it.apply_lag,
        );
        to.add(
            ("peer_reachable", &["peer"]),
            "1 if the leader heard of the peer in the last 3 seconds; only the leader tells it",
            it.peer_reachable,
        );
        to.add(
            ("peer_lag_entries", &["peer"]),
            "Records that the peer is behind the leader; only the leader tells it",
            it.peer_lag,
        );
    }

    fn name_work(&self, to: &mut Registrar) {
        let it = self.clone();
        to.add(("runs", &["state"]), "Runs that have not left for history", it.runs);
        to.add(("tasks", &["state"]), "Tasks and items of those runs", it.tasks);
        to.add(
            ("queue_age_seconds", &[]),
            "How long the oldest ready task has waited for room",
            it.queue_age,
        );
        to.add(("attempts_live", &[]), "Attempts that hold a lease", it.attempts_live);
        to.add(("schedules", &["state"]), "Schedules: active, paused, quarantined or over", it.schedules);
        to.add(
            ("tick_overdue_seconds", &[]),
            "How long the oldest due tick has not been decided",
            it.tick_overdue,
        );
        to.add(("executors", &["state"]), "Executors: ready, cordoned (silent) or drained", it.executors);
        to.add(("slots", &[]), "Slots of the executors that are ready", it.slots);
        to.add(("slots_used", &[]), "Slots in use, of all executors", it.slots_used);
        to.add(("pool_slots", &["pool"]), "Slots of a pool", it.pool_slots);
        to.add(("pool_slots_used", &["pool"]), "Slots of a pool that are in use", it.pool_used);
    }

    fn name_bytes(&self, to: &mut Registrar) {
        let it = self.clone();
        to.add(("state_bytes", &[]), "Canonical bytes of the state", it.state_bytes);
        to.add(("state_limit_bytes", &[]), "The most that the state may have", it.state_limit);
        to.add(("history_bytes", &[]), "Bytes of the blocks of history", it.history_bytes);
        to.add(("history_runs", &[]), "Runs in history", it.history_runs);
        to.add(("blob_bytes", &[]), "Bytes of all blobs on this node", it.blob_bytes);
        to.add(("blobs_missing", &[]), "Blobs that the state names and this node lacks", it.blobs_missing);
        to.add(("log_bytes", &[]), "Bytes of this node's log", it.log_bytes);
    }

    /// Sets them to what is seen.
    pub(crate) fn set(&self, seen: &Seen) {
        self.set_node(seen);
        self.set_work(&seen.state, seen.now);
        self.set_room(&seen.state);
        self.set_bytes(seen);
    }

    fn set_node(&self, seen: &Seen) {
        self.process.set(seen.disk);
        self.is_leader.set(i64::from(seen.leads));
        self.term.set(seen.term as i64);
        self.applied_index.set(seen.applied as i64);
        self.last_index.set(seen.last as i64);
        self.apply_lag.set(seen.last.saturating_sub(seen.applied) as i64);
        // Peers and pools come and go.
        self.peer_reachable.clear();
        self.peer_lag.clear();
        for peer in &seen.peers {
            let label = [("peer", peer.name.clone())];
            self.peer_reachable.get_or_create(&label).set(i64::from(peer.is_reachable));
            if let Some(lag) = peer.lag {
                self.peer_lag.get_or_create(&label).set(lag as i64);
            }
        }
    }

    fn set_work(&self, state: &State, now: Timestamp) {
        let runs = ["queued", "running", "stopping", "success", "failed", "cancelled"];
        count(&self.runs, &runs, state.runs.iter().map(|(_, row)| row.state.as_str()));
        let tasks = [
            "waiting",
            "queued",
            "running",
            "stopping",
            "retrying",
            "success",
            "failed",
            "upstream_failed",
            "skipped",
            "cancelled",
        ];
        count(&self.tasks, &tasks, state.tasks.iter().map(|(_, row)| row.state.as_str()));
        let queued = state.queue.iter().filter_map(|((_, place), ())| state.tasks.get(&place.task));
        let oldest = queued.filter(|row| row.state == TaskState::Queued).map(|row| row.since).min();
        self.queue_age.set(oldest.map_or(0.0, |since| now.since(since).0 as f64 / 1e3));
        self.attempts_live.set(state.live.len() as i64);
        let schedules = state.schedules.iter().map(|(_, row)| {
            if row.quarantine.is_some() {
                "quarantined"
            } else if row.paused_since().is_some() {
                "paused"
            } else if row.next == Next::Never {
                "over"
            } else {
                "active"
            }
        });
        count(&self.schedules, &["active", "paused", "quarantined", "over"], schedules);
        // Those whose next tick is not worked out yet stand first, at the beginning of time.
        let due = state.due.iter().map(|((at, _), ())| *at).find(|at| *at > Timestamp::ZERO);
        self.tick_overdue.set(due.map_or(0.0, |at| now.since(at).0 as f64 / 1e3));
    }

    fn set_room(&self, state: &State) {
        let rows = || state.executors.iter().map(|(_, row)| row);
        let words = rows().map(|row| match (row.is_drained, row.is_cordoned()) {
            (true, _) => "drained",
            (false, true) => "cordoned",
            (false, false) => "ready",
        });
        count(&self.executors, &["ready", "cordoned", "drained"], words);
        let ready = rows().filter(|row| !row.is_drained && !row.is_cordoned());
        self.slots.set(ready.map(|row| i64::from(row.slots)).sum());
        self.slots_used.set(rows().map(|row| i64::from(row.used)).sum());
        self.pool_slots.clear();
        self.pool_used.clear();
        for (name, row) in state.pools.iter() {
            let label = [("pool", name.to_string())];
            let used = state.limits.get(&LimitId::Pool(name.clone())).copied().unwrap_or(0);
            self.pool_slots.get_or_create(&label).set(row.slots.into());
            self.pool_used.get_or_create(&label).set(used.into());
        }
    }

    fn set_bytes(&self, seen: &Seen) {
        let state = &seen.state;
        self.state_bytes.set(state.bytes() as i64);
        self.state_limit.set(state.cluster.settings.state_bytes_max as i64);
        self.history_bytes.set(state.blocks.iter().map(|(_, block)| block.bytes).sum::<u64>() as i64);
        self.history_runs.set(state.blocks.iter().map(|(_, block)| i64::from(block.runs)).sum());
        self.blob_bytes.set(seen.blob_bytes as i64);
        self.blobs_missing.set(seen.blobs_missing as i64);
        self.log_bytes.set(seen.log_bytes as i64);
    }
}

/// Counts words; each of `all` has a value, be it 0.
fn count<'w>(gauges: &Labelled, all: &[&'static str], words: impl Iterator<Item = &'w str>) {
    let mut counts: BTreeMap<&str, i64> = all.iter().map(|word| (*word, 0)).collect();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    for (word, count) in counts {
        gauges.get_or_create(&[("state", word.to_owned())]).set(count);
    }
}
