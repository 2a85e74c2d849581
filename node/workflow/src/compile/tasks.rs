//! One task: its keys, its kind, and the defaults of the workflow merged into it (LANGUAGE 1.21).

use std::collections::BTreeMap;

use matins_core::id::{PoolName, TaskName};
use matins_core::ir::{Action, ParamKind, PoolUse, Retry, Shell, Task, TriggerRule};
use matins_core::time::Millis;

use super::keys::{DEFAULTS, EXECUTOR, KINDS_LATER, RETRY, TASK, TRIGGER_RULES_LATER};
use super::read::{self, Fields};
use super::texts::{self, For};
use super::{Graph, Positions};
use crate::diagnostic::{Place, Reporter, Span};
use crate::template::names::{ItemUse, Names, TaskNames};
use crate::yaml::{Entry, Node, Value};

const DAY: Millis = Millis::from_hours(24);
const WEEK: Millis = Millis(7 * DAY.0);
/// PROTOCOL 5.9: the session's end moves by this much.
const ON_DISCONNECT_MAX: Millis = DAY;
/// LANGUAGE 1.17.
const TIMEOUT_DEFAULT: Millis = DAY;
const TIMEOUT_MAX: Millis = Millis(366 * DAY.0);
const RETRIES_MAX: i64 = 1_000;
const LABELS_MAX: usize = 64;
const ENV_MAX: usize = 1_000;

const TRIGGER_RULES: &[(&str, TriggerRule)] = &[
    ("all_success", TriggerRule::AllSuccess),
    ("all_done", TriggerRule::AllDone),
    ("none_failed", TriggerRule::NoneFailed),
    ("one_failed", TriggerRule::OneFailed),
    ("one_success", TriggerRule::OneSuccess),
];
const SHELLS: &[(&str, Shell)] = &[("sh", Shell::Sh), ("bash", Shell::Bash)];

/// What the tasks of one workflow share.
pub(crate) struct Shared<'n> {
    pub(crate) graph: &'n Graph,
    pub(crate) params: &'n BTreeMap<String, ParamKind>,
    pub(crate) defaults: Fields<'n>,
    /// Of the workflow.
    pub(crate) priority: i32,
}

/// The map `defaults`. Its values are checked here, also those that no task takes; what a task says of them again is
/// the same fault at the same place, which is said once.
pub(crate) fn defaults<'n>(reporter: &mut Reporter<'_>, node: &'n Node) -> Fields<'n> {
    let fields = read::fields(reporter, node, &DEFAULTS, "`defaults`").unwrap_or_else(Fields::none);
    retry(reporter, fields.get("retry"), Retry::default());
    if let Some(node) = fields.get("timeout") {
        timeout(reporter, node);
    }
    env_nodes(reporter, &fields, &Fields::none());
    if let Some(node) = fields.get("executor") {
        executor_labels(reporter, node);
    }
    if let Some(node) = fields.get("pool") {
        pools(reporter, node, &mut Vec::new());
    }
    if let Some(node) = fields.get("priority") {
        priority(reporter, node);
    }
    if let Some(node) = fields.get("on_disconnect") {
        on_disconnect(reporter, node);
    }
    if let Some(node) = fields.get("shell") {
        read::choice(reporter, node, "`shell`", SHELLS);
    }
    if let Some(node) = fields.get("interpreter") {
        words(reporter, node, "`interpreter`");
    }
    fields
}

fn timeout(reporter: &mut Reporter<'_>, node: &Node) -> Option<Millis> {
    read::duration(reporter, node, "`timeout`", (Millis(1), TIMEOUT_MAX))
}

/// One task. `entry` is that of the map `tasks`.
pub(crate) fn task(
    reporter: &mut Reporter<'_>,
    index: usize,
    entry: &Entry,
    shared: &Shared<'_>,
    positions: &mut Positions,
) -> Option<Task> {
    let what = format!("task `{}`", entry.key);
    // A name that is none has been reported; the other faults are worth as much.
    let name = entry.key.parse::<TaskName>().ok();
    let fields = read::fields(reporter, &entry.value, &TASK, &what)?;
    let defaults = &shared.defaults;
    let either = |key: &str| fields.get(key).or_else(|| defaults.get(key));
    let item = item_use(&fields);
    let env_nodes = env_nodes(reporter, &fields, defaults);
    let names = Names {
        place: "this place",
        params: Some(shared.params),
        tasks: Some(TaskNames { graph: shared.graph, index }),
        item,
        env: Some(env_nodes.iter().map(|(entry, _)| entry.key.as_str()).collect()),
    };
    let (when, for_each) = before_items(reporter, &fields, &names);
    let env = env(reporter, &env_nodes, &names);
    if let Some(node) = fields.get("with") {
        texts::json(reporter, node, &names);
    }
    let parallel_max = fields.get("max_parallel").and_then(|node| {
        if item == ItemUse::None {
            reporter.error(node.span, "useless-key", "`max_parallel` goes with `for_each`");
        }
        read::integer(reporter, node, "`max_parallel`", (1, 10_000))
    });
    let flag = |reporter: &mut Reporter<'_>, key: &str| {
        let flag = fields.get(key).and_then(|node| read::boolean(reporter, node, &format!("`{key}`")));
        flag.unwrap_or(false)
    };
    let retry = retry(reporter, defaults.get("retry"), Retry::default());
    let retry = self::retry(reporter, fields.get("retry"), retry);
    let timeout = either("timeout").and_then(|node| timeout(reporter, node));
    let priority = either("priority").and_then(|node| priority(reporter, node));
    let description = fields.get("description").and_then(|node| read::text(reporter, node, "`description`"));
    let task = Task {
        name: name?,
        description: description.unwrap_or_default(),
        needs: shared.graph.needs[index].iter().map(|need| need.task as u16).collect(),
        trigger_rule: fields
            .get("trigger_rule")
            .and_then(|node| trigger_rule(reporter, node))
            .unwrap_or_default(),
        when,
        for_each,
        parallel_max: parallel_max.map(|most| most as u32),
        retry,
        timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
        depends_on_past: flag(reporter, "depends_on_past"),
        pools: either("pool").map(|node| pools(reporter, node, &mut positions.pools)).unwrap_or_default(),
        priority: priority.unwrap_or(shared.priority),
        executor_labels: either("executor").map(|node| executor_labels(reporter, node)).unwrap_or_default(),
        on_disconnect: either("on_disconnect").map_or(Millis::ZERO, |node| on_disconnect(reporter, node)),
        with: fields.get("with").map(|node| read::json(reporter, node).to_string()),
        allow_failure: flag(reporter, "allow_failure"),
        action: action(reporter, entry, (&fields, defaults), &names)?,
        env,
    };
    positions.tasks.insert(task.name.clone(), reporter.place(entry.key_span));
    Some(task)
}

fn item_use(fields: &Fields<'_>) -> ItemUse {
    match fields.get("for_each") {
        None => ItemUse::None,
        Some(node) if holds_template(node) => ItemUse::FromOutside,
        Some(_) => ItemUse::FromFile,
    }
}

fn holds_template(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.contains("{{"),
        Value::List(items) => items.iter().any(holds_template),
        Value::Map(entries) => entries.iter().any(|entry| holds_template(&entry.value)),
    }
}

/// `when` and `for_each`, which are decided once, before there are items or an environment (LANGUAGE 1.10).
fn before_items(
    reporter: &mut Reporter<'_>,
    fields: &Fields<'_>,
    names: &Names<'_>,
) -> (Option<String>, Option<String>) {
    let before = |place| Names { place, item: before_item(names.item), env: None, ..names.clone() };
    let when = fields.get("when").and_then(|node| texts::condition(reporter, node, &before("`when`")));
    let for_each = fields.get("for_each").and_then(|node| {
        match &node.value {
            Value::Scalar(scalar) if !scalar.text.contains("{{") => {
                read::wrong_type(reporter, node, "`for_each`", "a list, or one `{{ }}` that gives a list");
                reporter.hint_last("write `for_each: [a, b]` or `for_each: \"{{ tasks.x.outputs.names }}\"`");
                return None;
            }
            Value::Map(_) => {
                read::wrong_type(reporter, node, "`for_each`", "a list, or one `{{ }}` that gives a list");
                return None;
            }
            Value::List(items) if items.len() > crate::template::FAN_OUT_MAX => {
                let most = crate::template::FAN_OUT_MAX;
                let message = format!("a fan-out has {most} items at most, not {}", items.len());
                reporter.error(node.span, "limit-fan-out", message).hint("give each item more to do");
            }
            Value::Scalar(_) | Value::List(_) => {}
        }
        texts::json(reporter, node, &before("`for_each`"));
        Some(read::json(reporter, node).to_string())
    });
    (when, for_each)
}

fn before_item(item: ItemUse) -> ItemUse {
    match item {
        ItemUse::None => ItemUse::None,
        ItemUse::BeforeItems | ItemUse::FromFile | ItemUse::FromOutside => ItemUse::BeforeItems,
    }
}

/// The environment of the workflow's defaults, then the task's own; a name that stands in both stands where the task
/// puts it.
fn env_nodes<'n>(
    reporter: &mut Reporter<'_>,
    fields: &Fields<'n>,
    defaults: &Fields<'n>,
) -> Vec<(&'n Entry, String)> {
    let mut env: Vec<(&Entry, String)> = Vec::new();
    for node in [defaults.get("env"), fields.get("env")].into_iter().flatten() {
        if matches!(&node.value, Value::Map(entries) if entries.len() > ENV_MAX) {
            let message = format!("a task has {ENV_MAX} environment variables at most");
            reporter.error(node.span, "limit-env", message).hint("`with` takes any JSON, of any size");
            continue;
        }
        for (entry, value) in read::texts(reporter, node, "`env`") {
            let key = entry.key.as_str();
            let begins_well = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
            if !begins_well || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                let message = format!("`{key}` cannot be the name of an environment variable");
                reporter.error(entry.key_span, "env-name", message).hint("letters, digits and `_`");
            } else if key.starts_with("MATINS_") {
                let message = format!("`{key}`: names that begin with `MATINS_` are set by the engine");
                reporter.error(entry.key_span, "env-name", message);
            }
            env.retain(|(known, _)| known.key != entry.key);
            env.push((entry, value));
        }
    }
    env
}

fn env(reporter: &mut Reporter<'_>, nodes: &[(&Entry, String)], names: &Names<'_>) -> Vec<(String, String)> {
    let mut env = Vec::with_capacity(nodes.len());
    let mut before = Vec::new();
    for (entry, value) in nodes {
        let names = Names { env: Some(before.clone()), ..names.clone() };
        texts::template(reporter, &entry.value, &names, For::Text);
        before.push(entry.key.as_str());
        env.push((entry.key.clone(), value.clone()));
    }
    env
}

fn action(
    reporter: &mut Reporter<'_>,
    entry: &Entry,
    (fields, defaults): (&Fields<'_>, &Fields<'_>),
    names: &Names<'_>,
) -> Option<Action> {
    let interpreter_span = fields.key_span("interpreter");
    match (fields.get("run"), fields.get("script")) {
        (Some(_), Some(script)) => {
            let span = fields.key_span("script").unwrap_or(script.span);
            reporter
                .error(span, "two-kinds", format!("task `{}` has both `run` and `script`", entry.key))
                .hint("a task does one thing: make it two tasks");
            None
        }
        (Some(node), None) => {
            if let Some(span) = interpreter_span {
                reporter.error(span, "useless-key", "`interpreter` goes with `script`");
            }
            run(reporter, node, (fields, defaults), names)
        }
        (None, Some(node)) => {
            if let Some(span) = fields.key_span("shell") {
                reporter
                    .error(span, "useless-key", "`shell` goes with a text in `run`")
                    .hint("a script has `interpreter: [bash, -e]`, or a first line `#!/bin/bash -e`");
            }
            let text = read::text(reporter, node, "`script`")?;
            let interpreter = fields.get("interpreter").or_else(|| defaults.get("interpreter"));
            let interpreter = interpreter.map(|node| words(reporter, node, "`interpreter`"));
            Some(Action::Script { interpreter: interpreter.unwrap_or_default(), text })
        }
        (None, None) => {
            if !fields.later.iter().any(|key| KINDS_LATER.contains(key)) {
                reporter
                    .error(entry.key_span, "no-kind", format!("task `{}` does nothing", entry.key))
                    .hint("give it `run: [program, argument]`, `run: text for a shell` or `script`");
            }
            None
        }
    }
}

fn run(
    reporter: &mut Reporter<'_>,
    node: &Node,
    (fields, defaults): (&Fields<'_>, &Fields<'_>),
    names: &Names<'_>,
) -> Option<Action> {
    if let Value::List(items) = &node.value {
        if let Some(span) = fields.key_span("shell") {
            reporter
                .error(span, "useless-key", "`shell` goes with a text in `run`")
                .hint("a list in `run` needs no shell");
        }
        if items.is_empty() {
            reporter.error(node.span, "empty-value", "`run` has no program");
        }
        for item in items {
            texts::template(reporter, item, names, For::Text);
        }
        return Some(Action::Argv(words(reporter, node, "`run`")));
    }
    let text = read::text(reporter, node, "`run`")?;
    if text.trim().is_empty() {
        reporter.error(node.span, "empty-value", "`run` has no text");
    }
    texts::template(reporter, node, names, For::Shell);
    let shell = fields.get("shell").or_else(|| defaults.get("shell"));
    let shell = shell.and_then(|node| read::choice(reporter, node, "`shell`", SHELLS));
    Some(Action::Shell { shell: shell.unwrap_or_default(), text })
}

fn words(reporter: &mut Reporter<'_>, node: &Node, what: &str) -> Vec<String> {
    let words = read::one_or_more(node).into_iter();
    words.filter_map(|node| read::text(reporter, node, &format!("each part of {what}"))).collect()
}

fn trigger_rule(reporter: &mut Reporter<'_>, node: &Node) -> Option<TriggerRule> {
    let text = read::text(reporter, node, "`trigger_rule`")?;
    if TRIGGER_RULES_LATER.contains(&text.as_str()) {
        let message = format!("the trigger rule `{text}` is part of the language but not of this release");
        reporter.error(node.span, "later", message);
        return None;
    }
    read::choice(reporter, node, "`trigger_rule`", TRIGGER_RULES)
}

/// `retry: 3` or a map, over `base`, key by key.
fn retry(reporter: &mut Reporter<'_>, node: Option<&Node>, base: Retry) -> Retry {
    let mut retry = base;
    let Some(node) = node else { return retry };
    if let Value::Scalar(_) = &node.value {
        let limit = read::integer(reporter, node, "`retry`", (0, RETRIES_MAX));
        retry.limit = limit.map_or(retry.limit, |limit| limit as u32);
        return retry;
    }
    let Some(fields) = read::fields(reporter, node, &RETRY, "`retry`") else { return retry };
    if let Some(node) = fields.get("limit") {
        let limit = read::integer(reporter, node, "`limit` of `retry`", (0, RETRIES_MAX));
        retry.limit = limit.map_or(retry.limit, |limit| limit as u32);
    }
    if let Some(node) = fields.get("delay") {
        let delay = read::duration(reporter, node, "`delay`", (Millis::ZERO, WEEK));
        retry.delay = delay.unwrap_or(retry.delay);
    }
    if let Some(node) = fields.get("max_delay") {
        let delay = read::duration(reporter, node, "`max_delay`", (Millis::ZERO, WEEK));
        retry.delay_max = delay.unwrap_or(retry.delay_max);
    }
    if let Some(node) = fields.get("factor") {
        let factor = read::permille(reporter, node, "`factor`", (1_000, 100_000));
        retry.factor_permille = factor.unwrap_or(retry.factor_permille);
    }
    if let Some(node) = fields.get("jitter") {
        let jitter = read::permille(reporter, node, "`jitter`", (0, 1_000));
        retry.jitter_permille = jitter.unwrap_or(retry.jitter_permille);
    }
    if let Some(node) = fields.get("lost_limit") {
        let limit = read::integer(reporter, node, "`lost_limit`", (0, RETRIES_MAX));
        retry.lost_limit = limit.map_or(retry.lost_limit, |limit| limit as u32);
    }
    retry
}

pub(crate) fn priority(reporter: &mut Reporter<'_>, node: &Node) -> Option<i32> {
    read::integer(reporter, node, "`priority`", (-1_000_000, 1_000_000)).map(|priority| priority as i32)
}

/// `source-db`, or `{ source-db: 2 }`.
fn pools(reporter: &mut Reporter<'_>, node: &Node, places: &mut Vec<(PoolName, Place)>) -> Vec<PoolUse> {
    let mut pools = Vec::new();
    let mut add = |reporter: &mut Reporter<'_>, text: &str, span: Span, slots: u32| {
        let Some(pool) = read::name_of::<PoolName>(reporter, text, span, "`pool`") else { return };
        places.push((pool.clone(), reporter.place(span)));
        pools.push(PoolUse { pool, slots });
    };
    match &node.value {
        Value::Scalar(_) => {
            if let Some(name) = read::text(reporter, node, "`pool`") {
                add(reporter, &name, node.span, 1);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let what = format!("slots of pool `{}`", entry.key);
                let slots = read::integer(reporter, &entry.value, &what, (1, super::SLOTS_MAX));
                add(reporter, &entry.key, entry.key_span, slots.map_or(1, |slots| slots as u32));
            }
        }
        Value::List(_) => read::wrong_type(reporter, node, "`pool`", "a name, or `{ name: slots }`"),
    }
    pools.sort_by(|a, b| a.pool.cmp(&b.pool));
    pools
}

fn executor_labels(reporter: &mut Reporter<'_>, node: &Node) -> BTreeMap<String, String> {
    let fields = read::fields(reporter, node, &EXECUTOR, "`executor`");
    let labels = fields.as_ref().and_then(|fields| fields.get("labels"));
    labels.map(|node| self::labels(reporter, node)).unwrap_or_default()
}

/// A map of labels. They are compared, not rendered.
pub(crate) fn labels(reporter: &mut Reporter<'_>, node: &Node) -> BTreeMap<String, String> {
    let labels = read::texts(reporter, node, "`labels`");
    if labels.len() > LABELS_MAX {
        let message = format!("there are {LABELS_MAX} labels at most, not {}", labels.len());
        reporter.error(node.span, "limit-labels", message);
    }
    for (entry, value) in &labels {
        if value.contains("{{") {
            let message = "a template in a label is part of the language but not of this release";
            reporter.error(entry.value.span, "later", message);
        }
    }
    labels.into_iter().map(|(entry, value)| (entry.key.clone(), value)).collect()
}

/// `kill`, which is zero, or a time to go on.
fn on_disconnect(reporter: &mut Reporter<'_>, node: &Node) -> Millis {
    match &node.value {
        Value::Scalar(scalar) if scalar.text == "kill" => Millis::ZERO,
        Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
            let bounds = (Millis(1), ON_DISCONNECT_MAX);
            read::duration(reporter, node, "`on_disconnect`", bounds).unwrap_or_default()
        }
    }
}
