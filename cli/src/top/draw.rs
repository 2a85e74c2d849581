//! The picture of `top`. Pure: a model in, a frame out.

use matins_proto::v1::{Executor, Pool, Run, run};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::model::Model;
use crate::cluster::status::{leads, one_more};
use crate::output::{Look, span_between};

/// Executors and pools get so many lines at most, with their head.
const LIMITS_MAX: u16 = 8;
/// The answer to "why" gets so many lines.
const WHY_LINES: u16 = 5;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let rows = model.seen.executors.len().max(model.seen.pools.len()) as u16 + 1;
    let why = if model.why.is_some() { WHY_LINES } else { 0 };
    let [head, limits, _, runs, below, keys] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(rows.min(LIMITS_MAX)),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(why),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(model)), head);
    let [executors, pools] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas(limits);
    frame.render_widget(executor_table(&model.seen.executors), executors);
    frame.render_widget(pool_table(&model.seen.pools), pools);
    draw_runs(frame, model, runs);
    if let Some(why) = &model.why {
        let lines: Vec<Line<'_>> = why.lines().map(Line::from).collect();
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), below);
    }
    let line = Line::from(format!("q quit  ↑↓ move  Enter why  s sort ({})  r reverse", model.sort.word()));
    frame.render_widget(Paragraph::new(line).style(Style::new().add_modifier(Modifier::DIM)), keys);
}

fn look(model: &Model) -> Look {
    Look { colour: true, now: Some(model.seen.at), wide: false, columns: None }
}

fn head_lines(model: &Model) -> Vec<Line<'static>> {
    let status = &model.seen.status;
    let count = |state: run::State| model.seen.runs.iter().filter(|run| run.state() == state).count();
    let (used, slots) = model
        .seen
        .executors
        .iter()
        .fold((0, 0), |(used, slots), executor| (used + executor.used, slots + executor.slots));
    let alarms = status.alarms.len();
    let queue: u32 = model.seen.pools.iter().map(|pool| pool.waiting).sum();
    let second = format!(
        "Runs: {} running, {} queued, {} stopping.  Slots: {used} of {slots}.  Waiting for pools: {queue}.",
        count(run::State::Running),
        count(run::State::Queued),
        count(run::State::Stopping),
    );
    let third = match (&model.fault, status.alarms.first()) {
        (Some(fault), _) => format!("! no answer: {}", fault.lines().next().unwrap_or_default()),
        (None, Some(alarm)) if alarms == 1 => format!("! {} {}: {}", alarm.code, alarm.subject, alarm.text),
        (None, Some(alarm)) => {
            format!("! {} {}: {} (and {} more)", alarm.code, alarm.subject, alarm.text, alarms - 1)
        }
        (None, None) => String::new(),
    };
    let alarm = Style::new().fg(Color::Red);
    vec![
        Line::from(leads(status, &look(model))),
        Line::from(one_more(status)),
        Line::from(second),
        Line::from(Span::styled(third, alarm)),
    ]
}

fn titles(words: &[&'static str]) -> Row<'static> {
    Row::new(words.to_vec()).style(Style::new().add_modifier(Modifier::BOLD))
}

fn executor_table(executors: &[Executor]) -> Table<'static> {
    let rows = executors.iter().map(|executor| {
        let name = if executor.name.is_empty() { &executor.id } else { &executor.name };
        let state = executor.state().as_str_name();
        Row::new([
            Cell::from(name.clone()),
            Cell::from(Span::styled(state, style(state))),
            Cell::from(bar(executor.used, executor.slots)),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(9), Constraint::Length(16)];
    Table::new(rows, widths).header(titles(&["EXECUTOR", "STATE", "SLOTS"]))
}

fn pool_table(pools: &[Pool]) -> Table<'static> {
    let rows = pools.iter().map(|pool| {
        let waiting = if pool.waiting > 0 { pool.waiting.to_string() } else { String::new() };
        Row::new([Cell::from(pool.name.clone()), Cell::from(bar(pool.used, pool.slots)), Cell::from(waiting)])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(16), Constraint::Length(7)];
    Table::new(rows, widths).header(titles(&["POOL", "SLOTS", "WAITING"]))
}

/// `▮▮▮▯▯▯▯▯ 3/8`.
fn bar(used: u32, slots: u32) -> String {
    const WIDTH: u32 = 8;
    let full = if slots == 0 { 0 } else { (used.min(slots) * WIDTH).div_ceil(slots) };
    let cells = |what: &str, count: u32| what.repeat(count as usize);
    format!("{}{} {used}/{slots}", cells("▮", full), cells("▯", WIDTH - full))
}

fn draw_runs(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model.seen.runs.iter().map(|run| run_row(run, model));
    let widths = [
        Constraint::Length(9),
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Fill(3),
    ];
    let table = Table::new(rows, widths)
        .header(titles(&["RUN", "WORKFLOW", "STATE", "TASKS", "FOR", "REASON"]))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let chosen = (!model.seen.runs.is_empty()).then(|| model.position());
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(chosen));
}

fn run_row(run: &Run, model: &Model) -> Row<'static> {
    let counts = run.task_counts.unwrap_or_default();
    let ended = counts.success + counts.failed + counts.upstream_failed + counts.skipped + counts.cancelled;
    let state = run.state().as_str_name();
    let since = run.started_at.or(run.created_at);
    Row::new([
        Cell::from(run.id.clone()),
        Cell::from(run.workflow.clone()),
        Cell::from(Span::styled(state, style(state))),
        Cell::from(format!("{ended}/{}", counts.total)),
        Cell::from(span_between(since, None, &look(model))),
        Cell::from(reason(run)),
    ])
}

/// Why it waits; without a reason of its own, what its tasks do.
fn reason(run: &Run) -> String {
    if let Some(reason) = run.reason.as_ref().filter(|reason| !reason.text.is_empty()) {
        return reason.text.clone();
    }
    let counts = run.task_counts.unwrap_or_default();
    let words = [
        (counts.failed, "failed"),
        (counts.retrying, "retrying"),
        (counts.running, "running"),
        (counts.queued, "queued"),
    ];
    let words: Vec<String> =
        words.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    words.join(", ")
}

fn style(word: &str) -> Style {
    match word {
        "running" | "ready" => Style::new().fg(Color::Green),
        "queued" | "draining" => Style::new().fg(Color::Yellow),
        "stopping" | "cordoned" | "gone" => Style::new().fg(Color::Red),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests;
