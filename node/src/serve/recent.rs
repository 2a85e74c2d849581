//! The states this node applied lately, and leader time as it reckons it.
//!
//! A watch tells the difference between two states. Copies of a state share what did not change, so keeping some hundred
//! of the last half minute lets a client that comes from another node go on where it was; who comes later begins
//! anew (PROTOCOL 7). Never answers what was agreed on: that is `Cluster::read_index`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use matins_core::State;
use matins_core::id::LogIndex;
use matins_core::time::{BootTime, Millis, Timestamp};

use crate::shrink::shrunk;
use crate::system::boot_time;

/// States are kept this far apart, so that a busy cluster does not fill the ring in a moment.
const APART: Millis = Millis(100);
/// How many are kept: half a minute of a busy cluster.
const KEPT_MAX: u64 = 300;

/// The ring.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    states: VecDeque<(BootTime, Arc<State>)>,
    /// When `now` last rose, and to what (PROTOCOL 1.2).
    risen: Option<(BootTime, Timestamp)>,
}

impl Recent {
    /// Notes a state that was applied, unless it was noted before.
    pub(crate) fn note(&self, state: Arc<State>) {
        let at = boot_time();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.risen.is_none_or(|(_, now)| state.now > now) {
            kept.risen = Some((at, state.now));
        }
        if kept.states.back().is_some_and(|(_, last)| last.index >= state.index) {
            return;
        }
        // The newest is always kept; of those before it only some, well apart.
        let before_last = kept.states.iter().rev().nth(1).map(|(at, _)| *at);
        if before_last.is_some_and(|before| at.since(before) < APART) {
            kept.states.pop_back();
        }
        while kept.states.len() as u64 >= shrunk(KEPT_MAX) {
            kept.states.pop_front();
        }
        kept.states.push_back((at, state));
    }

    /// A state that is not newer than `index`, and shows all that a client who heard up to `index` may lack since. `None`:
    /// too long ago, or this node is not that far yet.
    pub(crate) fn at_or_before(&self, index: LogIndex) -> Option<Arc<State>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.states.iter().rev().find(|(_, state)| state.index <= index).map(|(_, state)| Arc::clone(state))
    }

    /// The very state of an index. `None`: it was not kept, too long ago, or this node is not that far yet.
    pub(crate) fn at(&self, index: LogIndex) -> Option<Arc<State>> {
        self.at_or_before(index).filter(|state| state.index == index)
    }

    /// Leader time as this node reckons it: `state.now`, run on by the boot-time clock. `None` before the first state.
    pub(crate) fn leader_time(&self) -> Option<Timestamp> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.risen.map(|(at, now)| if now == Timestamp::ZERO { now } else { now + boot_time().since(at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Arc<State> {
        Arc::new(State { index: LogIndex(index), now: Timestamp::from_millis(5), ..State::default() })
    }

    #[test]
    fn who_heard_of_an_index_goes_on_from_the_state_kept_before_it() {
        let recent = Recent::default();
        recent.note(at(7));
        recent.note(at(9));
        // So soon after them that only the newest is kept.
        recent.note(at(11));
        assert_eq!(recent.at_or_before(LogIndex(8)).map(|state| state.index), Some(LogIndex(7)));
        assert_eq!(recent.at_or_before(LogIndex(10)).map(|state| state.index), Some(LogIndex(7)));
        assert_eq!(recent.at_or_before(LogIndex(12)).map(|state| state.index), Some(LogIndex(11)));
        assert_eq!(recent.at_or_before(LogIndex(6)), None);
        assert_eq!(recent.at(LogIndex(7)).map(|state| state.index), Some(LogIndex(7)));
        assert_eq!(recent.at(LogIndex(9)), None);
        assert!(recent.leader_time().is_some_and(|now| now >= Timestamp::from_millis(5)));
    }
}
