//! `/metrics` tells what was done.

#![expect(clippy::float_cmp, reason = "these are counts, and exact")]

use matins_core::command::{Command, Decision, Finish, Fire, Tick};
use matins_core::id::Fence;
use matins_core::state::{AttemptOutcome, SkipReason};
use matins_core::time::Millis;
use matins_core::{Refusal, Stale};

use super::World;
use crate::metrics::Scrape as _;

/// The value of one series.
fn value(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn runs_attempts_ticks_and_commands_are_counted() {
    let world = World::founded().await;
    let alone = &world.alone;
    let file = "pool: db\nslots: 2\n---\nworkflow: w\nconcurrency: { max_active_runs: 9 }\nschedules: { s: { cron: '0 * * * *' } }\ntasks: { t: { run: 'true', pool: db } }";
    world.apply(file).await.unwrap();
    alone.fire();
    for _ in 0..3 {
        world.start("w").await.unwrap();
    }
    let text = alone.scrape();
    for (series, expected) in [
        ("matins_runs{state=\"running\"}", 3.0),
        ("matins_tasks{state=\"running\"}", 2.0),
        ("matins_tasks{state=\"queued\"}", 1.0),
        ("matins_attempts_live", 2.0),
        ("matins_slots_used", 2.0),
        ("matins_pool_slots_used{pool=\"db\"}", 2.0),
        ("matins_runs_started_total{origin=\"manual\"}", 3.0),
        ("matins_executors{state=\"ready\"}", 1.0),
        ("matins_schedules{state=\"active\"}", 1.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }

    alone.pass(Millis::from_secs(30));
    assert!((30.0..31.0).contains(&value(&alone.scrape(), "matins_queue_age_seconds")));
    alone.finish_all(&AttemptOutcome::Success);
    alone.finish_all(&AttemptOutcome::Exit(3));
    let late = Command::Finish(Finish {
        fence: Fence(1),
        outcome: AttemptOutcome::Success,
        output: None,
        started_at: None,
        log_bytes: 0,
    });
    let leadership = alone.state().cluster.leader.as_ref().map(|leader| leader.leadership);
    let proposal = matins_core::command::Proposal { request: None, leadership, command: late };
    assert!(matches!(alone.apply(&proposal).0, Err(Refusal::Stale(Stale::Fence(_)))));
    let text = alone.scrape();
    for (series, expected) in [
        ("matins_runs_finished_total{state=\"success\"}", 2.0),
        ("matins_runs_finished_total{state=\"failed\"}", 1.0),
        ("matins_attempts_finished_total{outcome=\"success\"}", 2.0),
        ("matins_attempts_finished_total{outcome=\"failed\"}", 1.0),
        ("matins_stale_fences_total", 1.0),
        ("matins_run_duration_seconds_count", 3.0),
        ("matins_task_queued_seconds_count", 3.0),
        ("matins_task_queued_seconds_bucket{le=\"10.0\"}", 2.0),
        ("matins_queue_age_seconds", 0.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_tick_is_counted_with_its_lateness_and_a_skip_with_its_reason() {
    let world = World::founded().await;
    let alone = &world.alone;
    world
        .apply("workflow: w\nschedules: { s: { cron: '0 * * * *' } }\ntasks: { t: { run: 'true' } }")
        .await
        .unwrap();
    alone.fire();
    alone.pass(Millis::from_mins(180));
    let state = alone.state();
    let (id, row) = state.schedules.iter().next().unwrap();
    assert!(value(&alone.scrape(), "matins_tick_overdue_seconds") > 7_100.0);
    let last = state.now - Millis::from_mins(5);
    let tick = Tick { logical_time: last, interval_start: last, params: Ok("{}".into()) };
    let skip = Decision::Skip {
        from: row.mark + Millis(1),
        to: last - Millis(1),
        count: 2,
        reason: SkipReason::Paused,
    };
    alone.lead(&Command::Fire(Fire {
        schedule: id.clone(),
        version: row.version,
        from_mark: row.mark,
        to_mark: state.now,
        decisions: vec![skip, Decision::Run(tick)],
        next: None,
    }));
    let text = alone.scrape();
    for (series, expected) in [
        ("matins_ticks_skipped_total{reason=\"paused\"}", 2.0),
        ("matins_ticks_skipped_total{reason=\"catchup_limit\"}", 0.0),
        ("matins_tick_lateness_seconds_count", 1.0),
        ("matins_tick_lateness_seconds_bucket{le=\"60.0\"}", 0.0),
        ("matins_tick_lateness_seconds_bucket{le=\"3600.0\"}", 1.0),
        ("matins_runs_started_total{origin=\"schedule\"}", 1.0),
        ("matins_tick_overdue_seconds", 0.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    world.stop().await;
}
