//! What a workload is: it makes work, waits for its end, and holds what came of it against what had to come.
//!
//! It talks to the cluster as any client does and reads what its tasks themselves recorded; it never looks into a node.
//! Every checker is a pure function over what was recorded, and has tests with planted histories that it must reject.
//! Start at [`Workload`]; [`ALL`] lists them, `jepsen/README.md` says what each shows and what it does not.

mod backfill;
mod calendar;
mod call;
mod dag;
mod doors;
mod excuse;
mod limits;
mod linear;
mod mutex;
mod record;
mod register;
mod runs;
mod spans;
mod submit;
pub(crate) mod task;
mod ticks;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::faults::Faults;
use crate::report::Report;

/// How long a workload has the cluster to itself after the last fault.
const CALM: Duration = Duration::from_secs(3);

/// The harness failed: whatever the checkers would say, it says nothing.
#[derive(Debug)]
pub(crate) struct Trouble(pub(crate) String);

/// Where a workload runs.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The public endpoints of all nodes: `host:port`, with commas.
    pub(crate) endpoints: String,
    /// The folder into which tasks write their records. All nodes share this machine, its files and its kernel's clock.
    pub(crate) records: PathBuf,
    /// Everything random is drawn from it.
    pub(crate) seed: u64,
    /// What is done to the nodes meanwhile. Only a checker may look, and only for what the protocol itself excepts
    /// ([`excuse::Excuses`]).
    pub(crate) faults: Faults,
}

/// How long a workload works: its time, and in any case until the last fault was healed and it had the cluster to itself for
/// a moment. So every recovery has work to do, and a fault that lasts does not leave too little work to say anything.
#[derive(Clone, Debug)]
pub(crate) struct Until {
    time: Instant,
    /// When the faults were over. Not set: they come and go.
    calm: Arc<OnceLock<Instant>>,
}

/// One kind of work and its checker.
#[tonic::async_trait]
pub(crate) trait Workload: Send {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Makes what the work needs, on a healthy cluster.
    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble>;

    /// Works until then, while faults come and go. What is not answered is kept as "maybe", never as a failure.
    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble>;

    /// All faults are over. Ends what is open-ended (pauses schedules), and waits until nothing is under way any more;
    /// what has not ended within this time is a broken promise (I15), which goes into the report.
    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble>;

    /// Compares, and writes figures (each with the least that must have happened) and failures into the report.
    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble>;
}

/// The names of all workloads, in the order in which they are run by default.
pub(crate) const ALL: [&str; 8] =
    ["ticks", "mutex", "register", "dag", "limits", "submit", "linear", "backfill"];

/// The workload of this name. `None`: there is none.
pub(crate) fn workload(name: &str) -> Option<Box<dyn Workload>> {
    Some(match name {
        "ticks" => Box::new(ticks::Ticks::default()),
        "mutex" => Box::new(mutex::Mutex),
        "register" => Box::new(register::Register::default()),
        "limits" => Box::new(limits::Limits),
        "dag" => Box::new(dag::Dag::default()),
        "submit" => Box::new(submit::Submit::default()),
        "linear" => Box::new(linear::Linear::default()),
        "backfill" => Box::new(backfill::Backfill::default()),
        _ => return None,
    })
}

impl Until {
    /// So long from now, and until [`Self::set_calm`].
    pub(crate) fn after(time: Duration) -> Self {
        Self { time: Instant::now() + time, calm: Arc::default() }
    }

    /// No fault comes any more.
    pub(crate) fn set_calm(&self) {
        self.calm.get_or_init(Instant::now);
    }

    /// Whether the work is over.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.time && self.calm.get().is_some_and(|since| since.elapsed() >= CALM)
    }
}

impl Site {
    /// Where the tasks of a workload write.
    fn record_file(&self, workload: &str) -> PathBuf {
        self.records.join(format!("{workload}.jsonl"))
    }

    /// Writes what a checker found into the report: the first of them in full, the rest as a number.
    fn report(&self, workload: &str, broken: Vec<String>, report: &mut Report) {
        const SHOWN: usize = 20;
        let repeat = format!("matins-jepsen cluster --workload {workload} --seed {}", self.seed);
        let more = broken.len().saturating_sub(SHOWN);
        for what in broken.into_iter().take(SHOWN) {
            report.fail(what, &repeat);
        }
        if more > 0 {
            report.notes.push(format!("{workload}: {more} more failures like these"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_on_until_the_faults_are_over() {
        let until = Until::after(Duration::ZERO);
        assert!(!until.is_over(), "a fault still acts");
        until.set_calm();
        assert!(!until.is_over(), "there must be work on a cluster that is well");
        let calm = Arc::new(OnceLock::from(Instant::now().checked_sub(CALM).unwrap()));
        assert!(Until { calm: Arc::clone(&calm), ..until }.is_over());
        assert!(!Until { time: Instant::now() + CALM, calm }.is_over(), "its time is not up");
    }

    #[test]
    fn each_name_has_its_workload() {
        for name in ALL {
            assert_eq!(workload(name).map(|it| it.name()), Some(name));
        }
        assert!(workload("payroll").is_none());
    }
}
