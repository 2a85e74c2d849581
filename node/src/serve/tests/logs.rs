//! Logs that lie with the executor.

use matins_core::id::Fence;
use matins_core::time::Timestamp;
use matins_proto::v1::log_notice::Kind;
use matins_proto::v1::{LogPosition, ReadLogsRequest, ReadLogsResponse};

use super::{World, reason};
use crate::serve::cluster::{LogPiece, LogStream};

async fn printed() -> World {
    let world = World::founded().await;
    world.apply("workflow: two\ntasks: { a: { run: 'true' }, b: { needs: a, run: 'true' } }").await.unwrap();
    world.start("two").await.unwrap();
    let piece = |position, text: &str| LogPiece {
        position,
        at: Timestamp::from_millis(5),
        stream: LogStream::Stdout,
        text: text.into(),
    };
    let pieces = vec![piece(8, "one\ntwo\nth"), piece(50, "ree\n")];
    let fence = world.alone.state().live.first().map_or(Fence(0), |(fence, _)| *fence);
    world.alone.logs.lock().unwrap().insert(fence, pieces);
    world
}

async fn read(world: &World, request: ReadLogsRequest) -> Vec<ReadLogsResponse> {
    let mut stream = world.logs().read(request).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        messages.push(message);
    }
    messages
}

fn lines(messages: &[ReadLogsResponse]) -> Vec<String> {
    let lines = messages.iter().flat_map(|message| &message.lines);
    lines.map(|line| String::from_utf8(line.text.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn lines_come_whole_and_go_on_behind_what_was_heard() {
    let world = printed().await;
    let ask = ReadLogsRequest { run: "run-1".into(), ..Default::default() };
    let messages = read(&world, ask.clone()).await;
    assert_eq!(messages[0].run_id, "run-1");
    assert_eq!(lines(&messages), ["one", "two", "three"]);
    let last_two = read(&world, ReadLogsRequest { tail: Some(2), ..ask.clone() }).await;
    assert_eq!(lines(&last_two), ["two", "three"]);
    let position = messages[1].lines[0].position;
    let after = vec![LogPosition { task: "a".into(), attempt: 1, position }];
    assert_eq!(lines(&read(&world, ReadLogsRequest { after, ..ask }).await), ["two", "three"]);
    world.stop().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_reached_is_said_to_be_so() {
    let world = printed().await;
    world.alone.logs.lock().unwrap().clear();
    let messages = read(&world, ReadLogsRequest { run: "run-1".into(), ..Default::default() }).await;
    let notices: Vec<_> = messages.iter().filter_map(|message| message.notice.as_ref()).collect();
    assert_eq!(notices.iter().map(|notice| notice.kind()).collect::<Vec<_>>(), [Kind::Unreachable]);
    let bad = ReadLogsRequest { run: "run-1".into(), task: "c".into(), ..Default::default() };
    assert_eq!(reason(&world.logs().read(bad).await.unwrap_err()).0, "TASK_NOT_FOUND");
    world.stop().await;
}

#[tokio::test]
async fn a_log_that_was_cut_says_so_before_it_ends() {
    let world = printed().await;
    world.alone.logs.lock().unwrap().values_mut().for_each(|pieces| {
        let note =
            LogPiece { position: 99, stream: LogStream::Note, text: "dropped".into(), ..pieces[0].clone() };
        pieces.push(note);
    });
    let ask = ReadLogsRequest { run: "run-1".into(), ..Default::default() };
    for ask in [ask.clone(), ReadLogsRequest { tail: Some(1), ..ask }] {
        let messages = read(&world, ask).await;
        let notices = messages.iter().filter_map(|message| message.notice.as_ref());
        // The attempt runs, so that its log has no end yet.
        assert_eq!(
            notices.map(matins_proto::v1::LogNotice::kind).collect::<Vec<_>>(),
            [Kind::Dropped, Kind::Unspecified]
        );
        assert_eq!(lines(&messages).last().map(String::as_str), Some("three"));
    }
    world.stop().await;
}
