//! Drives the real machine of each supervisor, over processes that are simulated: they run for a time that was drawn, may
//! ignore TERM, and may leave children behind.

use matins_core::executor::SpawnAnswer;
use matins_core::id::{Fence, SessionNumber};
use matins_core::supervisor::{self, Exit};

use super::agenda::{Alarm, Instant, MS};
use super::outside::Process;
use super::world::{Event, FromSupervisor, Proc, World};

/// A supervisor process.
pub(super) struct Supervisor {
    pub(super) node: usize,
    pub(super) machine: supervisor::Machine,
    pub(super) is_alive: bool,
    /// To whom it speaks.
    pub(super) executor: Option<(Proc, u32)>,
    alarm: Alarm,
    /// Messages keep their order: none comes before this.
    pub(super) last_in: Instant,
    last_out: Instant,
}

/// Whom a TERM reaches.
pub(super) enum TermTakes {
    First,
    Children,
    Nobody,
}

impl World {
    pub(super) fn start_supervisor(&mut self, node: usize) -> usize {
        self.supervisors.push(Supervisor {
            node,
            machine: supervisor::Machine::default(),
            is_alive: true,
            executor: None,
            alarm: Alarm::default(),
            last_in: 0,
            last_out: 0,
        });
        self.supervisors.len() - 1
    }

    /// An incarnation ends with its supervisor's connection, and another begins.
    pub(super) fn lose_supervisor(&mut self, number: usize) {
        let node = self.supervisors[number].node;
        self.supervisors[number].is_alive = false;
        let proc = self.proc(node);
        let has_it = self.nodes[node].host.supervisors.contains(&number);
        if has_it && self.nodes[node].driver.take().is_some() {
            self.streams_of_executor(proc);
            self.agenda.at(self.agenda.now() + 100 * MS, Event::Incarnate(proc));
        }
    }

    /// A supervisor is given a session's number and asked what it holds.
    pub(super) fn announced(&mut self, proc: Proc, incarnation: u32, number: usize, session: SessionNumber) {
        if !self.supervisors[number].is_alive {
            return;
        }
        let is_taken = session > self.supervisors[number].machine.highest();
        self.supervisor_hears(number, supervisor::Event::Session { number: session });
        let machine = &self.supervisors[number].machine;
        let mut answers = Vec::new();
        if !is_taken {
            answers.push(FromSupervisor::Outnumbered(machine.highest()));
        }
        answers.push(FromSupervisor::Listed(number, session, machine.held()));
        for answer in answers {
            let at = self.out_at(number);
            self.agenda.at(at, Event::FromSupervisor(proc, incarnation, answer));
        }
    }

    pub(super) fn out_at(&mut self, number: usize) -> Instant {
        let delay = self.local_delay();
        let at = (self.agenda.now() + delay).max(self.supervisors[number].last_out);
        self.supervisors[number].last_out = at;
        at
    }

    pub(super) fn supervisor_says(&mut self, number: usize, said: FromSupervisor) {
        let Some((proc, incarnation)) = self.supervisors[number].executor else { return };
        let at = self.out_at(number);
        self.agenda.at(at, Event::FromSupervisor(proc, incarnation, said));
    }

    pub(super) fn supervisor_wakes(&mut self, number: usize, at: Instant) {
        if self.supervisors[number].alarm.rings(at) {
            self.supervisor_hears(number, supervisor::Event::Tick);
        }
    }

    /// Tells a supervisor what happened, does what it says, and sets its next wake.
    pub(super) fn supervisor_hears(&mut self, number: usize, event: supervisor::Event) {
        if !self.supervisors[number].is_alive {
            return;
        }
        let boot = self.boot(self.supervisors[number].node);
        let actions = self.supervisors[number].machine.handle(boot, event);
        for action in actions {
            self.supervisor_acts(number, action);
        }
        let (now, clocks) = (self.agenda.now(), self.nodes[self.supervisors[number].node].clocks.clone());
        let supervisor = &mut self.supervisors[number];
        if let Some(wake) = supervisor.machine.next_wake() {
            let at = clocks.when(wake);
            if supervisor.alarm.set(now, at) {
                self.agenda.at(at, Event::SupervisorWake(number, at));
            }
        }
    }

    fn supervisor_acts(&mut self, number: usize, action: supervisor::Action) {
        let now = self.agenda.now();
        match action {
            supervisor::Action::Spawn(fence) => {
                self.spawn(number, fence);
                self.supervisor_says(number, FromSupervisor::Answered(fence, SpawnAnswer::Started));
            }
            supervisor::Action::Refuse(fence, _) => {
                self.supervisor_says(number, FromSupervisor::Answered(fence, SpawnAnswer::Refused));
            }
            supervisor::Action::Term(fence) => {
                let soon = now + MS + self.draw(self.knobs.lease.kill_budget.0 * MS / 8);
                match self.processes.term(fence) {
                    Some(TermTakes::First) => {
                        self.agenda.at(soon, Event::FirstExits(fence, Exit::Signal(15)));
                    }
                    Some(TermTakes::Children) => self.agenda.at(soon, Event::GroupGoes(fence)),
                    Some(TermTakes::Nobody) => {}
                    None => self.agenda.at(now, Event::GroupGoes(fence)),
                }
            }
            supervisor::Action::Kill(fence) => {
                let at = now + MS + self.draw(5 * MS);
                self.agenda.at(at, Event::GroupGoes(fence));
            }
            supervisor::Action::Ended(fence, exit) => {
                let node = self.supervisors[number].node;
                if self.nodes[node].host.supervisors.contains(&number)
                    && let Some(kept) = self.nodes[node].host.journal.get_mut(&fence)
                {
                    kept.exit = Some(exit.clone());
                }
                self.supervisor_says(number, FromSupervisor::Ended(fence, exit));
            }
            supervisor::Action::Unkillable(fence) => {
                self.supervisor_says(number, FromSupervisor::Answered(fence, SpawnAnswer::Unkillable));
            }
        }
    }

    /// A first process is made.
    fn spawn(&mut self, number: usize, fence: Fence) {
        let node = self.supervisors[number].node;
        let length = 100 * MS + self.draw(if self.is_calm { 3_000 * MS } else { self.knobs.task_max });
        let fails = !self.is_calm && self.happens(self.knobs.failing);
        let code = i32::from(fails);
        let process = Process {
            node,
            supervisor: number,
            is_stubborn: self.happens(self.knobs.stubborn),
            first_lives: true,
            has_children: self.happens(self.knobs.littering),
            is_told_apart: false,
        };
        self.process_starts(fence, process);
        self.agenda.at(self.agenda.now() + length, Event::FirstExits(fence, Exit::Code(code)));
    }

    /// The first process of an attempt exits.
    pub(super) fn first_exits(&mut self, fence: Fence, exit: Exit) {
        let Some(process) = self.processes.get_mut(fence) else { return };
        if !std::mem::take(&mut process.first_lives) {
            return;
        }
        let (number, has_children) = (process.supervisor, process.has_children);
        self.supervisor_hears(number, supervisor::Event::Exited { fence, exit });
        if !has_children {
            self.group_goes(fence);
        }
    }

    /// No process of an attempt is left.
    pub(super) fn group_goes(&mut self, fence: Fence) {
        let Some(process) = self.processes.get_mut(fence) else {
            // Nothing was left when it was asked.
            let holder = self.supervisors.iter().position(|it| it.is_alive && it.machine.holds(fence));
            if let Some(number) = holder {
                self.supervisor_hears(number, supervisor::Event::Gone { fence });
            }
            return;
        };
        let number = process.supervisor;
        let first_lived = process.first_lives;
        self.processes.remove(fence);
        if first_lived {
            self.supervisor_hears(number, supervisor::Event::Exited { fence, exit: Exit::Signal(9) });
        }
        self.supervisor_hears(number, supervisor::Event::Gone { fence });
    }
}
