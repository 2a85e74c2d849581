//! A run as a tree: its tasks, the items of fan-outs below them, and beside each what it is at and why.

use anstyle::Style;
use matins_proto::v1::{Run, Task, TaskCounts};

use super::fit::fold;
use super::{Look, plain_span, span_between, state};

/// One line of the tree, before the columns are aligned.
struct Line {
    /// Branches and name.
    branch: String,
    state: &'static str,
    /// Duration, attempts, and where it runs.
    facts: String,
    reason: String,
}

/// The tasks of a run, one a line.
pub(crate) fn run_tree(run: &Run, look: &Look) -> String {
    let mut lines = Vec::new();
    for (position, task) in run.tasks.iter().enumerate() {
        let is_last = position + 1 == run.tasks.len();
        lines.push(Line { branch: format!("{} ", branch(is_last)), ..line(task, look) });
        let stem = if is_last { "   " } else { "│  " };
        let hidden = hidden_items(task);
        for (position, item) in task.items.iter().enumerate() {
            let is_last = position + 1 == task.items.len() && hidden == 0;
            lines.push(Line { branch: format!("{stem}{} ", branch(is_last)), ..line(item, look) });
        }
        if hidden > 0 {
            let more = format!("{stem}{} … {hidden} more items", branch(true));
            lines.push(Line { branch: more, state: "", facts: String::new(), reason: String::new() });
        }
    }
    let names: Vec<&str> = run.tasks.iter().flat_map(names).collect();
    aligned(&lines, &names, look)
}

/// The addresses in the order of the lines; a line that stands for several items has none.
fn names(task: &Task) -> Vec<&str> {
    let items = task.items.iter().map(|item| item.address.as_str());
    let more = (hidden_items(task) > 0).then_some("");
    std::iter::once(task.address.as_str()).chain(items).chain(more).collect()
}

fn hidden_items(task: &Task) -> usize {
    // Items are only told where they were asked for; then the rest is worth a line.
    let total = task.item_counts.as_ref().map_or(0, |counts| counts.total as usize);
    if task.items.is_empty() { 0 } else { total.saturating_sub(task.items.len()) }
}

fn branch(is_last: bool) -> &'static str {
    if is_last { "└─" } else { "├─" }
}

fn line(task: &Task, look: &Look) -> Line {
    let span = span_between(task.started_at, task.finished_at, look);
    let attempts =
        if task.attempt_count > 1 { format!("attempt {}", task.attempt_count) } else { String::new() };
    let live = task.attempts.last().filter(|attempt| attempt.finished_at.is_none());
    let place = live.map(|attempt| format!("on {}", executor(&attempt.executor_name, &attempt.executor)));
    let taken = task.taken_from.as_ref().map(|run| format!("from {run}"));
    let counts = task.item_counts.as_ref().map(counts_in_words);
    let facts = [Some(span), Some(attempts), place, taken, counts];
    let facts: Vec<String> = facts.into_iter().flatten().filter(|fact| !fact.is_empty()).collect();
    Line {
        branch: String::new(),
        state: task.state().as_str_name(),
        facts: facts.join(", "),
        reason: reason(task, look),
    }
}

fn executor<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}

/// Why the task is in its state, and until when.
fn reason(task: &Task, look: &Look) -> String {
    let Some(reason) = &task.reason else { return String::new() };
    let text = if reason.text.is_empty() { &reason.code } else { &reason.text };
    match (reason.until, look.now) {
        (Some(until), Some(now)) if until > now => {
            let left = until.as_millis().saturating_sub(now.as_millis());
            format!("{text} ({} left)", plain_span(left))
        }
        (Some(until), None) => format!("{text} (at {until})"),
        (Some(_), Some(_)) | (None, _) => text.clone(),
    }
}

/// How many items are in which state: `3 items: 2 success, 1 running`.
pub(super) fn counts_in_words(counts: &TaskCounts) -> String {
    let states = [
        (counts.success, "success"),
        (counts.failed, "failed"),
        (counts.upstream_failed, "upstream_failed"),
        (counts.cancelled, "cancelled"),
        (counts.skipped, "skipped"),
        (counts.stopping, "stopping"),
        (counts.retrying, "retrying"),
        (counts.running, "running"),
        (counts.queued, "queued"),
        (counts.waiting, "waiting"),
    ];
    let words: Vec<String> =
        states.iter().filter(|(n, _)| *n > 0).map(|(n, state)| format!("{n} {state}")).collect();
    format!("{} items: {}", counts.total, words.join(", "))
}

/// Puts names, states and facts in columns.
fn aligned(lines: &[Line], names: &[&str], look: &Look) -> String {
    let width = |text: &str| text.chars().count();
    let name_width = lines.iter().zip(names).filter(|(_, name)| !name.is_empty());
    let name_width = name_width.map(|(line, name)| width(&line.branch) + 2 + width(name)).max().unwrap_or(0);
    let state_width = lines.iter().map(|line| line.state.len()).max().unwrap_or(0);
    let facts_width =
        lines.iter().map(|line| width(&line.facts)).filter(|width| *width <= 30).max().unwrap_or(0);
    let mut text = String::new();
    for (line, name) in lines.iter().zip(names) {
        if name.is_empty() {
            text.push_str(&line.branch);
            text.push('\n');
            continue;
        }
        let symbol = state::paint(state::symbol(line.state), style(line.state), look);
        let state = state::state_word(line.state, look);
        let fill = |width: usize, used: usize| " ".repeat(width.saturating_sub(used));
        let whole = format!(
            "{}{symbol} {name}{}   {state}{}   {}{}   {}",
            line.branch,
            fill(name_width, width(&line.branch) + 2 + width(name)),
            fill(state_width, line.state.len()),
            line.facts,
            fill(facts_width, width(&line.facts)),
            line.reason,
        );
        let indent = name_width + 3 + state_width + 3 + facts_width + 3;
        text.push_str(&fold(whole.trim_end(), look.columns, indent));
        text.push('\n');
    }
    text
}

fn style(word: &str) -> Style {
    Style::new().fg_color(state::colour(word).map(Into::into))
}

#[cfg(test)]
mod tests {
    use matins_proto::Timestamp;
    use matins_proto::v1::{Attempt, StateReason as Reason, task::State};

    use super::*;

    fn task(address: &str, state: State) -> Task {
        Task { address: address.into(), state: state.into(), ..Task::default() }
    }

    fn ran(address: &str, state: State, millis: i64) -> Task {
        Task {
            started_at: Some(Timestamp::from_millis(0)),
            finished_at: Some(Timestamp::from_millis(millis)),
            attempt_count: 1,
            ..task(address, state)
        }
    }

    fn because(task: Task, code: &str, text: &str) -> Task {
        let until = (code == "delay").then(|| Timestamp::from_millis(9_000));
        Task { reason: Some(Reason { code: code.into(), text: text.into(), until }), ..task }
    }

    fn night() -> Run {
        let live = Attempt { executor: "node-9".into(), executor_name: "b".into(), ..Attempt::default() };
        let transform = Task {
            item_counts: Some(TaskCounts {
                total: 4,
                success: 2,
                running: 1,
                retrying: 1,
                ..Default::default()
            }),
            items: vec![
                because(
                    Task { attempt_count: 2, ..task("transform.1", State::Retrying) },
                    "delay",
                    "exit code 1",
                ),
                Task { attempts: vec![live], finished_at: None, ..ran("transform.3", State::Running, 0) },
            ],
            ..because(task("transform", State::Running), "items", "")
        };
        let tasks = vec![
            ran("extract", State::Success, 1_250),
            Task { taken_from: Some("run-41".into()), ..task("check", State::Success) },
            transform,
            because(task("load", State::Waiting), "upstream", "`transform` has not ended"),
        ];
        Run { tasks, ..Run::default() }
    }

    #[test]
    fn a_run_is_a_tree_with_a_reason_for_every_wait() {
        assert_eq!(
            run_tree(&night(), &Look::PLAIN),
            "\
├─ ✔ extract          success    1.2s
├─ ✔ check            success    from run-41
├─ ● transform        running    4 items: 2 success, 1 retrying, 1 running   items
│  ├─ ↻ transform.1   retrying   attempt 2     exit code 1 (at 1970-01-01T00:00:09Z)
│  ├─ ● transform.3   running    on b
│  └─ … 2 more items
└─ · load             waiting                  `transform` has not ended
"
        );
    }

    #[test]
    fn a_person_sees_how_long_it_still_waits() {
        let look = Look { now: Some(Timestamp::from_millis(4_000)), ..Look::PLAIN };
        let text = run_tree(&night(), &look);
        assert!(text.contains("exit code 1 (5.0s left)"), "{text}");
        assert!(text.contains("4.0s, on b"), "{text}");
    }
}
