//! Instants as people and templates see them: dates, local times, and arithmetic in a zone.
//!
//! Where a local time does not exist or exists twice, arithmetic does what RFC 5545 says (later by the gap; the first
//! copy), and input by a person is refused, with the times that may be meant.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{ToSpan, Zoned};
use matins_core::time::Timestamp;

use super::zone::Zone;

/// What `start_of` cuts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// To the full local hour.
    Hour,
    /// To the first instant of the local day.
    Day,
    /// To the first instant of Monday.
    Week,
    /// To the first instant of the month.
    Month,
    /// To the first instant of the year.
    Year,
}

/// A time that a person gave, by `--logical-time`, `--from` or `--to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserTime {
    /// One instant.
    Instant(Timestamp),
    /// A whole day of the zone: its first and its last millisecond.
    Day {
        /// The first instant of the day.
        first: Timestamp,
        /// Its last millisecond.
        last: Timestamp,
    },
}

/// A date or time that cannot be read, or does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MomentError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl MomentError {
    fn new(message: String, hint: impl Into<String>) -> Self {
        Self { message, hint: hint.into() }
    }
}

impl UserTime {
    /// Reads an instant (`2026-03-08T07:30:00Z`, or with an offset), a date (that whole day in `zone`), or a local time
    /// (`2026-03-08T02:30`), which must exist once in `zone`.
    pub fn parse(text: &str, zone: &Zone) -> Result<Self, MomentError> {
        let unreadable = || {
            let hint = "write `2026-03-08T07:30:00Z`, `2026-03-08T02:30:00-05:00`, or a day `2026-03-08`";
            MomentError::new(format!("`{text}` is no time"), hint)
        };
        // jiff also takes a zone in brackets, week dates and the basic format; one spelling is enough.
        if !text.is_ascii() || text.contains(['[', 'W']) || text.as_bytes().get(4) != Some(&b'-') {
            return Err(unreadable());
        }
        if text.len() == 10 {
            let (first, end) = day_bounds(zone, text.parse().map_err(|_| unreadable())?)?;
            return Ok(Self::Day { first, last: Timestamp::from_millis(end.as_millis() - 1) });
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            if time.subsec_nanosecond() % 1_000_000 != 0 {
                let message = format!("`{text}` is more precise than a millisecond");
                return Err(MomentError::new(message, "write three digits after the second at most"));
            }
            return Ok(Self::Instant(from_jiff(time)));
        }
        let local = text.parse::<DateTime>().map_err(|_| unreadable())?;
        local_instant(local, zone).map(Self::Instant)
    }

    /// Its first instant: where a range that begins with it begins.
    pub fn first(self) -> Timestamp {
        match self {
            Self::Instant(at) | Self::Day { first: at, .. } => at,
        }
    }

    /// Its last instant: where a range that includes it ends.
    pub fn last(self) -> Timestamp {
        match self {
            Self::Instant(at) | Self::Day { last: at, .. } => at,
        }
    }
}

/// The first instant of a day in `zone` and the first of the next one. Days have 23 to 25 hours, or others; a day
/// that a zone left out (2011-12-30 in `Pacific/Apia`) is an error. Days follow each other without gap or overlap.
pub fn day_bounds(zone: &Zone, day: Date) -> Result<(Timestamp, Timestamp), MomentError> {
    let next = day.tomorrow().map_err(|_| out_of_range(&day.to_string()))?;
    let bounds = (first_of_day(zone, day)?, first_of_day(zone, next)?);
    if bounds.0 >= bounds.1 {
        let message = format!("{day} does not exist in {zone}: the zone left it out");
        return Err(MomentError::new(message, "name the day before or after it"));
    }
    Ok(bounds)
}

/// `YYYY-MM-DD` of the local day.
pub fn date(time: Timestamp, zone: &Zone) -> String {
    zoned(time, zone).date().to_string()
}

/// RFC 3339 with the offset of the zone at that instant; `Z` in UTC. Three digits of milliseconds where there are some.
pub fn datetime(time: Timestamp, zone: &Zone) -> String {
    let is_whole = time.as_millis() % 1000 == 0;
    let time = to_jiff(time);
    if zone.tz == TimeZone::UTC {
        return if is_whole { time.to_string() } else { format!("{time:.3}") };
    }
    let time = time.display_with_offset(zone.tz.to_offset(time));
    if is_whole { time.to_string() } else { format!("{time:.3}") }
}

/// The local time by a pattern of `strftime`, such as `%Y%m%d`.
pub fn strftime(time: Timestamp, zone: &Zone, pattern: &str) -> Result<String, MomentError> {
    jiff::fmt::strtime::format(pattern, &zoned(time, zone)).map_err(|error| {
        let message = format!("the pattern `{pattern}` does not fit a time: {error}");
        MomentError::new(message, "`%Y-%m-%d %H:%M:%S` has the common parts; a percent sign is `%%`")
    })
}

/// So many milliseconds later (or earlier) on every clock: `1d` is 24 hours.
pub fn add(time: Timestamp, millis: i64) -> Result<Timestamp, MomentError> {
    let sum =
        time.as_millis().checked_add(millis).filter(|sum| jiff::Timestamp::from_millisecond(*sum).is_ok());
    sum.map(Timestamp::from_millis).ok_or_else(|| out_of_range(&to_jiff(time).to_string()))
}

/// The same local time so many days later.
pub fn add_days(time: Timestamp, zone: &Zone, days: i64) -> Result<Timestamp, MomentError> {
    let start = zoned(time, zone);
    let sum = 0.days().try_days(days).and_then(|span| start.checked_add(span));
    sum.map(|sum| from_jiff(sum.timestamp())).map_err(|_| out_of_range(&start.timestamp().to_string()))
}

/// The same local day and time so many months later; the last day of a month that is too short.
pub fn add_months(time: Timestamp, zone: &Zone, months: i64) -> Result<Timestamp, MomentError> {
    let start = zoned(time, zone);
    let sum = 0.months().try_months(months).and_then(|span| start.checked_add(span));
    sum.map(|sum| from_jiff(sum.timestamp())).map_err(|_| out_of_range(&start.timestamp().to_string()))
}

/// The start of the local unit that holds `time`.
pub fn start_of(unit: Unit, time: Timestamp, zone: &Zone) -> Result<Timestamp, MomentError> {
    let local = zoned(time, zone);
    let day = local.date();
    let first = match unit {
        Unit::Hour => return Ok(start_of_hour(&local, zone)),
        Unit::Day => Ok(day),
        Unit::Week => day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()),
        Unit::Month => Ok(day.first_of_month()),
        Unit::Year => Ok(day.first_of_year()),
    };
    first_of_day(zone, first.map_err(|_| out_of_range(&day.to_string()))?)
}

/// The local day of the week; 1 is Monday, 7 Sunday.
pub fn weekday(time: Timestamp, zone: &Zone) -> u32 {
    zoned(time, zone).weekday().to_monday_one_offset() as u32
}

/// Whole seconds since 1970.
pub fn unix(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(1000)
}

/// The unit by its name in `start_of('day')`.
impl std::str::FromStr for Unit {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        match text {
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            "week" => Ok(Self::Week),
            "month" => Ok(Self::Month),
            "year" => Ok(Self::Year),
            _ => {
                let message = format!("there is no unit `{text}`");
                Err(MomentError::new(message, "the units are `hour day week month year`"))
            }
        }
    }
}

/// Milliseconds beyond what jiff holds (years -9999 to 9999) saturate: no command carries such an instant.
fn to_jiff(time: Timestamp) -> jiff::Timestamp {
    let bounds = (jiff::Timestamp::MIN.as_millisecond(), jiff::Timestamp::MAX.as_millisecond());
    jiff::Timestamp::from_millisecond(time.as_millis().clamp(bounds.0, bounds.1))
        .expect("clamped to what jiff holds")
}

fn from_jiff(time: jiff::Timestamp) -> Timestamp {
    // `as_millisecond` rounds towards 1970; before it that would be up.
    Timestamp::from_millis(time.as_nanosecond().div_euclid(1_000_000) as i64)
}

fn zoned(time: Timestamp, zone: &Zone) -> Zoned {
    to_jiff(time).to_zoned(zone.tz.clone())
}

/// The first instant at which the walls of `zone` show `day`, or a later day if they never do.
fn first_of_day(zone: &Zone, day: Date) -> Result<Timestamp, MomentError> {
    let midnight = day.to_datetime(jiff::civil::Time::midnight());
    let at = match zone.tz.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(midnight)
        }
        AmbiguousOffset::Gap { before, .. } => before.to_timestamp(midnight).map(|at| gap_end(zone, at)),
    };
    at.map(from_jiff).map_err(|_| out_of_range(&day.to_string()))
}

/// The instant of the change that left out a local time, given that local time read with the offset before it.
fn gap_end(zone: &Zone, at: jiff::Timestamp) -> jiff::Timestamp {
    zone.piece_at(at.as_second()).start.map_or(at, |change| super::zone::instant(change.at))
}

fn start_of_hour(local: &Zoned, zone: &Zone) -> Timestamp {
    let time = local.timestamp();
    let hour = local.datetime().time();
    let hour = local.date().at(hour.hour(), 0, 0, 0);
    // In a fold the nearer copy is meant, if it is not ahead.
    let not_ahead = |offset: Offset| offset.to_timestamp(hour).ok().filter(|start| *start <= time);
    let start = match zone.tz.to_ambiguous_timestamp(hour).offset() {
        AmbiguousOffset::Unambiguous { offset } => not_ahead(offset),
        AmbiguousOffset::Fold { before, after } => not_ahead(after).or_else(|| not_ahead(before)),
        AmbiguousOffset::Gap { before, .. } => not_ahead(before).map(|at| gap_end(zone, at)),
    };
    from_jiff(start.unwrap_or(time))
}

/// A local time that must exist once.
fn local_instant(local: DateTime, zone: &Zone) -> Result<Timestamp, MomentError> {
    let with = |offset: Offset| match offset.to_timestamp(local) {
        Ok(at) => Ok(at),
        Err(_) => Err(out_of_range(&local.to_string())),
    };
    let shown = |at: jiff::Timestamp, offset| at.display_with_offset(offset).to_string();
    match zone.tz.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => with(offset).map(from_jiff),
        AmbiguousOffset::Gap { before, after } => {
            let message = format!("{local} does not exist in {zone}: the clocks went forward over it");
            Err(MomentError::new(
                message,
                format!("write {} for the same instant by the new offset", shown(with(before)?, after)),
            ))
        }
        AmbiguousOffset::Fold { before, after } => {
            let message = format!("{local} exists twice in {zone}: the clocks went back over it");
            let (first, second) = (shown(with(before)?, before), shown(with(after)?, after));
            Err(MomentError::new(message, format!("write {first} for the first, {second} for the second")))
        }
    }
}

fn out_of_range(what: &str) -> MomentError {
    MomentError::new(
        format!("{what}, or the time asked for from it, is out of range"),
        "years are -9999 to 9999",
    )
}
