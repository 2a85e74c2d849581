//! `schedule next`: the ticks to come, of a schedule of the cluster or of a cron text, which needs no server.

use clap::{Args, ValueEnum};
use matins_core::time::Timestamp;
use matins_proto::v1::NextTicksRequest;
use matins_workflow::calendar::{self, Calendar, Cron, Zone};

use super::ticks::next_ticks;
use crate::context::{Context, Format, Outcome, now};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::run::parse_instant;

/// Tell the next ticks of a schedule, or of any cron text without a server
///
/// Marks what a change of the clocks does to a tick.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins schedule next nightly-flights nightly
  matins schedule next --cron '30 2 * * *' --timezone America/New_York --after 2026-03-06T00:00:00Z
  matins schedule next --cron '@daily' --count 3 -o name")]
pub(crate) struct NextArgs {
    /// `namespace/name` or `name`
    #[arg(required_unless_present = "cron")]
    workflow: Option<String>,

    /// Which of its schedules; not needed if there is only one
    #[arg(default_value = "", hide_default_value = true)]
    schedule: String,

    /// A cron text of five fields, or six with seconds; several make one schedule. Asks no server
    #[arg(long, value_name = "EXPR", conflicts_with_all = ["workflow", "schedule"])]
    cron: Vec<String>,

    /// The zone in which --cron is read
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "cron")]
    timezone: String,

    /// What a local time that does not exist becomes
    #[arg(long, value_enum, default_value = "shift", requires = "cron")]
    gap: Gap,

    /// What a local time that exists twice becomes [default: first; both if the hour is a wildcard]
    #[arg(long, value_enum, requires = "cron")]
    fold: Option<Fold>,

    /// Ticks strictly after this instant [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    after: Option<matins_proto::Timestamp>,

    /// How many
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
}

/// What a local time that does not exist becomes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Gap {
    /// It is moved by the length of the gap: 02:30 becomes 03:30.
    Shift,
    /// No tick.
    Skip,
}

/// What a local time that exists twice becomes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fold {
    /// One tick, at its first instant.
    First,
    /// One tick, at its second instant.
    Second,
    /// Two ticks.
    Both,
}

/// `matins schedule next`.
pub(super) async fn next(args: NextArgs, context: &Context) -> Outcome {
    let ticks = if let Some(workflow) = &args.workflow {
        let ask = NextTicksRequest {
            stale: false,
            workflow: context.workflow(workflow),
            schedule: args.schedule.clone(),
            after: args.after,
            count: args.count,
        };
        context.client()?.call(ask).await?.ticks
    } else {
        let after = args.after.unwrap_or_else(now);
        next_ticks(&calendar_of(&args)?, Timestamp::from_millis(after.as_millis()), args.count as usize)
    };
    if ticks.len() < args.count as usize && matches!(context.format(), Format::Table | Format::Wide) {
        context.say("note: the calendar has no more ticks");
    }
    context.list(&ticks)?;
    Ok(Exit::Done)
}

fn calendar_of(args: &NextArgs) -> Result<Calendar, Fault> {
    let parse = |text: &String| {
        let unreadable = |error: calendar::CronError| {
            Fault::usage(format!("cannot read `{text}`: {error}")).hint(error.hint)
        };
        Cron::parse(text).map_err(unreadable)
    };
    let crons = args.cron.iter().map(parse).collect::<Result<_, _>>()?;
    let zone =
        Zone::parse(&args.timezone).map_err(|error| Fault::usage(error.to_string()).hint(error.hint()))?;
    let gap = match args.gap {
        Gap::Shift => calendar::Gap::Shift,
        Gap::Skip => calendar::Gap::Skip,
    };
    let fold = args.fold.map(|fold| match fold {
        Fold::First => calendar::Fold::First,
        Fold::Second => calendar::Fold::Second,
        Fold::Both => calendar::Fold::Both,
    });
    Ok(Calendar::new(crons, zone, gap, fold))
}
