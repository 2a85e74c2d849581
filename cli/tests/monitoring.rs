//! What `deploy/` has for Prometheus and Grafana can be read by them, and asks for what nodes tell.
//!
//! Both files are parsed, every metric in an expression is one of `docs/metrics.md`, and every command that an alert names is
//! one of the command line. Start at the tests.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Both documents in one form.
fn alerts() -> Value {
    serde_saphyr::from_str(include_str!("../../deploy/prometheus/alerts.yaml")).expect("it is YAML")
}

fn dashboard() -> Value {
    serde_json::from_str(include_str!("../../deploy/grafana/matins.json")).expect("it is JSON")
}

/// The names in the reference, with those that a histogram has besides.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for line in include_str!("../../docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut columns = line.split(" | ");
        let name = columns.next().expect("a name").trim_end_matches('`').to_owned();
        if columns.next() == Some("histogram") {
            known.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
        }
        known.insert(name);
    }
    known
}

/// Every metric of an expression, whose brackets must fit.
fn metrics_of(expression: &str) -> Vec<String> {
    let mut open = Vec::new();
    for letter in expression.chars() {
        match letter {
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' => assert_eq!(open.pop(), Some(letter), "{expression}"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "{expression}");
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| word.starts_with("matins_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

fn check(expressions: &[String]) {
    let known = known();
    assert!(known.len() > 40, "only {} metrics are known", known.len());
    let mut seen = 0;
    for expression in expressions {
        for metric in metrics_of(expression) {
            assert!(known.contains(&metric), "no node tells `{metric}`: {expression}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "only {seen} metrics were found");
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn every_alert_can_be_read_and_says_what_to_do() {
    let alerts = alerts();
    let rules = alerts["groups"][0]["rules"].as_array().expect("it has rules");
    let mut names = BTreeSet::new();
    for rule in rules {
        assert!(names.insert(text(rule, "alert")), "two alerts are called {}", rule["alert"]);
        assert!(["info", "warning", "critical"].contains(&text(&rule["labels"], "severity")));
        assert!(text(&rule["annotations"], "summary").ends_with('.'));
        let command = text(&rule["annotations"], "command");
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(words[0], "matins", "{command}");
        let said = Command::new(env!("CARGO_BIN_EXE_matins")).args(&words[1..]).arg("--help").output();
        let said = said.expect("the binary can be started");
        assert!(said.status.success(), "`{command}`: {}", String::from_utf8_lossy(&said.stderr));
    }
    check(&rules.iter().map(|rule| text(rule, "expr").to_owned()).collect::<Vec<_>>());
}

#[test]
fn every_panel_of_the_dashboard_can_be_drawn() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut expressions = Vec::new();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "two panels have the id {}", panel["id"]);
        assert!(places.insert((panel["gridPos"]["x"].as_u64(), panel["gridPos"]["y"].as_u64())));
        if text(panel, "type") == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("it asks for something");
        assert!(!targets.is_empty() && !text(panel, "description").is_empty(), "{}", panel["title"]);
        expressions.extend(targets.iter().map(|target| text(target, "expr").to_owned()));
    }
    check(&expressions);
    let variables = dashboard["templating"]["list"].as_array().expect("it has variables");
    let variables: BTreeSet<&str> = variables.iter().map(|variable| text(variable, "name")).collect();
    for expression in &expressions {
        for after in expression.split('$').skip(1) {
            let name = after.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next();
            let is_known = name.is_some_and(|name| name == "__rate_interval" || variables.contains(name));
            assert!(is_known, "nobody sets ${}: {expression}", name.unwrap_or_default());
        }
    }
}

#[test]
fn the_dashboard_shows_all_that_an_executor_tells() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let shown: BTreeSet<String> = targets.flat_map(|target| metrics_of(text(target, "expr"))).collect();
    let known = known();
    let told: Vec<_> = known.iter().filter(|name| name.starts_with("matins_executor_")).collect();
    assert!(told.len() >= 8, "{told:?}");
    for metric in told {
        assert!(shown.contains(metric), "no panel shows `{metric}`");
    }
}

/// An operator wants to know of an executor that is down, alone, full or turns nodes away.
#[test]
fn alerts_look_at_executors_too() {
    let alerts = alerts();
    let rules = alerts["groups"][0]["rules"].as_array().expect("it has rules");
    for (name, metric) in [
        ("MatinsExecutorDown", "up"),
        ("MatinsExecutorAlone", "matins_executor_session_open"),
        ("MatinsLogsNotPacked", "matins_executor_logs_waiting_seconds"),
        ("MatinsDiskFull", "matins_disk_free_bytes"),
        ("MatinsTurnsClientsAway", "matins_turned_away_total"),
    ] {
        let rule = rules.iter().find(|rule| rule["alert"] == name);
        let expression = text(rule.unwrap_or_else(|| panic!("there is no {name}")), "expr");
        assert!(expression.contains(metric) && expression.contains("matins-executors"), "{expression}");
    }
}
