//! How things are printed: tables and trees for people, JSON and YAML for programs.
//!
//! Everything here makes text out of values and writes nothing. Start at [`Row`] and [`Look`].

mod fit;
mod format;
mod state;
mod table;
mod time;
mod tree;

pub(crate) use fit::{cut, fold};
pub(crate) use format::{as_json, as_jsonl, as_names, as_yaml};
pub(crate) use state::paint;
pub(crate) use table::{Cell, Column, Row, fields, table};
pub(crate) use time::{moment, plain_span, span_between};
pub(crate) use tree::run_tree;

use matins_proto::Timestamp;

/// How to print for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// States have colours besides their words.
    pub(crate) colour: bool,
    /// The time that others are told relative to. `None`: they are told as RFC 3339.
    pub(crate) now: Option<Timestamp>,
    /// Show every column.
    pub(crate) wide: bool,
    /// How wide the terminal is. `None`: nothing is cut or folded.
    pub(crate) columns: Option<usize>,
}

/// How wide the terminal on standard output is; `None` if there is none, or it does not say.
pub(crate) fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(test)]
impl Look {
    /// As if written to a file.
    pub(crate) const PLAIN: Self = Self { colour: false, now: None, wide: false, columns: None };
}
