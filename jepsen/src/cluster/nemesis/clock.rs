//! Wall clocks that lie: too early or too late, too fast or too slow, or ten years ahead for a second.
//!
//! Builds for development read how far off they are from a file. What is seen is what the leader itself says of the node's
//! clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Field, Nemesis, names};
use crate::cluster::nodes::Nodes;
use crate::cluster::workload::Trouble;

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const YEAR: i64 = 365 * 24 * HOUR;

/// How often a clock that runs wrong is set.
const STEP: Duration = Duration::from_millis(50);
/// What the leader says of a clock may differ by so much, in milliseconds: it reads it each second.
const TOLERANCE: i64 = 3 * SECOND;
/// How far off a clock must be seen to count.
const SEEN_MIN: i64 = 150;

/// How a clock lies.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// It is off by so many milliseconds.
    Offset(i64),
    /// It gains so many thousandths.
    Drift(i64),
    /// It is far ahead for one second in three.
    Jump,
}

/// One node's clock lies.
pub(super) struct Clock {
    target: usize,
    lie: Lie,
    /// How far off it was set last.
    ahead: Arc<AtomicI64>,
    is_over: Arc<AtomicBool>,
    turner: Option<JoinHandle<()>>,
}

impl Clock {
    pub(super) fn offset(target: usize, random: &mut StdRng) -> Self {
        let size = [2 * SECOND, 90 * SECOND, HOUR, 40 * 24 * HOUR, 10 * YEAR][random.random_range(0..5)];
        let ahead = if random.random() { size } else { -size };
        Self::new(target, Lie::Offset(ahead))
    }

    pub(super) fn drift(target: usize, random: &mut StdRng) -> Self {
        let gain = random.random_range(100..800);
        Self::new(target, Lie::Drift(if random.random() { gain } else { -gain }))
    }

    pub(super) fn jump(target: usize) -> Self {
        Self::new(target, Lie::Jump)
    }

    fn new(target: usize, lie: Lie) -> Self {
        Self { target, lie, ahead: Arc::default(), is_over: Arc::default(), turner: None }
    }
}

impl Nemesis for Clock {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        let (nodes, target, lie) = (Arc::clone(&field.nodes), self.target, self.lie);
        let (ahead, is_over) = (Arc::clone(&self.ahead), Arc::clone(&self.is_over));
        self.turner = Some(std::thread::spawn(move || turn(&nodes, target, lie, (&ahead, &is_over))));
        Ok(())
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let set = self.ahead.load(Ordering::Acquire);
        let seen = seen_ahead(field, self.target);
        Ok(seen.filter(|seen| is_seen(set, *seen)).map(|seen| format!("the leader sees it off by {seen} ms")))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        self.is_over.store(true, Ordering::Release);
        if let Some(turner) = self.turner.take() {
            turner.join().map_err(|_| Trouble("the thread that turns a clock panicked".into()))?;
        }
        field.nodes.all[self.target].set_clock(0)
    }
}

/// Whether what is seen of a clock is what it was set to, and not just any clock.
fn is_seen(set: i64, seen: i64) -> bool {
    seen.abs() >= SEEN_MIN && seen.signum() == set.signum() && (seen - set).abs() <= TOLERANCE
}

/// How far ahead of leader time the leader sees the clock of a node, in milliseconds.
pub(crate) fn seen_ahead(field: &Field, target: usize) -> Option<i64> {
    let address = field.nodes.all[target].public.to_string();
    let leader = field.runtime.block_on(field.observer.leader())?;
    let node = leader.status.nodes.into_iter().find(|node| node.address == address)?;
    node.clock_offset.map(matins_proto::Duration::as_millis)
}

/// Sets the clock again and again until it is over.
fn turn(nodes: &Nodes, target: usize, lie: Lie, (ahead, is_over): (&AtomicI64, &AtomicBool)) {
    let began = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        let elapsed = began.elapsed().as_millis() as i64;
        let now = match lie {
            Lie::Offset(ahead) => ahead,
            Lie::Drift(gain) => elapsed * gain / 1_000,
            Lie::Jump if elapsed % (3 * SECOND) < SECOND => 10 * YEAR,
            Lie::Jump => 0,
        };
        // A clock that cannot be set is not seen to lie.
        if ahead.swap(now, Ordering::AcqRel) != now && nodes.all[target].set_clock(now).is_err() {
            return;
        }
        sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lie_that_was_told_is_seen() {
        assert!(is_seen(HOUR, HOUR - 900));
        assert!(!is_seen(HOUR, 12), "the clock is right");
        assert!(!is_seen(-HOUR, HOUR));
        assert!(!is_seen(500, 20));
        assert!(is_seen(500, 300));
    }
}
