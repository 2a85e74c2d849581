//! Holds the five trigger rules of this release to a table measured on Airflow (LANGUAGE 1.10).
//!
//! Every row of the table is either held or listed, with the reason, in `data/trigger_rules_not_held.tsv`, which
//! `UPDATE_GOLDENFILES=1` writes anew.

use std::fmt::Write as _;

use matins_core::ir::TriggerRule;
use matins_core::trigger::{Counts, Verdict, decide};

const TABLE: &str = include_str!("data/trigger_rules.tsv");
const NOT_HELD: &str = include_str!("data/trigger_rules_not_held.tsv");

struct Row<'a> {
    source: &'a str,
    rule: &'a str,
    upstream: &'a str,
    outcome: &'a str,
    note: &'a str,
}

fn rows() -> impl Iterator<Item = Row<'static>> {
    TABLE.lines().skip(1).map(|line| {
        let columns: Vec<_> = line.split('\t').collect();
        let [source, rule, upstream, outcome, note] = columns[..] else { panic!("five columns: {line}") };
        Row { source, rule, upstream, outcome, note }
    })
}

fn rule(row: &Row) -> Result<TriggerRule, &'static str> {
    match row.rule {
        "all_success" => Ok(TriggerRule::AllSuccess),
        "all_done" => Ok(TriggerRule::AllDone),
        "none_failed" => Ok(TriggerRule::NoneFailed),
        "one_failed" => Ok(TriggerRule::OneFailed),
        "one_success" => Ok(TriggerRule::OneSuccess),
        "(depends_on_past)" => Err("depends_on_past is no trigger rule; LANGUAGE 1.25 has its own meaning"),
        _ => Err("a rule of a later release"),
    }
}

/// Reads `success,running` and `success=1,failed=2`.
fn counts(row: &Row) -> Result<Counts, &'static str> {
    if row.upstream.contains("removed") {
        return Err("`removed` is no state here: a version's tasks do not change under a run");
    }
    if row.note.contains("setup") && row.source.contains("etup") || row.upstream.contains("setup") {
        return Err("setup tasks are not in the language");
    }
    if row.note.contains("per-index") || row.note.contains("test asserts nothing") {
        return Err("single items of a fan-out, which are one task for a trigger rule (LANGUAGE 1.12)");
    }
    if row.note.contains("wait_for_past_depends_before_skipping") {
        return Err("a switch of Airflow that the language does not have");
    }
    let mut counts = Counts::default();
    for state in row.upstream.split(',') {
        let (state, number) = state.split_once('=').unwrap_or((state, "1"));
        let number: u32 = number.parse().map_err(|_| "not a list of states")?;
        match state {
            "success" => counts.success += number,
            "skipped" => counts.skipped += number,
            "failed" => counts.failed += number,
            "upstream_failed" => counts.upstream_failed += number,
            "running" => counts.unfinished += number,
            _ => return Err("not a list of states"),
        }
    }
    if row.note.contains("synthetic counters") {
        return Err("the note says that its counters are no graph: 8 ended tasks, 2 of them counted as done");
    }
    Ok(counts)
}

fn expected(row: &Row) -> Verdict {
    match row.outcome {
        "run" => Verdict::Run,
        "wait" => Verdict::Wait,
        "skipped" => Verdict::Skip,
        "upstream_failed" => Verdict::UpstreamFailed,
        other => panic!("no verdict: {other}"),
    }
}

#[test]
fn the_five_rules_decide_as_airflow_does() {
    let (mut held, mut not_held) = (0, String::from("reason\tsource\trule\tupstream\toutcome\n"));
    for row in rows() {
        match rule(&row).and_then(|rule| Ok((rule, counts(&row)?))) {
            Ok((rule, counts)) => {
                held += 1;
                assert_eq!(decide(rule, &counts), expected(&row), "{} of {}", row.rule, row.upstream);
            }
            Err(reason) => {
                let source = row.source.rsplit("::").next().unwrap_or_default();
                writeln!(not_held, "{reason}\t{source}\t{}\t{}\t{}", row.rule, row.upstream, row.outcome)
                    .expect("a String takes all");
            }
        }
    }
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/trigger_rules_not_held.tsv");
        std::fs::write(path, &not_held).expect("the golden file is writable");
    } else {
        assert_eq!(not_held, NOT_HELD);
    }
    assert_eq!(held, HELD, "a row that is no longer held must be listed on purpose");
}

/// How many rows of the table are held.
const HELD: usize = 153;

/// A rule is a function of the states, so the verdict of unfinished tasks may only wait for what can still change
/// it: once it is not `Wait`, no end of an unfinished task makes it another (it may have been decided on already).
#[test]
fn a_verdict_once_given_stays() {
    let rules = [
        TriggerRule::AllSuccess,
        TriggerRule::AllDone,
        TriggerRule::NoneFailed,
        TriggerRule::OneFailed,
        TriggerRule::OneSuccess,
    ];
    let ends: [fn(&mut Counts); 2] = [|counts| counts.success += 1, |counts| counts.skipped += 1];
    for rule in rules {
        for code in 0..3_u32.pow(5) {
            let digit = |place: u32| code / 3_u32.pow(place) % 3;
            let before = Counts {
                success: digit(0),
                skipped: digit(1),
                failed: digit(2),
                upstream_failed: digit(3),
                unfinished: digit(4),
            };
            if before.unfinished == 0 || decide(rule, &before) == Verdict::Wait {
                continue;
            }
            for end in ends {
                let mut after = Counts { unfinished: before.unfinished - 1, ..before };
                end(&mut after);
                assert_eq!(decide(rule, &after), decide(rule, &before), "{rule:?} {before:?}");
            }
        }
    }
}
