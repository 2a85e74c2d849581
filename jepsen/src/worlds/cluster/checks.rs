//! What must hold in every state, and after every entry.

use std::collections::BTreeMap;

use matins_core::id::{Fence, TaskId};
use matins_core::{Effect, State};

use super::Cluster;

/// After an entry: the invariants that the state shows by itself, and those that need the state before.
pub(super) fn after_entry(before: &State, after: &State, effects: &[Effect]) -> Result<(), String> {
    if let Some(fault) = after.check().into_iter().next() {
        return Err(fault);
    }
    if after.now < before.now {
        return Err("I13: `state.now` fell".into());
    }
    for (id, row) in before.executors.iter() {
        let newest = after.executors.get(id).map(|row| row.session);
        if newest.is_none_or(|newest| newest < row.session) {
            return Err(format!("5.4: the session of executor {id} fell from {} to {newest:?}", row.session));
        }
    }
    for effect in effects {
        if let Effect::Granted { fence, executor, session, .. } = effect
            && before.cluster.counters.fence >= fence.0
        {
            return Err(format!("I5: {fence} was granted again, to {executor} in {session}"));
        }
    }
    Ok(())
}

impl Cluster {
    /// What the processes themselves show, against the agreed state.
    pub(super) fn check_processes(&self) -> Result<(), String> {
        let mut alive: Vec<(usize, Fence)> = Vec::new();
        for (place, host) in self.hosts.iter().enumerate() {
            for supervisor in &host.supervisors {
                let living = supervisor.processes.iter().filter(|(_, group)| group.is_alive());
                let before = alive.len();
                alive.extend(living.map(|(fence, _)| (place, *fence)));
                if alive.len() > before && supervisor.machine.next_wake().is_none() {
                    let (_, fence) = alive[before];
                    return Err(format!("5.1: the process of {fence} on E{} has no deadline", place + 1));
                }
            }
        }
        let state = self.state();
        let mut tasks: BTreeMap<TaskId, Fence> = BTreeMap::new();
        let mut in_pool = 0;
        for (host, fence) in &alive {
            let Some(task) = task_of(state, *fence) else {
                return Err(format!("I7: the process of {fence} on E{} has no attempt", host + 1));
            };
            if let Some(other) = tasks.insert(task, *fence) {
                return Err(format!("I6: two processes of {task:?} are alive, of {other} and of {fence}"));
            }
            if !state.live.contains(fence) {
                return Err(format!(
                    "I6: {fence} has ended in the state, and its process lives on E{}",
                    host + 1
                ));
            }
            in_pool += 1;
        }
        if self.shape.has_pool && in_pool > 1 {
            return Err("I9: two processes share a pool of one slot".into());
        }
        Ok(())
    }
}

fn task_of(state: &State, fence: Fence) -> Option<TaskId> {
    let live = state.live.get(&fence).map(|(task, _)| *task);
    live.or_else(|| {
        let mut attempts = state.attempts.iter();
        attempts.find(|(_, row)| row.fence == fence).map(|((task, _), _)| *task)
    })
}
