//! History as backfills ask for it: the runs of one tick, from this node's index.

use matins_core::id::{RunId, ScheduleId};
use matins_core::state::{PastOutcome, PastRow, RunState};
use matins_core::time::Timestamp;

use super::backfill::{History, NoHistory};
use crate::history::History as Finished;
use crate::system::wait_here;

/// The history of this node.
pub(crate) struct Past(pub(crate) Finished);

impl Past {
    fn at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Vec<(RunId, RunState)>, NoHistory> {
        if self.0.is_incomplete() {
            return Err(NoHistory);
        }
        let runs = self.0.runs_at(schedule, (tick, tick)).map_err(|error| {
            tracing::warn!(%error, "history cannot be read");
            NoHistory
        })?;
        Ok(runs.into_iter().map(|run| (run.run, run.state)).collect())
    }
}

impl History for Past {
    fn runs_at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Vec<(RunId, RunState)>, NoHistory> {
        self.at(schedule, tick)
    }

    fn past_at(&self, schedule: &ScheduleId, tick: Timestamp) -> Result<Option<PastRow>, NoHistory> {
        let Some((run, _)) = self.at(schedule, tick)?.into_iter().max_by_key(|(run, _)| *run) else {
            return Ok(None);
        };
        // Rare: a backfill of tasks that depend on the past, begun behind what the state keeps. The block may have to
        // come from a peer, so this thread is given up for the time.
        let retired = wait_here(self.0.run(run)).ok_or(NoHistory)?.map_err(|error| {
            tracing::warn!(%error, %run, "a finished run cannot be read");
            NoHistory
        })?;
        let Some(retired) = retired else { return Ok(None) };
        let tasks = retired.tasks.iter().filter(|(task, _)| task.item.is_none());
        let ended = tasks
            .filter_map(|(task, row)| {
                Some((retired.task_names.get(usize::from(task.task))?.clone(), PastOutcome::of(&row.state)))
            })
            .collect();
        Ok(Some(PastRow { run, ended: Some(ended) }))
    }
}
