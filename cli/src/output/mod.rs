//! How things are printed: tables and trees for people, JSON and YAML for programs.
//!
//! Everything here makes text out of values and writes nothing. Start at [`Row`] and [`Look`].

mod format;
mod state;
mod table;
mod time;
mod tree;

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
}

#[cfg(test)]
impl Look {
    /// As if written to a file.
    pub(crate) const PLAIN: Self = Self { colour: false, now: None, wide: false };
}
