//! How far leader time may have got: no minority of clocks takes the cluster ahead of what a majority has reached.

use matins_core::state::State;

use super::agenda::{Instant, MS};
use super::world::World;

/// Leader time is slowed to half speed where it is further ahead than this (PROTOCOL 1.1), and a reading may be old by
/// a second.
const AHEAD_MAX_MS: i64 = 3_000;
/// A leader that has nothing to say writes once a minute: a longer silence is an outage.
const SILENCE_MAX_MS: i64 = 120_000;

/// The newest instant that a majority of the wall clocks has reached (PROTOCOL 1.1), and what may be added to it.
pub(super) struct Ceiling {
    reached: i64,
    reached_at: Instant,
    /// What the fastest boot-time clock may have won since, and has not lost yet: in an outage leader time runs on by it,
    /// and so does the reading of a node that is not heard any more.
    won: i64,
    /// How old the oldest reading was at the last entry.
    unheard: i64,
    entry_at: Instant,
}

impl Ceiling {
    pub(super) const fn new(starts_at: i64) -> Self {
        Self { reached: starts_at, reached_at: 0, won: 0, unheard: 0, entry_at: 0 }
    }

    /// Another entry was applied: `ppm` is the rate of the fastest boot-time clock, `unheard` how old the oldest reading is.
    fn entry(&mut self, now: Instant, ppm: i64, unheard: Instant) {
        let silence = millis(now - self.entry_at);
        self.entry_at = now;
        let lost = if silence > SILENCE_MAX_MS { 0 } else { silence / 2 };
        let wins = |time: i64| time * ppm.max(0) / 1_000_000;
        // A leader is not slowed before it hears that it is ahead.
        let oldest = millis(unheard).max(self.unheard + silence);
        self.unheard = millis(unheard);
        self.won = (self.won - lost).max(wins(oldest)) + wins(silence);
    }
}

impl World {
    /// Leader time after an entry was applied (PROTOCOL 1.1, 1.4).
    pub(super) fn check_time(&mut self, state: &State) {
        self.note_walls();
        let fastest = self.nodes.iter().map(|node| node.clocks.boot_ppm).max().unwrap_or(0);
        let now = self.agenda.now();
        let heard_at =
            self.consensus.leader.and_then(|proc| self.nodes[proc.node].heard_at.iter().min().copied());
        self.ceiling.entry(now, fastest, now - heard_at.unwrap_or(now));
        let ahead = state.now.as_millis() - self.ceiling.reached;
        if ahead > AHEAD_MAX_MS + self.ceiling.won {
            self.breaks(format!(
                "1.1: leader time is {ahead} ms ahead of every instant that a majority's clocks have reached"
            ));
        }
    }

    /// Notes what a majority of the wall clocks has reached; from there time goes on, also when they are set back.
    pub(super) fn note_walls(&mut self) {
        let now = self.agenda.now();
        self.ceiling.reached += millis(now - self.ceiling.reached_at);
        self.ceiling.reached_at = now - now % MS;
        let mut walls: Vec<i64> = self.nodes.iter().map(|node| node.clocks.wall(now).as_millis()).collect();
        walls.sort_unstable_by(|a, b| b.cmp(a));
        self.ceiling.reached = self.ceiling.reached.max(walls[walls.len() / 2]);
    }
}

fn millis(span: Instant) -> i64 {
    i64::try_from(span / MS).unwrap_or(i64::MAX)
}
