//! What `top` shows, and what keys do to it. Pure.

use std::cmp::Ordering;

use matins_proto::Timestamp;
use matins_proto::v1::{ClusterStatusResponse, Executor, Pool, Run};

/// Runs that one page key moves by.
const PAGE: usize = 10;

/// What the cluster said at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) at: Timestamp,
    pub(super) status: ClusterStatusResponse,
    /// Those that have not ended.
    pub(super) runs: Vec<Run>,
    pub(super) executors: Vec<Executor>,
    pub(super) pools: Vec<Pool>,
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    /// Closes the panel, and without one leaves.
    Back,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// By the next column.
    Sort,
    /// The other way round.
    Turn,
    /// Why the chosen run waits; again: no more.
    Why,
    /// Any other; the picture is drawn anew, as after the terminal changed its size.
    Other,
}

/// What a key asks of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Leave,
    /// Of this run.
    Why(String),
}

/// By what runs are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Those that came first.
    Age,
    Run,
    Workflow,
    State,
}

impl Sort {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Run => "run",
            Self::Workflow => "workflow",
            Self::State => "state",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Age => Self::Run,
            Self::Run => Self::Workflow,
            Self::Workflow => Self::State,
            Self::State => Self::Age,
        }
    }
}

/// Everything that is shown.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) seen: Seen,
    pub(super) sort: Sort,
    is_turned: bool,
    /// The run under the mark, by id: it stays the same one while others come and go.
    chosen: Option<String>,
    /// Why the chosen run waits, if that was asked.
    pub(super) why: Option<String>,
    /// Why the cluster could not be asked the last time.
    pub(super) fault: Option<String>,
}

impl Model {
    pub(super) fn new(seen: Seen) -> Self {
        let mut model = Self {
            seen: Seen::default(),
            sort: Sort::Age,
            is_turned: false,
            chosen: None,
            why: None,
            fault: None,
        };
        model.saw(seen);
        model
    }

    /// The cluster answered.
    pub(super) fn saw(&mut self, seen: Seen) {
        let before = self.position();
        self.seen = seen;
        self.fault = None;
        self.order();
        let is_there = self.chosen.as_ref().is_some_and(|id| self.seen.runs.iter().any(|run| run.id == *id));
        if !is_there {
            // The next one takes its place.
            self.choose(before);
            self.why = None;
        }
    }

    /// The cluster did not answer; what was seen before stays.
    pub(super) fn failed(&mut self, fault: String) {
        self.fault = Some(fault);
    }

    pub(super) fn explain(&mut self, why: String) {
        self.why = Some(why);
    }

    /// Where the mark stands.
    pub(super) fn position(&self) -> usize {
        let chosen = self.chosen.as_ref();
        chosen.and_then(|id| self.seen.runs.iter().position(|run| run.id == *id)).unwrap_or(0)
    }

    fn choose(&mut self, position: usize) {
        let last = self.seen.runs.len().saturating_sub(1);
        self.chosen = self.seen.runs.get(position.min(last)).map(|run| run.id.clone());
    }

    fn go(&mut self, position: usize) {
        self.choose(position);
        self.why = None;
    }

    pub(super) fn press(&mut self, key: Key) -> Wish {
        let at = self.position();
        match key {
            Key::Why | Key::Back if self.why.is_some() => self.why = None,
            Key::Quit | Key::Back => return Wish::Leave,
            Key::Up => self.go(at.saturating_sub(1)),
            Key::Down => self.go(at + 1),
            Key::PageUp => self.go(at.saturating_sub(PAGE)),
            Key::PageDown => self.go(at + PAGE),
            Key::First => self.go(0),
            Key::Last => self.go(usize::MAX),
            Key::Sort => {
                self.sort = self.sort.next();
                self.order();
            }
            Key::Turn => {
                self.is_turned = !self.is_turned;
                self.order();
            }
            Key::Why => return self.chosen.clone().map_or(Wish::Nothing, Wish::Why),
            Key::Other => {}
        }
        Wish::Nothing
    }

    fn order(&mut self) {
        let (sort, is_turned) = (self.sort, self.is_turned);
        self.seen.runs.sort_by(|a, b| {
            let order = compare(sort, a, b);
            if is_turned { order.reverse() } else { order }
        });
    }
}

fn compare(sort: Sort, a: &Run, b: &Run) -> Ordering {
    let number = |run: &Run| run.id.rsplit('-').next().and_then(|digits| digits.parse::<u64>().ok());
    let by_age = || (a.created_at, number(a)).cmp(&(b.created_at, number(b)));
    match sort {
        Sort::Age => by_age(),
        Sort::Run => number(a).cmp(&number(b)),
        Sort::Workflow => a.workflow.cmp(&b.workflow).then_with(by_age),
        Sort::State => a.state().as_str_name().cmp(b.state().as_str_name()).then_with(by_age),
    }
}

#[cfg(test)]
mod tests;
