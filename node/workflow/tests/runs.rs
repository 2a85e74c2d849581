//! From a file to what an attempt runs: parameters, rendered jobs, inputs of decisions, and what `check` tells.

use std::collections::BTreeSet;
use std::path::Path;

use matins_core::id::{Digest, ScheduleName};
use matins_core::ir::{Action, Shell, Workflow};
use matins_core::time::{Millis, Timestamp};
use matins_workflow::calendar::Zone;
use matins_workflow::check::{SchedulePreview, preview};
use matins_workflow::compile::{FileLookup, FoundFile, NoFiles, Options};
use matins_workflow::template::{
    Scope, TaskScope, Times, Work, decision_inputs, eval_condition, eval_for_each, job_inputs, render_job,
};
use matins_workflow::{Colour, Compiled, ParamFault, Severity, SourceFile, compile, resolve_params};
use serde_json::{Map, Value as Json, json};

/// 2013-01-02T07:30:00Z: 02:30 in New York.
const TICK: Timestamp = Timestamp::from_millis(1_357_111_800_000);

/// Every glob finds one file.
struct AnyFile;

impl FileLookup for AnyFile {
    fn find(&self, _: &str, glob: &str) -> Result<Vec<FoundFile>, String> {
        let path = glob.replace('*', "x");
        Ok(vec![FoundFile { digest: Digest::of(path.as_bytes()), path, bytes: 1, is_executable: false }])
    }
}

fn compiled(text: &str) -> Compiled {
    let source = SourceFile { name: "w.yaml".into(), text: text.into() };
    let compiled = compile(&[source], &AnyFile, &Options::default());
    let faults: String = compiled.diagnostics.iter().map(|one| one.render(Colour::Never)).collect();
    assert!(!compiled.has_errors(), "{faults}");
    compiled
}

fn workflow(text: &str) -> Workflow {
    compiled(text).workflows.remove(0).ir
}

fn scope() -> Scope {
    let times = Times { logical: TICK, interval_start: TICK - Millis::from_hours(24) };
    Scope::new(times, Zone::parse("America/New_York").expect("a zone"))
}

fn given(json: Json) -> Map<String, Json> {
    let Json::Object(fields) = json else { panic!("a record") };
    fields
}

const PARAMS: &str = r#"
workflow: w
params:
  day: { type: date, default: "{{ interval_start | date }}", min: 2013-01-01, max: 2013-12-31 }
  mode: { values: [delta, full], default: delta }
  batch: { type: int, default: 500, min: 1, max: 5000 }
  version: { type: string, default: 1.10, pattern: "[0-9.]+", max_length: 4 }
  ratio: 0.5
  dry: false
  regions: { type: list, items: string, default: [eu, 007] }
  wait: { type: duration, default: 5m, max: 1h }
  at: { type: datetime, default: null }
  extra: { type: json, default: { a: [1, "{{ logical_time }}"] } }
  who: { type: string }
schedules:
  nightly: { cron: "30 2 * * *", params: { who: nightly, mode: full } }
tasks: { a: { run: [x] } }
"#;

#[test]
fn params_come_from_the_caller_the_schedule_and_defaults() {
    let ir = workflow(PARAMS);
    let nightly: ScheduleName = "nightly".parse().expect("a name");
    let resolved = resolve_params(&ir, Some(&nightly), &given(json!({"batch": "7"})), &scope());
    let expected = json!({
        "day": "2013-01-01", "mode": "full", "batch": 7, "version": "1.10", "ratio": 0.5, "dry": false,
        "regions": ["eu", "007"], "wait": "5m", "at": null,
        "extra": {"a": [1, "2013-01-02T02:30:00-05:00"]}, "who": "nightly",
    });
    assert_eq!(Json::Object(resolved.expect("all right")), expected);
}

#[test]
fn wrong_params_are_told_all_at_once() {
    let ir = workflow(PARAMS);
    let wrong = json!({
        "day": "2014-01-01", "mode": "fulll", "batch": 5001, "version": "x", "ratio": "a", "dry": "yes",
        "regions": [["a"]], "wait": "2h", "at": "2013-01-01", "wh": 1,
    });
    let faults = resolve_params(&ir, None, &given(wrong), &scope()).expect_err("all wrong");
    let said: Vec<_> = faults.iter().map(ParamFault::to_string).collect();
    assert_eq!(
        said,
        [
            "param `wh`: the workflow declares no such param",
            "param `day`: `2014-01-01` is more than the greatest value, `2013-12-31`",
            "param `mode`: `fulll` is not one of `delta`, `full`",
            "param `batch`: `5001` is more than the greatest value, `5000`",
            "param `version`: `x` does not match the pattern `[0-9.]+`",
            "param `ratio`: `a` is not a number",
            "param `dry`: `yes` is not `true` or `false`",
            "param `regions`: item 0: `[\"a\"]` is not text",
            "param `wait`: `2h` is more than the greatest value, `1h`",
            "param `at`: `2013-01-01` is not a time such as `2013-01-31T02:30:00Z`",
            "param `who`: it has no default and no value was given",
        ]
    );
    let large = given(json!({"who": "x".repeat(300 << 10)}));
    let faults = resolve_params(&ir, None, &large, &scope()).expect_err("too large");
    assert!(faults[0].message.contains("262144 bytes at most"), "{faults:?}");
}

#[test]
fn a_job_is_rendered_from_a_scope() {
    let ir = workflow(
        r#"
workflow: w
params: { day: { type: date, default: 2013-01-01 } }
defaults: { env: { A: default, B: "{{ params.day }}" }, shell: bash, retry: { limit: 2, delay: 1s }, priority: 4 }
priority: 3
tasks:
  list: { run: [x, "{{ params.day }}", 1.10, 0123, no], retry: 1 }
  each:
    needs: list
    when: tasks.list.outputs.ok
    for_each: "{{ tasks.list.outputs.names }}"
    env: { A: "{{ item }}", C: "{{ env.A }}-{{ env.B }}" }
    run: echo ${#files[@]} {{ item | quote }}
    with: { name: "{{ item }}", n: 1.10 }
  script: { needs: each, script: "echo {{ verbatim }}", interpreter: [python3, -u], priority: 7 }
"#,
    );
    let mut scope = scope();
    scope.params = given(json!({"day": "2013-01-01"}));
    let outputs = json!({"ok": true, "names": ["a", "it's"]});
    scope.tasks.insert("list".into(), TaskScope { state: "success".into(), outputs, items: None });

    let job = render_job(&ir.tasks[0], &scope).expect("it renders");
    assert_eq!(job.work, Work::Argv(["x", "2013-01-01", "1.10", "0123", "no"].map(String::from).to_vec()));
    assert_eq!((ir.tasks[0].retry.limit, ir.tasks[0].retry.delay), (1, Millis::from_secs(1)));

    let each = &ir.tasks[1];
    assert!(eval_condition(each.when.as_deref().expect("a condition"), &scope).expect("it is right"));
    let items = eval_for_each(each.for_each.as_deref().expect("items"), &scope).expect("a list");
    scope.item = Some((1, items[1].clone()));
    let job = render_job(each, &scope).expect("it renders");
    let text = "echo ${#files[@]} 'it'\\''s'".to_owned();
    assert_eq!(job.work, Work::Shell { shell: Shell::Bash, text });
    let env: Vec<_> = job.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("B", "2013-01-01"), ("A", "it's"), ("C", "it's-2013-01-01")]);
    assert_eq!(job.with, Some(json!({"name": "it's", "n": 1.1})));

    let names = |names: BTreeSet<_>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(decision_inputs(each)), ["list"]);
    assert_eq!(names(job_inputs(each)), Vec::<String>::new());
    assert_eq!((ir.tasks[0].priority, ir.tasks[2].priority), (4, 7));
    let script = "echo {{ verbatim }}".to_owned();
    let interpreter = vec!["python3".to_owned(), "-u".to_owned()];
    assert_eq!(ir.tasks[2].action, Action::Script { interpreter, text: script });
}

#[test]
fn a_namespace_is_given_once() {
    let source = |text: &str| [SourceFile { name: "w".into(), text: text.into() }];
    let options = Options { namespace: Some("ops".parse().expect("a name")) };
    let bare = compile(&source("workflow: w\ntasks: { a: { run: [x] } }\n"), &NoFiles, &options);
    assert_eq!(bare.workflows[0].ir.name.to_string(), "ops/w");
    let text = "workflow: w\nnamespace: dev\ntasks: { a: { run: [x] } }\n";
    let other = compile(&source(text), &NoFiles, &options);
    assert_eq!(other.diagnostics[0].code, "namespace");
    let own = compile(&source(text), &NoFiles, &Options::default());
    assert_eq!(own.workflows[0].ir.name.to_string(), "dev/w");
}

#[test]
fn limits_are_named() {
    let compile_one = |text: String| {
        let source = SourceFile { name: "w".into(), text: text.into_bytes() };
        compile(&[source], &NoFiles, &Options::default())
    };
    let code = |compiled: &Compiled| compiled.diagnostics[0].code.clone();
    let tasks = "workflow: w\ntasks: { a: { run: [x] } }\n";
    let exactly = format!("{tasks}#{}\n", "x".repeat((1 << 20) - tasks.len() - 2));
    assert_eq!(exactly.len(), 1 << 20);
    assert_eq!(compile_one(exactly.clone()).workflows.len(), 1);
    assert_eq!(code(&compile_one(exactly + "x")), "limit-source");
    let script = format!("workflow: w\ntasks: {{ a: {{ script: \"{}\" }} }}\n", "x".repeat(600 << 10));
    assert_eq!(code(&compile_one(script)), "limit-definition");
    let many: Vec<_> = (0..10_001).map(|task| format!("  t{task}: {{ run: [x] }}")).collect();
    assert_eq!(code(&compile_one(format!("workflow: w\ntasks:\n{}\n", many.join("\n")))), "limit-tasks");
}

#[test]
fn check_tells_the_next_ticks_and_dst_nights() {
    let compiled = compiled(include_str!("good/nightly-flights.yaml"));
    // 2026-11-01 06:00 UTC is the fold in New York, 2027-03-14 the gap.
    let now = Timestamp::from_millis(1_793_000_000_000);
    let told: String = preview(&compiled, now, 3).iter().map(SchedulePreview::render).collect();
    assert_eq!(
        told,
        "warehouse/nightly-flights:nightly  30 2 * * *  America/New_York\n\
         \x20 next  2026-10-27T02:30:00-04:00\n\
         \x20       2026-10-28T02:30:00-04:00\n\
         \x20       2026-10-29T02:30:00-04:00\n\
         \x20 2026-11-01 the clocks go from 02:00 to 01:00: no tick is touched\n\
         \x20 2027-03-14 the clocks go from 02:00 to 03:00: 02:30 does not exist, due at 03:30\n\
         warehouse/nightly-flights:sunday-full  0 4 * * SUN  America/New_York\n\
         \x20 next  2026-11-01T04:00:00-05:00\n\
         \x20       2026-11-08T04:00:00-05:00\n\
         \x20       2026-11-15T04:00:00-05:00\n\
         \x20 2026-11-01 the clocks go from 02:00 to 01:00: no tick is touched\n\
         \x20 2027-03-14 the clocks go from 02:00 to 03:00: no tick is touched\n"
    );
}

#[test]
fn the_examples_compile_without_a_warning() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let paths = ["hello.matins.yaml", "heartbeat.matins.yaml", "nightly-flights/nightly-flights.matins.yaml"];
    for path in paths {
        let text = std::fs::read_to_string(examples.join(path)).expect("an example");
        let compiled = compiled(&text);
        assert_eq!(compiled.diagnostics, [], "{path}");
        assert_eq!(compiled.unknown_pools(&BTreeSet::new()), [], "{path}");
    }
}

#[test]
fn hostile_files_are_refused_soon() {
    let faults = |text: String| {
        let source = SourceFile { name: "w".into(), text: text.into_bytes() };
        let compiled = compile(&[source], &NoFiles, &Options::default());
        assert!(compiled.has_errors() && compiled.diagnostics.len() <= 201);
        let mut errors = compiled.diagnostics.iter().filter(|one| one.severity == Severity::Error);
        errors.next_back().expect("an error").code.clone()
    };
    let many = |what: &dyn Fn(usize) -> String, count| (0..count).map(what).collect::<Vec<_>>().join(", ");
    let keys = many(&|number| format!("key{number}: 1"), 60_000);
    assert_eq!(faults(format!("{{workflow: w, {keys}}}")), "limit-faults");
    let needs = many(&|number| format!("x{number}"), 90_000);
    assert_eq!(
        faults(format!("workflow: w\ntasks: {{ a: {{ run: [x], needs: [{needs}] }} }}")),
        "limit-faults"
    );
    let env = many(&|number| format!("A{number}: b"), 60_000);
    assert_eq!(faults(format!("workflow: w\ntasks: {{ a: {{ run: [x], env: {{{env}}} }} }}")), "limit-env");
    // Large defaults in every task.
    let env = many(&|number| format!("A{number}: {}", "b".repeat(500)), 1_000);
    let tasks = many(&|number| format!("t{number}: {{ run: [x] }}"), 9_000);
    let text = format!("workflow: w\ndefaults: {{ env: {{{env}}} }}\ntasks: {{{tasks}}}");
    assert_eq!(faults(text), "limit-definition");
    let expr = many(&|_| "{{ nope }}".to_owned(), 60_000);
    assert_eq!(faults(format!("workflow: w\ntasks: {{ a: {{ run: \"{expr}\" }} }}")), "limit-faults");
}
