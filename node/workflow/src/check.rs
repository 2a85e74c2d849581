//! What `matins check` says beside the faults: when each schedule is due next, and what the next changes of the clocks
//! do to it.
//!
//! Start reading at [`preview`].

use std::fmt::Write as _;

use matins_core::id::{ScheduleName, WorkflowName};
use matins_core::time::Timestamp;

use crate::calendar::{Calendar, DstNight, FoldCopy, LocalTime, Mark, Tick, Zone, moment};
use crate::compile::Compiled;

/// How many changes of the clocks are told: one of each kind in most zones.
const NIGHTS: usize = 2;

/// A schedule and its near future.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulePreview {
    /// Whose runs it makes.
    pub workflow: WorkflowName,
    /// Its name there.
    pub schedule: ScheduleName,
    /// As the file has them.
    pub cron: Vec<String>,
    /// In which they are read.
    pub zone: Zone,
    /// The file's own switch.
    pub is_enabled: bool,
    /// Oldest first.
    pub ticks: Vec<Tick>,
    /// The next changes of the clocks, whether they touch a tick or not; none in a zone without them.
    pub nights: Vec<DstNight>,
}

/// The next `count` ticks after `after` of every schedule of `compiled`, in the order of the files.
pub fn preview(compiled: &Compiled, after: Timestamp, count: usize) -> Vec<SchedulePreview> {
    let mut previews = Vec::new();
    for workflow in &compiled.workflows {
        for schedule in &workflow.ir.schedules {
            let calendar = Calendar::from_schedule(schedule).expect("the compiler has checked cron and zone");
            previews.push(SchedulePreview {
                workflow: workflow.ir.name.clone(),
                schedule: schedule.name.clone(),
                cron: schedule.cron.clone(),
                zone: calendar.zone().clone(),
                is_enabled: schedule.is_enabled,
                ticks: calendar.ticks(after, Timestamp::MAX, count).collect(),
                nights: calendar.dst_nights(after, NIGHTS),
            });
        }
    }
    previews
}

impl SchedulePreview {
    /// Several lines, with a line feed at the end.
    pub fn render(&self) -> String {
        let mut text =
            format!("{}:{}  {}  {}", self.workflow, self.schedule, self.cron.join(" | "), self.zone);
        text.push_str(if self.is_enabled { "\n" } else { "  (enabled: false)\n" });
        for (index, tick) in self.ticks.iter().enumerate() {
            let label = if index == 0 { "next" } else { "" };
            let mark = tick.mark.map(|mark| format!("  {}", marked(mark))).unwrap_or_default();
            let time = moment::datetime(tick.at, &self.zone);
            writeln!(text, "  {label:<5} {time}{mark}").expect("a String takes all");
        }
        if self.ticks.is_empty() {
            text.push_str("  never due again\n");
        }
        for night in &self.nights {
            writeln!(text, "  {}", self.night(night)).expect("a String takes all");
        }
        text
    }

    fn night(&self, night: &DstNight) -> String {
        let day = moment::date(night.at, &self.zone);
        let mut text = format!("{day} the clocks go from {} to {}: ", clock(night.from), clock(night.to));
        let ticks = night.ticks.iter().map(|tick| {
            let due = moment::strftime(tick.at, &self.zone, "%H:%M:%S").unwrap_or_default();
            let due = due.strip_suffix(":00").unwrap_or(&due);
            match tick.mark {
                Some(Mark::Gap { nominal }) => format!("{} does not exist, due at {due}", clock(nominal)),
                Some(Mark::Fold(copy)) => format!("{due} exists twice, due the {} time", ordinal(copy)),
                None => format!("due at {due}"),
            }
        });
        let skipped = night.skipped.iter().map(|local| format!("{} does not exist, not due", clock(*local)));
        let said: Vec<_> = ticks.chain(skipped).collect();
        text.push_str(&if said.is_empty() { "no tick is touched".to_owned() } else { said.join("; ") });
        text
    }
}

fn marked(mark: Mark) -> String {
    match mark {
        Mark::Gap { nominal } => format!("({} does not exist that day)", clock(nominal)),
        Mark::Fold(copy) => format!("(the {} of two)", ordinal(copy)),
    }
}

const fn ordinal(copy: FoldCopy) -> &'static str {
    match copy {
        FoldCopy::First => "first",
        FoldCopy::Second => "second",
    }
}

/// The time of day; seconds only where there are some.
fn clock(local: LocalTime) -> String {
    let text = local.to_string();
    let time = text.split_once('T').map_or(text.as_str(), |(_, time)| time);
    time.strip_suffix(":00").unwrap_or(time).to_owned()
}
