//! Who gets room: ready tasks, limits and executors (PROTOCOL 4.1, DESIGN 4, I9).
//!
//! Ready tasks that need the same room form a class, and a class waits as one at the first of its limits that
//! has no room. So giving away room that came free costs the number of classes that want it, not the number
//! of tasks that wait. Between classes the order of dispatch holds too: at one limit no class passes one whose first task
//! comes earlier, so a task that needs two slots is not starved by those that need one.

use alloc::vec::Vec;

use core::cmp::Reverse;
use core::ops::Bound;

use crate::effect::Effect;
use crate::id::{ExecutorId, Fence, RunId, TaskId};
use crate::mutation::{Mutation, planted, toss};
use crate::state::{
    AttemptRow, AttemptState, Class, LimitId, LogState, QueuePlace, RunOrigin, State, TaskState, TimerKey,
    WorkKey,
};

use super::Step;

/// Rows that a grant touches: task, attempt, two indexes, limits, executor, timer, transition, queue.
const ROWS_PER_GRANT: u32 = 10;

impl State {
    /// The limit that holds a ready task back; `None` if it is not ready or nothing does.
    pub fn held_back_by(&self, task: TaskId) -> Option<&LimitId> {
        let class = self.class_of(task)?;
        self.classes.get(&class).map(|(limit, _)| limit)
    }

    /// Whether nobody knows which of two states is right (PROTOCOL 6.8): then no task is lent to anybody.
    pub fn is_split(&self) -> bool {
        self.cluster.checkpoint.as_ref().is_some_and(|row| row.is_split)
    }

    /// What a task needs room in, in the order in which it is asked for.
    pub fn class_of(&self, task: TaskId) -> Option<Class> {
        let definition = self.definition_of(task.run)?;
        let spec = definition.workflow.tasks.get(usize::from(task.task))?;
        let mut class = Vec::with_capacity(spec.pools.len() + 2);
        if task.item.is_some() && spec.parallel_max.is_some() {
            class.push((LimitId::FanOut(TaskId { item: None, ..task }), 1));
        }
        class.extend(spec.pools.iter().map(|wanted| (LimitId::Pool(wanted.pool.clone()), wanted.slots)));
        class.push((LimitId::Slots(spec.executor_labels.clone()), 1));
        Some(class)
    }

    /// A task's place in the order of dispatch.
    pub fn place_of(&self, task: TaskId) -> Option<QueuePlace> {
        let run = self.runs.get(&task.run)?;
        let spec = self.definition_of(task.run)?.workflow.tasks.get(usize::from(task.task))?;
        let is_backfill = match run.origin {
            RunOrigin::Backfill(_) => true,
            RunOrigin::Schedule | RunOrigin::Manual | RunOrigin::Submitted | RunOrigin::Retry => false,
        };
        Some(QueuePlace {
            priority: Reverse(spec.priority),
            is_backfill,
            logical_time: run.logical_time,
            task,
        })
    }

    /// How much of a limit is not in use. For slots: whether any executor that matches has one.
    pub fn room(&self, limit: &LimitId) -> u32 {
        let used = self.limits.get(limit).copied().unwrap_or(0);
        match limit {
            LimitId::FanOut(task) => {
                let definition = self.definition_of(task.run);
                let spec = definition.and_then(|row| row.workflow.tasks.get(usize::from(task.task)));
                spec.and_then(|spec| spec.parallel_max).unwrap_or(u32::MAX).saturating_sub(used)
            }
            LimitId::Pool(pool) => self.pools.get(pool).map_or(0, |row| row.slots).saturating_sub(used),
            LimitId::Slots(_) if self.is_split() => 0,
            LimitId::Slots(wanted) => {
                u32::from(self.executors.iter().any(|(_, row)| row.has_room() && row.matches(wanted)))
            }
        }
    }

    /// The first limit of a class that holds its first task back.
    fn lacks(&self, class: &Class, place: &QueuePlace) -> Option<LimitId> {
        let holds_back = |(limit, amount): &&(LimitId, u32)| {
            self.room(limit) < *amount || self.first_blocked(limit).is_some_and(|(first, _)| first < place)
        };
        class.iter().find(holds_back).map(|(limit, _)| limit.clone())
    }

    /// The class that comes first at a limit.
    fn first_blocked(&self, limit: &LimitId) -> Option<(&QueuePlace, &Class)> {
        let from = (limit.clone(), QueuePlace::FIRST, Class::new());
        let ((first, place, class), ()) = self.blocked.range(from..).next()?;
        (first == limit).then_some((place, class))
    }

    /// The first task of a class.
    fn first_of(&self, class: &Class) -> Option<QueuePlace> {
        let from = (class.clone(), QueuePlace::FIRST);
        let ((first, place), ()) = self.queue.range(from..).next()?;
        (first == class).then_some(*place)
    }
}

impl Step<'_> {
    /// A task is ready: it waits for room.
    pub(super) fn make_ready(&mut self, task: TaskId) {
        let (Some(class), Some(place)) = (self.state.class_of(task), self.state.place_of(task)) else {
            return;
        };
        self.set_task(task, TaskState::Queued);
        self.state.queue.insert((class.clone(), place), ());
        self.changed.insert(class);
        self.touch(2);
    }

    /// A ready task waits no more.
    pub(super) fn leave_queue(&mut self, task: TaskId) {
        let (Some(class), Some(place)) = (self.state.class_of(task), self.state.place_of(task)) else {
            return;
        };
        self.state.queue.remove(&(class.clone(), place));
        self.changed.insert(class);
    }

    /// A limit may have room again.
    pub(super) fn free(&mut self, limit: LimitId) {
        self.freed.insert(limit);
    }

    /// Executors may take tasks again, whatever labels are wanted.
    pub(super) fn free_slots(&mut self) {
        let first = (LimitId::FIRST_SLOTS, QueuePlace::FIRST, Class::new());
        let waited_for = self.state.blocked.range(first..).map(|((limit, _, _), ())| limit);
        self.freed.extend(waited_for.filter(|limit| matches!(limit, LimitId::Slots(_))).cloned());
    }

    /// Gives away all room there is, in the order of dispatch.
    pub(super) fn dispatch(&mut self) {
        loop {
            if let Some(class) = self.earliest_changed() {
                self.changed.remove(&class);
                self.unblock(&class);
                self.try_class(&class);
            } else if let Some(limit) = self.freed.pop_first() {
                self.serve(&limit);
            } else if let Some(executor) = self.freed_executors.pop_first() {
                self.serve_executor(executor);
            } else {
                return;
            }
        }
    }

    /// Of the classes that changed, the one whose first task comes first.
    fn earliest_changed(&self) -> Option<Class> {
        if planted(Mutation::UnorderedMapInApply) && toss() {
            return self.changed.last().cloned();
        }
        self.changed.iter().min_by_key(|class| self.state.first_of(class)).cloned()
    }

    /// Serves the classes that wait at a limit while it has room.
    fn serve(&mut self, limit: &LimitId) {
        while let Some((_, class)) = self.state.first_blocked(limit) {
            let class = class.clone();
            let asked = class.iter().find(|(asked, _)| asked == limit).map_or(1, |(_, amount)| *amount);
            if self.state.room(limit) < asked || !self.has_rows_for(limit) {
                return;
            }
            self.unblock(&class);
            self.try_class(&class);
        }
    }

    /// Serves the classes that wait for a slot on executors such as this one.
    fn serve_executor(&mut self, executor: ExecutorId) {
        while let Some(limit) = self.first_slots_of(executor) {
            if !self.has_rows_for(&limit) {
                return;
            }
            let Some((_, class)) = self.state.first_blocked(&limit) else { return };
            let class = class.clone();
            self.unblock(&class);
            self.try_class(&class);
        }
    }

    /// Of the label sets that wait for an executor such as this one, that whose first task comes first.
    fn first_slots_of(&self, executor: ExecutorId) -> Option<LimitId> {
        if self.state.is_split() {
            return None;
        }
        let row = self.state.executors.get(&executor).filter(|row| row.has_room())?;
        let mut best: Option<(QueuePlace, LimitId)> = None;
        let mut from = Bound::Included((LimitId::FIRST_SLOTS, QueuePlace::FIRST, Class::new()));
        while let Some(((limit, place, _), ())) = self.state.blocked.range((from, Bound::Unbounded)).next() {
            let LimitId::Slots(wanted) = limit else { break };
            if row.matches(wanted) && best.as_ref().is_none_or(|(first, _)| place < first) {
                best = Some((*place, limit.clone()));
            }
            // Label sets are few; the many classes behind the first of each are passed over.
            from = Bound::Excluded((limit.clone(), QueuePlace::LAST, Class::new()));
        }
        best.map(|(_, limit)| limit)
    }

    /// Grants from a class until it is empty or held back.
    fn try_class(&mut self, class: &Class) {
        while let Some(place) = self.state.first_of(class) {
            let lacking = self.state.lacks(class, &place);
            let lacking = lacking.or_else(|| self.out_of_rows(class));
            if let Some(limit) = lacking {
                self.state.blocked.insert((limit.clone(), place, class.clone()), ());
                self.state.classes.insert(class.clone(), (limit, place));
                return;
            }
            self.state.queue.remove(&(class.clone(), place));
            self.grant(place.task, class);
        }
    }

    /// Room without rows left: the leader goes on with it in the next command (PROTOCOL 4.5).
    fn out_of_rows(&mut self, class: &Class) -> Option<LimitId> {
        let (limit, _) = class.last()?;
        (!self.has_rows_for(&limit.clone())).then(|| limit.clone())
    }

    fn has_rows_for(&mut self, limit: &LimitId) -> bool {
        if self.rows_left >= ROWS_PER_GRANT {
            return true;
        }
        self.leave(WorkKey::Place(limit.clone()));
        false
    }

    /// Takes a class out of the place where it waits. Whoever waited behind it may go on.
    fn unblock(&mut self, class: &Class) {
        let Some((limit, place)) = self.state.classes.remove(class) else { return };
        self.state.blocked.remove(&(limit.clone(), place, class.clone()));
        if self.state.first_blocked(&limit).is_some() {
            self.freed.insert(limit);
        }
    }

    /// Lends a task to an executor: the lease is in a committed entry before the executor hears of it (PROTOCOL 5.2).
    fn grant(&mut self, task: TaskId, class: &Class) {
        let Some(executor) = self.choose_executor(class) else { return };
        let Some(session) = self.state.executors.update(&executor, |row| {
            row.used += 1;
            row.session
        }) else {
            return;
        };
        for (limit, amount) in class {
            match limit {
                LimitId::Slots(_) => {}
                LimitId::FanOut(_) | LimitId::Pool(_) => {
                    let used = self.state.limits.get(limit).copied().unwrap_or(0);
                    self.state.limits.insert(limit.clone(), used + amount);
                }
            }
        }
        self.state.cluster.counters.fence += 1;
        let fence = Fence(self.state.cluster.counters.fence);
        let attempt = self.add_attempt(task, fence, (executor, session));
        self.set_task(task, TaskState::Running { fence });
        self.effects.push(Effect::Granted { task, attempt, fence, executor, session });
        self.touch(ROWS_PER_GRANT);
    }

    /// Labels match, most free slots, lowest id (DESIGN 4).
    fn choose_executor(&self, class: &Class) -> Option<ExecutorId> {
        let wanted = class.iter().find_map(|(limit, _)| match limit {
            LimitId::Slots(wanted) => Some(wanted),
            LimitId::FanOut(_) | LimitId::Pool(_) => None,
        })?;
        let able = self.state.executors.iter().filter(|(_, row)| row.has_room() && row.matches(wanted));
        able.min_by_key(|(id, row)| (Reverse(row.slots - row.used), **id)).map(|(id, _)| *id)
    }

    fn add_attempt(
        &mut self,
        task: TaskId,
        fence: Fence,
        (executor, session): (ExecutorId, crate::id::SessionNumber),
    ) -> u32 {
        let now = self.now();
        let spec = self.spec_of(task).map(|spec| (spec.timeout, spec.on_disconnect));
        let (timeout, on_disconnect) = spec.unwrap_or_default();
        let number = self.state.tasks.update(&task, |row| {
            row.attempts += 1;
            row.started_at.get_or_insert(now);
            row.attempts
        });
        let number = number.unwrap_or(1);
        let attempt = AttemptRow {
            fence,
            executor,
            session,
            state: AttemptState::Running,
            granted_at: now,
            started_at: None,
            timeout_at: now + timeout,
            on_disconnect,
            log: LogState::At(executor),
            log_bytes: 0,
        };
        self.state.timers.insert((attempt.timeout_at, TimerKey::Timeout(fence)), ());
        self.state.attempts.insert((task, number), attempt);
        self.state.live.insert(fence, (task, number));
        self.state.bound.insert((executor, session, fence), ());
        number
    }

    /// Gives back what a live attempt held.
    pub(super) fn release(&mut self, task: TaskId, executor: ExecutorId) {
        self.state.executors.update(&executor, |row| row.used = row.used.saturating_sub(1));
        self.freed_executors.insert(executor);
        for (limit, amount) in self.state.class_of(task).unwrap_or_default() {
            match limit {
                LimitId::Slots(_) => continue,
                LimitId::FanOut(_) | LimitId::Pool(_) => {}
            }
            let used = self.state.limits.get(&limit).copied().unwrap_or(0).saturating_sub(amount);
            if used == 0 {
                self.state.limits.remove(&limit);
            } else {
                self.state.limits.insert(limit.clone(), used);
            }
            self.free(limit);
        }
    }
}

impl QueuePlace {
    /// Before every place.
    pub const FIRST: Self = Self {
        priority: Reverse(i32::MAX),
        is_backfill: false,
        logical_time: crate::time::Timestamp::from_millis(i64::MIN),
        task: TaskId { run: RunId(0), task: 0, item: None },
    };
    /// After every place.
    pub const LAST: Self = Self {
        priority: Reverse(i32::MIN),
        is_backfill: true,
        logical_time: crate::time::Timestamp::MAX,
        task: TaskId { run: RunId(u64::MAX), task: u16::MAX, item: Some(u32::MAX) },
    };
}

impl LimitId {
    /// Before every limit of slots.
    const FIRST_SLOTS: Self = Self::Slots(alloc::collections::BTreeMap::new());
}
