//! A calendar of the oracle's own: it shares nothing with `matins_workflow::calendar` but the meaning.
//!
//! It knows which local minutes of which days a schedule names (they were drawn as sets, the cron text was written
//! from them), asks jiff what instants those are in the zone, and puts them into order.

use std::collections::BTreeSet;

use jiff::civil::{Date, time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp as Moment, ToSpan as _};
use rand::Rng as _;
use rand::rngs::StdRng;

/// What a schedule names, and what becomes of what the clocks leave out or show twice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Almanac {
    pub(super) minutes: Vec<i8>,
    pub(super) hours: Vec<i8>,
    /// Days of the week, 0 is Sunday; empty: all.
    pub(super) weekdays: Vec<i8>,
    /// Days of the month; empty: all. With both, either is enough.
    pub(super) days: Vec<i8>,
    pub(super) zone: &'static str,
    pub(super) skips_gap: bool,
    /// `None`: both where the hour is a wildcard, else the first.
    pub(super) fold: Option<&'static str>,
}

const ZONES: [&str; 8] = [
    "UTC",
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/St_Johns",
    "Pacific/Auckland",
];

impl Almanac {
    pub(super) fn draw(random: &mut StdRng) -> Self {
        let every: Vec<i8> = (0..60).collect();
        let step = [5, 10, 15, 30][random.random_range(0..4)];
        let minutes = match random.random_range(0..6) {
            0 | 1 => every,
            2 | 3 => every.into_iter().filter(|minute| minute % step == 0).collect(),
            4 => vec![random.random_range(0..60)],
            _ => {
                let set: BTreeSet<i8> = (0..3).map(|_| random.random_range(0..60)).collect();
                set.into_iter().collect()
            }
        };
        let hours = match random.random_range(0..4) {
            0 | 1 => (0..24).collect(),
            2 => vec![random.random_range(0..5)],
            _ => (random.random_range(0..3)..random.random_range(4..24)).collect(),
        };
        Self {
            minutes,
            hours,
            weekdays: if random.random_range(0..6) == 0 { vec![0, 1, 3] } else { Vec::new() },
            days: if random.random_range(0..6) == 0 { (1..29).step_by(2).collect() } else { Vec::new() },
            zone: ZONES[random.random_range(0..ZONES.len())],
            skips_gap: random.random_range(0..3) == 0,
            fold: [None, None, Some("first"), Some("second"), Some("both")][random.random_range(0..5)],
        }
    }

    /// Its cron text.
    pub(super) fn cron(&self) -> String {
        let list = |set: &[i8], all: usize| {
            if set.is_empty() || set.len() == all {
                return "*".to_owned();
            }
            set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        format!(
            "{} {} {} * {}",
            list(&self.minutes, 60),
            list(&self.hours, 24),
            list(&self.days, 31),
            list(&self.weekdays, 7)
        )
    }

    /// Its ticks in `(after, until]`, in milliseconds since 1970, ascending.
    pub(super) fn ticks(&self, after: i64, until: i64) -> Vec<i64> {
        if until <= after {
            return Vec::new();
        }
        let zone = TimeZone::get(self.zone).expect("the zones above are in every table");
        let moment = |millis| Moment::from_millisecond(millis).expect("seeds lie in this century");
        let mut day = moment(after).to_zoned(zone.clone()).date() - 1.day();
        let last = moment(until).to_zoned(zone.clone()).date() + 1.day();
        let mut ticks = BTreeSet::new();
        while day <= last {
            if self.names(day) {
                self.ticks_of(day, &zone, &mut ticks);
            }
            day += 1.day();
        }
        ticks.into_iter().filter(|tick| *tick > after && *tick <= until).collect()
    }

    fn names(&self, day: Date) -> bool {
        let weekday = self.weekdays.contains(&day.weekday().to_sunday_zero_offset());
        let date = self.days.contains(&day.day());
        match (self.weekdays.is_empty(), self.days.is_empty()) {
            (true, true) => true,
            (true, false) => date,
            (false, true) => weekday,
            // POSIX: with both restricted, either is enough.
            (false, false) => weekday || date,
        }
    }

    fn ticks_of(&self, day: Date, zone: &TimeZone, ticks: &mut BTreeSet<i64>) {
        let fold = self.fold.unwrap_or(if self.hours.len() == 24 { "both" } else { "first" });
        for hour in &self.hours {
            for minute in &self.minutes {
                let local = day.to_datetime(time(*hour, *minute, 0, 0));
                let mut take = |offset: jiff::tz::Offset| {
                    let at = offset.to_timestamp(local).expect("seeds lie in this century");
                    ticks.insert(at.as_millisecond());
                };
                match zone.to_ambiguous_timestamp(local).offset() {
                    AmbiguousOffset::Unambiguous { offset } => take(offset),
                    // The offset before the change moves it later by the length of the gap.
                    AmbiguousOffset::Gap { before, .. } if !self.skips_gap => take(before),
                    AmbiguousOffset::Gap { .. } => {}
                    AmbiguousOffset::Fold { before, after } => match fold {
                        "first" => take(before),
                        "second" => take(after),
                        _ => {
                            take(before);
                            take(after);
                        }
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn almanac(hours: &[i8], zone: &'static str) -> Almanac {
        Almanac {
            minutes: vec![30],
            hours: hours.to_vec(),
            weekdays: Vec::new(),
            days: Vec::new(),
            zone,
            skips_gap: false,
            fold: None,
        }
    }

    #[test]
    fn the_nights_of_new_york() {
        let at = |text: &str| text.parse::<Moment>().expect("a moment").as_millisecond();
        let night = almanac(&[2], "America/New_York");
        // 02:30 does not exist on 8 March 2026 and becomes 03:30.
        assert_eq!(
            night.ticks(at("2026-03-08T00:00:00Z"), at("2026-03-09T00:00:00Z")),
            [at("2026-03-08T07:30:00Z")]
        );
        // 01:30 exists twice on 1 November 2026, and fires the first time.
        let night = almanac(&[1], "America/New_York");
        assert_eq!(
            night.ticks(at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z")),
            [at("2026-11-01T05:30:00Z")]
        );
    }
}
