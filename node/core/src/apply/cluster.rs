//! Leadership, time and the rules of the cluster (PROTOCOL 1, 2).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{FullDisk, StopHow};
use crate::effect::Effect;
use crate::id::{ExecutorId, Leadership, LogIndex, NodeId};
use crate::mutation::{Mutation, planted};
use crate::state::settings::Change;
use crate::state::{
    BackfillState, LEADERSHIPS_KEPT_MAX, Leader, LeadershipRow, REMOVALS_KEPT_MAX, Settings, WorkKey,
};
use crate::time::{Millis, Timestamp};

use super::{Applied, Step, conflict};

impl Step<'_> {
    /// The first entry of a leadership. Liveness is not known yet, so no executor is given anything (PROTOCOL 5.6).
    pub(super) fn leader_ready(&mut self, node: NodeId, nonce: u64) -> Applied {
        let leadership = Leadership(self.state.index.0);
        self.note_outage();
        if planted(Mutation::FailoverMissesTicks) {
            self.state.cluster.outage_end = Some(self.now() + self.state.cluster.settings.grace);
        }
        if planted(Mutation::IdempotencyInTheHandler) {
            (self.state.requests, self.state.requests_by_expiry) = Default::default();
        }
        self.state.cluster.leader = Some(Leader { node, nonce, leadership, since: self.now() });
        self.state.cluster.counters.leaderships += 1;
        self.state.leaderships.insert(leadership, LeadershipRow { node, since: self.now() });
        if self.state.leaderships.len() > LEADERSHIPS_KEPT_MAX {
            let oldest = self.state.leaderships.first().map(|(leadership, _)| *leadership);
            oldest.and_then(|oldest| self.state.leaderships.remove(&oldest));
        }
        let now = self.now();
        let executors: Vec<ExecutorId> = self.state.executors.iter().map(|(id, _)| *id).collect();
        for executor in executors {
            self.state.executors.update(&executor, |row| _ = row.cordoned_at.get_or_insert(now));
            self.effects.push(Effect::Executor(executor));
        }
        Ok(Answer::Ready(leadership))
    }

    /// A leader with nothing to say still says the time.
    pub(super) fn time(&mut self) -> Applied {
        self.note_outage();
        Ok(Answer::Done)
    }

    /// PROTOCOL 3.2: a jump beyond the grace is an outage, and only what it left behind can be missed.
    fn note_outage(&mut self) {
        let had_time = self.now() > Timestamp::ZERO + self.moved_by;
        if had_time && self.moved_by > self.state.cluster.settings.grace {
            self.state.cluster.outage_end = Some(self.now());
            self.effects.push(Effect::Timer);
        }
    }

    /// Founds the cluster.
    pub(super) fn init(&mut self, cluster: u64, settings: Settings) -> Applied {
        if self.state.cluster.id.is_some() {
            return Err(Refusal::Exists(Thing::Cluster));
        }
        check_settings(&settings)?;
        self.state.cluster.id = Some(cluster);
        // That of the one who founds it, and not of who applies this: a replica may support more.
        self.state.cluster.level = self.level;
        self.state.cluster.settings = settings;
        Ok(Answer::Done)
    }

    /// Changes the rules. Sessions keep the terms that they were opened under.
    pub(super) fn set_settings(&mut self, settings: Settings) -> Applied {
        check_settings(&settings)?;
        self.state.cluster.settings = settings;
        Ok(Answer::Done)
    }

    /// Changes some of the rules, all of these or none.
    pub(super) fn change_settings(&mut self, changes: &[Change]) -> Applied {
        let before = self.state.cluster.settings.clone();
        let settings = changes.iter().fold(before, |settings, change| settings.with(*change));
        self.set_settings(settings)
    }

    /// A node is about to be taken out; the oldest of too many are forgotten.
    pub(super) fn member_goes(&mut self, node: NodeId, name: String) -> Applied {
        let removals = &mut self.state.cluster.removals;
        removals.retain(|(removed, _)| *removed != node);
        removals.push((node, name));
        let too_many = removals.len().saturating_sub(REMOVALS_KEPT_MAX);
        removals.drain(..too_many);
        Ok(Answer::Done)
    }

    /// What the leader heard of the nodes' disks (PROTOCOL 6.12). When there is room again what waited for it is looked at.
    pub(super) fn disks(&mut self, full: Option<FullDisk>) -> Applied {
        self.state.cluster.full_disk = full;
        if self.state.cluster.full_disk.is_none() {
            let running = self.state.backfills.iter().filter(|(_, row)| row.state == BackfillState::Running);
            self.backfills.extend(running.map(|(id, _)| *id));
        }
        self.effects.push(Effect::Timer);
        Ok(Answer::Done)
    }

    /// From the next entry on new behaviour is allowed that older releases do not know (PROTOCOL 6.9). It never falls.
    pub(super) fn raise_level(&mut self, level: u16, members: LogIndex) -> Applied {
        let in_force = self.state.cluster.level;
        if members != self.state.cluster.members {
            return Err(Refusal::Stale(Stale::Members));
        }
        if level < in_force {
            return Err(conflict(
                Thing::Cluster,
                format!("its feature level is {in_force}, and it never falls"),
                "nothing is to be done: newer releases support all older levels",
            ));
        }
        self.state.cluster.level = level;
        Ok(Answer::Done)
    }

    /// A person says that the clocks are right (PROTOCOL 1.2).
    pub(super) fn accept_time(&mut self, up_to: Timestamp) -> Applied {
        if up_to <= self.now() {
            return Err(conflict(
                Thing::Cluster,
                "its time is past that instant already",
                "nothing waits for your word: see `matins cluster status`",
            ));
        }
        self.state.cluster.time_accepted = up_to;
        self.effects.push(Effect::Timer);
        Ok(Answer::Done)
    }

    /// Goes on with work that was too large for one command (PROTOCOL 4.5).
    pub(super) fn go_on(&mut self) -> Applied {
        while self.rows_left > 0 {
            let Some((work, ())) = self.state.work.first() else { break };
            let work = work.clone();
            self.state.work.remove(&work);
            self.touch(1);
            match work {
                WorkKey::CancelRun { run, from, how } => self.cancel_tasks(run, from, how),
                WorkKey::Place(limit) => self.free(limit),
                WorkKey::OpenGate(workflow) => {
                    self.gates.insert(workflow);
                }
                WorkKey::Backfill(backfill) => {
                    self.backfills.insert(backfill);
                }
                WorkKey::CancelBackfill { backfill, from } => {
                    self.cancel_runs_of(backfill, from, StopHow::Grace);
                }
            }
        }
        Ok(Answer::Done)
    }

    /// Leaves work for the leader to go on with.
    pub(super) fn leave(&mut self, work: WorkKey) {
        self.state.work.insert(work, ());
        self.effects.push(Effect::Timer);
    }
}

/// A repeat of a command finds its answer for an hour (PROTOCOL 4.6), and whoever heard it finds the run as long.
const AGE_MIN: Millis = Millis::from_hours(1);

/// Rules that would break the promises are refused.
fn check_settings(settings: &Settings) -> Result<(), Refusal> {
    let lease = settings.lease;
    if lease.length < Millis(500) || lease.length > Millis::from_mins(10) {
        return Err(Refusal::Invalid("the lease length must lie between 500ms and 10m".into()));
    }
    if lease.kill_budget < Millis(100) || lease.kill_budget > Millis::from_mins(10) {
        return Err(Refusal::Invalid("the kill budget must lie between 100ms and 10m".into()));
    }
    if lease.rho_ppm > 50_000 {
        return Err(Refusal::Invalid("rho must be 50000 ppm at most".into()));
    }
    let retention = settings.retention;
    if retention.runs_age < AGE_MIN || retention.logs_age < AGE_MIN {
        return Err(Refusal::Invalid("history and logs are kept for an hour at least".into()));
    }
    if settings.rows_per_command_max == 0 || settings.items_max == 0 {
        return Err(Refusal::Invalid("a limit of zero would stop all work".into()));
    }
    Ok(())
}
