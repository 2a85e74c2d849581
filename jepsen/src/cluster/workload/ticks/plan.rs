//! Which schedules there are: drawn from the seed, in several zones, with every policy.
//!
//! Start at [`plans`].

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::calendar::{Field, Fold, Rule};
use super::super::call::Call;
use super::super::{Site, Trouble};
use super::NAME;
use super::check::{Catchup, OnFull};

/// Zones, among them such with odd offsets.
const ZONES: [&str; 6] =
    ["UTC", "America/New_York", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns"];

/// Workflows of cheap schedules, and how many each has.
const CHEAP: (usize, usize) = (24, 9);

/// One schedule.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workflow: String,
    pub(crate) schedule: String,
    pub(crate) rule: Rule,
    pub(crate) catchup: Catchup,
    pub(crate) on_full: OnFull,
    /// It is one of those that are paused on the way.
    pub(crate) may_pause: bool,
}

impl Plan {
    /// `namespace/workflow/schedule`.
    pub(crate) fn key(&self) -> String {
        format!("{NAME}/{}/{}", self.workflow, self.schedule)
    }

    fn yaml(&self) -> String {
        let catchup = match self.catchup {
            Catchup::None => "none".to_owned(),
            Catchup::Latest { window } => format!("{{ policy: latest, window: {}s }}", window / 1_000),
            Catchup::All { window, limit } => {
                format!("{{ policy: all, window: {}s, limit: {limit} }}", window / 1_000)
            }
        };
        format!("  {}: {{ {}, catchup: {catchup} }}\n", self.schedule, self.rule.keys())
    }
}

/// Draws all schedules, and writes the workflows that they belong to.
pub(crate) fn plans(site: &Site, now: i64) -> Result<(Vec<Plan>, Vec<String>), Trouble> {
    let mut random = StdRng::seed_from_u64(site.seed);
    let (mut plans, mut texts) = (Vec::new(), Vec::new());
    for workflow in 0..CHEAP.0 {
        let workflow = format!("cheap-{workflow}");
        let mut text =
            format!("workflow: {workflow}\nconcurrency: {{ max_active_runs: 100000 }}\nschedules:\n");
        for schedule in 0..CHEAP.1 {
            let plan = Plan {
                workflow: workflow.clone(),
                schedule: format!("s{schedule}"),
                rule: rule(&mut random, now)?,
                catchup: catchup(plans.len()),
                on_full: OnFull::Unlimited,
                may_pause: schedule == 0,
            };
            text += &plan.yaml();
            plans.push(plan);
        }
        text += "tasks:\n  never: { when: 'false', run: [\"true\"] }\n";
        texts.push(text);
    }
    let busy = [
        ("queue", OnFull::Queue(2), 2, 900),
        ("skip", OnFull::Skip(1), 1, 1_700),
        ("replace", OnFull::CancelRunning(1), 3, 3_400),
    ];
    for (kind, on_full, every, hold) in busy {
        for number in 0..2 {
            let (places, word) = match on_full {
                OnFull::Unlimited => (0, ""),
                OnFull::Queue(places) => (places, "queue"),
                OnFull::Skip(places) => (places, "skip"),
                OnFull::CancelRunning(places) => (places, "cancel_running"),
            };
            let plan = Plan {
                workflow: format!("{kind}-{number}"),
                schedule: "often".into(),
                rule: Rule {
                    seconds: Some(Field::Step { from: number, to: 59, step: every }),
                    ..Rule::minutely()
                },
                catchup: catchup(plans.len()),
                on_full,
                may_pause: false,
            };
            let mut text = format!("workflow: {}\nschedules:\n{}", plan.workflow, plan.yaml());
            let run = Call::hold(hold).run(site, NAME)?;
            let _ = write!(
                text,
                "concurrency: {{ max_active_runs: {places}, on_full: {word} }}\ntasks:\n  work: {{ run: {run} }}\n"
            );
            plans.push(plan);
            texts.push(text);
        }
    }
    Ok((plans, texts))
}

/// Each policy in turn.
fn catchup(number: usize) -> Catchup {
    match number % 4 {
        0 => Catchup::None,
        1 => Catchup::Latest { window: 7 * 86_400_000 },
        2 => Catchup::All { window: 86_400_000, limit: 100 },
        _ => Catchup::All { window: 780_000, limit: 500 },
    }
}

/// A rule that is due about four times a minute, read in a zone in which the wall clock shows another hour.
fn rule(random: &mut StdRng, now: i64) -> Result<Rule, Trouble> {
    let second = random.random_range(0..60);
    let seconds = match random.random_range(0..10) {
        0..6 => Field::List(vec![second]),
        6..9 => Field::Step { from: second % 12, to: 59, step: 12 },
        _ => Field::Step { from: second % 3, to: 59, step: 3 },
    };
    let zone = ZONES[random.random_range(0..ZONES.len())];
    let trouble = |error: jiff::Error| Trouble(error.to_string());
    let clock = TimeZone::get(zone).map_err(trouble)?;
    let local = clock.to_datetime(Timestamp::from_millisecond(now).map_err(trouble)?);
    // The hour that the wall shows there and the two around it, or just those that it does not show.
    let hours: Vec<i8> = (-1..2).map(|by| (local.hour() + by).rem_euclid(24)).collect();
    let hours = match random.random_range(0..6) {
        0..3 => Field::Any,
        3 | 4 => Field::List(hours),
        _ => Field::List((0..24).filter(|hour| !hours.contains(hour)).collect()),
    };
    let fold = [Fold::First, Fold::Second, Fold::Both][random.random_range(0..3)];
    Ok(Rule { seconds: Some(seconds), hours, zone, fold, ..Rule::minutely() })
}
