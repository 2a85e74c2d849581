//! A bare commit: openraft on the store of a node, in this process, with neither leader's work, service nor executor.
//!
//! Three nodes speak over loopback as real ones do. Their files are those of real nodes too.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use matins_core::State;
use matins_core::command::{Command, Proposal, Readings};
use matins_core::state::Settings;
use matins_core::time::Timestamp;
use matins_node::raft::{
    ClockReading, Consensus, EntryClock, Member, MemberChange, RaftTimes, StartConfig, StorageConfig,
};
use matins_node::system::wall_time;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::cluster::until;
use crate::figure::{Figure, median, percentile};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

pub(crate) struct Commit;

#[tonic::async_trait(?Send)]
impl Workload for Commit {
    fn name(&self) -> &'static str {
        "floor-commit"
    }

    fn about(&self) -> &'static str {
        "a bare openraft commit on a node's own store, in one process, one after the other and 256 at once"
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let mut nodes = Vec::new();
        for at in 0..stage.nodes {
            nodes.push(start(&stage.folder.path().join(format!("n{at}"))).await?);
        }
        let first = &nodes[0].0;
        first.init(Settings::default()).await?;
        until("it leads", async || Ok(first.leader().borrow().leading.is_some())).await?;
        for (at, (_, address)) in nodes.iter().enumerate().skip(1) {
            let change = MemberChange { add: Some(address.clone()), ..MemberChange::default() };
            first.change_members(&format!("add-{at}").parse()?, change).await?;
        }
        let mut spans = Vec::new();
        for slots in 0..stage.size.of(1_000, 50) {
            let began = Instant::now();
            commit(first, slots).await?;
            spans.push(began.elapsed());
        }
        let each = stage.size.of(100, 5);
        let began = Instant::now();
        let callers: Vec<_> = (0..256)
            .map(|_| {
                let node = first.clone();
                tokio::spawn(async move {
                    for slots in 0..each {
                        commit(&node, slots).await?;
                    }
                    Ok::<(), Trouble>(())
                })
            })
            .collect();
        for caller in callers {
            caller.await??;
        }
        let took = began.elapsed();
        for (node, _) in nodes {
            node.stop().await;
        }
        Ok(vec![
            Figure::micros("median", median(&spans)),
            Figure::micros("99 of 100", percentile(&spans, 0.99)),
            Figure::per_second("256 callers", 256 * each as usize, took),
        ])
    }
}

async fn commit(node: &Consensus, slots: u32) -> Result<(), Trouble> {
    let command = Command::SetPool { pool: "bench".parse()?, slots, description: String::new() };
    let answered = node.propose(Proposal { request: None, leadership: None, command }).await?;
    must_be("the answer is a refusal", answered.answer.is_err(), false)
}

/// Starts one, and gives its address.
async fn start(folder: &Path) -> Result<(Consensus, String), Trouble> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?.to_string();
    let config = StartConfig {
        data_dir: folder.to_owned(),
        member: Member { cluster_address: address.clone(), ..Member::default() },
        times: RaftTimes::default(),
        level_max: matins_core::LEVEL,
        storage: StorageConfig::default(),
        on_exit: Arc::new(matins_node::raft::exit_process),
    };
    let node = Consensus::start(config, Arc::new(Wall::default())).await?;
    let served = tonic::transport::Server::builder()
        .add_service(node.peer_service())
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    // It ends with this process: only then is nobody left who could ask.
    tokio::spawn(served);
    Ok((node, address))
}

/// Leader time without its finer points: the wall clock.
#[derive(Default)]
struct Wall {
    readings: Mutex<Option<Readings>>,
}

impl EntryClock for Wall {
    fn observe(&self, voters: usize, readings: &[ClockReading]) {
        let mut by_node: Vec<_> = readings.iter().map(|reading| (reading.node, reading.wall)).collect();
        by_node.sort_by_key(|(_, wall)| std::cmp::Reverse(*wall));
        if let Some(majority) = by_node.get(voters / 2).map(|(_, wall)| *wall) {
            *self.readings.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Readings { majority, by_node });
        }
    }

    fn readings(&self) -> Option<Readings> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn at(&self, state: &State) -> Timestamp {
        state.now.max(wall_time())
    }

    fn applied(&self, _now: Timestamp) {}
}
