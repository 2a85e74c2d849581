//! What templates give in one run: each line of `templates.in` with its result is `templates.out`, which
//! `UPDATE_GOLDENFILES=1` writes anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use matins_core::time::{Millis, Timestamp};
use matins_workflow::calendar::Zone;
use matins_workflow::template::{
    RenderError, RunScope, Scope, TaskScope, Times, eval_condition, eval_for_each, render_json, render_text,
};
use serde_json::{Value as Json, json};

/// 2013-03-11T06:30:00Z: 02:30 in New York, the night after the clocks went forward.
const TICK: Timestamp = Timestamp::from_millis(1_362_983_400_000);

fn scope() -> Scope {
    let zone = Zone::parse("America/New_York").expect("a zone");
    let times = Times { logical: TICK, interval_start: TICK - Millis::from_hours(23) };
    let mut scope = Scope::new(times, zone);
    let Json::Object(params) = json!({
        "day": "2013-03-10", "mode": "full", "batch": 500, "ratio": 0.25, "flag": true, "name": "it's",
        "list": ["a", 1, true, null], "record": {"b": 1, "a": [2.5]}, "nothing": null,
    }) else {
        panic!("a record")
    };
    scope.params = params;
    scope.run = RunScope {
        id: "run-42".into(),
        workflow: "nightly".into(),
        namespace: "warehouse".into(),
        version: Some(3),
        schedule: Some("daily".into()),
        backfill: None,
        started_at: TICK + Millis(1_500),
    };
    let done = |outputs: Json, items: Option<Json>| TaskScope { state: "success".into(), outputs, items };
    scope.tasks = BTreeMap::from([
        ("extract".into(), done(json!({"rows": 11}), None)),
        (
            "fan".into(),
            done(
                json!([{"rows": 1}, null, {"rows": 2}]),
                Some(json!([
                    {"index": 0, "item": "a", "state": "success", "outputs": {"rows": 1}},
                    {"index": 1, "item": "b", "state": "failed", "outputs": null},
                    {"index": 2, "item": "c", "state": "success", "outputs": {"rows": 2}},
                ])),
            ),
        ),
    ]);
    scope.item = Some((1, json!({"name": "eu"})));
    scope.env = BTreeMap::from([("A".into(), "x".into())]);
    scope
}

fn shown(result: Result<String, RenderError>) -> String {
    result.unwrap_or_else(|fault| {
        let hint = fault.hint.as_ref().map(|hint| format!(" [hint: {hint}]")).unwrap_or_default();
        format!("error: {fault}{hint}")
    })
}

#[test]
fn templates_give_what_is_written_down() {
    let scope = scope();
    let mut results = String::new();
    for line in include_str!("templates.in").lines().filter(|line| !line.starts_with('#')) {
        let (kind, template) = line.split_once('\t').expect("kind and template");
        let result = match kind {
            "text" => render_text(template, &scope),
            "json" => render_json(template, &scope).map(|json| json.to_string()),
            "when" => eval_condition(template, &scope).map(|yes| yes.to_string()),
            "each" => eval_for_each(template, &scope).map(|items| Json::Array(items).to_string()),
            other => panic!("no kind: {other}"),
        };
        writeln!(results, "{kind} {template}\n  {}", shown(result)).expect("a String takes all");
    }
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates.out");
        std::fs::write(path, &results).expect("the golden file is writable");
    } else {
        let written = include_str!("templates.out");
        for (line, expected) in results.lines().zip(written.lines()) {
            assert_eq!(line, expected);
        }
        assert_eq!(results.len(), written.len());
    }
}

#[test]
fn rendering_is_bounded() {
    let scope = scope();
    let message = |template: &str| render_text(template, &scope).expect_err("beyond a limit").message;
    let mut expr = String::from("'x'");
    for _ in 0..8 {
        expr = format!("({expr} | replace('x', 'xxxxxxxxxxxxxxxxxxxx'))");
    }
    assert!(message(&format!("{{{{ {expr} }}}}")).contains("limit of one rendering"));
    // A filter that is harmless once is not under `map`.
    let often = "{{ range(10000) | map('replace', '1', params.name | replace('s', 'y') | format) | join }}";
    assert!(render_text(often, &scope).is_ok());
    let often = "{{ range(10000) | map('regex_replace', '.', 'x') }}";
    assert!(message(often).contains("limit of one rendering"));
    // Neither length nor depth of an expression can overflow the stack.
    let long = format!("{{{{ {}1 }}}}", "1+".repeat(2_040));
    assert_eq!(render_text(&long, &scope), Ok("2041".to_owned()));
    let long = format!("{{{{ {}1 }}}}", "1+".repeat(500_000));
    assert!(message(&long).contains("more than 4096 bytes"));
    for (open, close) in [("[", "]"), ("(", ")"), ("-", ""), ("not ", ""), ("{'a':", "}"), ("range(", ")")] {
        let nested = format!("{{{{ {}1{} }}}}", open.repeat(450), close.repeat(450));
        // Whatever comes of it, it comes back.
        let _ = render_text(&nested, &scope);
    }
}
