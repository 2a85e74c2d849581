//! More callers and more watches than a node takes (DESIGN 5): the leader stays leader, its memory stays bounded, who is turned
//! away hears when to come again, and what was accepted is done. The load's own checker says that no tick and no task was
//! lost or doubled meanwhile. Start at the tests; [`Standing`] is what must not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use matins_proto::v1::pools_client::PoolsClient;
use matins_proto::v1::runs_client::RunsClient;
use matins_proto::v1::{
    ListPoolsRequest, SetPoolRequest, WatchRunRequest, WatchRunResponse, WatchRunsRequest, WatchRunsResponse,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::common::load::{Deaths, Load};
use crate::common::{Cluster, DEADLINE, Node};
use crate::told::Told;

/// Calls by gRPC that a node takes at once (`docs/operations.md`).
const CALLS_MAX: usize = 1_024;
/// Streams by gRPC that it keeps open (`docs/operations.md`).
const STREAMS_MAX: usize = 10_000;
/// The most of its memory that one open stream of a small run or list may take (`docs/operations.md`): the task that serves
/// it, its part of the connection, what it remembers having told, and one message that its reader has not taken.
const STREAM_BYTES_MAX: u64 = 24 << 10;
/// What else may grow meanwhile: calls in flight, the state, and what the allocator keeps.
const OTHER_BYTES_MAX: u64 = 64 << 20;

/// Connections that callers come by, and callers of each: ten times what a node takes at once.
const CALLER_CONNECTIONS: usize = 48;
const CALLERS_EACH: usize = 10 * CALLS_MAX / CALLER_CONNECTIONS + 1;
/// Connections that watches come by, and streams of each.
const WATCH_CONNECTIONS: usize = 50;
const WATCHES_EACH: usize = STREAMS_MAX / WATCH_CONNECTIONS;
/// Every so many of these connections reads nothing.
const UNREAD_EVERY: usize = 5;

/// Who leads, since when.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    leader: String,
    term: String,
    leaderships: String,
}

impl Standing {
    #[track_caller]
    fn of(cluster: &Cluster) -> Self {
        let status = cluster.json(&["cluster", "status"]);
        let text = |key: &str| status[key].as_str().expect("a ready cluster tells it").to_owned();
        Self { leader: text("leader"), term: text("term"), leaderships: text("leaderships") }
    }
}

/// What a node tells of one of its bounds.
#[track_caller]
fn told(node: &Node, name: &str, bound: &str) -> usize {
    let value = Told::at(&node.endpoint()).sum_where(name, ("bound", bound));
    value.unwrap_or_else(|| panic!("no {name} of {bound}")) as usize
}

async fn connect(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("it is host and port");
    endpoint.connect().await.expect("the node takes connections")
}

/// The time after which whoever was turned away may come again. Panics if it was not told.
#[track_caller]
fn delay_of(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    delay
        .filter(|delay| !delay.is_zero())
        .unwrap_or_else(|| panic!("turned away without a delay: {status:?}"))
}

/// What callers met.
#[derive(Debug, Default)]
struct Met {
    turned_away: AtomicUsize,
    unanswered: AtomicUsize,
}

/// Asks the same under the same id until it is accepted.
async fn set_pool(mut pools: PoolsClient<Channel>, request: SetPoolRequest, met: Arc<Met>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "{} was not accepted", request.name);
        let delay = match pools.set(request.clone()).await {
            Ok(_) => return,
            Err(status) if status.code() == Code::ResourceExhausted => {
                met.turned_away.fetch_add(1, Ordering::Relaxed);
                delay_of(&status)
            }
            // Nobody knows whether it was done, so the same is asked again.
            Err(status) if matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Unavailable) => {
                met.unanswered.fetch_add(1, Ordering::Relaxed);
                Duration::from_millis(250)
            }
            Err(status) => panic!("a caller hears what is no answer to overload: {status:?}"),
        };
        tokio::time::sleep(delay).await;
    }
}

/// All callers at once, each with a pool of its own.
async fn press(endpoint: &str, slots: u32, met: &Arc<Met>) {
    let mut callers = JoinSet::new();
    for connection in 0..CALLER_CONNECTIONS {
        let channel = connect(endpoint).await;
        for caller in 0..CALLERS_EACH {
            let name = format!("p{}", connection * CALLERS_EACH + caller);
            let request_id = format!("{name}-{slots}");
            let request = SetPoolRequest { request_id, name, slots, ..Default::default() };
            callers.spawn(set_pool(PoolsClient::new(channel.clone()), request, Arc::clone(met)));
        }
    }
    while let Some(called) = callers.join_next().await {
        called.expect("every caller is accepted in the end");
    }
}

/// The slots of all pools.
async fn pools(endpoint: &str) -> Vec<u32> {
    let mut pools = PoolsClient::new(connect(endpoint).await);
    let (mut slots, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListPoolsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = pools.list(request).await.expect("nobody presses any more").into_inner();
        slots.extend(page.pools.iter().map(|pool| pool.slots));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return slots;
        }
    }
}

#[test]
fn ten_times_the_callers_are_all_served_in_the_end_and_the_leader_leads_on() {
    let cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    load.go_on_for(&cluster, 2);
    let leader = cluster.until_ready();
    let (before, endpoint) = (Standing::of(&cluster), cluster.nodes[leader].endpoint());
    let runtime = Runtime::new().expect("threads can be had");
    let met = Arc::new(Met::default());
    // On a machine that is quick enough nobody may be turned away at first.
    let mut rounds = 0;
    while met.turned_away.load(Ordering::Relaxed) == 0 {
        rounds += 1;
        assert!(rounds <= 20, "nobody was turned away: {met:?}");
        runtime.block_on(press(&endpoint, rounds, &met));
    }
    assert_eq!(Standing::of(&cluster), before, "{met:?}");
    let slots = runtime.block_on(pools(&endpoint));
    assert_eq!(slots.len(), CALLER_CONNECTIONS * CALLERS_EACH);
    assert!(slots.iter().all(|slots| *slots == rounds), "what was accepted is done");
    let bounds = ["grpc_calls", "commands"];
    let count = |bound| told(&cluster.nodes[leader], "matins_turned_away_total", bound);
    let counted: usize = bounds.into_iter().map(count).sum();
    assert!(counted >= met.turned_away.load(Ordering::Relaxed), "{counted} are counted: {met:?}");
    load.go_on_for(&cluster, 2);
    load.end(&cluster, Deaths::None).well();
}

/// What a watch tells: of a run, or of a list.
enum Watch {
    Run(Streaming<WatchRunResponse>),
    List(Streaming<WatchRunsResponse>),
}

impl Watch {
    /// Opens one, as often as it takes to be let in.
    async fn open(mut runs: RunsClient<Channel>, run: String, number: usize) -> Self {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let opened = if number.is_multiple_of(2) {
                let request = WatchRunRequest { run: run.clone(), ..Default::default() };
                runs.watch(request).await.map(|response| Self::Run(response.into_inner()))
            } else {
                let opened = runs.watch_list(WatchRunsRequest::default()).await;
                opened.map(|response| Self::List(response.into_inner()))
            };
            match opened {
                Ok(watch) => return watch,
                Err(status) if Instant::now() < deadline => tokio::time::sleep(delay_of(&status)).await,
                Err(status) => panic!("a watch is never let in: {status:?}"),
            }
        }
    }

    /// The index of the next message.
    async fn next(&mut self) -> Result<u64, Status> {
        let index = match self {
            Self::Run(messages) => messages.message().await?.map(|message| message.index),
            Self::List(messages) => messages.message().await?.map(|message| message.index),
        };
        index.ok_or_else(|| Status::cancelled("it has ended"))
    }
}

/// All watches that are open, and how far those have heard that read.
#[derive(Default)]
struct Watches {
    heard: Vec<Arc<AtomicU64>>,
    readers: JoinSet<Status>,
    unread: Vec<Watch>,
}

impl Watches {
    /// As many as a node takes. Each connection opens some at once.
    async fn open(endpoint: &str, run: &str) -> Self {
        let mut opening = JoinSet::new();
        for connection in 0..WATCH_CONNECTIONS {
            let (runs, run) = (RunsClient::new(connect(endpoint).await), run.to_owned());
            opening.spawn(async move {
                let mut watches = Vec::new();
                for first in (0..WATCHES_EACH).step_by(10) {
                    let ten =
                        (first..first + 10).map(|number| Watch::open(runs.clone(), run.clone(), number));
                    watches.extend(join_all(ten).await);
                }
                (connection, watches)
            });
        }
        let mut all = Self::default();
        while let Some(opened) = opening.join_next().await {
            let (connection, watches) = opened.expect("every watch is let in");
            if connection.is_multiple_of(UNREAD_EVERY) {
                all.unread.extend(watches);
            } else {
                for watch in watches {
                    all.read(watch);
                }
            }
        }
        all
    }

    /// Reads a watch until it ends.
    fn read(&mut self, mut watch: Watch) {
        let heard = Arc::new(AtomicU64::new(0));
        self.heard.push(Arc::clone(&heard));
        self.readers.spawn(async move {
            loop {
                match watch.next().await {
                    Ok(index) => heard.store(index, Ordering::Relaxed),
                    Err(status) => return status,
                }
            }
        });
    }

    /// How many of those that are read have not heard of this index.
    fn behind(&self, index: u64) -> usize {
        self.heard.iter().filter(|heard| heard.load(Ordering::Relaxed) < index).count()
    }
}

/// Waits for all of some, in order.
async fn join_all<T>(all: impl Iterator<Item = impl Future<Output = T> + Send + 'static>) -> Vec<T>
where
    T: Send + 'static,
{
    let tasks: Vec<_> = all.map(tokio::spawn).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.expect("it does not panic"));
    }
    done
}

#[test]
fn ten_thousand_watches_of_which_some_read_nothing_cost_the_leader_little() {
    let cluster = Cluster::start(3);
    let load = Load::begin(&cluster);
    cluster.apply("workflow: long\ntasks: { work: { run: [sleep, '600'] } }\n---\nworkflow: quick\ntasks: { work: { run: [echo, one] } }\n");
    let run = cluster.begin(&["long"]);
    cluster.until_started(&format!("{run}/work"));
    load.go_on_for(&cluster, 2);
    let at = cluster.until_ready();
    let leader = &cluster.nodes[at];
    let (before, bytes_before) = (Standing::of(&cluster), leader.resident_bytes());
    let is_within_bounds = || {
        let more = leader.resident_bytes().saturating_sub(bytes_before);
        let most = STREAMS_MAX as u64 * STREAM_BYTES_MAX + OTHER_BYTES_MAX;
        assert!(more <= most, "{STREAMS_MAX} streams take {more} bytes, more than {most}");
        more
    };
    let runtime = Runtime::new().expect("threads can be had");
    let endpoint = leader.endpoint();
    let mut watches = runtime.block_on(Watches::open(&endpoint, &run));
    assert_eq!(told(leader, "matins_bound_used", "grpc_streams"), STREAMS_MAX);
    is_within_bounds();

    // One more is turned away, and everybody else is served.
    runtime.block_on(async {
        let mut runs = RunsClient::new(connect(&endpoint).await);
        let refused = runs.watch_list(WatchRunsRequest::default()).await.map(drop);
        delay_of(&refused.expect_err("there is no room for it"));
    });
    load.go_on_for(&cluster, 4);
    cluster.ask_at(&endpoint, &["start", "quick", "--wait"]).well();
    let status = cluster.status(at).expect("it answers");
    let index: u64 = status["appliedIndex"].as_str().and_then(|text| text.parse().ok()).expect("it tells it");
    cluster.until("all who read have heard of it", || watches.behind(index) == 0);
    is_within_bounds();

    // Who read nothing was not waited for: what it missed comes together, and it is where all others are.
    runtime.block_on(async {
        for watch in std::mem::take(&mut watches.unread) {
            watches.read(watch);
        }
    });
    assert_eq!(watches.heard.len(), STREAMS_MAX);
    cluster.until("those who read late are where all are", || watches.behind(index) == 0);
    assert!(watches.readers.try_join_next().is_none(), "nobody was cut off");
    let more = is_within_bounds();
    assert_eq!(Standing::of(&cluster), before);
    eprintln!("{STREAMS_MAX} streams: {} bytes each", more / STREAMS_MAX as u64);

    drop(watches);
    drop(runtime);
    cluster.until("their seats are free", || told(leader, "matins_bound_used", "grpc_streams") == 0);
    cluster.ask(&["cancel", &run]).well();
    load.end(&cluster, Deaths::None).well();
}
