//! Streams that go on at another node where they broke off.

use std::time::Duration;

use crate::fake::{Fail, Node, Say, Silence, client, error};
use matins_client::{ClientError, Limits};
use matins_proto::v1::error::Reason;
use matins_proto::v1::{
    LogLine, LogNotice, LogPosition, ReadLogsRequest, ReadLogsResponse, Run, Task, WatchRunRequest,
    WatchRunResponse, log_notice, run, task,
};

fn whole(index: u64, tasks: &[(&str, task::State)]) -> WatchRunResponse {
    let run = Run { id: "run-42".into(), tasks: tasks.iter().map(state).collect(), ..Run::default() };
    WatchRunResponse { index, resync: true, run: Some(run), ..Default::default() }
}

fn changed(index: u64, tasks: &[(&str, task::State)]) -> WatchRunResponse {
    WatchRunResponse { index, tasks: tasks.iter().map(state).collect(), ..Default::default() }
}

fn ended(index: u64, state: run::State) -> WatchRunResponse {
    let run = Run { id: "run-42".into(), state: state.into(), ..Run::default() };
    WatchRunResponse { index, run: Some(run), ended: true, ..Default::default() }
}

fn state((name, state): &(&str, task::State)) -> Task {
    let name = (*name).to_owned();
    Task { address: name.clone(), name, state: (*state).into(), ..Task::default() }
}

fn watch_latest() -> WatchRunRequest {
    WatchRunRequest { run: "latest:a/b".into(), after_index: 0 }
}

#[tokio::test]
async fn a_watch_goes_on_at_its_index_when_its_node_dies() {
    let (a, b) = (Node::start(), Node::start());
    let told = vec![
        whole(5, &[("extract", task::State::Running), ("load", task::State::Waiting)]),
        changed(6, &[]),
        changed(9, &[("extract", task::State::Success), ("load", task::State::Running)]),
    ];
    a.fake.watch.replies([Say((told, Silence))]);
    b.fake.watch.replies([
        Fail(error(Reason::NotReady, None)),
        Say((vec![changed(11, &[("load", task::State::Success)]), ended(12, run::State::Success)], Silence)),
    ]);
    let mut watch = client(&[&a, &b], Limits::default()).watch_run(watch_latest());
    let mut indexes = Vec::new();
    while let Some(change) = watch.next().await.unwrap() {
        indexes.push(change.index);
        if change.index == 9 {
            a.fake.die();
        }
    }

    // That of 6 was a sign of life. The other node went on with the run that `latest:` was at first.
    assert_eq!(indexes, [5, 9, 11, 12]);
    assert_eq!(a.fake.watch.asked()[..], [watch_latest()]);
    let resumed = WatchRunRequest { run: "run-42".into(), after_index: 9 };
    assert_eq!(b.fake.watch.asked()[..], [resumed.clone(), resumed]);
    let run = watch.run();
    assert_eq!(run.state(), run::State::Success);
    assert!(run.tasks.len() == 2 && run.tasks.iter().all(|task| task.state() == task::State::Success));
}

#[tokio::test]
async fn a_node_that_cannot_go_on_tells_the_whole_again() {
    let (a, b) = (Node::start(), Node::start());
    a.fake.watch.replies([Say((vec![whole(5, &[("gone", task::State::Running)])], Say(())))]);
    let anew = whole(900, &[("load", task::State::Running)]);
    b.fake.watch.replies([Say((vec![anew, ended(901, run::State::Failed)], Silence))]);
    let mut watch = client(&[&a, &b], Limits::default()).watch_run(watch_latest());
    let mut resyncs = 0;
    while let Some(change) = watch.next().await.unwrap() {
        resyncs += u32::from(change.resync);
    }
    assert_eq!(resyncs, 2);
    let names: Vec<_> = watch.run().tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["load"]);
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let (silent, other) = (Node::start(), Node::start());
    silent.fake.watch.replies([Say((vec![whole(5, &[])], Silence))]);
    other.fake.watch.replies([Say((vec![ended(6, run::State::Success)], Silence))]);
    let limits = Limits { silence_max: Duration::from_millis(300), ..Limits::default() };
    let mut watch = client(&[&silent, &other], limits).watch_run(watch_latest());
    while watch.next().await.unwrap().is_some() {}
    assert_eq!(watch.run().state(), run::State::Success);
}

#[tokio::test]
async fn a_watch_that_nobody_serves_ends_in_bounded_time() {
    let node = Node::start();
    let limits = Limits { total_max: Duration::from_millis(500), ..Limits::default() };
    node.fake.watch.replies([Say((Vec::new(), Say(())))]);
    let given_up = client(&[&node], limits).watch_run(watch_latest()).next().await.unwrap_err();
    assert!(matches!(given_up, ClientError::NoAnswer { .. }), "{given_up:?}");
    let opened = node.fake.watch.asked().len();
    assert!((2..20).contains(&opened), "opened {opened} times, with growing pauses");

    node.fake.watch.replies([Fail(error(Reason::RunNotFound, None))]);
    let refused = client(&[&node], limits).watch_run(watch_latest()).next().await.unwrap_err();
    assert_eq!((refused.exit_code(), refused.reason()), (3, Some(Reason::RunNotFound)));
}

fn lines(task: &str, positions: std::ops::RangeInclusive<u64>) -> ReadLogsResponse {
    let line = |position| LogLine { position, ..LogLine::default() };
    ReadLogsResponse {
        run_id: "run-42".into(),
        task: task.into(),
        attempt: 1,
        lines: positions.map(line).collect(),
        notice: None,
    }
}

fn end(task: &str) -> ReadLogsResponse {
    let notice = LogNotice { kind: log_notice::Kind::End.into(), ..LogNotice::default() };
    #[expect(clippy::reversed_empty_ranges, reason = "it has no lines")]
    let piece = lines(task, 1..=0);
    ReadLogsResponse { notice: Some(notice), ..piece }
}

#[tokio::test]
async fn a_log_is_read_to_its_end_and_no_line_twice() {
    let (a, b) = (Node::start(), Node::start());
    a.fake.logs.replies([Say((vec![lines("load", 1..=2), lines("check", 1..=3), end("check")], Silence))]);
    // It knows less precisely what was told, and says some of it again.
    let again = vec![end("check"), lines("load", 1..=2), lines("load", 2..=4), end("load")];
    b.fake.logs.replies([Say((again, Say(())))]);
    let ask = ReadLogsRequest { run: "latest:a/b".into(), follow: true, ..ReadLogsRequest::default() };
    let mut logs = client(&[&a, &b], Limits::default()).read_logs(ask.clone());
    let mut told = Vec::new();
    while let Some(piece) = logs.next().await.unwrap() {
        told.extend(piece.lines.iter().map(|line| format!("{} {}", piece.task, line.position)));
        told.extend(piece.notice.map(|_| format!("{} end", piece.task)));
        if told.last().is_some_and(|last| last == "check end") {
            a.fake.die();
        }
    }

    assert_eq!(
        told,
        ["load 1", "load 2", "check 1", "check 2", "check 3", "check end", "load 3", "load 4", "load end"]
    );
    let position = |task: &str, position| LogPosition { task: task.into(), attempt: 1, position };
    let after = vec![position("check", 3), position("load", 2)];
    assert_eq!(b.fake.logs.asked()[..], [ReadLogsRequest { run: "run-42".into(), after, ..ask }]);
}
