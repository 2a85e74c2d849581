//! The picture, on a terminal of memory.

use matins_proto::Timestamp;
use matins_proto::v1::node_status::Role;
use matins_proto::v1::{
    Alarm, ClusterStatusResponse, NodeStatus, StateReason, TaskCounts, executor, run::State,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::model::{Key, Seen};
use super::*;

fn night() -> Model {
    let node = |id: &str, reachable| NodeStatus {
        id: id.into(),
        role: Role::Voter.into(),
        reachable,
        ..NodeStatus::default()
    };
    let alarm = Alarm {
        code: "node_unreachable".into(),
        subject: "node-3".into(),
        text: "it does not answer".into(),
        since: None,
    };
    let status = ClusterStatusResponse {
        leader: Some("node-1".into()),
        ready: true,
        leading_since: Some(Timestamp::from_millis(0)),
        nodes: vec![node("node-1", true), node("node-2", true), node("node-3", false)],
        alarms: vec![alarm],
        ..ClusterStatusResponse::default()
    };
    let run = |number: i64, workflow: &str, state: State| Run {
        id: format!("run-{number}"),
        workflow: workflow.into(),
        state: state.into(),
        created_at: Some(Timestamp::from_millis(number * 1_000)),
        started_at: (state == State::Running).then(|| Timestamp::from_millis(number * 1_000)),
        task_counts: Some(TaskCounts {
            total: 5,
            success: 2,
            running: 2,
            queued: 1,
            ..TaskCounts::default()
        }),
        ..Run::default()
    };
    let text = "waits for a place among the active runs of `default/nightly` (2 are active)";
    let reason = StateReason { code: "concurrency".into(), text: text.into(), until: None };
    let waiting = Run { reason: Some(reason), ..run(44, "default/nightly", State::Queued) };
    let executor = |name: &str, used, state: executor::State| Executor {
        name: name.into(),
        used,
        slots: 8,
        state: state.into(),
        ..Executor::default()
    };
    Model::new(Seen {
        at: Timestamp::from_millis(200_000),
        status,
        runs: vec![
            waiting,
            run(43, "default/hourly", State::Running),
            run(42, "default/nightly", State::Running),
        ],
        executors: vec![
            executor("a", 3, executor::State::Ready),
            executor("b", 8, executor::State::Ready),
            executor("c", 0, executor::State::Cordoned),
        ],
        pools: vec![Pool { name: "source-db".into(), slots: 2, used: 2, waiting: 7, ..Pool::default() }],
    })
}

fn picture(model: &Model, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line =
        |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..height).map(line).collect()
}

#[test]
fn it_shows_the_cluster_at_a_glance() {
    assert_eq!(
        picture(&night(), (80, 15)),
        "\
node-1 has led for 3m20s.
2 of 3 voters answer: one more lost and nothing is decided.
Runs: 2 running, 1 queued, 0 stopping.  Slots: 11 of 24.  Waiting for pools: 7.
! node_unreachable node-3: it does not answer
EXECUTOR     STATE     SLOTS             POOL           SLOTS            WAITING
a            ready     ▮▮▮▯▯▯▯▯ 3/8      source-db      ▮▮▮▮▮▮▮▮ 2/2     7
b            ready     ▮▮▮▮▮▮▮▮ 8/8
c            cordoned  ▯▯▯▯▯▯▯▯ 0/8

RUN       WORKFLOW          STATE    TASKS     FOR     REASON
run-42    default/nightly   running  2/5       2m38s   2 running, 1 queued
run-43    default/hourly    running  2/5       2m37s   2 running, 1 queued
run-44    default/nightly   queued   2/5       2m36s   waits for a place among t

q quit  ↑↓ move  Enter why  s sort (age)  r reverse
"
    );
}

#[test]
fn enter_says_why_and_a_small_terminal_does_no_harm() {
    let mut model = night();
    model.press(Key::Last);
    model.explain("run-44 has been queued for 2m36s: it waits.\n  matins why run-42\n".into());
    let shown = picture(&model, (60, 20));
    assert!(shown.contains("run-44 has been queued for 2m36s: it waits.\n  matins why run-42\n"), "{shown}");
    for size in [(20, 5), (1, 1), (200, 60)] {
        picture(&model, size);
    }
}
