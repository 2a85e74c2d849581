//! Backfills: what one would do, and following one.

use matins_core::state::AttemptOutcome;
use matins_core::time::Millis;
use matins_proto::v1::backfill_tick::Action;
use matins_proto::v1::{
    CancelBackfillRequest, CreateBackfillRequest, GetBackfillRequest, ListBackfillsRequest, ListRunsRequest,
    StartRunRequest, WatchBackfillRequest, backfill,
};

use super::{World, reason};

const DAILY: &str =
    "workflow: daily\nschedules: { d: { cron: '0 4 * * *' } }\ntasks: { t: { run: 'true' } }\n";

async fn three_days() -> World {
    let world = World::founded().await;
    world.apply(DAILY).await.unwrap();
    world.alone.pass(Millis::from_hours(1));
    world.alone.fire();
    world
}

fn create(from: &str, to: &str) -> CreateBackfillRequest {
    CreateBackfillRequest { workflow: "daily".into(), from: from.into(), to: to.into(), ..Default::default() }
}

#[tokio::test]
async fn a_dry_run_lists_ticks_with_their_intervals_and_runs() {
    let world = three_days().await;
    let start = StartRunRequest {
        workflow: "daily".into(),
        schedule: "d".into(),
        logical_time: Some(matins_proto::Timestamp::parse("2026-02-27T04:00:00Z").unwrap()),
        ..Default::default()
    };
    world.runs().start(start).await.unwrap();
    // The range reaches into the future; ticks that are not decided are the schedule's own.
    let dry = CreateBackfillRequest { dry_run: true, ..create("2026-02-26", "2026-03-09") };
    let dry = world.backfills().create(dry).await.unwrap().into_inner();
    let told: Vec<_> = dry
        .ticks
        .iter()
        .map(|tick| (tick.local.as_str(), tick.interval_start.unwrap().to_string(), tick.action()))
        .collect();
    assert_eq!(
        told,
        [
            ("2026-02-26T04:00:00Z", "2026-02-25T04:00:00Z".to_owned(), Action::Run),
            ("2026-02-27T04:00:00Z", "2026-02-26T04:00:00Z".to_owned(), Action::Active),
            ("2026-02-28T04:00:00Z", "2026-02-27T04:00:00Z".to_owned(), Action::Run),
            ("2026-03-01T04:00:00Z", "2026-02-28T04:00:00Z".to_owned(), Action::Run),
        ]
    );
    assert_eq!(dry.active_runs, ["run-1"]);
    let counts = dry.backfill.unwrap().counts.unwrap();
    assert_eq!((counts.total, counts.left_alone), (3, 1));
    let list = world.backfills().list(ListBackfillsRequest::default()).await.unwrap().into_inner();
    assert!(list.backfills.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_backfill_is_followed_until_it_has_ended() {
    let world = three_days().await;
    let request = CreateBackfillRequest { request_id: "b".into(), ..create("2026-02-26", "2026-03-09") };
    let made = world.backfills().create(request.clone()).await.unwrap().into_inner().backfill.unwrap();
    assert_eq!((made.id.as_str(), made.state()), ("backfill-1", backfill::State::Running));
    assert_eq!(made.changed_index, world.alone.state().index.0);
    // The mark moves on, and a repeat still means the same range.
    world.alone.pass(Millis::from_mins(5));
    world.alone.fire();
    let repeat = world.backfills().create(request).await.unwrap().into_inner().backfill.unwrap();
    assert_eq!(repeat.id, made.id);

    let watch = WatchBackfillRequest { backfill: made.id.clone(), after_index: 0 };
    let mut messages = world.backfills().watch(watch).await.unwrap().into_inner();
    assert!(messages.message().await.unwrap().unwrap().resync);
    let cancel = CancelBackfillRequest { backfill: made.id.clone(), now: true, ..Default::default() };
    world.backfills().cancel(cancel).await.unwrap();
    let mut last = messages.message().await.unwrap().unwrap();
    while !last.ended {
        last = messages.message().await.unwrap().unwrap();
    }
    let last = last.backfill.unwrap();
    assert_eq!(last.state(), backfill::State::Cancelled);
    assert!(last.changed_index > made.changed_index);
    let get = GetBackfillRequest { backfill: "backfill-2".into(), ..Default::default() };
    assert_eq!(reason(&world.backfills().get(get).await.unwrap_err()).0, "BACKFILL_NOT_FOUND");
    world.stop().await;
}

#[tokio::test]
async fn a_range_that_is_not_decided_is_refused() {
    let world = three_days().await;
    let refused = world.backfills().create(create("2027-01-01", "2027-01-02")).await.unwrap_err();
    assert_eq!(reason(&refused).0, "BAD_ARGUMENT");
    let refused = world.backfills().create(create("2026-03-01", "2026-02-01")).await.unwrap_err();
    assert!(refused.message().contains("`2026-02-01` is before `2026-03-01`"), "{refused:?}");
    let refused = world.backfills().create(create("yesterday", "2027-01-02")).await.unwrap_err();
    assert_eq!(reason(&refused).0, "BAD_ARGUMENT");
    world.stop().await;
}

#[tokio::test]
async fn a_wait_for_a_repair_is_shown_in_lists() {
    let world = World::founded().await;
    world.apply(&DAILY.replace("run: 'true'", "run: 'true', depends_on_past: true")).await.unwrap();
    for day in ["2026-02-27T04:00:00Z", "2026-02-28T04:00:00Z"] {
        let start = StartRunRequest {
            workflow: "daily".into(),
            schedule: "d".into(),
            logical_time: Some(matins_proto::Timestamp::parse(day).unwrap()),
            ..Default::default()
        };
        world.runs().start(start).await.unwrap();
        world.alone.finish_all(&AttemptOutcome::Exit(1));
    }
    let list = world.runs().list(ListRunsRequest::default()).await.unwrap().into_inner();
    let reasons: Vec<_> = list.runs.iter().map(|run| run.reason.clone().unwrap_or_default().text).collect();
    assert_eq!(reasons, ["past failed: run-1, retry it", "a task failed"]);
    world.stop().await;
}
