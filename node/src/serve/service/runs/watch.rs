//! Following one run, or a list of runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
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

/// A run as a watch tells it.
struct Shown {
    /// Without tasks.
    run: Run,
    /// Without items, in the order of the definition.
    tasks: Vec<Task>,
    items: Vec<Task>,
}

/// What was told of a run: small, since a reader may leave it here for hours, and ten thousand may do so.
struct Told {
    run: u64,
    /// Of all tasks and items, in order.
    tasks: Vec<u64>,
}

impl Shown {
    fn new(rows: &RetiredRun, state: &State) -> Self {
        let mut run = whole(rows, state, (Detail::NoOutputs, usize::MAX));
        let mut tasks = std::mem::take(&mut run.tasks);
        let items = tasks.iter_mut().flat_map(|task| std::mem::take(&mut task.items)).collect();
        Self { run, tasks, items }
    }

    fn told(&self) -> Told {
        let mut tasks: Vec<u64> = self.tasks.iter().chain(&self.items).map(fingerprint).collect();
        tasks.sort_unstable();
        Told { run: fingerprint(&self.run), tasks }
    }

    /// The whole of it, to begin with.
    fn all(self, index: u64) -> WatchRunResponse {
        let ended = has_ended(&self.run);
        let (mut run, mut items) = (self.run, self.items);
        items.sort_by_key(|item| item.item_index);
        run.tasks = self.tasks;
        for task in &mut run.tasks {
            let own = items.iter().filter(|item| item.name == task.name);
            task.items = own.take(FIRST_ITEMS_MAX).cloned().collect();
        }
        WatchRunResponse { index, resync: true, run: Some(run), tasks: vec![], items: vec![], ended }
    }

    /// What is new since `before`.
    fn since(self, before: &Told, index: u64) -> WatchRunResponse {
        let changed = |tasks: Vec<Task>| {
            let is_new = |task: &Task| before.tasks.binary_search(&fingerprint(task)).is_err();
            let mut new: Vec<Task> = tasks.into_iter().filter(is_new).collect();
            new.sort_by(|one, other| one.address.cmp(&other.address));
            new
        };
        let ended = has_ended(&self.run);
        let open = self.tasks.iter().filter_map(|task| task.item_counts.as_ref()).map(|counts| {
            counts.waiting + counts.queued + counts.running + counts.stopping + counts.retrying
        });
        let is_told = open.sum::<u32>() <= OPEN_ITEMS_MAX;
        WatchRunResponse {
            index,
            resync: false,
            run: Some(self.run).filter(|run| fingerprint(run) != before.run),
            tasks: changed(self.tasks),
            items: if is_told { changed(self.items) } else { Vec::new() },
            ended,
        }
    }
}

/// Stands for a message that was told: two that differ have the same one once in 2^64.
fn fingerprint(message: &impl prost::Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&message.encode_to_vec());
    hasher.finish()
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
        .and_then(|state| state.retired(run).map(|rows| Shown::new(&rows, &state).told()));
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
        let now = Shown::new(&rows, &state);
        Ok(match self.told.replace(now.told()) {
            Some(before) => now.since(&before, state.index.0),
            None => now.all(state.index.0),
        })
    }
}

struct WatchList {
    api: Api,
    pulse: Pulse,
    lines: Lines,
    limit: usize,
    /// The lines that were told. `None` before the first message.
    told: Option<BTreeMap<RunId, u64>>,
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
    let told = api.heard(request.after_index).map(|state: Arc<State>| by_id(&lines.of_state(&state, limit)));
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

fn by_id(runs: &[Run]) -> BTreeMap<RunId, u64> {
    runs.iter().filter_map(|run| Some((run.id.parse().ok()?, fingerprint(run)))).collect()
}

impl WatchList {
    async fn next(&mut self) -> Result<WatchRunsResponse, ApiError> {
        let state = self.pulse.next().await?;
        let index = state.index.0;
        let Some(told) = &mut self.told else {
            let asked = (&self.lines, Cursor::start(), self.limit);
            let (runs, _) = page(&self.api, &state, asked).await?;
            self.told = Some(by_id(&runs));
            return Ok(WatchRunsResponse { index, resync: true, runs, removed: Vec::new() });
        };
        let mut runs = self.lines.of_state(&state, self.limit);
        let removed = removed(told, &runs, (&state, self.limit));
        told.retain(|id, _| !removed.contains(id));
        let now = by_id(&runs);
        // Those that are new or have changed, the newest first.
        let id = |run: &Run| run.id.parse::<RunId>().ok();
        runs.retain(|run| id(run).is_some_and(|id| told.get(&id) != now.get(&id)));
        runs.sort_by_key(|run| Reverse(id(run)));
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
fn removed(told: &BTreeMap<RunId, u64>, now: &[Run], (state, limit): (&State, usize)) -> Vec<RunId> {
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
