//! The node as the public port sees it: consensus, history and logs behind the traits of `serve`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use matins_core::command::Proposal;
use matins_core::history::RetiredRun;
use matins_core::id::{Digest, ExecutorId, NodeId, RunId, ScheduleId};
use matins_core::state::Settings;
use matins_core::time::Timestamp;
use matins_core::{Refusal, State};
use matins_proto::v1;
use matins_proto::v1::attempt_logs_client::AttemptLogsClient;
use matins_proto::v1::attempt_logs_server::AttemptLogs as _;
use tokio::sync::watch;
use tonic::Request;

use super::alarms::{Seen, alarms};
use super::members;
use crate::execute::LogFolder;
use crate::execute::log::{Stream, frames_of};
use crate::history::{History, error_chain};
use crate::lead::shell::LeadHandle;
use crate::lead::time::LeaderTime;
use crate::metrics::{Bound, DoorCounts};
use crate::raft::{BlobError, Consensus, HeardStatus, InitError, Member, ProposeError, ReadError};
use crate::serve::cluster::{
    Answered, BlobMissing, Cluster, ClusterView, History as RunsInHistory, HistoryError, LogPiece, LogPieces,
    LogSource, LogStream, LogUnreachable, MemberView, MembersAsk, MembersChanged, MembershipError, PastRun,
    PastRuns, SupportedLevel, TailAsk, Unanswered,
};
use crate::store::StoreError;
use crate::store::history::Among;
use crate::system::{boot_time, connect};

/// A member that was not heard for so long is not reachable.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// How long connecting to another node's port may take.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Consensus as the services ask it.
pub(super) struct ClusterDoor {
    pub(super) consensus: Consensus,
    /// The leader's task, if this node leads.
    pub(super) lead: LeadHandle,
    /// Leader time on this node.
    pub(super) clock: Arc<LeaderTime>,
    /// What `init` makes a cluster with.
    pub(super) settings: Settings,
    /// Where it is counted that the leader's queue is full.
    pub(super) counts: DoorCounts,
}

impl ClusterDoor {
    /// On the leader, what is due of schedules goes before the command that changes them, in one entry (PROTOCOL 3.5).
    /// Elsewhere the caller asks again: the leader fires what is due by itself.
    async fn behind_fires(&self, proposal: Proposal, schedules: Vec<ScheduleId>) -> Option<Answered> {
        let mut group = self.lead.fires_before(schedules).await?;
        group.push(proposal);
        let answered = self.consensus.propose_as_group(group).await.ok()?.pop()?;
        Some(Answered { answer: answered.answer, index: answered.index, at: answered.at })
    }

    fn view_of(&self, id: NodeId, member: &Member, voters: &BTreeSet<NodeId>) -> MemberView {
        let heard = self.consensus.peers().borrow().iter().find(|heard| heard.status.node == id).cloned();
        let heard = if id == self.consensus.node() { Some(self.own_status()) } else { heard };
        // Not `state.now`: that is of the last entry, which in a quiet cluster may be long ago.
        let (boot, now) = (boot_time(), self.clock.known());
        let ahead = |heard: &HeardStatus| Some(heard.wall_at(boot).as_millis() - now?.as_millis());
        MemberView {
            node: id,
            name: member.name.clone(),
            address: member.public_address.clone(),
            cluster_address: member.cluster_address.clone(),
            is_voter: voters.contains(&id),
            is_reachable: heard
                .as_ref()
                .is_some_and(|heard| boot.since(heard.asked_at).0 < HEARD_WITHIN.as_millis() as u64),
            lag: heard.as_ref().map(|heard| heard.lag),
            clock_ahead_millis: heard.as_ref().and_then(ahead),
            level_max: heard.as_ref().map(|heard| heard.status.level_max),
            version: if id == self.consensus.node() {
                env!("CARGO_PKG_VERSION").into()
            } else {
                String::new()
            },
            disk: heard.and_then(|heard| heard.status.disk),
        }
    }

    fn own_status(&self) -> HeardStatus {
        let (_, last) = self.consensus.progress();
        let status = self.consensus.status();
        HeardStatus { asked_at: boot_time(), lag: last.saturating_sub(status.applied), status }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterDoor {
    async fn propose(&self, proposal: Proposal, within: Duration) -> Result<Answered, Unanswered> {
        let again = proposal.clone();
        match self.consensus.forward(proposal, within).await {
            Ok(crate::raft::Answered { answer: Err(Refusal::TicksDue(schedules)), index, at }) => {
                let refused = Answered { answer: Err(Refusal::TicksDue(schedules.clone())), index, at };
                Ok(self.behind_fires(again, schedules).await.unwrap_or(refused))
            }
            Ok(answered) => Ok(Answered { answer: answered.answer, index: answered.index, at: answered.at }),
            Err(ProposeError::NotLeader { .. }) => Err(Unanswered::NotReady),
            Err(ProposeError::Overloaded { .. }) => {
                self.counts.turned_away(Bound::Commands);
                Err(Unanswered::Overloaded)
            }
            Err(ProposeError::TooLarge { bytes, limit }) => Err(Unanswered::TooLarge { bytes, limit }),
            Err(ProposeError::Deadline) => Err(Unanswered::Unknown),
            Err(ProposeError::Stopping) => Err(Unanswered::Stopping),
        }
    }

    async fn read_index(&self, within: Duration) -> Result<Arc<State>, Unanswered> {
        self.consensus.read_index(within).await.map_err(|error| match error {
            ReadError::NoLeader => Unanswered::NotReady,
            ReadError::Stopping => Unanswered::Stopping,
        })
    }

    fn states(&self) -> watch::Receiver<Arc<State>> {
        self.consensus.states()
    }

    async fn look_around(&self) {
        self.consensus.ask_members().await;
    }

    fn status(&self) -> ClusterView {
        let members = self.consensus.members();
        let voters = members.voters();
        let (term, last) = self.consensus.progress();
        let own = self.consensus.node().to_string();
        let views: Vec<_> =
            members.nodes.iter().map(|(id, member)| self.view_of(*id, member, &voters)).collect();
        let alarms = alarms(&Seen {
            members: &views,
            own: &own,
            disk_is_full: self.consensus.disk_is_full(),
            time_waiting: self.clock.awaits_person(),
            now: self.consensus.state().now,
        });
        ClusterView {
            node: self.consensus.node(),
            version: env!("CARGO_PKG_VERSION").into(),
            leader: self.consensus.living_leader(),
            term,
            committed: last.min(self.consensus.state().index.0),
            members: views,
            alarms,
            time_waiting: self.clock.awaits_person(),
        }
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<Digest, Unanswered> {
        self.consensus.put_blob(bytes).await.map_err(|error| match error {
            BlobError::NoMajority { .. } => Unanswered::NoQuorum,
            BlobError::Store(StoreError::Full { .. }) => Unanswered::DiskFull(self.consensus.node()),
            BlobError::Lost(_) | BlobError::Store(_) => Unanswered::Fault(error_chain(&error)),
        })
    }

    async fn blob(&self, digest: Digest) -> Result<Bytes, BlobMissing> {
        self.consensus.get_blob(digest).await.map_err(|error| match error {
            BlobError::Lost(digest) => BlobMissing::Lost(digest),
            BlobError::NoMajority { .. } | BlobError::Store(_) => {
                BlobMissing::Fault(digest, error_chain(&error))
            }
        })
    }

    async fn hold_named(&self, state: &State) -> Result<BTreeSet<Digest>, String> {
        self.consensus.hold_named(state).await.map_err(|error| error_chain(&error))
    }

    async fn init(&self) -> Result<u64, MembershipError> {
        self.consensus.init(self.settings.clone()).await.map_err(|error| match error {
            InitError::Member { cluster } => MembershipError::AlreadyInitialised(cluster),
            InitError::NotReady => MembershipError::Unanswered(Unanswered::NotReady),
            InitError::Failed(why) => MembershipError::Unanswered(Unanswered::Fault(why)),
        })
    }

    async fn change_members(&self, ask: MembersAsk) -> Result<MembersChanged, MembershipError> {
        members::change(&self.consensus, ask).await
    }

    async fn hand_over(&self, to: Option<&str>) -> Result<NodeId, MembershipError> {
        members::hand_over(&self.consensus, to).await
    }

    async fn supported_level(&self, level: Option<u16>) -> Result<SupportedLevel, MembershipError> {
        let supported = self.consensus.supported_level(level).await;
        supported.map_err(|error| MembershipError::LevelNotSupported(error.to_string()))
    }
}

#[tonic::async_trait]
impl RunsInHistory for History {
    async fn run(&self, run: RunId) -> Result<Option<RetiredRun>, HistoryError> {
        Self::run(self, run).await.map_err(|error| HistoryError(error_chain(&error)))
    }

    async fn runs_before(
        &self,
        before: RunId,
        among: &Among,
        limit: usize,
    ) -> Result<PastRuns, HistoryError> {
        let runs = Self::runs_before(self, before, among, limit).await;
        runs.map_err(|error| HistoryError(error_chain(&error)))
    }

    fn has_later_retry(&self, root: RunId, run: RunId) -> Result<bool, HistoryError> {
        Self::has_later_retry(self, root, run).map_err(|error| HistoryError(error_chain(&error)))
    }

    async fn runs_for(
        &self,
        schedule: &ScheduleId,
        (first, last): (Timestamp, Timestamp),
    ) -> Result<Vec<PastRun>, HistoryError> {
        let runs = self.runs_at(schedule, (first, last));
        runs.map_err(|error| HistoryError(error_chain(&error)))
    }

    async fn runs_of(
        &self,
        schedule: &ScheduleId,
        before: (Timestamp, RunId),
        limit: usize,
    ) -> Result<Vec<RetiredRun>, HistoryError> {
        let runs = Self::runs_of(self, schedule, before, limit).await;
        runs.map_err(|error| HistoryError(error_chain(&error)))
    }

    fn is_incomplete(&self) -> bool {
        Self::is_incomplete(self)
    }
}

/// Logs of attempts: with the executor that runs them, or in a pack.
pub(super) struct LogDoor {
    pub(super) consensus: Consensus,
    /// The logs of this node's own executor; `None`: it has none.
    pub(super) own: Option<LogFolder>,
}

impl LogDoor {
    /// Name and address of who has the logs of an executor: its node, or itself if it belongs to none.
    fn place_of(&self, executor: ExecutorId) -> Result<(String, String), LogUnreachable> {
        let state = self.consensus.state();
        if let Some(row) = state.executors.get(&executor).filter(|row| !row.address.is_empty()) {
            return Ok((row.name.clone(), row.address.clone()));
        }
        let members = self.consensus.members();
        let member = members.nodes.get(&executor);
        let member = member.map(|member| (member.name.clone(), member.cluster_address.clone()));
        member.ok_or_else(|| LogUnreachable(format!("{executor} is no member of the cluster")))
    }

    async fn chunks(&self, executor: ExecutorId, ask: &TailAsk) -> Result<LogPiecesOnWire, LogUnreachable> {
        let request = v1::TailRequest {
            fence: ask.fence.0,
            lines: ask.lines.map(u64::from),
            since: None,
            follow: ask.follow,
            stream: v1::AttemptStream::Unspecified.into(),
        };
        let refused = |status: tonic::Status| LogUnreachable(status.message().into());
        if let Some(own) = self.own.as_ref().filter(|_| executor == self.consensus.node()) {
            let chunks = own.tail(Request::new(request)).await.map_err(refused)?;
            return Ok(chunks.into_inner());
        }
        let (name, address) = self.place_of(executor)?;
        let unreachable = |error: tonic::transport::Error| {
            LogUnreachable(format!("cannot reach {name}: {}", error_chain(&error)))
        };
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = connect(&endpoint.map_err(unreachable)?.connect_timeout(CONNECT_WITHIN)).await;
        let mut logs = AttemptLogsClient::new(channel.map_err(unreachable)?);
        let chunks = logs.tail(request).await.map_err(refused)?;
        Ok(chunks.into_inner().boxed())
    }
}

type LogPiecesOnWire =
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<v1::LogChunk, tonic::Status>> + Send + 'static>>;

#[tonic::async_trait]
impl LogSource for LogDoor {
    async fn tail(&self, executor: ExecutorId, ask: TailAsk) -> Result<LogPieces, LogUnreachable> {
        let chunks = self.chunks(executor, &ask).await?;
        let pieces = chunks.map(|chunk| match chunk {
            Ok(chunk) => Ok(LogPiece {
                position: chunk.position,
                at: Timestamp::from_millis(chunk.at),
                stream: match chunk.stream() {
                    v1::AttemptStream::Stdout => LogStream::Stdout,
                    v1::AttemptStream::Stderr => LogStream::Stderr,
                    v1::AttemptStream::Note | v1::AttemptStream::Unspecified => LogStream::Note,
                },
                text: chunk.text,
            }),
            Err(status) => Err(LogUnreachable(status.message().into())),
        });
        let is_new = move |piece: &Result<LogPiece, LogUnreachable>| {
            piece.as_ref().map_or(true, |piece| ask.after.is_none_or(|after| piece.position > after))
        };
        Ok(pieces.filter(move |piece| std::future::ready(is_new(piece))).boxed())
    }

    async fn packed(&self, pack: Digest, offset: u64, bytes: u64) -> Result<Vec<LogPiece>, LogUnreachable> {
        let blob = self.consensus.get_blob(pack).await;
        let blob = blob.map_err(|error| LogUnreachable(error_chain(&error)))?;
        let damaged = || LogUnreachable(format!("pack {pack} does not hold the log where the state says"));
        let log = blob.get(offset as usize..(offset + bytes) as usize).ok_or_else(damaged)?;
        let frames = frames_of(log).map_err(|_| damaged())?;
        let piece = |frame: crate::execute::log::Frame| {
            let stream = match frame.stream {
                Stream::Stdout => LogStream::Stdout,
                Stream::Stderr => LogStream::Stderr,
                Stream::Note => LogStream::Note,
                Stream::End => return None,
            };
            Some(LogPiece { position: frame.position, at: frame.at, stream, text: frame.bytes })
        };
        Ok(frames.into_iter().filter_map(piece).collect())
    }
}
