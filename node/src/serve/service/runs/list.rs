//! Lists of runs: those of the state and those of history, merged by id, the newest first.
//!
//! A run and its retries are one line, that of the newest (PROTOCOL 4.4). Going from new to old, the first run of a chain
//! that comes by is its line; the chains whose beginning has not come by yet travel in the page token.
//!
//! What a list leaves out by workflow or state alone is not read from history at all, so that a rare match is found at once
//! among millions of runs. A page that still finds little is short, and the next one goes on.

use std::collections::BTreeSet;

use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::{Namespace, RunId, WorkflowName};
use matins_core::state::{RunRow, RunState};
use matins_core::time::Timestamp;
use matins_proto::v1::{ListRunsRequest, ListRunsResponse, Run, WatchRunsRequest, run};

use crate::serve::api::{Api, Found, core_time, named, no_workflow, page_size, workflow_name};
use crate::serve::error::ApiError;
use crate::serve::filter::Filter;
use crate::serve::page::{Query, invalid};
use crate::serve::view::run::{live_summary, retired_summary};
use crate::store::history::Among;

/// Runs looked at for one page: a filter that takes few of them gives short pages, not long calls.
const SCAN_MAX: usize = 5_000;
/// Runs read from history at once: no more than a page shows, within these bounds.
const BATCH: std::ops::RangeInclusive<usize> = 20..=200;
/// How a run that has left the state may have ended.
const ENDED: [RunState; 3] = [RunState::Success, RunState::Failed, RunState::Cancelled];
/// Chains of retries that a token remembers.
const CHAINS_MAX: usize = 200;
/// Runs named in one line of retries.
const CHAIN_NAMED_MAX: usize = 20;

/// Which runs a list has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    workflow: Option<WorkflowName>,
    namespace: Option<Namespace>,
    states: Vec<run::State>,
    since: Option<Timestamp>,
    is_folded: bool,
    filter: Filter,
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Runs with lower ids.
    before: RunId,
    /// First runs of chains that have their line already.
    chains: BTreeSet<RunId>,
}

impl Cursor {
    /// At the newest run.
    pub(super) fn start() -> Self {
        Self { before: RunId(u64::MAX), chains: BTreeSet::new() }
    }

    fn read(text: &str) -> Result<Self, ApiError> {
        let mut numbers = text.split(',').map(|number| number.parse().map(RunId).map_err(|_| invalid()));
        let before = numbers.next().ok_or_else(invalid)??;
        Ok(Self { before, chains: numbers.collect::<Result<_, _>>()? })
    }

    fn write(&self) -> String {
        // A chain whose first run lies behind is over; of very many the oldest are left out, and shown unfolded.
        let open = self.chains.iter().rev().filter(|root| **root < self.before).take(CHAINS_MAX);
        open.fold(self.before.0.to_string(), |text, root| format!("{text},{}", root.0))
    }
}

pub(super) async fn list(api: &Api, request: ListRunsRequest) -> Result<ListRunsResponse, ApiError> {
    let lines = Lines::of_list(&request)?;
    let query = Query::new("runs", &lines);
    let size = page_size(request.page_size, 50)?;
    let cursor = query.last(&request.page_token)?.map_or_else(|| Ok(Cursor::start()), Cursor::read)?;
    let read = api.read(request.stale).await?;
    // Later pages are of what was there when the first one was read.
    if request.page_token.is_empty() {
        lines.must_be_of_something(&read.state)?;
    }
    let (runs, next) = page(api, &read.state, (&lines, cursor, size)).await?;
    let next_page_token = next.map(|cursor| query.token(&cursor.write())).unwrap_or_default();
    Ok(ListRunsResponse { read_at: Some(read.at), runs, next_page_token })
}

impl Lines {
    pub(super) fn of_list(request: &ListRunsRequest) -> Result<Self, ApiError> {
        Ok(Self {
            workflow: some_workflow(&request.workflow)?,
            namespace: some_namespace(&request.namespace)?,
            states: request.states().collect(),
            since: request.since.map(core_time),
            is_folded: !request.retries,
            filter: Filter::of_runs(&request.filter)?,
        })
    }

    pub(super) fn of_watch(request: &WatchRunsRequest) -> Result<Self, ApiError> {
        Ok(Self {
            workflow: some_workflow(&request.workflow)?,
            namespace: some_namespace(&request.namespace)?,
            states: request.states().collect(),
            since: request.since.map(core_time),
            is_folded: !request.retries,
            filter: Filter::of_runs(&request.filter)?,
        })
    }

    /// Refuses the list of a workflow that is not there and of which there is no run either: its name is misspelt.
    pub(super) fn must_be_of_something(&self, state: &State) -> Result<(), ApiError> {
        let Some(name) = &self.workflow else { return Ok(()) };
        let is_there = state.workflows.contains(name)
            || state.retired_runs.contains(name)
            // Of a submitted file nothing is registered.
            || state.runs.iter().any(|(_, row)| row.workflow == *name);
        if is_there { Ok(()) } else { Err(no_workflow(state, name)) }
    }

    /// What can be told from the row alone, which is most.
    fn takes_row(&self, row: &RunRow) -> bool {
        self.workflow.as_ref().is_none_or(|name| row.workflow == *name)
            && self.namespace.as_ref().is_none_or(|name| row.workflow.namespace == *name)
    }

    /// The runs of history of which some may be in the list, as far as workflow and state tell.
    fn among(&self, state: &State) -> Among {
        let names = state.retired_runs.iter().map(|(name, _)| name).filter(|name| {
            self.workflow.as_ref().is_none_or(|asked| asked == *name)
                && self.namespace.as_ref().is_none_or(|asked| *asked == name.namespace)
        });
        let is_asked = |state: RunState| {
            self.states.is_empty() || self.states.iter().any(|asked| asked.as_str_name() == state.as_str())
        };
        let may_be_in =
            |name: &WorkflowName, state: RunState| is_asked(state) && !self.filter.leaves_out(name, state);
        let pairs = names.flat_map(|name| ENDED.map(|state| (name, state)));
        let pairs = pairs.filter(|(name, state)| may_be_in(name, *state));
        let pairs: BTreeSet<_> =
            pairs.map(|(name, state)| (name.to_string(), state.as_str().to_owned())).collect();
        if pairs.len() == state.retired_runs.len() * ENDED.len() { Among::All } else { Among::Pairs(pairs) }
    }

    fn takes(&self, run: &Run) -> bool {
        (self.states.is_empty() || self.states.contains(&run.state())) && self.filter.takes_run(run)
    }

    /// Whether this and all older runs are too old. Ids sort by age.
    fn is_over(&self, row: &RunRow) -> bool {
        self.since.is_some_and(|since| row.created_at < since)
    }

    /// Whether a run is part of a line that came before; notes the chain of one that is a line.
    fn is_folded_away(&self, row: &RunRow, chains: &mut BTreeSet<RunId>) -> bool {
        if !self.is_folded {
            return false;
        }
        if chains.contains(&row.retry_root) {
            return true;
        }
        if row.retry_of.is_some() {
            chains.insert(row.retry_root);
        }
        false
    }

    /// The lines of the state alone, `size` at most, the newest first: what changes, since history does not.
    pub(super) fn of_state(&self, state: &State, size: usize) -> Vec<Run> {
        let mut chains = BTreeSet::new();
        let rows = state.runs.iter().rev().take_while(|(_, row)| !self.is_over(row));
        let rows = rows.filter(|(_, row)| self.takes_row(row) && !self.is_folded_away(row, &mut chains));
        let runs = rows.map(|(id, row)| {
            let mut run = live_summary(*id, row, state);
            if self.is_folded {
                run.retries = earlier_in_state(row, state).iter().map(ToString::to_string).collect();
            }
            run
        });
        runs.filter(|run| self.takes(run)).take(size).collect()
    }
}

/// A page of lines, and where the next one begins.
pub(super) async fn page(
    api: &Api,
    state: &State,
    (lines, mut cursor, size): (&Lines, Cursor, usize),
) -> Result<(Vec<Run>, Option<Cursor>), ApiError> {
    let mut runs = Vec::new();
    let mut source = Merged::new(api, state, cursor.before, (lines.among(state), size));
    for _ in 0..SCAN_MAX {
        let (id, found) = match source.next().await? {
            Next::Run(id, found) => (id, found),
            Next::GoesOn(before) => {
                cursor.before = before;
                return Ok((runs, Some(cursor)));
            }
            Next::Over => return Ok((runs, None)),
        };
        if runs.len() == size {
            return Ok((runs, Some(cursor)));
        }
        cursor.before = id;
        let row = match &found {
            Some(retired) => &retired.run,
            None => match state.runs.get(&id) {
                Some(row) => row,
                None => continue,
            },
        };
        if lines.is_over(row) {
            return Ok((runs, None));
        }
        if !lines.takes_row(row) || lines.is_folded_away(row, &mut cursor.chains) {
            continue;
        }
        let mut run = match &found {
            Some(retired) => retired_summary(retired, state),
            None => live_summary(id, row, state),
        };
        if lines.takes(&run) && !(lines.is_folded && source.has_passed_by(id, row)?) {
            if lines.is_folded {
                run.retries = earlier(api, state, row.retry_of).await?;
            }
            runs.push(run);
        }
    }
    Ok((runs, Some(cursor)))
}

/// The runs that a retry goes back to, the newest first.
async fn earlier(api: &Api, state: &State, of: Option<RunId>) -> Result<Vec<String>, ApiError> {
    let mut names = Vec::new();
    let mut next = of;
    while let Some(id) = next.filter(|_| names.len() < CHAIN_NAMED_MAX) {
        names.push(id.to_string());
        next = match api.found_run(state, id).await {
            Ok(Found::Live(id)) => state.runs.get(&id).and_then(|row| row.retry_of),
            Ok(Found::Retired(retired)) => retired.run.retry_of,
            // Retention may have taken it; the chain ends there.
            Err(error) if error.reason() == matins_proto::v1::error::Reason::RunNotFound => None,
            Err(error) => return Err(error),
        };
    }
    Ok(names)
}

fn earlier_in_state(row: &RunRow, state: &State) -> Vec<RunId> {
    let before = |id: &RunId| state.runs.get(id).and_then(|row| row.retry_of);
    std::iter::successors(row.retry_of, before).take(CHAIN_NAMED_MAX).collect()
}

/// The runs of the state and of history, by id, the newest first.
struct Merged<'a> {
    api: &'a Api,
    state: &'a State,
    among: Among,
    batch_max: usize,
    live: Option<RunId>,
    batch: std::vec::IntoIter<RetiredRun>,
    retired: Option<RetiredRun>,
    /// History is read down to here; `None`: all of it is.
    before: Option<RunId>,
}

/// What comes next in a list.
enum Next {
    /// A run. `None` in the second place: it is in the state.
    Run(RunId, Option<Box<RetiredRun>>),
    /// Nothing was found for now among what was looked at: all runs from this one on.
    GoesOn(RunId),
    /// Nothing.
    Over,
}

impl<'a> Merged<'a> {
    fn new(api: &'a Api, state: &'a State, before: RunId, (among, size): (Among, usize)) -> Self {
        Self {
            api,
            state,
            among,
            // One more tells whether there is a next page.
            batch_max: (size + 1).clamp(*BATCH.start(), *BATCH.end()),
            live: before_in(state, before),
            batch: Vec::new().into_iter(),
            retired: None,
            before: Some(before),
        }
    }

    async fn next(&mut self) -> Result<Next, ApiError> {
        self.fill().await?;
        let retired = self.retired.as_ref().map(|run| run.id);
        // Below what was looked at in history nothing is known.
        let known = self.before.filter(|_| retired.is_none());
        let (live, retired) = match (self.live, retired) {
            (None, None) => return Ok(known.map_or(Next::Over, Next::GoesOn)),
            // A run that is leaving may be in both for a moment; the state is the truth.
            (Some(live), Some(retired)) if live == retired => {
                self.retired = None;
                (Some(live), None)
            }
            (Some(live), Some(retired)) if live < retired => (None, Some(retired)),
            (Some(live), None) if known.is_some_and(|before| live < before) => {
                return Ok(known.map_or(Next::Over, Next::GoesOn));
            }
            (Some(live), Some(_) | None) => (Some(live), None),
            (None, Some(retired)) => (None, Some(retired)),
        };
        if let Some(id) = live {
            self.live = before_in(self.state, id);
            return Ok(Next::Run(id, None));
        }
        Ok(retired
            .zip(self.retired.take())
            .map_or(Next::Over, |(id, run)| Next::Run(id, Some(Box::new(run)))))
    }

    async fn fill(&mut self) -> Result<(), ApiError> {
        if self.retired.is_none() {
            self.retired = self.batch.next();
        }
        if let Some(before) = self.before.filter(|_| self.retired.is_none()) {
            let page = self.api.history.runs_before(before, &self.among, self.batch_max).await?;
            self.before = page.next;
            self.batch = page.runs.into_iter();
            self.retired = self.batch.next();
        }
        Ok(())
    }

    /// Whether a later run of its chain was left out of what is read from history, so that this one is not their line. Those
    /// of the state have all come by.
    fn has_passed_by(&self, id: RunId, row: &RunRow) -> Result<bool, ApiError> {
        match self.among {
            Among::All => Ok(false),
            Among::Pairs(_) => Ok(self.api.history.has_later_retry(row.retry_root, id)?),
        }
    }
}

fn before_in(state: &State, id: RunId) -> Option<RunId> {
    state.runs.range(..id).next_back().map(|(id, _)| *id)
}

fn some_workflow(text: &str) -> Result<Option<WorkflowName>, ApiError> {
    (!text.is_empty()).then(|| workflow_name(text)).transpose()
}

fn some_namespace(text: &str) -> Result<Option<Namespace>, ApiError> {
    (!text.is_empty()).then(|| named("namespace", text)).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_reads_back_without_chains_that_are_over() {
        let cursor = Cursor { before: RunId(40), chains: [RunId(7), RunId(41)].into() };
        let expected = Cursor { before: RunId(40), chains: [RunId(7)].into() };
        assert_eq!(Cursor::read(&cursor.write()), Ok(expected));
        assert!(Cursor::read("x").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_cursor_or_is_refused(text in "[0-9,+ -]{0,60}", other in ".{0,20}") {
            drop(Cursor::read(&other));
            if let Ok(cursor) = Cursor::read(&text) {
                let again = Cursor::read(&cursor.write()).expect("what was read can be written");
                prop_assert_eq!(again.before, cursor.before);
                prop_assert!(again.chains.is_subset(&cursor.chains));
            }
        }
    }
}
