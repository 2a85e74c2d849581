//! Calls against nodes that fail in the ways nodes fail.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fake::{Die, Fail, NOW, Node, Reply, Say, Silence, client, error};
use matins_client::{Client, ClientError, Limits};
use matins_proto::Timestamp;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{
    InitClusterRequest, InitClusterResponse, ListPoolsRequest, ListPoolsResponse, Run, SetPoolRequest,
    SetPoolResponse, UploadBlobResponse, WaitRunsRequest, WaitRunsResponse,
};

/// Limits that a test can wait for where all nodes fail, and far above what the others need.
fn quick() -> Limits {
    Limits { attempt_max: Duration::from_millis(300), total_max: Duration::from_secs(1), ..Limits::default() }
}

fn set() -> SetPoolRequest {
    SetPoolRequest { name: "source-db".into(), slots: 2, ..Default::default() }
}

fn done() -> Reply<SetPoolResponse> {
    Say(SetPoolResponse::default())
}

#[tokio::test]
async fn a_command_is_repeated_as_it_was_when_the_leader_dies() {
    let (leader, other) = (Node::start(), Node::start());
    leader.fake.set_pool.replies([Die]);
    other.fake.set_pool.replies([
        Fail(error(Reason::NotReady, None)),
        Fail(error(Reason::OutcomeUnknown, None)),
        done(),
    ]);
    let client = client(&[&leader, &other], Limits::default());
    client.call(set()).await.unwrap();

    let mut asked = leader.fake.set_pool.asked().clone();
    asked.extend(other.fake.set_pool.asked().clone());
    assert_eq!(asked.len(), 4, "once at the leader, three times at the other");
    assert!(asked.iter().all(|it| it == &asked[0]), "all the same: {asked:?}");
    assert_eq!(asked[0].request_id.len(), 32);
    let not_after = asked[0].not_after.unwrap().as_millis() - NOW;
    assert!((600_000..660_000).contains(&not_after), "ten minutes of leader time: {not_after}");
}

#[tokio::test]
async fn each_command_has_a_request_id_of_its_own_unless_it_brings_one() {
    let node = Node::start();
    node.fake.set_pool.replies([done()]);
    let client = client(&[&node], Limits::default());
    client.call(set()).await.unwrap();
    client.call(set()).await.unwrap();
    let not_after = Some(Timestamp::from_millis(NOW + 5));
    client.call(SetPoolRequest { request_id: "nightly".into(), not_after, ..set() }).await.unwrap();

    client.call(SetPoolRequest { request_id: "by-hand".into(), ..set() }).await.unwrap();

    let asked = node.fake.set_pool.asked();
    assert_ne!(asked[0].request_id, asked[1].request_id);
    assert_eq!((asked[2].request_id.as_str(), asked[2].not_after), ("nightly", not_after));
    assert_eq!(asked[3].request_id, "by-hand");
    let remembered = asked[3].not_after.unwrap().as_millis() - NOW;
    assert!((3_540_000..3_600_000).contains(&remembered), "close to an hour: {remembered}");
    // What time it is was asked once, not for each command.
    assert_eq!(node.fake.status.asked().len(), 1);
}

#[tokio::test]
async fn the_node_that_answered_is_asked_first_from_then_on() {
    let (dead, alive) = (Node::start(), Node::start());
    dead.fake.list_pools.replies([Fail(error(Reason::NotReady, None))]);
    alive.fake.list_pools.replies([Say(ListPoolsResponse::default())]);
    let client = client(&[&dead, &alive], Limits::default());
    for _ in 0..3 {
        client.call(ListPoolsRequest::default()).await.unwrap();
    }
    assert_eq!((dead.fake.list_pools.asked().len(), alive.fake.list_pools.asked().len()), (1, 3));
}

#[tokio::test]
async fn a_node_that_takes_a_request_and_says_nothing_is_left() {
    let (silent, alive) = (Node::start(), Node::start());
    silent.fake.list_pools.replies([Silence]);
    alive.fake.list_pools.replies([Say(ListPoolsResponse::default())]);
    client(&[&silent, &alive], quick()).call(ListPoolsRequest::default()).await.unwrap();
    assert_eq!(silent.fake.list_pools.asked().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_final_is_not_asked_for_again() {
    let (node, other) = (Node::start(), Node::start());
    node.fake.set_pool.replies([Fail(error(Reason::Conflict, None))]);
    let refused = client(&[&node, &other], Limits::default()).call(set()).await.unwrap_err();

    assert_eq!((refused.exit_code(), refused.reason()), (4, Some(Reason::Conflict)));
    assert_eq!(refused.hint().as_deref(), Some("look again"));
    assert_eq!((node.fake.set_pool.asked().len(), other.fake.set_pool.asked().len()), (1, 0));
}

#[tokio::test]
async fn a_full_node_is_given_the_time_it_asks_for() {
    let delay = Duration::from_millis(200);
    let node = Node::start();
    node.fake.set_pool.replies([Fail(error(Reason::Overloaded, Some(delay))), done()]);
    let started = Instant::now();
    client(&[&node], Limits::default()).call(set()).await.unwrap();
    assert!(started.elapsed() >= delay);

    // If the time is not there, its answer stands.
    node.fake.set_pool.replies([Fail(error(Reason::Overloaded, Some(Duration::from_secs(60))))]);
    let refused = client(&[&node], quick()).call(set()).await.unwrap_err();
    assert_eq!((refused.exit_code(), refused.reason()), (4, Some(Reason::Overloaded)));
}

#[tokio::test]
async fn after_the_time_that_a_full_node_asks_for_another_node_is_asked() {
    let (full, other) = (Node::start(), Node::start());
    let delay = Duration::from_millis(200);
    full.fake.set_pool.replies([Fail(error(Reason::Overloaded, Some(delay)))]);
    other.fake.set_pool.replies([done()]);
    let started = Instant::now();
    client(&[&full, &other], Limits::default()).call(set()).await.unwrap();
    assert!(started.elapsed() >= delay);
    assert_eq!((full.fake.set_pool.asked().len(), other.fake.set_pool.asked().len()), (1, 1));
}

#[tokio::test]
async fn work_that_may_take_long_is_not_waited_for_where_nobody_leads() {
    let node = Node::start();
    node.fake.wait.replies([Fail(error(Reason::NotReady, None))]);
    let (limits, started) = (quick(), Instant::now());
    let waited = client(&[&node], limits).wait(vec!["run-1".into()], Some(Duration::from_secs(20))).await;
    assert_eq!(waited.unwrap_err().exit_code(), 5);
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_delay_is_told_once_with_what_the_nodes_said() {
    let node = Node::start();
    node.fake.list_pools.replies([Fail(error(Reason::NotReady, None))]);
    let client = client(&[&node], quick());
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    client.tell_of_delays(Duration::from_millis(100), move |delay| {
        heard.lock().unwrap().push(delay.to_string());
    });
    client.call(ListPoolsRequest::default()).await.unwrap_err();
    let told = told.lock().unwrap();
    assert!(matches!(&told[..], [one] if one.starts_with("no answer yet (127.0.0.1:")), "{told:?}");
}

#[tokio::test]
async fn without_any_answer_it_ends_in_bounded_time_and_says_how_to_go_on() {
    let (a, b) = (Node::start(), Node::start());
    a.fake.set_pool.replies([Fail(error(Reason::NoQuorum, None))]);
    b.fake.set_pool.replies([Silence]);
    let client = client(&[&a, &b], quick());
    let command = client.call(set()).await.unwrap_err();
    let request_id = b.fake.set_pool.asked()[0].request_id.clone();

    assert_eq!(command.exit_code(), 5);
    assert!(command.hint().unwrap().contains(&format!("with request id {request_id}")), "{command:?}");
    let text = command.to_string();
    assert!(text.contains(&format!("{}: NO_QUORUM", a.endpoint)), "{text}");
    assert!(text.contains(&format!("{}: no answer within", b.endpoint)), "{text}");

    a.fake.die();
    b.fake.die();
    let started = Instant::now();
    let read = client.call(ListPoolsRequest::default()).await.unwrap_err();
    assert!(matches!(read, ClientError::NoAnswer { request_id: None, .. }), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_cluster_is_never_made_at_two_nodes() {
    let (first, second) = (Node::start(), Node::start());
    first.fake.init.replies([Silence, Fail(error(Reason::ShuttingDown, None))]);
    second.fake.init.replies([Say(InitClusterResponse::default())]);
    second.fake.list_pools.replies([Say(ListPoolsResponse::default())]);
    first.fake.list_pools.replies([Fail(error(Reason::NotReady, None))]);
    let client = client(&[&first, &second], quick());
    // Even though the second is the one that answered last.
    client.call(ListPoolsRequest::default()).await.unwrap();
    client.call(InitClusterRequest::default()).await.unwrap_err();

    let asked = first.fake.init.asked();
    assert!(asked.len() > 1 && !asked[0].request_id.is_empty());
    assert!(asked.iter().all(|it| it == &asked[0]), "{asked:?}");
    assert!(second.fake.init.asked().is_empty());
}

#[tokio::test]
async fn nodes_that_all_wait_for_a_cluster_are_not_asked_twice() {
    let nodes = [Node::start(), Node::start()];
    for node in &nodes {
        node.fake.list_pools.replies([Fail(error(Reason::NotInitialized, None))]);
    }
    let answer = client(&[&nodes[0], &nodes[1]], Limits::default()).call(ListPoolsRequest::default()).await;
    assert_eq!(answer.unwrap_err().reason(), Some(Reason::NotInitialized));
    assert!(nodes.iter().all(|node| node.fake.list_pools.asked().len() == 1));
}

#[tokio::test]
async fn a_wait_goes_on_until_the_runs_have_ended() {
    let runs = vec![Run { id: "run-42".into(), ..Run::default() }];
    let answer = |done| Say(WaitRunsResponse { done, runs: runs.clone(), ..WaitRunsResponse::default() });
    let node = Node::start();
    node.fake.wait.replies([answer(false), answer(false), answer(true)]);
    let waited = client(&[&node], Limits::default()).wait(vec!["latest:a/b".into()], None).await.unwrap();
    assert!(waited.done);
    let asked: Vec<_> =
        node.fake.wait.asked().iter().map(|it: &WaitRunsRequest| it.runs[0].clone()).collect();
    assert_eq!(asked, ["latest:a/b", "run-42", "run-42"]);

    node.fake.wait.replies([answer(false)]);
    let waited = client(&[&node], Limits::default()).wait(vec!["run-42".into()], Some(Duration::ZERO)).await;
    assert!(!waited.unwrap().done);
}

#[tokio::test]
async fn a_file_is_sent_whole_to_whoever_takes_it() {
    const MEBI: usize = 1 << 20;
    let (dies, takes) = (Node::start(), Node::start());
    dies.fake.upload.replies([Die]);
    let client = client(&[&dies, &takes], Limits::default());
    for (file, sizes, digest) in [
        (Vec::new(), vec![0], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (
            vec![b'a'; 2 * MEBI + 1],
            vec![MEBI, MEBI, 1],
            "16a429a1e5162fcf59e3079724763e9afafcef1e2c7f862571e9267b3d959113",
        ),
    ] {
        takes
            .fake
            .upload
            .replies([Say(UploadBlobResponse { digest: digest.into(), size: file.len() as u64 })]);
        assert_eq!(client.upload(file.clone().into()).await.unwrap(), digest);
        assert_eq!(takes.fake.upload.asked().pop().unwrap(), (sizes, file));
    }

    // A node that stored something else is not believed.
    let other = client.upload("b".into()).await.unwrap_err();
    assert!(matches!(other, ClientError::BadAnswer { .. }), "{other:?}");
    assert_eq!(other.exit_code(), 5);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_one_is_named() {
    for (text, why) in [
        ("localhost", "it has no port"),
        (":7070", "it has no host"),
        ("localhost:http", "its port is not a number up to 65535"),
        ("https://localhost:7070", "TLS is not part of this release"),
        ("a b:7070", "it is not a host and a port"),
    ] {
        let error = Client::new(&format!("127.0.0.1:7070,{text}"), Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("`{text}` is not an endpoint: {why}"));
        assert_eq!(error.exit_code(), 2);
    }
    Client::new("localhost:7070, http://[::1]:7071/", Limits::default()).unwrap();
}
