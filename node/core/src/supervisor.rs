//! What a supervisor decides (PROTOCOL 5.1): which spawns are allowed, and which groups must stop, and when.
//!
//! The machine knows neither processes nor sockets: it is told what happened and at which instant of the boot-time
//! clock, and answers with actions, to be carried out in order. It never takes a stop back, and it obeys only the
//! highest session it has heard. Start reading at [`Machine::handle`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{Fence, SessionNumber};
use crate::mutation::{Mutation, planted};
use crate::state::settings::LeaseTerms;
use crate::time::{BootTime, Millis};

/// How a task's first process ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
    /// It never ran, and why, for people.
    NotStarted(String),
    /// The session's deadline ended it, or came before it could start: that is no failure of the task.
    LeaseEnded,
}

/// What an executor is told about one fence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Held {
    /// It waits for a deadline, or processes of it may be alive.
    Running,
    /// Its whole group is gone; kept until acknowledged.
    Ended(Exit),
}

/// Why a spawn was not taken. The fence is not held, and nothing of it will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// A higher session has been heard.
    OldSession,
    /// The session's deadline has passed: nothing is spawned until a new session.
    SessionOver,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An executor opens a session. Taken only if the number is higher than all heard before.
    Session {
        /// Its number.
        number: SessionNumber,
    },
    /// Run a task.
    Spawn {
        /// Under which session.
        session: SessionNumber,
        /// The task's attempt.
        fence: Fence,
        /// How much later than its session it ends; zero for `kill` (PROTOCOL 5.9).
        on_disconnect: Millis,
    },
    /// A renewal was granted.
    Deadline {
        /// To which session.
        session: SessionNumber,
        /// Until when; only ever moves the deadline forward.
        at: BootTime,
        /// From TERM to KILL on a lost lease.
        kill_after: Millis,
    },
    /// Stop one attempt.
    Stop {
        /// Under which session.
        session: SessionNumber,
        /// Which.
        fence: Fence,
        /// From TERM to KILL; zero is KILL at once.
        grace: Millis,
    },
    /// The executor has recorded how this one ended: forget it.
    Acknowledge {
        /// Under which session.
        session: SessionNumber,
        /// Which.
        fence: Fence,
    },
    /// The first process exited, or could not be made.
    Exited {
        /// Of which attempt.
        fence: Fence,
        /// How.
        exit: Exit,
    },
    /// No process of the group is left.
    Gone {
        /// Of which attempt.
        fence: Fence,
    },
    /// Time has passed, no more.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the first process. If that fails, say `Exited` with `NotStarted`, then `Gone`.
    Spawn(Fence),
    /// Tell the executor that the spawn is not taken.
    Refuse(Fence, Refusal),
    /// Send TERM to all processes of the group; say `Gone` if there is none.
    Term(Fence),
    /// Send KILL to all processes of the group; say `Gone` if there is none.
    Kill(Fence),
    /// Write the status beside the journal, then tell the executor.
    Ended(Fence, Exit),
    /// Tell the executor that KILL did not help for the whole kill budget (PROTOCOL 5.7).
    Unkillable(Fence),
}

/// Where one attempt stands.
#[derive(Clone, Debug, Hash)]
enum Task {
    /// Waits for the first deadline of the session it came under.
    Waiting { on_disconnect: Millis },
    /// Its first process lives, and nobody wants it to end.
    Running { on_disconnect: Millis },
    /// It is being stopped, for good.
    Stopping { stop: Stop, on_disconnect: Millis, exit: Option<Exit> },
    /// The whole group is gone.
    Ended { exit: Exit },
}

#[derive(Clone, Copy, Debug, Hash)]
enum Stop {
    /// TERM was sent; KILL follows at `kill_at`.
    Asked { kill_at: BootTime },
    /// KILL was sent; at `alarm_at` it has failed.
    Killed { alarm_at: BootTime },
    /// KILL was sent, and did not help.
    Unkillable,
}

/// What the highest session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Session {
    /// It has no deadline yet: starts wait.
    Unproven,
    /// Starts are taken until then.
    Until(BootTime),
    /// Its deadline has passed: nothing is spawned until a new session.
    Over,
}

/// The state of one supervisor.
#[derive(Clone, Debug, Hash)]
pub struct Machine {
    highest: SessionNumber,
    session: Session,
    /// At this instant every group stops, those with `on_disconnect` that much later. A new session leaves it.
    deadline: Option<BootTime>,
    kill_after: Millis,
    tasks: BTreeMap<Fence, Task>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            highest: SessionNumber(0),
            session: Session::Unproven,
            deadline: None,
            kill_after: LeaseTerms::default().kill_after(),
            tasks: BTreeMap::new(),
        }
    }
}

impl Machine {
    /// The highest session heard; 0 before any.
    pub const fn highest(&self) -> SessionNumber {
        self.highest
    }

    /// What is held, in order of fences.
    pub fn held(&self) -> Vec<(Fence, Held)> {
        let held = |task: &Task| match task {
            Task::Ended { exit } => Held::Ended(exit.clone()),
            Task::Waiting { .. } | Task::Running { .. } | Task::Stopping { .. } => Held::Running,
        };
        self.tasks.iter().map(|(&fence, task)| (fence, held(task))).collect()
    }

    /// Whether this fence is held, ended or not.
    pub fn holds(&self, fence: Fence) -> bool {
        self.tasks.contains_key(&fence)
    }

    /// Whether no process can be alive and none will be made without a further message.
    pub fn is_idle(&self) -> bool {
        self.tasks.values().all(|task| matches!(task, Task::Ended { .. }))
    }

    /// Takes one event, which happened at `now`, and says what to do, in this order.
    ///
    /// What time alone has brought is done first, so that no message can come before a deadline that has passed.
    pub fn handle(&mut self, now: BootTime, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.pass_time(now, &mut actions);
        match event {
            Event::Session { number } => self.hear(number, &mut actions),
            Event::Spawn { session, fence, on_disconnect } => {
                self.spawn(session, fence, on_disconnect, &mut actions);
            }
            Event::Deadline { session, at, kill_after } if session == self.highest => {
                self.extend(now, at, kill_after, &mut actions);
            }
            Event::Stop { session, fence, grace } if session == self.highest => {
                self.stop(now, fence, grace, &mut actions);
            }
            Event::Acknowledge { session, fence } if session == self.highest => self.forget(fence),
            // An older executor lives on somewhere: it is not obeyed.
            Event::Deadline { .. } | Event::Stop { .. } | Event::Acknowledge { .. } | Event::Tick => {}
            Event::Exited { fence, exit } => self.exited(now, fence, exit, &mut actions),
            Event::Gone { fence } => self.gone(fence, &mut actions),
        }
        actions
    }

    /// The next instant at which `handle` has something to do without being told. `None`: never.
    pub fn next_wake(&self) -> Option<BootTime> {
        let session = match self.session {
            Session::Until(at) => Some(at),
            Session::Unproven | Session::Over => None,
        };
        self.tasks.values().filter_map(|task| self.wake_of(task)).chain(session).min()
    }

    fn wake_of(&self, task: &Task) -> Option<BootTime> {
        match task {
            Task::Running { on_disconnect } => self.deadline.map(|at| at + *on_disconnect),
            Task::Stopping { stop: Stop::Asked { kill_at }, on_disconnect, .. } => {
                // A lost lease shortens the grace that a cancel gave.
                let lost_at = self.deadline.map(|at| at + *on_disconnect + self.kill_after);
                Some(lost_at.map_or(*kill_at, |lost_at| lost_at.min(*kill_at)))
            }
            Task::Stopping { stop: Stop::Killed { alarm_at }, .. } => Some(*alarm_at),
            Task::Waiting { .. } | Task::Stopping { stop: Stop::Unkillable, .. } | Task::Ended { .. } => None,
        }
    }

    fn hear(&mut self, number: SessionNumber, actions: &mut Vec<Action>) {
        if number <= self.highest {
            return;
        }
        self.highest = number;
        self.session = Session::Unproven;
        if planted(Mutation::DeadlineForgottenAtNewSession) {
            self.deadline = None;
        }
        // Nothing is spawned for an older session; the deadline stays until this one is granted a renewal.
        for (&fence, task) in &mut self.tasks {
            if matches!(task, Task::Waiting { .. }) {
                *task = Task::Ended { exit: Exit::LeaseEnded };
                actions.push(Action::Ended(fence, Exit::LeaseEnded));
            }
        }
    }

    fn spawn(
        &mut self,
        session: SessionNumber,
        fence: Fence,
        on_disconnect: Millis,
        actions: &mut Vec<Action>,
    ) {
        if session != self.highest {
            actions.push(Action::Refuse(fence, Refusal::OldSession));
            return;
        }
        // The same start once more changes nothing, also when it has ended.
        if self.tasks.contains_key(&fence) {
            return;
        }
        match self.session {
            Session::Over => actions.push(Action::Refuse(fence, Refusal::SessionOver)),
            Session::Unproven => {
                self.tasks.insert(fence, Task::Waiting { on_disconnect });
            }
            Session::Until(_) => {
                self.tasks.insert(fence, Task::Running { on_disconnect });
                actions.push(Action::Spawn(fence));
            }
        }
    }

    fn extend(&mut self, now: BootTime, at: BootTime, kill_after: Millis, actions: &mut Vec<Action>) {
        // A grant that came too late: the stop has begun and is not taken back, the session is at its end.
        if self.session == Session::Over || at <= now {
            return;
        }
        self.kill_after = kill_after;
        self.deadline = self.deadline.max(Some(at));
        self.session = match self.session {
            Session::Until(before) => Session::Until(before.max(at)),
            Session::Unproven | Session::Over => Session::Until(at),
        };
        for (&fence, task) in &mut self.tasks {
            if let Task::Waiting { on_disconnect } = *task {
                *task = Task::Running { on_disconnect };
                actions.push(Action::Spawn(fence));
            }
        }
    }

    fn stop(&mut self, now: BootTime, fence: Fence, grace: Millis, actions: &mut Vec<Action>) {
        let alarm_at = now + self.kill_after + self.kill_after;
        let kill_at = now + grace;
        let Some(task) = self.tasks.get_mut(&fence) else { return };
        match task {
            Task::Waiting { .. } => {
                let exit = Exit::NotStarted("it was stopped before it could start".into());
                *task = Task::Ended { exit: exit.clone() };
                actions.push(Action::Ended(fence, exit));
            }
            Task::Running { on_disconnect } => {
                let now_killed = grace == Millis::ZERO;
                let stop = if now_killed { Stop::Killed { alarm_at } } else { Stop::Asked { kill_at } };
                *task = Task::Stopping { stop, on_disconnect: *on_disconnect, exit: None };
                actions.push(if now_killed { Action::Kill(fence) } else { Action::Term(fence) });
            }
            // A second stop may hurry the first, never slow it.
            Task::Stopping { stop: stop @ Stop::Asked { .. }, .. } if grace == Millis::ZERO => {
                *stop = Stop::Killed { alarm_at };
                actions.push(Action::Kill(fence));
            }
            Task::Stopping { stop: Stop::Asked { kill_at: planned }, .. } => {
                *planned = kill_at.min(*planned);
            }
            Task::Stopping { stop: Stop::Killed { .. } | Stop::Unkillable, .. } | Task::Ended { .. } => {}
        }
    }

    fn forget(&mut self, fence: Fence) {
        if matches!(self.tasks.get(&fence), Some(Task::Ended { .. })) {
            self.tasks.remove(&fence);
        }
    }

    /// A reported end means that the whole group is gone: what the first process left behind is stopped first.
    fn exited(&mut self, now: BootTime, fence: Fence, exit: Exit, actions: &mut Vec<Action>) {
        let kill_at = now + self.kill_after;
        let Some(task) = self.tasks.get_mut(&fence) else { return };
        match task {
            Task::Running { .. } if planted(Mutation::ReportBeforeGroupIsGone) => {
                *task = Task::Ended { exit: exit.clone() };
                actions.push(Action::Ended(fence, exit));
            }
            Task::Running { on_disconnect } => {
                let (stop, on_disconnect) = (Stop::Asked { kill_at }, *on_disconnect);
                *task = Task::Stopping { stop, on_disconnect, exit: Some(exit) };
                actions.push(Action::Term(fence));
            }
            Task::Stopping { exit: known, .. } => *known = known.take().or(Some(exit)),
            Task::Waiting { .. } | Task::Ended { .. } => {}
        }
    }

    fn gone(&mut self, fence: Fence, actions: &mut Vec<Action>) {
        // The shell says so only after the first process has exited, which belongs to the group.
        let Some(Task::Stopping { exit: Some(exit), .. }) = self.tasks.get(&fence) else { return };
        let exit = exit.clone();
        self.tasks.insert(fence, Task::Ended { exit: exit.clone() });
        actions.push(Action::Ended(fence, exit));
    }

    fn pass_time(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        if matches!(self.session, Session::Until(at) if at <= now) {
            self.session = Session::Over;
        }
        for (&fence, task) in &mut self.tasks {
            let lost_at = self.deadline.unwrap_or(BootTime(u64::MAX));
            match task {
                Task::Running { on_disconnect } if lost_at + *on_disconnect <= now => {
                    let kill_at = now + self.kill_after;
                    let (stop, on_disconnect) = (Stop::Asked { kill_at }, *on_disconnect);
                    // However its first process ends now, it is the lease that ended it.
                    *task = Task::Stopping { stop, on_disconnect, exit: Some(Exit::LeaseEnded) };
                    actions.push(Action::Term(fence));
                }
                Task::Stopping { stop, on_disconnect, .. } => {
                    let lost_at = lost_at + *on_disconnect;
                    if let Some(action) = stop.pass_time(now, lost_at, self.kill_after) {
                        actions.push(action(fence));
                    }
                }
                Task::Waiting { .. } | Task::Running { .. } | Task::Ended { .. } => {}
            }
        }
    }
}

impl Stop {
    /// The next step of a stop, if its time has come. A lost lease shortens the grace that a cancel gave.
    fn pass_time(
        &mut self,
        now: BootTime,
        lost_at: BootTime,
        kill_after: Millis,
    ) -> Option<fn(Fence) -> Action> {
        match *self {
            Self::Asked { kill_at } if kill_at.min(lost_at + kill_after) <= now => {
                *self = Self::Killed { alarm_at: now + kill_after + kill_after };
                Some(Action::Kill)
            }
            Self::Killed { alarm_at } if alarm_at <= now => {
                *self = Self::Unkillable;
                Some(Action::Unkillable)
            }
            Self::Asked { .. } | Self::Killed { .. } | Self::Unkillable => None,
        }
    }
}

#[cfg(test)]
mod tests;
