//! Which finished runs leave for history and when, and when history has had its time (PROTOCOL 6.5, 6.11). Pure.

use std::collections::BTreeSet;

use matins_core::command::{Command, Retain};
use matins_core::id::{RunId, WorkflowName};
use matins_core::state::{BlockRow, State};
use matins_core::time::Timestamp;

/// One block takes no more. The entry that `apply` makes it from only names the runs.
const BLOCK_BYTES_MAX: usize = 4 << 20;
/// Room for what a block adds to its runs.
const BLOCK_HEAD: usize = 1024;
/// Runs that one command names, at most: it may touch 10,000 rows (PROTOCOL 4.5).
const RUNS_MAX: usize = 1_000;
/// Blocks that one command takes off the list, at most.
const BLOCKS_MAX: usize = 1_000;

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
    let terms = state.cluster.settings.blocks;
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
    let has_waited = oldest.is_some_and(|ended_at| now.since(ended_at) >= terms.wait_max);
    let is_tight = state.bytes() > state.cluster.settings.state_bytes_max / 100 * 80;
    let is_time = bytes as u64 >= terms.gathered_bytes || has_waited || is_tight || runs.len() == RUNS_MAX;
    if runs.is_empty() || !is_time {
        return None;
    }
    runs.sort_unstable();
    Some(Command::RetireRuns { runs })
}

/// When the oldest finished run has waited long enough.
pub fn next_retirement(state: &State) -> Option<Timestamp> {
    state.finished.first().map(|((ended_at, _), ())| *ended_at + state.cluster.settings.blocks.wait_max)
}

fn may_leave(state: &State, run: RunId, holding: &Holding) -> bool {
    let Some(row) = state.runs.get(&run) else { return false };
    !state.retries.contains(&run) && !holding.looked_at.contains(&row.workflow)
}

/// What history keeps by now, on each node.
struct Kept {
    runs: u64,
    bytes: u64,
    log_bytes: u64,
}

impl Kept {
    fn of(state: &State) -> Self {
        let mut kept = Self { runs: 0, bytes: 0, log_bytes: 0 };
        for (_, row) in state.blocks.iter() {
            kept.runs += u64::from(row.runs);
            kept.bytes = kept.bytes.saturating_add(bytes_of(row));
            kept.log_bytes = kept.log_bytes.saturating_add(row.log_bytes);
        }
        kept
    }
}

fn bytes_of(row: &BlockRow) -> u64 {
    row.bytes.saturating_add(row.output_bytes)
}

/// What has had its time: blocks whose runs are all over age, and the oldest as long as there are too many or too large;
/// logs likewise (PROTOCOL 6.11).
pub fn retain(state: &State, now: Timestamp) -> Option<Command> {
    let limits = state.cluster.settings.retention;
    let mut kept = Kept::of(state);
    let mut retain = Retain::default();
    for (number, row) in state.blocks.iter() {
        if retain.blocks.len() + retain.logs.len() == BLOCKS_MAX {
            break;
        }
        let is_over = row.runs_stay.over_at(limits.runs_age).is_none_or(|at| at <= now);
        let are_many = kept.runs > limits.runs_max || kept.bytes > limits.history_bytes_max;
        if is_over || are_many {
            kept.runs -= u64::from(row.runs);
            kept.bytes = kept.bytes.saturating_sub(bytes_of(row));
            kept.log_bytes = kept.log_bytes.saturating_sub(row.log_bytes);
            retain.blocks.push(*number);
            continue;
        }
        let Some(stay) = row.logs_stay else { continue };
        let are_over = stay.over_at(limits.logs_age).is_none_or(|at| at <= now);
        if are_over || kept.log_bytes > limits.logs_bytes_max {
            kept.log_bytes = kept.log_bytes.saturating_sub(row.log_bytes);
            retain.logs.push(*number);
        }
    }
    let is_nothing = retain.blocks.is_empty() && retain.logs.is_empty();
    (!is_nothing).then_some(Command::Retain(retain))
}

#[cfg(test)]
mod tests {
    use matins_core::state::history::Stay;
    use matins_core::time::Millis;

    use super::*;

    /// A block of 10 runs that ended at `ended`, with 100 bytes of logs.
    fn block(ended: i64) -> BlockRow {
        let stay = Stay { ended: Some(Timestamp::from_millis(ended)), until: None };
        let bytes = 1_000;
        BlockRow {
            runs: 10,
            bytes,
            log_bytes: 100,
            runs_stay: stay,
            logs_stay: Some(stay),
            ..BlockRow::default()
        }
    }

    fn state(blocks: &[BlockRow]) -> State {
        let mut state = State::default();
        for (number, row) in (1..).zip(blocks) {
            state.blocks.insert(number, row.clone());
        }
        let retention = &mut state.cluster.settings.retention;
        (retention.runs_age, retention.logs_age) = (Millis(1_000), Millis(500));
        state
    }

    fn taken(state: &State, now: i64) -> (Vec<u64>, Vec<u64>) {
        match retain(state, Timestamp::from_millis(now)) {
            Some(Command::Retain(Retain { blocks, logs })) => (blocks, logs),
            other => {
                assert_eq!(other, None);
                (Vec::new(), Vec::new())
            }
        }
    }

    #[test]
    fn what_is_over_age_goes_and_logs_go_before_their_runs() {
        let state = state(&[block(0), block(400), block(900)]);
        assert_eq!(taken(&state, 499), (vec![], vec![]));
        assert_eq!(taken(&state, 500), (vec![], vec![1]));
        assert_eq!(taken(&state, 1_000), (vec![1], vec![2]));
        assert_eq!(taken(&state, 1_900), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_workflow_that_keeps_its_runs_longer_keeps_the_block() {
        let mut long = block(0);
        long.runs_stay.until = Some(Timestamp::from_millis(5_000));
        let mut short = block(0);
        short.runs_stay = Stay { ended: None, until: Some(Timestamp::from_millis(100)) };
        let state = state(&[long, short]);
        assert_eq!(taken(&state, 100), (vec![2], vec![]));
        assert_eq!(taken(&state, 4_999), (vec![2], vec![1]));
        assert_eq!(taken(&state, 5_000), (vec![1, 2], vec![]));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_large() {
        let mut state = state(&[block(0), block(0), block(0)]);
        state.cluster.settings.retention.runs_max = 25;
        assert_eq!(taken(&state, 1), (vec![1], vec![]));
        state.cluster.settings.retention.runs_max = 30;
        state.cluster.settings.retention.history_bytes_max = 1_999;
        assert_eq!(taken(&state, 1), (vec![1, 2], vec![]));
        state.cluster.settings.retention.history_bytes_max = 3_000;
        state.cluster.settings.retention.logs_bytes_max = 150;
        assert_eq!(taken(&state, 1), (vec![], vec![1, 2]));
    }
}
