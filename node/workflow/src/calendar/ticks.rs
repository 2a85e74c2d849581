//! The ticks of a calendar: local ticks mapped to instants, in order, by the policies for gap and fold.
//!
//! The time line is cut where the zone changes its offset. Within one piece local time and instants run in step, so the
//! first tick of a piece is one question to the matcher; what a change adds or hides is a matter of bounds:
//! - a gap (the clocks go forward): the local times between are mapped with the offset *before* the change, which
//!   moves them by the length of the gap (02:30 becomes 03:30), or left out;
//! - a fold (the clocks go back): the end of one piece and the start of the next show the same local times; the policy
//!   takes one or both.
//!
//! Hence instants rise strictly whatever the policies, and the cost does not grow with the distance: a piece
//! without a tick is left behind by jumping to the next local time that matches.

use matins_core::ir::Schedule;
use matins_core::time::{Millis, Timestamp};

use super::naive::{LOCAL_MAX, LOCAL_MIN, Matcher};
use super::zone::{Piece, Zone};
use super::{Cron, CronError, Fold, Gap, LocalTime, ZoneError};

/// No offset from UTC is as long as this (seconds).
const OFFSET_LIMIT: i64 = 26 * 3600;

/// When a schedule is due: the union of its cron texts in one zone. It ends with the year 2100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    rules: Vec<Rule>,
    zone: Zone,
    pub(super) gap: Gap,
}

/// One instant at which a schedule is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The nominal time: a whole second.
    pub at: Timestamp,
    /// What a change of the clocks did to it; none on all other days.
    pub mark: Option<Mark>,
}

/// What a change of the clocks did to a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its local time does not exist; it was moved by the length of the gap.
    Gap {
        /// The local time that was asked for.
        nominal: LocalTime,
    },
    /// Its local time exists twice.
    Fold(FoldCopy),
}

/// Which of two equal local times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldCopy {
    /// The earlier one, before the clocks go back.
    First,
    /// The later one, after the clocks went back.
    Second,
}

/// The ticks of a range, in order, computed as they are asked for.
#[derive(Clone, Debug)]
pub struct Ticks<'a> {
    calendar: &'a Calendar,
    after: Timestamp,
    until: Timestamp,
    left: usize,
}

/// Why a schedule cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// One of its cron texts does not parse.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// Its zone is not in the tables.
    #[error(transparent)]
    Zone(#[from] ZoneError),
}

/// One cron text with the fold policy that holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    cron: Cron,
    fold: Fold,
}

impl Calendar {
    /// The union of `crons` in `zone`. Without `fold` each text has its own default: both copies if its hour is a
    /// wildcard, else the first (DESIGN 4). No texts make no ticks.
    pub fn new(crons: Vec<Cron>, zone: Zone, gap: Gap, fold: Option<Fold>) -> Self {
        let default = |cron: &Cron| if cron.is_every_hour() { Fold::Both } else { Fold::First };
        let rules = crons
            .into_iter()
            .map(|cron| Rule { fold: fold.unwrap_or_else(|| default(&cron)), cron })
            .collect();
        Self { rules, zone, gap }
    }

    /// The calendar of a compiled schedule. An error means that the tables or the grammar changed since it was
    /// compiled; such a schedule is quarantined (PROTOCOL 3.6).
    pub fn from_schedule(schedule: &Schedule) -> Result<Self, CalendarError> {
        let crons = schedule.cron.iter().map(|text| Cron::parse(text)).collect::<Result<_, _>>()?;
        let zone = Zone::parse(&schedule.timezone)?;
        Ok(Self::new(crons, zone, schedule.gap, schedule.fold))
    }

    /// The zone in which its texts are read.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The first tick strictly after `time`; none if it never fires again.
    pub fn next_after(&self, time: Timestamp) -> Option<Tick> {
        let from = seconds(time).saturating_add(1);
        let ticks = self.rules.iter().filter_map(|rule| rule.first(&self.zone, self.gap, from));
        // An unmarked tick is the better witness where two local times meet in one instant.
        ticks.min_by_key(|tick| (tick.at, tick.mark.is_some()))
    }

    /// The last tick that is not after `time`; none if it never fired before.
    pub fn at_or_before(&self, time: Timestamp) -> Option<Tick> {
        let to = seconds(time);
        let ticks = self.rules.iter().filter_map(|rule| rule.last(&self.zone, self.gap, to));
        ticks.max_by_key(|tick| (tick.at, tick.mark.is_none()))
    }

    /// The last tick strictly before `time`: the start of the interval that ends there (LANGUAGE 1.6).
    pub fn previous_before(&self, time: Timestamp) -> Option<Tick> {
        self.at_or_before(time - Millis(1))
    }

    /// The ticks in `(after, until]`, oldest first, `limit` at most.
    pub fn ticks(&self, after: Timestamp, until: Timestamp, limit: usize) -> Ticks<'_> {
        Ticks { calendar: self, after, until, left: limit }
    }

    /// The newest `limit` ticks in `(after, until]`, oldest first: what catch-up and an overview of the past ask for,
    /// at a cost that does not grow with the ticks before them (PROTOCOL 3.2).
    pub fn newest(&self, after: Timestamp, until: Timestamp, limit: usize) -> Vec<Tick> {
        let last = self.at_or_before(until);
        let back = std::iter::successors(last, |tick| self.previous_before(tick.at));
        let mut ticks: Vec<Tick> = back.take_while(|tick| tick.at > after).take(limit).collect();
        ticks.reverse();
        ticks
    }

    pub(super) fn matchers(&self) -> impl Iterator<Item = &Matcher> {
        self.rules.iter().map(Rule::matcher)
    }
}

impl Iterator for Ticks<'_> {
    type Item = Tick;

    fn next(&mut self) -> Option<Tick> {
        if self.left == 0 {
            return None;
        }
        let tick = self.calendar.next_after(self.after).filter(|tick| tick.at <= self.until);
        match tick {
            Some(tick) => {
                self.after = tick.at;
                self.left -= 1;
            }
            None => self.left = 0,
        }
        tick
    }
}

impl Rule {
    /// The first tick that is not before the instant `from`.
    fn first(&self, zone: &Zone, gap: Gap, mut from: i64) -> Option<Tick> {
        from = from.clamp(LOCAL_MIN - OFFSET_LIMIT, LOCAL_MAX + OFFSET_LIMIT);
        loop {
            let piece = zone.piece_at(from);
            let plain = self.search(&piece, from, Direction::Forward);
            let moved = match gap {
                Gap::Shift => self.search_gap(&piece, from, Direction::Forward),
                Gap::Skip => None,
            };
            if let Some(tick) = [plain, moved].into_iter().flatten().min_by_key(|tick| tick.at) {
                return Some(tick);
            }
            // No local time from here to `local` matches, and its instant is not before this:
            let end = piece.end?;
            let local = self.matcher().at_or_after(end.at + piece.offset.min(end.offset))?;
            from = end.at.max(local - OFFSET_LIMIT);
        }
    }

    /// The last tick that is not after the instant `to`.
    fn last(&self, zone: &Zone, gap: Gap, mut to: i64) -> Option<Tick> {
        to = to.clamp(LOCAL_MIN - OFFSET_LIMIT, LOCAL_MAX + OFFSET_LIMIT);
        loop {
            let piece = zone.piece_at(to);
            let moved = match gap {
                Gap::Shift => self.search_gap(&piece, to, Direction::Back),
                Gap::Skip => None,
            };
            let plain = self.search(&piece, to, Direction::Back);
            if let Some(tick) = [moved, plain].into_iter().flatten().max_by_key(|tick| tick.at) {
                return Some(tick);
            }
            let start = piece.start?;
            let local = self.matcher().at_or_before(start.at + piece.offset.max(start.offset))?;
            to = (start.at - 1).min(local + OFFSET_LIMIT);
        }
    }

    fn matcher(&self) -> &Matcher {
        &self.cron.matcher
    }

    /// The nearest tick from `bound` on, forward or back, among the local times that `piece` shows.
    fn search(&self, piece: &Piece, bound: i64, direction: Direction) -> Option<Tick> {
        let (low, high) = piece.shown(self.fold);
        let local = self.matcher().nearest(low, high, bound + piece.offset, direction)?;
        Some(Tick { at: timestamp(local - piece.offset), mark: piece.copy_of(local).map(Mark::Fold) })
    }

    /// The same among the local times that the change at the start of `piece` left out.
    fn search_gap(&self, piece: &Piece, bound: i64, direction: Direction) -> Option<Tick> {
        let change = piece.start.filter(|change| change.offset < piece.offset)?;
        let (low, high) = (change.at + change.offset, change.at + piece.offset);
        let local = self.matcher().nearest(low, high, bound + change.offset, direction)?;
        let mark = Some(Mark::Gap { nominal: LocalTime(local) });
        Some(Tick { at: timestamp(local - change.offset), mark })
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Back,
}

impl Matcher {
    /// The matching local time in `low..high` that is nearest to `bound` in one direction, `bound` included.
    fn nearest(&self, low: i64, high: i64, bound: i64, direction: Direction) -> Option<i64> {
        match direction {
            Direction::Forward => self.at_or_after(low.max(bound)).filter(|local| *local < high),
            Direction::Back => self.at_or_before((high - 1).min(bound)).filter(|local| *local >= low),
        }
    }
}

impl Piece {
    /// The local times `low..high` of this piece whose ticks count, by the policy for times that exist twice.
    fn shown(&self, fold: Fold) -> (i64, i64) {
        let low = self.start.map_or(LOCAL_MIN, |change| {
            let offset = match fold {
                Fold::First => self.offset.max(change.offset),
                Fold::Second | Fold::Both => self.offset,
            };
            change.at + offset
        });
        let high = self.end.map_or(LOCAL_MAX + 1, |change| {
            let offset = match fold {
                Fold::Second => self.offset.min(change.offset),
                Fold::First | Fold::Both => self.offset,
            };
            change.at + offset
        });
        (low, high)
    }

    /// Which copy `local` is in this piece, if it exists twice.
    fn copy_of(&self, local: i64) -> Option<FoldCopy> {
        if self.start.is_some_and(|change| local < change.at + change.offset) {
            Some(FoldCopy::Second)
        } else if self.end.is_some_and(|change| local >= change.at + change.offset) {
            Some(FoldCopy::First)
        } else {
            None
        }
    }
}

/// The whole seconds of an instant: ticks fall on them.
fn seconds(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(1000)
}

fn timestamp(at: i64) -> Timestamp {
    Timestamp::from_millis(at * 1000)
}
