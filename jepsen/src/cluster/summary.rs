//! What the runs of several workloads come to together, for a reader who reads a few lines only. Start at [`tell`].

use crate::report::{Report, Verdict};

/// Figures that are added up, and the name that each has in the report of one run.
const SUMS: [(&str, &str); 4] = [
    ("all: faults", "faults"),
    ("all: leaderships begun", "leaderships begun"),
    ("all: ticks checked", "ticks checked"),
    ("all: attempts", "attempts"),
];

/// Figures of which the worst is told.
const EXTREMES: [&str; 2] = ["without a leader, longest (ms)", "whole again after a fault, worst (ms)"];

/// Writes sums, extremes and the verdict of each into the report; of one run there is nothing to sum up.
pub(crate) fn tell(parts: &[(&'static str, Report)], report: &mut Report) {
    if parts.len() < 2 {
        return;
    }
    for (all, name) in SUMS {
        report.figure(all, values(parts, name).sum());
    }
    report.figure("all: kinds of faults", kinds(parts));
    for name in EXTREMES {
        report.figure(format!("all: {name}"), values(parts, name).max().unwrap_or(0));
    }
    for (verdict, word) in
        [(Verdict::Held, "held"), (Verdict::Broken, "BROKEN"), (Verdict::Invalid, "INVALID")]
    {
        let names = parts.iter().filter(|(_, part)| part.verdict() == verdict).map(|(name, _)| *name);
        let names: Vec<&str> = names.collect();
        if !names.is_empty() {
            report.notes.push(format!("{word}: {}", names.join(", ")));
        }
    }
}

/// A figure of each run that has it, which may stand there under the name of its workload.
fn values(parts: &[(&'static str, Report)], name: &str) -> impl Iterator<Item = u64> {
    parts.iter().flat_map(move |(part, report)| {
        let is_it = move |found: &str| {
            found == name || found.strip_prefix(*part).is_some_and(|it| it == format!(": {name}"))
        };
        report.figures.iter().filter(move |figure| is_it(&figure.name)).map(|figure| figure.value)
    })
}

/// How many kinds of faults there were at all.
fn kinds(parts: &[(&'static str, Report)]) -> u64 {
    let figures = parts.iter().flat_map(|(_, part)| &part.figures).filter(|figure| figure.value > 0);
    let kinds = figures.filter_map(|figure| figure.name.strip_prefix("faults: "));
    kinds.collect::<std::collections::BTreeSet<_>>().len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: &str, faults: u64, longest: u64) -> Report {
        let mut report = Report::new("cluster");
        report.needs("faults", faults, 1);
        report.figure(format!("faults: {kind}"), faults);
        report.figure("without a leader, longest (ms)", longest);
        report.figure("dag: attempts", 40);
        report
    }

    #[test]
    fn sums_extremes_and_verdicts_are_told() {
        let parts = [("dag", part("kill", 2, 900)), ("mutex", part("pause", 0, 1_200))];
        let mut report = Report::new("cluster");
        tell(&parts, &mut report);
        let value = |name: &str| report.figures.iter().find(|it| it.name == name).map(|it| it.value);
        assert_eq!(value("all: faults"), Some(2));
        assert_eq!(value("all: kinds of faults"), Some(1));
        assert_eq!(value("all: attempts"), Some(40), "the other one has no figure of its own");
        assert_eq!(value("all: without a leader, longest (ms)"), Some(1_200));
        assert_eq!(report.notes, ["held: dag", "INVALID: mutex"]);
    }
}
