//! What the protocol itself excepts from exclusivity: a life that nobody could end, since its supervisor was frozen or
//! killed beside its node (PROTOCOL 5.10).
//!
//! The exception is as narrow as the protocol's words. It is for processes that were there when the fault came, on that node,
//! until those who are left over must have ended, and only where the cluster gave the attempt up: whoever was heard to end
//! was never given up. Start at [`Excuses::read`] and [`Excuses::counted`].

use std::collections::BTreeMap;

use matins_core::state::{AttemptOutcome, LostReason};
use matins_proto::v1::{Attempt, Run};

use crate::report::Report;

use super::super::faults::{Faults, Void};
use super::spans::Span;
use super::{Site, runs};

/// What is excepted in one run of a workload. The default excepts nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Excuses {
    voids: Vec<Void>,
    /// The node of each attempt that the cluster gave up without having heard of its end, by fence.
    given_up: BTreeMap<u64, String>,
}

impl Excuses {
    /// From what was done to nodes, and what the cluster says of these runs.
    pub(crate) fn read(site: &Site, runs: &[Run]) -> Self {
        Self::of(&site.faults, runs)
    }

    fn of(faults: &Faults, runs: &[Run]) -> Self {
        // A supervisor that ended it itself has said so, once its group was gone.
        let by_lease = AttemptOutcome::Lost(LostReason::Deadline).to_string();
        let was_heard = |attempt: &Attempt| {
            let is_by_lease = attempt.reason.as_ref().is_some_and(|reason| reason.text == by_lease);
            attempt.exit_code.is_some() || attempt.signal.is_some() || is_by_lease
        };
        let attempts = runs.iter().flat_map(runs::attempts).map(|(_, attempt)| attempt);
        let given_up = attempts.filter(|attempt| !was_heard(attempt));
        Self {
            voids: faults.voids(),
            given_up: given_up.map(|attempt| (attempt.fence, attempt.executor_name.clone())).collect(),
        }
    }

    /// The fault that kept anybody from ending this life.
    pub(crate) fn void_of(&self, span: &Span) -> Option<&Void> {
        let node = self.given_up.get(&span.fence)?;
        self.voids.iter().find(|void| {
            // Whoever began after the heal had a supervisor that could end it.
            let was_there = void.healed.is_none_or(|healed| span.start < healed.0);
            let is_over = void.to.is_none_or(|to| span.end <= to.0);
            void.node == *node && was_there && is_over && span.end >= void.from.0
        })
    }

    /// Lives as far as they count: one that nobody could end counts until the fault came.
    pub(crate) fn counted(&self, spans: Vec<Span>) -> Vec<Span> {
        let mut counted = spans;
        for span in &mut counted {
            if let Some(void) = self.void_of(span) {
                span.end = void.from.0.max(span.start);
            }
        }
        counted
    }

    /// Says for how many lives this was so.
    pub(crate) fn tell(&self, workload: &str, spans: &[Span], report: &mut Report) {
        let count = spans.iter().filter(|span| self.void_of(span).is_some()).count() as u64;
        report.figure(format!("{workload}: lives that nobody could end (5.10)"), count);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use matins_core::time::BootTime;

    use super::*;

    /// The supervisor of `n1` was frozen from 100 to 200, and what was left over may live until 300. The cluster gave these
    /// fences up, all of `n1`.
    pub(crate) fn frozen(given_up: &[u64]) -> Excuses {
        let [from, healed, to] = [100, 200, 300].map(BootTime);
        let void = Void { node: "n1".into(), from, healed: Some(healed), to: Some(to) };
        Excuses {
            voids: vec![void],
            given_up: given_up.iter().map(|fence| (*fence, "n1".to_owned())).collect(),
        }
    }

    fn span(fence: u64, start: u64, end: u64) -> Span {
        let (workflow, run, task) = Default::default();
        Span { fence, workflow, run, task, attempt: 1, start, end, code: None }
    }

    fn end(excuses: &Excuses, span: Span) -> u64 {
        excuses.counted(vec![span])[0].end
    }

    #[test]
    fn a_life_that_nobody_could_end_counts_until_the_fault() {
        assert_eq!(end(&frozen(&[7]), span(7, 50, 250)), 100);
        assert_eq!(end(&frozen(&[7]), span(7, 50, 300)), 100);
        // It began while the fault came.
        assert_eq!(end(&frozen(&[7]), span(7, 110, 250)), 110);
    }

    #[test]
    fn all_other_lives_count_whole() {
        assert_eq!(end(&frozen(&[]), span(7, 50, 250)), 250, "the cluster heard of its end");
        assert_eq!(end(&frozen(&[7]), span(7, 50, 301)), 301, "it was left over for too long");
        assert_eq!(end(&frozen(&[7]), span(7, 200, 250)), 250, "it began after the heal");
        assert_eq!(end(&frozen(&[7]), span(7, 50, 99)), 99, "it ended before the fault");
        let elsewhere = Excuses { given_up: BTreeMap::from([(7, "n2".into())]), ..frozen(&[]) };
        assert_eq!(end(&elsewhere, span(7, 50, 250)), 250, "it was on another node");
        assert_eq!(end(&Excuses::default(), span(7, 50, 250)), 250);
    }

    #[test]
    fn only_attempts_without_a_known_end_are_given_up() {
        use matins_proto::v1::{StateReason, Task};
        let attempt = |fence, exit_code, signal| Attempt {
            fence,
            executor_name: "n1".into(),
            exit_code,
            signal,
            ..Attempt::default()
        };
        let lost = |fence, how| {
            let text = AttemptOutcome::Lost(how).to_string();
            let reason = Some(StateReason { code: "lost".into(), text, ..StateReason::default() });
            Attempt { reason, ..attempt(fence, None, None) }
        };
        let attempts = vec![
            attempt(1, Some(0), None),
            attempt(2, None, Some(9)),
            lost(3, LostReason::Expired),
            lost(4, LostReason::Deadline),
        ];
        let run = Run { tasks: vec![Task { attempts, ..Task::default() }], ..Run::default() };
        let excuses = Excuses::of(&Faults::default(), &[run]);
        assert_eq!(excuses.given_up, BTreeMap::from([(3, "n1".to_owned())]));
    }
}
