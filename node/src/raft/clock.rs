//! What consensus asks of the one who keeps leader time (PROTOCOL 1.1).

use matins_core::State;
use matins_core::command::Readings;
use matins_core::id::NodeId;
use matins_core::time::{BootTime, Timestamp};

/// Gives entries their time. `lead` implements it; consensus calls it and never computes time itself.
///
/// No method may block: they are called while an entry waits to be written.
pub trait EntryClock: Send + Sync + 'static {
    /// Takes new readings of the voters' wall clocks, this node's among them. Called about once a second while
    /// this node leads, and once after it has won an election, before it asks for `readings`. A voter that did not
    /// answer is missing from `readings`; `voters` counts it all the same.
    fn observe(&self, voters: usize, readings: &[ClockReading]);

    /// The readings for a `LeaderReady` that is about to be written. `None`: there is no majority of readings, or
    /// the time waits for a person (PROTOCOL 1.2); consensus asks again after the next `observe`, and this node is not
    /// ready until then.
    fn readings(&self) -> Option<Readings>;

    /// Leader time for the entry that is being put together now; `state` is the newest applied one.
    fn at(&self, state: &State) -> Timestamp;

    /// An entry was applied on this node, leading or not, and `state.now` is this. Called for each entry in order,
    /// from the one task that applies, so that the boot-time clock can be noted when `now` rises (PROTOCOL 1.2).
    fn applied(&self, now: Timestamp);
}

/// What the wall clock of a voter said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Whose clock.
    pub node: NodeId,
    /// What it said.
    pub wall: Timestamp,
    /// The boot-time clock of *this* node, read before the question was sent: the reading is at least as old as that
    /// says, so that a slow network makes leader time late and never early.
    pub asked_at: BootTime,
}
