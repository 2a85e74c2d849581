//! Which finished runs leave for history, and when (PROTOCOL 6.5). Pure.

use std::collections::BTreeSet;

use matins_core::command::Command;
use matins_core::id::{RunId, WorkflowName};
use matins_core::state::State;
use matins_core::time::{Millis, Timestamp};

use crate::shrink::shrunk;

/// So many bytes of finished runs make a block.
const GATHERED_BYTES: u64 = 1 << 20;
/// No finished run waits longer.
pub const WAIT_MAX: Millis = Millis::from_mins(10);
/// One block takes no more. The entry that `apply` makes it from only names the runs.
const BLOCK_BYTES_MAX: usize = 4 << 20;
/// Room for what a block adds to its runs.
const BLOCK_HEAD: usize = 1024;
/// Runs that one command names, at most: it may touch 10,000 rows (PROTOCOL 4.5).
const RUNS_MAX: usize = 1_000;

/// What has to be known besides the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The newest block such that a majority of the voters has it and all before it; 0 for none.
    pub durable_block: u64,
    /// Workflows of which a command that looked at history is under way (PROTOCOL 6.6).
    pub looked_at: BTreeSet<WorkflowName>,
}

/// The finished runs that leave together, if it is time.
pub fn retire(state: &State, now: Timestamp, holding: &Holding) -> Option<Command> {
    // The next one only when a majority has the block before last.
    let newest = state.cluster.counters.block;
    if newest >= 2 && holding.durable_block < newest - 1 {
        return None;
    }
    let (mut runs, mut bytes) = (Vec::new(), BLOCK_HEAD);
    let mut oldest: Option<Timestamp> = None;
    for ((ended_at, run), ()) in state.finished.iter() {
        if !may_leave(state, *run, holding) {
            continue;
        }
        let size =
            state.retired(*run).and_then(|run| postcard::to_allocvec(&run).ok()).map_or(0, |run| run.len());
        if (bytes + size > BLOCK_BYTES_MAX && !runs.is_empty()) || runs.len() == RUNS_MAX {
            break;
        }
        oldest.get_or_insert(*ended_at);
        runs.push(*run);
        bytes += size;
    }
    let has_waited = oldest.is_some_and(|ended_at| now.since(ended_at) >= wait_max());
    let is_tight = state.bytes() > state.cluster.settings.state_bytes_max / 100 * 80;
    if runs.is_empty()
        || !(bytes as u64 >= shrunk(GATHERED_BYTES) || has_waited || is_tight || runs.len() == RUNS_MAX)
    {
        return None;
    }
    runs.sort_unstable();
    Some(Command::RetireRuns { runs })
}

/// When the oldest finished run has waited long enough.
pub fn next_retirement(state: &State) -> Option<Timestamp> {
    state.finished.first().map(|((ended_at, _), ())| *ended_at + wait_max())
}

fn wait_max() -> Millis {
    Millis(shrunk(WAIT_MAX.0))
}

fn may_leave(state: &State, run: RunId, holding: &Holding) -> bool {
    let Some(row) = state.runs.get(&run) else { return false };
    !state.retries.contains(&run) && !holding.looked_at.contains(&row.workflow)
}
