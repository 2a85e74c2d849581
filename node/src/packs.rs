//! Logs of ended attempts, from the executor that wrote them to the voters (PROTOCOL 6.7).
//!
//! Logs do not hold up a report: they go in packs of many attempts, closed at 1 MiB or 5 s after the first attempt in it
//! ended, and one command attaches them. An executor deletes a log when its attachment is applied. What is open is
//! found in the state, so a node that was away goes on where it stopped. Start reading at [`Packer::run`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use matins_core::id::{Digest, ExecutorId, Fence};
use matins_core::state::LogPlace;
use matins_core::time::BootTime;
use matins_core::{Effect, State};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::execute::LogFolder;
use crate::metrics::ExecutorMetrics;
use crate::raft::{AppliedEntry, Subscription};
use crate::system::boot_time;

/// A pack of so many bytes is closed at once.
const PACK_BYTES_MAX: u64 = 1 << 20;
/// A pack is closed so long after the first attempt in it ended.
const PACK_WAITS: Duration = Duration::from_secs(5);
/// How often an executor without a node asks what is open.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Before a pack that could not be stored or attached is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where packs go.
#[tonic::async_trait]
pub trait Packs: Send + Sync + 'static {
    /// Stores a blob, durable on a majority when this answers; an error says in words why not.
    async fn put(&self, bytes: Bytes) -> Result<Digest, String>;

    /// Tells the cluster where the logs are now.
    async fn attach(&self, logs: Vec<(Fence, LogPlace)>) -> Result<(), String>;
}

/// Asked what is open, by an executor that has no state to look at.
#[tonic::async_trait]
pub trait OpenLogs: Send + Sync + 'static {
    /// Fences of ended attempts whose logs wait to be packed; and which of these fences are settled. `None`: ask later.
    async fn look(&self, fences: Vec<Fence>) -> Option<(Vec<Fence>, Vec<Fence>)>;
}

/// How a packer comes to know what is open.
enum News {
    /// From the state and the entries of the node that the executor belongs to.
    Here(watch::Receiver<Arc<State>>, Subscription),
    /// By asking.
    Asked(Arc<dyn OpenLogs>),
}

/// Whether nobody waits for a log and no live attempt writes it.
pub(crate) fn is_settled(state: &State, fence: Fence) -> bool {
    !state.live.contains(&fence)
        && !state.logs_open.contains(&fence)
        && fence.0 <= state.cluster.counters.fence
}

/// Packs the logs of one executor.
pub struct Packer {
    executor: ExecutorId,
    logs: LogFolder,
    metrics: ExecutorMetrics,
    packs: Arc<dyn Packs>,
    news: News,
    /// Ended attempts whose logs wait to be packed.
    waiting: BTreeSet<Fence>,
    /// When the oldest of them was noticed.
    waiting_since: Option<BootTime>,
    bytes: u64,
    closes_at: Option<Instant>,
}

impl Packer {
    /// A packer for the executor of this node.
    pub fn new(
        executor: ExecutorId,
        (logs, metrics): (LogFolder, ExecutorMetrics),
        packs: Arc<dyn Packs>,
        (states, entries): (watch::Receiver<Arc<State>>, Subscription),
    ) -> Self {
        let news = News::Here(states, entries);
        Self::begin(executor, (logs, metrics), packs, news)
    }

    /// A packer for an executor that belongs to no node.
    pub fn asking(
        executor: ExecutorId,
        (logs, metrics): (LogFolder, ExecutorMetrics),
        packs: Arc<dyn Packs>,
        open: Arc<dyn OpenLogs>,
    ) -> Self {
        let news = News::Asked(open);
        Self::begin(executor, (logs, metrics), packs, news)
    }

    fn begin(
        executor: ExecutorId,
        (logs, metrics): (LogFolder, ExecutorMetrics),
        packs: Arc<dyn Packs>,
        news: News,
    ) -> Self {
        let waiting = BTreeSet::new();
        Self { executor, logs, metrics, packs, news, waiting, waiting_since: None, bytes: 0, closes_at: None }
    }

    /// Packs for as long as the node lives.
    pub async fn run(mut self) {
        self.look_at_state();
        loop {
            if self.waiting.is_empty() {
                self.waiting_since = None;
            }
            self.metrics.logs_wait(self.waiting.len(), self.waiting_since);
            let closes_at = self.closes_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let is_full = self.bytes >= PACK_BYTES_MAX;
            tokio::select! {
                heard = self.news.next() => match heard {
                    Heard::Entry(entry) => self.note(&entry),
                    Heard::Lagged => self.look_at_state(),
                    Heard::Time => self.ask().await,
                    Heard::End => return,
                },
                () = sleep_until(closes_at), if self.closes_at.is_some() && !is_full => self.close().await,
                () = std::future::ready(()), if is_full => self.close().await,
            }
        }
    }

    /// All that is open, and what lies here for nothing.
    fn look_at_state(&mut self) {
        let News::Here(states, _) = &self.news else { return };
        let state = states.borrow().clone();
        for (fence, (executor, _, _)) in state.logs_open.iter() {
            if *executor == self.executor {
                self.add(*fence);
            }
        }
        // A log that nobody waits for and no live attempt writes was settled while this node was away.
        for fence in self.logs.fences().unwrap_or_default() {
            if is_settled(&state, fence) {
                self.delete(fence);
            }
        }
    }

    /// The same, without a state.
    async fn ask(&mut self) {
        let News::Asked(open) = &self.news else { return };
        let answer = open.look(self.logs.fences().unwrap_or_default()).await;
        let Some((open, settled)) = answer else { return };
        for fence in open {
            self.add(fence);
        }
        for fence in settled {
            self.waiting.remove(&fence);
            self.delete(fence);
        }
    }

    fn note(&mut self, entry: &AppliedEntry) {
        for effect in &entry.effects {
            #[expect(clippy::wildcard_enum_match_arm, reason = "a packer listens for what concerns logs")]
            match effect {
                Effect::Ended { fence, executor }
                    if *executor == self.executor && entry.state.logs_open.contains(fence) =>
                {
                    self.add(*fence);
                }
                Effect::LogsSettled(executor, fences) if *executor == self.executor => {
                    for fence in fences {
                        self.waiting.remove(fence);
                        self.delete(*fence);
                    }
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, fence: Fence) {
        if self.waiting.insert(fence) {
            self.bytes += std::fs::metadata(self.logs.path(fence)).map_or(0, |file| file.len());
            self.closes_at.get_or_insert_with(|| Instant::now() + PACK_WAITS);
            self.waiting_since.get_or_insert_with(boot_time);
        }
    }

    fn delete(&self, fence: Fence) {
        if let Err(error) = self.logs.delete(fence) {
            tracing::warn!(%fence, %error, "cannot delete a log that is attached");
        }
    }

    /// Closes the pack: stores it, then says where the logs are. What fails is tried again with the next pack.
    async fn close(&mut self) {
        let fences: Vec<Fence> = std::mem::take(&mut self.waiting).into_iter().collect();
        (self.bytes, self.closes_at) = (0, None);
        for batch in batches(&self.logs, &fences) {
            if let Err(why) = self.pack(&batch).await {
                tracing::warn!(logs = batch.len(), why, "cannot attach logs yet");
                for fence in batch {
                    self.add(fence);
                }
                self.bytes = 0;
                sleep(AGAIN_AFTER).await;
            }
        }
    }

    async fn pack(&self, fences: &[Fence]) -> Result<(), String> {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for fence in fences {
            match tokio::fs::read(self.logs.path(*fence)).await {
                Ok(log) => {
                    places.push((*fence, Some((bytes.len() as u64, log.len() as u64))));
                    bytes.extend(log);
                }
                Err(error) => {
                    tracing::warn!(%fence, %error, "the log of an attempt is lost");
                    places.push((*fence, None));
                }
            }
        }
        let digest = if bytes.is_empty() { None } else { Some(self.packs.put(bytes.into()).await?) };
        let place = |range: Option<(u64, u64)>| match (range, digest) {
            (Some((offset, bytes)), Some(digest)) => LogPlace::Pack { digest, offset, bytes },
            (_, None) | (None, Some(_)) => LogPlace::Lost,
        };
        self.packs.attach(places.into_iter().map(|(fence, range)| (fence, place(range))).collect()).await
    }
}

/// What a packer hears.
enum Heard {
    Entry(Arc<AppliedEntry>),
    /// Effects are hints: what was missed stands in the state.
    Lagged,
    /// It is time to ask.
    Time,
    End,
}

impl News {
    async fn next(&mut self) -> Heard {
        match self {
            Self::Here(_, entries) => match entries.recv().await {
                Ok(entry) => Heard::Entry(entry),
                Err(broadcast::error::RecvError::Lagged(_)) => Heard::Lagged,
                Err(broadcast::error::RecvError::Closed) => Heard::End,
            },
            Self::Asked(_) => {
                sleep(ASK_EVERY).await;
                Heard::Time
            }
        }
    }
}

/// Cuts what waits into packs: a log that is larger than a pack has one of its own.
fn batches(logs: &LogFolder, fences: &[Fence]) -> Vec<Vec<Fence>> {
    let (mut batches, mut bytes) = (vec![Vec::new()], 0);
    for fence in fences {
        let more = std::fs::metadata(logs.path(*fence)).map_or(0, |file| file.len());
        if bytes > 0 && bytes + more > PACK_BYTES_MAX {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        batches.last_mut().expect("there is one at least").push(*fence);
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

#[cfg(test)]
mod tests;
