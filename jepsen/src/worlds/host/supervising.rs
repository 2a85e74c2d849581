//! A supervisor and its processes.

use std::collections::{BTreeMap, VecDeque};

use matins_core::executor::{HeldAs, SupervisorId};
use matins_core::id::{Fence, SessionNumber};
use matins_core::supervisor::{Action, Event, Exit, Held, Machine};
use matins_core::time::{BootTime, Millis};

/// A message over the local socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ToSupervisor {
    Session(SessionNumber),
    List(SessionNumber),
    Spawn(SessionNumber, Fence),
    Deadline(SessionNumber, BootTime, Millis),
    Stop(SessionNumber, Fence, Millis),
    Acknowledge(SessionNumber, Fence),
}

/// An answer over the local socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FromSupervisor {
    Outnumbered(SessionNumber),
    List(SessionNumber, Vec<(Fence, Held)>),
    Started(Fence),
    Refused(Fence),
    Unkillable(Fence),
    Ended(Fence, Exit),
}

pub(super) const fn has_ended(how: HeldAs) -> bool {
    match how {
        HeldAs::Running => false,
        HeldAs::Ended => true,
    }
}

/// What is alive of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Group {
    /// Its first process.
    pub(in super::super) first: bool,
    /// A child of it.
    pub(in super::super) rest: bool,
    /// Somebody sent it a TERM.
    pub(in super::super) is_told: bool,
}

impl Group {
    pub(in super::super) const fn is_alive(self) -> bool {
        self.first || self.rest
    }
}

/// A supervisor, its end of the local socket, and its processes.
#[derive(Clone, Debug, Hash)]
pub(in super::super) struct Supervisor {
    pub(super) id: SupervisorId,
    pub(in super::super) machine: Machine,
    /// Its folder is in the data directory.
    pub(super) is_known: bool,
    /// Its socket is there.
    pub(super) is_reachable: bool,
    pub(super) inbox: VecDeque<ToSupervisor>,
    pub(super) outbox: Vec<FromSupervisor>,
    pub(in super::super) processes: BTreeMap<Fence, Group>,
}

impl Supervisor {
    pub(super) fn new(id: SupervisorId) -> Self {
        Self {
            id,
            machine: Machine::default(),
            is_known: true,
            is_reachable: true,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            processes: BTreeMap::new(),
        }
    }

    /// Whether the executor of this machine is connected to it, if there is one.
    pub(super) const fn is_linked(&self) -> bool {
        self.is_known && self.is_reachable
    }

    /// Takes the next message.
    pub(super) fn hear_next(&mut self, now: BootTime) {
        let Some(message) = self.inbox.pop_front() else { return };
        let event = match message {
            ToSupervisor::Session(number) => {
                let taken = number > self.machine.highest();
                self.happened(now, Event::Session { number });
                if !taken {
                    self.outbox.push(FromSupervisor::Outnumbered(self.machine.highest()));
                }
                return;
            }
            ToSupervisor::List(number) => {
                self.outbox.push(FromSupervisor::List(number, self.machine.held()));
                return;
            }
            ToSupervisor::Spawn(session, fence) => {
                Event::Spawn { session, fence, on_disconnect: Millis::ZERO }
            }
            ToSupervisor::Deadline(session, at, kill_after) => Event::Deadline { session, at, kill_after },
            ToSupervisor::Stop(session, fence, grace) => Event::Stop { session, fence, grace },
            ToSupervisor::Acknowledge(session, fence) => Event::Acknowledge { session, fence },
        };
        self.happened(now, event);
        self.processes.retain(|fence, group| group.is_alive() || self.machine.holds(*fence));
    }

    /// Wakes whenever it wants to, up to an instant.
    pub(super) fn pass_time(&mut self, until: BootTime) {
        while let Some(wake) = self.machine.next_wake().filter(|wake| *wake <= until) {
            self.happened(wake, Event::Tick);
        }
    }

    /// The first process exits by itself.
    pub(super) fn exit(&mut self, now: BootTime, fence: Fence, leaves_children: bool) {
        if let Some(group) = self.processes.get_mut(&fence) {
            (group.first, group.rest) = (false, leaves_children);
            self.happened(now, Event::Exited { fence, exit: Exit::Code(0) });
            self.look_at(now, fence);
        }
    }

    /// What it left behind exits.
    pub(super) fn rest_exits(&mut self, now: BootTime, fence: Fence) {
        if let Some(group) = self.processes.get_mut(&fence) {
            group.rest = false;
            self.look_at(now, fence);
        }
    }

    fn happened(&mut self, now: BootTime, event: Event) {
        for action in self.machine.handle(now, event) {
            self.act(now, action);
        }
    }

    fn act(&mut self, now: BootTime, action: Action) {
        match action {
            Action::Spawn(fence) => {
                self.processes.insert(fence, Group { first: true, rest: false, is_told: false });
                self.outbox.push(FromSupervisor::Started(fence));
            }
            Action::Refuse(fence, _) => self.outbox.push(FromSupervisor::Refused(fence)),
            Action::Term(fence) => {
                if let Some(group) = self.processes.get_mut(&fence) {
                    group.is_told = true;
                }
                self.look_at(now, fence);
            }
            Action::Kill(fence) => self.kill(now, fence),
            Action::Ended(fence, exit) => self.outbox.push(FromSupervisor::Ended(fence, exit)),
            Action::Unkillable(fence) => self.outbox.push(FromSupervisor::Unkillable(fence)),
        }
    }

    fn kill(&mut self, now: BootTime, fence: Fence) {
        let Some(group) = self.processes.get_mut(&fence) else { return };
        group.rest = false;
        if std::mem::replace(&mut group.first, false) {
            self.happened(now, Event::Exited { fence, exit: Exit::Signal(9) });
        }
        self.look_at(now, fence);
    }

    /// Says so if the group is gone.
    fn look_at(&mut self, now: BootTime, fence: Fence) {
        if self.processes.get(&fence).is_some_and(|group| !group.is_alive()) {
            self.happened(now, Event::Gone { fence });
        }
    }
}
