//! Starting, showing, listing, following and ending runs.

use matins_core::state::AttemptOutcome;
use matins_proto::Json;
use matins_proto::v1::retry_run_request::Mode;
use matins_proto::v1::{
    CancelRunRequest, GetRunRequest, ListRunsRequest, RetryRunRequest, StartRunRequest, SubmitRunRequest,
    WaitRunsRequest, WatchRunRequest, WatchRunsRequest, run, task,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{World, reason, source};

const CHAIN: &str = "workflow: chain
params: { day: { type: date, default: '{{ interval_start | date }}' }, batch: { type: int, default: 5 } }
schedules: { night: { cron: '30 2 * * *' } }
concurrency: { max_active_runs: 9 }
tasks:
  load: { needs: extract, run: 'true' }
  extract: { run: 'true' }
";

#[tokio::test]
async fn a_start_by_hand_takes_the_interval_of_its_sole_schedule() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    let run = world.run(&world.start("chain").await.unwrap()).await;
    assert_eq!(run.interval_start.unwrap().to_string(), "2026-03-01T02:30:00Z");
    assert_eq!(run.params.unwrap().text, r#"{"day":"2026-03-01","batch":5}"#);
    // It belongs to no schedule, since none was named.
    assert_eq!(run.schedule, None);
    let tasks: Vec<_> = run.tasks.iter().map(|task| (task.address.as_str(), task.state())).collect();
    assert_eq!(tasks, [("extract", task::State::Running), ("load", task::State::Waiting)]);
    let waits = run.tasks[1].reason.clone().unwrap();
    assert_eq!((waits.code.as_str(), waits.text.as_str()), ("upstream", "waits for `extract`"));
    world.stop().await;
}

#[tokio::test]
async fn a_repeat_makes_no_second_run_although_time_went_on() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    let start = |batch: &str| StartRunRequest {
        request_id: "once".into(),
        workflow: "chain".into(),
        params: Some(Json { text: format!(r#"{{"batch":{batch}}}"#) }),
        ..Default::default()
    };
    let first = world.runs().start(start("7")).await.unwrap().into_inner().run_id;
    let repeat = world.runs().start(start("7")).await.unwrap().into_inner().run_id;
    assert_eq!(first, repeat);
    let other = world.runs().start(start("8")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).0), (Code::FailedPrecondition, "REQUEST_ID_REUSED".to_owned()));
    let bad = StartRunRequest { request_id: String::new(), ..start("\"x\"") };
    let bad = world.runs().start(bad).await.unwrap_err();
    assert_eq!(reason(&bad).0, "PARAMS_INVALID");
    assert_eq!(bad.get_details_bad_request().unwrap().field_violations[0].field, "params.batch");
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_named_with_what_is_near() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    let refused = world.start("chian").await.unwrap_err();
    assert_eq!(
        reason(&refused),
        ("WORKFLOW_NOT_FOUND".to_owned(), "did you mean `default/chain`?".to_owned())
    );
    let get = |run: &str| GetRunRequest { run: run.into(), ..Default::default() };
    assert_eq!(reason(&world.runs().get(get("run-9")).await.unwrap_err()).0, "RUN_NOT_FOUND");
    assert_eq!(reason(&world.runs().get(get("latest:chain")).await.unwrap_err()).0, "RUN_NOT_FOUND");
    assert_eq!(reason(&world.runs().get(get("run-09")).await.unwrap_err()).0, "BAD_ARGUMENT");
    world.start("chain").await.unwrap();
    assert_eq!(world.run("latest:chain").await.id, "run-1");
    world.stop().await;
}

#[tokio::test]
async fn lists_merge_state_and_history_and_fold_retries() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    for _ in 0..3 {
        world.start("chain").await.unwrap();
    }
    let failed = AttemptOutcome::Exit(1);
    while !world.alone.state().live.is_empty() {
        world.alone.finish_all(&failed);
    }
    world.alone.retire();
    let retry =
        |run: &str| RetryRunRequest { run: run.into(), mode: Mode::Failed.into(), ..Default::default() };
    let made = world.runs().retry(retry("run-1")).await.unwrap().into_inner();
    assert_eq!((made.run_id.as_deref(), made.runs_again.len()), (Some("run-4"), 2));
    let again = world.runs().retry(retry("run-1")).await.unwrap_err();
    assert_eq!(reason(&again).0, "CONFLICT");

    let list = |request: ListRunsRequest| async {
        let mut runs = world.runs();
        let mut request = request;
        let mut lines = Vec::new();
        loop {
            let page = runs.list(request.clone()).await.unwrap().into_inner();
            lines.extend(page.runs.into_iter().map(|run| (run.id, run.retries)));
            if page.next_page_token.is_empty() {
                return lines;
            }
            request.page_token = page.next_page_token;
        }
    };
    let line = |id: &str, retries: &[&str]| {
        (id.to_owned(), retries.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let folded = [line("run-4", &["run-1"]), line("run-3", &[]), line("run-2", &[])];
    assert_eq!(list(ListRunsRequest { page_size: 1, ..Default::default() }).await, folded);
    assert_eq!(list(ListRunsRequest { page_size: 2, ..Default::default() }).await, folded);
    let all = list(ListRunsRequest { retries: true, page_size: 3, ..Default::default() }).await;
    assert_eq!(all.len(), 4);
    let failed = ListRunsRequest { states: vec![run::State::Failed.into()], ..Default::default() };
    assert_eq!(list(failed).await, [line("run-3", &[]), line("run-2", &[])]);
    let filtered = |filter: &str| ListRunsRequest { filter: filter.into(), ..Default::default() };
    let of_chain = list(filtered("state=failed and workflow=~cha and not namespace=other")).await;
    assert_eq!(of_chain, [line("run-3", &[]), line("run-2", &[])]);
    assert_eq!(list(filtered("state=failed and workflow=other")).await, []);
    let by_id = list(filtered("state=success or id=run-2")).await;
    assert_eq!(by_id, [line("run-2", &[])], "what is not told by workflow and state decides too");
    let filter = ListRunsRequest {
        filter: "id < run-4 AND state = failed".into(),
        retries: true,
        ..Default::default()
    };
    assert_eq!(list(filter).await.len(), 3);
    let misspelt = ListRunsRequest { workflow: "chian".into(), ..Default::default() };
    let refused = world.runs().list(misspelt).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert!(format!("{refused:?}").contains("did you mean `default/chain`?"), "{refused:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_watch_tells_the_run_then_its_changes_and_ends_with_it() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    let run = world.start("chain").await.unwrap();
    let watch = WatchRunRequest { run: run.clone(), after_index: 0 };
    let mut messages = world.runs().watch(watch).await.unwrap().into_inner();
    let first = messages.message().await.unwrap().unwrap();
    assert!(first.resync && !first.ended);
    assert_eq!(first.run.unwrap().tasks.len(), 2);
    world.alone.finish_all(&AttemptOutcome::Success);
    let changed = messages.message().await.unwrap().unwrap();
    assert!(!changed.resync);
    let states: Vec<_> = changed.tasks.iter().map(|task| (task.address.as_str(), task.state())).collect();
    assert_eq!(states, [("extract", task::State::Success), ("load", task::State::Running)]);

    // Another watch goes on from what was told.
    let watch = WatchRunRequest { run, after_index: changed.index };
    let mut elsewhere = world.runs().watch(watch).await.unwrap().into_inner();
    let next = elsewhere.message().await.unwrap().unwrap();
    assert!(!next.resync);
    world.alone.finish_all(&AttemptOutcome::Success);
    for messages in [&mut messages, &mut elsewhere] {
        let mut last = messages.message().await.unwrap().unwrap();
        while !last.ended {
            last = messages.message().await.unwrap().unwrap();
        }
        assert_eq!(last.run.unwrap().state(), run::State::Success);
        assert_eq!(messages.message().await.unwrap(), None);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_watched_list_tells_new_lines_and_those_that_are_none_any_more() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    world.start("chain").await.unwrap();
    let watch = WatchRunsRequest { states: vec![run::State::Running.into()], ..Default::default() };
    let mut messages = world.runs().watch_list(watch).await.unwrap().into_inner();
    let first = messages.message().await.unwrap().unwrap();
    assert!(first.resync);
    assert_eq!(first.runs.len(), 1);
    world.start("chain").await.unwrap();
    let second = messages.message().await.unwrap().unwrap();
    assert_eq!(second.runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["run-2"]);
    let cancel = CancelRunRequest { run: "run-1".into(), ..Default::default() };
    let cancelled = world.runs().cancel(cancel).await.unwrap().into_inner();
    assert_eq!(cancelled.state(), run::State::Stopping);
    let third = messages.message().await.unwrap().unwrap();
    assert_eq!(third.removed, ["run-1"]);
    // The stream is open, and the server ends all the same.
    world.stop().await;
}

/// Not every state is kept: one line came and went between two that are.
#[tokio::test]
async fn a_watched_list_that_goes_on_elsewhere_keeps_no_line_that_is_none_any_more() {
    let world = World::founded().await;
    world.apply(CHAIN).await.unwrap();
    let watch = async |after_index| {
        let states = vec![run::State::Running.into()];
        let ask = WatchRunsRequest { states, after_index, ..Default::default() };
        world.runs().watch_list(ask).await.unwrap().into_inner().message().await.unwrap().unwrap()
    };
    for _ in 0..5 {
        let run = world.start("chain").await.unwrap();
        let heard = watch(0).await;
        assert_eq!(heard.runs[0].id, run);
        world.runs().cancel(CancelRunRequest { run: run.clone(), ..Default::default() }).await.unwrap();
        let next = watch(heard.index).await;
        assert!(next.runs.is_empty(), "{next:?}");
        assert!(next.resync || next.removed.contains(&run), "{run} would stay in the list: {next:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn waiting_ends_with_the_runs() {
    let world = World::founded().await;
    world.apply("workflow: one\ntasks: { t: { run: 'true' } }").await.unwrap();
    let run = world.start("one").await.unwrap();
    let wait = |millis| WaitRunsRequest {
        runs: vec![run.clone()],
        timeout: Some(matins_proto::Duration::from_millis(millis)),
    };
    assert!(!world.runs().wait(wait(1)).await.unwrap().into_inner().done);
    let mut runs = world.runs();
    let (waited, ()) = tokio::join!(runs.wait(wait(30_000)), async {
        world.alone.finish_all(&AttemptOutcome::Exit(3));
    });
    let waited = waited.unwrap().into_inner();
    assert!(waited.done);
    assert_eq!(waited.runs[0].state(), run::State::Failed);
    let task = world.run(&run).await.tasks[0].clone();
    assert_eq!(task.reason.unwrap().code, "exit");
    assert_eq!(task.attempts[0].exit_code, Some(3));
    world.stop().await;
}

#[tokio::test]
async fn a_text_runs_once_and_registers_nothing() {
    let world = World::founded().await;
    let text = "pool: p\nslots: 1\n---\nworkflow: once\ntasks: { t: { run: 'true' } }\n";
    let submit = SubmitRunRequest { source: Some(source(text)), ..Default::default() };
    let response = world.runs().submit(submit).await.unwrap().into_inner();
    assert_eq!(response.diagnostics[0].code, "pool_left_out");
    let run = world.run(&response.run_id).await;
    assert_eq!((run.version, run.workflow.as_str()), (None, "default/once"));
    assert_eq!(reason(&world.start("once").await.unwrap_err()).0, "WORKFLOW_NOT_FOUND");
    world.stop().await;
}
