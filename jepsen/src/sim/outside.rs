//! What the promises look like from outside: the processes that really run, by true time.
//!
//! Nothing here trusts what the cluster says of an attempt; it counts processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use matins_core::command::{Command, Entry, Proposal};
use matins_core::id::{ExecutorId, Fence, LogIndex, TaskId};
use matins_core::ir::TriggerRule;
use matins_core::state::{AttemptOutcome, AttemptState, State, TaskState};
use matins_core::{Answer, Effect, Outcome, Refusal};

use super::hosts::TermTakes;
use super::world::World;

/// The processes of one attempt.
pub(super) struct Process {
    pub(super) node: usize,
    pub(super) supervisor: usize,
    /// It takes no notice of TERM.
    pub(super) is_stubborn: bool,
    pub(super) first_lives: bool,
    /// There are others in its group.
    pub(super) has_children: bool,
    /// The README names what may make it live on: its machine slept past its lease, its clock is off by more than rho,
    /// or its supervisor was killed.
    pub(super) is_told_apart: bool,
}

/// All processes that run, by fence.
#[derive(Default)]
pub(super) struct Processes {
    by_fence: BTreeMap<Fence, (TaskId, Process)>,
    /// The highest fence that was ever started, by task.
    started: BTreeMap<TaskId, Fence>,
    /// Groups without a supervisor, which live on until somebody looks for them.
    orphans: BTreeSet<Fence>,
}

impl Processes {
    pub(super) fn node_of(&self, fence: Fence) -> Option<usize> {
        self.by_fence.get(&fence).map(|(_, process)| process.node)
    }

    pub(super) fn get_mut(&mut self, fence: Fence) -> Option<&mut Process> {
        self.by_fence.get_mut(&fence).map(|(_, process)| process)
    }

    pub(super) fn remove(&mut self, fence: Fence) {
        self.by_fence.remove(&fence);
        self.orphans.remove(&fence);
    }

    /// TERM for a whole group; `None`: there is none.
    pub(super) fn term(&mut self, fence: Fence) -> Option<TermTakes> {
        let process = self.get_mut(fence)?;
        if process.is_stubborn {
            return Some(TermTakes::Nobody);
        }
        if process.first_lives {
            process.has_children = false;
            return Some(TermTakes::First);
        }
        Some(TermTakes::Children)
    }

    /// Whoever looks for a fence among orphans finds and kills them.
    pub(super) fn remove_leftovers(&mut self, fence: Fence) {
        if self.orphans.contains(&fence) {
            self.remove(fence);
        }
    }

    /// A machine goes down with all of its processes.
    pub(super) fn machine_dies(&mut self, node: usize) {
        self.by_fence.retain(|_, (_, process)| process.node != node);
    }

    /// A machine sleeps: what its processes do when it wakes is told apart.
    pub(super) fn machine_sleeps(&mut self, node: usize) {
        for (_, process) in self.by_fence.values_mut().filter(|(_, process)| process.node == node) {
            process.is_told_apart = true;
        }
    }

    /// The supervisor is killed, and first processes die with it (PDEATHSIG); what they left behind does not.
    pub(super) fn supervisor_dies(&mut self, number: usize) {
        self.by_fence.retain(|fence, (_, process)| {
            if process.supervisor != number {
                return true;
            }
            process.first_lives = false;
            process.is_told_apart = true;
            if process.has_children {
                self.orphans.insert(*fence);
            }
            process.has_children
        });
    }

    fn of_task(&self, task: TaskId) -> impl Iterator<Item = (Fence, &Process)> {
        self.by_fence
            .iter()
            .filter(move |(_, (of, _))| *of == task)
            .map(|(fence, (_, process))| (*fence, process))
    }

    fn all(&self) -> impl Iterator<Item = (TaskId, &Process)> {
        self.by_fence
            .values()
            .filter(|(_, process)| !process.is_told_apart)
            .map(|(task, process)| (*task, process))
    }
}

impl World {
    /// A process begins: nothing that it must exclude may live.
    pub(super) fn process_starts(&mut self, fence: Fence, process: Process) {
        self.counts.processes += 1;
        let Some(task) = self.granted.get(&fence).copied() else {
            self.breaks(format!("5.2: {fence} was started and never granted"));
            return;
        };
        self.check_alone(task, fence);
        let before = self.processes.started.insert(task, fence);
        if before.is_some_and(|before| before >= fence) {
            self.breaks(format!("I5: {fence} of {task:?} was started after {before:?}"));
        }
        let node = process.node;
        self.processes.by_fence.insert(fence, (task, process));
        self.check_limits(task, node);
    }

    /// I6: at most one live attempt of a task, by true time.
    fn check_alone(&mut self, task: TaskId, fence: Fence) {
        let keeps_rho = self.knobs.keeps_rho;
        let others: Vec<(Fence, bool)> =
            self.processes.of_task(task).map(|(other, process)| (other, process.is_told_apart)).collect();
        for (other, is_told_apart) in others {
            if is_told_apart || !keeps_rho {
                self.counts.told_apart += 1;
            } else {
                self.breaks(format!("I6: {task:?} starts under {fence} while its process of {other} lives"));
            }
        }
    }

    /// I9, counted from processes: slots, pools, fan-outs and active runs.
    fn check_limits(&mut self, task: TaskId, node: usize) {
        if !self.knobs.keeps_rho {
            return;
        }
        let state = self.state();
        let slots = self.nodes[node].host.slots as usize;
        let here = self.processes.all().filter(|(_, process)| process.node == node).count();
        if here > slots {
            self.breaks(format!("I9: {here} attempts run on a machine with {slots} slots"));
        }
        let Some(spec) = state.spec_of(task) else { return };
        for wanted in &spec.pools {
            let amount = |of: TaskId| {
                let spec = state.spec_of(of)?;
                spec.pools.iter().find(|it| it.pool == wanted.pool).map(|it| it.slots)
            };
            let used: u32 = self.processes.all().filter_map(|(of, _)| amount(of)).sum();
            if used > self.ledger.pool_slots_max {
                let most = self.ledger.pool_slots_max;
                self.breaks(format!("I9: pool {} has {most} slots and {used} are in use", wanted.pool));
            }
        }
        if let Some(most) = spec.parallel_max.filter(|_| task.item.is_some()) {
            let items =
                self.processes.all().filter(|(of, _)| of.run == task.run && of.task == task.task).count();
            if items > most as usize {
                self.breaks(format!("I9: {items} items of a fan-out run at once, {most} may"));
            }
        }
    }

    /// What an entry did, seen from outside.
    pub(super) fn note_entry(
        &mut self,
        (before, after): (&Arc<State>, &Arc<State>),
        entry: &Entry,
        outcome: &Outcome,
    ) {
        for effect in &outcome.effects {
            if let Effect::Granted { task, fence, .. } = effect {
                self.granted.insert(*fence, *task);
                self.counts.attempts += 1;
                self.check_trigger(after, *task);
            }
            if let Effect::Ended { fence, executor } = effect {
                self.check_gone((before, after), *fence, *executor);
            }
        }
        for (proposal, answer) in entry.proposals.iter().zip(&outcome.answers) {
            if let Command::RetireRuns { runs } = &proposal.command
                && answer.is_ok()
            {
                for run in runs {
                    self.past.retire(before, *run);
                }
                self.counts.retired += runs.len() as u64;
            }
            if !self.is_repeat(proposal, answer)
                && let Ok(answer) = answer
            {
                self.book((before, after), &proposal.command, answer);
            }
        }
    }

    /// An attempt that the cluster has ended has no process any more: another may begin at once (5.8, 5.3).
    fn check_gone(&mut self, (before, after): (&State, &State), fence: Fence, executor: ExecutorId) {
        let key = before.live.get(&fence).or_else(|| after.live.get(&fence)).copied();
        let attempt = key.and_then(|key| after.attempts.get(&key));
        if let Some(AttemptState::Ended { outcome: AttemptOutcome::Lost(_), .. }) =
            attempt.map(|row| &row.state)
        {
            self.counts.lost += 1;
        }
        let Some((task, process)) = self.processes.by_fence.get(&fence) else { return };
        if process.is_told_apart || !self.knobs.keeps_rho {
            self.counts.told_apart += 1;
            return;
        }
        let (task, how) = (*task, attempt.map(|row| format!("{:?}", row.state)));
        self.breaks(format!(
            "I6: {fence} of {task:?} on {executor} was ended while its process lives: {how:?}"
        ));
    }

    /// I8: a task that is given to an executor had its trigger rule satisfied.
    fn check_trigger(&mut self, state: &State, task: TaskId) {
        let Some(spec) = state.spec_of(task) else { return };
        let (mut good, mut failed, mut skipped, mut open) = (0, 0, 0, 0);
        for need in &spec.needs {
            let needed = TaskId { run: task.run, task: *need, item: None };
            let is_allowed = state.spec_of(needed).is_some_and(|spec| spec.allow_failure);
            match state.tasks.get(&needed).map(|row| &row.state) {
                Some(TaskState::Success) => good += 1,
                Some(TaskState::Failed(_)) if is_allowed => good += 1,
                Some(TaskState::Failed(_) | TaskState::UpstreamFailed | TaskState::Cancelled) => failed += 1,
                Some(TaskState::Skipped(_)) => skipped += 1,
                Some(
                    TaskState::Waiting
                    | TaskState::WaitingForPast { .. }
                    | TaskState::Deciding
                    | TaskState::Queued
                    | TaskState::Expanded
                    | TaskState::Running { .. }
                    | TaskState::Stopping { .. }
                    | TaskState::Retrying { .. },
                )
                | None => open += 1,
            }
        }
        let is_satisfied = match spec.trigger_rule {
            TriggerRule::AllSuccess => failed + skipped + open == 0,
            TriggerRule::AllDone => open == 0,
            TriggerRule::NoneFailed => failed + open == 0,
            TriggerRule::OneFailed => failed > 0,
            TriggerRule::OneSuccess => good > 0,
        };
        // A task that was retried in place finds its upstream as it was; nothing downstream may have started.
        if !is_satisfied {
            let rule = spec.trigger_rule;
            self.breaks(format!(
                "I8: {task:?} is granted by {rule:?} with {good} good, {failed} failed, {skipped} skipped, {open} open"
            ));
        }
    }

    /// I3: a request id is done once, and every repeat hears the same.
    fn is_repeat(&mut self, proposal: &Proposal, answer: &Result<Answer, Refusal>) -> bool {
        let (Some(request), Ok(answer)) = (&proposal.request, answer) else { return false };
        let told = format!("{answer:?}");
        let Some(first) = self.answers.get(&request.id).cloned() else {
            self.answers.insert(request.id.clone(), told);
            return false;
        };
        if first != told {
            self.breaks(format!("I3: {} was answered {first} and then {told}", request.id));
        }
        true
    }

    /// How far the log is, for messages.
    pub(super) fn index(&self) -> LogIndex {
        self.consensus.state.index
    }
}
