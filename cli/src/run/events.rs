//! `run events`: what happened to a run, in the order of the log.

use clap::Args;
use matins_proto::v1::{ListRunEventsRequest, RunEvent};

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::output::{Cell, Column, Look, Row};
use crate::refs::TaskRef;

/// List what happened to a run, in the order of the log
///
/// Every state that the run and its tasks came into, with the log index that did it and the node that led. Items of a
/// fan-out are left out: `run get RUN/TASK` shows their attempts.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins run events run-42
  matins run events latest:nightly-flights/load -o jsonl")]
pub(crate) struct EventsArgs {
    /// `run-42`, `latest:WORKFLOW`, or one task of it: `run-42/extract`
    #[arg(value_name = "RUN[/TASK]")]
    run: String,
}

impl Row for RunEvent {
    const PLURAL: &'static str = "events";
    const COLUMNS: &'static [Column] = &[
        Column::new("INDEX"),
        Column::spare("AT"),
        Column::new("TASK"),
        Column::spare("ATTEMPT"),
        Column::new("FROM"),
        Column::new("TO"),
        Column::spare("EXECUTOR"),
        Column::wide("LEADER"),
        Column::new("REASON"),
    ];

    fn name(&self) -> String {
        self.index.to_string()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let attempt = if self.attempt > 0 { self.attempt.to_string() } else { String::new() };
        vec![
            Cell::Number(self.index),
            // Of a history the order and the distances matter, so times are told in full.
            Cell::text(self.at.map(|at| at.to_string()).unwrap_or_default()),
            Cell::text(&self.task),
            Cell::text(attempt),
            Cell::text(&self.from),
            Cell::State(self.to.clone()),
            Cell::text(&self.executor),
            Cell::text(&self.leader),
            Cell::text(&self.reason),
        ]
    }
}

/// `matins run events`.
pub(super) async fn events(args: EventsArgs, context: &Context) -> Outcome {
    let TaskRef { run, task } = TaskRef::parse(&args.run, context)?;
    let ask = ListRunEventsRequest { stale: false, run, task };
    let answer = context.client()?.call(ask).await?;
    context.list(&answer.events)?;
    if answer.left_out > 0 {
        context.say(format!(
            "{} more changes happened after these; a run keeps the first of them",
            answer.left_out
        ));
    }
    Ok(Exit::Done)
}
