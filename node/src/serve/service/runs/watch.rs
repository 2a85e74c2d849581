//! Following one run, or a list of runs.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream;
use matins_core::State;
use matins_core::id::RunId;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{Run, Task, WatchRunRequest, WatchRunResponse, WatchRunsRequest, WatchRunsResponse};
use prost::Message as _;
use tokio_stream::Stream;
use tonic::Status;

use super::list::{Cursor, Lines, page};
use super::looks::{Listed, Looks, RunPrints, Shown};
use crate::serve::api::{Api, page_size};
use crate::serve::error::ApiError;
use crate::serve::pulse::Pulse;
use crate::serve::view::run::has_ended;

/// Items are told one by one while at most so many have not ended.
const OPEN_ITEMS_MAX: u32 = 100;
/// Lines of a list that a watch remembers having told.
const TOLD_MAX: usize = 2_000;
/// Items of one fan-out in the message that a watch begins with.
const FIRST_ITEMS_MAX: usize = 1_000;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The whole of a run, to begin with.
fn all(shown: &Shown, index: u64) -> WatchRunResponse {
    let ended = has_ended(&shown.run);
    let mut run = shown.run.clone();
    run.tasks = shown.tasks.iter().map(|(_, task)| task.clone()).collect();
    for task in &mut run.tasks {
        let own = shown.items.iter().filter(|(_, item)| item.name == task.name);
        let mut items: Vec<&Task> = own.map(|(_, item)| item).collect();
        items.sort_by_key(|item| item.item_index);
        task.items = items.into_iter().take(FIRST_ITEMS_MAX).cloned().collect();
    }
    WatchRunResponse { index, resync: true, run: Some(run), tasks: vec![], items: vec![], ended }
}

/// What is new of a run since `before`.
fn since(shown: &Shown, before: &RunPrints, index: u64) -> WatchRunResponse {
    let changed = |tasks: &[(u64, Task)]| {
        let new = tasks.iter().filter(|(print, _)| before.tasks.binary_search(print).is_err());
        let mut new: Vec<Task> = new.map(|(_, task)| task.clone()).collect();
        new.sort_by(|one, other| one.address.cmp(&other.address));
        new
    };
    let open =
        shown.tasks.iter().filter_map(|(_, task)| task.item_counts.as_ref()).map(|counts| {
            counts.waiting + counts.queued + counts.running + counts.stopping + counts.retrying
        });
    let is_told = open.sum::<u32>() <= OPEN_ITEMS_MAX;
    WatchRunResponse {
        index,
        resync: false,
        run: (shown.prints.run != before.run).then(|| shown.run.clone()),
        tasks: changed(&shown.tasks),
        items: if is_told { changed(&shown.items) } else { Vec::new() },
        ended: has_ended(&shown.run),
    }
}

struct WatchRun {
    api: Api,
    pulse: Pulse,
    looks: Looks,
    run: RunId,
    /// `None` before the first message.
    told: Option<Arc<RunPrints>>,
    is_over: bool,
}

/// Follows one run until it has ended.
pub(super) async fn run(
    (api, looks): (Api, Looks),
    request: WatchRunRequest,
) -> Result<Messages<WatchRunResponse>, ApiError> {
    let read = api.read(false).await?;
    let run = api.find_run(&read.state, &request.run).await?.id();
    let told = api
        .heard(request.after_index)
        .and_then(|state| state.retired(run).map(|rows| Shown::new(&rows, &state).prints));
    let pulse = Pulse::new(api.clone());
    let watch = WatchRun { api, pulse, looks, run, told, is_over: false };
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        if watch.is_over {
            return None;
        }
        let message = watch.next().await;
        watch.is_over = message.as_ref().map_or(true, |message| message.ended);
        Some((message.map_err(Status::from), watch))
    })))
}

impl WatchRun {
    async fn next(&mut self) -> Result<WatchRunResponse, ApiError> {
        let state = self.pulse.next().await?;
        let shown = self.look(&state).await?;
        Ok(match self.told.replace(Arc::clone(&shown.prints)) {
            Some(before) => since(&shown, &before, state.index.0),
            None => all(&shown, state.index.0),
        })
    }

    async fn look(&self, state: &State) -> Result<Arc<Shown>, ApiError> {
        if let Some(shown) = self.looks.run(self.run, state) {
            return Ok(shown);
        }
        let found = self.api.found_run(state, self.run).await?;
        let rows = found.rows(state);
        let rows =
            rows.ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &self.run.to_string()))?;
        Ok(Arc::new(Shown::new(&rows, state)))
    }
}

struct WatchList {
    api: Api,
    pulse: Pulse,
    looks: Looks,
    /// Stands for the next two.
    key: Vec<u8>,
    lines: Lines,
    limit: usize,
    /// The lines that were told. `None`: all is told anew, as in the first message.
    told: Option<BTreeMap<RunId, Line>>,
    is_over: bool,
}

/// What was told of a line.
#[derive(Clone, Copy)]
struct Line {
    print: u64,
    has_ended: bool,
}

/// Follows a list of runs.
pub(super) async fn list(
    (api, looks): (Api, Looks),
    request: WatchRunsRequest,
) -> Result<Messages<WatchRunsResponse>, ApiError> {
    let lines = Lines::of_watch(&request)?;
    let limit = page_size(request.limit, 50)?;
    let read = api.read(false).await?;
    // Who goes on has seen it: it may have gone since.
    if request.after_index == 0 {
        lines.must_be_of_something(&read.state)?;
    }
    // An older state would do for what is new since, but not for lines that came and went after it.
    let heard = api.heard_exactly(request.after_index);
    let told = heard.map(|state| by_id(&Listed::new(lines.of_state(&state, limit))));
    let key = WatchRunsRequest { after_index: 0, ..request }.encode_to_vec();
    let pulse = Pulse::new(api.clone());
    let watch = WatchList { api, pulse, looks, key, lines, limit, told, is_over: false };
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        if watch.is_over {
            return None;
        }
        let message = watch.next().await;
        watch.is_over = message.is_err();
        Some((message.map_err(Status::from), watch))
    })))
}

fn by_id(listed: &Listed) -> BTreeMap<RunId, Line> {
    let line = |print: u64, run: &Run| Line { print, has_ended: has_ended(run) };
    listed.runs.iter().map(|(id, print, run)| (*id, line(*print, run))).collect()
}

impl WatchList {
    async fn next(&mut self) -> Result<WatchRunsResponse, ApiError> {
        let state = self.pulse.next().await?;
        let index = state.index.0;
        // Nobody was told how a run ended that is in history already; it may be no line of this list any more.
        let is_lost = |(run, line): (&RunId, &Line)| !line.has_ended && !state.runs.contains(run);
        self.told.take_if(|told| told.iter().any(is_lost));
        let Some(told) = &mut self.told else {
            let asked = (&self.lines, Cursor::start(), self.limit);
            let (runs, _) = page(&self.api, &state, asked).await?;
            self.told = Some(by_id(&Listed::new(runs.clone())));
            return Ok(WatchRunsResponse { index, resync: true, runs, removed: Vec::new() });
        };
        let now = self.looks.list(&self.key, (&self.lines, self.limit), &state);
        let removed = removed(told, &now, (&state, self.limit));
        told.retain(|id, _| !removed.contains(id));
        let new =
            now.runs.iter().filter(|(id, print, _)| told.get(id).is_none_or(|line| line.print != *print));
        let runs: Vec<Run> = new.map(|(_, _, run)| run.clone()).collect();
        told.extend(by_id(&now));
        // A list that is watched for weeks must not grow: what is far behind is not told again.
        while told.len() > TOLD_MAX {
            told.pop_first();
        }
        let removed = removed.iter().map(ToString::to_string).collect();
        Ok(WatchRunsResponse { index, resync: false, runs, removed })
    }
}

/// Which lines that were told are none any more. A run that left for history stays a line: it changes no more.
fn removed(told: &BTreeMap<RunId, Line>, now: &Listed, (state, limit): (&State, usize)) -> Vec<RunId> {
    // A full list says nothing of what is older than its last line.
    let oldest = now.lines.first().copied().filter(|_| now.runs.len() == limit);
    let is_gone = |run: &RunId| {
        let is_seen = oldest.is_none_or(|oldest| *run > oldest);
        now.folded.contains(run) || (state.runs.contains(run) && is_seen && !now.lines.contains(run))
    };
    told.keys().filter(|run| is_gone(run)).copied().collect()
}
