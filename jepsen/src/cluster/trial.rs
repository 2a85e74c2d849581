//! The hidden verb `trial`: one workload against a cluster that is already there, without faults of ours.
//!
//! For whoever writes a workload, or wants one on a cluster whose faults they make by hand. It starts and ends no node.
//! Start at [`run`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::report::Report;

use super::faults::Faults;
use super::workload::{ALL, Site, Trouble, Until, Workload, workload};

/// What it is told.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Which workload
    workload: String,
    /// The public endpoints of all nodes, with commas; all nodes must be on this machine
    #[arg(long)]
    endpoints: String,
    /// A folder for what tasks write down
    #[arg(long)]
    records: PathBuf,
    /// How long it works
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How long it may take until all work has ended
    #[arg(long, default_value_t = 60)]
    settle: u64,
    /// Everything random is drawn from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new(format!("trial {}", arguments.workload));
    let outcome = match (workload(&arguments.workload), tokio::runtime::Runtime::new()) {
        (Some(mut workload), Ok(runtime)) => {
            runtime.block_on(through(workload.as_mut(), arguments, &mut report))
        }
        (None, _) => Err(Trouble(format!("no such workload; there are {}", ALL.join(", ")))),
        (_, Err(error)) => Err(Trouble(error.to_string())),
    };
    if let Err(Trouble(what)) = outcome {
        report.invalid.push(what);
    }
    report
}

async fn through(
    workload: &mut dyn Workload,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<(), Trouble> {
    let Arguments { endpoints, records, seconds, settle, seed, workload: _ } = arguments;
    std::fs::create_dir_all(records).map_err(|error| Trouble(error.to_string()))?;
    let records = records.canonicalize().map_err(|error| Trouble(error.to_string()))?;
    let site = Site { endpoints: endpoints.clone(), records, seed: *seed, faults: Faults::default() };
    workload.set_up(&site).await?;
    let until = Until::after(Duration::from_secs(*seconds));
    until.set_calm();
    workload.drive(&site, &until).await?;
    let began = Instant::now();
    workload.settle(&site, Duration::from_secs(*settle), report).await?;
    report
        .figure(format!("{}: until all had ended (ms)", workload.name()), began.elapsed().as_millis() as u64);
    workload.check(&site, report).await
}
