//! The calendar of each schedule, made once per version.

use std::collections::BTreeMap;
use std::sync::Arc;

use matins_core::id::ScheduleId;
use matins_core::ir;
use matins_core::state::{ScheduleRow, State};
use matins_workflow::calendar::{Calendar, Cron, Zone};

/// Calendars of schedules as long as their version holds. Nothing is lost when it is emptied.
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
        let calendar = calendar_of(&row.spec).map(Arc::new);
        self.by_schedule.insert(id.clone(), (row.version, calendar.clone()));
        calendar
    }

    /// Forgets schedules that are gone. Costs one look at each; called when there are many more than the state has.
    pub fn forget_gone(&mut self, state: &State) {
        if self.by_schedule.len() > 2 * state.schedules.len() + 100 {
            self.by_schedule.retain(|id, _| state.schedules.contains(id));
        }
    }
}

/// Reads a spec with the zone tables of this release.
pub fn calendar_of(spec: &ir::Schedule) -> Result<Calendar, String> {
    let zone = Zone::parse(&spec.timezone).map_err(|error| error.to_string())?;
    let cron = |text: &String| Cron::parse(text).map_err(|error| format!("`{text}`: {error}"));
    let crons = spec.cron.iter().map(cron).collect::<Result<_, _>>()?;
    Ok(Calendar::new(crons, zone, spec.gap, spec.fold))
}
