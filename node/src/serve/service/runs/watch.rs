//! Following one run, or a list of runs.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use futures::stream;
use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::RunId;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{Run, Task, WatchRunRequest, WatchRunResponse, WatchRunsRequest, WatchRunsResponse};
use tokio_stream::Stream;
use tonic::Status;

use super::list::{Cursor, Lines, page};
use crate::serve::api::{Api, page_size};
use crate::serve::error::ApiError;
use crate::serve::pulse::Pulse;
use crate::serve::view::run::{has_ended, whole};
use crate::serve::view::task::Detail;

/// Items are told one by one while at most so many have not ended.
const OPEN_ITEMS_MAX: u32 = 100;
/// Lines of a list that a watch remembers having told.
const TOLD_MAX: usize = 2_000;
/// Items of one fan-out in the message that a watch begins with.
const FIRST_ITEMS_MAX: usize = 1_000;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What was told of a run.
struct Told {
    run: Run,
    /// Without items.
    tasks: BTreeMap<String, Task>,
    items: BTreeMap<String, Task>,
}

impl Told {
    /// A run as a watch tells it.
    fn new(rows: &RetiredRun, state: &State) -> Self {
        let mut run = whole(rows, state, (Detail::NoOutputs, usize::MAX));
        let mut items = BTreeMap::new();
        let mut tasks = BTreeMap::new();
        for task in &mut run.tasks {
            items.extend(task.items.drain(..).map(|item| (item.address.clone(), item)));
            tasks.insert(task.address.clone(), task.clone());
        }
        Self { run, tasks, items }
    }

    /// The whole of it, to begin with.
    fn all(&self, index: u64) -> WatchRunResponse {
        let mut run = self.run.clone();
        for task in &mut run.tasks {
            let own = self.items.values().filter(|item| item.name == task.name);
            task.items = own.take(FIRST_ITEMS_MAX).cloned().collect();
            task.items.sort_by_key(|item| item.item_index);
        }
        let ended = has_ended(&run);
        WatchRunResponse { index, resync: true, run: Some(run), tasks: vec![], items: vec![], ended }
    }

    /// What is new since `before`.
    fn since(&self, before: &Self, index: u64) -> WatchRunResponse {
        let bare = |run: &Run| Run { tasks: Vec::new(), ..run.clone() };
        let run = Some(bare(&self.run)).filter(|run| *run != bare(&before.run));
        let changed = |now: &BTreeMap<String, Task>, then: &BTreeMap<String, Task>| -> Vec<Task> {
            let new = now.iter().filter(|(address, task)| then.get(*address) != Some(*task));
            new.map(|(_, task)| task.clone()).collect()
        };
        let is_ended = has_ended(&self.run);
        let open = self.run.tasks.iter().filter_map(|task| task.item_counts.as_ref()).map(|counts| {
            counts.waiting + counts.queued + counts.running + counts.stopping + counts.retrying
        });
        let is_told = open.sum::<u32>() <= OPEN_ITEMS_MAX;
        WatchRunResponse {
            index,
            resync: false,
            run,
            tasks: changed(&self.tasks, &before.tasks),
            items: if is_told { changed(&self.items, &before.items) } else { Vec::new() },
            ended: is_ended,
        }
    }
}

struct WatchRun {
    api: Api,
    pulse: Pulse,
    run: RunId,
    told: Option<Told>,
    is_over: bool,
}

/// Follows one run until it has ended.
pub(super) async fn run(api: Api, request: WatchRunRequest) -> Result<Messages<WatchRunResponse>, ApiError> {
    let read = api.read(false).await?;
    let run = api.find_run(&read.state, &request.run).await?.id();
    let told = api
        .heard(request.after_index)
        .and_then(|state| state.retired(run).map(|rows| Told::new(&rows, &state)));
    let pulse = Pulse::new(api.clone());
    let watch = WatchRun { api, pulse, run, told, is_over: false };
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
        let found = self.api.found_run(&state, self.run).await?;
        let rows = found
            .rows(&state)
            .ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &self.run.to_string()))?;
        let now = Told::new(&rows, &state);
        let message = match &self.told {
            Some(before) => now.since(before, state.index.0),
            None => now.all(state.index.0),
        };
        self.told = Some(now);
        Ok(message)
    }
}

struct WatchList {
    api: Api,
    pulse: Pulse,
    lines: Lines,
    limit: usize,
    /// `None` before the first message.
    told: Option<BTreeMap<RunId, Run>>,
    is_over: bool,
}

/// Follows a list of runs.
pub(super) async fn list(
    api: Api,
    request: WatchRunsRequest,
) -> Result<Messages<WatchRunsResponse>, ApiError> {
    let lines = Lines::of_watch(&request)?;
    let limit = page_size(request.limit, 50)?;
    api.read(false).await?;
    let told = api.heard(request.after_index).map(|state: Arc<State>| by_id(lines.of_state(&state, limit)));
    let pulse = Pulse::new(api.clone());
    let watch = WatchList { api, pulse, lines, limit, told, is_over: false };
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        if watch.is_over {
            return None;
        }
        let message = watch.next().await;
        watch.is_over = message.is_err();
        Some((message.map_err(Status::from), watch))
    })))
}

fn by_id(runs: Vec<Run>) -> BTreeMap<RunId, Run> {
    runs.into_iter().filter_map(|run| Some((run.id.parse().ok()?, run))).collect()
}

impl WatchList {
    async fn next(&mut self) -> Result<WatchRunsResponse, ApiError> {
        let state = self.pulse.next().await?;
        let index = state.index.0;
        let Some(told) = &mut self.told else {
            let asked = (&self.lines, Cursor::start(), self.limit);
            let (runs, _) = page(&self.api, &state, asked).await?;
            self.told = Some(by_id(runs.clone()));
            return Ok(WatchRunsResponse { index, resync: true, runs, removed: Vec::new() });
        };
        let now = self.lines.of_state(&state, self.limit);
        let removed = removed(told, &now, (&state, self.limit));
        told.retain(|id, _| !removed.contains(id));
        let now = by_id(now);
        let new = now.iter().rev().filter(|(id, run)| told.get(*id) != Some(*run));
        let runs: Vec<Run> = new.map(|(_, run)| run.clone()).collect();
        told.extend(now);
        // A list that is watched for weeks must not grow: what is far behind is not told again.
        while told.len() > TOLD_MAX {
            told.pop_first();
        }
        let removed = removed.iter().map(ToString::to_string).collect();
        Ok(WatchRunsResponse { index, resync: false, runs, removed })
    }
}

/// Which lines that were told are none any more. A run that left for history stays a line: it changes no more.
fn removed(told: &BTreeMap<RunId, Run>, now: &[Run], (state, limit): (&State, usize)) -> Vec<RunId> {
    let ids = |texts: &mut dyn Iterator<Item = &String>| -> BTreeSet<RunId> {
        texts.filter_map(|text| text.parse().ok()).collect()
    };
    let lines = ids(&mut now.iter().map(|run| &run.id));
    let folded = ids(&mut now.iter().flat_map(|run| &run.retries));
    // A full list says nothing of what is older than its last line.
    let oldest = lines.first().copied().filter(|_| now.len() == limit);
    let is_gone = |run: &RunId| {
        let is_seen = oldest.is_none_or(|oldest| *run > oldest);
        folded.contains(run) || (state.runs.contains(run) && is_seen && !lines.contains(run))
    };
    told.keys().filter(|run| is_gone(run)).copied().collect()
}
