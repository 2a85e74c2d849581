//! A calendar of our own, against which the cluster's is held: which instants a cron expression means.
//!
//! It looks at every second (or minute) of a range and asks what the clocks on the wall show, which is slow and simple on
//! purpose. It knows only the forms of fields that workloads use, and nothing of the product. Start at [`Rule::due`].

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::Trouble;

/// Values of one field of a cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// `*`
    Any,
    /// `7,30`
    List(Vec<i8>),
    /// `from-to/step`
    Step { from: i8, to: i8, step: i8 },
}

impl Field {
    fn has(&self, value: i8) -> bool {
        match self {
            Self::Any => true,
            Self::List(values) => values.contains(&value),
            Self::Step { from, to, step } => (*from..=*to).contains(&value) && (value - from) % step == 0,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::List(values) => values.iter().map(i8::to_string).collect::<Vec<_>>().join(","),
            Self::Step { from, to, step } => format!("{from}-{to}/{step}"),
        }
    }
}

/// What a local time that exists twice becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    First,
    Second,
    Both,
}

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `None`: at second 0, and the expression has five fields.
    pub(crate) seconds: Option<Field>,
    pub(crate) minutes: Field,
    pub(crate) hours: Field,
    pub(crate) days: Field,
    pub(crate) months: Field,
    /// 0 is Sunday.
    pub(crate) weekdays: Field,
    pub(crate) zone: &'static str,
    /// A local time that does not exist is moved by the length of the gap (02:30 becomes 03:30), instead of left out.
    pub(crate) gap_shifts: bool,
    pub(crate) fold: Fold,
}

impl Rule {
    /// Every minute of every day, in UTC.
    pub(crate) fn minutely() -> Self {
        Self {
            seconds: None,
            minutes: Field::Any,
            hours: Field::Any,
            days: Field::Any,
            months: Field::Any,
            weekdays: Field::Any,
            zone: "UTC",
            gap_shifts: true,
            fold: Fold::Both,
        }
    }

    /// As a cron expression.
    pub(crate) fn cron(&self) -> String {
        let fields = [&self.minutes, &self.hours, &self.days, &self.months, &self.weekdays];
        let all = self.seconds.iter().chain(fields);
        all.map(Field::text).collect::<Vec<_>>().join(" ")
    }

    /// The keys of a schedule, as YAML that goes between braces.
    pub(crate) fn keys(&self) -> String {
        let gap = if self.gap_shifts { "shift" } else { "skip" };
        let fold = match self.fold {
            Fold::First => "first",
            Fold::Second => "second",
            Fold::Both => "both",
        };
        format!("cron: \"{}\", timezone: {}, gap: {gap}, fold: {fold}", self.cron(), self.zone)
    }

    /// All ticks after one instant, up to another, in milliseconds since 1970.
    pub(crate) fn due(&self, after: i64, until: i64) -> Result<Vec<i64>, Trouble> {
        let zone = TimeZone::get(self.zone).map_err(trouble)?;
        let step = if self.seconds.is_some() { 1 } else { 60 };
        let mut due = Vec::new();
        let mut at = (after.div_euclid(1_000 * step) + 1) * step;
        while at * 1_000 <= until {
            let instant = Timestamp::from_second(at).map_err(trouble)?;
            let offset = zone.to_offset(instant);
            let local = offset.to_datetime(instant);
            if self.matches(local) && self.takes(&zone, local, offset) {
                due.push(at * 1_000);
            }
            at += step;
        }
        if self.gap_shifts {
            self.shifted(&zone, after, until, &mut due)?;
        }
        due.sort_unstable();
        due.dedup();
        Ok(due)
    }

    /// The last tick before an instant. Looks back 40 days.
    pub(crate) fn before(&self, instant: i64) -> Result<Option<i64>, Trouble> {
        let mut span = 120_000;
        while span < 40 * 86_400_000 {
            if let Some(tick) = self.due(instant - span, instant - 1)?.last() {
                return Ok(Some(*tick));
            }
            span *= 8;
        }
        Ok(None)
    }

    fn matches(&self, local: DateTime) -> bool {
        let seconds = self.seconds.as_ref().map_or(local.second() == 0, |field| field.has(local.second()));
        let day = self.days.has(local.day());
        let weekday = self.weekdays.has(local.weekday().to_sunday_zero_offset());
        // POSIX: where both are given, either will do.
        let either = self.days != Field::Any && self.weekdays != Field::Any;
        seconds
            && self.minutes.has(local.minute())
            && self.hours.has(local.hour())
            && self.months.has(local.month())
            && if either { day || weekday } else { day && weekday }
    }

    /// Whether this one of two instants with the same local time is meant.
    fn takes(&self, zone: &TimeZone, local: DateTime, offset: jiff::tz::Offset) -> bool {
        match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Fold { before, .. } => match self.fold {
                Fold::First => offset == before,
                Fold::Second => offset != before,
                Fold::Both => true,
            },
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => true,
        }
    }

    /// Adds what would have been due in a gap, by clocks that had not been put forward.
    fn shifted(&self, zone: &TimeZone, after: i64, until: i64, due: &mut Vec<i64>) -> Result<(), Trouble> {
        // A gap is some hours long at most, and what it moves comes after its end.
        let start = Timestamp::from_millisecond(after - 86_400_000).map_err(trouble)?;
        for change in zone.following(start) {
            let end = change.timestamp();
            if end.as_millisecond() > until {
                break;
            }
            let before = zone.to_offset(Timestamp::from_second(end.as_second() - 1).map_err(trouble)?);
            for skipped in 0..i64::from(change.offset().seconds() - before.seconds()).max(0) {
                let instant = Timestamp::from_second(end.as_second() + skipped).map_err(trouble)?;
                let millis = instant.as_millisecond();
                if (after + 1..=until).contains(&millis) && self.matches(before.to_datetime(instant)) {
                    due.push(millis);
                }
            }
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` takes")]
fn trouble(error: jiff::Error) -> Trouble {
    Trouble(format!("calendar: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn due(rule: &Rule, after: &str, until: &str) -> Vec<String> {
        let ticks = rule.due(at(after), at(until)).unwrap();
        ticks.into_iter().map(|it| Timestamp::from_millisecond(it).unwrap().to_string()).collect()
    }

    #[test]
    fn a_range_leaves_its_begin_out() {
        let rule = Rule { seconds: Some(Field::Step { from: 0, to: 59, step: 20 }), ..Rule::minutely() };
        assert_eq!(rule.cron(), "0-59/20 * * * * *");
        assert_eq!(
            due(&rule, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"]
        );
    }

    #[test]
    fn nights_on_which_clocks_change() {
        let nightly = Rule {
            minutes: Field::List(vec![30]),
            hours: Field::List(vec![2]),
            zone: "America/New_York",
            fold: Fold::First,
            ..Rule::minutely()
        };
        // 02:30 does not exist on 8 March 2026.
        let march = ["2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z"];
        assert_eq!(due(&nightly, march[0], march[1]), ["2026-03-08T07:30:00Z", "2026-03-09T06:30:00Z"]);
        let skipping = Rule { gap_shifts: false, ..nightly.clone() };
        assert_eq!(due(&skipping, march[0], march[1]), ["2026-03-09T06:30:00Z"]);
        // 01:30 exists twice on 1 November 2026.
        let early = Rule { hours: Field::List(vec![1]), ..nightly };
        let november = ["2026-10-31T12:00:00Z", "2026-11-01T12:00:00Z"];
        for (fold, expected) in [
            (Fold::First, vec!["2026-11-01T05:30:00Z"]),
            (Fold::Second, vec!["2026-11-01T06:30:00Z"]),
            (Fold::Both, vec!["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"]),
        ] {
            assert_eq!(due(&Rule { fold, ..early.clone() }, november[0], november[1]), expected);
        }
    }

    #[test]
    fn either_day_will_do() {
        let rule = Rule {
            minutes: Field::List(vec![0]),
            hours: Field::List(vec![0]),
            days: Field::List(vec![13]),
            weekdays: Field::List(vec![5]),
            ..Rule::minutely()
        };
        // Fridays, and the 13th, which is a Tuesday.
        let expected = ["2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"];
        assert_eq!(due(&rule, "2026-01-08T00:00:00Z", "2026-01-16T00:00:00Z"), expected);
        assert_eq!(rule.before(at("2026-01-13T00:00:00Z")).unwrap(), Some(at("2026-01-09T00:00:00Z")));
    }
}
