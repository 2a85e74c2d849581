//! What the scripted leader of `node` knows: its log, and the state that the committed part of it makes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use matins_core::command::{Apply, ApplyWorkflow, Command, Entry, Proposal, Readings, Start, StopHow, Tick};
use matins_core::id::{Digest, LogIndex, NodeId};
use matins_core::state::{RunOrigin, Settings};
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Effect, State, apply};
use matins_node::store::Position;
use matins_node::store::files::MemoryDisk;
use matins_node::store::log::{Kind, Record};
use matins_node::store::snapshot::{SnapshotMeta, Snapshots};
use matins_proto::v1;
use matins_workflow::compile::{NoFiles, Options, SourceFile, compile};

use super::contents::{Body, OWN};

type Held<T = ()> = Result<T, String>;

/// The leader.
pub(super) struct Leader {
    pub(super) term: u64,
    pub(super) node: u64,
    records: Vec<Record>,
    /// How many of them are committed, and in the state.
    committed: u64,
    /// How many the follower has.
    sent: u64,
    state: State,
    at: Timestamp,
    blocks: Vec<Digest>,
}

impl Leader {
    pub(super) fn new() -> Self {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let mut leader = Self {
            term: 1,
            node: 1,
            records: Vec::new(),
            committed: 0,
            sent: 0,
            state: State::default(),
            at,
            blocks: Vec::new(),
        };
        leader.push(Kind::Membership, membership());
        leader
    }

    /// The index of the next record.
    pub(super) fn next(&self) -> u64 {
        self.records.len() as u64
    }

    /// The first record that the follower lacks.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The newest committed record.
    pub(super) fn committed(&self) -> Option<u64> {
        self.committed.checked_sub(1)
    }

    pub(super) fn records_from(&self, from: u64) -> Vec<Record> {
        self.records[from as usize..].to_vec()
    }

    fn push(&mut self, kind: Kind, body: Vec<u8>) {
        let index = self.next();
        self.records.push(Record { index, term: self.term, leader: self.node, kind, body: body.into() });
    }

    /// A record that is not committed yet.
    pub(super) fn draft(&mut self, command: Command) {
        self.at = self.at + Millis(10);
        let leadership = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        let proposals = vec![Proposal { request: None, leadership, command }];
        let entry = Entry { level: 1, at: self.at, proposals };
        self.push(Kind::Entry, entry.encode());
    }

    /// A record that is committed at once.
    fn enter(&mut self, command: Command) -> Held<(Answer, Vec<Effect>)> {
        let told = format!("{command:?}");
        self.draft(command);
        let (answer, effects) = self.commit_next()?;
        answer.map(|answer| (answer, effects)).ok_or_else(|| format!("{told} was refused"))
    }

    fn commit_next(&mut self) -> Held<(Option<Answer>, Vec<Effect>)> {
        let record = self.records[self.committed as usize].clone();
        self.committed += 1;
        if record.kind != Kind::Entry {
            return Ok((None, Vec::new()));
        }
        let entry = Entry::decode(&record.body).map_err(|error| error.to_string())?;
        let mut outcome = apply(&mut self.state, LogIndex(record.index), entry);
        Ok((outcome.answers.pop().and_then(Result::ok), outcome.effects))
    }

    /// Everything is committed.
    pub(super) fn commit(&mut self) -> Held {
        while self.committed < self.next() {
            self.commit_next()?;
        }
        Ok(())
    }

    /// The first records of a cluster, with a workflow.
    pub(super) fn found(&mut self) -> Held {
        self.commit()?;
        let readings = Readings { majority: self.at, by_node: Vec::new() };
        self.enter(Command::LeaderReady { node: NodeId(1), nonce: 1, readings })?;
        self.enter(Command::Init { cluster: 5, settings: Settings::default() })?;
        let source = SourceFile {
            name: "crash.yaml".into(),
            text: "workflow: w\ntasks: { a: { run: [x] }, b: { run: [x], needs: a } }\n".into(),
        };
        let compiled = compile(&[source], &NoFiles, &Options::default());
        let mut asked = Apply::default();
        for workflow in compiled.workflows {
            let (name, definition) = (workflow.ir.name.clone(), workflow.digest());
            self.enter(Command::StoreDefinition { definition: Box::new(workflow.ir), source: None })?;
            asked.workflows.push(ApplyWorkflow { name, definition, start: None });
        }
        self.enter(Command::Apply(asked)).map(drop)
    }

    /// Another node leads, with the records before `from`.
    pub(super) fn succeed(&mut self, from: u64) {
        self.term += 1;
        self.node = if self.node == 1 { 2 } else { 1 };
        self.records.truncate(from as usize);
        self.sent = self.sent.min(from);
    }

    /// What the follower is sent.
    pub(super) fn request(
        &mut self,
        to: v1::PeerTo,
        from: u64,
        committed: Option<u64>,
    ) -> v1::PeerAppendRequest {
        let place =
            |record: &Record| v1::PeerLogId { term: record.term, leader: record.leader, index: record.index };
        let kind = |kind: Kind| match kind {
            Kind::Blank => v1::peer_record::Kind::Blank,
            Kind::Membership => v1::peer_record::Kind::Membership,
            Kind::Entry => v1::peer_record::Kind::Entry,
        };
        let out = |record: &Record| v1::PeerRecord {
            at: Some(place(record)),
            kind: kind(record.kind).into(),
            body: record.body.clone(),
        };
        self.sent = self.next();
        v1::PeerAppendRequest {
            to: Some(to),
            vote: Some(v1::PeerVote { term: self.term, node: self.node, committed: true }),
            previous: from.checked_sub(1).map(|before| place(&self.records[before as usize])),
            committed: committed.map(|index| place(&self.records[index as usize])),
            records: self.records[from as usize..].iter().map(out).collect(),
        }
    }

    /// A run begins, is cancelled, and leaves for history. Answers its block.
    pub(super) fn retire_a_run(&mut self) -> Held<Digest> {
        let found = self.state.definitions.iter().next().map(|(id, row)| (*id, row.workflow.name.clone()));
        let (definition, workflow) = found.ok_or("there is a workflow")?;
        let tick = Tick { logical_time: self.at, interval_start: self.at, params: Ok("{}".into()) };
        let start = Start { workflow, definition, origin: RunOrigin::Manual, schedule: None, tick };
        self.enter(Command::Start(start))?;
        let active: Vec<_> = self.state.runs.iter().map(|(run, _)| *run).collect();
        for run in &active {
            self.enter(Command::Cancel { run: *run, how: StopHow::Now })?;
        }
        let (_, effects) = self.enter(Command::RetireRuns { runs: active })?;
        let block = effects
            .iter()
            .find_map(|effect| if let Effect::Block { digest, .. } = effect { Some(*digest) } else { None });
        let block = block.ok_or("retiring runs makes a block")?;
        self.blocks.push(block);
        Ok(block)
    }

    /// A checkpoint, and the report that makes a majority. Answers its index and what the snapshot of it must hold.
    pub(super) fn checkpoint(&mut self) -> Held<(u64, Body)> {
        self.enter(Command::Checkpoint)?;
        let (index, hash, body) = (self.next() - 1, self.state.hash(), self.body());
        self.enter(Command::CheckpointReport { node: NodeId(1), index, hash, voters: 1 })?;
        Ok((index, body))
    }

    fn body(&self) -> Body {
        let last = self.records.last().map(Record::position).unwrap_or_default();
        Body { last, digest: Digest::of(&self.state.encode()), blocks: self.blocks.clone() }
    }

    /// Records that the follower never gets, and a snapshot behind them, in pieces.
    pub(super) fn go_ahead(&mut self) -> Held<(Position, Body, Vec<Vec<u8>>)> {
        for slots in 1..12 {
            let pool = "db".parse().map_err(|error| format!("{error:?}"))?;
            self.enter(Command::SetPool { pool, slots, description: "while away".into() })?;
        }
        self.sent = self.next();
        let body = self.body();
        let meta = SnapshotMeta {
            last: body.last,
            level: 1,
            membership: members_of_snapshot(self.records[0].position()),
            state_hash: self.state.hash(),
        };
        let pieces = pieces(&meta, &self.state.encode())?;
        Ok((body.last, body, pieces))
    }
}

/// The node is a learner: it neither votes nor asks for votes.
fn membership() -> Vec<u8> {
    let member = |name: &str| (name.to_owned(), "127.0.0.1:1".to_owned(), String::new());
    let voters = vec![BTreeSet::from([1_u64, 2])];
    let nodes = BTreeMap::from([(1, member("a")), (2, member("c")), (OWN.0, member("b"))]);
    postcard::to_extend(&(voters, nodes), vec![1]).expect("maps and sets have a known length")
}

fn members_of_snapshot(at: Position) -> Vec<u8> {
    postcard::to_allocvec(&(Some(at), membership())).expect("its bytes have a known length")
}

/// The pieces of a snapshot, as another node sends them.
pub(super) fn pieces(meta: &SnapshotMeta, body: &[u8]) -> Held<Vec<Vec<u8>>> {
    let told = |error: matins_node::store::StoreError| error.to_string();
    let other = Snapshots::open(Arc::new(MemoryDisk::new()), Path::new("/other")).map_err(told)?;
    let mut writer = other.write(meta).map_err(told)?;
    writer.write_all(body).map_err(|error| error.to_string())?;
    let sent = other.publish(writer.finish().map_err(told)?).map_err(told)?;
    let piece = |number| sent.piece(number).map_err(told)?.ok_or_else(|| "a piece is missing".to_owned());
    (0..sent.pieces()).map(|number| piece(number).map(|piece| piece.to_vec())).collect()
}
