//! What is counted is what was done, and the reference names all of it.

use std::path::Path;

use matins_core::time::BootTime;
use matins_proto::v1::AttemptReport;
use matins_proto::v1::attempt_report::Outcome;

use super::{ExecutorMetrics, Metrics, OutsideMetrics, Seen, Timings, reference};

#[test]
fn the_reference_is_the_one_in_the_documents() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let now = reference();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == now, "docs/metrics.md is not of this code: UPDATE_GOLDENFILES=1 writes it anew");
}

#[test]
fn every_metric_has_a_unit_in_its_name_and_a_series_from_the_start() {
    let text = Metrics::new(&Timings::default(), Some(ExecutorMetrics::new(4))).text(&Seen::default());
    // Peers and pools come with the cluster.
    let later = ["peer_reachable", "peer_lag_entries", "pool_slots", "pool_slots_used"];
    let mut seen = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        seen += 1;
        if later.iter().any(|later| name.ends_with(later)) {
            continue;
        }
        let series = text.lines().filter(|line| line.starts_with(name)).count();
        assert!(series > 0, "{name} has no series");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name} does not say its unit");
    }
    assert!(seen > 40, "only {seen} metrics");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn timings_are_in_seconds() {
    let timings = Timings::default();
    timings.committed(600_000);
    timings.synced(2_500_000_000);
    let text = Metrics::new(&timings, None).text(&Seen::default());
    for line in [
        "matins_commit_duration_seconds_sum 0.0006",
        "matins_commit_duration_seconds_bucket{le=\"0.0005\"} 0",
        "matins_commit_duration_seconds_bucket{le=\"0.001\"} 1",
        "matins_log_fsync_duration_seconds_sum 2.5",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

#[test]
fn an_executor_counts_what_it_does() {
    let executor = ExecutorMetrics::new(4);
    executor.session_opened();
    executor.session_lost();
    executor.session_opened();
    executor.holds(2);
    executor.started();
    let ended = |outcome, fault: &str| AttemptReport {
        outcome: Some(outcome),
        output_fault: fault.into(),
        ..Default::default()
    };
    executor.ended(&ended(Outcome::ExitCode(0), ""));
    executor.ended(&ended(Outcome::ExitCode(0), "its output is no JSON"));
    executor.ended(&ended(Outcome::Signal(15), ""));
    executor.logs_wait(3, Some(BootTime(1_000_000_000)));
    let text = OutsideMetrics::new(executor.clone()).text(None, BootTime(3_500_000_000));
    for line in [
        "matins_executor_session_open 1",
        "matins_executor_sessions_lost_total 1",
        "matins_executor_slots 4",
        "matins_executor_slots_used 2",
        "matins_executor_attempts_started_total 1",
        "matins_executor_attempts_ended_total{outcome=\"success\"} 1",
        "matins_executor_attempts_ended_total{outcome=\"failed\"} 1",
        "matins_executor_attempts_ended_total{outcome=\"signal\"} 1",
        "matins_executor_attempts_ended_total{outcome=\"lost\"} 0",
        "matins_executor_logs_waiting 3",
        "matins_executor_logs_waiting_seconds 2.5",
        "matins_build_info{version=",
        "matins_turned_away_total{bound=\"connections\"} 0",
        "matins_turned_away_total{bound=\"grpc_streams\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    // It has no bounds that its port does not have.
    assert!(!text.contains("bound=\"commands\""), "{text}");
    executor.logs_wait(0, None);
    let text = OutsideMetrics::new(executor).text(None, BootTime(3_500_000_000));
    assert!(text.contains("matins_executor_logs_waiting_seconds 0.0\n"), "{text}");
}
