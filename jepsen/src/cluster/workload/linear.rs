//! **linear**: reads and writes of single objects are linearizable, and a stale read, which has to be asked for, shows a
//! state that once was.
//!
//! The objects are pools and their value is the number of slots; each write has a value of its own. Each request is sent
//! once, to one node drawn at random, so that what is not answered is a "maybe". Every answer carries the log index that
//! it belongs to, which makes the check linear in time. Start at [`Linear`]; `linear/check.rs` is the checker.

mod check;

use std::time::{Duration, Instant};

use matins_client::Answered;
use matins_proto::v1::pools_client::PoolsClient;
use matins_proto::v1::{ListPoolsRequest, SetPoolRequest};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::report::Report;

use super::doors::Doors;
use super::record::boot_time;
use super::{Site, Trouble, Until, Workload};
use check::{Action, Fate, History, Operation, broken};

const NAME: &str = "linear";

/// Objects.
const POOLS: usize = 5;

/// Clients that ask at the same time.
const CLIENTS: u32 = 6;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The most slots that a pool may have, and so the highest value.
const VALUE_MAX: u32 = 1_000_000;

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Linear {
    history: History,
}

#[tonic::async_trait]
impl Workload for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        for pool in 0..POOLS {
            let ask = SetPoolRequest { name: pool_name(pool), slots: 0, ..SetPoolRequest::default() };
            let made = doors.surely(ask).await?.committed;
            self.history.made.push(made.ok_or_else(|| Trouble("a write tells no index".into()))?.index);
        }
        Ok(())
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (mut client, until) = (Client::new(site, client)?, until.clone());
            clients.spawn(async move {
                client.work(&until).await?;
                Ok::<_, Trouble>(client.operations)
            });
        }
        while let Some(ended) = clients.join_next().await {
            self.history.operations.extend(ended.map_err(|error| Trouble(format!("a client: {error}")))??);
        }
        Ok(())
    }

    async fn settle(&mut self, site: &Site, within: Duration, _report: &mut Report) -> Result<(), Trouble> {
        // One last read, of a cluster that is well: it shows what became of the last writes.
        let mut client = Client::new(site, CLIENTS)?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            client.read(false).await?;
            if client.operations.iter().any(|it| matches!(it.fate, Fate::Answered { .. })) {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.history.operations.append(&mut client.operations);
        Ok(())
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let count = |is: &dyn Fn(&Operation) -> bool| {
            self.history.operations.iter().filter(|operation| is(operation)).count() as u64
        };
        let is_answered = |it: &Operation| matches!(it.fate, Fate::Answered { .. });
        let writes = |it: &Operation| matches!(it.action, Action::Write { .. });
        report.needs("linear: writes acknowledged", count(&|it| writes(it) && is_answered(it)), 100);
        report.figure(
            "linear: writes that remained unknown",
            count(&|it| writes(it) && it.fate == Fate::Maybe),
        );
        let reads = |it: &Operation| matches!(it.action, Action::Read { is_stale: false, .. });
        report.needs("linear: reads", count(&|it| reads(it) && is_answered(it)), 100);
        let stale = |it: &Operation| matches!(it.action, Action::Read { is_stale: true, .. });
        report.needs("linear: stale reads", count(&|it| stale(it) && is_answered(it)), 50);
        site.report(NAME, broken(&self.history), report);
        Ok(())
    }
}

fn pool_name(pool: usize) -> String {
    format!("linear-{pool}")
}

struct Client {
    nodes: Vec<PoolsClient<Channel>>,
    random: StdRng,
    number: u32,
    writes: u32,
    operations: Vec<Operation>,
}

impl Client {
    fn new(site: &Site, number: u32) -> Result<Self, Trouble> {
        let open = |endpoint: &str| {
            let endpoint = Endpoint::from_shared(format!("http://{}", endpoint.trim()));
            let endpoint = endpoint.map_err(|error| Trouble(error.to_string()))?;
            Ok(PoolsClient::new(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()))
        };
        let nodes: Result<_, Trouble> = site.endpoints.split(',').map(open).collect();
        let random = StdRng::seed_from_u64(site.seed ^ (u64::from(number) << 32));
        Ok(Self { nodes: nodes?, random, number, writes: 0, operations: Vec::new() })
    }

    async fn work(&mut self, until: &Until) -> Result<(), Trouble> {
        while !until.is_over() {
            sleep(Duration::from_millis(self.random.random_range(10..80))).await;
            match self.random.random_range(0..10) {
                0..4 => self.write().await,
                4..8 => self.read(false).await?,
                _ => self.read(true).await?,
            }
        }
        Ok(())
    }

    async fn write(&mut self) {
        let pool = self.random.random_range(0..POOLS);
        let node = self.random.random_range(0..self.nodes.len());
        // No two writes have the same value.
        self.writes += 1;
        let value = self.writes * (CLIENTS + 1) + self.number + 1;
        if value > VALUE_MAX {
            return;
        }
        let ask = SetPoolRequest { name: pool_name(pool), slots: value, ..SetPoolRequest::default() };
        let invoked = boot_time();
        let answer = timeout(PATIENCE, self.nodes[node].set(ask)).await;
        let at = boot_time();
        let fate = match answer {
            Ok(Ok(answer)) => match answer.into_inner().committed {
                Some(committed) => Fate::Answered { at, index: committed.index },
                None => Fate::Maybe,
            },
            // Only these say that nothing was done, and that nothing will be.
            Ok(Err(status)) => match Answered::from(&status).code {
                Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound => Fate::Refused,
                Code::Ok
                | Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
                | Code::Unauthenticated => Fate::Maybe,
            },
            Err(_) => Fate::Maybe,
        };
        self.operations.push(Operation { action: Action::Write { pool, value }, node, invoked, fate });
    }

    async fn read(&mut self, is_stale: bool) -> Result<(), Trouble> {
        let node = self.random.random_range(0..self.nodes.len());
        let invoked = boot_time();
        let ask = ListPoolsRequest { stale: is_stale, page_size: 1_000, ..ListPoolsRequest::default() };
        let answer = timeout(PATIENCE, self.nodes[node].list(ask)).await;
        let at = boot_time();
        // A read that is not answered says nothing.
        let Ok(Ok(answer)) = answer else { return Ok(()) };
        let answer = answer.into_inner();
        let read_at = answer.read_at.ok_or_else(|| Trouble("a read tells no index".into()))?;
        if read_at.stale && !is_stale {
            return Err(Trouble("a read is stale and nobody asked for that".into()));
        }
        let value = |pool| {
            let found = answer.pools.iter().find(|it| it.name == pool_name(pool));
            found.map(|it| it.slots)
        };
        let values: Vec<Option<u32>> = (0..POOLS).map(value).collect();
        let fate = Fate::Answered { at, index: read_at.index };
        self.operations.push(Operation { action: Action::Read { values, is_stale }, node, invoked, fate });
        Ok(())
    }
}
