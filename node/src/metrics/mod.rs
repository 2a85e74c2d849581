//! What a node counts and measures, in the text format of `OpenMetrics` (`/metrics`, `docs/metrics.md`).
//!
//! [`Timings`] are told where something takes time, [`DoorCounts`] what clients use and what is turned away, [`Counts`] follow
//! the entries that were applied, and `Gauges` are read off an O(1) copy of the state when somebody asks. Labels are bounded: states, reasons, pools and
//! peers, never a run or a workflow. Nothing here changes what a node does. Start reading at [`Metrics`].

mod counts;
mod door;
mod executor;
mod gauges;
mod process;
mod registrar;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub(crate) use counts::Change;
pub use counts::Counts;
pub use door::DoorCounts;
pub(crate) use door::{Bound, Used};
pub use executor::{ExecutorMetrics, OutsideMetrics};
use gauges::Gauges;
pub use gauges::{Peer, Seen};
pub use process::Disk;
use registrar::{Described, Registrar};

use crate::system::boot_time;

/// The media type of what [`Metrics::text`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that one node counts and measures. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    described: Vec<Described>,
    counts: Counts,
    door: DoorCounts,
    /// Of the executor that belongs to the node, if one does.
    executor: Option<ExecutorMetrics>,
    /// Set anew at each scrape, one scrape at a time.
    gauges: Mutex<Gauges>,
}

impl Metrics {
    /// Those of a node that measures `timings`, with what its executor counts.
    pub fn new(timings: &Timings, executor: Option<ExecutorMetrics>) -> Self {
        let mut registrar = Registrar::default();
        timings.register(&mut registrar);
        let counts = Counts::register(&mut registrar);
        let door = DoorCounts::register(&mut registrar, &Bound::NODE);
        let gauges = Mutex::new(Gauges::register(&mut registrar));
        if let Some(executor) = &executor {
            executor.name(&mut registrar);
        }
        let (registry, described) = registrar.done();
        Self(Arc::new(Inner { registry, described, counts, door, executor, gauges }))
    }

    /// What is counted as entries are applied.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// What the node's ports bear.
    pub fn door(&self) -> &DoorCounts {
        &self.0.door
    }

    /// All of it as text, with what can be seen of the node now. Takes time that grows with the state.
    pub fn text(&self, seen: &Seen) -> String {
        let gauges = self.0.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set(seen);
        if let Some(executor) = &self.0.executor {
            executor.set(boot_time());
        }
        text_of(&self.0.registry)
    }
}

/// What each metric means, for people.
pub fn reference() -> String {
    let node = Metrics::new(&Timings::default(), None);
    let executor = OutsideMetrics::new(ExecutorMetrics::default());
    registrar::reference(&node.0.described, executor.described())
}

fn text_of(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("a string can always be written to");
    text
}

/// Whoever can tell all metrics of a process now.
pub trait Scrape: Send + Sync + 'static {
    /// All metrics as text.
    fn scrape(&self) -> String;
}

/// How long things take. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Timings {
    /// From handing an entry to consensus until it is applied here.
    commit: Histogram,
    /// An append to the log with its fdatasync.
    fsync: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        let buckets = [0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        Self { commit: Histogram::new(buckets), fsync: Histogram::new(buckets) }
    }
}

impl Timings {
    /// An entry was committed and applied, so many nanoseconds after it was proposed.
    pub(crate) fn committed(&self, nanos: u64) {
        self.commit.observe(seconds(nanos));
    }

    /// Records were appended to the log, durably.
    pub(crate) fn synced(&self, nanos: u64) {
        self.fsync.observe(seconds(nanos));
    }

    fn register(&self, registrar: &mut Registrar) {
        registrar.add(
            ("commit_duration_seconds", &[]),
            "From proposing an entry on the leader until it is applied there",
            self.commit.clone(),
        );
        registrar.add(
            ("log_fsync_duration_seconds", &[]),
            "One append to the log with its fdatasync",
            self.fsync.clone(),
        );
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
