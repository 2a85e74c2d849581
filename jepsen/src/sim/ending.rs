//! The second phase: everything must end, and ticks go on, within a bounded time (I15).

use std::collections::BTreeSet;

use matins_core::id::RunId;
use matins_core::state::{Next, RunState, State, TaskState};

use super::agenda::{HOUR, Instant, MINUTE, SEC};
use super::world::World;

/// As long as there is work some of it ends within this.
const STALL_MAX: u64 = 2 * HOUR;
/// Everything that was there when the faults ended has ended so long after, unless there is more to do than the
/// executors can: then it is enough that something always ends.
const END_WITHIN: u64 = 12 * HOUR;
/// A tick is decided within this once all is well.
const TICK_WITHIN_MS: i64 = 60_000;

impl World {
    /// Waits for the end of all work that there is now.
    pub(super) fn await_ends(&mut self) -> Result<(), String> {
        let began = self.agenda.now();
        let settled = began + self.settling_time();
        self.go_on_until(settled)?;
        self.await_health()?;
        let state = self.state();
        let open: BTreeSet<RunId> =
            state.runs.iter().filter(|(_, row)| row.is_active()).map(|(run, _)| *run).collect();
        let mut until = self.agenda.now();
        let mut active = open.len();
        let mut ended_at = until;
        let mut granted = self.consensus.state.cluster.counters.fence;
        loop {
            let left = self.open_of(&open);
            if left.is_empty() {
                break;
            }
            let is_outranked =
                granted < self.consensus.state.cluster.counters.fence && self.all_wait_for_room(&left);
            if until > ended_at + STALL_MAX + self.settling_time() && !is_outranked {
                return Err(format!(
                    "I15: {} s after the last fault there are runs that do not end: {}",
                    (until - began) / SEC,
                    self.tell(&left)
                ));
            }
            if until > began + END_WITHIN {
                self.counts.busy = 1;
                break;
            }
            until += MINUTE;
            self.go_on_until(until)?;
            let still = open.iter().filter(|run| self.is_active(**run)).count();
            if still < active {
                (active, ended_at) = (still, until);
                granted = self.consensus.state.cluster.counters.fence;
            }
        }
        self.counts.longest_end_s = (self.agenda.now() - began) / SEC;
        self.check_ticks()?;
        self.compare_now();
        self.broken.take().map_or(Ok(()), Err)
    }

    /// Nodes that are well take part again, once people have taken back their drains; what they ask for may have to be
    /// asked again.
    fn await_health(&mut self) -> Result<(), String> {
        let mut last = Ok(());
        for _ in 0..10 {
            self.take_back();
            let until = self.agenda.now() + MINUTE + 4 * self.knobs.answer_within;
            self.go_on_until(until)?;
            last = self.check_healed();
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Elections, the end of the sessions that died, and of the longest `on_disconnect`.
    fn settling_time(&self) -> Instant {
        let lease = u64::from(self.knobs.lease.rho_ppm) / 10_000 + 3;
        5 * MINUTE + lease * self.knobs.lease.length.0 * 1_000_000 + 3 * self.knobs.task_max
    }

    /// Nodes that are well take part again.
    fn check_healed(&self) -> Result<(), String> {
        let Some(leader) = self.consensus.leader.filter(|proc| self.lives(*proc) && self.is_ready(proc.node))
        else {
            return Err("I15: a majority is healthy and nobody leads".into());
        };
        let state = &self.consensus.state;
        for node in &self.healed {
            let row = state.executors.get(&self.nodes[*node].id);
            let is_used = row.is_some_and(|row| !row.is_cordoned() && !row.is_drained);
            if !is_used || !self.executor_is_valid(*node) {
                let told = row.map(|row| (row.is_cordoned(), row.is_drained, row.session));
                return Err(format!(
                    "I15: node {} is well and takes no work: (cordoned, drained, session) {told:?}, node {} leads",
                    node + 1,
                    leader.node + 1
                ));
            }
        }
        Ok(())
    }

    /// No tick stays due (I15).
    fn check_ticks(&self) -> Result<(), String> {
        let state = &self.consensus.state;
        let late = state.schedules.iter().find(|(_, row)| match row.next {
            Next::At(at) => state.now.as_millis() - at.as_millis() > TICK_WITHIN_MS,
            Next::Unknown => true,
            Next::Never => false,
        });
        late.map_or(Ok(()), |(id, row)| {
            Err(format!("I15: {id} is due at {:?} and it is {:?}", row.next, state.now))
        })
    }

    /// Runs of a set that are still active, but for those that wait for a person to repair the past.
    fn open_of(&self, runs: &BTreeSet<RunId>) -> Vec<RunId> {
        let state = &self.consensus.state;
        let waiting: BTreeSet<RunId> =
            state.runs.iter().map(|(run, _)| *run).filter(|run| waits_for_person(state, *run)).collect();
        runs.iter().filter(|run| self.is_active(**run) && !waiting.contains(run)).copied().collect()
    }

    /// Whether these only wait for slots that others get meanwhile: backfills come after what is due.
    fn all_wait_for_room(&self, runs: &[RunId]) -> bool {
        let state = &self.consensus.state;
        runs.iter().all(|run| {
            state.runs.get(run).is_some_and(|row| row.state == RunState::Queued)
                || state
                    .tasks_of(*run)
                    .filter(|(_, row)| !row.state.has_ended())
                    .all(|(task, _)| state.held_back_by(*task).is_some())
        })
    }

    fn is_active(&self, run: RunId) -> bool {
        self.consensus.state.runs.get(&run).is_some_and(matins_core::state::RunRow::is_active)
    }

    fn tell(&self, runs: &[RunId]) -> String {
        let state = &self.consensus.state;
        let told = runs.iter().take(3).map(|run| {
            let open = state.tasks_of(*run).filter(|(_, row)| !row.state.has_ended());
            let open: Vec<String> = open
                .map(|(task, row)| format!("{task:?} {:?} {:?}", row.state, state.held_back_by(*task)))
                .collect();
            let row = state.runs.get(run).map(|row| (row.state, row.workflow.to_string()));
            format!("{run} {row:?} {open:?}")
        });
        format!("{} of them, {}", runs.len(), told.collect::<Vec<_>>().join("; "))
    }

    pub(super) fn tell_counts(&mut self) {
        self.counts.seeds = 1;
        self.counts.runs = self.consensus.state.cluster.counters.run;
        self.counts.cluster_seconds = self.agenda.now() / SEC;
        self.counts.events = self.agenda.asked();
    }
}

/// Whether all that is open of a run waits for the past to be repaired (LANGUAGE 1.25), or for a run that does.
fn waits_for_person(state: &State, run: RunId) -> bool {
    let mut open = state.tasks_of(run).filter(|(_, row)| !row.state.has_ended()).peekable();
    open.peek().is_some()
        && open.all(|(_, row)| matches!(row.state, TaskState::WaitingForPast { .. } | TaskState::Waiting))
}
