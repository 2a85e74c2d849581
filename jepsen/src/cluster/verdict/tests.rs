//! What makes a run broken or invalid.

use super::*;
use crate::cluster::faults::Faults;
use crate::report::Verdict;

fn evidence() -> Evidence {
    let faults = Faults::default();
    let at = faults.begin(Kind::Pause, vec!["n1".into()]);
    faults.healed(at);
    faults.proved(at, "process 7 is in state T".into());
    faults.recovered(at, Duration::from_millis(700));
    Evidence {
        faults: faults.all(),
        voids: faults.voids(),
        asked: vec![Kind::Pause],
        sight: Sight { acknowledged: 900, gaps: Vec::new(), leaderships: 1 },
        left: vec![Left { node: "n1".into(), why: Why::GaveUpLead }],
        counts: BTreeMap::new(),
        panics: Vec::new(),
        failures: Vec::new(),
        worked: Duration::from_secs(30),
        repeat: "matins-jepsen cluster".into(),
    }
}

fn verdict(evidence: &Evidence) -> Verdict {
    let mut report = Report::new("cluster");
    evidence.tell(&mut report);
    report.verdict()
}

#[test]
fn a_good_run_holds() {
    assert_eq!(verdict(&evidence()), Verdict::Held);
}

#[test]
fn a_fault_that_was_not_seen_makes_it_invalid() {
    let mut evidence = evidence();
    evidence.faults[0].proof = None;
    assert_eq!(verdict(&evidence), Verdict::Invalid);
}

#[test]
fn a_fault_that_was_asked_for_and_never_came_makes_it_invalid() {
    let mut evidence = evidence();
    evidence.asked.push(Kind::DiskFull);
    assert_eq!(verdict(&evidence), Verdict::Invalid);
}

#[test]
fn a_cluster_that_hardly_works_makes_it_invalid() {
    let mut evidence = evidence();
    evidence.sight.acknowledged = 29;
    assert_eq!(verdict(&evidence), Verdict::Invalid);
}

#[test]
fn a_node_that_ends_for_a_reason_of_its_own_breaks_it() {
    let mut evidence = evidence();
    evidence.left.push(Left { node: "n2".into(), why: Why::Unknown("signal: 6".into()) });
    assert_eq!(verdict(&evidence), Verdict::Broken);
}

#[test]
fn a_late_failover_breaks_it() {
    let mut evidence = evidence();
    evidence.faults[0].kind = Kind::KillLeader;
    evidence.asked.clear();
    let from = evidence.faults[0].from;
    evidence.sight.gaps.push(Gap { from, to: BootTime(from.0 + 4_900_000_000) });
    assert_eq!(verdict(&evidence), Verdict::Held);
    evidence.sight.gaps.push(Gap { from, to: BootTime(from.0 + 5_100_000_000) });
    assert_eq!(verdict(&evidence), Verdict::Broken);
}

#[test]
fn a_panic_breaks_it() {
    let mut evidence = evidence();
    evidence.panics.push("n3: thread 'main' panicked at x.rs:1:2".into());
    assert_eq!(verdict(&evidence), Verdict::Broken);
}
