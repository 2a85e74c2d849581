//! A picture on a terminal that is drawn again and again in its place, and lists that are watched.

use std::fmt::Write as _;
use std::ops::AsyncFnMut;
use std::time::Duration;

use crate::context::{Context, Format, Outcome, now};
use crate::fault::Fault;
use crate::output::{Cell, Look, Row, as_jsonl, as_names, cut, table, terminal_columns};

/// How often a list is asked for again.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Rows that are taken where the terminal does not tell its size.
const ROWS_DEFAULT: u16 = 24;

/// Draws pictures over each other.
pub(crate) struct Live<'a> {
    context: &'a Context,
    drawn: usize,
}

impl<'a> Live<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, drawn: 0 }
    }

    /// Whether there is a terminal to draw on; if not, lines are written one below the other.
    pub(crate) fn redraws(&self) -> bool {
        self.context.screen().out
    }

    /// Replaces the picture. What does not fit the terminal is left out at the end, and it says so.
    pub(crate) fn draw(&mut self, picture: &str) -> Result<(), Fault> {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let rows = size.map(|size| size.ws_row).filter(|rows| *rows > 0).unwrap_or(ROWS_DEFAULT);
        let (lines, text) = fit(picture, usize::from(rows) - 1, terminal_columns());
        // Up to the first line of the former picture, and clear from there on.
        let up = if self.drawn > 0 { format!("\u{1b}[{}A", self.drawn) } else { String::new() };
        self.context.print(&format!("{up}\u{1b}[J{text}"))?;
        self.drawn = lines;
        Ok(())
    }
}

/// Shows a list as it changes, until it is interrupted: on a terminal in its place, else each row that is new or another
/// as a line, after all rows once.
pub(crate) async fn watch<R: Row + PartialEq>(
    context: &Context,
    mut fetch: impl AsyncFnMut() -> Result<Vec<R>, Fault>,
) -> Outcome {
    if matches!(context.format(), Format::Json | Format::Yaml) {
        return Err(Fault::usage("what goes on and on is no single document")
            .hint("use -o jsonl, which is one document a line"));
    }
    let mut live = Live::new(context);
    let mut before: Vec<R> = Vec::new();
    loop {
        let rows = fetch().await?;
        match context.format() {
            Format::Table | Format::Wide if live.redraws() => live.draw(&table(&rows, &context.look()))?,
            Format::Table | Format::Wide => context.print(&changes(&before, &rows, &context.look()))?,
            Format::Name => context.print(&as_names(new_or_other(&before, &rows).map(Row::name)))?,
            Format::Jsonl | Format::Json | Format::Yaml => {
                context.print(&new_or_other(&before, &rows).map(as_jsonl).collect::<String>())?;
            }
        }
        before = rows;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn new_or_other<'r, R: Row + PartialEq>(before: &[R], rows: &'r [R]) -> impl Iterator<Item = &'r R> {
    rows.iter().filter(|row| !before.contains(row))
}

/// A line for each row that is new or another, and for each that is gone.
fn changes<R: Row + PartialEq>(before: &[R], rows: &[R], look: &Look) -> String {
    let mut text = String::new();
    for row in new_or_other(before, rows) {
        let cells = row.cells(look).into_iter().filter_map(|cell| match cell {
            Cell::Text(text) | Cell::State(text) if text.is_empty() => None,
            Cell::Text(text) | Cell::State(text) => Some(text),
            Cell::Number(number) => Some(number.to_string()),
            Cell::Time(time) => time.map(|time| time.to_string()),
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {}", now(), cells.collect::<Vec<_>>().join(" "));
    }
    let names: Vec<String> = rows.iter().map(Row::name).collect();
    for gone in before.iter().map(Row::name).filter(|name| !names.contains(name)) {
        let _ = writeln!(text, "{} {gone} is gone", now());
    }
    text
}

/// The first `rows` lines, each cut to `columns`, and how many there are. Escapes have no width.
fn fit(picture: &str, rows: usize, columns: Option<usize>) -> (usize, String) {
    let all: Vec<&str> = picture.lines().collect();
    let shown = if all.len() > rows { rows.saturating_sub(1) } else { all.len() };
    let mut text = String::new();
    for line in &all[..shown] {
        text.push_str(&columns.map_or_else(|| (*line).to_owned(), |columns| cut(line, columns)));
        text.push('\n');
    }
    if shown < all.len() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "… {} more lines", all.len() - shown);
        return (shown + 1, text);
    }
    (shown, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_scrolls_its_terminal() {
        assert_eq!(fit("a\nb\nc\n", 3, None), (3, "a\nb\nc\n".into()));
        assert_eq!(fit("a\nb\nc\nd\n", 3, None), (3, "a\nb\n… 2 more lines\n".into()));
    }
}
