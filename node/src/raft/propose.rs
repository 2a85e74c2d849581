//! Puts commands together into entries (PROTOCOL 6.2) and gives each its answer.
//!
//! One task assembles: while an entry is being written to this node's log, commands gather in a bounded queue, and all that
//! gathered go into the next one. It never waits on purpose. Start at [`Proposer::run`].

use std::sync::Arc;
use std::time::Duration;

use matins_core::command::{Entry, Proposal};
use matins_core::id::LogIndex;
use matins_core::mutation::{Mutation, planted};
use matins_core::time::Timestamp;
use matins_core::{Answer, Refusal, State, apply};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::EntryClock;
use super::consensus::{Answered, LeaderView};
use super::error::ProposeError;
use super::types::{EntryBytes, Raft};
use super::watchdog::Watch;
use crate::metrics::Timings;
use crate::system::boot_time;

/// The encoded size of an entry (DESIGN 5).
pub(crate) const ENTRY_BYTES_MAX: usize = 1 << 20;
/// What the frame of an entry takes: level, time and count.
const ENTRY_HEAD_BYTES: usize = 2 + 8 + 4;
/// What the frame of a command takes: kind and length.
const PROPOSAL_HEAD_BYTES: usize = 2 + 4;
/// Clients that may wait for the next entry.
pub(crate) const QUEUE_MAX: usize = 1024;
/// More room, for what the cluster asks of itself: ticks, reports, sessions. However many clients press, it is heard.
const OWN_ROOM: usize = 1024;
/// Entries that are written here and not applied yet. More would only grow the log of a leader that has lost its majority.
const IN_FLIGHT_MAX: usize = 64;

pub(crate) type Answers = Result<Vec<Answered>, ProposeError>;

/// Commands of one caller: they stand together in one entry.
pub(crate) struct Waiting {
    proposals: Vec<Proposal>,
    bytes: usize,
    /// The first entry of a leadership goes out before this node is ready (PROTOCOL 2.1).
    founds_leadership: bool,
    answer: oneshot::Sender<Answers>,
}

/// The way into the queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Waiting>,
    within: Duration,
}

impl Queue {
    pub(crate) fn new(within: Duration) -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX + OWN_ROOM);
        (Self { sender, within }, receiver)
    }

    /// Commands for one entry; they must fit into it.
    pub(crate) async fn propose(&self, proposals: Vec<Proposal>) -> Answers {
        let answer = self.enqueue(proposals, false)?;
        self.answered(answer).await
    }

    /// The first entry of a leadership.
    pub(crate) async fn propose_leadership(&self, proposals: Vec<Proposal>) -> Answers {
        let answer = self.enqueue(proposals, true)?;
        self.answered(answer).await
    }

    /// Commands in order, in as few entries as they fit into; one that is too large refuses all, before any is proposed.
    pub(crate) async fn propose_group(&self, proposals: Vec<Proposal>) -> Answers {
        let mut waiting = Vec::new();
        for part in split(proposals)? {
            waiting.push(self.enqueue(part, false)?);
        }
        let mut all = Vec::new();
        for answer in waiting {
            all.extend(self.answered(answer).await?);
        }
        Ok(all)
    }

    fn enqueue(
        &self,
        proposals: Vec<Proposal>,
        founds_leadership: bool,
    ) -> Result<oneshot::Receiver<Answers>, ProposeError> {
        let bytes: usize = proposals.iter().map(size).sum();
        if bytes > ENTRY_BYTES_MAX - ENTRY_HEAD_BYTES {
            return Err(ProposeError::TooLarge { bytes, limit: ENTRY_BYTES_MAX });
        }
        // Only what clients ask has a request id.
        let is_of_client = proposals.iter().any(|proposal| proposal.request.is_some());
        if is_of_client && self.sender.capacity() <= OWN_ROOM {
            return Err(ProposeError::Overloaded { limit: QUEUE_MAX });
        }
        let (answer, receiver) = oneshot::channel();
        let waiting = Waiting { proposals, bytes, founds_leadership, answer };
        self.sender.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded { limit: QUEUE_MAX },
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopping,
        })?;
        Ok(receiver)
    }

    async fn answered(&self, answer: oneshot::Receiver<Answers>) -> Answers {
        match tokio::time::timeout(self.within, answer).await {
            Ok(Ok(answers)) => answers,
            // Dropped without an answer: the lead was lost in between, or the node stops. Either way it is unknown.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Deadline),
        }
    }
}

/// The encoded size of a command in an entry, in bytes.
fn size(proposal: &Proposal) -> usize {
    let body = postcard::experimental::serialized_size(&(
        &proposal.command,
        &proposal.request,
        &proposal.leadership,
    ));
    PROPOSAL_HEAD_BYTES + body.expect("commands have no sequence of unknown length and no custom error")
}

/// Cuts a group where an entry is full. A single command that fits into no entry refuses the whole group.
fn split(proposals: Vec<Proposal>) -> Result<Vec<Vec<Proposal>>, ProposeError> {
    let room = ENTRY_BYTES_MAX - ENTRY_HEAD_BYTES;
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut used = 0;
    for proposal in proposals {
        let bytes = size(&proposal);
        if bytes > room {
            return Err(ProposeError::TooLarge { bytes, limit: ENTRY_BYTES_MAX });
        }
        if used + bytes > room {
            parts.push(std::mem::take(&mut part));
            used = 0;
        }
        used += bytes;
        part.push(proposal);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    Ok(parts)
}

/// Assembles entries.
pub(crate) struct Proposer {
    pub(crate) queue: mpsc::Receiver<Waiting>,
    /// The level at which a cluster is founded.
    pub(crate) level_max: u16,
    pub(crate) raft: Raft,
    pub(crate) clock: Arc<dyn EntryClock>,
    pub(crate) states: watch::Receiver<Arc<State>>,
    pub(crate) leader: watch::Receiver<LeaderView>,
    /// The last record that is durable in this node's own log.
    pub(crate) written: watch::Receiver<u64>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) timings: Timings,
    /// Held by who lets nothing new into the log for a moment.
    pub(crate) proposing: Arc<tokio::sync::Mutex<()>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Proposer {
    pub(crate) async fn run(mut self) {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut next = None;
        loop {
            let first = if let Some(held) = next.take() {
                held
            } else {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    received = self.queue.recv() => match received {
                        Some(waiting) => waiting,
                        None => return,
                    },
                }
            };
            let permit = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = Arc::clone(&in_flight).acquire_owned() => permit.expect("it is never closed"),
            };
            // The lead may be handed over just now: who waits here goes on elsewhere then.
            let proposing = Arc::clone(&self.proposing);
            let _may_write = tokio::select! {
                () = self.stop.cancelled() => return,
                may_write = proposing.lock() => may_write,
            };
            if !first.founds_leadership && !self.is_ready() {
                drop(first.answer.send(Err(self.not_leader())));
                continue;
            }
            let batch = self.gather(first, &mut next);
            if self.write(batch, permit).await.is_err() {
                return;
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.leader.borrow().leading.is_some()
    }

    fn not_leader(&self) -> ProposeError {
        ProposeError::NotLeader { leader: self.leader.borrow().leader.clone() }
    }

    /// All that waits and fits into one entry with `first`. What does not fit is the first of the next.
    fn gather(&mut self, first: Waiting, next: &mut Option<Waiting>) -> Vec<Waiting> {
        // Nothing stands beside the founding of a leadership: others are computed under it.
        if first.founds_leadership {
            return vec![first];
        }
        let mut used = ENTRY_HEAD_BYTES + first.bytes;
        let mut batch = vec![first];
        while let Ok(waiting) = self.queue.try_recv() {
            if waiting.founds_leadership || used + waiting.bytes > ENTRY_BYTES_MAX {
                *next = Some(waiting);
                break;
            }
            used += waiting.bytes;
            batch.push(waiting);
        }
        batch
    }

    /// Gives the entry its time, hands it to openraft and waits until it is in this node's log. An error: the node stops.
    async fn write(&mut self, batch: Vec<Waiting>, permit: OwnedSemaphorePermit) -> Result<(), ()> {
        let mut proposals = Vec::new();
        let mut callers = Vec::with_capacity(batch.len());
        for waiting in batch {
            callers.push((waiting.proposals.len(), waiting.answer));
            proposals.extend(waiting.proposals);
        }
        let state = Arc::clone(&self.states.borrow());
        let level = if state.cluster.id.is_some() { state.cluster.level } else { self.level_max };
        let entry = Entry { level, at: self.clock.at(&state), proposals };
        if planted(Mutation::AnsweredBeforeApplied) && self.is_ready() {
            let index = LogIndex(state.index.0 + 1);
            let outcome = apply(&mut State::clone(&state), index, entry.clone());
            tell(entry.at, (outcome.answers, outcome.indexes), std::mem::take(&mut callers));
        }
        self.written.mark_unchanged();
        let entry = EntryBytes(entry.encode().into());
        let began = boot_time();
        let Ok(response) = self.raft.client_write_ff(entry).await else { return Err(()) };
        let proposed = self.watch.proposed(boot_time());
        let (done, is_done) = oneshot::channel::<()>();
        let (watch, timings) = (Arc::clone(&self.watch), self.timings.clone());
        self.tasks.spawn(async move {
            let response = response.await;
            timings.committed(boot_time().0 - began.0);
            watch.applied(proposed);
            drop(permit);
            drop(done);
            distribute(response.map_err(|_| ()), callers);
        });
        tokio::select! {
            () = self.stop.cancelled() => Err(()),
            // An entry that openraft refuses is never written.
            _ = is_done => Ok(()),
            written = self.written.changed() => written.map_err(|_| ()),
        }
    }
}

type Callers = Vec<(usize, oneshot::Sender<Answers>)>;
type Response = Result<openraft::raft::ClientWriteResult<super::types::TypeConfig>, ()>;

/// Answers the callers of an entry that was applied.
fn distribute(response: Response, callers: Callers) {
    use openraft::error::ClientWriteError;
    let written = match response {
        Ok(Ok(written)) => written,
        Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_))) => {
            // It may have been in the log and cut off again; another node may still bring it in: unknown (PROTOCOL 2.4).
            return;
        }
        Err(()) => return,
    };
    tell(written.data.at, (written.data.answers, written.data.indexes), callers);
}

/// Gives each caller its own answers. A caller that has gone does not want any.
fn tell(at: Timestamp, (answers, indexes): (Vec<Result<Answer, Refusal>>, Vec<LogIndex>), callers: Callers) {
    let mut answers = answers.into_iter().zip(indexes);
    for (count, caller) in callers {
        let mine =
            answers.by_ref().take(count).map(|(answer, index)| Answered { answer, index, at }).collect();
        drop(caller.send(Ok(mine)));
    }
}

#[cfg(test)]
mod tests {
    use matins_core::command::{Command, Request};

    use super::*;

    fn proposal(bytes: usize) -> Proposal {
        Proposal {
            request: None,
            leadership: None,
            command: Command::Quarantine {
                schedule: "a/b:c".parse::<SchedulePlace>().unwrap().0,
                version: 1,
                reason: "x".repeat(bytes),
            },
        }
    }

    /// A schedule id has no parser of its own.
    struct SchedulePlace(matins_core::id::ScheduleId);

    impl std::str::FromStr for SchedulePlace {
        type Err = matins_core::id::NotAnId;

        fn from_str(text: &str) -> Result<Self, Self::Err> {
            let (workflow, schedule) = text.split_once(':').unwrap();
            Ok(Self(matins_core::id::ScheduleId { workflow: workflow.parse()?, schedule: schedule.parse()? }))
        }
    }

    #[test]
    fn the_size_of_a_command_is_what_it_takes_in_an_entry() {
        let proposals = vec![proposal(10), proposal(100_000)];
        let expected: usize = proposals.iter().map(size).sum();
        let entry = Entry { level: 1, at: Timestamp::ZERO, proposals };
        assert_eq!(entry.encode().len(), ENTRY_HEAD_BYTES + expected);
    }

    #[tokio::test]
    async fn clients_who_fill_the_queue_leave_room_for_the_cluster_itself() {
        let (queue, waiting) = Queue::new(Duration::from_secs(1));
        let request = Request { id: "a".parse().unwrap(), not_after: Timestamp::ZERO };
        let of_client = || vec![Proposal { request: Some(request.clone()), ..proposal(1) }];
        for _ in 0..QUEUE_MAX {
            drop(queue.enqueue(of_client(), false).unwrap());
        }
        let refused = |asked: Result<_, ProposeError>| matches!(asked, Err(ProposeError::Overloaded { .. }));
        assert!(refused(queue.enqueue(of_client(), false)));
        for _ in 0..OWN_ROOM {
            drop(queue.enqueue(vec![proposal(1)], false).unwrap());
        }
        assert!(refused(queue.enqueue(vec![proposal(1)], false)));
        drop(waiting);
    }

    #[test]
    fn a_group_is_cut_only_where_an_entry_is_full() {
        let parts = split((0..5).map(|_| proposal(400_000)).collect()).unwrap();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(split((0..5).map(|_| proposal(10)).collect()).unwrap().len(), 1);
    }

    #[test]
    fn a_command_that_fits_nowhere_refuses_its_group() {
        let refused = split(vec![proposal(10), proposal(ENTRY_BYTES_MAX)]);
        assert!(matches!(refused, Err(ProposeError::TooLarge { limit: ENTRY_BYTES_MAX, .. })));
    }
}
