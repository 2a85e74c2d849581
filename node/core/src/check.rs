//! The invariants of DESIGN 6, as far as one state shows them: checked after every entry in tests and simulation.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::id::{ExecutorId, Fence};
use crate::state::{AttemptState, LimitId, Next, RunState, State, TaskState, TimerKey, WorkKey};

impl State {
    /// Everything that contradicts an invariant, in words; empty if all holds. Costs a look at every row.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.check_schedules(&mut faults);
        self.check_attempts(&mut faults);
        self.check_use(&mut faults);
        self.check_queue(&mut faults);
        self.check_runs(&mut faults);
        self.check_waits(&mut faults);
        self.check_gates(&mut faults);
        self.check_indexes(&mut faults);
        faults
    }

    /// I2: next > mark or none; the index of what is due agrees.
    fn check_schedules(&self, faults: &mut Vec<String>) {
        for (id, row) in self.schedules.iter() {
            if let Next::At(next) = row.next
                && next <= row.mark
            {
                faults.push(format!("I2: next of {id} is not after its mark"));
            }
            if row.mark > self.now {
                faults.push(format!("I1: {id} has decided ticks that lie ahead"));
            }
            let is_indexed = row.next.due_at().is_none_or(|due| self.due.contains(&(due, id.clone())));
            if !is_indexed {
                faults.push(format!("the index of what is due has lost {id}"));
            }
        }
        for ((id, to), row) in self.skips.iter() {
            if !self.schedules.contains(id) || row.from > *to {
                faults.push(format!("the record of {id} has a skip that cannot be"));
            }
        }
        if self.skips.len() > self.schedules.len() * crate::state::SKIPS_KEPT_MAX {
            faults.push("I14: the record of skipped ticks has rows too many".into());
        }
        let due = self.schedules.iter().filter(|(_, row)| row.next.due_at().is_some()).count();
        if due != self.due.len() {
            faults.push("the index of what is due has rows too many".into());
        }
    }

    /// I4, I5, I7: attempts are dense, one lives at most, fences rise; what lives is indexed.
    fn check_attempts(&self, faults: &mut Vec<String>) {
        let mut live = 0;
        for (task, row) in self.tasks.iter() {
            let attempts: Vec<_> = self.attempts_of(*task).collect();
            if attempts.len() != row.attempts as usize {
                faults.push(format!("I4: attempts of {task:?} are not dense"));
            }
            if !attempts.is_sorted_by(|a, b| a.fence < b.fence) {
                faults.push(format!("I5: fences of {task:?} do not rise"));
            }
            let alive: Vec<Fence> =
                attempts.iter().filter(|row| !row.has_ended()).map(|row| row.fence).collect();
            live += alive.len();
            if alive.len() > 1 || row.state.fence() != alive.first().copied() {
                faults.push(format!("I4: {task:?} is {} with live attempts {alive:?}", row.state.as_str()));
            }
        }
        for (fence, key) in self.live.iter() {
            let row = self.attempts.get(key);
            let is_bound = row.is_some_and(|row| self.bound.contains(&(row.executor, row.session, *fence)));
            let has_session = row.is_some_and(|row| self.sessions.contains(&(row.executor, row.session)));
            if row.is_none_or(|row| row.fence != *fence || row.has_ended()) || !is_bound || !has_session {
                faults.push(format!("I7: {fence} is live, and its attempt or session says otherwise"));
            }
        }
        if live != self.live.len() || live != self.bound.len() {
            faults.push("I7: the indexes of live attempts have rows too many".into());
        }
    }

    /// I9: use is what live attempts hold.
    fn check_use(&self, faults: &mut Vec<String>) {
        let mut executors: BTreeMap<ExecutorId, u32> = BTreeMap::new();
        let mut limits: BTreeMap<LimitId, u32> = BTreeMap::new();
        for key in self.live.iter().map(|(_, key)| key) {
            let Some(row) = self.attempts.get(key) else { continue };
            *executors.entry(row.executor).or_default() += 1;
            for (limit, amount) in self.class_of(key.0).unwrap_or_default() {
                if !matches!(limit, LimitId::Slots(_)) {
                    *limits.entry(limit).or_default() += amount;
                }
            }
        }
        for (id, row) in self.executors.iter() {
            if row.used != executors.get(id).copied().unwrap_or(0) {
                faults.push(format!("I9: executor {id} counts {} attempts", row.used));
            }
        }
        let counted: BTreeMap<LimitId, u32> =
            self.limits.iter().map(|(limit, used)| (limit.clone(), *used)).collect();
        if counted != limits {
            faults.push(format!("I9: limits count {counted:?}, live attempts hold {limits:?}"));
        }
    }

    /// I15: no ready task is forgotten, and none waits for room that is there.
    fn check_queue(&self, faults: &mut Vec<String>) {
        let queued = self.tasks.iter().filter(|(_, row)| row.state == TaskState::Queued);
        let mut count = 0;
        for (task, _) in queued {
            count += 1;
            let key = self.class_of(*task).zip(self.place_of(*task));
            if key.is_none_or(|key| !self.queue.contains(&key)) {
                faults.push(format!("I15: {task:?} is ready and in no queue"));
            }
        }
        if count != self.queue.len() {
            faults.push("the queue has rows of tasks that are not ready".into());
        }
        for ((class, _), ()) in self.queue.iter() {
            if !self.classes.contains(class) {
                faults.push(format!("I15: class {class:?} waits for nothing"));
            }
        }
        for (class, (limit, place)) in self.classes.iter() {
            let first = self.queue.range((class.clone(), *place)..).next();
            let is_first = first.is_some_and(|((of, first), ())| of == class && first == place);
            let is_blocked = self.blocked.contains(&(limit.clone(), *place, class.clone()));
            if !is_first || !is_blocked {
                faults.push(format!("class {class:?} is not where its first task is"));
            }
            let asked = class.iter().find(|(asked, _)| asked == limit).map_or(1, |(_, amount)| *amount);
            let has_earlier = self.blocked.range(..(limit.clone(), *place, Vec::new())).next_back();
            let has_earlier = has_earlier.is_some_and(|((other, _, _), ())| other == limit);
            let is_left = self.work.iter().any(|(work, ())| matches!(work, WorkKey::Place(_)));
            if self.room(limit) >= asked && !has_earlier && !is_left {
                faults.push(format!("I15: {class:?} waits for {limit:?}, which has room"));
            }
        }
        if self.blocked.len() != self.classes.len() {
            faults.push("the index of classes by limit has rows too many".into());
        }
    }

    fn check_runs(&self, faults: &mut Vec<String>) {
        for (id, run) in self.runs.iter() {
            let whole = self.tasks_of(*id).filter(|(task, _)| task.item.is_none());
            let open = whole.filter(|(_, row)| !row.state.has_ended()).count();
            if run.started_at.is_some() && open != run.tasks_open as usize {
                faults.push(format!("{id} counts {} open tasks, has {open}", run.tasks_open));
            }
            if run.is_active() == run.ended_at.is_some() {
                faults.push(format!("{id} is {} with an end of {:?}", run.state.as_str(), run.ended_at));
            }
            // I15: a run that goes on has something that goes on, or work is left for it.
            if run.state == RunState::Running && open == 0 {
                faults.push(format!("I15: {id} runs and has no open task"));
            }
            let logs = self.logs_open.iter().filter(|(_, (_, task, _))| task.run == *id).count();
            if logs != run.logs_open as usize {
                faults.push(format!("{id} counts {} open logs, has {logs}", run.logs_open));
            }
            let is_retirable = run.ended_at.is_some_and(|at| self.finished.contains(&(at, *id)));
            if is_retirable != (run.ended_at.is_some() && run.logs_open == 0) {
                faults.push(format!("{id} cannot leave for history, or too early"));
            }
            for (task, row) in self.tasks_of(*id) {
                if let Some(fan_out) = row.fan_out {
                    let ended = self.items_of(*task).filter(|(_, item)| item.state.has_ended()).count();
                    if ended != (fan_out.items - fan_out.open()) as usize {
                        faults.push(format!("{task:?} counts its items wrong: {fan_out:?}"));
                    }
                }
            }
        }
    }

    /// Each wait has the row that will end it.
    fn check_waits(&self, faults: &mut Vec<String>) {
        for (task, row) in self.tasks.iter() {
            let Some(run) = self.runs.get(&task.run) else {
                faults.push(format!("{task:?} has no run"));
                continue;
            };
            let is_waited_for = match &row.state {
                TaskState::Deciding => self.deciding.contains(task),
                TaskState::Retrying { due } => self.timers.contains(&(*due, TimerKey::Retry(*task))),
                TaskState::WaitingForPast { tick, .. } => {
                    let schedule = run.schedule_id();
                    schedule.is_some_and(|id| self.past_waits.contains(&(id, *tick, *task)))
                }
                TaskState::Running { fence } => {
                    let attempt = self.live.get(fence).and_then(|key| self.attempts.get(key));
                    attempt
                        .is_some_and(|row| self.timers.contains(&(row.timeout_at, TimerKey::Timeout(*fence))))
                }
                TaskState::Waiting
                | TaskState::Queued
                | TaskState::Expanded
                | TaskState::Stopping { .. }
                | TaskState::Success
                | TaskState::Failed(_)
                | TaskState::UpstreamFailed
                | TaskState::Skipped(_)
                | TaskState::Cancelled => true,
            };
            if !is_waited_for {
                faults.push(format!("I15: {task:?} is {:?} and nothing will wake it", row.state));
            }
        }
        for ((_, timer), ()) in self.timers.iter() {
            let is_wanted = match timer {
                TimerKey::Retry(task) => {
                    self.tasks.get(task).is_some_and(|row| matches!(row.state, TaskState::Retrying { .. }))
                }
                TimerKey::Timeout(fence) => self.live.contains(fence),
                // They outlive what they are for, and find nothing to do then.
                TimerKey::LogGivenUp(_) | TimerKey::DropDefinition(_) => true,
            };
            if !is_wanted {
                faults.push(format!("{timer:?} is set for nothing"));
            }
        }
        let deciding = self.tasks.iter().filter(|(_, row)| row.state == TaskState::Deciding).count();
        if deciding != self.deciding.len() {
            faults.push("tasks are deciding that are not".into());
        }
    }

    fn check_gates(&self, faults: &mut Vec<String>) {
        for (name, row) in self.workflows.iter() {
            let active = self.active.iter().filter(|((workflow, _), ())| workflow == name).count();
            if active != row.active_runs as usize {
                faults.push(format!("I9: {name} counts {} active runs, has {active}", row.active_runs));
            }
        }
        for ((workflow, _, run), ()) in self.gate.iter() {
            if self.runs.get(run).is_none_or(|row| row.state != RunState::Queued || row.workflow != *workflow)
            {
                faults.push(format!("{run} stands at a gate and is not queued"));
            }
        }
        let queued = self.runs.iter().filter(|(_, row)| row.state == RunState::Queued).count();
        if queued != self.gate.len() {
            faults.push("I15: a queued run stands at no gate".into());
        }
        for (id, row) in self.backfills.iter() {
            let waiting = self.backfill_ticks.range((*id, 0)..=(*id, u64::MAX)).count();
            if waiting != row.counts.waiting as usize {
                faults.push(format!("{id} counts {} waiting ticks, has {waiting}", row.counts.waiting));
            }
        }
    }

    fn check_indexes(&self, faults: &mut Vec<String>) {
        if self.requests.len() != self.requests_by_expiry.len() {
            faults.push("requests and their expiries differ".into());
        }
        for (digest, row) in self.definitions.iter() {
            let versions = self.versions.iter().filter(|(_, version)| version.definition == *digest).count();
            let runs = self.runs.iter().filter(|(_, run)| run.definition == *digest).count();
            if versions + runs != row.uses as usize {
                faults.push(format!("definition {digest} counts {} uses, has {}", row.uses, versions + runs));
            }
        }
        for (run, _) in self.runs.iter() {
            if self.definition_of(*run).is_none() {
                faults.push(format!("{run} has no definition"));
            }
        }
    }
}

impl crate::state::AttemptRow {
    /// Whether it is over.
    pub const fn has_ended(&self) -> bool {
        match self.state {
            AttemptState::Ended { .. } => true,
            AttemptState::Running | AttemptState::Publishing | AttemptState::Stopping { .. } => false,
        }
    }
}
