//! Matches cron fields on local time without a zone. The only place that knows the `cron` crate.
//!
//! The crate alone is wrong for us (DESIGN 4): it wants seconds first, counts Sunday as 1, ANDs the two day fields,
//! and knows neither the gap nor the fold. So it gets plain lists of values, no zone (UTC stands for "none"), and two
//! schedules where both day fields are given; it only walks from one matching date to the next.
//!
//! Local times are seconds since 1970-01-01T00:00:00 on the wall, between the years 1970 and 2100, the crate's bounds.

use std::fmt::Write;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use cron::Schedule;

use super::cron::Fields;
use super::field::{DAY, Field, FieldKind, HOUR, MINUTE, MONTH, SECOND, WEEKDAY};

/// 1970-01-01T00:00:00, the first local time that can match.
pub(super) const LOCAL_MIN: i64 = 0;
/// 2100-12-31T23:59:59, the last local time that can match.
pub(super) const LOCAL_MAX: i64 = 4_133_980_799;

/// The local times that a cron text means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matcher {
    by_day: Schedule,
    /// With its own set of days where the text gives both day fields: a time matches if either has it.
    by_weekday: Option<Schedule>,
}

impl Matcher {
    pub(super) fn new(fields: &Fields) -> Self {
        let both = !fields.day.is_star && !fields.weekday.is_star;
        let every = Field::every();
        if both {
            Self {
                by_day: schedule(fields, fields.day, every),
                by_weekday: Some(schedule(fields, every, fields.weekday)),
            }
        } else {
            Self { by_day: schedule(fields, fields.day, fields.weekday), by_weekday: None }
        }
    }

    /// The first matching local time that is not before `local`; none if there is none until 2100.
    pub(super) fn at_or_after(&self, local: i64) -> Option<i64> {
        if local > LOCAL_MAX {
            return None;
        }
        // The crate's search begins behind the time it is given.
        let from = naive(local.max(LOCAL_MIN) - 1);
        let next = |schedule: &Schedule| schedule.after(&from).next().map(|time| time.timestamp());
        match (next(&self.by_day), self.by_weekday.as_ref().and_then(next)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The last matching local time that is not after `local`; none if there is none since 1970.
    pub(super) fn at_or_before(&self, local: i64) -> Option<i64> {
        if local < LOCAL_MIN {
            return None;
        }
        let to = naive(local.min(LOCAL_MAX) + 1);
        let last = |schedule: &Schedule| schedule.after(&to).next_back().map(|time| time.timestamp());
        match (last(&self.by_day), self.by_weekday.as_ref().and_then(last)) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other),
        }
    }
}

fn naive(local: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(local, 0).expect("local times are clamped to the years 1970 to 2101")
}

/// Writes the fields in the crate's own dialect: lists of numbers, Sunday is 1.
fn schedule(fields: &Fields, day: Field, weekday: Field) -> Schedule {
    let mut text = String::new();
    push(&mut text, fields.second, &SECOND, 0);
    push(&mut text, fields.minute, &MINUTE, 0);
    push(&mut text, fields.hour, &HOUR, 0);
    push(&mut text, day, &DAY, 0);
    push(&mut text, fields.month, &MONTH, 0);
    push(&mut text, weekday, &WEEKDAY, 1);
    Schedule::from_str(&text).expect("lists of values in range are what the crate reads")
}

fn push(text: &mut String, field: Field, kind: &FieldKind, shift: u32) {
    if field.is_full(kind) {
        text.push_str("* ");
        return;
    }
    for (index, value) in field.values(kind).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}{}", value + shift).expect("a String takes all text");
    }
    text.push(' ');
}
