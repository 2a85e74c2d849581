//! What will happen, in order of time: a priority queue that breaks ties by the order of asking.
//!
//! Time is true time in nanoseconds since the beginning of the seed. Nothing else in the simulation moves it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds of true time since the beginning of a seed.
pub(super) type Instant = u64;

/// A millisecond of true time.
pub(super) const MS: u64 = 1_000_000;
/// A second of true time.
pub(super) const SEC: u64 = 1_000 * MS;
/// A minute of true time.
pub(super) const MINUTE: u64 = 60 * SEC;
/// An hour of true time.
pub(super) const HOUR: u64 = 3_600 * SEC;

/// Events by time. Their bodies lie beside the heap, so that it moves small things only.
pub(super) struct Agenda<E> {
    now: Instant,
    asked: u64,
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    bodies: Vec<Option<E>>,
    free: Vec<u32>,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { now: 0, asked: 0, heap: BinaryHeap::new(), bodies: Vec::new(), free: Vec::new() }
    }
}

impl<E> Agenda<E> {
    /// True time now.
    pub(super) const fn now(&self) -> Instant {
        self.now
    }

    /// How many events were asked for.
    pub(super) const fn asked(&self) -> u64 {
        self.asked
    }

    /// Something will happen at this instant, or now if that has passed. An instant at the end of time never comes.
    pub(super) fn at(&mut self, at: Instant, event: E) {
        if at == Instant::MAX {
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.bodies.push(None);
            u32::try_from(self.bodies.len() - 1).expect("a seed has fewer events at once")
        });
        self.bodies[slot as usize] = Some(event);
        self.asked += 1;
        self.heap.push(Reverse((at.max(self.now), self.asked, slot)));
    }

    /// The next event that comes before `until`; time goes there.
    pub(super) fn next_before(&mut self, until: Instant) -> Option<E> {
        let Reverse((at, _, _)) = self.heap.peek()?;
        if *at >= until {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.now = at;
        self.free.push(slot);
        self.bodies[slot as usize].take()
    }

    /// Nothing happens until then.
    pub(super) fn skip_to(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }
}

/// The next wake of a machine. Whenever an earlier one is wanted it is asked for anew, and the later one is stale: a stale
/// wake that asked for another in its turn would never die.
#[derive(Clone, Copy, Default)]
pub(super) struct Alarm(Instant);

impl Alarm {
    /// Whether a wake is to be asked for at this instant: none that comes before it is under way.
    pub(super) const fn set(&mut self, now: Instant, at: Instant) -> bool {
        let is_wanted = self.0 <= now || at < self.0;
        if is_wanted {
            self.0 = at;
        }
        is_wanted
    }

    /// Whether a wake that was asked for at this instant is the one that counts.
    pub(super) const fn rings(&mut self, at: Instant) -> bool {
        let rings = self.0 == at;
        if rings {
            self.0 = 0;
        }
        rings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_that_an_earlier_one_replaced_is_stale() {
        let mut alarm = Alarm::default();
        assert!(alarm.set(1, 100));
        assert!(!alarm.set(2, 200), "one comes before it");
        assert!(alarm.set(3, 50));
        assert!(alarm.rings(50));
        assert!(alarm.set(50, 120));
        assert!(!alarm.rings(100));
        assert!(alarm.rings(120));
    }
}
