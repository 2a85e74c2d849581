//! Why a task waits, or ended as it did.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::reason::{asked_of, executor_name, needs_of, past_run};
use super::{Help, Reason, View, Why, address, nothing, reason, run, several};
use crate::State;
use crate::history::RetiredRun;
use crate::id::{PoolName, RunId, TaskId};
use crate::state::{AttemptRow, AttemptState, LimitId, RunState, TaskRow, TaskState, WhyFailed, WhySkipped};
use crate::time::Timestamp;

/// Why a task of this run is in its state; the state is that of now, for what the run waits for around it.
pub fn of_task(run: &RetiredRun, id: TaskId, state: &State) -> Why {
    explain(&View::new(run, state), id)
}

pub(super) fn explain(view: &View<'_>, id: TaskId) -> Why {
    let Some(row) = view.row(id) else {
        // A run at its gate has no tasks yet, and one that failed before it began never had any.
        let why = run::explain(view);
        let state = if view.run.run.is_active() { "waiting" } else { "upstream_failed" };
        let is_queued = view.run.run.state == RunState::Queued;
        let what = if is_queued { "its run has not begun" } else { "its run has no tasks" };
        let text = format!("{what}: {}", why.reason.text);
        return Why { subject: view.address(id), state, reason: Reason { text, ..why.reason }, ..why };
    };
    let (reason, help) = parts(view, id, row);
    let Help { remedy, commands } = help;
    Why {
        subject: view.address(id),
        state: row.state.as_str(),
        since: Some(row.since),
        reason,
        remedy,
        commands,
    }
}

fn parts(view: &View<'_>, id: TaskId, row: &TaskRow) -> (Reason, Help) {
    match &row.state {
        TaskState::Waiting => upstream(view, id),
        TaskState::WaitingForPast { tick, failed } => past(view, id, (*tick, *failed)),
        TaskState::Deciding => deciding(view, id),
        TaskState::Queued => queued(view, id),
        TaskState::Expanded => {
            run::open_tasks(view, Some(id)).unwrap_or_else(|| (plain(view, id), nothing()))
        }
        TaskState::Running { .. } => running(view, id),
        TaskState::Stopping { .. } => stopping(view, id),
        TaskState::Retrying { due } => retrying(view, id, *due),
        TaskState::Failed(why) => failed(view, id, why),
        TaskState::UpstreamFailed => upstream_failed(view, id),
        TaskState::Skipped(why) => (plain(view, id), skipped(*why)),
        TaskState::Success => {
            let taken = row.taken_from.map(|run| format!("its result was taken over from {run}"));
            (reason("done", taken.unwrap_or_else(|| "it succeeded".into())), Help::default())
        }
        TaskState::Cancelled => (reason("cancelled", "its run was cancelled"), again(view, id)),
    }
}

/// The short reason, where there is no more to say.
fn plain(view: &View<'_>, id: TaskId) -> Reason {
    view.short(id).unwrap_or_else(|| reason("", "there is nothing to say about it"))
}

/// What it waits for waits itself: the one at the root is what a person must look at.
fn upstream(view: &View<'_>, id: TaskId) -> (Reason, Help) {
    let names: Vec<String> =
        open_needs(view, id).iter().map(|need| format!("`{}`", view.name(*need))).collect();
    let mut root = id;
    // Each step goes up in a graph without rings.
    while let Some(next) = open_needs(view, root).first() {
        root = *next;
        if view.row(root).is_none_or(|row| row.state != TaskState::Waiting) {
            break;
        }
    }
    if root == id || view.row(root).is_none() {
        return (plain(view, id), nothing());
    }
    let why = explain(view, root);
    let link = match names.as_slice() {
        [one] if *one == format!("`{}`", view.name(root)) => {
            format!("it waits for {one}, which is {}", why.state)
        }
        names => format!("it waits for {}; `{}` is {}", several(names), view.name(root), why.state),
    };
    let text = format!("{link}: {}", why.reason.text);
    (
        Reason { code: "upstream", text, until: why.reason.until },
        Help { remedy: why.remedy, commands: why.commands },
    )
}

fn open_needs(view: &View<'_>, id: TaskId) -> Vec<TaskId> {
    let open = needs_of(id, &view.around()).filter(|(_, row)| row.is_none_or(|row| !row.state.has_ended()));
    open.map(|(task, _)| TaskId { task, item: None, ..id }).collect()
}

/// LANGUAGE 1.25.
fn past(view: &View<'_>, id: TaskId, (tick, failed): (Timestamp, Option<RunId>)) -> (Reason, Help) {
    let Some(failed) = failed else {
        let run = past_run(id, tick, view.state);
        let help = Help::words("it goes on when that run has ended well");
        return (plain(view, id), run.map_or(Help::default(), |run| help.and(format!("matins why {run}"))));
    };
    let name = view.name(TaskId { item: None, ..id });
    if let Some(retry) = view.state.retries.get(&failed) {
        let text = format!("past failed: {failed}, which {retry} is retrying");
        let remedy = format!("it goes on when `{name}` has succeeded in {retry}");
        return (reason("past_failed", text), Help::new(remedy, format!("matins why {retry}")));
    }
    let remedy = format!("it goes on when a retry of {failed} succeeds in `{name}`");
    let help = Help::new(remedy, format!("matins retry {failed}")).and(format!("matins why {failed}"));
    (plain(view, id), help)
}

fn deciding(view: &View<'_>, id: TaskId) -> (Reason, Help) {
    let (used, max) = (view.state.bytes(), view.state.cluster.settings.state_bytes_max);
    // From here on an expansion may be refused until there is room (PROTOCOL 6.3).
    if used > max / 100 * 85 {
        let text = format!(
            "its `when` or `for_each` is being evaluated, and the state is {} % full",
            used / (max / 100).max(1)
        );
        let help = Help::new("it goes on when finished runs have left the state", "matins cluster status");
        return (reason("limit", text), help);
    }
    (
        plain(view, id),
        Help::new("the leader does that at once; if it lasts, ask who leads", "matins cluster status"),
    )
}

fn queued(view: &View<'_>, id: TaskId) -> (Reason, Help) {
    let Some(limit) = view.state.held_back_by(id) else {
        return (reason("slots", "it is about to be given to an executor"), nothing());
    };
    let (short, behind) = (plain(view, id), behind(view, id));
    match limit {
        LimitId::FanOut(of) => {
            let command = format!("matins run get {}", address(view.state, *of));
            (with(&short, &behind), Help::new("it starts when an item before it has ended", command))
        }
        LimitId::Pool(pool) => pool_full(view.state, (id, pool, limit), with(&short, &behind)),
        LimitId::Slots(_) if view.state.is_split() => {
            let text = "it starts when a majority has the same state: start the nodes that are down, or replace one that differs";
            (short, Help::new(text, "matins cluster status"))
        }
        LimitId::Slots(_) => (with(&short, &behind), slots(view.state, &short)),
    }
}

fn pool_full(
    state: &State,
    (id, pool, limit): (TaskId, &PoolName, &LimitId),
    short: Reason,
) -> (Reason, Help) {
    let slots = state.pools.get(pool).map_or(0, |row| row.slots);
    let asked = asked_of(id, limit, state);
    if asked > slots {
        let help = Help::new(
            "it never fits until the pool has more slots",
            format!("matins pool set {pool} {asked}"),
        );
        return (short, help);
    }
    let holders = holders(state, limit);
    let held = if holders.is_empty() { String::new() } else { format!(", held by {}", several(&holders)) };
    let help = Help::words("it starts when enough of them have ended, or with more slots");
    let help = holders.first().map(|first| format!("matins why {first}")).into_iter().fold(help, Help::and);
    (with(&short, &held), help.and(format!("matins pool set {pool} {}", slots + 1)))
}

fn with(reason: &Reason, more: &str) -> Reason {
    Reason { text: format!("{}{more}", reason.text), ..*reason }
}

/// How many of the same needs come first.
fn behind(view: &View<'_>, id: TaskId) -> String {
    let (Some(class), Some(place)) = (view.state.class_of(id), view.state.place_of(id)) else {
        return String::new();
    };
    let first = (class.clone(), crate::state::QueuePlace::FIRST);
    match view.state.queue.range(first..(class, place)).count() {
        0 => String::new(),
        before => format!(", and {} before it", super::count(before, "task")),
    }
}

/// The live attempts that hold slots of a limit, oldest first.
fn holders(state: &State, limit: &LimitId) -> Vec<String> {
    let holds =
        |task: &TaskId| state.class_of(*task).is_some_and(|class| class.iter().any(|(of, _)| of == limit));
    let tasks = state.live.iter().map(|(_, (task, _))| *task).filter(holds);
    tasks.map(|task| address(state, task)).collect()
}

fn slots(state: &State, short: &Reason) -> Help {
    let list = "matins executor list";
    match short.code {
        "no_executor" | "labels" => Help::new("it starts when an executor comes that fits", list),
        "silent" => Help::new("it starts when one of them is heard again; look at those machines", list)
            .and("matins cluster status"),
        "drained" => {
            let drained = state.executors.iter().find(|(_, row)| row.is_drained && !row.is_cordoned());
            let help = Help::words("it starts when one of them is given work again");
            let undrain =
                drained.map(|(id, row)| format!("matins executor undrain {}", executor_name(row, *id)));
            undrain.into_iter().fold(help, Help::and).and(list)
        }
        _ => Help::new("it starts when an attempt there ends, or when an executor comes", list),
    }
}

fn running(view: &View<'_>, id: TaskId) -> (Reason, Help) {
    let Some((number, attempt)) = view.last_attempt(id) else { return (plain(view, id), nothing()) };
    if let Some((silent, remedy)) = silent(view, (number, attempt)) {
        return (silent, Help::new(remedy, "matins executor list"));
    }
    if attempt.state == AttemptState::Publishing {
        let help = Help::new(
            "that takes as long as the network needs; if it lasts, nodes are away",
            "matins cluster status",
        );
        return (plain(view, id), help);
    }
    let executor = executor_of(view, attempt);
    // Whether its process has started is told with its end, and not before.
    let text = format!("attempt {number} was given to {executor}; its timeout would end it");
    let help = Help::new("nothing has to be done", format!("matins logs {} -f", view.address(id)));
    (reason("running", text).until(attempt.timeout_at), help)
}

/// The executor of this attempt does not answer: when its lease is over at the latest, and what follows.
pub(super) fn silent(view: &View<'_>, (number, attempt): (u32, &AttemptRow)) -> Option<(Reason, String)> {
    let cordoned_at = view.state.executors.get(&attempt.executor)?.cordoned_at?;
    // A new leader counts anew (PROTOCOL 5.3).
    let counted_from =
        view.state.cluster.leader.as_ref().map_or(cordoned_at, |leader| leader.since.max(cordoned_at));
    let terms = view.state.sessions.get(&(attempt.executor, attempt.session)).map(|row| row.terms);
    let dead_after = terms.unwrap_or(view.state.cluster.settings.lease).dead_after();
    let over = counted_from + dead_after + attempt.on_disconnect;
    let text = format!(
        "executor {}, which has attempt {number}, is silent; unless it is heard again, its lease is over",
        executor_of(view, attempt)
    );
    let remedy = "then the attempt counts as lost and another executor gets the task; look at that machine";
    Some((reason("silent", text).until(over), remedy.to_string()))
}

fn executor_of(view: &View<'_>, attempt: &AttemptRow) -> String {
    let row = view.state.executors.get(&attempt.executor);
    row.map_or_else(|| attempt.executor.to_string(), |row| executor_name(row, attempt.executor))
}

fn stopping(view: &View<'_>, id: TaskId) -> (Reason, Help) {
    let Some((number, attempt)) = view.last_attempt(id) else { return (plain(view, id), nothing()) };
    let abandon = format!("matins attempt abandon {}", view.address(id));
    match attempt.state {
        AttemptState::Stopping { is_unkillable: true, .. } => {
            let text = format!("its processes on {} are still there after KILL", executor_of(view, attempt));
            let remedy = "look at that machine; if they can do no harm, give the attempt up";
            (reason("unkillable", text), Help::new(remedy, abandon))
        }
        AttemptState::Stopping { .. } => {
            if let Some((silent, _)) = silent(view, (number, attempt)) {
                let remedy = "then it is taken as ended; look at that machine";
                return (silent, Help::new(remedy, "matins executor list").and(abandon));
            }
            let more = format!(", on {}", executor_of(view, attempt));
            (with(&plain(view, id), &more), Help::words("TERM was sent, KILL follows 10 s later"))
        }
        AttemptState::Running | AttemptState::Publishing | AttemptState::Ended { .. } => {
            (plain(view, id), nothing())
        }
    }
}

fn retrying(view: &View<'_>, id: TaskId, due: Timestamp) -> (Reason, Help) {
    let last = view.last_attempt(id).and_then(|(number, row)| Some((number, super::of_attempt(row)?)));
    let next = view.row(id).map_or(0, |row| row.attempts) + 1;
    let text = match last {
        Some((number, why)) => format!("attempt {number} failed ({}); attempt {next} begins", why.text),
        None => format!("attempt {next} begins"),
    };
    let help = Help::new("nothing has to be done", logs(view, id));
    (reason("delay", text).until(due), help)
}

fn logs(view: &View<'_>, id: TaskId) -> String {
    format!("matins logs {} --stderr --tail 20", view.address(id))
}

fn failed(view: &View<'_>, id: TaskId, why: &WhyFailed) -> (Reason, Help) {
    let short = plain(view, id);
    match why {
        WhyFailed::Items(_) => {
            let of_it = |row: &&(TaskId, TaskRow)| row.0.task == id.task && row.0.item.is_some();
            let item = view
                .run
                .tasks
                .iter()
                .filter(of_it)
                .find(|(_, row)| matches!(row.state, TaskState::Failed(_)));
            let Some((item, _)) = item else { return (short, again(view, id)) };
            let first = explain(view, *item);
            let text = format!("{}, the first is `{}`: {}", short.text, view.name(*item), first.reason.text);
            (Reason { text, ..short }, again(view, id).and(logs(view, *item)))
        }
        WhyFailed::Attempt(_) => {
            let place = view.last_attempt(id);
            let text = match place {
                Some((number, row)) => {
                    format!("{} in attempt {number}, on {}", short.text, executor_of(view, row))
                }
                None => short.text.clone(),
            };
            let Help { remedy, mut commands } = again(view, id);
            // What it printed comes first: nobody should repeat what they have not looked at.
            commands.insert(0, logs(view, id));
            (Reason { text, ..short }, Help { remedy, commands })
        }
        WhyFailed::Decide(_) | WhyFailed::NoRoom(_) => (short, again(view, id)),
    }
}

/// How something that ended badly is made again: in place while its run is active, else as a new run.
pub(super) fn again(view: &View<'_>, id: TaskId) -> Help {
    if !view.run.run.is_active() {
        return run::again(view);
    }
    match view.row(id).map(|row| &row.state) {
        Some(TaskState::Failed(_)) => {
            let command = format!("matins retry {}", view.address(id));
            Help::new("when its cause is mended, try it again in place", command)
        }
        Some(_) | None => Help::words("when the run has ended, retry it"),
    }
}

fn upstream_failed(view: &View<'_>, id: TaskId) -> (Reason, Help) {
    let failed = needs_of(id, &view.around()).find(|(_, row)| {
        row.is_some_and(|row| {
            matches!(row.state, TaskState::Failed(_) | TaskState::UpstreamFailed | TaskState::Cancelled)
        })
    });
    let Some((task, _)) = failed else { return (plain(view, id), again(view, id)) };
    let need = TaskId { task, item: None, ..id };
    let why = explain(view, need);
    let text = format!("`{}` is {}: {}", view.name(need), why.state, why.reason.text);
    (reason("upstream", text), Help { remedy: why.remedy, commands: why.commands })
}

fn skipped(why: WhySkipped) -> Help {
    match why {
        WhySkipped::When | WhySkipped::NoItems | WhySkipped::Upstream => {
            Help::words("that is as the workflow says")
        }
    }
}
