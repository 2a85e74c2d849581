//! A wall clock that jumps: one of three changes nothing (PROTOCOL 1.1, 1.4).

use std::time::Duration;

use super::power_off::{EVERY_SECOND, assert_whole, ticks};
use crate::common::Cluster;

const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Readings are taken once a second: so long after a clock was set every reading is a new one.
const READINGS_MAX: i64 = 3;

#[test]
fn a_leader_ten_years_ahead_for_a_second_costs_no_tick() {
    let cluster = Cluster::start(3);
    cluster.apply(EVERY_SECOND);
    let leader = cluster.until_ready();
    cluster.until("some ticks", || ticks(&cluster).len() >= 3);

    cluster.nodes[leader].set_clock(TEN_YEARS);
    cluster.until("its clock is seen to be off", || clock_ahead(&cluster, leader) > 9.0 * 365.0 * 86_400.0);
    until_ticks_after(&cluster, READINGS_MAX);
    cluster.nodes[leader].set_clock(Duration::ZERO);
    until_ticks_after(&cluster, READINGS_MAX);

    let now = jiff::Timestamp::now().as_second();
    let ticks = ticks(&cluster);
    assert!(ticks.keys().all(|at| *at <= now), "a tick of the future was decided: {ticks:?}");
    assert_whole(&ticks);
    let status = cluster.status(leader).expect("it still answers");
    let time = status["leaderTime"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let off = time.expect("the cluster has a time").as_second() - now;
    assert!(off.abs() <= 60, "leader time is {off} s off");
}

/// How far the clock of a node is ahead of the cluster's time, in seconds, as the leader tells.
fn clock_ahead(cluster: &Cluster, at: usize) -> f64 {
    let status = cluster.status(at).unwrap_or_default();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let node = nodes.iter().find(|node| node["address"] == cluster.nodes[at].endpoint());
    let ahead = node.and_then(|node| node["clockOffset"].as_str()?.trim_end_matches('s').parse().ok());
    ahead.unwrap_or_default()
}

/// Waits for a tick so many seconds from now.
fn until_ticks_after(cluster: &Cluster, seconds: i64) {
    let then = jiff::Timestamp::now().as_second() + seconds;
    cluster.until("ticks go on", || ticks(cluster).keys().last().is_some_and(|last| *last >= then));
}
