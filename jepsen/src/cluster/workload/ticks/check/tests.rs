//! Planted histories: good ones that pass, bad ones that do not.

use super::*;

fn run(tick: i64) -> TickRun {
    TickRun {
        id: format!("run-{tick}"),
        logical: tick,
        interval_start: tick - 1_000,
        created: tick + 20,
        started: Some(tick + 20),
        finished: Some(tick + 500),
        is_cancelled: false,
    }
}

/// A tick each second from 1 to 9, all of which fired.
fn good() -> History {
    let ticks = (1..10).map(|second| second * 1_000);
    History {
        name: "ticks/one/each".into(),
        due: ticks.clone().map(|tick| (tick, Some(tick - 1_000))).collect(),
        due_undecided: Vec::new(),
        catchup: Catchup::None,
        on_full: OnFull::Unlimited,
        from: 0,
        to: 9_500,
        fired: 9,
        skipped: BTreeMap::new(),
        runs: ticks.map(run).collect(),
        pauses: Vec::new(),
        outage: None,
    }
}

fn without(mut history: History, ticks: &[i64], why: &str) -> History {
    history.runs.retain(|run| !ticks.contains(&run.logical));
    history.fired -= ticks.len() as u64;
    history.skipped.insert(why.into(), ticks.len() as u64);
    history
}

#[test]
fn a_run_for_each_tick_is_right() {
    assert_eq!(broken(&good()), Vec::<String>::new());
}

#[test]
fn a_missing_tick_is_found() {
    let mut history = good();
    history.runs.remove(4);
    assert_eq!(broken(&history).len(), 2, "the tick, and the count that is higher than the runs");
    history.fired -= 1;
    assert_eq!(broken(&history), ["ticks/one/each: I1: tick 1970-01-01T00:00:05Z has no run"]);
}

#[test]
fn a_doubled_tick_is_found() {
    let mut history = good();
    history.runs.push(TickRun { id: "run-x".into(), ..run(5_000) });
    history.fired += 1;
    assert_eq!(broken(&history).len(), 1);
    assert!(broken(&history)[0].contains("has two runs"));
}

#[test]
fn a_tick_at_the_wrong_time_is_found() {
    let mut history = good();
    history.runs[4] = TickRun { interval_start: 4_000, ..run(5_001) };
    let found = broken(&history);
    assert!(found.iter().any(|what| what.contains("which is no tick")), "{found:?}");
    assert!(found.iter().any(|what| what.contains("has no run")), "{found:?}");
}

#[test]
fn a_run_that_came_too_early_is_found() {
    let mut history = good();
    history.runs[4].created = 4_999;
    assert_eq!(broken(&history).len(), 1);
}

#[test]
fn a_wrong_interval_is_found() {
    let mut history = good();
    history.runs[4].interval_start = 3_000;
    assert_eq!(broken(&history).len(), 1);
}

#[test]
fn a_run_beyond_the_mark_is_found() {
    let mut history = good();
    history.runs.push(run(10_000));
    assert_eq!(broken(&history).len(), 1);
}

#[test]
fn a_tick_that_nobody_decided_is_found() {
    let mut history = good();
    history.due_undecided.push(10_000);
    assert_eq!(broken(&history).len(), 1);
}

#[test]
fn a_failover_is_no_reason_to_skip() {
    assert!(!broken(&without(good(), &[5_000], "catch-up policy")).is_empty());
}

#[test]
fn a_skip_that_is_counted_and_is_none_is_found() {
    let mut history = good();
    history.skipped.insert("paused".into(), 1);
    assert_eq!(broken(&history).len(), 1);
}

#[test]
fn a_pause_skips_what_is_surely_inside() {
    let pause = Pause { from_early: 3_900, from_late: 4_100, until_early: 6_900, until_late: 7_100 };
    let history = |ticks: &[i64]| History { pauses: vec![pause], ..without(good(), ticks, "paused") };
    assert_eq!(broken(&history(&[4_000, 5_000, 6_000, 7_000])), Vec::<String>::new());
    assert_eq!(broken(&history(&[5_000, 6_000])), Vec::<String>::new());
    assert_eq!(broken(&history(&[5_000])).len(), 1, "6 must be skipped too, and the count is wrong");
    assert_eq!(broken(&history(&[3_000, 5_000, 6_000])).len(), 1 + 1, "3 is outside");
}

#[test]
fn missed_ticks_follow_the_policy() {
    // Away from 1 to 606: ticks 3 to 5 are missed, 6 is not older than the grace. 1 and 2 may be decided before.
    let outage = Some(Outage { before: 1_000, end: 606_000 });
    let with =
        |ticks: &[i64], catchup| History { catchup, outage, ..without(good(), ticks, "catch-up policy") };
    let window = 3_600_000;
    let right = |history: History| assert_eq!(broken(&history), Vec::<String>::new());
    let wrong = |history: History| assert!(!broken(&history).is_empty());
    right(with(&[3_000, 4_000, 5_000], Catchup::None));
    wrong(with(&[3_000, 4_000], Catchup::None));
    wrong(with(&[3_000, 4_000, 5_000, 6_000], Catchup::None));
    right(with(&[3_000, 4_000], Catchup::Latest { window }));
    wrong(with(&[4_000, 5_000], Catchup::Latest { window }));
    right(with(&[3_000], Catchup::All { window, limit: 2 }));
    right(with(&[], Catchup::All { window, limit: 500 }));
    wrong(with(&[], Catchup::All { window, limit: 2 }));
    right(with(&[3_000], Catchup::All { window: 602_000, limit: 500 }));
    wrong(with(&[3_000, 4_000], Catchup::All { window: 602_000, limit: 500 }));
}

#[test]
fn one_end_of_an_outage_fits_all() {
    let with = |ticks: &[i64]| History {
        outage: Some(Outage { before: 1_000, end: 607_800 }),
        ..without(good(), ticks, "catch-up policy")
    };
    let (five, six) = (with(&[3_000, 4_000, 5_000]), with(&[3_000, 4_000, 5_000, 6_000]));
    assert_eq!(broken_together(&[five.clone(), five.clone()]), Vec::<String>::new());
    assert_eq!(broken_together(&[six.clone(), six.clone()]), Vec::<String>::new());
    assert!(!broken_together(&[five, six]).is_empty());
}

#[test]
fn more_active_runs_than_places_are_found() {
    let mut history = History { on_full: OnFull::Queue(1), ..good() };
    assert_eq!(broken(&history), Vec::<String>::new());
    history.runs[3].finished = Some(5_021);
    assert_eq!(broken(&history), ["ticks/one/each: I9: 2 active runs when run-5000 started, 1 are allowed"]);
    // Ending one and starting the next is one entry.
    history.runs[3].finished = Some(5_020);
    assert_eq!(broken(&history), Vec::<String>::new());
}

#[test]
fn a_queue_in_the_wrong_order_is_found() {
    let mut history = History { on_full: OnFull::Queue(2), ..good() };
    history.runs[3].started = Some(5_030);
    assert_eq!(broken(&history).len(), 1);
}

#[test]
fn a_skip_needs_a_full_gate() {
    let full = |finished| {
        let mut history = History { on_full: OnFull::Skip(1), ..without(good(), &[5_000], "running") };
        history.runs[3].finished = Some(finished);
        history
    };
    assert_eq!(broken(&full(5_400)), Vec::<String>::new());
    assert_eq!(
        broken(&full(4_500)),
        ["ticks/one/each: I1: tick 1970-01-01T00:00:05Z was skipped though there was place"]
    );
    // With another rule it is no reason at all.
    let queue = History { on_full: OnFull::Queue(1), ..full(5_010) };
    assert!(!broken(&queue).is_empty());
}

#[test]
fn only_a_newer_run_takes_the_place_of_another() {
    let mut history = History { on_full: OnFull::CancelRunning(1), ..good() };
    history.runs[3].is_cancelled = true;
    history.runs[3].finished = Some(5_020);
    assert_eq!(broken(&history), Vec::<String>::new());
    history.runs[3].finished = Some(4_600);
    assert_eq!(broken(&history).len(), 1);
    history.runs[3].finished = Some(5_020);
    history.on_full = OnFull::Queue(1);
    assert_eq!(broken(&history).len(), 1);
}
