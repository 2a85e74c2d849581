//! What a node shows of itself on its public port, asked as operators' tools ask it: curl, probes, a scrape, a collector.

#![expect(clippy::float_cmp, reason = "these are counts, and exact")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::common::{Cluster, Node};
use crate::told::{self, Told};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;

const QUICK: &str = "
workflow: quick
schedules: { often: { cron: '*/2 * * * * *' } }
tasks:
  first: { run: [echo, one] }
  second: { needs: first, run: [sh, -c, 'exit ${CODE}'], env: { CODE: '{{ params.code }}' } }
params:
  code: { type: int, default: 0 }
";

/// Asks a node by HTTP; gives the status and the body.
fn http(node: &Node, path: &str) -> (u16, String) {
    told::http(&node.endpoint(), path)
}

/// The sum over all nodes that are up: what only the leader tells, whoever leads.
#[track_caller]
fn sum(cluster: &Cluster, name: &str, label: (&str, &str)) -> f64 {
    let up = cluster.nodes.iter().filter(|node| node.is_up());
    let told = up
        .filter_map(|node| Told::at(&node.endpoint()).sum_where(name, label))
        .reduce(|sum, value| sum + value);
    told.unwrap_or_else(|| panic!("nobody tells {name} {label:?}"))
}

/// The lines of `docs/rest.md`, typed one after the other.
#[test]
fn curl_can_do_what_the_document_says() {
    let cluster = Cluster::start(1);
    let document = include_str!("../../../docs/rest.md");
    let blocks = document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let script: String = blocks.collect::<Vec<_>>().join("\n");
    let output = Command::new("sh")
        .args(["-euxc", &script])
        .env("M", format!("http://{}", cluster.nodes[0].endpoint()))
        .current_dir(cluster.folder.path())
        .output()
        .expect("there is a shell");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for part in
        ["event: message\nid: ", "event: end\n", "hello\n", "\"state\":\"success\"", "\"nextPageToken\":\"\""]
    {
        assert!(out.contains(part), "{part:?} is missing in {out}");
    }
    // What was done by curl is so for everybody.
    assert_eq!(cluster.get("latest:hello")["state"], "success");
    assert_eq!(cluster.json(&["executor", "list"])[0]["state"], "ready");

    // The same JSON as the command line prints.
    let (status, body) = http(&cluster.nodes[0], "/v1/runs/latest%3Adefault%2Fhello");
    let answer: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
    assert_eq!((status, &answer["run"]), (200, &cluster.get("latest:hello")));
    let (status, body) = http(&cluster.nodes[0], "/v1/runs/run-999");
    assert_eq!(status, 404, "{body}");
    let (status, body) = http(&cluster.nodes[0], "/openapi.json");
    assert_eq!((status, body.as_str()), (200, include_str!("../../../docs/openapi.json")));
}

/// The messages of a watch of a run that has ended, by one who heard up to `index`.
fn watched(node: &Node, run: &str, index: &str) -> Vec<serde_json::Value> {
    let url = format!("http://{}/v1/runs/{run}:watch", node.endpoint());
    let heard = format!("Last-Event-ID: {index}");
    let output = Command::new("curl").args(["-sS", "-H", &heard, &url]).output();
    let text = String::from_utf8(output.expect("curl is installed, as CONTRIBUTING says").stdout);
    let text = text.expect("events are text");
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let data = data.map(|data| serde_json::from_str::<serde_json::Value>(data).expect("it is JSON"));
    // The end of the stream is an event too, and says nothing.
    data.filter(|message| message["index"].is_string()).collect()
}

/// Whoever watches and was away for longer than a node remembers is told everything anew.
#[test]
fn a_watch_that_is_too_far_behind_begins_anew() {
    let cluster = Cluster::start_with(1, |node| {
        // Fifteen states are kept, in the place of three hundred.
        node.environment.push(("MATINS_TEST_SHRINK", "20".into()));
    });
    cluster.apply("workflow: short\ntasks:\n  work: { run: \"true\" }\n");
    let run = cluster.ask(&["start", "short", "--wait"]).well().out.trim().to_owned();
    let is_anew = |messages: &[serde_json::Value]| messages[0]["resync"] == true;
    let first = watched(&cluster.nodes[0], &run, "0");
    assert!(is_anew(&first), "{first:?}");
    let index = first.last().expect("it has some")["index"].as_str().expect("numbers of 64 bits are texts");
    let next = watched(&cluster.nodes[0], &run, index);
    assert!(!is_anew(&next), "nothing came between: {next:?}");

    cluster.until("what it heard is forgotten", || {
        cluster.ask(&["start", "short", "--wait"]).well();
        is_anew(&watched(&cluster.nodes[0], &run, index))
    });
    let anew = watched(&cluster.nodes[0], &run, index);
    let told = &anew[0]["run"];
    assert_eq!((&told["state"], &told["tasks"][0]["state"]), (&"success".into(), &"success".into()));
}

/// Whoever owns a name can have it mean this machine, and his page would read all that a browser is answered.
#[test]
fn a_name_that_is_not_the_nodes_is_not_answered() {
    let cluster = Cluster::start_with(1, |node| {
        node.flags = ["--public-hosts", "matins.example.com,*.nodes.example"].map(str::to_owned).to_vec();
    });
    let asked_under = |host: &str, path: &str, more: &[&str]| {
        let url = format!("http://{}{path}", cluster.nodes[0].endpoint());
        let host = format!("Host: {host}");
        let output =
            Command::new("curl").args(["-sS", "-w", "\n%{http_code}", "-H", &host, &url]).args(more).output();
        let output = output.expect("curl is installed, as CONTRIBUTING says");
        let text = String::from_utf8(output.stdout).expect("the answer is text");
        let (body, status) = text.rsplit_once('\n').expect("the status comes last");
        (status.to_owned(), body.to_owned())
    };
    for more in [&[][..], &["--http2-prior-knowledge"]] {
        for host in ["matins.example.com", "a.nodes.example:7070", "localhost", "n1"] {
            let (status, body) = asked_under(host, "/v1/runs", more);
            assert_eq!(status, "200", "{host}: {body}");
        }
        let (status, body) = asked_under("evil.example", "/v1/runs", more);
        assert!(status == "421" && body.contains("`public_hosts`"), "{status} {body}");
        assert_eq!(asked_under("evil.example", "/readyz", more).0, "200");
    }
    // By the content type of gRPC a page comes no further.
    let grpc = ["-X", "POST", "-H", "Content-Type: application/grpc", "--data-binary", "@/dev/null"];
    let (status, body) = asked_under("evil.example", "/matins.v1.Runs/List", &grpc);
    assert_eq!(status, "404", "{body}");
}

#[test]
fn metrics_say_what_was_done_and_probes_who_leads() {
    let mut cluster = Cluster::start(3);
    cluster.apply(QUICK);
    let runs: Vec<String> = (0..10).map(|_| cluster.begin(&["quick"])).collect();
    let bad: Vec<String> = (0..3).map(|_| cluster.begin(&["quick", "-p", "code=4"])).collect();
    for (runs, state) in [(runs, "success"), (bad, "failed")] {
        for run in runs {
            cluster.until_state(&run, state);
        }
    }
    cluster.until("ticks have run", || {
        sum(&cluster, "matins_runs_started_total", ("origin", "schedule")) >= 3.0
    });
    cluster.ask(&["workflow", "pause", "quick"]).well();
    cluster
        .until("nothing runs", || Told::at(&cluster.nodes[0].endpoint()).sum("matins_attempts_live") == 0.0);

    let listed = cluster.json(&["run", "list", "--limit", "1000"]);
    let count = |key: &str, value: &str| {
        let all = listed.as_array().expect("a list").iter();
        all.filter(|run| run[key] == value).count() as f64
    };
    for (name, label, expected) in [
        ("matins_runs_started_total", ("origin", "manual"), count("origin", "start")),
        ("matins_runs_started_total", ("origin", "schedule"), count("origin", "schedule")),
        ("matins_runs_finished_total", ("state", "success"), count("state", "success")),
        ("matins_runs_finished_total", ("state", "failed"), count("state", "failed")),
        ("matins_attempts_finished_total", ("outcome", "failed"), count("state", "failed")),
        ("matins_entries_not_counted_total", ("", ""), 0.0),
        ("matins_lease_expiries_total", ("", ""), 0.0),
        ("matins_is_leader", ("", ""), 1.0),
        ("matins_peer_lag_entries", ("", ""), 0.0),
    ] {
        let found = || sum(&cluster, name, label);
        cluster.until(&format!("{name} {label:?} is {expected}, not {}", found()), || found() == expected);
    }
    // Every node tells the same of the state.
    for node in &cluster.nodes {
        let told = Told::at(&node.endpoint());
        assert_eq!(told.sum_where("matins_runs", ("state", "failed")), Some(3.0));
        assert!(told.sum("matins_log_bytes") > 0.0 && told.sum("matins_disk_free_bytes") > 0.0);
    }

    let leads = |node: &Node| http(node, "/leaderz").0 == 200;
    let leader = cluster.until_ready();
    assert_eq!(cluster.nodes.iter().filter(|node| leads(node)).count(), 1);
    assert!(leads(&cluster.nodes[leader]));
    assert!(cluster.nodes.iter().all(|node| http(node, "/readyz").0 == 200));
    cluster.nodes[leader].kill();
    cluster.until("another node leads", || {
        cluster.nodes.iter().enumerate().any(|(at, node)| at != leader && leads(node))
    });
    for node in cluster.nodes.iter().filter(|node| node.is_up()) {
        cluster
            .until("each sees it", || Told::at(&node.endpoint()).sum("matins_leader_changes_total") >= 1.0);
        assert!(Told::at(&node.endpoint()).sum("matins_time_without_leader_seconds_total") > 0.0);
    }
}

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|it| it.scope_spans);
        self.0.lock().expect("no panic here").extend(scopes.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn of(&self, run: &str) -> Vec<Span> {
        let spans = self.0.lock().expect("no panic here");
        spans.iter().filter(|span| attribute(span, "matins.run") == run).cloned().collect()
    }
}

fn attribute(span: &Span, key: &str) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    let Some(Value::StringValue(text)) = value else { return String::new() };
    text.clone()
}

#[test]
fn a_run_is_one_tree_of_spans_whoever_leads() {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    let collector = Collector::default();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = TraceServiceServer::new(collector.clone());
    runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let mut cluster = Cluster::start_with(3, |node| {
        node.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()));
    });
    cluster.apply(
        "workflow: w\ntasks:\n  a: { run: [sleep, '0.2'] }\n  b: { needs: a, run: 'sleep 8; exit 3' }\n",
    );
    let run = cluster.begin(&["w"]);
    // The tree is begun by one leader and ended by another.
    cluster.until_state(&format!("{run}/a"), "success");
    cluster.until("the first attempt is told", || collector.of(&run).iter().any(|span| span.name == "a"));
    let leader = cluster.until_ready();
    let follower = (leader + 1) % 3;
    let b = cluster.get(&format!("{run}/b"));
    let is_on_leader = b["attempts"][0]["executorName"] == *cluster.nodes[leader].name;
    cluster.nodes[leader].kill();
    if is_on_leader {
        cluster.nodes[leader].up();
    }
    cluster.until_state(&run, "failed");
    cluster.until("the root is told", || collector.of(&run).iter().any(|span| span.name == "default/w"));

    let spans = collector.of(&run);
    let shown =
        cluster.ask_at(&cluster.nodes[follower].endpoint(), &["run", "get", &run, "-o", "json"]).well();
    let shown: serde_json::Value = serde_json::from_str(&shown.out).expect("it is JSON");
    let root = spans.iter().find(|span| span.name == "default/w").expect("it was there");
    assert_eq!((root.parent_span_id.len(), attribute(root, "matins.state").as_str()), (0, "failed"));
    assert_eq!((root.trace_id.len(), root.span_id.len()), (16, 8));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.name != "default/w") {
        *seen.entry(&span.name).or_default() += 1;
        assert_eq!((&span.trace_id, &span.parent_span_id), (&root.trace_id, &root.span_id), "{span:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    assert!(seen["commit"] >= 3, "{seen:?}");
    let a = spans.iter().find(|span| span.name == "a").expect("it was told");
    let (began, ended) = (a.start_time_unix_nano / 1_000_000, a.end_time_unix_nano / 1_000_000);
    assert!((150..5_000).contains(&(ended - began)), "it slept 200 ms: {began} to {ended}");
    let started = shown["tasks"][0]["attempts"][0]["startedAt"].as_str().expect("it started");
    assert_eq!(matins_proto::Timestamp::parse(started).expect("a time").as_millis() as u64, began);
    let b: Vec<&Span> = spans.iter().filter(|span| span.name == "b").collect();
    assert_eq!(attribute(b[b.len() - 1], "matins.outcome"), "exit code 3");
}

#[test]
fn a_log_in_json_has_fields_by_name() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let settings = folder.path().join("node.toml");
    fs::write(&settings, "slots = 3\nlog = \"info,matins=debug,openraft=off\"\n")
        .expect("the folder is there");
    let cluster = Cluster::start_with(1, |node| {
        node.flags = ["--config", settings.to_str().expect("the path is plain")].map(str::to_owned).to_vec();
        node.environment = vec![
            ("MATINS_NODE_LOG_FORMAT", "json".into()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".into()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush".into()),
        ];
    });
    cluster.apply(QUICK);
    cluster.ask(&["start", "quick", "--wait"]).well();
    let log = fs::read_to_string(cluster.nodes[0].log()).expect("it logs");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let (first, node) = (&lines[0]["fields"], &cluster.nodes[0]);
    assert_eq!((&first["message"], &first["name"]), (&"starting".into(), &"n1".into()));
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(first["data_dir"], node.data_dir.to_str().expect("the path is plain"));
    assert_eq!((&first["public_listen"], &first["insecure"]), (&node.endpoint().into(), &false.into()));
    assert_eq!(first["cluster_listen"], node.cluster_address());
    assert_eq!(first["settings_file"], settings.to_str().expect("the path is plain"));
    assert_eq!(first["slots"], 3);
    // No dump of a struct, whose fields nobody can look for and which has secrets.
    assert!(!log.contains("NodeConfig") && !log.contains("hush"), "{log}");
    let listening =
        lines.iter().find(|line| line["fields"]["message"] == "listening").expect("it says where");
    assert_eq!(listening["fields"]["public"], cluster.nodes[0].endpoint());
    assert!(listening["timestamp"].is_string() && listening["level"] == "INFO");
    // Calls of clients are not logged.
    assert!(!log.contains("Runs"), "{log}");
}
