//! `check`: says all that is wrong with files, and what right ones will do. Needs no server.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use matins_core::time::Timestamp;
use matins_workflow::calendar::Calendar;
use matins_workflow::{Colour, Compiled, Diagnostic, Severity};
use serde::Serialize;

use super::sources;
use crate::context::{Context, Format, Outcome, now};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{as_json, as_jsonl, as_names, as_yaml};
use crate::run::parse_instant;
use crate::schedule::ticks::{next_ticks, nights};

/// Ticks that are shown of each schedule.
const TICKS: usize = 3;

/// Check workflow files without a server
///
/// Says all faults at once, each with its place and what to do. Of files without faults it tells the next ticks, and what
/// the next changes of the clocks do to them. Whether pools exist only `apply` can know.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins check nightly-flights.matins.yaml
  matins check workflows/ && matins apply workflows/

Exit codes: 0 no errors, 1 there are errors, 2 a file cannot be read.")]
pub(crate) struct CheckArgs {
    /// Files, or folders, of which all `*.matins.yaml` are taken; `-` reads standard input
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,

    /// Tell ticks after this instant [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    after: Option<matins_proto::Timestamp>,
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Report<'a> {
    diagnostics: &'a [Diagnostic],
    workflows: Vec<Checked>,
    pools: Vec<String>,
}

/// A workflow without errors.
#[derive(Serialize)]
struct Checked {
    name: String,
    tasks: usize,
    schedules: Vec<CheckedSchedule>,
}

/// When it will be due.
#[derive(Serialize)]
struct CheckedSchedule {
    name: String,
    timezone: String,
    enabled: bool,
    ticks: Vec<matins_proto::v1::Tick>,
    nights: Vec<String>,
}

/// `matins check`.
pub(super) fn check(args: &CheckArgs, context: &Context) -> Outcome {
    let files = sources::find(&args.files)?;
    let read = sources::read(&files)?;
    let (compiled, _) = sources::check(&read, context)?;
    let after = Timestamp::from_millis(args.after.unwrap_or_else(now).as_millis());
    let report = Report {
        diagnostics: &compiled.diagnostics,
        workflows: checked(&compiled, after)?,
        pools: compiled.pools.iter().map(|pool| pool.name.to_string()).collect(),
    };
    if matches!(context.format(), Format::Table | Format::Wide | Format::Name) {
        let screen = context.screen();
        let colour = if screen.err && screen.colours { Colour::Always } else { Colour::Never };
        for one in &compiled.diagnostics {
            context.say(one.render(colour));
        }
    }
    match context.format() {
        Format::Table | Format::Wide => {
            context.print(&in_words(&report))?;
            context.say(summary(files.len(), &compiled));
        }
        Format::Json => context.print(&as_json(&report))?,
        Format::Yaml => context.print(&as_yaml(&report))?,
        Format::Jsonl => context.print(&as_jsonl(&report))?,
        Format::Name => {
            context.print(&as_names(report.workflows.iter().map(|it| it.name.clone())))?;
        }
    }
    Ok(if compiled.has_errors() { Exit::NotSuccess } else { Exit::Done })
}

fn checked(compiled: &Compiled, after: Timestamp) -> Result<Vec<Checked>, Fault> {
    let workflow = |it: &matins_workflow::CompiledWorkflow| {
        let schedules = it.ir.schedules.iter().map(|schedule| {
            let calendar = Calendar::from_schedule(schedule).map_err(|error| {
                Fault::machine(format!("schedule `{}` has no calendar", schedule.name), error)
            })?;
            Ok(CheckedSchedule {
                name: schedule.name.to_string(),
                timezone: schedule.timezone.clone(),
                enabled: schedule.is_enabled,
                ticks: next_ticks(&calendar, after, TICKS),
                nights: nights(&calendar, after),
            })
        });
        Ok(Checked {
            name: it.ir.name.to_string(),
            tasks: it.ir.tasks.len(),
            schedules: schedules.collect::<Result<_, Fault>>()?,
        })
    };
    compiled.workflows.iter().map(workflow).collect()
}

fn in_words(report: &Report<'_>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for workflow in &report.workflows {
        let _ = writeln!(text, "{}: {}", workflow.name, several(workflow.tasks, "task"));
        for schedule in &workflow.schedules {
            let disabled = if schedule.enabled { "" } else { ", not enabled" };
            let _ = writeln!(text, "  schedule {} ({}{disabled})", schedule.name, schedule.timezone);
            for tick in &schedule.ticks {
                let _ = writeln!(text, "    {}", tick.local);
            }
            for night in &schedule.nights {
                let _ = writeln!(text, "    {night}");
            }
        }
    }
    text
}

fn summary(files: usize, compiled: &Compiled) -> String {
    let count = |severity| compiled.diagnostics.iter().filter(|one| one.severity == severity).count();
    format!(
        "checked {}: {}, {}",
        several(files, "file"),
        several(count(Severity::Error), "error"),
        several(count(Severity::Warning), "warning"),
    )
}

fn several(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    }
}
