//! A workflow as the engine knows it: what `matins-workflow` makes of a YAML file, checked and resolved.
//!
//! Everything that can be decided without the outside world has been decided: defaults are merged, durations are
//! numbers, `needs` are indexes. What only a run can know stays as text: templates and conditions are rendered by the
//! proposer, never in here. A version's identity is the digest of this form (LANGUAGE 1.22), so the order of fields
//! and variants is part of the format: new ones are added at the end, behind a feature level.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, PoolName, ScheduleName, TaskName, WorkflowName};
use crate::time::Millis;

/// Text for a place that takes text. May hold `{{ }}`; without any it stands for itself.
pub type Template = String;

/// A JSON document, as text, whose strings may hold `{{ }}`. A string that is exactly one `{{ expr }}` keeps
/// the type of its value (LANGUAGE 1.3).
pub type JsonTemplate = String;

/// A JSON document, as text. `core` keeps and compares it, and never looks inside.
pub type Json = String;

/// One version of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workflow {
    /// `namespace/workflow`.
    pub name: WorkflowName,
    /// For people; empty if none was given.
    pub description: String,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// The IANA zone of `logical_time` and of date filters where a schedule names no other.
    pub timezone: String,
    /// In the order of the file.
    pub params: Vec<Param>,
    /// In the order of the file; names are unique.
    pub schedules: Vec<Schedule>,
    /// The gate for active runs.
    pub concurrency: Concurrency,
    /// Higher first; 0 if not given.
    pub priority: i32,
    /// In the order of the file; at least one. `needs` point into it and make no ring.
    pub tasks: Vec<Task>,
    /// What lies in each attempt's working directory, sorted by path.
    pub files: Vec<File>,
    /// How long its finished runs and their logs stay.
    pub retention: Retention,
}

/// How long finished runs and their logs stay; `None`: as the cluster's settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Counted from the end of a run.
    pub runs: Option<Millis>,
    /// As above; never longer than the run itself.
    pub logs: Option<Millis>,
}

/// A file of a workflow: a blob under a relative path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative, with `/`, without `..`.
    pub path: String,
    /// The blob that holds it.
    pub digest: Digest,
    /// In bytes.
    pub bytes: u64,
    /// Whether the owner may execute it.
    pub is_executable: bool,
}

/// A parameter of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// As `params.NAME` in templates.
    pub name: TaskName,
    /// What values it takes.
    pub kind: ParamKind,
    /// `None`: required. The document `null`: may be absent.
    pub default: Option<JsonTemplate>,
    /// The only values allowed, if any are named.
    pub values: Vec<Json>,
    /// Least value: a number, date, datetime or duration as the file writes it.
    pub min: Option<Json>,
    /// Greatest value.
    pub max: Option<Json>,
    /// A regular expression that the whole text must match.
    pub pattern: Option<String>,
    /// In characters.
    pub length_max: Option<u32>,
    /// For a list: what its items are.
    pub items: Option<ParamKind>,
    /// For people.
    pub description: String,
}

/// The type of a parameter (LANGUAGE 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParamKind {
    /// Any text.
    String,
    /// A whole number of 64 bits.
    Int,
    /// A number.
    Float,
    /// `true` or `false`.
    Bool,
    /// `2013-01-31`.
    Date,
    /// RFC 3339.
    Datetime,
    /// `1h30m`.
    Duration,
    /// One of `values`.
    Enum,
    /// Any JSON.
    Json,
    /// A list; `items` says of what.
    List,
}

/// When a workflow is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Unique in its workflow.
    pub name: ScheduleName,
    /// For people.
    pub description: String,
    /// POSIX cron texts, one at least; their union is meant.
    pub cron: Vec<String>,
    /// The IANA zone they are read in.
    pub timezone: String,
    /// What a tick in the gap of a DST change does.
    pub gap: Gap,
    /// What a tick in the fold does; `None`: both if the hour field is a wildcard, else the first.
    pub fold: Option<Fold>,
    /// What becomes of ticks that an outage left behind.
    pub catchup: Catchup,
    /// Parameters of its runs, over the defaults of the workflow.
    pub params: BTreeMap<TaskName, JsonTemplate>,
    /// The file's own switch; a pause is another.
    pub is_enabled: bool,
}

/// A local time that does not exist, because the clocks went forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gap {
    /// Fires later by the length of the gap: 02:30 becomes 03:30.
    #[default]
    Shift,
    /// Does not fire that day.
    Skip,
}

/// A local time that exists twice, because the clocks went back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fold {
    /// Fires the first time.
    #[default]
    First,
    /// Fires the second time.
    Second,
    /// Fires both times.
    Both,
}

/// What becomes of missed ticks (LANGUAGE 1.18, PROTOCOL 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catchup {
    /// Which of them run.
    pub policy: CatchupPolicy,
    /// Older ones are skipped.
    pub window: Millis,
    /// At most so many run, the newest; 500 at most.
    pub limit: u32,
}

/// Which missed ticks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatchupPolicy {
    /// None.
    None,
    /// The newest one.
    #[default]
    Latest,
    /// All, within window and limit.
    All,
}

/// The gate for active runs (LANGUAGE 1.19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// `None`: no limit.
    pub active_runs_max: Option<u32>,
    /// What happens to a run that finds the gate full.
    pub on_full: OnFull,
}

/// What happens to a scheduled run that finds the gate full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFull {
    /// It waits, in order of logical time.
    #[default]
    Queue,
    /// Its tick is decided as skipped, with the reason `running`.
    Skip,
    /// The oldest active runs are cancelled to make room.
    CancelRunning,
}

/// A node of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Unique among its siblings.
    pub name: TaskName,
    /// For people.
    pub description: String,
    /// Indexes of upstream tasks, sorted, without repetition.
    pub needs: Vec<u16>,
    /// Which states of them let it run.
    pub trigger_rule: TriggerRule,
    /// A bare expression that must give true or false.
    pub when: Option<String>,
    /// Gives the list of items: a template or a JSON list of templates.
    pub for_each: Option<JsonTemplate>,
    /// At most so many items at once; `None`: no limit of its own.
    pub parallel_max: Option<u32>,
    /// When it is tried again.
    pub retry: Retry,
    /// Per attempt.
    pub timeout: Millis,
    /// Waits for the same task of the tick before (LANGUAGE 1.25).
    pub depends_on_past: bool,
    /// Slots it takes while an attempt lives, sorted by pool.
    pub pools: Vec<PoolUse>,
    /// Higher first; its workflow's if it gave none.
    pub priority: i32,
    /// Labels that its executor must have.
    pub executor_labels: BTreeMap<String, String>,
    /// How long an attempt may go on without the cluster; zero: `kill`.
    pub on_disconnect: Millis,
    /// What an attempt does.
    pub action: Action,
    /// Environment, defaults first, in order; later ones win.
    pub env: Vec<(String, Template)>,
    /// The typed way in.
    pub with: Option<JsonTemplate>,
    /// Its failure does not fail the run, and counts as success for trigger rules.
    pub allow_failure: bool,
}

/// Slots of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUse {
    /// Which pool.
    pub pool: PoolName,
    /// How many, one at least.
    pub slots: u32,
}

/// What an attempt does. Exactly one kind per task (LANGUAGE 1.23).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `run: [a, b]`: a program without a shell; each element is rendered on its own.
    Argv(Vec<Template>),
    /// `run: text`: rendered, then given to a shell.
    Shell {
        /// Which one.
        shell: Shell,
        /// Its text.
        text: Template,
    },
    /// `script`: verbatim, never rendered.
    Script {
        /// What runs it; empty: its `#!` line, else `sh -e`.
        interpreter: Vec<String>,
        /// Its text.
        text: String,
    },
}

/// The shell of `run: text`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shell {
    /// `sh -e`.
    #[default]
    Sh,
    /// `bash -eo pipefail`.
    Bash,
}

/// When an attempt that did not succeed is followed by another (LANGUAGE 1.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How many retries.
    pub limit: u32,
    /// Before the first retry.
    pub delay: Millis,
    /// Thousandths: 2000 doubles the delay each time.
    pub factor_permille: u32,
    /// No delay is longer.
    pub delay_max: Millis,
    /// Thousandths of the delay, added or taken off by a hash.
    pub jitter_permille: u32,
    /// How many attempts may be lost with their executor without counting as retries.
    pub lost_limit: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            limit: 0,
            delay: Millis::from_secs(10),
            factor_permille: 2_000,
            delay_max: Millis::from_mins(5),
            jitter_permille: 100,
            lost_limit: 5,
        }
    }
}

/// Which states of the upstream tasks let a task run. Values and meaning are Airflow's (LANGUAGE 1.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerRule {
    /// All succeeded.
    #[default]
    AllSuccess,
    /// All ended, however.
    AllDone,
    /// All ended, none failed.
    NoneFailed,
    /// At least one failed; does not wait for the others.
    OneFailed,
    /// At least one succeeded; does not wait for the others.
    OneSuccess,
}
