//! The calendar against an oracle that shares no code with it: it looks at every minute (or second) of the walls
//! around a change of the clocks, asks its own set of numbers whether cron wants it, and asks jiff for its instants.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp as Instant};
use matins_core::time::{Millis, Timestamp};
use matins_workflow::calendar::{
    Calendar, Cron, Fold, Gap, UserTime, Zone, day_bounds, moment, parse_duration, parse_signed_duration,
    parse_size,
};
use proptest::prelude::*;

/// Zones with the day of a change: an hour forward and back, at midnight, by half an hour, a whole day left
/// out, to a new offset for good, twice within a month, and none at all.
const CHANGES: [(&str, &str); 18] = [
    ("America/New_York", "2024-03-10"),
    ("America/New_York", "2024-11-03"),
    ("Europe/Zurich", "2023-03-26"),
    ("Europe/Zurich", "2037-10-25"),
    ("Europe/Dublin", "2040-10-28"),
    ("Australia/Lord_Howe", "2024-10-06"),
    ("Australia/Lord_Howe", "2024-04-07"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("America/St_Johns", "2010-11-07"),
    ("Africa/Cairo", "2024-04-26"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Asia/Kathmandu", "1986-01-01"),
    ("Antarctica/Troll", "2024-03-31"),
    ("Asia/Pyongyang", "2018-05-05"),
    ("UTC", "2024-02-29"),
];

/// A cron text and, written apart from it, what it means.
#[derive(Clone, Debug)]
struct Wanted {
    text: String,
    second: BTreeSet<i8>,
    minute: BTreeSet<i8>,
    hour: BTreeSet<i8>,
    /// None where the text has `*`.
    day: Option<BTreeSet<i8>>,
    month: Option<BTreeSet<i8>>,
    /// 0 is Sunday.
    weekday: Option<BTreeSet<i8>>,
}

impl Wanted {
    fn matches(&self, local: DateTime) -> bool {
        let in_month = self.month.as_ref().is_none_or(|set| set.contains(&local.month()));
        let weekday = local.weekday().to_sunday_zero_offset();
        let on_day = match (&self.day, &self.weekday) {
            (Some(days), Some(weekdays)) => days.contains(&local.day()) || weekdays.contains(&weekday),
            (Some(days), None) => days.contains(&local.day()),
            (None, Some(weekdays)) => weekdays.contains(&weekday),
            (None, None) => true,
        };
        let (hour, minute, second) = (local.hour(), local.minute(), local.second());
        let on_time =
            self.hour.contains(&hour) && self.minute.contains(&minute) && self.second.contains(&second);
        in_month && on_day && on_time
    }

    fn fold(&self, fold: Option<Fold>) -> Fold {
        fold.unwrap_or(if self.hour.len() == 24 { Fold::Both } else { Fold::First })
    }
}

/// Every instant at which `wanted` fires, of the local times within `reach` of noon of `day`.
fn scan(
    wanted: &Wanted,
    tz: &TimeZone,
    noon: DateTime,
    policies: (Gap, Option<Fold>),
    reach: Reach,
) -> BTreeSet<i64> {
    let mut instants = BTreeSet::new();
    let mut local = noon - SignedDuration::from_secs(reach.seconds);
    while local <= noon + SignedDuration::from_secs(reach.seconds) {
        if wanted.matches(local) {
            let at = |offset: jiff::tz::Offset| offset.to_timestamp(local).unwrap().as_millisecond();
            let fold = wanted.fold(policies.1);
            match tz.to_ambiguous_timestamp(local).offset() {
                AmbiguousOffset::Unambiguous { offset } => {
                    instants.insert(at(offset));
                }
                AmbiguousOffset::Gap { before, .. } => {
                    if policies.0 == Gap::Shift {
                        instants.insert(at(before));
                    }
                }
                AmbiguousOffset::Fold { before, after } => {
                    if fold != Fold::Second {
                        instants.insert(at(before));
                    }
                    if fold != Fold::First {
                        instants.insert(at(after));
                    }
                }
            }
        }
        local += SignedDuration::from_secs(reach.step);
    }
    instants
}

/// How far the oracle looks, and in which steps (seconds).
#[derive(Clone, Copy)]
struct Reach {
    seconds: i64,
    step: i64,
}

const BY_MINUTES: Reach = Reach { seconds: 3 * 86_400, step: 60 };
const BY_SECONDS: Reach = Reach { seconds: 100_000, step: 1 };

/// Compares in the part that the oracle has seen whole: more than 26 h away from its bounds.
fn check(wanted: &[Wanted], change: (&str, &str), policies: (Gap, Option<Fold>), reach: Reach) {
    let tz = TimeZoneDatabase::bundled().get(change.0).unwrap();
    let noon = change.1.parse::<jiff::civil::Date>().unwrap().at(12, 0, 0, 0);
    let crons = wanted.iter().map(|wanted| Cron::parse(&wanted.text).unwrap()).collect();
    let calendar = Calendar::new(crons, Zone::parse(change.0).unwrap(), policies.0, policies.1);

    let seen = 1000 * (reach.seconds - 26 * 3600);
    let middle = noon.to_zoned(TimeZone::UTC).unwrap().timestamp().as_millisecond();
    let (from, to) = (middle - seen, middle + seen);
    let mut expected = BTreeSet::new();
    for wanted in wanted {
        expected.extend(scan(wanted, &tz, noon, policies, reach));
    }
    let expected: Vec<i64> = expected.into_iter().filter(|at| (from..=to).contains(at)).collect();

    let bounds = (Timestamp::from_millis(from - 1), Timestamp::from_millis(to));
    let ticks: Vec<i64> = calendar.ticks(bounds.0, bounds.1, usize::MAX).map(|t| t.at.as_millis()).collect();
    let show = |all: &[i64]| all.iter().map(|at| Instant::from_millisecond(*at).unwrap()).collect::<Vec<_>>();
    if let Some(index) = (0..ticks.len().max(expected.len())).find(|i| ticks.get(*i) != expected.get(*i)) {
        let tail =
            |all: &[i64]| show(&all[index.saturating_sub(1).min(all.len())..(index + 3).min(all.len())]);
        panic!("{wanted:?} in {change:?} by {policies:?}: {:?}, not {:?}", tail(&ticks), tail(&expected));
    }
    assert!(ticks.is_sorted_by(|a, b| a < b), "{wanted:?} does not rise");
    let newest: Vec<i64> = calendar.newest(bounds.0, bounds.1, 7).iter().map(|t| t.at.as_millis()).collect();
    assert_eq!(newest, ticks[ticks.len().saturating_sub(7)..]);
    look_back(&calendar, &ticks, from);
}

/// `at_or_before` and `previous_before` undo `next_after`, at ticks and between them.
fn look_back(calendar: &Calendar, ticks: &[i64], from: i64) {
    for (index, at) in ticks.iter().enumerate() {
        let time = Timestamp::from_millis(*at);
        assert_eq!(calendar.at_or_before(time).unwrap().at, time);
        assert_eq!(calendar.at_or_before(Timestamp::from_millis(at + 999)).unwrap().at, time);
        let before = calendar.previous_before(time).filter(|tick| tick.at.as_millis() >= from);
        let expected = index.checked_sub(1).map(|index| Timestamp::from_millis(ticks[index]));
        assert_eq!(before.map(|tick| tick.at), expected, "before {time:?}");
        assert_eq!(
            calendar.next_after(Timestamp::from_millis(at - 1)).unwrap(),
            calendar.at_or_before(time).unwrap()
        );
    }
}

fn values(min: i8, max: i8) -> BoxedStrategy<(String, BTreeSet<i8>)> {
    let list = prop::collection::btree_set(min..=max, 1..4).prop_map(|set| {
        let text: Vec<String> = set.iter().map(i8::to_string).collect();
        (text.join(","), set)
    });
    let range = (min..=max, min..=max, 1..=5_i8).prop_map(|(one, other, step)| {
        let (low, high) = (one.min(other), one.max(other));
        (format!("{low}-{high}/{step}"), (low..=high).step_by(step as usize).collect())
    });
    let steps =
        (1..=max).prop_map(move |step| (format!("*/{step}"), (min..=max).step_by(step as usize).collect()));
    prop_oneof![list, range, steps].boxed()
}

fn field(min: i8, max: i8) -> BoxedStrategy<(String, BTreeSet<i8>)> {
    prop_oneof![2 => values(min, max), 1 => Just(("*".to_owned(), (min..=max).collect()))].boxed()
}

/// `*` as none: for the fields where it does not restrict.
fn open_field(min: i8, max: i8) -> BoxedStrategy<(String, Option<BTreeSet<i8>>)> {
    let given = values(min, max).prop_map(|(text, set)| (text, Some(set)));
    prop_oneof![1 => given, 2 => Just(("*".to_owned(), None))].boxed()
}

fn wanted(with_seconds: bool) -> impl Strategy<Value = Wanted> {
    let fields =
        (field(0, 59), field(0, 59), field(0, 23), open_field(1, 31), open_field(1, 12), open_field(0, 6));
    fields.prop_map(move |(second, minute, hour, day, month, weekday)| {
        let five = format!("{} {} {} {} {}", minute.0, hour.0, day.0, month.0, weekday.0);
        let (text, second) =
            if with_seconds { (format!("{} {five}", second.0), second.1) } else { (five, [0].into()) };
        Wanted {
            text,
            second,
            minute: minute.1,
            hour: hour.1,
            day: day.1,
            month: month.1,
            weekday: weekday.1,
        }
    })
}

fn policies() -> impl Strategy<Value = (Gap, Option<Fold>)> {
    let fold = [None, Some(Fold::First), Some(Fold::Second), Some(Fold::Both)];
    (prop::sample::select(vec![Gap::Shift, Gap::Skip]), prop::sample::select(fold.to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_are_those_of_a_scan_by_minutes(
        wanted in prop::collection::vec(wanted(false), 1..3),
        change in prop::sample::select(CHANGES.to_vec()),
        policies in policies(),
    ) {
        check(&wanted, change, policies, BY_MINUTES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_are_those_of_a_scan_by_seconds(
        wanted in wanted(true),
        change in prop::sample::select(CHANGES.to_vec()),
        policies in policies(),
    ) {
        check(&[wanted], change, policies, BY_SECONDS);
    }
}

/// The mapping by pieces rests on this: each piece between two changes is longer than the jumps at its ends.
#[test]
fn changes_of_every_zone_lie_further_apart_than_they_jump() {
    let tables = TimeZoneDatabase::bundled();
    let mut pieces = 0;
    for name in tables.available() {
        let tz = tables.get(name.as_str()).unwrap();
        let start: Instant = "1969-12-30T00:00:00Z".parse().unwrap();
        let mut before = (start, tz.to_offset(start));
        for change in tz.following(start).take_while(|change| change.timestamp().as_second() < 4_134_000_000)
        {
            let jump = i64::from((change.offset().seconds() - before.1.seconds()).abs());
            let next = tz.following(change.timestamp()).next();
            let length = change.timestamp().as_second() - before.0.as_second();
            let ahead =
                next.map_or(i64::MAX, |next| next.timestamp().as_second() - change.timestamp().as_second());
            assert!(jump < ahead && (jump < length || before.0 == start), "{name} at {}", change.timestamp());
            before = (change.timestamp(), change.offset());
            pieces += 1;
        }
    }
    assert!(pieces > 10_000, "the tables are there: {pieces}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_stops_a_parser(
        text in prop_oneof![".{0,30}", "[0-9*/,@#?LWHRa-z -]{0,20}", "([0-9*/,-]{1,5} ){4,5}[0-9*/,-]{1,5}", "2026-[0-9TZWé:. +-]{0,25}"],
    ) {
        if let Err(error) = Cron::parse(&text) {
            prop_assert!(text.is_char_boundary(error.position), "{error:?}");
            prop_assert!(error.length > 0 && !error.message.is_empty() && !error.hint.is_empty(), "{error:?}");
        }
        let zone = Zone::parse("America/New_York").unwrap();
        if let Ok(time) = UserTime::parse(&text, &zone) {
            prop_assert!(time.first() <= time.last());
        }
        if let Ok(span) = parse_duration(&text) {
            prop_assert_eq!(parse_signed_duration(&text), Ok(span.0 as i64));
        }
        if let Ok(size) = parse_size(&text) {
            prop_assert!(size % 1024 == 0);
        }
    }

    /// Days follow each other without gap or overlap, and hold every instant that shows their date. (Not in St John's,
    /// whose clocks went back from 00:01 to 23:01: there a date was shown, left, and shown again.)
    #[test]
    fn days_partition_the_time_line(millis in 0_i64..4_000_000_000_000, index in 0..CHANGES.len()) {
        prop_assume!(CHANGES[index].0 != "America/St_Johns");
        let zone = Zone::parse(CHANGES[index].0).unwrap();
        let time = Timestamp::from_millis(millis);
        let start = moment::start_of(moment::Unit::Day, time, &zone).unwrap();
        let (first, end) = day_bounds(&zone, moment::date(time, &zone).parse().unwrap()).unwrap();
        prop_assert_eq!(start, first);
        prop_assert!(first <= time && time < end);
        prop_assert_eq!(moment::date(first, &zone), moment::date(time, &zone));
        prop_assert_eq!(moment::start_of(moment::Unit::Day, end, &zone).unwrap(), end);
        let hour = moment::start_of(moment::Unit::Hour, time, &zone).unwrap();
        prop_assert!(hour <= time && time.since(hour) < Millis::from_hours(2));
    }
}

#[test]
fn the_ends_of_time_are_answers_too() {
    for zone in ["UTC", "America/New_York", "Pacific/Apia"] {
        let crons = vec![Cron::parse("30 2 * * *").unwrap(), Cron::parse("0 0 30 2 *").unwrap()];
        let calendar = Calendar::new(crons, Zone::parse(zone).unwrap(), Gap::Shift, None);
        let least = Timestamp::from_millis(i64::MIN);
        let first = calendar.next_after(least).unwrap();
        assert_eq!(calendar.previous_before(first.at), None);
        assert_eq!(calendar.at_or_before(least), None);
        let last = calendar.at_or_before(Timestamp::MAX).unwrap();
        assert_eq!(calendar.next_after(last.at), None);
        assert_eq!(calendar.next_after(Timestamp::MAX), None);
    }
}

#[test]
fn a_calendar_of_no_texts_has_no_ticks() {
    let calendar = Calendar::new(Vec::new(), Zone::utc(), Gap::Shift, None);
    assert_eq!(calendar.next_after(Timestamp::ZERO), None);
    assert_eq!(calendar.at_or_before(Timestamp::MAX), None);
}
