//! What a workload is: it makes work, waits for its end, and holds what came of it against what had to come.
//!
//! It talks to the cluster as any client does and reads what its tasks themselves recorded; it never looks into a node.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::faults::Faults;
use crate::report::Report;

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
    /// ([`Faults::voids`]).
    pub(crate) faults: Faults,
}

/// One kind of work and its checker.
#[tonic::async_trait]
pub(crate) trait Workload: Send {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Makes what the work needs, on a healthy cluster.
    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble>;

    /// Works until then, while faults come and go. What is not answered is kept as "maybe", never as a failure.
    async fn drive(&mut self, site: &Site, until: Instant) -> Result<(), Trouble>;

    /// All faults are over. Ends what is open-ended (pauses schedules), and waits until nothing is under way any more;
    /// what has not ended within this time is a broken promise (I15), which goes into the report.
    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble>;

    /// Compares, and writes figures (each with the least that must have happened) and failures into the report.
    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble>;
}

mod trial;

/// All workloads.
pub(crate) fn all() -> Vec<Box<dyn Workload>> {
    vec![Box::new(trial::Trial::default())]
}
