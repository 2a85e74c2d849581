//! Verbs about schedules: listed, told in advance, accounted for, held.
//!
//! `schedule next --cron` needs no server: `ticks` computes what the cluster would. Start at [`ScheduleVerb`].

mod decisions;
mod next;
pub(crate) mod ticks;

use clap::{Args, Subcommand};
use matins_proto::v1::{
    ListSchedulesRequest, PauseScheduleRequest, ResumeScheduleRequest, Schedule,
    schedule::{Fold, Gap},
};

use crate::context::{Context, Outcome, Repeat};
use crate::output::{Cell, Column, Look, Row};
use crate::pages::{LIST_MAX, Page, Watching, show};

/// What can be done with schedules.
#[derive(Subcommand, Debug)]
pub(crate) enum ScheduleVerb {
    List(ListArgs),
    Next(next::NextArgs),
    Decisions(decisions::DecisionsArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
}

/// List schedules, with their next ticks
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins schedule list nightly-flights -o wide")]
pub(crate) struct ListArgs {
    /// Only schedules of this workflow
    workflow: Option<String>,

    /// The most that are shown
    #[arg(long, value_name = "N", default_value_t = LIST_MAX, hide_default_value = true)]
    limit: usize,

    #[command(flatten)]
    watching: Watching,
}

/// Hold one schedule
///
/// Ticks before the pause stay due, those inside it are skipped. `apply` never undoes a pause.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins schedule pause nightly-flights sunday-full")]
pub(crate) struct PauseArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// Which of its schedules; not needed if there is only one
    #[arg(default_value = "", hide_default_value = true)]
    schedule: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Let one schedule go on, from now
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins schedule resume nightly-flights sunday-full")]
pub(crate) struct ResumeArgs {
    /// `namespace/name` or `name`
    workflow: String,

    /// Which of its schedules; not needed if there is only one
    #[arg(default_value = "", hide_default_value = true)]
    schedule: String,

    #[command(flatten)]
    repeat: Repeat,
}

impl ScheduleVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::List(args) => list(args, context).await,
            Self::Next(args) => next::next(args, context).await,
            Self::Decisions(args) => decisions::decisions(args, context).await,
            Self::Pause(args) => pause(args, context).await,
            Self::Resume(args) => resume(args, context).await,
        }
    }
}

impl Row for Schedule {
    const PLURAL: &'static str = "schedules";
    const COLUMNS: &'static [Column] = &[
        Column::new("WORKFLOW"),
        Column::new("SCHEDULE"),
        Column::spare("CRON"),
        Column::spare("TIME ZONE"),
        Column::wide("GAP"),
        Column::wide("FOLD"),
        Column::new("STATE"),
        Column::new("NEXT"),
        Column::wide("MARK"),
        Column::wide("FIRED"),
        Column::wide("SKIPPED"),
        Column::wide("LATEST RUN"),
    ];

    fn name(&self) -> String {
        format!("{}/{}", self.workflow, self.name)
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let state = match (&self.quarantine, self.enabled, self.paused) {
            (Some(_), _, _) => "quarantined",
            (None, false, _) => "disabled",
            (None, true, true) => "paused",
            (None, true, false) => "active",
        };
        let gap = match self.gap() {
            Gap::Shift => "shift",
            Gap::Skip => "skip",
            Gap::Unspecified => "",
        };
        let fold = match self.fold() {
            Fold::First => "first",
            Fold::Second => "second",
            Fold::Both => "both",
            Fold::Unspecified => "",
        };
        let skipped: Vec<String> =
            self.skipped.iter().map(|skipped| format!("{} {}", skipped.count, skipped.reason)).collect();
        vec![
            Cell::text(&self.workflow),
            Cell::text(&self.name),
            Cell::text(self.cron.join(", ")),
            Cell::text(&self.timezone),
            Cell::text(gap),
            Cell::text(fold),
            Cell::State(state.into()),
            Cell::Time(self.next),
            Cell::Time(self.mark),
            Cell::Number(self.fired),
            Cell::text(skipped.join(", ")),
            Cell::text(self.latest_run_id.clone().unwrap_or_default()),
        ]
    }
}

async fn list(args: ListArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let workflow = args.workflow.map(|name| context.workflow(&name)).unwrap_or_default();
    show(context, (args.limit, args.watching), async |page_size, page_token| {
        let (namespace, workflow) = (context.namespace(), workflow.clone());
        let ask = ListSchedulesRequest { stale: false, namespace, workflow, page_size, page_token };
        let answer = client.call(ask).await?;
        Ok(Page { rows: answer.schedules, next: answer.next_page_token, read_at: answer.read_at })
    })
    .await
}

/// What a schedule is called in a sentence.
fn called(workflow: &str, schedule: &str) -> String {
    if schedule.is_empty() {
        format!("the schedule of {workflow}")
    } else {
        format!("schedule {schedule} of {workflow}")
    }
}

async fn pause(args: PauseArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let name = called(&workflow, &args.schedule);
    let (request_id, schedule) = (args.repeat.request_id, args.schedule);
    let ask = PauseScheduleRequest { request_id, not_after: None, workflow, schedule };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{name} is paused"))
}

async fn resume(args: ResumeArgs, context: &Context) -> Outcome {
    let workflow = context.workflow(&args.workflow);
    let name = called(&workflow, &args.schedule);
    let (request_id, schedule) = (args.repeat.request_id, args.schedule);
    let ask = ResumeScheduleRequest { request_id, not_after: None, workflow, schedule };
    let answer = context.client()?.call(ask).await?;
    context.done(&answer, format!("{name} goes on from now"))
}
