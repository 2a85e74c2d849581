//! Workflows for scripts: `w a b@a c@a/b max=1 s=tick retry=a@2`.

use std::collections::BTreeMap;

use matins_core::ir::{
    Action, Catchup, CatchupPolicy, Concurrency, Gap, OnFull, PoolUse, Retention, Retry, Schedule, Task,
    TriggerRule, Workflow,
};
use matins_core::time::Millis;

use super::{Args, Fault};

/// The first word is the name, each other a task with what it needs; keys change tasks or the whole.
pub(crate) fn workflow_of(args: &mut Args) -> Result<Workflow, Fault> {
    let name = args.need()?;
    let names: Vec<String> = args.rest();
    let bare: Vec<&str> = names.iter().map(|task| task.split('@').next().unwrap_or_default()).collect();
    let mut tasks = Vec::new();
    for text in &names {
        let (task, needs) = text.split_once('@').unwrap_or((text, ""));
        let needs = needs.split('/').filter(|need| !need.is_empty());
        let needs = needs.map(|need| bare.iter().position(|other| *other == need).ok_or("no such need"));
        let mut needs = needs.map(|need| Ok(u16::try_from(need?)?)).collect::<Result<Vec<u16>, Fault>>()?;
        needs.sort_unstable();
        tasks.push(task_of(task, needs)?);
    }
    let active_runs_max = args.number("max")?.map(u32::try_from).transpose()?;
    let on_full = match args.key("full").as_deref() {
        None => OnFull::Queue,
        Some("skip") => OnFull::Skip,
        Some(_) => OnFull::CancelRunning,
    };
    let schedules = args.key("s").map(|name| schedule_of(&name, args)).transpose()?;
    change_tasks(&mut tasks, args)?;
    Ok(Workflow {
        name: format!("test/{name}").parse()?,
        description: args.key("text").unwrap_or_default(),
        labels: BTreeMap::new(),
        timezone: "UTC".into(),
        params: Vec::new(),
        schedules: schedules.into_iter().collect(),
        concurrency: Concurrency { active_runs_max, on_full },
        priority: 0,
        tasks,
        files: Vec::new(),
        retention: Retention { runs: kept(args, "keep")?, logs: kept(args, "keep_logs")? },
    })
}

/// So many seconds.
fn kept(args: &mut Args, key: &str) -> Result<Option<Millis>, Fault> {
    Ok(args.number(key)?.map(Millis::from_secs))
}

fn schedule_of(name: &str, args: &mut Args) -> Result<Schedule, Fault> {
    Ok(Schedule {
        name: name.parse()?,
        description: String::new(),
        cron: vec![args.key("cron").unwrap_or_else(|| "* * * * *".into())],
        timezone: "UTC".into(),
        gap: Gap::Shift,
        fold: None,
        catchup: Catchup { policy: CatchupPolicy::Latest, window: Millis::from_hours(1), limit: 10 },
        params: BTreeMap::new(),
        is_enabled: args.key("off").is_none(),
    })
}

fn task_of(name: &str, needs: Vec<u16>) -> Result<Task, Fault> {
    Ok(Task {
        name: name.parse()?,
        description: String::new(),
        needs,
        trigger_rule: TriggerRule::AllSuccess,
        when: None,
        for_each: None,
        parallel_max: None,
        retry: Retry { jitter_permille: 0, ..Retry::default() },
        timeout: Millis::from_hours(24),
        depends_on_past: false,
        pools: Vec::new(),
        priority: 0,
        executor_labels: BTreeMap::new(),
        on_disconnect: Millis::ZERO,
        action: Action::Argv(vec!["true".into()]),
        env: Vec::new(),
        with: None,
        allow_failure: false,
    })
}

/// `retry=a@2/b@1 when=c for_each=d@3 pool=a@db@2 past=a allow=a rule=c@all_done timeout=a@60 label=a@zone@b lost=a@1`
fn change_tasks(tasks: &mut [Task], args: &mut Args) -> Result<(), Fault> {
    let keys = [
        "retry",
        "lost",
        "when",
        "for_each",
        "pool",
        "past",
        "allow",
        "rule",
        "timeout",
        "label",
        "priority",
        "disconnect",
    ];
    for key in keys {
        for change in args.key(key).unwrap_or_default().split('/').filter(|change| !change.is_empty()) {
            let mut parts = change.split('@');
            let name = parts.next().unwrap_or_default();
            let task = tasks.iter_mut().find(|task| task.name.as_str() == name).ok_or("no such task")?;
            change_task(task, key, &parts.collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn change_task(task: &mut Task, key: &str, values: &[&str]) -> Result<(), Fault> {
    let first = values.first().copied().unwrap_or_default();
    match key {
        "retry" => task.retry.limit = first.parse()?,
        "lost" => task.retry.lost_limit = first.parse()?,
        "when" => task.when = Some("params.x".into()),
        "for_each" => {
            task.for_each = Some("[1, 2]".into());
            task.parallel_max = values.first().map(|max| max.parse()).transpose()?;
        }
        "pool" => {
            let slots = values.get(1).map_or(Ok(1), |slots| slots.parse())?;
            task.pools.push(PoolUse { pool: first.parse()?, slots });
        }
        "past" => task.depends_on_past = true,
        "allow" => task.allow_failure = true,
        "timeout" => task.timeout = Millis::from_secs(first.parse()?),
        "disconnect" => task.on_disconnect = Millis::from_secs(first.parse()?),
        "priority" => task.priority = first.parse()?,
        "label" => {
            task.executor_labels.insert(first.into(), values.get(1).copied().unwrap_or_default().into());
        }
        "rule" => {
            task.trigger_rule = match first {
                "all_done" => TriggerRule::AllDone,
                "none_failed" => TriggerRule::NoneFailed,
                "one_failed" => TriggerRule::OneFailed,
                "one_success" => TriggerRule::OneSuccess,
                _ => TriggerRule::AllSuccess,
            }
        }
        other => return Err(format!("no key `{other}`").into()),
    }
    Ok(())
}
