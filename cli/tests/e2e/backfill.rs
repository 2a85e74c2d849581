//! A backfill goes on over a change of leader: every tick of its range gets one run, no more than allowed at once.

use std::collections::BTreeSet;

use crate::common::Cluster;

const NIGHTLY: &str = r#"
workflow: nightly
schedules:
  nightly: { cron: "0 2 * * *", catchup: none }
tasks:
  work: { run: "sleep 0.5; echo {{ logical_time | date }}" }
"#;

#[test]
fn it_survives_its_leader() {
    let mut cluster = Cluster::start(3);
    cluster.apply(NIGHTLY);
    let create =
        ["backfill", "create", "nightly", "--from", "2013-01-01", "--to", "2013-01-12", "--max-active", "3"];
    let backfill = cluster.ask(&create).well().out.trim().to_owned();
    let counts = |cluster: &Cluster| cluster.json(&["backfill", "get", &backfill])["counts"].clone();
    cluster.until("some days are done", || counts(&cluster)["success"].as_u64() >= Some(2));
    let leader = cluster.until_ready();
    cluster.nodes[leader].kill();
    let done = || cluster.json(&["backfill", "get", &backfill])["state"] == "success";
    cluster.until("the backfill is done", || {
        assert!(counts(&cluster)["active"].as_u64() <= Some(3));
        done()
    });
    let counts = counts(&cluster);
    assert_eq!((&counts["total"], &counts["success"]), (&12.into(), &12.into()));

    let filter = format!("backfill={backfill}");
    let runs = cluster.json(&["run", "list", "nightly", "--filter", &filter]);
    let times =
        runs.as_array().expect("a list").iter().map(|run| run["logicalTime"].as_str().expect("a time"));
    let days: BTreeSet<String> = (1..=12).map(|day| format!("2013-01-{day:02}T02:00:00Z")).collect();
    assert_eq!(times.clone().count(), 12, "{runs}");
    assert_eq!(times.map(str::to_owned).collect::<BTreeSet<_>>(), days);
    assert_eq!(cluster.ask(&["backfill", "get", &backfill, "-w"]).code, Some(0));
}
