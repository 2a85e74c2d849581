//! What a run comes to: the faults that were injected and seen, what clients felt of them, and how nodes ended.
//! Start at [`Evidence::tell`].

use std::collections::BTreeMap;
use std::time::Duration;

use matins_core::time::BootTime;

use super::faults::{Fault, Void};
use super::nemesis::Kind;
use super::nodes::{Left, Why};
use super::observer::{Gap, Sight};
use crate::report::Report;

/// A cluster takes the next command within this after its leader was killed (PROTOCOL 2.5).
const FAILOVER_MAX: Duration = Duration::from_secs(5);

/// Everything that was seen, apart from the work itself.
pub(crate) struct Evidence {
    pub(crate) faults: Vec<Fault>,
    /// Times in which exclusivity is not promised.
    pub(crate) voids: Vec<Void>,
    /// Kinds that had to act once at least.
    pub(crate) asked: Vec<Kind>,
    pub(crate) sight: Sight,
    /// What nemeses count beside the faults.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) left: Vec<Left>,
    pub(crate) panics: Vec<String>,
    /// Broken promises that nemeses themselves saw.
    pub(crate) failures: Vec<String>,
    /// How long the workload worked.
    pub(crate) worked: Duration,
    /// The command that does all this again.
    pub(crate) repeat: String,
}

impl Evidence {
    /// Writes it into the report.
    pub(crate) fn tell(&self, report: &mut Report) {
        self.tell_faults(report);
        self.tell_sight(report);
        self.tell_nodes(report);
        for failure in &self.failures {
            report.fail(failure.clone(), self.repeat.clone());
        }
    }

    fn tell_faults(&self, report: &mut Report) {
        let mut counts: BTreeMap<Kind, u64> = self.asked.iter().map(|kind| (*kind, 0)).collect();
        for fault in &self.faults {
            match &fault.proof {
                Some(_) => *counts.entry(fault.kind).or_default() += 1,
                None => report.invalid.push(format!("not seen to act: {fault}")),
            }
            report.timeline.push(line(fault, self.faults[0].from.0));
        }
        for void in &self.voids {
            let at = |at: BootTime| at.0.saturating_sub(self.faults[0].from.0) as f64 / 1e9;
            let to = void.to.map_or_else(|| "the end".into(), |to| format!("{:.1} s", at(to)));
            report.notes.push(format!(
                "5.10 promises nothing of exclusivity on {} from {:.1} s to {to}",
                void.node,
                at(void.from)
            ));
        }
        report.needs("faults", counts.values().sum(), 1);
        for (kind, count) in counts {
            let name = format!("faults: {}", kind.name());
            if self.asked.contains(&kind) {
                report.needs(name, count, 1);
            } else {
                report.figure(name, count);
            }
        }
        for (name, count) in &self.counts {
            report.figure(*name, *count);
        }
        let mut recoveries: Vec<Duration> = self.faults.iter().filter_map(|fault| fault.recovery).collect();
        recoveries.sort_unstable();
        if let (Some(median), Some(worst)) = (recoveries.get(recoveries.len() / 2), recoveries.last()) {
            report.figure("whole again after a fault, median (ms)", millis(*median));
            report.figure("whole again after a fault, worst (ms)", millis(*worst));
        }
    }

    fn tell_sight(&self, report: &mut Report) {
        // One a second is a tenth of what a healthy cluster takes from one client.
        report.needs("observer's commands acknowledged", self.sight.acknowledged, self.worked.as_secs());
        let spans = || self.sight.gaps.iter().map(|gap| gap.span());
        report.figure("without a leader, longest (ms)", millis(spans().max().unwrap_or_default()));
        report.figure("without a leader, together (ms)", millis(spans().sum()));
        let mut longest: BTreeMap<Kind, Duration> = BTreeMap::new();
        for gap in &self.sight.gaps {
            for fault in self.faults.iter().filter(|fault| acts_in(fault, *gap)) {
                let span = longest.entry(fault.kind).or_default();
                *span = gap.span().max(*span);
            }
        }
        for (kind, span) in &longest {
            report.figure(format!("without a leader, longest: {} (ms)", kind.name()), millis(*span));
        }
        if let Some(span) = self.longest_failover().filter(|span| *span > FAILOVER_MAX) {
            report.fail(
                format!("2.5: no command was acknowledged for {span:?} around a killed leader"),
                self.repeat.clone(),
            );
        }
        report.figure("leaderships begun", self.sight.leaderships);
    }

    /// The longest time without a leader around a leader that was killed.
    fn longest_failover(&self) -> Option<Duration> {
        let kills: Vec<&Fault> = self.faults.iter().filter(|fault| fault.kind == Kind::KillLeader).collect();
        let gaps = self.sight.gaps.iter().filter(|gap| kills.iter().any(|fault| acts_in(fault, **gap)));
        gaps.map(|gap| gap.span()).max()
    }

    fn tell_nodes(&self, report: &mut Report) {
        let (mut gave_up, mut bad_disk) = (0, 0);
        let mut unknown: BTreeMap<String, u32> = BTreeMap::new();
        for left in &self.left {
            match &left.why {
                Why::GaveUpLead => gave_up += 1,
                Why::BadDisk => bad_disk += 1,
                Why::Unknown(why) => {
                    *unknown.entry(format!("{} ended by itself: {why}", left.node)).or_default() += 1;
                }
            }
        }
        for (what, count) in unknown {
            report.fail(format!("{what} ({count} times)"), self.repeat.clone());
        }
        report.figure("nodes that gave up the lead (2.3)", gave_up);
        report.figure("nodes that stopped for their disk (6.1)", bad_disk);
        for panic in &self.panics {
            report.fail(format!("panicked: {panic}"), self.repeat.clone());
        }
    }
}

/// Whether a fault acts, or the cluster recovers from it, in this time.
fn acts_in(fault: &Fault, gap: Gap) -> bool {
    let recovery = fault.recovery.unwrap_or_default().as_nanos() as u64;
    let to = fault.to.map_or(u64::MAX, |to| to.0.saturating_add(recovery));
    fault.from < gap.to && gap.from.0 < to
}

/// One line of the timeline, in seconds since the first fault.
fn line(fault: &Fault, began: u64) -> String {
    let at = |nanos: u64| nanos.saturating_sub(began) as f64 / 1e9;
    let from = at(fault.from.0);
    let took = fault.to.map_or_else(|| "not healed".into(), |to| format!("{:.1} s", at(to.0) - from));
    let proof = fault.proof.as_deref().unwrap_or("NOT SEEN TO ACT");
    let recovery = fault.recovery.map_or_else(|| "?".into(), |after| format!("{:.1} s", after.as_secs_f64()));
    format!("{from:>6.1} s  {fault}, {took}, whole again after {recovery}: {proof}")
}

fn millis(span: Duration) -> u64 {
    span.as_millis() as u64
}

#[cfg(test)]
mod tests;
