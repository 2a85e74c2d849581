//! REST over a cluster of one that is nothing but `apply`, asked as any program would that knows only HTTP.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use matins_core::state::AttemptOutcome;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::table::{Call, ROUTES};
use super::{DESCRIPTION, openapi_text};
use crate::serve::DoorLimits;
use crate::serve::tests::World;

/// An answer in its parts.
struct Heard {
    status: u16,
    head: String,
    body: String,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Asks by HTTP/1.0, where the end of the connection is the end of the answer.
async fn ask(world: &World, method: &str, path: &str, (headers, body): (&str, &str)) -> Heard {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Heard { status, head: head.to_lowercase(), body: body.to_owned() }
}

async fn get(world: &World, path: &str) -> Heard {
    ask(world, "GET", path, ("", "")).await
}

async fn post(world: &World, path: &str, body: &Value) -> Heard {
    ask(world, "POST", path, ("Content-Type: application/json\r\n", &body.to_string())).await
}

const WORKFLOW: &str = "workflow: w\nparams: { n: { type: int, default: 1 } }\ntasks: { t: { run: 'true' } }";

async fn applied(world: &World) {
    let sources = json!({ "sources": [{ "path": "w.matins.yaml", "text": WORKFLOW }] });
    let heard = post(world, "/v1/workflows:apply", &sources).await;
    assert_eq!(heard.status, 200, "{}", heard.body);
}

#[test]
fn every_public_rpc_has_one_row() {
    let rows: Vec<&str> = ROUTES.iter().map(|route| route.rpc).collect();
    let unique: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!(unique.len(), rows.len(), "an rpc has two rows");
    let rpcs: BTreeSet<&str> = DESCRIPTION.rpcs.keys().map(String::as_str).collect();
    let missing: Vec<_> = rpcs.symmetric_difference(&unique).collect();
    assert!(missing.is_empty(), "rows in rest/table.rs and rpcs in the protos differ: {missing:?}");
}

#[test]
fn a_row_names_fields_that_its_message_has_and_changes_nothing_by_get() {
    for route in ROUTES {
        let message = DESCRIPTION.request_of(route.rpc);
        for segment in super::path::parts(route.path).0 {
            match segment {
                super::path::Segment::Word(_) => {}
                super::path::Segment::Field(field) | super::path::Segment::Pair(field) => {
                    assert!(message.field(field).is_some(), "{} has no {field}", route.rpc);
                }
            }
        }
        let is_command = message.field("request_id").is_some() || matches!(route.call, Call::Upload);
        assert_eq!(is_command, route.method != "GET", "{} {}", route.method, route.path);
    }
}

#[test]
fn the_description_is_the_one_in_the_documents() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let now = openapi_text();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, now.as_bytes()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == *now, "docs/openapi.json is not of these protos: UPDATE_GOLDENFILES=1 writes it anew");
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    let document: Value = serde_json::from_str(&openapi_text()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = openapi_text();
    let references = text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut seen = 0;
    for reference in references {
        assert!(schemas.contains_key(reference), "there is no schema {reference}");
        seen += 1;
    }
    assert!(seen > 100, "only {seen} references were found");
    let (paths, rows) = (document["paths"].as_object().unwrap(), ROUTES.len());
    let operations: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, rows);
}

#[tokio::test]
async fn commands_and_reads_go_by_json() {
    let world = World::founded().await;
    applied(&world).await;
    let started = post(&world, "/v1/runs:start", &json!({ "workflow": "w", "params": { "n": 7 } })).await;
    assert_eq!(started.status, 200, "{}", started.body);
    let run = started.json()["runId"].as_str().unwrap().to_owned();

    let shown = get(&world, &format!("/v1/runs/{run}")).await.json();
    assert_eq!((&shown["run"]["id"], &shown["run"]["params"]), (&json!(run), &json!({ "n": 7 })));
    assert_eq!(get(&world, "/v1/runs/latest%3Adefault%2Fw").await.json()["run"]["id"], run);
    // Fields of a query by both of their names, lists, and what needs encoding.
    let listed =
        get(&world, "/v1/runs?states=queued&states=running&page_size=1&filter=workflow%20%3D%20default/w")
            .await;
    assert_eq!(listed.json()["runs"][0]["id"], run, "{}", listed.body);
    let none = get(&world, "/v1/runs?states=failed&pageSize=1&stale").await.json();
    assert_eq!((&none["runs"], &none["readAt"]["stale"]), (&json!([]), &json!(true)));

    // Path goes over body.
    let set = ask(&world, "PUT", "/v1/pools/db", ("", r#"{"name":"other","slots":3}"#)).await;
    assert_eq!(set.status, 200, "{}", set.body);
    assert_eq!(get(&world, "/v1/pools").await.json()["pools"][0]["name"], "db");
    assert_eq!(ask(&world, "DELETE", "/v1/pools/db", ("", "")).await.status, 200);
    assert_eq!(post(&world, "/v1/workflows/default/w:pause", &json!({})).await.status, 200);
    let paused = get(&world, "/v1/workflows/default/w").await.json();
    assert_eq!(paused["workflow"]["paused"], true, "{paused}");
    world.stop().await;
}

#[tokio::test]
async fn errors_have_the_status_that_fits_and_say_what_to_do() {
    let world = World::founded().await;
    applied(&world).await;
    for (path, status, reason) in [
        ("/v1/runs/run-99", 404, "RUN_NOT_FOUND"),
        ("/v1/runs/run-x", 400, "BAD_ARGUMENT"),
        ("/v1/runs?page_size=5000", 429, "LIMIT_EXCEEDED"),
        ("/v1/runs?colour=red", 400, "BAD_ARGUMENT"),
        ("/v1/runs?stale=maybe", 400, "BAD_ARGUMENT"),
    ] {
        let heard = get(&world, path).await;
        assert_eq!((heard.status, &heard.json()["error"]["reason"]), (status, &json!(reason)), "{path}");
    }
    let near = post(&world, "/v1/runs:start", &json!({ "workflow": "ww" })).await;
    assert_eq!((near.status, &near.json()["error"]["hint"]), (404, &json!("did you mean `default/w`?")));
    let unknown = post(&world, "/v1/runs:start", &json!({ "workflow": "w", "colour": "red" })).await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (400, Some("INVALID_ARGUMENT")));
    let faulty =
        json!({ "sources": [{ "path": "w.matins.yaml", "text": "workflow: w\ntasks: { t: { runs: x } }" }] });
    let faulty = post(&world, "/v1/workflows:apply", &faulty).await;
    assert_eq!(faulty.json()["error"]["violations"][0]["field"], "w.matins.yaml:2:10", "{}", faulty.body);
    let page =
        ask(&world, "POST", "/v1/runs:start", ("Origin: http://a.example\r\n", "{\"workflow\":\"w\"}")).await;
    assert_eq!((page.status, &page.json()["error"]["reason"]), (403, &json!("DENIED")));
    assert_eq!(get(&world, "/v1/nothing").await.status, 404);
    let other = ask(&world, "DELETE", "/v1/runs", ("", "")).await;
    assert_eq!(other.status, 405);
    assert!(other.head.contains("allow: get"), "{}", other.head);
    world.stop().await;
}

#[tokio::test]
async fn a_request_is_bounded_as_by_grpc_and_a_file_is_taken_as_it_is() {
    let limits = DoorLimits { request_bytes_max: 1_000, ..DoorLimits::default() };
    let world = World::with(limits).await;
    world.alone.found();
    let long = post(&world, "/v1/runs:start", &json!({ "workflow": "w".repeat(2_000) })).await;
    assert_eq!((long.status, &long.json()["error"]["reason"]), (429, &json!("LIMIT_EXCEEDED")));
    let file = "x".repeat(5_000);
    let stored =
        ask(&world, "POST", "/v1/blobs", ("Content-Type: application/octet-stream\r\n", &file)).await;
    assert_eq!((stored.status, &stored.json()["size"]), (200, &json!("5000")), "{}", stored.body);
    world.stop().await;
}

#[tokio::test]
async fn a_full_node_turns_plain_calls_away_and_still_tells_that_it_lives() {
    let limits = DoorLimits { plain_calls_in_flight_max: 0, ..DoorLimits::default() };
    let world = World::with(limits).await;
    world.alone.found();
    let full = get(&world, "/v1/pools").await;
    assert_eq!((full.status, &full.json()["error"]["reason"]), (429, &json!("OVERLOADED")));
    assert!(full.head.contains("retry-after: 1"), "{}", full.head);
    assert_eq!(get(&world, "/livez").await.status, 200);
    // gRPC has a bound of its own.
    world.apply(WORKFLOW).await.unwrap();
    world.stop().await;
}

/// A page whose name was made to mean this address is the same as the node to a browser; only its name is another.
#[tokio::test]
async fn a_page_whose_name_means_this_node_hears_nothing() {
    let world = World::founded().await;
    applied(&world).await;
    let run = world.start("w").await.unwrap();
    let watch = format!("/v1/runs/{run}:watch");
    let rebound = "Host: evil.example:7070\r\n";
    let paths = [("GET", "/v1/runs"), ("GET", &watch), ("POST", "/v1/runs:start"), ("GET", "/openapi.json")];
    for (method, path) in paths {
        let heard = ask(&world, method, path, (rebound, "{}")).await;
        let error = &heard.json()["error"];
        assert_eq!((heard.status, &error["reason"]), (421, &json!("DENIED")), "{path}: {}", heard.body);
        assert_eq!(error["metadata"]["subject"], "evil.example");
        assert!(error["hint"].as_str().unwrap().contains("`public_hosts`"), "{}", heard.body);
    }
    // gRPC is not another way in: a page can send any content type to what a browser takes for its own server.
    let grpc = format!("{rebound}Content-Type: application/grpc\r\n");
    let heard = ask(&world, "POST", "/matins.v1.Runs/Start", (&grpc, "\0\0\0\0\0")).await;
    assert_eq!(heard.status, 404, "{}", heard.body);
    // Probes and scrapers know a node by any name.
    for path in ["/livez", "/readyz", "/leaderz", "/metrics"] {
        assert_ne!(ask(&world, "GET", path, (rebound, "")).await.status, 421, "{path}");
    }
    for host in ["localhost:7070", "127.0.0.1", "[::1]:7070", "N1.example:80"] {
        let heard = ask(&world, "GET", "/v1/runs", (&format!("Host: {host}\r\n"), "")).await;
        assert_eq!(heard.status, 200, "{host}: {}", heard.body);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_watch_tells_events_and_goes_on_behind_the_last_one() {
    let world = World::founded().await;
    applied(&world).await;
    let run = world.start("w").await.unwrap();
    world.alone.finish_all(&AttemptOutcome::Success);
    let told = get(&world, &format!("/v1/runs/{run}:watch")).await;
    assert!(told.head.contains("content-type: text/event-stream"), "{}", told.head);
    let events: Vec<&str> =
        told.body.split("\n\n").filter(|event| event.contains("event: message")).collect();
    assert!(told.body.ends_with("event: end\ndata: {}\n\n"), "{}", told.body);
    let last = events.last().unwrap();
    let field = |name: &str| last.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let data: Value = serde_json::from_str(field("data: ")).unwrap();
    assert_eq!((&data["ended"], &data["index"]), (&json!(true), &json!(field("id: "))));
    assert_eq!(data["run"]["state"], "success");

    // Whoever heard all of it is not told the run anew.
    let after = format!("Last-Event-ID: {}\r\n", field("id: "));
    let again = ask(&world, "GET", &format!("/v1/runs/{run}:watch"), (&after, "")).await;
    let first = again.body.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let first: Value = serde_json::from_str(first).unwrap();
    assert_eq!(first["resync"], false, "{}", again.body);
    let missing = get(&world, "/v1/runs/run-99:watch").await;
    assert_eq!(missing.status, 404, "an error that comes at once is a status");
    world.stop().await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let stalled_max = Duration::from_millis(500);
    let limits = DoorLimits { stalled_max, event_streams_max: 1, ..DoorLimits::default() };
    let world = World::with(limits).await;
    world.alone.found();
    applied(&world).await;
    let run = world.start("w").await.unwrap();
    // More than what the kernel holds for a connection.
    world.has_printed(500);
    let path = format!("/v1/runs/{run}/logs");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut reader = socket.connect(world.address).await.unwrap();
    reader.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let until = |status: u16| {
        let (world, path) = (&world, &path);
        async move {
            while get(world, path).await.status != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    // It holds the only stream that may be open, until it is cut off.
    tokio::time::timeout(Duration::from_secs(20), until(429)).await.expect("its stream is open");
    tokio::time::timeout(Duration::from_secs(20), until(200)).await.expect("its stream is closed");
    drop(reader);
    world.stop().await;
}
