//! What a leader has still to look at.
//!
//! Each thing that may need a command or a message has a key. A key is looked at once however often it was asked for;
//! while a proposal of it is under way it waits, and is looked at again with the answer. So nothing is proposed twice
//! at once, and what was missed in between is found at the next look: the state is the truth (DESIGN 3.6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use matins_core::id::{BackfillId, ExecutorId, Fence, ScheduleId, SessionNumber, TaskId};
use matins_core::time::{BootTime, Millis};

/// `Fire`s of due ticks under way at once, so that recovery cannot drown the leader (PROTOCOL 3.2).
pub const FIRES_MAX: usize = 16;
/// `Fire`s that only work out a next tick under way at once: they stand together in few entries, each of which holds a due
/// tick up for some milliseconds at most.
pub const PLANS_MAX: usize = 64;
/// The first wait after a refusal; each further one doubles it.
const BACKOFF_FIRST: Millis = Millis(10);
/// No wait is longer.
const BACKOFF_MAX: Millis = Millis::from_secs(10);

/// One stream of an executor to this leader. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Something that may need a command or a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The hello of a stream.
    Open(ConnId),
    /// The report of an attempt.
    Finish(Fence),
    /// A large output that is being copied.
    Publishing(Fence),
    /// Processes that KILL did not end.
    Unkillable(Fence),
    /// The end of a session.
    Expire(ExecutorId, SessionNumber),
    /// Whether an executor is heard.
    Cordon(ExecutorId),
    /// The start message of an attempt.
    Start(Fence),
    /// The stop message of an attempt.
    Stop(Fence),
    /// A condition or a list.
    Decide(TaskId),
    /// The due timers.
    Timers,
    /// Work in slices.
    Continue,
    /// The due ticks of a schedule.
    Fire(ScheduleId),
    /// The next tick of a schedule that was changed. However many were changed, all else comes before it.
    Plan(ScheduleId),
    /// The ticks of a backfill.
    Slice(BackfillId),
    /// The zone tables.
    Recalculate,
    /// Finished runs.
    Retire,
    /// History that has had its time.
    Retain,
    /// Whether disks have room.
    Disks,
    /// The next checkpoint.
    Checkpoint,
    /// The time.
    Time,
}

/// Keys that want a look, in the order in which they came; plans last.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    ready: VecDeque<Key>,
    queued: BTreeSet<Key>,
    later: BTreeSet<(BootTime, Key)>,
    in_flight: BTreeSet<Key>,
    /// Asked for while under way.
    again: BTreeSet<Key>,
    /// `Fire`s beyond the bound.
    parked: VecDeque<Key>,
    fires: usize,
    /// `Plan`s that nothing else is before any more.
    plans_parked: VecDeque<Key>,
    plans: usize,
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    /// Asks for a look at `key`.
    pub fn look(&mut self, key: Key) {
        if self.in_flight.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Asks for a look at `key` when `at` has come.
    pub fn look_at(&mut self, key: Key, at: BootTime) {
        self.later.insert((at, key));
    }

    /// The next key to look at, if one is ready at `now`.
    pub fn take(&mut self, now: BootTime) -> Option<Key> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let (_, key) = self.later.pop_first()?;
            self.look(key);
        }
        // What waited for room comes before what is asked for now: schedules in turn. Room is looked at here and not where a
        // `Fire` lands, since a key that has nothing to do any more takes none, and the next one must have its turn.
        if self.fires < FIRES_MAX
            && let Some(key) = self.parked.pop_front()
        {
            self.queued.remove(&key);
            return Some(key);
        }
        while let Some(key) = self.ready.pop_front() {
            if matches!(key, Key::Plan(_)) {
                self.plans_parked.push_back(key);
            } else if matches!(key, Key::Fire(_)) && self.fires >= FIRES_MAX {
                self.parked.push_back(key);
            } else {
                self.queued.remove(&key);
                return Some(key);
            }
        }
        let key = (self.plans < PLANS_MAX).then(|| self.plans_parked.pop_front())??;
        self.queued.remove(&key);
        Some(key)
    }

    /// When the next look is asked for, if none is ready.
    pub fn next(&self) -> Option<BootTime> {
        self.later.first().map(|(at, _)| *at)
    }

    /// A proposal of `key` is under way.
    pub fn proposed(&mut self, key: Key) {
        if let Some(under_way) = self.bounded(&key) {
            *under_way += 1;
        }
        self.in_flight.insert(key);
    }

    /// Whether a proposal of `key` is under way.
    pub fn is_in_flight(&self, key: &Key) -> bool {
        self.in_flight.contains(key)
    }

    /// Keys with a proposal under way.
    pub fn in_flight(&self) -> impl Iterator<Item = &Key> {
        self.in_flight.iter()
    }

    /// It was accepted: there may be more to do at once.
    pub fn accepted(&mut self, key: Key) {
        self.landed(&key);
        self.failures.remove(&key);
        self.look(key);
    }

    /// It was refused or not answered: it is worked out anew after a wait that grows (PROTOCOL 3.1), each key alone.
    pub fn refused(&mut self, key: Key, now: BootTime) {
        self.landed(&key);
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = Millis(BACKOFF_FIRST.0 << (*failures).min(10)).min(BACKOFF_MAX);
        *failures += 1;
        self.look_at(key, now + wait);
    }

    /// Nothing is left to do about `key`.
    pub fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// How many of its kind are under way, if these are bounded.
    fn bounded(&mut self, key: &Key) -> Option<&mut usize> {
        if matches!(key, Key::Fire(_)) {
            Some(&mut self.fires)
        } else {
            matches!(key, Key::Plan(_)).then_some(&mut self.plans)
        }
    }

    fn landed(&mut self, key: &Key) {
        self.in_flight.remove(key);
        if let Some(under_way) = self.bounded(key) {
            *under_way = under_way.saturating_sub(1);
        }
        if self.again.remove(key) {
            self.look(key.clone());
        }
    }
}

/// Of several looks at one key only the earliest counts: it finds what is to be done, and when to look again.
impl Hash for Queue {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { ready, queued, later, in_flight, again, parked, fires, plans_parked, plans, failures } =
            self;
        let mut earliest = BTreeMap::new();
        for (at, key) in later {
            earliest.entry(key).or_insert(at);
        }
        (ready, queued, earliest, in_flight).hash(hasher);
        (again, parked, fires, plans_parked, plans, failures).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lead::testing::schedule_id;

    const NOW: BootTime = BootTime(1_000_000_000);

    #[test]
    fn a_key_is_looked_at_once_and_again_after_its_answer() {
        let mut queue = Queue::default();
        queue.look(Key::Timers);
        queue.look(Key::Timers);
        assert_eq!(queue.take(NOW), Some(Key::Timers));
        assert_eq!(queue.take(NOW), None);
        queue.proposed(Key::Timers);
        queue.look(Key::Timers);
        assert_eq!(queue.take(NOW), None, "one proposal at a time");
        queue.accepted(Key::Timers);
        assert_eq!(queue.take(NOW), Some(Key::Timers));
        assert_eq!(queue.take(NOW), None);
    }

    #[test]
    fn a_refused_key_waits_longer_each_time() {
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..14 {
            queue.proposed(Key::Continue);
            queue.refused(Key::Continue, NOW);
            let at = queue.next().expect("a look is asked for");
            waits.push(at.since(NOW).0);
            assert_eq!(queue.take(NOW), None);
            assert_eq!(queue.take(at), Some(Key::Continue));
        }
        assert_eq!(waits[..4], [10, 20, 40, 80]);
        assert_eq!(waits[13], 10_000);
    }

    #[test]
    fn schedules_take_turns_and_few_fires_are_under_way() {
        let mut queue = Queue::default();
        let keys: Vec<_> = (0..20).map(|n| Key::Fire(schedule_id(&format!("s{n:02}")))).collect();
        for key in &keys {
            queue.look(key.clone());
        }
        let mut taken = Vec::new();
        while let Some(key) = queue.take(NOW) {
            queue.proposed(key.clone());
            taken.push(key);
        }
        assert_eq!(taken, keys[..FIRES_MAX]);
        // The first has more ticks to decide; those that have not had their turn come before it.
        queue.accepted(keys[0].clone());
        assert_eq!(queue.take(NOW), Some(keys[FIRES_MAX].clone()));
    }

    #[test]
    fn what_is_due_comes_before_the_plans_of_however_many_schedules() {
        let mut queue = Queue::default();
        for n in 0..1_000 {
            queue.look(Key::Plan(schedule_id(&format!("s{n:03}"))));
        }
        let mut plans = 0;
        while let Some(key) = queue.take(NOW) {
            assert!(matches!(key, Key::Plan(_)));
            queue.proposed(key);
            plans += 1;
        }
        assert_eq!(plans, PLANS_MAX);
        let due = Key::Fire(schedule_id("payroll"));
        queue.look(due.clone());
        queue.accepted(Key::Plan(schedule_id("s000")));
        assert_eq!(queue.take(NOW), Some(due));
        assert!(queue.take(NOW).is_some_and(|key| matches!(key, Key::Plan(_))), "nor are they left behind");
    }

    /// As in a leadership: each Fire is accepted and its schedule looked at again, which then has nothing to decide.
    #[test]
    fn no_schedule_is_left_behind_by_others_that_have_nothing_to_decide() {
        let mut queue = Queue::default();
        let keys: BTreeSet<_> = (0..100).map(|n| Key::Fire(schedule_id(&format!("s{n:02}")))).collect();
        for round in 0..3 {
            let mut due = keys.clone();
            for key in &due {
                queue.look(key.clone());
            }
            let mut under_way = VecDeque::new();
            loop {
                while let Some(key) = queue.take(NOW) {
                    if due.remove(&key) {
                        queue.proposed(key.clone());
                        under_way.push_back(key);
                    } else {
                        queue.forget(&key);
                    }
                }
                let Some(landed) = under_way.pop_front() else { break };
                queue.accepted(landed);
            }
            assert_eq!(due, BTreeSet::new(), "round {round}");
        }
    }
}
