//! `schedule decisions`: what became of each tick, when, and who decided it.

use clap::Args;
use matins_proto::Timestamp;
use matins_proto::v1::{ListDecisionsRequest, TickDecision};

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::output::{Cell, Column, Look, Row, plain_span};
use crate::pages::{Page, gather};
use crate::run::parse_since;

/// List what became of the ticks of a schedule, the newest first
///
/// Each tick became a run, or was skipped with a reason. Ticks that one leader skipped in a row for one reason are one line.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins schedule decisions nightly-flights --since 31d
  matins schedule decisions nightly-flights sunday-full -o json")]
pub(crate) struct DecisionsArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// Which of its schedules; not needed if there is only one
    #[arg(default_value = "", hide_default_value = true)]
    schedule: String,

    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Only ticks of this time (31d) or after this instant
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
}

impl Row for TickDecision {
    const PLURAL: &'static str = "decisions";
    const COLUMNS: &'static [Column] = &[
        Column::new("TICK"),
        Column::new("DECISION"),
        Column::new("STATE"),
        Column::new("LATE"),
        Column::new("LEADER"),
        Column::wide("DECIDED"),
        Column::wide("INDEX"),
    ];

    fn name(&self) -> String {
        self.logical_time.map(|time| time.to_string()).unwrap_or_default()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let time = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        let decision = match (&self.run_id, self.count) {
            (Some(run), _) => run.clone(),
            (None, ..2) => format!("skipped: {}", self.skip_reason),
            (None, count) => {
                format!("{count} skipped from {}: {}", time(self.first), self.skip_reason)
            }
        };
        let late = self.lateness.map(|late| plain_span(late.as_millis())).unwrap_or_default();
        vec![
            // What a tick is for is a name for people too, so it is never told relative to now.
            Cell::text(time(self.logical_time)),
            Cell::text(decision),
            Cell::State(self.run_state.clone()),
            Cell::text(late),
            Cell::text(&self.leader),
            Cell::Time(self.decided_at),
            Cell::Number(self.index),
        ]
    }
}

/// `matins schedule decisions`.
pub(super) async fn decisions(args: DecisionsArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let (workflow, schedule) = (context.workflow(&args.workflow), args.schedule);
    let mut forgotten = 0;
    let rows = gather(context, args.limit as usize, async |page_size, page_token| {
        let (workflow, schedule, since) = (workflow.clone(), schedule.clone(), args.since);
        let ask = ListDecisionsRequest { stale: false, workflow, schedule, since, page_size, page_token };
        let answer = client.call(ask).await?;
        forgotten = answer.skips_forgotten;
        Ok(Page { rows: answer.decisions, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await?;
    context.list(&rows)?;
    if forgotten > 0 {
        context.say(format!("{forgotten} skipped ticks are older than the record, and only counted"));
    }
    Ok(Exit::Done)
}
