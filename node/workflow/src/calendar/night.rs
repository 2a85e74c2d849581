//! What the coming changes of the clocks do to a schedule, for `check` and `schedule next` (LANGUAGE 4).

use std::collections::BTreeSet;

use matins_core::time::{Millis, Timestamp};

use super::zone::Change;
use super::{Calendar, Gap, LocalTime, Tick};

/// More ticks than this of one night are not listed.
pub const NIGHT_TICKS_MAX: usize = 8;

/// One change of the clocks, and the ticks that it moves, doubles or leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DstNight {
    /// The first instant of the new offset.
    pub at: Timestamp,
    /// What the walls would show then without the change.
    pub from: LocalTime,
    /// What they show. Later than `from` in a gap, earlier in a fold.
    pub to: LocalTime,
    /// The ticks that carry a mark, oldest first; the first [`NIGHT_TICKS_MAX`].
    pub ticks: Vec<Tick>,
    /// Local times that cron wants and `gap: skip` leaves out; the first [`NIGHT_TICKS_MAX`].
    pub skipped: Vec<LocalTime>,
}

impl Calendar {
    /// The next `count` changes of the zone's clocks after `time`, whether they touch a tick or not; fewer where the
    /// zone has no more of them.
    pub fn dst_nights(&self, time: Timestamp, count: usize) -> Vec<DstNight> {
        self.zone().changes_after(time).take(count).map(|change| self.night(change)).collect()
    }

    /// `change` has the offset before it, `offset` is the one from there on.
    fn night(&self, (change, offset): (Change, i64)) -> DstNight {
        let at = Timestamp::from_millis(change.at * 1000);
        let (from, to) = (change.at + change.offset, change.at + offset);
        let jump = Millis::from_secs(from.abs_diff(to));
        // A doubled time stands on either side of the change, a moved one behind it.
        let around = self.ticks(at - jump - Millis(1), at + jump - Millis(1), usize::MAX);
        let ticks = around.filter(|tick| tick.mark.is_some()).take(NIGHT_TICKS_MAX).collect();
        let skipped = match self.gap {
            Gap::Skip => self.wanted(from, to),
            Gap::Shift => Vec::new(),
        };
        DstNight { at, from: LocalTime(from), to: LocalTime(to), ticks, skipped }
    }

    /// The local times in `low..high` that any of the texts matches; none if `low` is not below `high`.
    fn wanted(&self, low: i64, high: i64) -> Vec<LocalTime> {
        let mut wanted = BTreeSet::new();
        for matcher in self.matchers() {
            let first = matcher.at_or_after(low);
            let all = std::iter::successors(first, |local| matcher.at_or_after(local + 1));
            wanted.extend(all.take_while(|local| *local < high).take(NIGHT_TICKS_MAX));
        }
        wanted.into_iter().take(NIGHT_TICKS_MAX).map(LocalTime).collect()
    }
}
