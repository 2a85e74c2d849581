//! A cluster that begins anew from what one directory or a backup holds (PROTOCOL 6.10).
//!
//! It happens once, offline, to a state that no other node shares any more. What the lost cluster gave out after this state
//! was taken is not known, so every number that names something jumps far ahead.

use alloc::vec::Vec;

use crate::answer::{Answer, Refusal};
use crate::command::{After, Refound, StopHow};
use crate::id::{BackfillId, ExecutorId, Fence, RunId, WorkflowName};
use crate::state::{AttemptOutcome, BackfillState, LogState, LostReason, Refounded, RunRow, RunState};

use super::{Applied, Step};

/// Runs, backfills and versions of schedules go on behind the next but one multiple of this: people read them.
const NUMBERS_AHEAD: u64 = 1_000_000;
/// Fences go on so much later: nobody reads them, and a cluster grants many.
const FENCES_AHEAD: u64 = 1_000_000_000;
/// The upper 16 bits of an id are its group (DESIGN 4).
const NUMBER_MAX: u64 = (1 << 48) - 1;
/// What a run that did not go on is told.
const WHY: &str = "the cluster was restored from a backup; `matins retry` goes on with what had succeeded";

impl Step<'_> {
    /// The cluster gets a new id, and numbers that the old one has not given out.
    pub(super) fn refound(&mut self, refound: &Refound) -> Applied {
        let from = self.state.cluster.id.unwrap_or(0);
        if refound.cluster == 0 || refound.cluster == from {
            return Err(Refusal::Invalid("a cluster that begins anew needs a new id".into()));
        }
        self.jump_ahead()?;
        // All of it is one step of one process: there is no leader to go on with what is left.
        self.rows_left = u32::MAX;
        let cluster = &mut self.state.cluster;
        cluster.id = Some(refound.cluster);
        cluster.leader = None;
        // Its first membership stands where it begins (PROTOCOL 6.9).
        cluster.members = self.state.index;
        cluster.checkpoint = None;
        cluster.full_disk = None;
        let is_held = refound.schedules == After::Ends;
        cluster.refounded = Some(Refounded { from, index: refound.last, at: self.state.now, is_held });
        if is_held {
            self.hold_schedules();
        }
        if refound.runs == After::Ends {
            self.cancel_all_runs();
        } else if refound.executors == After::Ends {
            self.lose_all_attempts();
        }
        if refound.executors == After::Ends {
            self.forget_executors();
        }
        Ok(Answer::Done)
    }

    fn jump_ahead(&mut self) -> Result<(), Refusal> {
        let mut counters = self.state.cluster.counters.clone();
        for number in [&mut counters.run, &mut counters.backfill, &mut counters.schedule_version] {
            *number = (*number / NUMBERS_AHEAD).saturating_add(2).saturating_mul(NUMBERS_AHEAD);
        }
        counters.fence = counters.fence.saturating_add(FENCES_AHEAD);
        let highest = counters.run.max(counters.backfill).max(counters.schedule_version).max(counters.fence);
        if highest > NUMBER_MAX {
            return Err(Refusal::Limit {
                limit: "the highest number of an id".into(),
                value: NUMBER_MAX,
                asked: highest,
                hint: "make a new cluster and apply the workflows there".into(),
            });
        }
        self.state.cluster.counters = counters;
        Ok(())
    }

    /// Nothing makes runs by itself until a person says so: the lost cluster may have made them.
    fn hold_schedules(&mut self) {
        let workflows = self.state.workflows.iter();
        let going = workflows.filter(|(_, row)| row.current.is_some() && row.paused_at.is_none());
        let going: Vec<WorkflowName> = going.map(|(name, _)| name.clone()).collect();
        for workflow in going {
            // It is registered, so nothing refuses it.
            self.pause_workflow(&workflow).ok();
        }
        let running = self.state.backfills.iter().filter(|(_, row)| row.state == BackfillState::Running);
        let running: Vec<BackfillId> = running.map(|(id, _)| *id).collect();
        for backfill in running {
            self.pause_backfill(backfill).ok();
        }
    }

    /// Ends every run that had not finished; its attempts end as lost, since nobody knows what became of them.
    fn cancel_all_runs(&mut self) {
        let active: Vec<RunId> =
            self.state.runs.iter().filter(|(_, row)| row.is_active()).map(|(id, _)| *id).collect();
        for run in &active {
            self.state.runs.update(run, |row| {
                row.reason.get_or_insert_with(|| WHY.into());
                // What ends now draws no retry. A queued run leaves its gate below.
                if row.state == RunState::Running {
                    row.state = RunState::Stopping;
                }
            });
        }
        self.lose_all_attempts();
        for run in active {
            if self.state.runs.get(&run).is_some_and(RunRow::is_active) {
                self.stop_run(run, StopHow::Now);
            }
        }
    }

    fn lose_all_attempts(&mut self) {
        let live: Vec<Fence> = self.state.live.iter().map(|(fence, _)| *fence).collect();
        for fence in live {
            self.end_live(fence, AttemptOutcome::Lost(LostReason::Restored), None);
        }
    }

    /// Executors of the old cluster never come back under their ids: their logs are lost with them.
    fn forget_executors(&mut self) {
        let open: Vec<Fence> = self.state.logs_open.iter().map(|(fence, _)| *fence).collect();
        for fence in open {
            self.settle_log(fence, LogState::Lost);
        }
        let sessions: Vec<_> = self.state.sessions.iter().map(|(key, _)| *key).collect();
        for key in sessions {
            self.state.sessions.remove(&key);
        }
        let executors: Vec<ExecutorId> = self.state.executors.iter().map(|(id, _)| *id).collect();
        for executor in executors {
            self.state.executors.remove(&executor);
        }
    }
}
