//! Every key of the language, by the place it stands in (LANGUAGE 3).

/// The keys of one kind of map.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Built.
    pub(crate) now: &'static [&'static str],
    /// Reserved: a name of the language, but not of this release.
    pub(crate) later: &'static [&'static str],
    /// Whether `null` is a value for some of them.
    pub(crate) nullable: &'static [&'static str],
}

const fn keys(now: &'static [&'static str], later: &'static [&'static str]) -> Keys {
    Keys { now, later, nullable: &[] }
}

pub(crate) const WORKFLOW: Keys = keys(
    &[
        "workflow",
        "namespace",
        "description",
        "labels",
        "timezone",
        "files",
        "params",
        "schedules",
        "concurrency",
        "defaults",
        "tasks",
        "priority",
        "retention",
    ],
    &[
        "triggers",
        "presets",
        "include",
        "finally",
        "on_failure",
        "on_success",
        "outputs",
        "depends_on_past",
        "timeout",
        "retry",
        "fail_fast",
        "sequence",
        "mutex",
        "semaphore",
        "deadlines",
        "alerts",
        "language",
    ],
);

pub(crate) const POOL: Keys = keys(&["pool", "slots", "description"], &[]);

pub(crate) const PARAM: Keys = Keys {
    now: &["type", "default", "values", "min", "max", "pattern", "max_length", "items", "description"],
    later: &[],
    nullable: &["default"],
};

pub(crate) const SCHEDULE: Keys = keys(
    &["cron", "timezone", "gap", "fold", "catchup", "params", "enabled", "description"],
    &["every", "at", "anchor", "start", "end", "skip_on", "deadlines", "jitter", "spread"],
);

pub(crate) const CATCHUP: Keys = keys(&["policy", "window", "limit"], &[]);
pub(crate) const CONCURRENCY: Keys = keys(&["max_active_runs", "on_full"], &[]);
pub(crate) const RETENTION: Keys = keys(&["runs", "logs"], &[]);
pub(crate) const RETRY: Keys = keys(&["limit", "delay", "factor", "max_delay", "jitter", "lost_limit"], &[]);
pub(crate) const EXECUTOR: Keys = keys(&["labels"], &[]);

pub(crate) const DEFAULTS: Keys = keys(
    &["retry", "timeout", "env", "executor", "pool", "priority", "on_disconnect", "shell", "interpreter"],
    &[],
);

pub(crate) const TASK: Keys = keys(
    &[
        "description",
        "needs",
        "trigger_rule",
        "when",
        "for_each",
        "max_parallel",
        "retry",
        "timeout",
        "depends_on_past",
        "pool",
        "priority",
        "executor",
        "on_disconnect",
        "run",
        "shell",
        "script",
        "interpreter",
        "env",
        "with",
        "allow_failure",
    ],
    &[
        "max_failures",
        "wait_for_downstream",
        "resources",
        "mutex",
        "semaphore",
        "extends",
        "outputs",
        "teardown_of",
        "produces",
        "working_dir",
        "input_files",
        "output_files",
        "capture",
        "skip_on_exit",
        "params",
        "container",
        "http",
        "sql",
        "workflow",
        "plugin",
        "log",
        "return",
        "fail",
        "sleep",
        "wait_until",
        "wait_for",
        "approval",
        "switch",
        "tasks",
    ],
);

/// Kinds of task that come later; a task that has one lacks no kind (LANGUAGE 1.23).
pub(crate) const KINDS_LATER: &[&str] = &[
    "http",
    "sql",
    "workflow",
    "plugin",
    "log",
    "return",
    "fail",
    "sleep",
    "wait_until",
    "wait_for",
    "approval",
    "switch",
    "tasks",
];

/// Trigger rules that come later.
pub(crate) const TRIGGER_RULES_LATER: &[&str] = &[
    "all_failed",
    "all_skipped",
    "one_done",
    "none_skipped",
    "none_failed_min_one_success",
    "all_done_min_one_success",
    "all_done_setup_success",
    "always",
];

/// Types of params that come later.
pub(crate) const PARAM_KINDS_LATER: &[&str] = &["file", "secret"];

/// What other engines call things, for the hint.
pub(crate) const ELSEWHERE: &[(&str, &str)] = &[
    ("depends_on", "needs"),
    ("dependencies", "needs"),
    ("upstream", "needs"),
    ("command", "run"),
    ("cmd", "run"),
    ("bash", "run"),
    ("if", "when"),
    ("condition", "when"),
    ("matrix", "for_each"),
    ("with_items", "for_each"),
    ("foreach", "for_each"),
    ("retries", "retry"),
    ("environment", "env"),
    ("schedule", "schedules"),
    ("timezones", "timezone"),
    ("tz", "timezone"),
    ("inputs", "params"),
    ("parameters", "params"),
    ("concurrency_limit", "concurrency"),
    ("max_active_tis_per_dag", "max_parallel"),
    ("ignore_failure", "allow_failure"),
    ("continue_on_error", "allow_failure"),
    ("name", "workflow"),
    ("steps", "tasks"),
    ("jobs", "tasks"),
];
