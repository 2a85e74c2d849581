//! One leadership as a machine without a runtime: events in, actions out.
//!
//! It owns everything that changes while a node leads and nothing that must outlive it: at its beginning it finds all
//! there is to do in `State`, by the same keys that effects name later (DESIGN 3.6), so there is no separate recovery.
//! It never blocks, reads no clock and talks to nobody; `shell` and the simulator do that for it.
//!
//! Start reading at [`Leader::new`], then [`Leader::run`] and `look`, which says what each key means.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use matins_core::command::{Command, Finish, Readings};
use matins_core::id::{Digest, ExecutorId, Fence, ScheduleId, SessionNumber, TaskId};
use matins_core::state::{AttemptOutcome, AttemptState, BackfillState, Output, ScheduleRow, State};
use matins_core::time::{BootTime, Millis, Timestamp};
use matins_core::{Answer, Effect, Refusal, Stale};
use matins_proto::v1;
use matins_proto::v1::executor_message::Message as Said;
use matins_proto::v1::leader_message::Message;
use matins_workflow::calendar::tz_version;

use super::backfill::{self, History, NoHistory};
use super::calendars::Calendars;
pub use super::disks::Disks;

use super::decide::{Decided, decide, give_up_waiting_for_room};
use super::disks;
use super::outputs::OutputCache;
use super::queue::{ConnId, Key, Queue};
use super::report::finish_of;
use super::retire::{self, Holding};
use super::scope::{Fetched, Resolve};
use super::sessions::{Next, Sessions, message, session_opened, session_refused};
use super::start::{Rendered, render_start};
use super::ticks::{self, TickTools};
use super::timers;

/// How often finished runs are counted, at most.
const RETIRE_LOOK_EVERY: Millis = Millis::from_secs(1);
/// How often it is asked what has had its time, at most: that costs a look at every block.
const RETAIN_LOOK_EVERY: Millis = Millis::from_secs(10);
/// The voters' clocks are asked for each second: a `Time` that lacks them is looked at again so much later.
const READINGS_AGAIN: Millis = Millis::from_secs(1);
/// A node whose history is not complete is asked again so much later.
const HISTORY_AGAIN: Millis = Millis::from_secs(5);

/// The two times of one instant.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Leader time.
    pub at: Timestamp,
    /// The boot-time clock of this machine.
    pub boot: BootTime,
}

/// Something that happened outside.
#[derive(Debug)]
pub enum Event {
    /// An executor said something over a stream.
    Said(ConnId, Said),
    /// A stream ended.
    Closed(ConnId),
    /// A proposal was answered. `None`: it was not, and whether it was done is not known.
    Answered(Key, Option<Result<Answer, Refusal>>),
    /// An output was read.
    Read(Digest, Fetched),
    /// A large output has its copies, or cannot have them now.
    Published(Fence, bool),
}

/// Something to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Propose this under the leadership, and answer with the key.
    Propose(Key, Command),
    /// Send this over a stream.
    Send(ConnId, v1::LeaderMessage),
    /// Close a stream.
    Close(ConnId),
    /// Read an output.
    Read(Digest),
    /// Copy a large output to a majority.
    Publish(Fence, Digest),
}

/// What the leader must know of the world at each look.
pub struct Outside<'a> {
    /// What has left the state.
    pub history: &'a dyn History,
    /// Works out parameters.
    pub resolve: &'a dyn Resolve,
    /// The newest block that a majority has, with all before it.
    pub durable_block: u64,
    /// Bytes of log since the last checkpoint.
    pub log_bytes: u64,
    /// The voters' clocks; `None` while no majority is heard.
    pub readings: Option<Readings>,
    /// The instant before the last successful quorum round began.
    pub quorum: Option<BootTime>,
    /// Whether the nodes' disks have room for new runs (PROTOCOL 6.12).
    pub disks: Disks,
}

/// One leadership. A copy costs no more than what is under way, and goes on as the original would.
#[derive(Clone)]
pub struct Leader {
    state: Arc<State>,
    queue: Queue,
    sessions: Sessions,
    calendars: Calendars,
    outputs: OutputCache,
    /// Reports that wait to be proposed or acknowledged.
    reports: BTreeMap<Fence, Report>,
    /// Ticks due up to here have been asked for.
    looked_until: Timestamp,
    /// When `state.now` rose last.
    wrote_at: BootTime,
    retire_look_at: BootTime,
    retain_look_at: BootTime,
    /// How many finished runs there were when they were last found to be too few; 0: count again.
    finished_counted: usize,
    actions: Vec<Action>,
}

#[derive(Clone, Hash)]
struct Report {
    finish: Finish,
    /// Its output is a blob that has its copies, or it has none.
    is_published: bool,
    /// Who is told when its end is in the state; `None`: the leader itself said so.
    from: Option<ExecutorId>,
}

impl Leader {
    /// Begins a leadership whose `LeaderReady` was applied at `ready_at`: all there is to do is found in the state.
    pub fn new(state: Arc<State>, ready_at: BootTime) -> Self {
        let mut leader = Self {
            sessions: Sessions::new(&state, ready_at),
            state,
            queue: Queue::default(),
            calendars: Calendars::default(),
            outputs: OutputCache::default(),
            reports: BTreeMap::new(),
            looked_until: Timestamp::from_millis(i64::MIN),
            wrote_at: ready_at,
            retire_look_at: ready_at,
            retain_look_at: ready_at,
            finished_counted: 0,
            actions: Vec::new(),
        };
        leader.find_all(ready_at);
        leader
    }

    /// Finds all there is to do, also after effects were missed.
    pub fn find_all(&mut self, boot: BootTime) {
        let state = self.state.clone();
        for (task, ()) in state.deciding.iter() {
            self.queue.look(Key::Decide(*task));
        }
        for (id, _) in state.backfills.iter().filter(|(_, row)| row.state == BackfillState::Running) {
            self.queue.look(Key::Slice(*id));
        }
        for (executor, _) in state.executors.iter() {
            self.look_at_executor(*executor, boot);
        }
        // Only effects tell of a grant or a stop, and a session that stays open would never ask.
        for ((_, _, fence), ()) in state.bound.iter() {
            self.look_at_bound_attempt(*fence);
        }
        self.looked_until = Timestamp::from_millis(i64::MIN);
        self.queue.look(Key::Recalculate);
        self.queue.look(Key::Continue);
        self.queue.look(Key::Timers);
    }

    /// Entries were applied; `state` is the newest, and effects say where to look.
    pub fn applied(&mut self, state: Arc<State>, effects: &[Effect], now: Now) {
        self.set_state(state, now.boot);
        for effect in effects {
            self.follow(effect, now.boot);
        }
    }

    /// Notes a newer state.
    pub fn set_state(&mut self, state: Arc<State>, boot: BootTime) {
        if state.now > self.state.now {
            self.wrote_at = boot;
        }
        if state.index >= self.state.index {
            self.state = state;
        }
    }

    /// The commands that decide what is due of some schedules now, to stand before a change of them (PROTOCOL 3.5).
    pub fn before_change(&mut self, ids: &[ScheduleId], now: Now, outside: &Outside<'_>) -> Vec<Command> {
        let mut tools = TickTools { calendars: &mut self.calendars, resolve: outside.resolve };
        ids.iter().filter_map(|id| ticks::decide_due(&self.state, now.at, id, &mut tools)).collect()
    }

    /// Something happened outside. `run` says what is to be done about it.
    pub fn event(&mut self, event: Event, now: Now) {
        match event {
            Event::Said(conn, said) => self.said(conn, said, now.boot),
            Event::Closed(conn) => self.closed(conn),
            Event::Answered(key, answer) => self.answered(key, answer, now),
            Event::Read(digest, fetched) => {
                for key in self.outputs.read(digest, fetched) {
                    self.queue.look(key);
                }
            }
            Event::Published(fence, is_published) => {
                if let Some(report) = self.reports.get_mut(&fence).filter(|_| is_published) {
                    report.is_published = true;
                }
                // If not, the look asks for the copies once more.
                self.queue.look_at(Key::Finish(fence), now.boot + Millis(u64::from(!is_published) * 1_000));
            }
        }
    }

    /// Looks at everything that wants a look, and says what is to be done.
    pub fn run(&mut self, now: Now, outside: &Outside<'_>) -> Vec<Action> {
        if let Some(began) = outside.quorum {
            self.sessions.quorum(began);
        }
        self.look_at_what_is_due(now, outside);
        while let Some(key) = self.queue.take(now.boot) {
            self.look(key, now, outside);
        }
        std::mem::take(&mut self.actions)
    }

    /// When `run` is to be called next if nothing happens before, on the boot-time clock.
    pub fn next_run(&self, now: Now) -> BootTime {
        let next_due = self.state.due.range((self.looked_until + Millis(1), ScheduleId::least())..).next();
        let by_time = [
            next_due.map(|((at, _), ())| *at),
            timers::next_timer(&self.state),
            Some(timers::next_checkpoint(&self.state)),
            retire::next_retirement(&self.state),
        ];
        // What is due already was looked at: it waits for an answer, or the queue knows when to look again.
        let earliest = by_time.into_iter().flatten().filter(|at| *at > now.at).min();
        let by_time = earliest.map(|at| now.boot + at.since(now.at));
        let silent_at = (self.wrote_at + timers::SILENCE_MAX).max(now.boot + READINGS_AGAIN);
        let next = [self.queue.next(), by_time].into_iter().flatten().fold(silent_at, BootTime::min);
        next.max(now.boot + Millis(1))
    }

    fn follow(&mut self, effect: &Effect, boot: BootTime) {
        match effect {
            Effect::Granted { fence, .. } => self.queue.look(Key::Start(*fence)),
            Effect::Stop { fence, .. } => self.queue.look(Key::Stop(*fence)),
            Effect::Ended { fence, executor } => self.sessions.ended(*executor, *fence),
            Effect::Deciding(task) => self.queue.look(Key::Decide(*task)),
            Effect::Schedule(id) => self.look_at_schedule(id),
            Effect::Timer => self.queue.look(Key::Continue),
            Effect::Backfill(id) => self.queue.look(Key::Slice(*id)),
            Effect::Executor(executor) => self.look_at_executor(*executor, boot),
            // What follows is not the leader's: every node does it, or lists and watches show it.
            Effect::Run(_)
            | Effect::LogsSettled(..)
            | Effect::Block { .. }
            | Effect::Checkpoint
            | Effect::Agreed { .. }
            | Effect::Definitions => {}
        }
    }

    fn look_at_schedule(&mut self, id: &ScheduleId) {
        let key = if self.is_unplanned(id) { Key::Plan } else { Key::Fire };
        self.queue.look(key(id.clone()));
    }

    fn is_unplanned(&self, id: &ScheduleId) -> bool {
        self.state.schedules.get(id).is_some_and(ScheduleRow::is_unplanned)
    }

    fn look_at_executor(&mut self, executor: ExecutorId, boot: BootTime) {
        let state = self.state.clone();
        for session in self.sessions.sync(&state, executor, boot) {
            self.queue.look(Key::Expire(executor, session));
        }
        self.queue.look(Key::Cordon(executor));
    }

    /// What became due because time went on.
    fn look_at_what_is_due(&mut self, now: Now, outside: &Outside<'_>) {
        let state = self.state.clone();
        let from = (self.looked_until + Millis(1), ScheduleId::least());
        for ((_, id), ()) in state.due.range(from..(now.at + Millis(1), ScheduleId::least())) {
            self.look_at_schedule(id);
        }
        self.looked_until = self.looked_until.max(now.at);
        if timers::next_timer(&state).is_some_and(|at| at <= now.at) {
            self.queue.look(Key::Timers);
        }
        // To count costs as much as there are, so it is done again when there is an eighth more.
        let has_moved = state.finished.len().abs_diff(self.finished_counted) > self.finished_counted / 8
            || retire::next_retirement(&state).is_some_and(|at| at <= now.at);
        if has_moved && now.boot >= self.retire_look_at {
            self.queue.look(Key::Retire);
        }
        if !state.blocks.is_empty() && now.boot >= self.retain_look_at {
            self.retain_look_at = now.boot + RETAIN_LOOK_EVERY;
            self.queue.look(Key::Retain);
        }
        if disks::news(&state, &outside.disks).is_some() {
            self.queue.look(Key::Disks);
        }
        if timers::checkpoint(&state, now.at, outside.log_bytes).is_some() {
            self.queue.look(Key::Checkpoint);
        }
        let is_far = now.at.since(state.now) > timers::AHEAD_OF_STATE_MAX;
        if is_far || now.boot.since(self.wrote_at) >= timers::SILENCE_MAX {
            self.queue.look(Key::Time);
        }
    }

    /// What each key means. Whatever is not needed any more makes nothing.
    fn look(&mut self, key: Key, now: Now, outside: &Outside<'_>) {
        let state = self.state.clone();
        let command = match &key {
            Key::Open(conn) => self.sessions.open_command(*conn),
            Key::Finish(fence) => self.look_at_report(*fence),
            Key::Publishing(fence) => {
                self.is_running(*fence).then_some(Command::Publishing { fence: *fence })
            }
            Key::Unkillable(fence) => self.unkillable(*fence),
            Key::Expire(executor, session) => self.expire(&key, (*executor, *session), now.boot),
            Key::Cordon(executor) => {
                let next = self.sessions.cordon(&state, *executor, now.boot);
                self.or_later(&key, next)
            }
            Key::Start(fence) => self.start(*fence, now.boot),
            Key::Stop(fence) => self.stop(*fence, now.boot),
            Key::Decide(task) => self.decide(*task),
            Key::Timers => timers::fire_timers(&state, now.at),
            Key::Continue => timers::go_on(&state),
            // Never both at once: what was found for one of them may have become the other's.
            Key::Fire(id) if self.is_unplanned(id) => self.instead(Key::Plan(id.clone())),
            Key::Plan(id) if !self.is_unplanned(id) => self.instead(Key::Fire(id.clone())),
            Key::Fire(id) | Key::Plan(id) => {
                let mut tools = TickTools { calendars: &mut self.calendars, resolve: outside.resolve };
                ticks::decide_due(&state, now.at, id, &mut tools)
            }
            Key::Slice(id) => {
                let mut tools = TickTools { calendars: &mut self.calendars, resolve: outside.resolve };
                backfill::slice(&state, *id, outside.history, &mut tools).unwrap_or_else(|NoHistory| {
                    self.queue.look_at(key.clone(), now.boot + HISTORY_AGAIN);
                    None
                })
            }
            Key::Recalculate => ticks::recalculate(&state, &mut self.calendars, tz_version()),
            Key::Retire => self.retire(now, outside),
            Key::Retain => retire::retain(&state, now.at),
            Key::Disks => disks::news(&state, &outside.disks),
            Key::Checkpoint => timers::checkpoint(&state, now.at, outside.log_bytes),
            Key::Time => self.time(now, outside),
        };
        match command {
            Some(command) => {
                self.queue.proposed(key.clone());
                self.actions.push(Action::Propose(key, command));
            }
            None => self.queue.forget(&key),
        }
    }

    /// Nothing is to be done about this key, and something about another.
    fn instead(&mut self, key: Key) -> Option<Command> {
        self.queue.look(key);
        None
    }

    fn or_later(&mut self, key: &Key, next: Next<Command>) -> Option<Command> {
        match next {
            Next::Do(command) => Some(command),
            Next::LookAt(at) => {
                self.queue.look_at(key.clone(), at);
                None
            }
            Next::Nothing => None,
        }
    }

    fn expire(&mut self, key: &Key, session: (ExecutorId, SessionNumber), boot: BootTime) -> Option<Command> {
        if !self.state.sessions.contains(&session) {
            self.sessions.forget(session.0, session.1);
            return None;
        }
        let next = self.sessions.expiry(&self.state, session, boot);
        let command = self.or_later(key, next)?;
        // From here on it gets no answer, whatever becomes of the proposal (PROTOCOL 5.4).
        if let Some(conn) = self.sessions.expiring(session.0, session.1) {
            self.close(conn);
        }
        Some(command)
    }

    fn retire(&mut self, now: Now, outside: &Outside<'_>) -> Option<Command> {
        self.retire_look_at = now.boot + RETIRE_LOOK_EVERY;
        // No run leaves history while a command computed from it is under way (PROTOCOL 6.6).
        let looked_at = self.queue.in_flight().filter_map(|key| {
            let Key::Slice(id) = key else { return None };
            Some(self.state.backfills.get(id)?.schedule.workflow.clone())
        });
        let looked_at: BTreeSet<_> = looked_at.collect();
        let command =
            retire::retire(&self.state, now.at, &Holding { durable_block: outside.durable_block, looked_at });
        self.finished_counted = if command.is_some() { 0 } else { self.state.finished.len() };
        if command.is_none() && !self.state.finished.is_empty() {
            self.queue.look_at(Key::Retire, now.boot + Millis::from_secs(10));
        }
        command
    }

    fn time(&self, now: Now, outside: &Outside<'_>) -> Option<Command> {
        let is_far = now.at.since(self.state.now) > timers::AHEAD_OF_STATE_MAX;
        let is_silent = now.boot.since(self.wrote_at) >= timers::SILENCE_MAX;
        outside.readings.clone().filter(|_| is_far || is_silent).map(Command::Time)
    }

    fn decide(&mut self, task: TaskId) -> Option<Command> {
        match decide(&self.state, task, &self.outputs) {
            Decided::Propose(command) => Some(command),
            Decided::Needs(digests) => {
                self.read(digests, &Key::Decide(task));
                None
            }
            Decided::Over => None,
        }
    }

    /// Asks for outputs; the key is looked at again when each has come.
    fn read(&mut self, digests: Vec<Digest>, key: &Key) {
        for digest in digests {
            if self.outputs.wants(digest, key.clone()) {
                self.actions.push(Action::Read(digest));
            }
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.actions.push(Action::Close(conn));
        self.closed(conn);
    }

    fn closed(&mut self, conn: ConnId) {
        if let Some(executor) = self.sessions.closed(conn) {
            self.queue.look(Key::Cordon(executor));
        }
    }
}

/// What it remembers beside the state: two leaderships that are equal in this, under equal states, go on alike. Caches
/// are left out, and `actions`, which is empty between two calls.
impl Hash for Leader {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self {
            state: _,
            queue,
            sessions,
            calendars: _,
            outputs: _,
            reports,
            looked_until,
            wrote_at,
            retire_look_at,
            retain_look_at,
            finished_counted,
            actions: _,
        } = self;
        (queue, sessions, reports).hash(hasher);
        (looked_until, wrote_at, retire_look_at, retain_look_at, finished_counted).hash(hasher);
    }
}

mod answers;
mod attempts;
#[cfg(test)]
mod tests;
