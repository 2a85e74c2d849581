//! The log of faults: what was done to which node, from when to when, and how it was seen to act.
//!
//! Times are of the boot-time clock, which tasks read too, so that a checker can tell what a fault explains. Start at
//! [`Faults`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use matins_core::time::BootTime;

use super::nemesis::Kind;

/// How long the processes of a task may outlive a fault that leaves nobody to end them.
const LEFTOVERS_MAX: Duration = Duration::from_secs(30);

/// One fault.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Names of the nodes it was done to.
    pub(crate) nodes: Vec<String>,
    /// The instant before it was begun.
    pub(crate) from: BootTime,
    /// The instant after it was healed. `None`: it still acts.
    pub(crate) to: Option<BootTime>,
    /// What was seen from outside while it acted. `None`: nothing, and the run is invalid.
    pub(crate) proof: Option<String>,
    /// From the heal until the cluster was whole again. `None`: not yet.
    pub(crate) recovery: Option<Duration>,
}

/// All faults of a run. A clone is another handle to the same log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Vec<Fault>>>);

/// The place of a fault in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultAt(usize);

/// A time in which a promise does not hold, by the protocol's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Void {
    pub(crate) node: String,
    pub(crate) from: BootTime,
    /// When the fault was over. `None`: it lasts.
    pub(crate) healed: Option<BootTime>,
    /// When whatever it left over must have ended. `None`: it lasts.
    pub(crate) to: Option<BootTime>,
}

impl FaultAt {
    /// The fault there.
    pub(crate) fn of(self, faults: &[Fault]) -> &Fault {
        &faults[self.0]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.kind.name(), self.nodes.join(", "))
    }
}

impl Faults {
    /// Notes that one is about to begin.
    pub(crate) fn begin(&self, kind: Kind, nodes: Vec<String>) -> FaultAt {
        let mut all = self.lock();
        all.push(Fault { kind, nodes, from: boot_time(), to: None, proof: None, recovery: None });
        FaultAt(all.len() - 1)
    }

    /// Notes how it was seen.
    pub(crate) fn proved(&self, at: FaultAt, proof: String) {
        self.lock()[at.0].proof = Some(proof);
    }

    /// Notes that it is over.
    pub(crate) fn healed(&self, at: FaultAt) {
        self.lock()[at.0].to = Some(boot_time());
    }

    /// Notes that the cluster was whole again after so long.
    pub(crate) fn recovered(&self, at: FaultAt, after: Duration) {
        self.lock()[at.0].recovery = Some(after);
    }

    /// All of them, in the order in which they began.
    pub(crate) fn all(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// When, and on which nodes, two attempts of one task may have lived at once without a broken promise (PROTOCOL 5.10).
    pub(crate) fn voids(&self) -> Vec<Void> {
        let voids = self.all().into_iter().filter(|fault| fault.kind.voids_exclusivity());
        let voids = voids.flat_map(|fault| {
            let (from, healed) = (fault.from, fault.to);
            let to = healed.map(|healed| later(healed, LEFTOVERS_MAX));
            fault.nodes.into_iter().map(move |node| Void { node, from, healed, to })
        });
        voids.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The boot-time clock, which all processes of this machine share.
pub(crate) fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootTime(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

fn later(at: BootTime, span: Duration) -> BootTime {
    BootTime(at.0.saturating_add(span.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_protocol_names_voids_a_promise() {
        let faults = Faults::default();
        let kill = faults.begin(Kind::Kill, vec!["n1".into()]);
        faults.healed(kill);
        let freeze = faults.begin(Kind::SupervisorFreeze, vec!["n2".into()]);
        assert_eq!(faults.voids().len(), 1);
        assert_eq!(faults.voids()[0].to, None);
        faults.healed(freeze);
        let void = faults.voids().remove(0);
        assert_eq!(void.node, "n2");
        assert!(void.to > faults.all()[1].to);
    }
}
