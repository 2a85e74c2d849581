//! A node that is frozen for longer than its lease: its supervisor, which is not, ends the tasks in time; they run
//! elsewhere; and what the node says when it wakes changes nothing (PROTOCOL 5.1, 5.3, 5.8).

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{Cluster, attempt_states, fence_of};

/// Its first attempt says that all went well when it is ended, so that only the fence keeps that from counting.
const LIAR: &str = r#"
workflow: liar
tasks:
  work:
    shell: bash
    run: |
      trap 'echo by=first > "$MATINS_OUTPUT"; exit 0' TERM
      if [ "$MATINS_ATTEMPT" = 1 ]; then sleep 600 & wait; fi
      echo by=second > "$MATINS_OUTPUT"
"#;

/// The session's length and the kill budget, with half a second to look.
const GONE_MAX: Duration = Duration::from_millis(14_500);

fn freezes(leads: bool) {
    let mut cluster = Cluster::start(3);
    cluster.apply(LIAR);
    let leader = cluster.until_ready();
    let at = if leads { leader } else { (leader + 1) % 3 };
    let run = cluster.begin_on(at, &["liar"]);
    let task = format!("{run}/work");
    let fence = fence_of(&cluster.get(&task), 0);

    let frozen = Instant::now();
    cluster.nodes[at].signal(Signal::STOP);
    cluster.until_within(GONE_MAX, "the frozen node's task is gone", || !cluster.has_process(fence));
    assert!(
        frozen.elapsed() > Duration::from_secs(6),
        "it lived as long as its lease: {:?}",
        frozen.elapsed()
    );
    let others: Vec<String> = cluster
        .nodes
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != at)
        .map(|(_, it)| it.endpoint())
        .collect();
    let others = others.join(",");
    cluster.ask_at(&others, &["wait", &run, "--timeout", "20s"]).well();

    cluster.nodes[at].signal(Signal::CONT);
    if leads {
        // It cannot know who leads by now, so it leaves the lead by leaving (PROTOCOL 2.3).
        cluster.until_left(at);
        cluster.nodes[at].up();
    }
    cluster.until_executor(at, "ready");
    let work = cluster.get(&task);
    assert_eq!(attempt_states(&work), ["lost", "success"], "{work}");
    assert_eq!(work["outputs"]["by"], "second");
    assert_ne!(work["attempts"][1]["executorName"], *cluster.nodes[at].name);
    // It works again, and is not held up by what it could not report.
    cluster.begin_on(at, &["liar"]);
}

#[test]
fn a_frozen_followers_tasks_end_in_time_and_run_elsewhere() {
    freezes(false);
}

#[test]
fn a_frozen_leaders_tasks_end_in_time_and_run_elsewhere() {
    freezes(true);
}
