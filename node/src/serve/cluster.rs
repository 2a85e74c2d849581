//! What the services need of the node behind them: consensus, history, and logs of attempts.
//!
//! Traits, so that tests run every service over a cluster of one that is nothing but `matins_core::apply`. They decide
//! nothing. Start reading at [`Cluster`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use matins_core::command::Proposal;
use matins_core::history::RetiredRun;
use matins_core::id::{Digest, ExecutorId, Fence, LogIndex, NodeId, RequestId, RunId, ScheduleId};
use matins_core::state::RunState;
use matins_core::time::Timestamp;
use matins_core::{Answer, Refusal, State};
use thiserror::Error;

pub use crate::disk::DiskUse;
use tokio::sync::watch;

pub use crate::raft::SupportedLevel;
use crate::store::history::Among;

/// What a proposal was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer, the same on every replica.
    pub answer: Result<Answer, Refusal>,
    /// The entry that decided it.
    pub index: LogIndex,
    /// Leader time of that entry.
    pub at: Timestamp,
}

/// Why there is no answer of the cluster.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody leads, or the leader is not ready. Nothing was proposed.
    #[error("no leader is known, or it is not ready yet")]
    NotReady,
    /// The leader cannot reach a majority. Nothing was proposed.
    #[error("the leader cannot reach a majority of the nodes")]
    NoQuorum,
    /// A queue is full. Nothing was proposed.
    #[error("too many commands wait to be written")]
    Overloaded,
    /// It does not fit into an entry of the log. Nothing was proposed.
    #[error("the command takes {bytes} bytes, and an entry of the log has {limit} at most")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The size of an entry.
        limit: usize,
    },
    /// It may or may not have been done: repeat it with the same request id (PROTOCOL 2.4).
    #[error("it is unknown whether the command was carried out")]
    Unknown,
    /// This node is stopping.
    #[error("this node is shutting down")]
    Stopping,
    /// The disk of this node is full: names it. Nothing was proposed.
    #[error("the disk of {0} is full")]
    DiskFull(NodeId),
    /// A fault underneath; the text is for the log of the node.
    #[error("{0}")]
    Fault(String),
}

/// A blob that could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BlobMissing {
    /// No node that answers has it.
    #[error("no node that answers has blob {0}")]
    Lost(Digest),
    /// The disk failed.
    #[error("cannot read blob {0}: {1}")]
    Fault(Digest, String),
}

/// Why the membership was not changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MembershipError {
    /// The cluster was made before; names it.
    #[error("this node belongs to cluster {0:016x} already")]
    AlreadyInitialised(u64),
    /// The node at that address cannot join; says why.
    #[error("{0}")]
    NotAdmitted(String),
    /// A member does not support a feature level, or does not say; names it.
    #[error("{0}")]
    LevelNotSupported(String),
    /// Another change is under way, or this one still goes on.
    #[error("a change of the membership is under way")]
    Busy,
    /// No member has this id or name.
    #[error("no member of the cluster is `{0}`")]
    NoMember(String),
    /// It would leave too few healthy voters, or one that may lack data; says which, and what to do.
    #[error("{why}")]
    Unsafe {
        /// Which, and why.
        why: String,
        /// What to do.
        hint: String,
    },
    /// Nobody took the lead over; says why.
    #[error("{0}")]
    LeadNotTaken(String),
    /// As for commands.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// One node's part in the cluster. All of it works on any node.
#[tonic::async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Brings a command to the leader and waits until it was applied, `within` at most.
    async fn propose(&self, proposal: Proposal, within: Duration) -> Result<Answered, Unanswered>;

    /// A state that holds everything acknowledged before the call (PROTOCOL 7).
    async fn read_index(&self, within: Duration) -> Result<Arc<State>, Unanswered>;

    /// The newest state that this node has applied, to read and to wait on.
    fn states(&self) -> watch::Receiver<Arc<State>>;

    /// Brings what `status` tells of other nodes up to date.
    async fn look_around(&self);

    /// How this node sees the cluster.
    fn status(&self) -> ClusterView;

    /// Stores a blob, durable on a majority when this answers (PROTOCOL 6.4).
    async fn put_blob(&self, bytes: Bytes) -> Result<Digest, Unanswered>;

    /// Reads a blob, from a peer if this node lacks it.
    async fn blob(&self, digest: Digest) -> Result<Bytes, BlobMissing>;

    /// Every blob that a state and its history name, held here for a day although a later state may name it no more. An
    /// error says in words what is missing.
    async fn hold_named(&self, state: &State) -> Result<BTreeSet<Digest>, String>;

    /// Makes a cluster of this node alone, and answers with its id (PROTOCOL 2.7).
    async fn init(&self) -> Result<u64, MembershipError>;

    /// Changes who belongs to the cluster; answers when that is committed. A repeat under the same request id joins the first.
    async fn change_members(&self, ask: MembersAsk) -> Result<MembersChanged, MembershipError>;

    /// Makes another voter the leader, that with this id or name or the one least behind; answers when it leads.
    async fn hand_over(&self, to: Option<&str>) -> Result<NodeId, MembershipError>;

    /// Asks all members whether they support this feature level; without one, how far they all do (PROTOCOL 6.9).
    async fn supported_level(&self, level: Option<u16>) -> Result<SupportedLevel, MembershipError>;
}

/// What a change of the membership came to, by the word of the leader that made it: the node that is asked may lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersChanged {
    /// The node that came, or else the one that went.
    pub node: NodeId,
    /// How many vote now.
    pub voters: u32,
}

/// Who is to come to the cluster and who is to go. Both is a replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersAsk {
    /// Drawn by the client.
    pub request: RequestId,
    /// Where the node that comes waits: its cluster port.
    pub add: Option<String>,
    /// The member that goes, by id or name.
    pub remove: Option<String>,
    /// Dead voters that go too, by id or name.
    pub force: Vec<String>,
}

/// How a node sees the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// Its version of Matins.
    pub version: String,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// Raft's term.
    pub term: u64,
    /// The last index it knows to be committed.
    pub committed: u64,
    /// Members, by id.
    pub members: Vec<MemberView>,
    /// Alarms that are not in the state: of clocks, disks and peers.
    pub alarms: Vec<AlarmView>,
    /// A reading of the clocks that waits for a person (PROTOCOL 1.2).
    pub time_waiting: Option<Timestamp>,
}

/// A member, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberView {
    /// Which node.
    pub node: NodeId,
    /// For people.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// Where nodes reach it.
    pub cluster_address: String,
    /// Whether it counts in majorities.
    pub is_voter: bool,
    /// Whether it was heard of in the last 3 seconds.
    pub is_reachable: bool,
    /// Entries behind what is committed; `None`: not known here.
    pub lag: Option<u64>,
    /// Milliseconds that its wall clock is ahead of leader time; `None`: not known here.
    pub clock_ahead_millis: Option<i64>,
    /// Its version of Matins; empty: not known here.
    pub version: String,
    /// How full its disk is; `None`: not known here.
    pub disk: Option<DiskUse>,
    /// The newest feature level it supports; `None`: not known here.
    pub level_max: Option<u16>,
}

/// Something a person should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmView {
    /// Stable, one of those that `cluster.proto` lists.
    pub code: &'static str,
    /// One sentence.
    pub text: String,
    /// What it is about.
    pub subject: String,
    /// Since when.
    pub since: Timestamp,
}

/// Finished runs that left the state (PROTOCOL 6.5).
#[tonic::async_trait]
pub trait History: Send + Sync + 'static {
    /// One run; `None` if it is not there.
    async fn run(&self, run: RunId) -> Result<Option<RetiredRun>, HistoryError>;

    /// Runs with ids below `before`, the newest first, `limit` at most.
    async fn runs_before(&self, before: RunId, among: &Among, limit: usize)
    -> Result<PastRuns, HistoryError>;

    /// Whether a later run than this one is in the same chain of retries, which `root` begins.
    fn has_later_retry(&self, root: RunId, run: RunId) -> Result<bool, HistoryError>;

    /// Runs of a schedule for logical times from the first to the last of these, both included.
    async fn runs_for(
        &self,
        schedule: &ScheduleId,
        times: (Timestamp, Timestamp),
    ) -> Result<Vec<PastRun>, HistoryError>;

    /// Runs of a schedule before this logical time and run, by logical time, then run, the newest first, `limit` at most, with
    /// all their rows. Fewer do not mean that there are no more, unless there are none.
    async fn runs_of(
        &self,
        schedule: &ScheduleId,
        before: (Timestamp, RunId),
        limit: usize,
    ) -> Result<Vec<RetiredRun>, HistoryError>;

    /// Whether this node still fetches blocks, so that runs may be missing.
    fn is_incomplete(&self) -> bool;
}

/// A page of finished runs, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastRuns {
    /// The newest first. There may be none although more follow.
    pub runs: Vec<RetiredRun>,
    /// It goes on with runs below this one; `None` if this is all.
    pub next: Option<RunId>,
}

/// A finished run, as far as a backfill asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastRun {
    /// Which one.
    pub run: RunId,
    /// What it was for.
    pub logical_time: Timestamp,
    /// How it ended.
    pub state: RunState,
}

/// History could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot read history: {0}")]
pub struct HistoryError(pub String);

/// Logs of attempts, wherever they lie (PROTOCOL 6.7).
#[tonic::async_trait]
pub trait LogSource: Send + Sync + 'static {
    /// What lies with an executor. The stream ends where the log ends now or, if asked to follow, with the attempt.
    async fn tail(&self, executor: ExecutorId, ask: TailAsk) -> Result<LogPieces, LogUnreachable>;

    /// What lies in a pack: `bytes` from `offset` on of that blob.
    async fn packed(&self, pack: Digest, offset: u64, bytes: u64) -> Result<Vec<LogPiece>, LogUnreachable>;
}

/// Pieces of one log, in order.
pub type LogPieces = BoxStream<'static, Result<LogPiece, LogUnreachable>>;

/// Which part of a running attempt's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailAsk {
    /// Whose log.
    pub fence: Fence,
    /// Only the last lines; `None`: all.
    pub lines: Option<u32>,
    /// Only pieces behind this position.
    pub after: Option<u64>,
    /// Go on until the attempt has ended.
    pub follow: bool,
}

/// A piece of a log, as the executor read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Rises from piece to piece.
    pub position: u64,
    /// By the executor's clock.
    pub at: Timestamp,
    /// Where it came from.
    pub stream: LogStream,
    /// What was printed, cut anywhere.
    pub text: Vec<u8>,
}

/// Where a piece of log came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Said by Matins: the rest was dropped.
    Note,
}

/// A log cannot be reached now.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct LogUnreachable(pub String);
