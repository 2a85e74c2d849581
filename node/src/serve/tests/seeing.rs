//! Why things wait, what became of ticks, and what happened to runs.

use matins_core::command::{Command, Decision, Fire, Tick};
use matins_core::state::{AttemptOutcome, SkipReason};
use matins_core::time::Millis;
use matins_proto::v1::{
    ListDecisionsRequest, ListDecisionsResponse, ListRunEventsRequest, WhyRequest, WhyResponse,
};

use super::*;

const NIGHTLY: &str = "workflow: nightly\nschedules: { tick: { cron: '* * * * *' } }\n\
    concurrency: { max_active_runs: 9 }\n\
    tasks: { load: { run: [\"true\"] }, check: { needs: load, run: [\"true\"] } }\n";

impl World {
    async fn why(&self, request: WhyRequest) -> WhyResponse {
        self.runs().why(request).await.unwrap().into_inner()
    }

    async fn decisions(&self, page_size: u32, page_token: &str) -> ListDecisionsResponse {
        let request = ListDecisionsRequest {
            workflow: "nightly".into(),
            page_size,
            page_token: page_token.into(),
            ..Default::default()
        };
        self.schedules().list_decisions(request).await.unwrap().into_inner()
    }

    /// Lets minutes pass and decides their ticks: a run each, or all skipped for this reason.
    fn minutes(&self, count: u64, skipped: Option<SkipReason>) {
        self.alone.pass(Millis::from_mins(count));
        let state = self.alone.state();
        let (id, row) = state.schedules.iter().next().unwrap();
        let calendar = matins_workflow::calendar::Calendar::from_schedule(&row.spec).unwrap();
        let ticks: Vec<_> = calendar.ticks(row.mark, state.now, 100).map(|tick| tick.at).collect();
        let decisions = match skipped {
            None => ticks
                .iter()
                .map(|at| {
                    Decision::Run(Tick { logical_time: *at, interval_start: *at, params: Ok("{}".into()) })
                })
                .collect(),
            Some(reason) => vec![Decision::Skip {
                from: ticks[0],
                to: *ticks.last().unwrap(),
                count: ticks.len() as u32,
                reason,
            }],
        };
        self.alone.lead(&Command::Fire(Fire {
            schedule: id.clone(),
            version: row.version,
            from_mark: row.mark,
            to_mark: state.now,
            decisions,
            next: calendar.next_after(state.now).map(|tick| tick.at),
        }));
    }
}

#[tokio::test]
async fn every_tick_is_accounted_for_wherever_its_run_is() {
    let world = World::founded().await;
    world.apply(NIGHTLY).await.unwrap();
    world.alone.fire();
    world.minutes(2, None);
    while !world.alone.state().live.is_empty() {
        world.alone.finish_all(&AttemptOutcome::Success);
    }
    world.alone.retire();
    world.minutes(3, Some(SkipReason::Paused));
    world.minutes(2, None);

    let all = world.decisions(0, "").await.decisions;
    let told: Vec<_> = all
        .iter()
        .map(|it| (it.run_id.as_deref().unwrap_or(""), it.count, it.skip_reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [("run-4", 1, ""), ("run-3", 1, ""), ("", 3, "paused"), ("run-2", 1, ""), ("run-1", 1, "")]
    );
    assert_eq!((all[0].run_state.as_str(), all[4].run_state.as_str()), ("running", "success"));
    assert!(all.iter().all(|it| it.leader == "node-1" && it.index > 0), "{all:?}");
    assert!(all.iter().all(|it| it.lateness.unwrap().as_millis() < 200_000), "{all:?}");

    let (mut pages, mut token) = (Vec::new(), String::new());
    loop {
        let page = world.decisions(2, &token).await;
        pages.extend(page.decisions);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, all);
    world.stop().await;
}

#[tokio::test]
async fn a_run_tells_its_whole_history_by_log_index() {
    let world = World::founded().await;
    world.apply(NIGHTLY).await.unwrap();
    world.start("nightly").await.unwrap();
    world.alone.finish_all(&AttemptOutcome::Exit(3));
    world.alone.retire();
    let ask = |task: &str| ListRunEventsRequest {
        run: "run-1".into(),
        task: task.into(),
        ..ListRunEventsRequest::default()
    };
    let events = world.runs().list_events(ask("")).await.unwrap().into_inner().events;
    let told: Vec<_> = events.iter().map(|it| (it.task.as_str(), it.from.as_str(), it.to.as_str())).collect();
    assert_eq!(
        told,
        [
            ("", "", "queued"),
            ("", "queued", "running"),
            ("load", "", "queued"),
            ("load", "queued", "running"),
            ("load", "running", "failed"),
            ("check", "", "upstream_failed"),
            ("", "running", "failed"),
        ]
    );
    assert!(events.is_sorted_by_key(|event| event.index));
    let failed = &events[4];
    assert_eq!((failed.reason.as_str(), failed.attempt), ("exit code 3", 1));
    assert_eq!((failed.executor.as_str(), failed.leader.as_str()), ("node-1", "node-1"));
    let of_load = world.runs().list_events(ask("load")).await.unwrap().into_inner().events;
    assert_eq!(of_load, events[2..5]);
    assert_eq!(reason(&world.runs().list_events(ask("lod")).await.unwrap_err()).0, "TASK_NOT_FOUND");
    world.stop().await;
}

#[tokio::test]
async fn why_is_told_of_live_and_finished_runs_and_of_workflows() {
    let world = World::founded().await;
    world.apply(NIGHTLY).await.unwrap();
    world.start("nightly").await.unwrap();
    let of = |run: &str, task: &str| WhyRequest { run: run.into(), task: task.into(), ..Default::default() };
    let waits = world.why(of("latest:nightly", "check")).await;
    assert_eq!((waits.subject.as_str(), waits.state.as_str()), ("run-1/check", "waiting"));
    let text = waits.reason.unwrap().text;
    assert!(text.starts_with("it waits for `load`, which is running"), "{text}");
    world.alone.finish_all(&AttemptOutcome::Exit(3));
    world.alone.retire();
    let failed = world.why(of("run-1", "")).await;
    assert_eq!(failed.reason.unwrap().text, "`load` failed: exit code 3 in attempt 1, on alone");
    assert_eq!(failed.commands, ["matins logs run-1/load --stderr --tail 20", "matins retry run-1"]);

    let workflow = WhyRequest { workflow: "nightly".into(), ..Default::default() };
    world.alone.fire();
    let why = world.why(workflow).await;
    assert_eq!((why.state.as_str(), why.reason.unwrap().code.as_str()), ("active", "tick"));

    let nothing = world.runs().why(WhyRequest::default()).await.unwrap_err();
    assert_eq!(reason(&nothing).0, "BAD_ARGUMENT");
    let missing = world.runs().why(of("run-1", "lod")).await.unwrap_err();
    assert_eq!(reason(&missing).0, "TASK_NOT_FOUND");
    world.stop().await;
}
