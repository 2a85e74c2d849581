//! What an executor counts of itself, whether it belongs to a node or not.
//!
//! Its names begin with `executor_`, so that a node, which tells what the whole cluster knows, can tell those of its own executor
//! beside it. Start reading at [`ExecutorMetrics`].

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use matins_core::time::BootTime;
use matins_proto::v1::AttemptReport;
use matins_proto::v1::attempt_report::Outcome;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::door::{Bound, DoorCounts};
use super::process::{Disk, Process};
use super::registrar::{Described, Registrar};
use super::text_of;
use prometheus_client::registry::Registry;

/// How an attempt can end, as the executor sees it: it does not know why it was told to stop one.
const OUTCOMES: [&str; 5] = ["success", "failed", "signal", "not_started", "lost"];

/// What one executor counts. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct ExecutorMetrics {
    session_open: Gauge,
    sessions_lost: Counter,
    slots: Gauge,
    slots_used: Gauge,
    started: Counter,
    ended: Family<[(&'static str, &'static str); 1], Counter>,
    logs_waiting: Gauge,
    logs_waiting_age: Gauge<f64, AtomicU64>,
    logs_waiting_since: Arc<Mutex<Option<BootTime>>>,
}

impl ExecutorMetrics {
    /// Those of an executor with so many slots.
    pub(crate) fn new(slots: u32) -> Self {
        let metrics = Self::default();
        metrics.slots.set(slots.into());
        // A series that is there from the start tells its first change.
        for outcome in OUTCOMES {
            drop(metrics.ended.get_or_create(&[("outcome", outcome)]));
        }
        metrics
    }

    pub(super) fn name(&self, to: &mut Registrar) {
        let it = self.clone();
        to.add(
            ("executor_session_open", &[]),
            "1 while its session with the leader is open and holds, else 0",
            it.session_open,
        );
        to.add(
            ("executor_sessions_lost", &[]),
            "Sessions that were open and broke, or that another one had to follow",
            it.sessions_lost,
        );
        to.add(("executor_slots", &[]), "How many attempts may run here at once", it.slots);
        to.add(
            ("executor_slots_used", &[]),
            "Attempts that it holds: until the leader has taken in how they ended",
            it.slots_used,
        );
        to.add(("executor_attempts_started", &[]), "Attempts whose first process was started", it.started);
        to.add(
            ("executor_attempts_ended", &["outcome"]),
            "Attempts that ended, by how: a task that was stopped mostly by `signal`",
            it.ended,
        );
        to.add(
            ("executor_logs_waiting", &[]),
            "Logs of ended attempts that the nodes do not have yet",
            it.logs_waiting,
        );
        to.add(
            ("executor_logs_waiting_seconds", &[]),
            "How long the oldest of these has waited; a few seconds are usual",
            it.logs_waiting_age,
        );
    }

    /// It holds so many attempts.
    pub(crate) fn holds(&self, attempts: usize) {
        self.slots_used.set(attempts as i64);
    }

    /// A session with the leader holds from now on.
    pub(crate) fn session_opened(&self) {
        self.session_open.set(1);
    }

    /// It holds no more.
    pub(crate) fn session_lost(&self) {
        self.session_open.set(0);
        self.sessions_lost.inc();
    }

    /// The first process of an attempt runs.
    pub(crate) fn started(&self) {
        self.started.inc();
    }

    /// The report of an attempt is made.
    pub(crate) fn ended(&self, report: &AttemptReport) {
        let outcome = match &report.outcome {
            Some(Outcome::ExitCode(0)) if report.output_fault.is_empty() => "success",
            Some(Outcome::ExitCode(_)) => "failed",
            Some(Outcome::Signal(_)) => "signal",
            Some(Outcome::CouldNotStart(_)) => "not_started",
            Some(Outcome::Lost(_)) | None => "lost",
        };
        self.ended.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// So many logs wait to be packed, the oldest since this instant.
    pub(crate) fn logs_wait(&self, logs: usize, since: Option<BootTime>) {
        self.logs_waiting.set(logs as i64);
        *self.logs_waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Brings up to date what only time changes.
    pub(super) fn set(&self, now: BootTime) {
        let since = *self.logs_waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.logs_waiting_age.set(since.map_or(0.0, |since| now.since(since).0 as f64 / 1e3));
    }
}

/// Everything that an executor tells which belongs to no node. Cheap to clone.
#[derive(Clone)]
pub struct OutsideMetrics(Arc<Outside>);

struct Outside {
    registry: Registry,
    described: Vec<Described>,
    executor: ExecutorMetrics,
    door: DoorCounts,
    process: Process,
}

impl OutsideMetrics {
    /// Those of a process that runs this executor.
    pub(crate) fn new(executor: ExecutorMetrics) -> Self {
        let mut registrar = Registrar::default();
        let process = Process::default();
        process.name(&mut registrar);
        executor.name(&mut registrar);
        let door = DoorCounts::register(&mut registrar, &Bound::EXECUTOR);
        let (registry, described) = registrar.done();
        Self(Arc::new(Outside { registry, described, executor, door, process }))
    }

    /// What its port bears.
    pub(crate) fn door(&self) -> &DoorCounts {
        &self.0.door
    }

    /// All of it as text.
    pub(crate) fn text(&self, disk: Option<Disk>, now: BootTime) -> String {
        self.0.process.set(disk);
        self.0.executor.set(now);
        text_of(&self.0.registry)
    }

    pub(super) fn described(&self) -> &[Described] {
        &self.0.described
    }
}
