//! Timers, work that goes on in slices, checkpoints, and the time itself (PROTOCOL 1.3, 1.5, 4.5, 6.8). Pure.

use matins_core::command::Command;
use matins_core::mutation::{Mutation, planted};
use matins_core::state::{CheckpointRow, State, TimerKey};
use matins_core::time::{Millis, Timestamp};

/// Timers that one command fires. Each may touch a task and what follows it.
const TIMERS_PER_COMMAND: usize = 500;
/// A leader that wrote nothing for so long writes `Time` (PROTOCOL 1.3).
pub const SILENCE_MAX: Millis = Millis::from_mins(1);
/// Leader time further beyond `state.now` than this is written down at once, with the readings, since entries
/// without them are clipped at ten minutes.
pub const AHEAD_OF_STATE_MAX: Millis = Millis::from_mins(5);
/// A checkpoint is made so often,
pub const CHECKPOINT_EVERY: Millis = Millis::from_hours(1);
/// or after so many bytes of log.
pub const CHECKPOINT_LOG_BYTES: u64 = 64 << 20;

/// Fires timers that are due, oldest first.
pub fn fire_timers(state: &State, now: Timestamp) -> Option<Command> {
    let due = timers(state).take_while(|((at, _), ())| *at <= now);
    let due: Vec<_> = due.take(TIMERS_PER_COMMAND).map(|(key, ())| key.clone()).collect();
    (!due.is_empty()).then_some(Command::FireTimers(due))
}

/// When the first timer is due.
pub fn next_timer(state: &State) -> Option<Timestamp> {
    timers(state).next().map(|((at, _), ())| *at)
}

/// All timers, also those that fell due before this leader was ready.
fn timers(state: &State) -> impl Iterator<Item = (&(Timestamp, TimerKey), &())> {
    let since = state.cluster.leader.as_ref().map_or(Timestamp::ZERO, |leader| leader.since);
    state
        .timers
        .iter()
        .filter(move |((at, _), ())| !planted(Mutation::TimerLostAtLeaderChange) || *at > since)
}

/// Goes on with work that was too large for one command.
pub fn go_on(state: &State) -> Option<Command> {
    (!state.work.is_empty()).then_some(Command::Continue)
}

/// A checkpoint, if one is due: `log_bytes` were written since the last one.
pub fn checkpoint(state: &State, now: Timestamp, log_bytes: u64) -> Option<Command> {
    let is_due = log_bytes >= CHECKPOINT_LOG_BYTES || next_checkpoint(state) <= now;
    (state.cluster.id.is_some() && is_due).then_some(Command::Checkpoint)
}

/// When the next checkpoint is due, if the log does not grow to its bound before.
pub fn next_checkpoint(state: &State) -> Timestamp {
    // A cluster that never made one counts from its first leader.
    let leader = state.cluster.leader.as_ref().map_or(state.now, |leader| leader.since);
    // A node was replaced or taken out: perhaps there is a majority now, and every task waits for it.
    let is_hoped_for = |row: &&CheckpointRow| row.is_split && state.cluster.members.0 > row.index;
    if state.cluster.checkpoint.as_ref().is_some_and(|row| is_hoped_for(&row)) {
        return state.now;
    }
    state.cluster.checkpoint.as_ref().map_or(leader, |row| row.at) + CHECKPOINT_EVERY
}
