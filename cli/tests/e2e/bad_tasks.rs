//! Tasks that misbehave: each gets a clear end, and the node does not mind.

use crate::common::{Cluster, attempt_states};

#[test]
fn one_that_ignores_term_is_killed_after_its_grace() {
    let cluster = Cluster::start(1);
    cluster.apply(
        r"
workflow: deaf
tasks:
  work:
    timeout: 1s
    run: |
      trap '' TERM
      sleep 600
",
    );
    let run = cluster.begin(&["deaf"]);
    let fence = cluster.until_started(&format!("{run}/work"));
    cluster.until_state(&format!("{run}/work"), "stopping");
    assert!(cluster.has_process(fence), "TERM was ignored");
    cluster.until_state(&run, "failed");
    assert!(!cluster.has_process(fence));
    assert_eq!(cluster.get(&format!("{run}/work"))["reason"]["code"], "timeout");
}

#[test]
fn one_that_forks_away_leaves_nothing_behind() {
    let cluster = Cluster::start(1);
    cluster.apply("workflow: forker\ntasks: { work: { run: 'setsid sleep 600 & sleep 600 & exit 0' } }\n");
    let run = cluster.ask(&["start", "forker", "--wait"]).well().out.trim().to_owned();
    let fence = crate::common::fence_of(&cluster.get(&format!("{run}/work")), 0);
    assert!(!cluster.has_process(fence));
}

#[test]
fn one_that_ends_by_a_signal_says_which() {
    let cluster = Cluster::start(1);
    cluster.apply("workflow: suicide\ntasks: { work: { run: 'kill -SEGV $$' } }\n");
    assert_eq!(cluster.ask(&["start", "suicide", "--wait"]).code, Some(1));
    let work = cluster.get("latest:suicide/work");
    assert_eq!(work["attempts"][0]["signal"], 11, "{work}");
    assert_eq!(work["reason"]["code"], "signal");
}

#[test]
fn an_output_over_its_limit_fails_the_attempt_and_names_the_limit() {
    let cluster = Cluster::start(1);
    cluster.apply(
        "workflow: big\ntasks: { work: { run: 'head -c 100000000 /dev/zero | tr \"\\0\" x > $MATINS_OUTPUT' } }\n",
    );
    assert_eq!(cluster.ask(&["start", "big", "--wait"]).code, Some(1));
    let work = cluster.get("latest:big/work");
    assert!(
        work["reason"]["text"].as_str().is_some_and(|text| text.contains("output limit is 16777216")),
        "{work}"
    );
    // The node is well.
    cluster.apply("workflow: small\ntasks: { work: { run: 'true' } }\n");
    cluster.ask(&["start", "small", "--wait"]).well();
}

#[test]
fn an_output_above_what_state_holds_comes_back_whole() {
    let cluster = Cluster::start(1);
    cluster.apply(
        r#"
workflow: blob
tasks:
  work: { run: "printf 'text=%0200000d\n' 7 > $MATINS_OUTPUT" }
  after: { needs: work, script: "wc -c < $MATINS_INPUT", with: { text: "{{ tasks.work.outputs.text }}" } }
"#,
    );
    let run = cluster.ask(&["start", "blob", "--wait"]).well().out.trim().to_owned();
    let work = cluster.get(&format!("{run}/work"));
    assert_eq!(attempt_states(&work), ["success"]);
    assert!(work["outputsSize"].as_str().and_then(|it| it.parse().ok()) > Some(200_000_u64), "{work}");
    let size = cluster.ask(&["logs", &format!("{run}/after")]).well().out;
    assert!(size.trim().parse::<u64>().expect("a number") > 200_000);
}
