//! What templates of one attempt, condition or parameter can see.

use std::collections::BTreeMap;

use matins_core::time::Timestamp;
use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::dates::ZONE_KEY;
use super::moment::Moment;
use super::value::from_json;
use crate::calendar::Zone;

/// The names of LANGUAGE 3 and their values. What is absent here is undefined there, and an error.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Of the run.
    pub params: Map<String, Json>,
    /// The tick, or the time of asking; none while there is no run.
    pub times: Times,
    /// The zone of `times`: the schedule's.
    pub zone: Zone,
    /// The zone of date filters: the workflow's.
    pub timezone: Zone,
    /// `run`.
    pub run: RunScope,
    /// By name; only those upstream of the task are asked for.
    pub tasks: BTreeMap<String, TaskScope>,
    /// `item` and `item_index`, in an item of a fan-out.
    pub item: Option<(u32, Json)>,
    /// The task's own environment, as far as it is rendered.
    pub env: BTreeMap<String, String>,
}

/// The times of a run (LANGUAGE 1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `logical_time` and `interval_end`.
    pub logical: Timestamp,
    /// `interval_start`.
    pub interval_start: Timestamp,
}

/// `run.X`. `None` becomes null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunScope {
    /// `run-42`.
    pub id: String,
    /// Its name without the namespace.
    pub workflow: String,
    /// Its namespace.
    pub namespace: String,
    /// None for a run that carries its own version.
    pub version: Option<u32>,
    /// None for a run without one.
    pub schedule: Option<String>,
    /// `backfill-7`.
    pub backfill: Option<String>,
    /// When its first task was leased, or it was made.
    pub started_at: Timestamp,
}

/// `tasks.X`.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskScope {
    /// The word of its state, such as `success`.
    pub state: String,
    /// A record; for a fan-out a list in item order, null where an item has none (LANGUAGE 1.12).
    pub outputs: Json,
    /// For a fan-out a list of `{index, item, state, outputs}`; else none.
    pub items: Option<Json>,
}

impl Scope {
    /// A scope that knows only times and zones.
    pub fn new(times: Times, zone: Zone) -> Self {
        Self {
            params: Map::new(),
            times,
            timezone: zone.clone(),
            zone,
            run: RunScope::default(),
            tasks: BTreeMap::new(),
            item: None,
            env: BTreeMap::new(),
        }
    }

    /// All of it as the template engine takes it.
    pub(crate) fn context(&self) -> Value {
        with_env(self.names(|_| true), &self.env)
    }

    /// All but `env`, with those tasks that are asked for: outputs may be large, and are copied.
    pub(crate) fn names(&self, is_used: impl Fn(&str) -> bool) -> Vec<(&'static str, Value)> {
        let mut names = vec![
            (ZONE_KEY, Moment::value(self.times.logical, &self.timezone)),
            ("params", self.params()),
            ("logical_time", self.moment(self.times.logical)),
            ("interval_end", self.moment(self.times.logical)),
            ("interval_start", self.moment(self.times.interval_start)),
            ("run", self.run()),
            ("tasks", self.tasks(is_used)),
        ];
        if let Some((index, item)) = &self.item {
            names.push(("item", from_json(item)));
            names.push(("item_index", Value::from(*index)));
        }
        names
    }

    fn moment(&self, time: Timestamp) -> Value {
        Moment::value(time, &self.zone)
    }

    fn params(&self) -> Value {
        Value::from_pairs(self.params.iter().map(|(name, value)| (name.clone(), from_json(value))))
    }

    fn run(&self) -> Value {
        let text = |text: &Option<String>| text.as_ref().map_or(Value::from(()), Value::from);
        Value::from_pairs([
            ("id", Value::from(self.run.id.as_str())),
            ("workflow", Value::from(self.run.workflow.as_str())),
            ("namespace", Value::from(self.run.namespace.as_str())),
            ("version", self.run.version.map_or(Value::from(()), Value::from)),
            ("schedule", text(&self.run.schedule)),
            ("backfill", text(&self.run.backfill)),
            ("started_at", self.moment(self.run.started_at)),
        ])
    }

    fn tasks(&self, is_used: impl Fn(&str) -> bool) -> Value {
        let used = self.tasks.iter().filter(|(name, _)| is_used(name));
        Value::from_pairs(used.map(|(name, task)| {
            let mut parts =
                vec![("state", Value::from(task.state.as_str())), ("outputs", from_json(&task.outputs))];
            if let Some(items) = &task.items {
                parts.push(("items", from_json(items)));
            }
            (name.clone(), Value::from_pairs(parts))
        }))
    }
}

/// `names` and an environment.
pub(crate) fn with_env(mut names: Vec<(&'static str, Value)>, env: &BTreeMap<String, String>) -> Value {
    let env = env.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    names.push(("env", Value::from_pairs(env)));
    Value::from_pairs(names)
}
