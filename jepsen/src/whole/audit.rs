//! What a node has at the end, and whether that is what it should be: each request and each tick exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matins_core::State;
use matins_core::history::Block;
use matins_core::id::{Digest, RunId, ScheduleId};
use matins_core::state::{RunOrigin, RunRow};
use matins_core::time::{Millis, Timestamp};
use matins_node::raft::Consensus;

use super::observer::{Fate, Inner, Observer};
use super::starter::SCHEDULES;

/// Once all is well, ticks are decided so soon. A tick comes every seven seconds at the latest.
const DECIDED_WITHIN: Millis = Millis::from_secs(15);

/// What one node has.
pub(super) struct Audit {
    index: u64,
    now: Timestamp,
    hash: Digest,
    /// Requests and the runs they made.
    requested: Vec<(String, u64)>,
    ticks: BTreeMap<ScheduleId, Ticks>,
}

/// What became of the ticks of one schedule.
#[derive(Default)]
struct Ticks {
    mark: Timestamp,
    runs: Vec<Timestamp>,
    skips: u64,
}

impl Audit {
    /// Reads all of a node's state and history.
    pub(super) async fn of(consensus: &Consensus) -> Result<Self, String> {
        let state = consensus.state();
        let mut runs: Vec<(RunId, RunRow)> = state.runs.iter().map(|(id, row)| (*id, row.clone())).collect();
        for (_, row) in state.blocks.iter() {
            let bytes = consensus.get_blob(row.digest).await.map_err(|error| error.to_string())?;
            let block = Block::decode(&bytes).ok_or("a block of history does not decode")?;
            runs.extend(block.runs.into_iter().map(|retired| (retired.id, retired.run)));
        }
        Ok(Self::from_rows(&state, runs))
    }

    fn from_rows(state: &State, runs: Vec<(RunId, RunRow)>) -> Self {
        let mut ticks: BTreeMap<ScheduleId, Ticks> = BTreeMap::new();
        for (id, row) in state.schedules.iter() {
            let skips = row.counts.skips.iter().sum();
            ticks.insert(id.clone(), Ticks { mark: row.mark, runs: Vec::new(), skips });
        }
        let mut requested = Vec::new();
        for (id, row) in runs {
            match row.origin {
                RunOrigin::Schedule => {
                    if let Some(schedule) = row.schedule_id().and_then(|id| ticks.get_mut(&id)) {
                        schedule.runs.push(row.logical_time);
                    }
                }
                RunOrigin::Manual => requested.push((request_of(&row.params), id.0)),
                RunOrigin::Submitted | RunOrigin::Backfill(_) | RunOrigin::Retry => {}
            }
        }
        Self { index: state.index.0, now: state.now, hash: state.hash(), requested, ticks }
    }
}

/// Each run by hand carries the request that made it as its one parameter.
pub(super) fn request_of(params: &str) -> String {
    let params: serde_json::Value = serde_json::from_str(params).unwrap_or_default();
    params["n"].as_str().unwrap_or_default().to_owned()
}

/// Judges what all nodes have. `false`: they are not at one index yet, so nothing can be said.
pub(super) fn judge(observer: &Observer, at: Duration) -> bool {
    let faults = observer.with(|inner| {
        let mut audits = inner.audits.values();
        let first = audits.next()?;
        let is_one_index = inner.audits.values().all(|audit| audit.index == first.index);
        if !is_one_index {
            return None;
        }
        let mut faults = Vec::new();
        if audits.any(|audit| audit.hash != first.hash) {
            faults.push(format!("I11: at index {} the nodes' states differ", first.index));
        }
        judge_requests(inner, first, &mut faults);
        judge_ticks(inner, first, &mut faults);
        Some(faults)
    });
    let Some(faults) = faults else { return false };
    for fault in faults {
        observer.fail_at(at, fault);
    }
    true
}

/// I3, I10: what was acknowledged is there once, what was refused is not there.
fn judge_requests(inner: &Inner, audit: &Audit, faults: &mut Vec<String>) {
    let mut made: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (request, run) in &audit.requested {
        made.entry(request).or_default().push(*run);
    }
    for (request, fate) in &inner.requests {
        let runs = made.remove(request.as_str()).unwrap_or_default();
        match fate {
            Fate::Acknowledged(run) if runs == [*run] => {}
            Fate::Acknowledged(run) => faults.push(format!(
                "I10: request {request} was acknowledged as run-{run}, and its runs at the end are {runs:?}"
            )),
            Fate::Refused if runs.is_empty() => {}
            Fate::Refused => {
                faults.push(format!("I10: request {request} was refused, and made runs {runs:?}"));
            }
            Fate::Maybe if runs.len() <= 1 => {}
            Fate::Maybe => faults.push(format!("I3: request {request} made several runs: {runs:?}")),
        }
    }
    for (request, runs) in made {
        faults.push(format!("I3: runs {runs:?} come from request `{request}`, which nobody made"));
    }
}

/// I1: each due tick up to the mark has one decision, and a run is for a tick.
fn judge_ticks(inner: &Inner, audit: &Audit, faults: &mut Vec<String>) {
    for (name, every_secs) in SCHEDULES {
        let found = audit.ticks.iter().find(|(id, _)| id.workflow.to_string().ends_with(name));
        let Some((id, ticks)) = found else {
            faults.push(format!("the schedule of {name} is gone"));
            continue;
        };
        let Some(began) = inner.marks_began.get(id) else {
            faults.push(format!("nobody saw when {id} began"));
            continue;
        };
        if audit.now.since(ticks.mark) > DECIDED_WITHIN {
            faults.push(format!("I15: the ticks of {id} are decided up to {:?} only", ticks.mark));
        }
        let due = due_ticks(*began, ticks.mark, *every_secs);
        let runs: BTreeSet<Timestamp> = ticks.runs.iter().copied().collect();
        if runs.len() != ticks.runs.len() {
            faults.push(format!("I1: a tick of {id} has more than one run"));
        }
        if let Some(strange) = runs.iter().find(|run| !due.contains(run)) {
            faults.push(format!("I1: {id} has a run for {strange:?}, which is no tick of it"));
        }
        let decided = runs.len() as u64 + ticks.skips;
        if decided != due.len() as u64 {
            faults.push(format!(
                "I1: {id} had {} ticks up to its mark, and decided {decided} ({} runs, {} skipped)",
                due.len(),
                runs.len(),
                ticks.skips
            ));
        }
    }
}

/// The ticks in `(began, mark]` of a schedule that is due at each multiple of so many seconds within a minute: a calendar
/// of its own, which shares nothing with the one that is judged.
fn due_ticks(began: Timestamp, mark: Timestamp, every_secs: i64) -> BTreeSet<Timestamp> {
    let first = began.as_millis().div_euclid(1_000) + 1;
    let last = mark.as_millis().div_euclid(1_000);
    let is_due = |second: &i64| second.rem_euclid(60) % every_secs == 0;
    (first..=last).filter(is_due).map(|second| Timestamp::from_millis(second * 1_000)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_starts_anew_each_minute() {
        let at = |secs: i64| Timestamp::from_millis(secs * 1_000);
        let ticks: Vec<Timestamp> = due_ticks(at(49), at(67), 7).into_iter().collect();
        assert_eq!(ticks, [at(56), at(60), at(67)]);
    }
}
