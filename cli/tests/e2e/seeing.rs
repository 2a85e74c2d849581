//! What a person sees: why things wait, what became of ticks and runs, and screens that fit a terminal of 80 columns.

use std::process::Command;
use std::time::Duration;

use crate::common::Cluster;

/// One slot in the pool, one active run, and a task that nobody can take.
const BUSY: &str = r#"
workflow: busy
concurrency: { max_active_runs: 2 }
tasks:
  work: { pool: narrow, run: 'sleep 600' }
  after: { needs: work, run: 'true' }
---
pool: narrow
slots: 1
---
workflow: broken
tasks:
  bad: { run: 'echo "no such table: flights" >&2; exit 3' }
  after: { needs: bad, run: 'true' }
---
workflow: picky
tasks:
  task: { executor: { labels: { gpu: "1" } }, run: 'true' }
"#;

#[test]
fn why_names_what_is_waited_for_and_the_command_that_helps() {
    let cluster = Cluster::start(1);
    cluster.apply(BUSY);
    let first = cluster.begin(&["busy"]);
    cluster.until_started(&format!("{first}/work"));
    let (second, third) = (cluster.begin(&["busy"]), cluster.begin(&["busy"]));
    let says = |what: &str, words: &[&str]| {
        let said = cluster.ask(&["why", what]).well().out;
        for word in words {
            assert!(said.contains(word), "`{word}` is missing in: {said}");
        }
        assert!(said.lines().skip(1).all(|line| line.starts_with("  matins ")), "{said}");
    };
    says(&first, &["`work` is running: attempt 1", "matins logs"]);
    says(&second, &["pool `narrow` is full (1 of 1 slots)", &format!("held by {first}/work")]);
    says(&format!("{second}/after"), &["it waits for `work`, which is queued: pool `narrow` is full"]);
    says(&third, &[&format!("2 of 2 runs of `default/busy` are active ({first} and {second})")]);
    says("busy", &[&format!("its newest run is {third}")]);
    let picky = cluster.begin(&["picky"]);
    says(&picky, &["no executor has gpu=1", "matins executor list"]);

    // The command that it offers does help.
    cluster.ask(&["executor", "drain", "n1"]).well();
    cluster.ask(&["cancel", &first, "--now"]).well();
    cluster.until_state(&first, "cancelled");
    let why = cluster.json(&["why", &second]);
    assert_eq!(why["reason"]["code"], "drained", "{why}");
    let command = why["commands"][0].as_str().unwrap();
    cluster.ask(&command.split(' ').skip(1).collect::<Vec<_>>()).well();
    cluster.until_started(&format!("{second}/work"));

    let broken = cluster.ask(&["start", "broken", "--wait"]).out.trim().to_owned();
    says(&broken, &["`bad` failed: exit code 3 in attempt 1, on n1", &format!("matins retry {broken}")]);
    let why = cluster.json(&["why", &broken]);
    let command = why["commands"][0].as_str().unwrap();
    let logs = cluster.ask(&command.split(' ').skip(1).collect::<Vec<_>>()).well().out;
    assert_eq!(logs, "no such table: flights\n");
    for (code, args) in [(3, ["why", "run-99"]), (3, ["why", "no-such"]), (2, ["why", "run-1/a/b"])] {
        assert_eq!(cluster.ask(&args).code, Some(code), "{args:?}");
    }
}

/// Nothing is written in a quiet cluster, so leader time in the state stands still; the clocks are right all the same.
#[test]
fn a_quiet_cluster_needs_nobody() {
    let cluster = Cluster::start(3);
    cluster.until_ready();
    std::thread::sleep(Duration::from_secs(12));
    for node in &cluster.nodes {
        let status = cluster.ask_at(&node.endpoint(), &["cluster", "status"]).well().out;
        assert!(!status.contains("clock"), "{status}");
    }
}

#[test]
fn ticks_and_runs_are_accounted_for() {
    let cluster = Cluster::start(1);
    cluster.apply(
        "workflow: often\nschedules: { second: { cron: '* * * * * *' } }\nconcurrency: { max_active_runs: 100 }\n\
         tasks: { work: { run: 'true' } }\n",
    );
    let decisions = || cluster.json(&["schedule", "decisions", "often"]);
    cluster.until("three ticks are decided", || decisions().as_array().is_some_and(|all| all.len() >= 3));
    cluster.ask(&["schedule", "pause", "often"]).well();
    cluster.until("the pause shows", || decisions()[0]["skipReason"] == "paused");
    cluster.until("the pause is one line", || decisions()[0]["count"].as_u64() >= Some(3));
    let all = decisions();
    let all = all.as_array().unwrap();
    assert_eq!(all.iter().filter(|it| it["skipReason"] == "paused").count(), 1, "{all:?}");
    let leader = cluster.status(0).unwrap()["leader"].clone();
    // No tick is missing and none is there twice: a tick a second.
    let mut seconds = Vec::new();
    for decision in all {
        assert_eq!(decision["leader"], leader, "{decision}");
        assert!(decision["index"].as_str().unwrap().parse::<u64>().unwrap() > 0);
        let at = |field: &str| -> jiff::Timestamp { decision[field].as_str().unwrap().parse().unwrap() };
        let (first, last) = (at("first").as_second(), at("logicalTime").as_second());
        assert_eq!(last - first + 1, decision["count"].as_i64().unwrap(), "{decision}");
        seconds.extend((first..=last).rev());
    }
    assert!(seconds.windows(2).all(|pair| pair[0] == pair[1] + 1), "{seconds:?}");

    let run = all.last().unwrap()["runId"].as_str().unwrap().to_owned();
    cluster.until_state(&run, "success");
    let events = cluster.json(&["run", "events", &run]);
    let words: Vec<_> = events.as_array().unwrap().iter().map(|it| it["to"].as_str().unwrap()).collect();
    assert_eq!(words, ["queued", "running", "queued", "running", "success", "success"]);
    assert!(events.as_array().unwrap().iter().all(|it| it["leader"] == leader), "{events}");
}

/// The screen of a call on a terminal of 80 columns, without colours.
fn screen(cluster: &Cluster, args: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_matins");
    let call = format!("stty cols 80 rows 24; NO_COLOR=1 {binary} --endpoint {} {args}", cluster.endpoints());
    // `script` gives the call a terminal of its own, and what it drew.
    let drawn = Command::new("script").args(["-qec", &call, "/dev/null"]).output();
    let drawn = drawn.expect("`script` of util-linux is there");
    String::from_utf8_lossy(&drawn.stdout).replace('\r', "")
}

#[test]
fn every_screen_fits_80_columns() {
    let cluster = Cluster::start(1);
    cluster.apply(BUSY);
    cluster.apply(
        "workflow: a-workflow-with-a-rather-long-name\nschedules: { a-long-schedule-name: { cron: '0 3 * * *' } }\n\
         params: { text: { type: string, default: 'a long default value that fills the line of its parameters' } }\n\
         tasks:\n  a_task_with_a_rather_long_name_too: { run: 'exit 3' }\n  report: { trigger_rule: all_done, needs: \
         a_task_with_a_rather_long_name_too, when: '1 == 2', run: 'true' }\n",
    );
    let long = cluster.ask(&["start", "a-workflow-with-a-rather-long-name", "--wait"]).out.trim().to_owned();
    let first = cluster.begin(&["busy"]);
    cluster.until_started(&format!("{first}/work"));
    let (second, third) = (cluster.begin(&["busy"]), cluster.begin(&["busy"]));
    for args in [
        "run list".into(),
        "workflow list".into(),
        "workflow get busy".into(),
        "schedule list".into(),
        "schedule decisions a-workflow-with-a-rather-long-name".into(),
        "pool list".into(),
        "executor list".into(),
        "backfill list".into(),
        "cluster status".into(),
        format!("run get {long}"),
        format!("run get {third}"),
        format!("run get {first}/work"),
        format!("run events {long}"),
        format!("why {long}"),
        format!("why {second}"),
        format!("why {third}"),
        "run list --filter 'state=faild and workflow=~nightly'".into(),
    ] {
        let drawn = screen(&cluster, &args);
        assert!(!drawn.trim().is_empty(), "{args} shows nothing");
        for line in drawn.lines() {
            // A command must stay whole, so that it can be copied.
            let is_command = line.starts_with("  matins ");
            assert!(line.chars().count() <= 80 || is_command, "`{args}` is too wide:\n{drawn}");
        }
    }
}

#[test]
fn a_shell_loads_its_script_and_is_told_names() {
    let cluster = Cluster::start(1);
    cluster.apply(BUSY);
    let run = cluster.begin(&["picky"]);
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_matins"));
    let folder = binary.parent().unwrap().display();
    // What bash does when the tabulator is pressed behind `words`.
    let offered = |words: &str| {
        let last = words.split(' ').count() - 1;
        let script = format!(
            "export PATH={folder}:$PATH; source <(matins completion bash) || exit 1; \
             COMP_WORDS=({words}); COMP_CWORD={last}; COMP_TYPE=9; \
             _clap_complete_matins matins \"${{COMP_WORDS[$COMP_CWORD]}}\" 2>/dev/null; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        let said = bash.args(["--norc", "-c", &script]).env("MATINS_ENDPOINT", cluster.endpoints()).output();
        let said = said.expect("bash is there");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    assert!(offered("matins schedule dec").contains("decisions"));
    assert!(offered("matins why run-").contains(&run));
    assert!(offered(&format!("matins logs {run}/")).contains(&format!("{run}/task")));
    assert!(offered("matins start pic").contains("picky"));
    // Where the other shells are installed, their scripts load too.
    for (shell, load) in [
        ("zsh", "autoload -U compinit; compinit -D; source <(matins completion zsh)"),
        ("fish", "matins completion fish | source"),
    ] {
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        match Command::new(shell).args(["-c", load]).env("PATH", path).output() {
            Ok(said) => assert!(said.status.success(), "{shell}: {}", String::from_utf8_lossy(&said.stderr)),
            Err(_) => println!("{shell} is not installed"),
        }
    }
}
