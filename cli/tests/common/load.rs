//! A load that runs beside a test, and its own checker: a schedule that is due every second, and chains of tasks started by
//! callers that repeat what they got no answer to. Every task writes a line into a file when it runs, so that the checker
//! knows what ran and not only what the cluster says of it. Start at [`Load::begin`] and [`Load::end`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::{Cluster, DEADLINE, Said, command};

/// Callers that start chains, each one after the other.
const CALLERS: usize = 2;
/// Between two chains of a caller.
const CHAIN_EVERY: Duration = Duration::from_millis(700);
/// The tasks of a chain, in order.
const TASKS: [&str; 3] = ["first", "second", "third"];
/// Exit code: no leader, or no answer. The caller repeats.
const NO_ANSWER: i32 = 5;
/// Exit code: the state does not allow it. The caller repeats while a disk is full, as its message says.
const NOT_NOW: i32 = 4;

/// Whom the callers ask; changes with the cluster.
type Endpoints = Arc<Mutex<String>>;

/// What goes on beside the test.
pub(crate) struct Load {
    namespace: String,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<BTreeSet<String>>>,
    endpoints: Endpoints,
    beats: PathBuf,
    steps: PathBuf,
}

/// May attempts be lost, because a node died with what it ran? Then those run again; never otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deaths {
    None,
    Some,
}

/// What the checker found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// What is wrong, in words. Empty: no tick and no task was lost or doubled.
    pub(crate) faults: Vec<String>,
    /// Ticks of the schedule.
    pub(crate) ticks: usize,
    /// Chains that were acknowledged.
    pub(crate) chains: usize,
    /// The most that a tick's run was made late.
    pub(crate) late_max: Duration,
    /// The most that the first instruction of a tick's first attempt came late.
    pub(crate) first_instruction_max: Duration,
}

impl Load {
    /// Registers the workflows, and starts the callers.
    pub(crate) fn begin(cluster: &Cluster) -> Self {
        Self::begin_in(cluster, "default")
    }

    /// As [`Self::begin`], in a namespace of its own, beside what an earlier load left.
    pub(crate) fn begin_in(cluster: &Cluster, namespace: &str) -> Self {
        let file = |name: &str| cluster.folder.path().join(format!("{namespace}-{name}"));
        let (beats, steps) = (file("beats"), file("steps"));
        cluster.apply(&source(namespace, &beats, &steps));
        let stop = Arc::new(AtomicBool::new(false));
        let endpoints = Endpoints::new(Mutex::new(cluster.endpoints()));
        let callers = (0..CALLERS).map(|caller| {
            let (endpoints, stop) = (Arc::clone(&endpoints), Arc::clone(&stop));
            let namespace = namespace.to_owned();
            std::thread::spawn(move || call(&namespace, caller, &endpoints, &stop))
        });
        let namespace = namespace.to_owned();
        Self { namespace, callers: callers.collect(), stop, endpoints, beats, steps }
    }

    /// Tells the callers which nodes there are now.
    pub(crate) fn tell(&self, cluster: &Cluster) {
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = cluster.endpoints();
    }

    /// How many ticks have run so far.
    pub(crate) fn beats(&self) -> usize {
        lines(&self.beats).len()
    }

    /// Waits until so many more ticks have run.
    #[track_caller]
    pub(crate) fn go_on_for(&self, cluster: &Cluster, ticks: usize) {
        self.tell(cluster);
        let until = self.beats() + ticks;
        cluster.until("the schedule goes on", || self.beats() >= until);
    }

    /// Stops it, waits until all that it began is over, and checks.
    #[track_caller]
    pub(crate) fn end(self, cluster: &Cluster, deaths: Deaths) -> Checked {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged: Vec<BTreeSet<String>> =
            self.callers.into_iter().map(|caller| caller.join().expect("a caller never panics")).collect();
        let acknowledged: BTreeSet<String> = acknowledged.into_iter().flatten().collect();
        let ours = ["-n", self.namespace.as_str()];
        cluster.ask(&[&ours[..], &["schedule", "pause", "beat"]].concat()).well();
        let runs =
            |workflow: &str| whole(cluster, &[&ours[..], &["run", "list", workflow, "--retries"]].concat());
        let is_over = |runs: &Value| {
            rows(runs).all(|run| !["queued", "running", "stopping"].contains(&text(run, "state")))
        };
        cluster.until("all runs are over", || is_over(&runs("beat")) && is_over(&runs("chain")));

        let mut checked = Checked { chains: acknowledged.len(), ..Checked::default() };
        check_ticks(&runs("beat"), &mut checked);
        check_skips(&cluster.json(&[&ours[..], &["schedule", "list", "beat"]].concat()), &mut checked);
        check_beats(&runs("beat"), &lines(&self.beats), deaths, &mut checked);
        check_chains(&runs("chain"), &acknowledged, &mut checked);
        check_steps(&acknowledged, &lines(&self.steps), deaths, &mut checked);
        checked
    }
}

impl Checked {
    /// Fails the test if anything was lost or doubled, or if there was no load to speak of.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
        assert!(self.ticks > 5 && self.chains > 5, "too little was loaded: {self:?}");
        self
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }
}

/// Both workflows. A task's line is one short write, so lines never mix.
fn source(namespace: &str, beats: &std::path::Path, steps: &std::path::Path) -> String {
    let (beats, steps) = (beats.display(), steps.display());
    let step = |task: &str, needs: &str| {
        format!(
            "  {task}:\n    run: 'echo \"$MATINS_RUN_ID $MATINS_TASK $MATINS_ATTEMPT\" >> {steps}; sleep 0.05'\n{needs}"
        )
    };
    format!(
        "workflow: beat\nnamespace: {namespace}\nconcurrency: {{ max_active_runs: 100 }}\nschedules:\n  each: {{ cron: '* * * * * *', catchup: all }}\n\
         tasks:\n  beat:\n    run: 'echo \"$MATINS_LOGICAL_TIME $MATINS_ATTEMPT $(date +%s%3N)\" >> {beats}'\n\
         ---\nworkflow: chain\nnamespace: {namespace}\nconcurrency: {{ max_active_runs: 100 }}\ntasks:\n{}{}{}",
        step(TASKS[0], ""),
        step(TASKS[1], "    needs: first\n"),
        step(TASKS[2], "    needs: second\n"),
    )
}

/// Starts chains until it is told to stop, and gives the runs that were acknowledged. A call without an answer is repeated
/// under the same id until it has one.
fn call(namespace: &str, caller: usize, endpoints: &Endpoints, stop: &AtomicBool) -> BTreeSet<String> {
    let mut runs = BTreeSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let id = format!("load-{namespace}-{caller}-{number}");
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "no node took a start for {DEADLINE:?}");
            let endpoints = endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let args = ["--endpoint", &endpoints, "-n", namespace, "start", "chain", "--request-id", &id];
            let said = Said::from(command().args(args).output().expect("the binary can be started"));
            match said.code {
                Some(0) => {
                    runs.insert(said.out.trim().to_owned());
                    break;
                }
                Some(NO_ANSWER) => sleep(Duration::from_millis(200)),
                Some(NOT_NOW) if said.err.contains("% full") => sleep(Duration::from_millis(200)),
                Some(_) | None => panic!("a start is refused: {said:?}"),
            }
        }
        sleep(CHAIN_EVERY);
    }
    runs
}

/// Every second between the first tick and the last has one run, and each succeeded.
fn check_ticks(runs: &Value, checked: &mut Checked) {
    let mut by_second: BTreeMap<i64, usize> = BTreeMap::new();
    for run in rows(runs) {
        *by_second.entry(millis(text(run, "logicalTime")) / 1_000).or_default() += 1;
        let late = millis(text(run, "createdAt")) - millis(text(run, "logicalTime"));
        checked.late_max = checked.late_max.max(Duration::from_millis(late.max(0).cast_unsigned()));
        if text(run, "state") != "success" {
            checked.fault(format!("the run of a tick is not well: {run}"));
        }
    }
    checked.ticks = by_second.len();
    let (Some(first), Some(last)) = (by_second.keys().next().copied(), by_second.keys().last().copied())
    else {
        return;
    };
    for second in first..=last {
        match by_second.get(&second) {
            Some(1) => {}
            Some(count) => checked.fault(format!("the tick of second {second} has {count} runs")),
            None => checked.fault(format!("the tick of second {second} has no run")),
        }
    }
}

/// Nothing was skipped but by the pause at the end.
fn check_skips(schedules: &Value, checked: &mut Checked) {
    for skipped in rows(schedules).flat_map(|schedule| rows(&schedule["skipped"])) {
        if text(skipped, "reason") != "paused" {
            checked.fault(format!("ticks were skipped: {skipped}"));
        }
    }
}

/// Each tick's task ran, and once, unless a node died with it.
fn check_beats(runs: &Value, lines: &[Vec<String>], deaths: Deaths, checked: &mut Checked) {
    let mut attempts: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for line in lines {
        let [time, attempt, at] = line.as_slice() else { continue };
        let due = millis(time);
        attempts.entry(due).or_default().push(attempt);
        if attempt == "1" {
            let late = at.parse::<i64>().unwrap_or(i64::MAX).saturating_sub(due);
            let late = Duration::from_millis(late.max(0).cast_unsigned());
            checked.first_instruction_max = checked.first_instruction_max.max(late);
        }
    }
    for run in rows(runs) {
        let ran = attempts.remove(&millis(text(run, "logicalTime"))).unwrap_or_default();
        check_attempts(&format!("the task of {}", text(run, "id")), &ran, deaths, checked);
    }
    for due in attempts.keys() {
        checked.fault(format!("a task ran for {due}, which has no run"));
    }
}

/// The runs that were acknowledged are there, no others are, and each succeeded.
fn check_chains(runs: &Value, acknowledged: &BTreeSet<String>, checked: &mut Checked) {
    let there: BTreeSet<String> = rows(runs).map(|run| text(run, "id").to_owned()).collect();
    for run in acknowledged.symmetric_difference(&there) {
        checked.fault(format!("{run} is acknowledged and not there, or there and not acknowledged"));
    }
    for run in rows(runs).filter(|run| text(run, "state") != "success") {
        checked.fault(format!("a chain is not well: {run}"));
    }
}

/// Each task of each chain ran, and once, unless a node died with it.
fn check_steps(
    acknowledged: &BTreeSet<String>,
    lines: &[Vec<String>],
    deaths: Deaths,
    checked: &mut Checked,
) {
    let mut attempts: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for line in lines {
        let [run, task, attempt] = line.as_slice() else { continue };
        attempts.entry((run.clone(), task.clone())).or_default().push(attempt);
    }
    for run in acknowledged {
        for task in TASKS {
            let ran = attempts.get(&(run.clone(), task.to_owned())).cloned().unwrap_or_default();
            check_attempts(&format!("{run}/{task}"), &ran, deaths, checked);
        }
    }
}

/// One attempt ran; or where nodes died several, each once.
fn check_attempts(what: &str, ran: &[&str], deaths: Deaths, checked: &mut Checked) {
    let different: BTreeSet<&&str> = ran.iter().collect();
    let is_well = match deaths {
        // A start that did not reach its executor before a restart is an attempt too, and ran nothing.
        Deaths::None => ran.len() == 1,
        Deaths::Some => !ran.is_empty() && different.len() == ran.len(),
    };
    if !is_well {
        checked.fault(format!("{what} ran as attempts {ran:?}"));
    }
}

/// All of a list, also of a node that is new and still fetches what was before it.
fn whole(cluster: &Cluster, list: &[&str]) -> Value {
    let args = [list, &["--limit", "5000", "-o", "json"]].concat();
    let mut list = Value::Null;
    cluster.until("history is indexed", || {
        let said = cluster.ask(&args).well();
        list = serde_json::from_str(&said.out).expect("-o json prints JSON");
        !said.err.contains("finished runs may be missing")
    });
    list
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

fn millis(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(-1, Timestamp::as_millisecond)
}

fn lines(path: &std::path::Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}
