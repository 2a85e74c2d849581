//! A workload on a whole follower: its consensus, keeper and peer service over the disk, and a leader that is a script.
//!
//! So the order in which a node does things (records, votes, blocks, snapshots, purges: PROTOCOL 6.1, 6.5, 6.8) is its own.
//! The leader calls the node over its peer link, one call after the other, and waits until the disk is quiet where the node
//! works in the background. Start reading at [`run`]; `leader` has what a leader knows.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use matins_core::State;
use matins_core::command::{Command, Readings};
use matins_core::id::ClusterId;
use matins_core::time::Timestamp;
use matins_node::raft::{ClockReading, Consensus, EntryClock, Member, RaftTimes, StartConfig, StorageConfig};
use matins_node::store::files::Files;
use matins_node::store::log::LogConfig;
use matins_node::store::marker::{DataDir, Expected};
use matins_node::store::vote::VoteRecord;
use matins_proto::v1;
use matins_proto::v1::peer_client::PeerClient;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};

use super::contents::{Known, OWN, ROOT, SEGMENT_BYTES};
use super::leader::Leader;
use super::points::Story;
use super::store::Note;
use super::tape::TapeDisk;

const CLUSTER: u64 = 5;
/// A purge leaves so many records, so that there is something to purge.
const KEEP_RECORDS: u64 = 6;
/// How many checkpoints a seed has.
const ROUNDS: u32 = 5;
/// The disk is quiet when nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(60);
/// A snapshot that the cluster agreed on is there by then.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(3);
/// Every wait ends by then.
const DEADLINE: Duration = Duration::from_secs(10);

/// A node whose clock is of no account: it never leads.
struct NoClock;

impl EntryClock for NoClock {
    fn observe(&self, _voters: usize, _readings: &[ClockReading]) {}

    fn readings(&self) -> Option<Readings> {
        None
    }

    fn at(&self, state: &State) -> Timestamp {
        state.now
    }

    fn applied(&self, _now: Timestamp) {}
}

/// Runs a seed and answers what it did to its disk.
pub(super) fn run(seed: u64) -> Result<Story, String> {
    // One thread that waits for the disk, so that what the node does in the background has one order.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.map_err(|error| error.to_string())?.block_on(story(seed))
}

async fn story(seed: u64) -> Result<Story, String> {
    let disk = TapeDisk::default();
    let mut follower = Follower::start(disk.clone(), seed).await?;
    let done = follower.work().await;
    follower.consensus.stop().await;
    follower.server.abort();
    done?;
    if let Some(exit) = follower.exits.lock().expect("no holder panics").first() {
        return Err(format!("the node ended by itself: {exit}"));
    }
    Ok(Story { tape: disk.tape(), notes: follower.notes, seed })
}

struct Follower {
    disk: TapeDisk,
    consensus: Consensus,
    client: PeerClient<Channel>,
    server: tokio::task::JoinHandle<()>,
    exits: Arc<Mutex<Vec<String>>>,
    random: StdRng,
    leader: Leader,
    known: Known,
    notes: Vec<Note>,
}

type Held<T = ()> = Result<T, String>;

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Follower {
    async fn start(disk: TapeDisk, seed: u64) -> Held<Self> {
        let files: Arc<dyn Files> = Arc::new(disk.clone());
        let expected = Expected { node: None, cluster: None, level_max: 9 };
        // The id is drawn before, so that it is the same in each run of a seed.
        let dir = DataDir::open(Arc::clone(&files), Path::new(ROOT), expected, || OWN).map_err(told)?;
        let marker = Some(dir.marker());
        drop(dir);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(told)?;
        let address = listener.local_addr().map_err(told)?.to_string();
        let exits: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&exits);
        let config = StartConfig {
            level_max: matins_core::LEVEL,
            data_dir: ROOT.into(),
            member: Member {
                name: "b".into(),
                cluster_address: address.clone(),
                public_address: String::new(),
            },
            times: RaftTimes::default(),
            storage: StorageConfig {
                files,
                log: LogConfig { segment_bytes: SEGMENT_BYTES },
                keep_records: KEEP_RECORDS,
                keep_bytes: u64::MAX,
                ..StorageConfig::default()
            },
            on_exit: Arc::new(move |exit| noted.lock().expect("no holder panics").push(format!("{exit:?}"))),
        };
        let consensus = Consensus::start(config, Arc::new(NoClock)).await.map_err(told)?;
        let served = Server::builder()
            .add_service(consensus.peer_service())
            .serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { drop(served.await) });
        let client = PeerClient::connect(format!("http://{address}")).await.map_err(told)?;
        let mut known = Known::default();
        known.acked.marker.clone_from(&marker);
        known.asked.marker = marker;
        let (random, leader) = (StdRng::seed_from_u64(seed), Leader::new());
        Ok(Self { disk, consensus, client, server, exits, random, leader, known, notes: Vec::new() })
    }

    fn note(&mut self, is_answer: bool) {
        self.notes.push(Note { at: self.disk.changes(), is_answer, known: self.known.clone() });
    }

    fn to() -> v1::PeerTo {
        v1::PeerTo { cluster: CLUSTER, node: OWN.0 }
    }

    async fn work(&mut self) -> Held {
        self.join().await?;
        self.leader.found()?;
        self.append_all().await?;
        for round in 0..ROUNDS {
            for _ in 0..self.random.random_range(1..4) {
                self.append_some().await?;
            }
            if self.random.random_ratio(2, 3) {
                self.replace().await?;
            }
            self.append_all().await?;
            if round == ROUNDS - 2 {
                self.install().await?;
            }
            self.checkpoint().await?;
        }
        Ok(())
    }

    async fn join(&mut self) -> Held {
        let mut marker = self.known.acked.marker.clone().ok_or("the directory was opened before")?;
        (marker.cluster, marker.level) = (Some(ClusterId(CLUSTER)), 1);
        self.quiet().await?;
        self.known.asked.marker = Some(marker.clone());
        self.note(false);
        let request = v1::PeerJoinRequest { cluster: CLUSTER, level: 1 };
        self.client.join(request).await.map_err(told)?;
        self.known.acked.marker = Some(marker);
        self.note(true);
        Ok(())
    }

    /// Sends the records from `from` on, and says up to where they are committed.
    async fn send(&mut self, from: u64, committed: Option<u64>) -> Held {
        let records = self.leader.records_from(from);
        let vote = VoteRecord { term: self.leader.term, node: self.leader.node, committed: true };
        self.known.asked.vote = Some(vote);
        self.known.asked.records.split_off(&from);
        self.known.asked.records.extend(records.iter().map(|record| (record.index, record.clone())));
        self.known.asked.committed = committed.map_or(0, |index| index + 1).max(self.known.asked.committed);
        self.note(false);
        let request = self.leader.request(Self::to(), from, committed);
        let answer = self.client.append(request).await.map_err(told)?.into_inner();
        if answer.result() != v1::peer_append_response::Result::Success {
            return Err(format!("the node refused records from {from} on: {answer:?}"));
        }
        self.known.acked.vote = Some(vote);
        self.known.acked.records.clone_from(&self.known.asked.records);
        self.note(true);
        Ok(())
    }

    /// Some records, not all of them committed.
    async fn append_some(&mut self) -> Held {
        let from = self.leader.next();
        for _ in 0..self.random.random_range(1..5) {
            let slots = self.random.random_range(1..200);
            self.leader.draft(Command::SetPool {
                pool: "db".parse().map_err(told)?,
                slots,
                description: "x".repeat((slots % 3) as usize * 40),
            });
        }
        self.send(from, self.leader.committed()).await
    }

    /// Commits everything.
    async fn append_all(&mut self) -> Held {
        let from = self.leader.sent();
        self.leader.commit()?;
        self.send(from, self.leader.committed()).await
    }

    /// Another leader, which lacks some of what is not committed, and has something else there.
    async fn replace(&mut self) -> Held {
        let first = self.leader.committed().map_or(0, |index| index + 1);
        if first >= self.leader.next() {
            return Ok(());
        }
        let from = self.random.random_range(first..self.leader.next());
        self.leader.succeed(from);
        self.append_some().await
    }

    /// A run ends and leaves for history, then comes a checkpoint that the cluster agrees on: the node keeps the block, writes
    /// and publishes the snapshot, and purges its log behind it.
    async fn checkpoint(&mut self) -> Held {
        self.quiet().await?;
        let from = self.leader.next();
        let block = self.leader.retire_a_run()?;
        let (index, body) = self.leader.checkpoint()?;
        self.known.asked.blobs.insert(block);
        self.known.asked.purged = Some(body.last);
        self.known.asked.snapshots.insert(index, body);
        self.send(from, self.leader.committed()).await?;
        let deadline = Instant::now() + PUBLISHED_WITHIN;
        // A planted bug may publish it under another name: then the comparison tells.
        while !is_published(&self.disk, index) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.quiet().await
    }

    /// The node has been away: a snapshot of a later index comes, and the log behind it goes.
    async fn install(&mut self) -> Held {
        self.quiet().await?;
        let (last, body, pieces) = self.leader.go_ahead()?;
        self.known.asked.snapshots.insert(last.index, body);
        self.known.asked.purged = Some(last);
        self.known.asked.committed = last.index + 1;
        self.note(false);
        let vote = v1::PeerVote { term: self.leader.term, node: self.leader.node, committed: true };
        let head = v1::PeerSnapshotPart {
            to: Some(Self::to()),
            last: Some(v1::PeerLogId { term: last.term, leader: last.leader, index: last.index }),
            vote: Some(vote),
            ..v1::PeerSnapshotPart::default()
        };
        let parts = pieces.into_iter().zip(0..).map(|(piece, number)| v1::PeerSnapshotPart {
            number,
            piece: piece.into(),
            ..v1::PeerSnapshotPart::default()
        });
        let parts: Vec<_> = std::iter::once(head).chain(parts).collect();
        self.client.install_snapshot(tokio_stream::iter(parts)).await.map_err(told)?;
        self.known.acked.snapshots.clone_from(&self.known.asked.snapshots);
        // Earlier ones were not acknowledged to anybody.
        self.known.acked.snapshots.retain(|index, _| *index == last.index);
        self.note(true);
        self.quiet().await
    }

    /// Waits until the node has nothing more to do.
    async fn quiet(&mut self) -> Held {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let before = self.disk.changes();
            tokio::time::sleep(QUIET).await;
            if self.disk.changes() == before {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("the node's disk does not come to rest".into());
            }
        }
    }
}

fn is_published(disk: &TapeDisk, index: u64) -> bool {
    let name = format!("{index:020}-");
    let image = disk.image();
    let is_it = |path: &Path| {
        let of_snapshot = path.extension().is_some_and(|ending| ending == "snapshot");
        let found = path.file_name().and_then(|found| found.to_str());
        of_snapshot && found.is_some_and(|found| found.starts_with(&name))
    };
    image.files().any(|(path, _)| is_it(path))
}
