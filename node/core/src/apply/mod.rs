//! The one door: how an agreed entry changes the state.

use alloc::vec::Vec;

use crate::answer::{Answer, Refusal};
use crate::command::Entry;
use crate::effect::Effect;
use crate::id::LogIndex;
use crate::state::State;

/// What came of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One for each command, in order.
    pub answers: Vec<Result<Answer, Refusal>>,
    /// What the shell may want to act on.
    pub effects: Vec<Effect>,
}

/// Applies a committed entry: equal inputs, equal results, on every replica.
pub fn apply(state: &mut State, index: LogIndex, entry: Entry) -> Outcome {
    state.index = index;
    state.now = state.now.max(entry.at);
    Outcome::default()
}
