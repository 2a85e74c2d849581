//! The one clock that entries get their time from: `LeaderClock` behind a lock that is held for an instant only.
//!
//! Decides nothing: the rules are in `matins_core::clock`. It feeds them with this machine's boot-time clock.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use matins_core::State;
use matins_core::clock::{AppliedFrom, ClockAlarm, LeaderClock};
use matins_core::command::Readings;
use matins_core::id::NodeId;
use matins_core::time::{BootTime, Millis, Timestamp};

use crate::raft::{ClockReading, EntryClock};
use crate::system::boot_time;

/// Leader time must have gone on as fast as the boot-time clock for so long before entries count as live.
const LIVE_AFTER: Millis = Millis::from_secs(3);
/// By so much the two may differ over that time.
const LIVE_SLACK: Millis = Millis::from_secs(1);

/// Leader time on this node, from the start of the process on.
#[derive(Debug, Default)]
pub struct LeaderTime {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clock: LeaderClock,
    voters: BTreeSet<NodeId>,
    accepted: Timestamp,
    /// The newest reading that was handed out for an entry: that entry may lie beyond `state.now` by it.
    carried: Timestamp,
    /// Whether entries come as they are made, and since when that is being watched.
    live: Live,
}

/// What lay on disk when the process started is applied first, and says nothing about what time it is now
/// (PROTOCOL 1.2). It is told apart by its pace: hours go by in an instant.
#[derive(Clone, Copy, Debug, Default)]
enum Live {
    #[default]
    NothingYet,
    Since(Timestamp, BootTime),
    Yes,
}

impl LeaderTime {
    /// Of a process that has just started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leader time now.
    pub fn now(&self) -> Timestamp {
        self.reached(boot_time()).0
    }

    /// Leader time at an instant of now, and how many nanoseconds before that it became so.
    pub fn reached(&self, boot: BootTime) -> (Timestamp, u64) {
        let mut inner = self.lock();
        let carried = inner.carried;
        (inner.clock.now_carrying(boot, carried), inner.clock.into_milli(boot))
    }

    /// Leader time now, to compare clocks with; `None` where it is not known (`LeaderClock::known`).
    pub fn known(&self) -> Option<Timestamp> {
        self.lock().clock.known(boot_time())
    }

    /// The voters' clocks, for a `Time` that may be proposed; `None` while no majority is heard.
    pub fn peek_readings(&self) -> Option<Readings> {
        self.lock().clock.now_with_readings(boot_time()).map(|(_, readings)| readings)
    }

    /// An entry with these readings is being proposed: it may lie beyond `state.now` by them.
    pub fn carry(&self, readings: &Readings) {
        let mut inner = self.lock();
        inner.carried = inner.carried.max(readings.majority);
    }

    /// This node leads no more: it goes by what the new leader writes.
    pub fn follow(&self) {
        self.lock().clock.follow();
    }

    /// The reading that waits for a person's word (PROTOCOL 1.2), as the leader sees it.
    pub fn awaits_person(&self) -> Option<Timestamp> {
        self.lock().clock.awaits_person(boot_time())
    }

    /// What a person should know, since this was last asked.
    pub fn take_alarms(&self) -> Vec<ClockAlarm> {
        self.lock().clock.take_alarms()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here is left half changed by a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntryClock for LeaderTime {
    fn observe(&self, voters: usize, readings: &[ClockReading]) {
        let mut inner = self.lock();
        let answered: BTreeSet<NodeId> = readings.iter().map(|reading| reading.node).collect();
        let mut known: BTreeSet<NodeId> = inner.voters.union(&answered).copied().collect();
        if known.len() > voters {
            // A voter has left: only those that answer are known to be voters still.
            known = answered;
        }
        // A voter that never answered counts, under a name that no node has.
        known.extend((known.len()..voters).map(|missing| NodeId(u64::MAX - missing as u64)));
        inner.voters = known.iter().filter(|node| node.0 < u64::MAX - voters as u64).copied().collect();
        inner.clock.set_voters(vec![known]);
        for reading in readings {
            inner.clock.heard(reading.node, reading.wall, reading.asked_at);
        }
    }

    fn readings(&self) -> Option<Readings> {
        let mut inner = self.lock();
        let now = boot_time();
        if !inner.clock.lead(now) {
            return None;
        }
        let (_, readings) = inner.clock.now_with_readings(now)?;
        inner.carried = inner.carried.max(readings.majority);
        Some(readings)
    }

    fn at(&self, state: &State) -> Timestamp {
        let mut inner = self.lock();
        inner.accepted = state.cluster.time_accepted;
        let carried = inner.carried;
        inner.clock.now_carrying(boot_time(), carried)
    }

    fn applied(&self, now: Timestamp) {
        let mut inner = self.lock();
        let boot = boot_time();
        let from = inner.live.note(now, boot);
        let accepted = inner.accepted;
        inner.clock.applied(now, accepted, boot, from);
    }
}

impl Live {
    fn note(&mut self, now: Timestamp, boot: BootTime) -> AppliedFrom {
        match *self {
            Self::Yes => return AppliedFrom::Live,
            Self::NothingYet => *self = Self::Since(now, boot),
            Self::Since(first, since) => {
                let (told, passed) = (now.since(first), boot.since(since));
                let differs = Millis(told.0.abs_diff(passed.0)) > LIVE_SLACK;
                if differs {
                    *self = Self::Since(now, boot);
                } else if passed >= LIVE_AFTER {
                    *self = Self::Yes;
                    return AppliedFrom::Live;
                }
            }
        }
        AppliedFrom::Disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lay_on_disk_is_told_by_its_pace() {
        let mut live = Live::default();
        let mut note =
            |now: i64, boot: u64| live.note(Timestamp::from_millis(now), BootTime(boot * 1_000_000));
        // An hour of entries in 50 ms, then the log goes on at the pace of a leader.
        for entry in 0..60 {
            assert_eq!(note(entry * 60_000, entry as u64), AppliedFrom::Disk);
        }
        let start = 60 * 60_000;
        assert_eq!(note(start, 1_000), AppliedFrom::Disk);
        assert_eq!(note(start + 2_000, 3_000), AppliedFrom::Disk);
        assert_eq!(note(start + 3_100, 4_000), AppliedFrom::Live);
        assert_eq!(note(start + 3_200, 60_000), AppliedFrom::Live);
    }

    #[test]
    fn a_voter_that_never_answered_counts() {
        let time = LeaderTime::new();
        let wall = Timestamp::from_millis(1_700_000_000_000);
        let reading = |node| ClockReading { node: NodeId(node), wall, asked_at: boot_time() };
        time.observe(3, &[reading(1)]);
        assert!(time.readings().is_none(), "one of three is no majority");
        time.observe(3, &[reading(1), reading(2)]);
        assert!(time.readings().is_some_and(|readings| readings.majority >= wall));
        assert!(time.at(&State::default()) >= wall);
    }
}
