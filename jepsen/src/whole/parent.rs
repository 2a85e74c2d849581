//! Starts one process for each seed, compares what is told twice, and adds everything up.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matins_core::mutation::now_planted;

use super::seed::{Story, tell as tell_seed};
use super::{Arguments, BUILD};
use crate::child::{plant_arguments, plant_flag};
use crate::report::Report;

/// A seed that takes longer than this in real time goes round in circles.
const REAL_TIME_MAX: Duration = Duration::from_secs(900);
/// So much of what a process said on stderr goes into a failure.
const SAID_MAX: usize = 1_500;

/// What came of one seed: its story, or why there is none.
type Told = Result<Story, String>;

/// Tells one seed's story in this process, and ends it.
#[expect(clippy::print_stdout, reason = "the parent reads the story there")]
pub(super) fn tell(seed: u64, arguments: &Arguments) -> Report {
    if let Some(filter) = &arguments.log {
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time();
        log.with_env_filter(filter).init();
    }
    let story = tell_seed(seed, Duration::from_secs(arguments.minutes * 60));
    println!("{}", serde_json::to_string(&story).expect("plain fields always encode"));
    drop(std::io::stdout().flush());
    // Without unwinding the simulation: its hosts are in the middle of something.
    std::process::exit(0);
}

/// All seeds.
pub(super) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("whole");
    let (told, again) = tell_all(arguments);
    let mut total = Total::default();
    for (seed, story) in &told {
        match story {
            Ok(story) => {
                total.add(story);
                if let Some(failure) = &story.failure {
                    report.fail(format!("seed {seed}: {failure}"), repeat(arguments, *seed));
                }
            }
            Err(why) => report.fail(format!("seed {seed}: {why}"), repeat(arguments, *seed)),
        }
    }
    let mut same = 0;
    for (seed, second) in &again {
        let digest = |told: &Told| told.as_ref().map(|story| story.digest.clone()).ok();
        if digest(second).is_some() && digest(second) == told.get(seed).and_then(digest) {
            same += 1;
        } else {
            report
                .invalid
                .push(format!("seed {seed} told another story the second time: it cannot be repeated"));
        }
    }
    total.tell(&mut report, arguments);
    report.needs("seeds told twice, bit for bit the same", same, twice(arguments));
    report.notes.push(format!("built with: {BUILD}"));
    report
}

fn repeat(arguments: &Arguments, seed: u64) -> String {
    let plant = plant_flag();
    let minutes = arguments.minutes;
    format!(
        "target/simulation/release/matins-jepsen whole --from {seed} --seeds 1 --minutes {minutes}{plant}"
    )
}

/// How many seeds run twice: no more than run at all, which with `--hours` are enough. None where a bug is planted, which
/// the first telling has to show.
fn twice(arguments: &Arguments) -> u64 {
    if now_planted().is_some() {
        0
    } else if arguments.hours > 0.0 {
        arguments.twice
    } else {
        arguments.twice.min(arguments.seeds)
    }
}

/// Each seed once, some twice, as many at a time as there are processors. A planted bug is caught by the first seed that
/// breaks: nothing is told after that.
fn tell_all(arguments: &Arguments) -> (BTreeMap<u64, Told>, BTreeMap<u64, Told>) {
    let (told, again) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
    let (next, simulated_ms) = (AtomicU64::new(0), AtomicU64::new(0));
    let wanted_ms = (arguments.hours * 3_600_000.0) as u64;
    let (is_planted, twice) = (now_planted().is_some(), twice(arguments));
    let is_caught = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !is_caught.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (seed, is_second) = if at < twice * 2 {
                        (arguments.from + at / 2, at % 2 == 1)
                    } else {
                        (arguments.from + at - twice, false)
                    };
                    let is_asked = at < twice * 2 || seed < arguments.from.saturating_add(arguments.seeds);
                    if !is_asked && simulated_ms.load(Ordering::Relaxed) >= wanted_ms {
                        return;
                    }
                    let story = tell_in_child(seed, arguments);
                    let is_broken = story.as_ref().map_or(true, |story| story.failure.is_some());
                    is_caught.fetch_or(is_planted && is_broken, Ordering::Relaxed);
                    // What is told again is nothing new.
                    let ms = story.as_ref().map_or(0, |story| if is_second { 0 } else { story.simulated_ms });
                    // A seed that cannot even be told would otherwise be followed by others for ever.
                    simulated_ms.fetch_add(if story.is_ok() { ms } else { wanted_ms }, Ordering::Relaxed);
                    let into = if is_second { &again } else { &told };
                    into.lock().expect("nobody panics with it").insert(seed, story);
                }
            });
        }
    });
    let inner = |map: Mutex<BTreeMap<u64, Told>>| map.into_inner().expect("nobody panics with it");
    (inner(told), inner(again))
}

fn tell_in_child(seed: u64, arguments: &Arguments) -> Told {
    let program = std::env::current_exe().map_err(|error| format!("no program to start: {error}"))?;
    let mut command = Command::new(program);
    command.args(["whole", "--story-of", &seed.to_string(), "--minutes", &arguments.minutes.to_string()]);
    // Each child gets the bug that this process was started with.
    command.args(plant_arguments());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("cannot start a process: {error}"))?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let read = |pipe: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    std::thread::scope(|scope| {
        let out = scope.spawn(move || out.as_mut().map_or_else(String::new, |out| read(out)));
        let said = scope.spawn(move || err.as_mut().map_or_else(String::new, |err| read(err)));
        let began = Instant::now();
        while began.elapsed() < REAL_TIME_MAX {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Ok(Some(_)) | Err(_) => break,
            }
        }
        // One that is through is not there to be killed any more.
        drop(child.kill());
        let status = child.wait().map_err(|error| format!("lost sight of its process: {error}"))?;
        let (out, said) = (out.join().unwrap_or_default(), said.join().unwrap_or_default());
        let story = out.lines().last().and_then(|line| serde_json::from_str(line).ok());
        story.ok_or_else(|| {
            let from = said.len().saturating_sub(SAID_MAX);
            let from = (from..=said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(0);
            format!("its process ended with {status} and no story: {}", said[from..].trim())
        })
    })
}

/// Everything added up.
#[derive(Default)]
struct Total {
    seeds: u64,
    simulated_ms: u64,
    cpu_ms: u64,
    commits: u64,
    leaders: u64,
    crashes: u64,
    gave_up: u64,
    acknowledged: u64,
    reads: u64,
    attempts: u64,
    checkpoints: u64,
    blocks: u64,
    faults: BTreeMap<String, u64>,
}

impl Total {
    fn add(&mut self, story: &Story) {
        self.seeds += 1;
        self.simulated_ms += story.simulated_ms;
        self.cpu_ms += story.cpu_ms;
        self.commits += story.commits;
        self.leaders += story.leaders;
        self.crashes += story.crashes;
        self.gave_up += story.gave_up;
        self.acknowledged += story.acknowledged;
        self.reads += story.reads;
        self.attempts += story.attempts;
        self.checkpoints += story.checkpoints;
        self.blocks += story.blocks;
        for (kind, count) in &story.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
    }

    fn tell(&self, report: &mut Report, arguments: &Arguments) {
        report.needs("seeds", self.seeds, arguments.seeds);
        report.needs("simulated minutes", self.simulated_ms / 60_000, (arguments.hours * 60.0) as u64);
        report.figure("simulated seconds per CPU second", self.simulated_ms / self.cpu_ms.max(1));
        report.needs("entries applied", self.commits, 100);
        report.needs("requests acknowledged", self.acknowledged, 10);
        report.needs("linearizable reads", self.reads, 10);
        report.needs("attempts", self.attempts, 10);
        report.needs("checkpoints agreed", self.checkpoints, 1);
        report.figure("blocks of history", self.blocks);
        report.figure("leaders", self.leaders);
        report.figure("leads given up", self.gave_up);
        report.figure("crashes", self.crashes);
        for (kind, count) in &self.faults {
            report.figure(format!("fault: {kind}"), *count);
        }
    }
}
