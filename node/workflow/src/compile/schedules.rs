//! `schedules` of a workflow.

use matins_core::id::ScheduleName;
use matins_core::ir::{Catchup, CatchupPolicy, Fold, Gap, Param, Schedule};
use matins_core::time::Millis;

use super::keys::{CATCHUP, SCHEDULE};
use super::params;
use super::read::{self, Fields};
use crate::calendar::{Cron, Zone};
use crate::diagnostic::{Reporter, Span};
use crate::yaml::{Entry, Node, Value, span_within};

const DAY: Millis = Millis::from_hours(24);
/// LANGUAGE 1.18.
const CATCHUP_LIMIT_MAX: i64 = 500;
const CATCHUP_DEFAULT: Catchup =
    Catchup { policy: CatchupPolicy::Latest, window: Millis(7 * DAY.0), limit: 100 };
/// Ten years: an outage that nobody wants to catch up with.
const CATCHUP_WINDOW_MAX: Millis = Millis(3_660 * DAY.0);

const POLICIES: &[(&str, CatchupPolicy)] =
    &[("none", CatchupPolicy::None), ("latest", CatchupPolicy::Latest), ("all", CatchupPolicy::All)];

/// The zone under `key`; `fallback` where there is none.
pub(crate) fn timezone(reporter: &mut Reporter<'_>, fields: &Fields<'_>, fallback: &Zone) -> Zone {
    let Some(node) = fields.get("timezone") else { return fallback.clone() };
    let Some(name) = read::text(reporter, node, "`timezone`") else { return fallback.clone() };
    match Zone::parse(&name) {
        Ok(zone) => zone,
        Err(fault) => {
            reporter.error(node.span, "timezone", fault.to_string()).hint(fault.hint());
            fallback.clone()
        }
    }
}

pub(crate) fn schedules(
    reporter: &mut Reporter<'_>,
    node: &Node,
    zone: &Zone,
    declared: &[Param],
) -> Vec<(Schedule, Span)> {
    let entries = read::map(reporter, node, "`schedules`").unwrap_or_default();
    let read = |entry: &Entry| Some((schedule(reporter, entry, zone, declared)?, entry.key_span));
    entries.iter().filter_map(read).collect()
}

fn schedule(reporter: &mut Reporter<'_>, entry: &Entry, zone: &Zone, declared: &[Param]) -> Option<Schedule> {
    let what = format!("schedule `{}`", entry.key);
    let name = read::name_of::<ScheduleName>(reporter, &entry.key, entry.key_span, &what);
    let fields = read::fields(reporter, &entry.value, &SCHEDULE, &what)?;
    let zone = timezone(reporter, &fields, zone);
    if !fields.has("cron") && !fields.later.iter().any(|key| matches!(*key, "every" | "at")) {
        reporter
            .error(entry.key_span, "missing-key", format!("{what} does not say when"))
            .hint("write `cron: \"30 2 * * *\"`");
    }
    let cron = fields.get("cron").map(|node| crons(reporter, node)).unwrap_or_default();
    let gap = fields.get("gap").and_then(|node| {
        read::choice(reporter, node, "`gap`", &[("shift", Gap::Shift), ("skip", Gap::Skip)])
    });
    let fold = fields.get("fold").and_then(|node| {
        let words = [("first", Fold::First), ("second", Fold::Second), ("both", Fold::Both)];
        read::choice(reporter, node, "`fold`", &words)
    });
    let catchup = fields.get("catchup").map_or(CATCHUP_DEFAULT, |node| catchup(reporter, node));
    let given = fields.get("params").map(|node| params::of_schedule(reporter, node, declared, &zone));
    let given = given.unwrap_or_default();
    for param in declared.iter().filter(|param| param.default.is_none() && !given.contains_key(&param.name)) {
        let message = format!("{what} gives no value for the param `{}`, which has no default", param.name);
        reporter.error(entry.key_span, "missing-param", message).hint(format!(
            "add `params: {{ {}: .. }}` to the schedule, or a default to the param",
            param.name
        ));
    }
    let enabled = fields.get("enabled").and_then(|node| read::boolean(reporter, node, "`enabled`"));
    let description = fields.get("description").and_then(|node| read::text(reporter, node, "`description`"));
    Some(Schedule {
        name: name?,
        description: description.unwrap_or_default(),
        cron,
        timezone: zone.name().to_owned(),
        gap: gap.unwrap_or_default(),
        fold,
        catchup,
        params: given,
        is_enabled: enabled.unwrap_or(true),
    })
}

fn crons(reporter: &mut Reporter<'_>, node: &Node) -> Vec<String> {
    let nodes = read::one_or_more(node);
    if nodes.is_empty() {
        reporter.error(node.span, "empty-value", "`cron` has no text").hint("write `cron: \"30 2 * * *\"`");
    }
    let mut texts = Vec::new();
    for node in nodes {
        let Some(text) = read::text(reporter, node, "`cron`") else { continue };
        match Cron::parse(&text) {
            Ok(cron) if cron.never_fires() => {
                reporter.error(node.span, "cron", format!("`{text}` is never due: there is no such day"));
            }
            Ok(cron) => texts.push(cron.as_str().to_owned()),
            Err(fault) => {
                let at = Span::new(fault.position, fault.position + fault.length);
                let span = span_within(reporter.text, node, at);
                reporter.error(span, "cron", fault.to_string()).hint(fault.hint.clone());
            }
        }
    }
    texts
}

fn catchup(reporter: &mut Reporter<'_>, node: &Node) -> Catchup {
    let mut catchup = CATCHUP_DEFAULT;
    if let Value::Scalar(_) = &node.value {
        let policy = read::choice(reporter, node, "`catchup`", POLICIES);
        return Catchup { policy: policy.unwrap_or_default(), ..catchup };
    }
    let Some(fields) = read::fields(reporter, node, &CATCHUP, "`catchup`") else { return catchup };
    if let Some(node) = fields.get("policy") {
        catchup.policy = read::choice(reporter, node, "`policy`", POLICIES).unwrap_or_default();
    }
    if let Some(node) = fields.get("window") {
        let bounds = (Millis(1), CATCHUP_WINDOW_MAX);
        catchup.window = read::duration(reporter, node, "`window`", bounds).unwrap_or(catchup.window);
    }
    if let Some(node) = fields.get("limit") {
        let limit = read::integer(reporter, node, "`limit` of `catchup`", (1, CATCHUP_LIMIT_MAX));
        catchup.limit = limit.map_or(catchup.limit, |limit| limit as u32);
    }
    catchup
}
