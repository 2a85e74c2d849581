//! Figures of Matins beside those of the machine itself: workloads on real nodes, floors from the same run.
//!
//! Each workload is a file below `workloads`, each floor one below `floor`, behind the trait [`workload::Workload`]. What they
//! measure is put beside its aim in `figure` and printed by `table`. It never judges: a missed aim is told, and the exit code
//! says only whether every workload did what it should. Start reading at [`main`], then `workloads::all`.

mod callers;
mod cluster;
mod figure;
mod finished;
mod floor;
mod processes;
mod stamps;
mod table;
mod trouble;
mod workload;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use table::Row;
use trouble::Trouble;
use workload::{Size, Stage, Workload};

/// Measures Matins, and the floor of this machine beside it.
#[derive(Parser)]
struct Arguments {
    /// Only this workload; may be given again. The floors are measured all the same
    #[arg(long, value_name = "WORKLOAD")]
    only: Vec<String>,
    /// Only clusters of so many nodes [default: 1, then 3]
    #[arg(long, value_name = "1|3", value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: Option<u16>,
    /// Write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Run each workload at a size of seconds: to see that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// The larger size of `finished-runs`; each million takes more than a gigabyte of disk for as long as it lasts
    #[arg(long, value_name = "COUNT", default_value_t = 5_000_000)]
    finished_runs: u64,
    /// Leave the floors out
    #[arg(long)]
    no_floor: bool,
    /// Name all workloads, and run none
    #[arg(long)]
    list: bool,
    /// The binary to measure [default: `matins` beside this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Make the nodes' folders below this one: its disk is measured [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a table is what this program is for")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for workload in floor::all().iter().chain(&workloads::all()) {
            println!("{:12} {}", workload.name(), workload.about());
        }
        return ExitCode::SUCCESS;
    }
    let outcome = match chosen(&arguments) {
        Ok(chosen) => measure(&arguments, &chosen).await,
        Err(trouble) => Err(trouble),
    };
    let rows = match outcome {
        Ok(rows) => rows,
        Err(trouble) => {
            eprintln!("error: {trouble}");
            return ExitCode::from(2);
        }
    };
    print!("{}", table::plain(&rows));
    let written = [(&arguments.json, table::json(&rows)), (&arguments.markdown, table::markdown(&rows))];
    for (path, text) in written.iter().filter_map(|(path, text)| Some((path.as_ref()?, text))) {
        if let Err(error) = fs::write(path, text) {
            eprintln!("error: cannot write {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    if rows.iter().all(Row::went_well) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The floors and the workloads that were asked for.
fn chosen(arguments: &Arguments) -> Result<Vec<Box<dyn Workload>>, Trouble> {
    let all = workloads::all();
    for name in &arguments.only {
        if !floor::all().iter().chain(&all).any(|workload| workload.name() == name) {
            return Err(Trouble(format!("no workload is called {name}; --list names all")));
        }
    }
    let is_named = |workload: &dyn Workload| arguments.only.iter().any(|name| name == workload.name());
    let floors = floor::all().into_iter().filter(|it| !arguments.no_floor || is_named(&**it));
    let wanted = all.into_iter().filter(|it| arguments.only.is_empty() || is_named(&**it));
    Ok(floors.chain(wanted).collect())
}

/// Runs them one after the other, each on clusters of its own. One that fails is a row that says so.
#[expect(clippy::print_stderr, reason = "whoever waits for minutes wants to see that it goes on")]
async fn measure(arguments: &Arguments, chosen: &[Box<dyn Workload>]) -> Result<Vec<Row>, Trouble> {
    let binary = binary(arguments.binary.as_deref())?;
    let size = if arguments.quick { Size::Quick } else { Size::Full };
    let mut rows = Vec::new();
    // Their folders go at the end: a file system may be slow for a while after thousands of files were deleted.
    let mut stages = Vec::new();
    for workload in chosen {
        let is_wanted = |nodes: &usize| arguments.nodes.is_none_or(|only| usize::from(only) == *nodes);
        let mut sizes: Vec<usize> = workload.nodes().iter().copied().filter(is_wanted).collect();
        if workload.nodes().is_empty() {
            sizes.push(0);
        }
        for nodes in sizes {
            eprintln!("{} on {nodes} nodes: {}", workload.name(), workload.about());
            let folder = match &arguments.folder {
                Some(folder) => tempfile::tempdir_in(folder),
                None => tempfile::tempdir(),
            };
            let (binary, finished_runs) = (binary.clone(), arguments.finished_runs);
            let stage = Stage { binary, folder: folder?, nodes, size, finished_runs };
            let mut outcome = workload.measure(&stage).await;
            if let (Size::Quick, Ok(figures)) = (size, &mut outcome) {
                // At this size no figure says anything of an aim.
                for figure in figures {
                    figure.aim = None;
                }
            }
            rows.push(Row { workload: workload.name(), nodes, outcome });
            stages.push(stage);
        }
    }
    Ok(rows)
}

/// The program to measure: that of the same build, unless another one is named.
fn binary(named: Option<&Path>) -> Result<PathBuf, Trouble> {
    let beside = std::env::current_exe()?.with_file_name("matins");
    let path = named.unwrap_or(&beside);
    path.canonicalize().map_err(|error| Trouble(format!("{}: {error}; bench/run builds it", path.display())))
}
