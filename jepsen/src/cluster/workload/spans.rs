//! The time that attempts lived, put together from their records, and the checks that all of them share.
//!
//! Pure: lines in, sentences about broken promises out. An attempt that wrote no end was killed; it lived at least until
//! the last thing it wrote, and that is the end used here, so that no check ever blames it for time it may not have
//! had. Start at [`spans`].

use std::collections::BTreeMap;

use super::excuse::Excuses;
use super::record::{Event, Line};

/// One attempt's life as its records show it. Both ends belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) fence: u64,
    pub(crate) workflow: String,
    pub(crate) run: String,
    pub(crate) task: String,
    pub(crate) attempt: u32,
    /// Nanoseconds of the boot-time clock.
    pub(crate) start: u64,
    /// The last moment at which it was surely alive.
    pub(crate) end: u64,
    /// The code with which it ended by itself. `None`: it was killed, or still runs.
    pub(crate) code: Option<i32>,
}

/// Puts lives together, in order of their starts. Also tells what cannot be: two processes under one fence.
pub(crate) fn spans(lines: &[Line]) -> (Vec<Span>, Vec<String>) {
    let mut by_fence: BTreeMap<u64, Span> = BTreeMap::new();
    let mut broken = Vec::new();
    for line in lines {
        let Line { event, at, fence, workflow, run, task, attempt, logical_time: _ } = line;
        let Some(span) = by_fence.get_mut(fence) else {
            let code = if let Event::End(code) = event { Some(*code) } else { None };
            let (workflow, run, task) = (workflow.clone(), run.clone(), task.clone());
            by_fence.insert(
                *fence,
                Span { fence: *fence, workflow, run, task, attempt: *attempt, start: *at, end: *at, code },
            );
            continue;
        };
        if (&span.run, &span.task, span.attempt) != (run, task, *attempt) {
            broken.push(format!("I5: fence {fence} is of {}/{} and of {run}/{task}", span.run, span.task));
        }
        if *event == Event::Start {
            broken.push(format!("I4: {run}/{task} was started twice under fence {fence}"));
        }
        if let Event::End(code) = event {
            span.code = Some(*code);
        }
        span.end = span.end.max(*at);
    }
    let mut spans: Vec<Span> = by_fence.into_values().collect();
    spans.sort_by_key(|span| (span.start, span.fence));
    (spans, broken)
}

/// No two lives under one key overlap, fences rise in the order of starts, and no lock was found held; but for what the
/// protocol itself excepts.
pub(crate) fn exclusive(
    lines: &[Line],
    excuses: &Excuses,
    key: impl Fn(&str, &str) -> String,
) -> Vec<String> {
    let (spans, mut broken) = spans(lines);
    let is_excused = |line: &&Line| {
        let own = key(&line.run, &line.task);
        let others =
            spans.iter().filter(|span| key(&span.run, &span.task) == own && span.fence != line.fence);
        let mut voids = others.filter_map(|other| excuses.void_of(other));
        voids.any(|void| void.from.0 <= line.at && void.to.is_none_or(|to| line.at <= to.0))
    };
    for line in lines.iter().filter(|line| line.event == Event::Held && !is_excused(line)) {
        let Line { fence, run, task, .. } = line;
        broken
            .push(format!("I6: {run}/{task} began under fence {fence} while another process held its lock"));
    }
    let spans = excuses.counted(spans);
    let mut newest: BTreeMap<String, &Span> = BTreeMap::new();
    for span in &spans {
        let key = key(&span.run, &span.task);
        let Some(before) = newest.get(&key) else {
            newest.insert(key, span);
            continue;
        };
        if span.start <= before.end {
            let by = before.end - span.start;
            broken.push(format!(
                "I6: {key}: fence {} began {by} ns before fence {} had ended",
                span.fence, before.fence
            ));
        }
        if span.fence <= before.fence {
            broken.push(format!("I5: {key}: fence {} began after fence {}", span.fence, before.fence));
        }
        // The one that lived longest is what the next may not overlap.
        if span.end >= before.end {
            newest.insert(key, span);
        }
    }
    broken
}

/// One use of a limit: how much, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Which limit: `pool narrow`, `executor node-3`, `default/one`.
    pub(crate) limit: String,
    /// Uses with the same holder count once: the run, where runs are limited.
    pub(crate) holder: String,
    pub(crate) amount: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What is used at most at any one instant, by limit.
pub(crate) fn peaks(uses: &[Use]) -> BTreeMap<String, u32> {
    // At one instant starts come before ends: both ends belong to a life.
    let mut changes: Vec<(u64, bool, &Use)> = Vec::with_capacity(2 * uses.len());
    for used in uses {
        changes.push((used.start, false, used));
        changes.push((used.end, true, used));
    }
    changes.sort_by_key(|(at, is_end, _)| (*at, *is_end));
    let mut holders: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut now: BTreeMap<&str, u32> = BTreeMap::new();
    let mut peaks: BTreeMap<String, u32> = BTreeMap::new();
    for (_, is_end, used) in changes {
        let count = holders.entry((&used.limit, &used.holder)).or_default();
        let in_use = now.entry(&used.limit).or_default();
        if is_end {
            *count -= 1;
            *in_use -= if *count == 0 { used.amount } else { 0 };
        } else {
            *in_use += if *count == 0 { used.amount } else { 0 };
            *count += 1;
        }
        let peak = peaks.entry(used.limit.clone()).or_default();
        *peak = (*peak).max(*in_use);
    }
    peaks
}

/// No limit is exceeded at any instant. A limit that is not listed is unknown, and that is said.
pub(crate) fn within(uses: &[Use], limits: &BTreeMap<String, u32>) -> Vec<String> {
    let broken = |(limit, peak): (String, u32)| match limits.get(&limit) {
        Some(most) if peak <= *most => None,
        Some(most) => Some(format!("I9: {limit}: {peak} in use at one instant, {most} allowed")),
        None => Some(format!("I9: {limit} is in use and is no limit that was set")),
    };
    peaks(uses).into_iter().filter_map(broken).collect()
}

#[cfg(test)]
mod tests;
