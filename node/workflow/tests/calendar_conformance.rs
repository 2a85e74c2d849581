//! Fire times that other engines assert (`data/cron_cases.tsv`), under the policy of ours that stands for each.
//!
//! A row about fire times must come out right; a row about something else stands, with the reason, in
//! `data/cron_cases_skipped.txt` (`UPDATE_GOLDENFILES=1` writes it anew).
//!
//! | engine | gap | fold | why |
//! |---|---|---|---|
//! | airflow | shift | second; both if the hour is a wildcard | it makes local times aware with `fold=1`; a wildcard hour follows elapsed time |
//! | prefect | shift | first | its tests skip the repeated hour, also by a wildcard |
//! | digdag | shift | default | no row of it lies in a fold |

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fmt::Write;

use matins_core::time::{Millis, Timestamp};
use matins_workflow::calendar::{Calendar, Cron, Fold, Gap, UserTime, Zone};

const TABLE: &str = include_str!("data/cron_cases.tsv");
const SKIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cron_cases_skipped.txt");

struct Case {
    line: usize,
    source: &'static str,
    cron: &'static str,
    timezone: &'static str,
    start: &'static str,
    expected: &'static str,
    note: &'static str,
}

/// What a row asks about fire times.
enum Question {
    /// The first ticks at or after start; `delay` is how long after its tick a run of Digdag begins.
    From {
        delay: Millis,
    },
    After,
    Before,
    AtOrBefore,
    LastTwo,
    Validate,
}

#[test]
fn fire_times_of_other_engines_come_out_right() {
    let mut failures = String::new();
    let mut skipped =
        String::from("# Rows of cron_cases.tsv that are not about the fire times of a cron text, and why.\n");
    let mut passed = 0;
    for case in cases() {
        let question = match case.question() {
            Ok(question) => question,
            Err(reason) => {
                let test = case.source.rsplit("::").next().unwrap();
                writeln!(skipped, "{}: {test}: {} at {}: {reason}", case.line, case.cron, case.start)
                    .unwrap();
                continue;
            }
        };
        match case.answer(&question) {
            answer if answer == case.expected => passed += 1,
            answer => {
                writeln!(failures, "{}: {}: {answer}, not {}", case.line, case.cron, case.expected).unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(SKIPPED, &skipped).unwrap();
    }
    assert_eq!(skipped, std::fs::read_to_string(SKIPPED).unwrap());
    assert_eq!(passed + skipped.lines().count() - 1, cases().len());
}

fn cases() -> Vec<Case> {
    let case = |(index, row): (usize, &'static str)| match row.split('\t').collect::<Vec<_>>()[..] {
        [source, cron, timezone, start, expected, note] => {
            Case { line: index + 1, source, cron, timezone, start, expected, note }
        }
        _ => panic!("line {}: six columns wanted", index + 1),
    };
    TABLE.lines().enumerate().skip(1).map(case).collect()
}

impl Case {
    fn question(&self) -> Result<Question, &'static str> {
        if self.cron.starts_with("interval:") {
            return Err("an interval, not cron (`every`, a later release)");
        }
        if self.cron.starts_with("rrule:") {
            return Err("a recurrence rule, not cron");
        }
        let op = self.note.split([';', ' ']).next().unwrap().strip_prefix("op=").unwrap();
        match op {
            "ge" => Ok(Question::From { delay: Millis::ZERO }),
            "first" => Ok(Question::From { delay: self.delay() }),
            "gt" => Ok(Question::After),
            "lt" => Ok(Question::Before),
            "le" => Ok(Question::AtOrBefore),
            "last2_le" => Ok(Question::LastTwo),
            "validate" => Ok(Question::Validate),
            "cdi_nocatchup" | "cdi_after_change" => {
                Err("which run Airflow creates next, not when cron fires")
            }
            "first_run_no_start_date" => Err("Airflow's grace for the first run of a new DAG"),
            "multi_nocatchup" => Err("Airflow's choice among missed ticks (our `catchup`)"),
            _ => panic!("line {}: unknown op `{op}`", self.line),
        }
    }

    fn answer(&self, question: &Question) -> String {
        let start = || match UserTime::parse(self.start, &Zone::utc()).unwrap() {
            UserTime::Instant(at) => at,
            UserTime::Day { .. } => panic!("line {}: an instant wanted", self.line),
        };
        let wanted = self.expected.split(' ').count();
        let ticks = match question {
            Question::Validate => return self.validate(),
            Question::From { delay } => {
                // Digdag looks at whole seconds.
                let whole = Timestamp::from_millis(start().as_millis() / 1000 * 1000);
                self.upcoming(whole - *delay - Millis(1), wanted)
            }
            Question::After => self.upcoming(start(), wanted),
            Question::Before => vec![self.calendar().previous_before(start()).unwrap().at],
            Question::AtOrBefore => vec![self.calendar().at_or_before(start()).unwrap().at],
            Question::LastTwo => {
                let last = self.calendar().at_or_before(start()).unwrap().at;
                vec![self.calendar().previous_before(last).unwrap().at, last]
            }
        };
        if ticks.is_empty() {
            return "NEVER".into();
        }
        let texts: Vec<String> = ticks.iter().map(|at| text(*at)).collect();
        texts.join(" ")
    }

    /// The ticks after an instant, inside of the window of days that Digdag's `start` and `end` give. (Ours come
    /// later; looking back, Digdag disregards them as well.)
    fn upcoming(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let day = |key: &str| {
            let mut words = self.note.split_whitespace().filter(|_| self.source.starts_with("digdag"));
            let value = words.find_map(|word| word.strip_prefix(key))?;
            Some(UserTime::parse(value.trim_end_matches(';'), &self.zone().unwrap()).unwrap())
        };
        let after = day("start=").map_or(after, |day| after.max(day.first() - Millis(1)));
        let until = day("end=").map_or(Timestamp::MAX, UserTime::last);
        self.calendar().ticks(after, until, count).map(|tick| tick.at).collect()
    }

    fn validate(&self) -> String {
        let fault = match (Cron::parse(self.cron), self.zone()) {
            (Ok(_), Ok(_)) => return "ACCEPT".into(),
            (Err(error), _) => error.to_string(),
            (_, Err(error)) => error.to_string(),
        };
        assert!(!fault.is_empty());
        // The words are those of the other engine; that it is an error is the fact.
        self.expected.strip_prefix("ERROR").map_or(fault, |words| format!("ERROR{words}"))
    }

    fn calendar(&self) -> Calendar {
        let crons: Vec<Cron> = self.cron.split(" | ").map(|text| Cron::parse(text).unwrap()).collect();
        let fold = match self.source.split([':', '(']).next().unwrap() {
            "airflow" if crons.iter().any(Cron::is_every_hour) => None,
            "airflow" => Some(Fold::Second),
            "prefect" => Some(Fold::First),
            "digdag" => None,
            engine => panic!("no policy is stated for {engine}"),
        };
        Calendar::new(crons, self.zone().unwrap(), Gap::Shift, fold)
    }

    fn zone(&self) -> Result<Zone, matins_workflow::calendar::ZoneError> {
        Zone::parse(self.timezone)
    }

    fn delay(&self) -> Millis {
        let seconds = self.note.split_whitespace().find_map(|word| word.strip_prefix("delay_s="));
        Millis::from_secs(seconds.map_or(0, |text| text.trim_end_matches(';').parse().unwrap()))
    }
}

fn text(at: Timestamp) -> String {
    matins_workflow::calendar::moment::datetime(at, &Zone::utc())
}
