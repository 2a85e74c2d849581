//! The calendars of schedules that were looked at of late, made once per version.

use std::collections::BTreeMap;
use std::sync::Arc;

use matins_core::id::ScheduleId;
use matins_core::ir;
use matins_core::state::ScheduleRow;
use matins_workflow::calendar::{Calendar, Cron, Zone};

/// How many are kept, of some 1,300 bytes each. To make one takes far less time than the commit that it is made for.
const KEPT_MAX: usize = 10_000;

/// Calendars of schedules as long as their version holds. Nothing is lost when it is emptied, as it is when it is full.
#[derive(Clone, Debug, Default)]
pub struct Calendars {
    by_schedule: BTreeMap<ScheduleId, (u64, Result<Arc<Calendar>, String>)>,
}

impl Calendars {
    /// The calendar of a schedule, or why its spec cannot be evaluated (PROTOCOL 3.6).
    pub fn of(&mut self, id: &ScheduleId, row: &ScheduleRow) -> Result<Arc<Calendar>, String> {
        if let Some((version, calendar)) = self.by_schedule.get(id)
            && *version == row.version
        {
            return calendar.clone();
        }
        if self.by_schedule.len() >= KEPT_MAX {
            self.by_schedule.clear();
        }
        let calendar = calendar_of(&row.spec).map(Arc::new);
        self.by_schedule.insert(id.clone(), (row.version, calendar.clone()));
        calendar
    }
}

/// Reads a spec with the zone tables of this release.
pub fn calendar_of(spec: &ir::Schedule) -> Result<Calendar, String> {
    let zone = Zone::parse(&spec.timezone).map_err(|error| error.to_string())?;
    let cron = |text: &String| Cron::parse(text).map_err(|error| format!("`{text}`: {error}"));
    let crons = spec.cron.iter().map(cron).collect::<Result<_, _>>()?;
    Ok(Calendar::new(crons, zone, spec.gap, spec.fold))
}
