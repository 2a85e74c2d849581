//! Leader time (PROTOCOL 1.1 to 1.3): what a leader stamps entries with, made of the wall clocks of a majority.
//!
//! Every node keeps one [`LeaderClock`] from its start: as a follower it notes how leader time goes on, so that it can
//! run on from there when it is elected. Nothing here reads a clock: instants are readings of the boot-time clock of
//! this machine, and wall clocks are numbers that somebody heard. It never goes back, and never follows a minority ahead.
//!
//! Start reading at [`LeaderClock::now`], then `advance`, which holds the rules.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::command::Readings;
use crate::id::NodeId;
use crate::mutation::{Mutation, planted};
use crate::time::{BootTime, Millis, Timestamp};

/// Leader time steps over no more than this before the reading has been confirmed.
pub const STEP_MAX: Millis = Millis::from_mins(1);
/// So long a reading further ahead must hold before leader time steps to it.
pub const CONFIRM_AFTER: Millis = Millis::from_secs(30);
/// A reading that confirms a step is no older than this.
const FRESH: Millis = Millis::from_secs(5);
/// Further ahead of the reading than this, leader time is slowed to half speed.
pub const AHEAD_MAX: Millis = Millis::from_secs(2);
/// A reading further beyond `state.now` than this waits for a person.
pub const BELIEVED_MAX: Millis = Millis::from_hours(31 * 24);
/// An entry may lie no further beyond `state.now` and the reading it carries.
pub const CLIP: Millis = Millis::from_mins(10);

/// Ahead by up to [`AHEAD_MAX`], leader time loses one part in so many: 500 ppm.
const SLOW_DIVISOR: i128 = 2_000;
const NANOS_PER_MILLI: i128 = 1_000_000;

/// Leader time as one node reckons it.
#[derive(Clone, Debug, Default)]
pub struct LeaderClock {
    /// One set, or two while membership changes: a majority is meant of each (PROTOCOL 2.7).
    voters: Vec<BTreeSet<NodeId>>,
    heard: BTreeMap<NodeId, Heard>,
    /// `state.now`.
    floor: Timestamp,
    /// `state.cluster.time_accepted`.
    accepted: Timestamp,
    /// Leader time at one instant; `None` until this node has heard a leader or become one.
    running: Option<Running>,
    role: Role,
    /// Since when the reading lies more than [`STEP_MAX`] ahead.
    far_since: Option<BootTime>,
    alarms: Vec<ClockAlarm>,
    condition: Condition,
}

/// A wall clock as it was heard.
#[derive(Clone, Copy, Debug)]
struct Heard {
    wall: Timestamp,
    at: BootTime,
}

/// Leader time in nanoseconds since 1970 at an instant of the boot-time clock.
#[derive(Clone, Copy, Debug)]
struct Running {
    nanos: i128,
    at: BootTime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Follower,
    Leader,
}

/// Tells an alarm that begins from one that goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Good,
    Ahead,
    Waiting,
}

/// How an entry came to be applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliedFrom {
    /// A leader sent it to this process, or this process made it: leader time is about this now.
    Live,
    /// It lay on disk when this process started: it says nothing about how late it is.
    Disk,
}

/// Something about time that a person should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockAlarm {
    /// Leader time stepped forward by more than a minute.
    Stepped {
        /// How far.
        by: Millis,
    },
    /// Leader time is more than two seconds ahead of a majority's clocks and runs at half speed.
    Ahead {
        /// How far.
        by: Millis,
    },
    /// A majority's clocks are more than 31 days ahead: `cluster time accept` says whether they are right.
    AwaitsPerson {
        /// What they say.
        reading: Timestamp,
    },
}

impl LeaderClock {
    /// A clock of a process that has just started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes who votes: one set, or two while they are joint.
    pub fn set_voters(&mut self, voters: Vec<BTreeSet<NodeId>>) {
        self.voters = voters;
        let sets = &self.voters;
        self.heard.retain(|node, _| sets.iter().any(|set| set.contains(node)));
    }

    /// Notes the wall clock of a voter (this one too), read at `at` of the boot-time clock here.
    pub fn heard(&mut self, node: NodeId, wall: Timestamp, at: BootTime) {
        // What went by until now went by under the readings there were.
        self.advance(at);
        let heard = self.heard.entry(node).or_insert(Heard { wall, at });
        if at >= heard.at {
            *heard = Heard { wall, at };
        }
    }

    /// Notes `state.now` and `time_accepted` after an entry was applied at `at`.
    pub fn applied(&mut self, now: Timestamp, accepted: Timestamp, at: BootTime, from: AppliedFrom) {
        self.accepted = accepted;
        if now <= self.floor {
            return;
        }
        self.floor = now;
        let rose = Running { nanos: nanos(now), at };
        match (self.role, from) {
            (Role::Follower, AppliedFrom::Live) => self.running = Some(rose),
            (Role::Follower, AppliedFrom::Disk) => {}
            (Role::Leader, AppliedFrom::Live | AppliedFrom::Disk) => {
                self.advance(at);
                // Only if another leader got ahead of this one, which does not know yet that it is none.
                self.running = self.running.map(|own| Running { nanos: own.nanos.max(rose.nanos), ..own });
            }
        }
    }

    /// Begins to lead. `false`: a node that has just started knows no time until a majority's clocks are heard.
    pub fn lead(&mut self, at: BootTime) -> bool {
        if self.running.is_none() {
            let Some(reading) = self.majority(at, None) else { return false };
            let start = if self.is_believed(reading) { reading } else { nanos(self.floor) };
            self.running = Some(Running { nanos: start.max(nanos(self.floor)), at });
        }
        if self.role == Role::Follower {
            self.role = Role::Leader;
            self.far_since = None;
            self.condition = Condition::Good;
            // What a follower runs on by is as old as the last entry; from here on the rules hold.
            self.run_on(at);
        }
        true
    }

    /// Leads no more.
    pub fn follow(&mut self) {
        self.role = Role::Follower;
    }

    /// Leader time for an entry without a reading: never more than ten minutes beyond `state.now`.
    pub fn now(&mut self, at: BootTime) -> Timestamp {
        self.clipped(at, self.floor)
    }

    /// Leader time for an entry that carries a reading: never more than ten minutes beyond both.
    pub fn now_carrying(&mut self, at: BootTime, majority: Timestamp) -> Timestamp {
        self.clipped(at, majority.max(self.floor))
    }

    /// How many nanoseconds leader time has gone on since it became the millisecond that it is: whoever waits for a later one
    /// waits so much less.
    pub fn into_milli(&mut self, at: BootTime) -> u64 {
        self.advance(at);
        self.running.map_or(0, |running| running.aged(at).rem_euclid(NANOS_PER_MILLI) as u64)
    }

    /// Leader time for people, however long ago an entry was written; `None` where it is not known: in a process that has only
    /// read what lay on disk.
    pub fn known(&mut self, at: BootTime) -> Option<Timestamp> {
        self.advance(at);
        self.running.map(|running| timestamp(running.aged(at)).max(self.floor))
    }

    /// Leader time and the readings for a `LeaderReady` or a `Time`; `None` while no majority is heard.
    pub fn now_with_readings(&mut self, at: BootTime) -> Option<(Timestamp, Readings)> {
        let majority = timestamp(self.majority(at, None)?);
        let read = |(node, heard): (&NodeId, &Heard)| (*node, timestamp(heard.aged(at)));
        let readings = Readings { majority, by_node: self.heard.iter().map(read).collect() };
        Some((self.now_carrying(at, majority), readings))
    }

    /// The newest instant that a majority of the voters' wall clocks have reached.
    pub fn reading(&self, at: BootTime) -> Option<Timestamp> {
        self.majority(at, None).map(timestamp)
    }

    /// How far leader time is beyond `state.now`: what a `Time` would make up for.
    pub fn ahead_of_state(&mut self, at: BootTime) -> Millis {
        self.advance(at);
        self.running.map_or(Millis::ZERO, |running| timestamp(running.aged(at)).since(self.floor))
    }

    /// The reading that waits for a person's word (PROTOCOL 1.2); `None` if none does, and on a node that does not lead.
    pub fn awaits_person(&mut self, at: BootTime) -> Option<Timestamp> {
        self.advance(at);
        let waits = matches!((self.role, self.condition), (Role::Leader, Condition::Waiting));
        waits.then(|| self.majority(at, None)).flatten().map(timestamp)
    }

    /// What has happened since this was last asked.
    pub fn take_alarms(&mut self) -> Vec<ClockAlarm> {
        core::mem::take(&mut self.alarms)
    }

    fn clipped(&mut self, at: BootTime, beyond: Timestamp) -> Timestamp {
        self.advance(at);
        let running = self.running.map_or(self.floor, |running| timestamp(running.aged(at)));
        running.min(beyond + CLIP).max(self.floor)
    }

    /// Brings a leader's time to `at`, by the rules of PROTOCOL 1.1 and 1.2.
    fn advance(&mut self, at: BootTime) {
        match self.role {
            Role::Leader => self.run_on(at),
            Role::Follower => {}
        }
    }

    fn run_on(&mut self, at: BootTime) {
        let Some(Running { nanos: before, at: from }) = self.running else { return };
        let elapsed = i128::from(at.0.saturating_sub(from.0));
        let at = at.max(from);
        let reading = self.majority(at, None);
        let believed = reading.filter(|reading| self.is_believed(*reading));
        let mut after = match believed {
            Some(reading) => before + slowed(before - (reading - elapsed), elapsed),
            None => before + elapsed,
        };
        let step_max = span(STEP_MAX);
        match believed {
            Some(reading) if reading - after > step_max => {
                let since = *self.far_since.get_or_insert(at);
                let fresh = self.majority(at, Some(FRESH)).filter(|fresh| fresh - after > step_max);
                if let Some(fresh) = fresh.filter(|_| at.since(since) >= CONFIRM_AFTER) {
                    self.alarms.push(ClockAlarm::Stepped { by: millis(fresh - after) });
                    self.far_since = None;
                    after = fresh;
                }
            }
            Some(reading) => {
                self.far_since = None;
                after = after.max(reading);
            }
            // A reading that awaits a person counts as seen, so that the person's word takes effect at once.
            None => self.far_since = reading.map(|_| self.far_since.unwrap_or(at)),
        }
        self.running = Some(Running { nanos: after, at });
        self.note_condition(after, reading, believed);
    }

    /// Raises an alarm where a condition begins.
    fn note_condition(&mut self, now: i128, reading: Option<i128>, believed: Option<i128>) {
        let condition = match (reading, believed) {
            (Some(_), None) => Condition::Waiting,
            (_, Some(reading)) if now - reading > span(AHEAD_MAX) => Condition::Ahead,
            (None, None) | (_, Some(_)) => Condition::Good,
        };
        if condition != self.condition {
            match (condition, reading) {
                (Condition::Waiting, Some(reading)) => {
                    self.alarms.push(ClockAlarm::AwaitsPerson { reading: timestamp(reading) });
                }
                (Condition::Ahead, Some(reading)) => {
                    self.alarms.push(ClockAlarm::Ahead { by: millis(now - reading) });
                }
                (Condition::Good, _) | (Condition::Waiting | Condition::Ahead, None) => {}
            }
        }
        self.condition = condition;
    }

    /// PROTOCOL 1.2: no more than 31 days beyond `state.now`, or a person said so, or the cluster has no time yet.
    fn is_believed(&self, reading: i128) -> bool {
        let limit = self.accepted.max(self.floor + BELIEVED_MAX);
        self.floor == Timestamp::ZERO || reading <= nanos(limit)
    }

    /// Of n voters the (n/2+1)-th largest reading, in nanoseconds; of two sets the smaller of both.
    fn majority(&self, at: BootTime, age_max: Option<Millis>) -> Option<i128> {
        let is_usable = |heard: &&Heard| age_max.is_none_or(|max| at.since(heard.at) <= max);
        let of_set = |set: &BTreeSet<NodeId>| {
            let heard = set.iter().filter_map(|node| self.heard.get(node));
            let mut walls: Vec<i128> = heard.filter(is_usable).map(|heard| heard.aged(at)).collect();
            walls.sort_unstable_by(|a, b| b.cmp(a));
            // A voter that was not heard has reached no instant.
            let place = if planted(Mutation::WallClockInEntries) { 0 } else { set.len() / 2 };
            walls.get(place).copied()
        };
        let mut sets = self.voters.iter().map(of_set);
        let first = sets.next()??;
        sets.try_fold(first, |least, set| Some(least.min(set?)))
    }
}

impl Heard {
    fn aged(&self, at: BootTime) -> i128 {
        nanos(self.wall) + i128::from(at.0.saturating_sub(self.at.0))
    }
}

impl Running {
    fn aged(&self, at: BootTime) -> i128 {
        self.nanos + i128::from(at.0.saturating_sub(self.at.0))
    }
}

/// How far leader time goes in `elapsed`, being `ahead` of the reading when that began: at half speed until it is
/// two seconds ahead, 500 ppm slower until they meet, and with the reading from there. All in nanoseconds.
fn slowed(ahead: i128, elapsed: i128) -> i128 {
    let far = (ahead - span(AHEAD_MAX)).max(0);
    let at_half = (2 * far).min(elapsed);
    let near = ahead.clamp(0, span(AHEAD_MAX));
    let at_slow = (near * SLOW_DIVISOR).min(elapsed - at_half);
    // Rounded against leader time, so that it is slowed however often it is asked.
    elapsed - (at_half + 1) / 2 - (at_slow + SLOW_DIVISOR - 1) / SLOW_DIVISOR
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.as_millis()) * NANOS_PER_MILLI
}

fn span(span: Millis) -> i128 {
    i128::from(span.0) * NANOS_PER_MILLI
}

fn timestamp(nanos: i128) -> Timestamp {
    let millis = nanos.div_euclid(NANOS_PER_MILLI);
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX }))
}

fn millis(nanos: i128) -> Millis {
    Millis(u64::try_from(nanos / NANOS_PER_MILLI).unwrap_or(0))
}

#[cfg(test)]
mod tests;
