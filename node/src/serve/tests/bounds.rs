//! Who comes when a bound is reached hears that, with a delay, and is counted.

use std::time::Duration;

use matins_proto::v1::logs_client::LogsClient;
use matins_proto::v1::runs_client::RunsClient;
use matins_proto::v1::{ClusterStatusRequest, ReadLogsRequest, WatchRunRequest, WatchRunsRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{World, reason};
use crate::metrics::Scrape as _;
use crate::serve::DoorLimits;

/// Long enough for anything here, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long an impatient node waits for the reader of a stream.
const PATIENCE: Duration = Duration::from_millis(300);

/// It is the answer of a node that has no room, with a delay.
#[track_caller]
fn is_overloaded(status: &Status) {
    assert_eq!((status.code(), reason(status).0.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");
}

/// The value of one series.
fn value(world: &World, series: &str) -> String {
    let text = world.alone.scrape();
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map(str::to_owned);
    found.unwrap_or_else(|| panic!("no {series} in {text}"))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_stream_beyond_the_bound_hears_so_and_one_that_ends_makes_room() {
    let world = World::with(DoorLimits { streams_max: 2, ..DoorLimits::default() }).await;
    world.alone.found();
    world.apply("workflow: w\ntasks: { t: { run: 'true' } }").await.unwrap();
    let run = world.start("w").await.unwrap();
    let watch = || {
        let (mut runs, request) = (world.runs(), WatchRunRequest { run: run.clone(), ..Default::default() });
        async move { runs.watch(request).await }
    };
    let mut first = watch().await.unwrap().into_inner();
    assert!(first.message().await.unwrap().is_some());
    let second = world.runs().watch_list(WatchRunsRequest::default()).await.unwrap();
    is_overloaded(&watch().await.unwrap_err());
    assert_eq!(value(&world, "matins_bound_used{bound=\"grpc_streams\"}"), "2");
    assert_eq!(value(&world, "matins_bound_max{bound=\"grpc_streams\"}"), "2");
    assert_eq!(value(&world, "matins_turned_away_total{bound=\"grpc_streams\"}"), "1");
    // Calls have seats of their own.
    world.run(&run).await;
    drop(second);
    until("the seat is free", || value(&world, "matins_bound_used{bound=\"grpc_streams\"}") == "1").await;
    watch().await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_call_beyond_the_bound_hears_so() {
    let world = World::with(DoorLimits { calls_in_flight_max: 0, ..DoorLimits::default() }).await;
    is_overloaded(&world.start("w").await.unwrap_err());
    assert_eq!(value(&world, "matins_turned_away_total{bound=\"grpc_calls\"}"), "1");
    world.stop().await;
}

#[tokio::test]
async fn a_request_that_memory_has_no_room_for_hears_so() {
    let limits = DoorLimits { request_bytes_in_flight_max: 1_000, ..DoorLimits::default() };
    let world = World::with(limits).await;
    world.alone.found();
    let large = format!("# {}\nworkflow: w\ntasks: {{ t: {{ run: 'true' }} }}", "x".repeat(2_000));
    is_overloaded(&world.apply(&large).await.unwrap_err());
    // By plain HTTP the same, and what was read of it is given back.
    let answered = post(&world, "/v1/workflows:apply", &format!("{{\"a\":\"{}\"}}", "x".repeat(2_000))).await;
    assert!(answered.starts_with("HTTP/1.1 429"), "{answered}");
    assert!(answered.contains("OVERLOADED") && answered.contains("retry-after: 1"), "{answered}");
    world.apply("workflow: w\ntasks: { t: { run: 'true' } }").await.unwrap();
    until("it is given back", || value(&world, "matins_bound_used{bound=\"request_bytes\"}") == "0").await;
    world.stop().await;
}

#[tokio::test]
async fn a_connection_beyond_the_bound_is_closed_at_once() {
    // One is that of the test's own client.
    let world = World::with(DoorLimits { connections_max: 2, ..DoorLimits::default() }).await;
    let held = TcpStream::connect(world.address).await.unwrap();
    let used = || value(&world, "matins_bound_used{bound=\"connections\"}");
    until("it is taken", || used() == "2").await;
    let mut more = TcpStream::connect(world.address).await.unwrap();
    let read = tokio::time::timeout(DEADLINE, more.read(&mut [0; 1])).await.expect("it is closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(value(&world, "matins_turned_away_total{bound=\"connections\"}"), "1");
    drop(held);
    until("it makes room", || used() == "1").await;
    world.stop().await;
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_is_not_heard_any_more() {
    let world = World::empty().await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let read = tokio::time::timeout(2 * DEADLINE, silent.read(&mut [0; 1])).await.expect("it is closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // The client that has spoken goes on.
    world.cluster().status(ClusterStatusRequest {}).await.unwrap();
    world.stop().await;
}

/// A node that soon cuts off who reads nothing, and a run whose one attempt is live.
async fn impatient() -> (World, String) {
    let limits = DoorLimits { stalled_max: PATIENCE, keepalive: PATIENCE, ..DoorLimits::default() };
    let world = World::with(limits).await;
    world.alone.found();
    world.apply("workflow: w\ntasks: { t: { run: 'true' } }").await.unwrap();
    let run = world.start("w").await.unwrap();
    (world, run)
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_its_connection() {
    let (world, run) = impatient().await;
    // More than what a client takes without being asked for it.
    world.has_printed(100);
    let channel = Endpoint::try_from(format!("http://{}", world.address)).unwrap();
    let channel = channel.initial_stream_window_size(65_535).connect().await.unwrap();
    let read = ReadLogsRequest { run: run.clone(), ..Default::default() };
    let unread = LogsClient::new(channel.clone()).read(read).await.unwrap().into_inner();
    // Others on its connection are read until it ends.
    let watch = WatchRunRequest { run: run.clone(), ..Default::default() };
    let mut watched = RunsClient::new(channel).watch(watch).await.unwrap().into_inner();
    let ended = async { while watched.message().await.is_ok_and(|message| message.is_some()) {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("its connection is closed");
    until("the seats are free", || value(&world, "matins_bound_used{bound=\"grpc_streams\"}") == "0").await;
    drop(unread);
    // The connection of those who read goes on.
    world.run(&run).await;
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_read_slowly_goes_on() {
    let (world, run) = impatient().await;
    let mut watched =
        world.runs().watch(WatchRunRequest { run, ..Default::default() }).await.unwrap().into_inner();
    // Longer than a stream may wait: there is nothing that waits for its reader.
    for _ in 0..2 {
        tokio::time::sleep(3 * PATIENCE).await;
        assert!(watched.message().await.unwrap().is_some());
    }
    world.stop().await;
}

async fn post(world: &World, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let request = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}
