//! Real processes, real faults: a cluster of `matins server` processes under a workload and a nemesis, and checkers of
//! what came of it.
//!
//! A workload knows nothing of faults and a nemesis nothing of work; both see the cluster from outside, as a user does.
//! Start reading at [`workload::Workload`] for the work, at [`nemesis::Nemesis`] for the faults, and at [`run::run`] for how
//! they come together.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::report::{Report, Verdict};

mod clean;
mod disk;
mod faults;
mod machine;
mod nemesis;
mod network;
mod nodes;
mod observer;
mod processes;
mod proxy;
mod run;
mod shell;
mod summary;
pub(crate) mod trial;
mod verdict;
pub(crate) mod workload;

use nemesis::Kind;
use workload::Workload;

/// What `cluster` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Which workloads, one after the other, each on a cluster of its own
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', required_unless_present_any = ["all", "clean_after"])]
    workload: Vec<String>,

    /// All workloads
    #[arg(long, conflicts_with = "workload")]
    all: bool,

    /// Which faults, in turn
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', conflicts_with = "mixed")]
    nemesis: Vec<Kind>,

    /// Faults of all kinds, drawn by the seed, one or two at a time; this is the default
    #[arg(long)]
    mixed: bool,

    /// How many nodes
    #[arg(long, default_value = "3", value_parser = ["3", "5"])]
    nodes: String,

    /// How long each workload works under faults
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// What is drawn comes from it
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// The `matins` binary [default: the one beside this one]
    #[arg(long, value_name = "PATH")]
    matins: Option<PathBuf>,

    /// Keep logs, records and data of all nodes here
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Clean up once standard input ends, and this process is gone
    #[arg(long, value_name = "PID", hide = true)]
    clean_after: Option<u32>,
}

/// Runs each workload under faults, and puts what came of them into one report.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("cluster");
    if let Some(pid) = arguments.clean_after {
        clean::clean_after(pid);
        return report;
    }
    match prepare(arguments) {
        Ok((settings, workloads)) => run_all(&settings, workloads, &mut report),
        Err(trouble) => report.invalid.push(trouble.0),
    }
    report
}

fn run_all(settings: &run::Settings, workloads: Vec<Box<dyn Workload>>, report: &mut Report) {
    clean::remove_stale();
    let _janitor = match clean::Janitor::start() {
        Ok(janitor) => janitor,
        Err(trouble) => return report.invalid.push(trouble.0),
    };
    let mut parts = Vec::new();
    for (number, workload) in workloads.into_iter().enumerate() {
        let name = workload.name();
        let began = Instant::now();
        let mut part = run::run(settings, workload, number as u32);
        part.took(began.elapsed());
        say(name, &part);
        let is_interrupted = part.invalid.iter().any(|why| why.starts_with("interrupted"));
        parts.push((name, part));
        if is_interrupted {
            break;
        }
    }
    summary::tell(&parts, report);
    let not_held = parts.iter().filter(|(_, part)| part.verdict() != Verdict::Held).map(|(name, _)| *name);
    let again = not_held.collect::<Vec<_>>().join(",");
    for (name, part) in parts {
        report.take(name, part);
    }
    report.notes.push("the seed draws faults and work; real processes never run the same way twice".into());
    if report.verdict() != Verdict::Held {
        report.notes.push(format!("run again with `{} --workload {again}`", settings.repeat));
    }
}

/// Says how one of them ended: all together take minutes, and the report comes at the end.
#[expect(clippy::print_stderr, reason = "the report alone goes to standard output")]
fn say(name: &str, part: &Report) {
    eprintln!("{name}: {:?} after {:.0} s", part.verdict(), part.seconds);
}

fn prepare(arguments: &Arguments) -> Result<(run::Settings, Vec<Box<dyn Workload>>), workload::Trouble> {
    let binary = binary(arguments.matins.clone())?;
    let names: Vec<&str> = if arguments.all {
        workload::ALL.to_vec()
    } else {
        arguments.workload.iter().map(String::as_str).collect()
    };
    let unknown = |name: &str| {
        workload::Trouble(format!("there is no workload {name}; there are: {}", workload::ALL.join(", ")))
    };
    let workloads: Result<Vec<_>, _> =
        names.into_iter().map(|name| workload::workload(name).ok_or_else(|| unknown(name))).collect();
    let workloads = workloads?;
    let faults = if arguments.nemesis.is_empty() {
        "--mixed".to_owned()
    } else {
        let names: Vec<String> = arguments.nemesis.iter().map(|kind| kind.name()).collect();
        format!("--nemesis {}", names.join(","))
    };
    let (nodes, seconds, seed) = (&arguments.nodes, arguments.seconds, arguments.seed);
    let settings = run::Settings {
        binary,
        nodes: nodes.parse().expect("it is one of those that are allowed"),
        seconds,
        seed,
        kinds: (!arguments.nemesis.is_empty()).then(|| arguments.nemesis.clone()),
        keep: arguments.keep.clone(),
        repeat: format!("matins-jepsen cluster {faults} --nodes {nodes} --seconds {seconds} --seed {seed}"),
    };
    Ok((settings, workloads))
}

/// The binary under test.
fn binary(given: Option<PathBuf>) -> Result<PathBuf, workload::Trouble> {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join("matins")));
    let path = given.or(beside).unwrap_or_else(|| "matins".into());
    let path = std::path::absolute(&path).unwrap_or(path);
    if path.is_file() {
        return Ok(path);
    }
    Err(workload::Trouble(format!(
        "there is no `matins` at {}; build it with `cargo build --bin matins` (clock faults need this debug build)",
        path.display()
    )))
}
