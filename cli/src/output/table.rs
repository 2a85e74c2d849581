//! Tables without borders, and the list of fields that shows one thing.

use anstyle::AnsiColor;
use comfy_table::{CellAlignment, Color, ContentArrangement, Table, presets};
use matins_proto::Timestamp;
use serde::Serialize;

use super::fit::{cut_lines, fold};
use super::{Look, moment, state};

/// Something that lists show, one a line.
pub(crate) trait Row: Serialize {
    /// What several are called: `runs`.
    const PLURAL: &'static str;
    /// What the table has, from left to right.
    const COLUMNS: &'static [Column];

    /// What `-o name` prints.
    fn name(&self) -> String;

    /// One for each column.
    fn cells(&self, look: &Look) -> Vec<Cell>;
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    shown: Shown,
}

/// When a column is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Always,
    /// Unless the terminal is too narrow for all.
    IfItFits,
    /// Only by `-o wide`.
    Wide,
}

impl Column {
    /// One that is always shown.
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, shown: Shown::Always }
    }

    /// One that a narrow terminal does without.
    pub(crate) const fn spare(title: &'static str) -> Self {
        Self { title, shown: Shown::IfItFits }
    }

    /// One that only `-o wide` shows.
    pub(crate) const fn wide(title: &'static str) -> Self {
        Self { title, shown: Shown::Wide }
    }
}

/// What stands at one place of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Text; empty is shown as `-`.
    Text(String),
    /// A state's word.
    State(String),
    /// An instant, if there is one.
    Time(Option<Timestamp>),
    /// A number, which stands at the right.
    Number(u64),
}

impl Cell {
    /// Text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn shown(&self, look: &Look) -> String {
        let text = match self {
            Self::Text(text) | Self::State(text) => one_line(text),
            Self::Time(time) => time.map(|time| moment(time, look)).unwrap_or_default(),
            Self::Number(number) => number.to_string(),
        };
        if text.is_empty() { "-".to_owned() } else { text }
    }

    fn cell(&self, look: &Look) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(self.shown(look));
        match self {
            Self::Number(_) => cell.set_alignment(CellAlignment::Right),
            Self::State(word) if look.colour => match state::colour(word) {
                Some(colour) => cell.fg(table_colour(colour)),
                None => cell,
            },
            Self::State(_) | Self::Text(_) | Self::Time(_) => cell,
        }
    }
}

/// A table with a head, without borders.
pub(crate) fn table<R: Row>(rows: &[R], look: &Look) -> String {
    let rows: Vec<Vec<Cell>> = rows.iter().map(|row| row.cells(look)).collect();
    let shown = shown_columns(R::COLUMNS, &rows, look);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    if look.colour {
        table.enforce_styling();
    }
    table.set_header(shown.iter().map(|at| R::COLUMNS[*at].title));
    for cells in &rows {
        table.add_row(shown.iter().map(|at| cells[*at].cell(look)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    // Who asks for every column wants to see all of each.
    cut_lines(&format!("{}\n", table.trim_fmt()), look.columns.filter(|_| !look.wide))
}

/// The columns that are shown: a narrow terminal does without spare ones, the last first.
fn shown_columns(columns: &[Column], rows: &[Vec<Cell>], look: &Look) -> Vec<usize> {
    let mut shown: Vec<usize> =
        (0..columns.len()).filter(|at| look.wide || columns[*at].shown != Shown::Wide).collect();
    let Some(most) = look.columns.filter(|_| !look.wide) else { return shown };
    let width = |at: usize| {
        let cells = rows.iter().map(|cells| cells[at].shown(look).chars().count());
        cells.max().unwrap_or(0).max(columns[at].title.len())
    };
    loop {
        let all: usize = shown.iter().map(|at| width(*at) + 3).sum();
        // Of a long text at the end the beginning will do.
        let end = shown.last().map_or(0, |at| width(*at).saturating_sub(END_MIN));
        let spare = shown.iter().rposition(|at| columns[*at].shown == Shown::IfItFits);
        match spare {
            Some(spare) if all > most + end => drop(shown.remove(spare)),
            Some(_) | None => return shown,
        }
    }
}

/// So much of the last column is worth more than spare columns.
const END_MIN: usize = 30;

/// What one thing consists of, one field a line; fields without a value are left out.
pub(crate) fn fields(fields: &[(&str, Cell)], look: &Look) -> String {
    let shown = || fields.iter().filter(|(_, cell)| *cell != Cell::text("") && *cell != Cell::Time(None));
    let width = shown().map(|(title, _)| title.len()).max().unwrap_or(0);
    let line = |(title, cell): &(&str, Cell)| {
        let value = match cell {
            Cell::State(word) => state::state_word(word, look),
            // On a line of its own there is room for both.
            Cell::Time(Some(time)) if look.now.is_some() => format!("{} ({time})", moment(*time, look)),
            Cell::Text(_) | Cell::Time(_) | Cell::Number(_) => cell.shown(look),
        };
        fold(&format!("{title:width$}   {value}"), look.columns, width + 3) + "\n"
    };
    shown().map(line).collect()
}

/// Text without line ends and control characters, which would tear a table.
fn one_line(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.chars().filter(|c| !c.is_control()).collect()
}

fn table_colour(colour: AnsiColor) -> Color {
    match colour {
        AnsiColor::Black => Color::Black,
        AnsiColor::Red => Color::DarkRed,
        AnsiColor::Green => Color::DarkGreen,
        AnsiColor::Yellow => Color::DarkYellow,
        AnsiColor::Blue => Color::DarkBlue,
        AnsiColor::Magenta => Color::DarkMagenta,
        AnsiColor::Cyan => Color::DarkCyan,
        AnsiColor::White => Color::Grey,
        AnsiColor::BrightBlack => Color::DarkGrey,
        AnsiColor::BrightRed => Color::Red,
        AnsiColor::BrightGreen => Color::Green,
        AnsiColor::BrightYellow => Color::Yellow,
        AnsiColor::BrightBlue => Color::Blue,
        AnsiColor::BrightMagenta => Color::Magenta,
        AnsiColor::BrightCyan => Color::Cyan,
        AnsiColor::BrightWhite => Color::White,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Night {
        name: &'static str,
        state: &'static str,
        rows: u64,
        at: i64,
    }

    impl Row for Night {
        const PLURAL: &'static str = "nights";
        const COLUMNS: &'static [Column] =
            &[Column::new("NAME"), Column::new("STATE"), Column::new("ROWS"), Column::wide("AT")];

        fn name(&self) -> String {
            self.name.into()
        }

        fn cells(&self, _: &Look) -> Vec<Cell> {
            let at = Cell::Time(Some(Timestamp::from_millis(self.at)));
            vec![Cell::text(self.name), Cell::State(self.state.into()), Cell::Number(self.rows), at]
        }
    }

    const NIGHTS: [Night; 2] = [
        Night { name: "first", state: "success", rows: 842, at: 0 },
        Night { name: "", state: "failed", rows: 7, at: 60_000 },
    ];

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        assert_eq!(
            table(&NIGHTS, &Look::PLAIN),
            "NAME    STATE     ROWS\nfirst   success    842\n-       failed       7\n"
        );
    }

    #[test]
    fn a_wide_one_has_all_columns() {
        let look = Look { wide: true, now: Some(Timestamp::from_millis(120_000)), ..Look::PLAIN };
        assert_eq!(
            table(&NIGHTS, &look),
            "NAME    STATE     ROWS   AT\nfirst   success    842   2m ago\n-       failed       7   1m ago\n"
        );
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let text = fields(
            &[
                ("Workflow", Cell::text("default/hello")),
                ("Schedule", Cell::text("")),
                ("Ended", Cell::Time(None)),
                ("State", Cell::State("success".into())),
            ],
            &Look::PLAIN,
        );
        assert_eq!(text, "Workflow   default/hello\nState      success\n");
    }
}
