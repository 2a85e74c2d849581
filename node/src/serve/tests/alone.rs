//! A cluster of one without consensus: commands go through `apply` at once, and what a leader does is done by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use matins_core::command::{Command, Entry, Finish, Fire, OpenSession, Proposal, Readings};
use matins_core::history::RetiredRun;
use matins_core::id::{
    Digest, ExecutorId, Fence, JournalId, LogIndex, NodeId, RunId, ScheduleId, SessionNumber,
};
use matins_core::state::{AttemptOutcome, Next, Settings};
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Effect, LEVEL, Refusal, State};
use matins_workflow::calendar::Calendar;
use tokio::sync::watch;

use crate::metrics::{Change, Metrics, Scrape, Seen, Timings};
use crate::serve::cluster::{
    Answered, BlobMissing, Cluster, ClusterView, History, HistoryError, LogPiece, LogPieces, LogSource,
    LogUnreachable, MemberView, MembersAsk, MembersChanged, MembershipError, PastRun, PastRuns,
    SupportedLevel, TailAsk, Unanswered,
};
use crate::store::history::Among;

/// The time at which every test begins: 2026-03-02T00:00:00Z, a Monday.
pub(in crate::serve) const BEGIN: Timestamp = Timestamp::from_millis(1_772_409_600_000);
const NODE: NodeId = NodeId(1);

/// The node.
pub(in crate::serve) struct Alone {
    states: watch::Sender<Arc<State>>,
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    history: Mutex<BTreeMap<RunId, RetiredRun>>,
    /// What executors have, by fence.
    pub(in crate::serve) logs: Mutex<BTreeMap<Fence, Vec<LogPiece>>>,
    pub(in crate::serve) metrics: Metrics,
}

impl Default for Alone {
    fn default() -> Self {
        Self {
            states: watch::channel(Arc::new(State::default())).0,
            blobs: Mutex::default(),
            history: Mutex::default(),
            logs: Mutex::default(),
            metrics: Metrics::new(&Timings::default(), None),
        }
    }
}

impl Alone {
    /// Makes the cluster, with one executor of two slots.
    pub(in crate::serve) fn found(&self) {
        let readings = Readings { majority: BEGIN, by_node: vec![(NODE, BEGIN)] };
        self.lead(&Command::LeaderReady { node: NODE, nonce: 1, readings });
        self.lead(&Command::Init { cluster: 7, settings: Settings::default() });
        self.lead(&Command::OpenSession(OpenSession {
            executor: NODE,
            session: SessionNumber(1),
            boot: "boot".into(),
            journal: JournalId(1),
            held: Vec::new(),
            name: "alone".into(),
            slots: 2,
            labels: BTreeMap::new(),
            address: String::new(),
        }));
    }

    pub(in crate::serve) fn state(&self) -> Arc<State> {
        self.states.borrow().clone()
    }

    /// Applies one command a millisecond after the last one.
    pub(in crate::serve) fn apply(&self, proposal: &Proposal) -> (Result<Answer, Refusal>, Vec<Effect>) {
        let mut result = None;
        self.states.send_modify(|state| {
            let at = state.now.max(BEGIN) + Millis(1);
            let mut next = (**state).clone();
            let index = LogIndex(next.index.0 + 1);
            let entry = Entry { level: LEVEL, at, proposals: vec![proposal.clone()] };
            let mut outcome = matins_core::apply(&mut next, index, entry);
            let (answers, effects) = (&outcome.answers[..], &outcome.effects[..]);
            self.metrics.counts().entry(&Change { before: state, after: &next, answers, effects });
            *state = Arc::new(next);
            result = outcome.answers.pop().map(|answer| (answer, outcome.effects));
        });
        result.expect("one command, one answer")
    }

    /// Applies what a leader makes.
    pub(in crate::serve) fn lead(&self, command: &Command) -> (Answer, Vec<Effect>) {
        let leadership = self.state().cluster.leader.as_ref().map(|leader| leader.leadership);
        let (answer, effects) = self.apply(&Proposal { request: None, leadership, command: command.clone() });
        (answer.unwrap_or_else(|refusal| panic!("{command:?}: {refusal}")), effects)
    }

    /// Lets time pass, a while at once.
    pub(in crate::serve) fn pass(&self, span: Millis) {
        let until = self.state().now + span;
        let readings = Readings { majority: until, by_node: vec![(NODE, until)] };
        self.states.send_modify(|state| {
            let mut next = (**state).clone();
            let leadership = next.cluster.leader.as_ref().map(|leader| leader.leadership);
            let proposals =
                vec![Proposal { request: None, leadership, command: Command::Time(readings.clone()) }];
            let index = LogIndex(next.index.0 + 1);
            matins_core::apply(&mut next, index, Entry { level: LEVEL, at: until, proposals });
            *state = Arc::new(next);
        });
    }

    /// Works `next` of every schedule out and decides what is due, without runs: marks move, nothing else.
    pub(in crate::serve) fn fire(&self) {
        let state = self.state();
        for (id, row) in state.schedules.iter() {
            let calendar = Calendar::from_schedule(&row.spec).unwrap();
            if row.next == Next::Never {
                continue;
            }
            self.lead(&Command::Fire(Fire {
                schedule: id.clone(),
                version: row.version,
                from_mark: row.mark,
                to_mark: state.now,
                decisions: Vec::new(),
                next: calendar.next_after(state.now).map(|tick| tick.at),
            }));
        }
    }

    /// Ends every attempt that lives.
    pub(in crate::serve) fn finish_all(&self, outcome: &AttemptOutcome) {
        let live: Vec<Fence> = self.state().live.iter().map(|(fence, _)| *fence).collect();
        for fence in live {
            self.lead(&Command::Finish(Finish {
                fence,
                outcome: outcome.clone(),
                output: None,
                started_at: None,
                log_bytes: 0,
            }));
        }
    }

    /// Every finished run leaves for history.
    pub(in crate::serve) fn retire(&self) {
        let state = self.state();
        let runs: Vec<RunId> = state.finished.iter().map(|((_, run), ())| *run).collect();
        let mut runs = runs;
        runs.sort();
        for run in &runs {
            self.history.lock().unwrap().insert(*run, state.retired(*run).unwrap());
        }
        if !runs.is_empty() {
            self.lead(&Command::RetireRuns { runs });
        }
    }
}

impl Scrape for Alone {
    fn scrape(&self) -> String {
        let state = self.state();
        self.metrics.text(&Seen { now: state.now, state, leads: true, ..Seen::default() })
    }
}

#[tonic::async_trait]
impl Cluster for Alone {
    async fn propose(&self, proposal: Proposal, _: Duration) -> Result<Answered, Unanswered> {
        if self.state().cluster.id.is_none() {
            return Err(Unanswered::NotReady);
        }
        let (mut answer, _) = self.apply(&proposal);
        if matches!(answer, Err(Refusal::TicksDue(_))) {
            // As a leader does (PROTOCOL 3.5).
            self.fire();
            answer = self.apply(&proposal).0;
        }
        let state = self.state();
        Ok(Answered { answer, index: state.index, at: state.now })
    }

    async fn read_index(&self, _: Duration) -> Result<Arc<State>, Unanswered> {
        Ok(self.state())
    }

    fn states(&self) -> watch::Receiver<Arc<State>> {
        self.states.subscribe()
    }

    async fn look_around(&self) {}

    fn status(&self) -> ClusterView {
        let member = MemberView { node: NODE, name: "alone".into(), is_voter: true, ..MemberView::default() };
        ClusterView { node: NODE, leader: Some(NODE), members: vec![member], ..ClusterView::default() }
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<Digest, Unanswered> {
        let digest = Digest::of(&bytes);
        self.blobs.lock().unwrap().insert(digest, bytes);
        Ok(digest)
    }

    async fn blob(&self, digest: Digest) -> Result<Bytes, BlobMissing> {
        self.blobs.lock().unwrap().get(&digest).cloned().ok_or(BlobMissing::Lost(digest))
    }

    async fn hold_named(&self, _: &State) -> Result<BTreeSet<Digest>, String> {
        Ok(self.blobs.lock().unwrap().keys().copied().collect())
    }

    async fn init(&self) -> Result<u64, MembershipError> {
        if let Some(cluster) = self.state().cluster.id {
            return Err(MembershipError::AlreadyInitialised(cluster));
        }
        self.found();
        Ok(7)
    }

    async fn change_members(&self, ask: MembersAsk) -> Result<MembersChanged, MembershipError> {
        Err(MembershipError::NotAdmitted(format!("cannot reach {:?}", ask.add)))
    }

    async fn hand_over(&self, _to: Option<&str>) -> Result<NodeId, MembershipError> {
        Err(MembershipError::LeadNotTaken("no other voter answers".into()))
    }

    async fn supported_level(&self, level: Option<u16>) -> Result<SupportedLevel, MembershipError> {
        match level {
            Some(level) if level > LEVEL => Err(MembershipError::LevelNotSupported(format!("{level}"))),
            level => Ok(SupportedLevel { level: level.unwrap_or(LEVEL), members: LogIndex(0) }),
        }
    }
}

#[tonic::async_trait]
impl History for Alone {
    async fn run(&self, run: RunId) -> Result<Option<RetiredRun>, HistoryError> {
        Ok(self.history.lock().unwrap().get(&run).cloned())
    }

    async fn runs_before(
        &self,
        before: RunId,
        among: &Among,
        limit: usize,
    ) -> Result<PastRuns, HistoryError> {
        let history = self.history.lock().unwrap();
        let pair = |run: &RetiredRun| (run.run.workflow.to_string(), run.run.state.as_str().to_owned());
        let runs = history.range(..before).rev().map(|(_, run)| run);
        let mut own = runs.filter(|run| match among {
            Among::All => true,
            Among::Pairs(pairs) => pairs.contains(&pair(run)),
        });
        let page = own.by_ref().take(limit).cloned().collect();
        Ok(PastRuns { runs: page, next: own.next().map(|run| RunId(run.id.0 + 1)) })
    }

    fn has_later_retry(&self, root: RunId, run: RunId) -> Result<bool, HistoryError> {
        let history = self.history.lock().unwrap();
        Ok(history.range(RunId(run.0 + 1)..).any(|(_, later)| later.run.retry_root == root))
    }

    async fn runs_for(
        &self,
        schedule: &ScheduleId,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Vec<PastRun>, HistoryError> {
        let history = self.history.lock().unwrap();
        let own = history.values().filter(|run| run.run.schedule_id().as_ref() == Some(schedule));
        let own = own.filter(|run| (from..=to).contains(&run.run.logical_time));
        let past = |run: &RetiredRun| PastRun {
            run: run.id,
            logical_time: run.run.logical_time,
            state: run.run.state,
        };
        Ok(own.map(past).collect())
    }

    async fn runs_of(
        &self,
        schedule: &ScheduleId,
        before: (Timestamp, RunId),
        limit: usize,
    ) -> Result<Vec<RetiredRun>, HistoryError> {
        let history = self.history.lock().unwrap();
        let own = history.values().filter(|run| run.run.schedule_id().as_ref() == Some(schedule));
        let mut own: Vec<_> = own.filter(|run| (run.run.logical_time, run.id) < before).cloned().collect();
        own.sort_by_key(|run| std::cmp::Reverse((run.run.logical_time, run.id)));
        own.truncate(limit);
        Ok(own)
    }

    fn is_incomplete(&self) -> bool {
        false
    }
}

#[tonic::async_trait]
impl LogSource for Alone {
    async fn tail(&self, _: ExecutorId, ask: TailAsk) -> Result<LogPieces, LogUnreachable> {
        let logs = self.logs.lock().unwrap();
        let pieces = logs.get(&ask.fence).ok_or_else(|| LogUnreachable("no log".into()))?.clone();
        Ok(stream::iter(pieces.into_iter().map(Ok)).boxed())
    }

    async fn packed(&self, pack: Digest, _: u64, _: u64) -> Result<Vec<LogPiece>, LogUnreachable> {
        Err(LogUnreachable(format!("no pack {pack}")))
    }
}
