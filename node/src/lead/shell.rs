//! The task that runs a leadership: it feeds [`Leader`] with what happens and does what that says.
//!
//! One task owns all of it, from the moment this node is ready to lead until it leads no more. It waits for entries,
//! streams, answers and the earliest timer at once, and asks nothing again and again. Start reading at [`spawn`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use matins_core::State;
use matins_core::command::{Command, Proposal};
use matins_core::id::{Digest, Fence, Leadership, ScheduleId};
use matins_core::time::{BootTime, Millis};
use matins_proto::v1;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::disks;
use super::leader::{Action, Disks, Event, Leader, Now, Outside};
use super::past::Past;
use super::queue::{ConnId, Key};
use super::scope::{Fetched, Params};
use super::time::LeaderTime;
use crate::history::History;
use crate::raft::{AppliedEntry, BlobError, Consensus, LeaderView, Subscription};
use crate::shrink::shrunk;
use crate::system::{BootTimer, boot_time};

/// Messages of streams that wait for the leader. Beyond it their streams wait.
const INPUTS_MAX: usize = 1_024;
/// So many entries since a checkpoint count as 64 MiB of log, however small: the bound that purges go by too (PROTOCOL 6.8).
const CHECKPOINT_ENTRIES: u64 = 100_000;
/// Before a blob that cannot be had now is asked for again.
const BLOB_AGAIN: Duration = Duration::from_millis(500);
/// Before what could not be proposed is looked at again.
const PROPOSE_AGAIN: Duration = Duration::from_millis(50);
/// How old what is known of the other nodes' disks may be: they are asked each second.
const DISKS_KEPT: Millis = Millis::from_secs(5);
/// How old what is known of the other nodes' blocks may be.
const HOLDINGS_EVERY: Millis = Millis::from_secs(1);

/// What leads when this node does. Cheap to clone.
#[derive(Clone)]
pub struct LeadHandle {
    inputs: mpsc::Sender<Input>,
}

/// What reaches the leader from outside of consensus.
pub(crate) enum Input {
    /// A stream of an executor came in.
    Opened(ConnId, mpsc::Sender<v1::LeaderMessage>, CancellationToken),
    /// It said something, or ended.
    Of(ConnId, Option<v1::executor_message::Message>),
    /// The Fires that have to stand before a change of these schedules.
    FiresBefore(Vec<ScheduleId>, oneshot::Sender<Vec<Proposal>>),
}

impl LeadHandle {
    /// The proposals that decide what is due of these schedules now, to stand before a command that changes them, in the
    /// same entry if they fit (PROTOCOL 3.5). Empty where nothing is due; `None`: this node does not lead.
    pub async fn fires_before(&self, schedules: Vec<ScheduleId>) -> Option<Vec<Proposal>> {
        let (answer, answered) = oneshot::channel();
        self.inputs.send(Input::FiresBefore(schedules, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Hands something to the leader; `false`: it is gone.
    pub(crate) async fn send(&self, input: Input) -> bool {
        self.inputs.send(input).await.is_ok()
    }
}

/// Leads whenever this node is ready to, until `stop`. Gives the handle, and the task to wait for at shutdown.
pub fn spawn(
    consensus: Consensus,
    (time, timer): (Arc<LeaderTime>, BootTimer),
    history: History,
    stop: CancellationToken,
) -> (LeadHandle, tokio::task::JoinHandle<()>) {
    let (inputs, received) = mpsc::channel(INPUTS_MAX);
    let shell = Shell { consensus, time, timer, past: Past(history), inputs: received };
    (LeadHandle { inputs }, tokio::spawn(shell.keep(stop)))
}

struct Shell {
    consensus: Consensus,
    time: Arc<LeaderTime>,
    timer: BootTimer,
    past: Past,
    inputs: mpsc::Receiver<Input>,
}

/// One leadership as the shell keeps it.
struct Reign {
    leadership: Leadership,
    leader: Leader,
    conns: BTreeMap<ConnId, (mpsc::Sender<v1::LeaderMessage>, CancellationToken)>,
    tasks: JoinSet<Event>,
    durable_block: u64,
    durable_block_asked_at: BootTime,
}

impl Shell {
    async fn keep(mut self, stop: CancellationToken) {
        let mut view = self.consensus.leader();
        loop {
            let leading = {
                let view = view.borrow_and_update();
                view.leading.map(|leadership| (leadership, view.ready_at))
            };
            let over = tokio::select! {
                () = stop.cancelled() => return,
                over = self.follow_or_lead(leading, &mut view) => over,
            };
            if over.is_none() {
                return;
            }
        }
    }

    /// Until something about the lead changes. `None`: consensus is gone.
    async fn follow_or_lead(
        &mut self,
        leading: Option<(Leadership, BootTime)>,
        view: &mut watch::Receiver<LeaderView>,
    ) -> Option<()> {
        match leading {
            Some((leadership, ready_at)) => {
                tracing::info!(%leadership, "leading");
                let over = self.lead(leadership, ready_at, view).await;
                self.time.follow();
                over
            }
            None => loop {
                tokio::select! {
                    changed = view.changed() => return changed.ok(),
                    // Whoever came while this node did not lead goes elsewhere.
                    input = self.inputs.recv() => match input? {
                        Input::Opened(_, _, close) => close.cancel(),
                        Input::Of(..) | Input::FiresBefore(..) => {}
                    },
                }
            },
        }
    }

    async fn lead(
        &mut self,
        leadership: Leadership,
        ready_at: BootTime,
        view: &mut watch::Receiver<LeaderView>,
    ) -> Option<()> {
        // First the entries, then the state: nothing falls between the two.
        let mut entries = self.consensus.subscribe();
        let mut reign = Reign {
            leadership,
            leader: Leader::new(self.consensus.state(), ready_at),
            conns: BTreeMap::new(),
            tasks: JoinSet::new(),
            durable_block: 0,
            durable_block_asked_at: BootTime(0),
        };
        let over = loop {
            let wake = self.work(&mut reign);
            tokio::select! {
                changed = view.changed() => {
                    let leads = view.borrow().leading == Some(leadership);
                    if changed.is_err() || !leads {
                        break changed.ok();
                    }
                }
                entry = entries.recv() => self.entries(&mut reign, entry, &mut entries),
                input = self.inputs.recv() => self.input(&mut reign, input?),
                Some(done) = reign.tasks.join_next() => self.done(&mut reign, done),
                woken = self.timer.wait_until(wake) => woken.expect("a timer of its own works"),
            }
        };
        // What is still under way is not this leader's business any more; its streams go to the next one.
        reign.tasks.shutdown().await;
        reign.conns.values().for_each(|(_, close)| close.cancel());
        over
    }

    /// Does what is to be done now. Gives the instant of the next look.
    fn work(&self, reign: &mut Reign) -> BootTime {
        let boot = boot_time();
        let (at, into_milli) = self.time.reached(boot);
        let now = Now { at, boot };
        self.ask_for_holdings(reign, now.boot);
        let outside = self.outside(reign);
        for action in reign.leader.run(now, &outside) {
            self.act(reign, action);
        }
        for alarm in self.time.take_alarms() {
            tracing::warn!(?alarm, "leader time");
        }
        // Counted from when leader time became what it is, or each tick would be late by a part of a millisecond.
        reign.leader.next_run(Now { at, boot: BootTime(boot.0 - into_milli) })
    }

    fn now(&self) -> Now {
        Now { at: self.time.now(), boot: boot_time() }
    }

    fn outside(&self, reign: &Reign) -> Outside<'_> {
        let state = self.consensus.state();
        let checkpoint = state.cluster.checkpoint.as_ref().map_or(0, |row| row.index);
        let is_long = state.index.0 - checkpoint.min(state.index.0) >= shrunk(CHECKPOINT_ENTRIES);
        let log_bytes = self.consensus.log_bytes_after(checkpoint);
        let is_long = is_long || log_bytes >= shrunk(super::timers::CHECKPOINT_LOG_BYTES);
        Outside {
            history: &self.past,
            resolve: &Params,
            durable_block: reign.durable_block,
            log_bytes: if is_long { super::timers::CHECKPOINT_LOG_BYTES } else { log_bytes },
            readings: self.time.peek_readings(),
            quorum: self.consensus.last_quorum_round(),
            disks: self.disks(&state),
        }
    }

    /// What the voters said of their disks, as long as that is not old.
    fn disks(&self, state: &State) -> Disks {
        let own = self.consensus.status();
        let now = boot_time();
        let peers = self.consensus.peers().borrow().clone();
        let fresh = peers.into_iter().filter(|heard| now.since(heard.asked_at) <= DISKS_KEPT);
        let all = fresh.map(|heard| heard.status).chain([own]);
        let heard: disks::Heard = all.map(|status| (status.node, status.disk)).collect();
        let members = self.consensus.members();
        disks::judge(self.consensus.node(), &heard, &members, state.cluster.full_disk.is_some())
    }

    /// The newest block that a majority of each set of voters has, with all before it (PROTOCOL 6.5).
    fn ask_for_holdings(&self, reign: &mut Reign, boot: BootTime) {
        if boot.since(reign.durable_block_asked_at) < HOLDINGS_EVERY {
            return;
        }
        reign.durable_block_asked_at = boot;
        let own = self.consensus.status();
        let peers = self.consensus.peers().borrow().clone();
        let all = peers.into_iter().map(|heard| heard.status).chain([own]);
        let blocks: BTreeMap<_, _> = all.map(|status| (status.node, status.blocks_durable)).collect();
        let of_set = |set: &std::collections::BTreeSet<_>| {
            let mut numbers: Vec<u64> =
                set.iter().map(|node| blocks.get(node).copied().unwrap_or(0)).collect();
            numbers.sort_unstable_by(|a, b| b.cmp(a));
            numbers.get(set.len() / 2).copied().unwrap_or(0)
        };
        reign.durable_block = self.consensus.members().voter_sets.iter().map(of_set).min().unwrap_or(0);
    }

    fn entries(
        &self,
        reign: &mut Reign,
        first: Result<Arc<AppliedEntry>, RecvError>,
        entries: &mut Subscription,
    ) {
        let mut next = first.map_err(|error| matches!(error, RecvError::Lagged(_)));
        loop {
            let now = self.now();
            match next {
                Ok(entry) => reign.leader.applied(entry.state.clone(), &entry.effects, now),
                // Effects are hints: what was missed is found in the state.
                Err(true) => {
                    reign.leader.set_state(self.consensus.state(), now.boot);
                    reign.leader.find_all(now.boot);
                }
                Err(false) => return,
            }
            next = entries.try_recv().map_err(|error| matches!(error, TryRecvError::Lagged(_)));
        }
    }

    fn input(&self, reign: &mut Reign, input: Input) {
        let now = self.now();
        match input {
            Input::Opened(conn, to_executor, close) => {
                reign.conns.insert(conn, (to_executor, close));
            }
            Input::Of(conn, _) if !reign.conns.contains_key(&conn) => {}
            Input::Of(conn, Some(said)) => reign.leader.event(Event::Said(conn, said), now),
            Input::Of(conn, None) => {
                reign.conns.remove(&conn);
                reign.leader.event(Event::Closed(conn), now);
            }
            Input::FiresBefore(schedules, answer) => {
                reign.leader.set_state(self.consensus.state(), now.boot);
                let outside = self.outside(reign);
                let fires = reign.leader.before_change(&schedules, now, &outside);
                let fires = fires.into_iter().map(|command| of_leader(reign.leadership, command)).collect();
                // Whoever asked may be gone.
                answer.send(fires).ok();
            }
        }
    }

    /// What tasks of the leader came to: the first, and all that are done by now. Many proposals may have stood in one entry.
    fn done(&self, reign: &mut Reign, first: Result<Event, tokio::task::JoinError>) {
        let now = self.now();
        let mut next = Some(first);
        while let Some(done) = next {
            // An answer may be quicker than the entry that it came from.
            reign.leader.set_state(self.consensus.state(), now.boot);
            match done {
                Ok(event) => reign.leader.event(event, now),
                Err(error) => tracing::error!(%error, "a task of the leader failed"),
            }
            next = reign.tasks.try_join_next();
        }
    }

    fn act(&self, reign: &mut Reign, action: Action) {
        match action {
            Action::Propose(key, command) => {
                if let Command::Time(readings) = &command {
                    self.time.carry(readings);
                }
                let proposal = of_leader(reign.leadership, command);
                reign.tasks.spawn(propose(self.consensus.clone(), key, proposal));
            }
            Action::Send(conn, message) => {
                let sent = reign.conns.get(&conn).is_none_or(|(to, _)| to.try_send(message).is_ok());
                if !sent {
                    // An executor that takes nothing is not waited for: it comes again.
                    self.act(reign, Action::Close(conn));
                    reign.leader.event(Event::Closed(conn), self.now());
                }
            }
            Action::Close(conn) => {
                if let Some((_, close)) = reign.conns.remove(&conn) {
                    close.cancel();
                }
            }
            Action::Read(digest) => {
                reign.tasks.spawn(read(self.consensus.clone(), digest));
            }
            Action::Publish(fence, digest) => {
                reign.tasks.spawn(publish(self.consensus.clone(), fence, digest));
            }
        }
    }
}

fn of_leader(leadership: Leadership, command: Command) -> Proposal {
    Proposal { request: None, leadership: Some(leadership), command }
}

async fn propose(consensus: Consensus, key: Key, proposal: Proposal) -> Event {
    let answer = match consensus.propose(proposal).await {
        Ok(answered) => Some(answered.answer),
        Err(error) => {
            tracing::debug!(?key, %error, "a proposal of the leader has no answer");
            // An error that comes at once (a full queue, consensus that has stopped) would be asked for again at once.
            tokio::time::sleep(PROPOSE_AGAIN).await;
            None
        }
    };
    Event::Answered(key, answer)
}

async fn read(consensus: Consensus, digest: Digest) -> Event {
    let fetched = match consensus.get_blob(digest).await {
        Ok(bytes) => std::str::from_utf8(&bytes).map_or(Fetched::Lost, |text| Fetched::Text(text.into())),
        Err(BlobError::Lost(_)) => Fetched::Lost,
        Err(BlobError::NoMajority { .. } | BlobError::Store(_)) => {
            tokio::time::sleep(BLOB_AGAIN).await;
            Fetched::NotYet
        }
    };
    Event::Read(digest, fetched)
}

/// Copies an output from the node that has it to a majority (PROTOCOL 6.4, 6.7).
async fn publish(consensus: Consensus, fence: Fence, digest: Digest) -> Event {
    let copied = async {
        let bytes: Bytes = consensus.get_blob(digest).await?;
        consensus.put_blob(bytes).await
    };
    let is_published =
        copied.await.inspect_err(|error| tracing::warn!(%fence, %error, "an output has no copies yet"));
    Event::Published(fence, is_published.is_ok())
}
