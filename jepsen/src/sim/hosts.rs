//! Drives the real machine of each executor, as `matins_node::execute::executor` does: streams, journal, supervisors.

use std::collections::BTreeMap;

use matins_core::executor::{
    Action, Event as Told, HeldAs, Journaled, Machine, SpawnAnswer, StartRefusal, StopHow, SupervisorId,
};
use matins_core::id::{Fence, SessionNumber};
use matins_core::state::settings::LeaseTerms;
use matins_core::supervisor::{self, Exit, Held};
use matins_core::time::Millis;
use matins_node::execute::wire;
use matins_node::lead::queue::ConnId;
use matins_proto::v1;
use matins_proto::v1::attempt_report::{Outcome, Outputs};
use matins_proto::v1::executor_message::Message as Said;
use matins_proto::v1::leader_message::Message;

use super::agenda::{Alarm, Instant, MS};
use super::network::{Body, Direction};
use super::world::{Event, FromSupervisor, Proc, World};

/// What of an executor outlives its process.
pub(super) struct Host {
    pub(super) boot: u64,
    pub(super) journal_id: u64,
    pub(super) slots: u32,
    pub(super) journal: BTreeMap<Fence, Kept>,
    pub(super) last_session: SessionNumber,
    /// Supervisors that its folder knows, oldest first.
    pub(super) supervisors: Vec<usize>,
}

impl Host {
    pub(super) const fn new(slots: u32) -> Self {
        Self {
            boot: 1,
            journal_id: 1,
            slots,
            journal: BTreeMap::new(),
            last_session: SessionNumber(0),
            supervisors: Vec::new(),
        }
    }
}

/// What the journal has of an attempt.
#[derive(Clone, Default)]
pub(super) struct Kept {
    on_disconnect: Millis,
    grace: Millis,
    /// Under which journal id it was started.
    journal_id: u64,
    pub(super) exit: Option<Exit>,
    report: Option<Box<v1::AttemptReport>>,
}

/// One incarnation of an executor.
pub(super) struct Driver {
    machine: Machine,
    number: u32,
    runs_at: BTreeMap<Fence, usize>,
    /// Attempts that are made ready; `false`: a stop came meanwhile.
    preparing: BTreeMap<Fence, bool>,
    exits: BTreeMap<Fence, Exit>,
    pub(super) conn: Option<ConnId>,
    terms: LeaseTerms,
    alarm: Alarm,
    links: BTreeMap<SupervisorId, usize>,
}

impl World {
    /// The server process of a node begins, with its executor.
    pub(super) fn start_server(&mut self, node: usize) {
        let state = self.state();
        let boot = self.boot(node);
        let voters = (0..self.nodes.len()).map(super::world::node_id).collect();
        let starting = &mut self.nodes[node];
        starting.life += 1;
        starting.is_up = true;
        starting.lead = None;
        starting.queue.clear();
        starting.is_writing = false;
        starting.observed_at = None;
        starting.carried = matins_core::time::Timestamp::ZERO;
        starting.clock = matins_core::clock::LeaderClock::new();
        starting.clock.set_voters(vec![voters]);
        // What lies on disk says nothing about how late it is (PROTOCOL 1.2).
        let from = matins_core::clock::AppliedFrom::Disk;
        starting.applied = state.index.0;
        starting.clock.applied(state.now, state.cluster.time_accepted, boot, from);
        self.topology();
        let proc = self.proc(node);
        let at = self.agenda.now() + self.draw(50 * MS);
        self.agenda.at(at, Event::Incarnate(proc));
    }

    /// The server process of a node is gone; `down` later it begins again.
    pub(super) fn kill_server(&mut self, node: usize, down: u64) {
        if !self.nodes[node].is_up {
            return;
        }
        self.stop_server(node, true);
        self.agenda.at(self.agenda.now() + down, Event::Over(super::world::Over::Down(node)));
    }

    pub(super) fn stop_server(&mut self, node: usize, is_machine_there: bool) {
        let proc = self.proc(node);
        self.streams_of_dead(proc, is_machine_there);
        let stopping = &mut self.nodes[node];
        stopping.is_up = false;
        stopping.lead = None;
        stopping.driver = None;
        stopping.queue.clear();
        stopping.frozen_until = 0;
        self.wake_up(node);
        self.topology();
    }

    /// An executor finds its supervisors and begins with what its files say.
    pub(super) fn incarnate(&mut self, proc: Proc) {
        if !self.lives(proc) || self.nodes[proc.node].driver.is_some() {
            return;
        }
        let node = proc.node;
        let mut known = self.nodes[node].host.supervisors.clone();
        known.retain(|number| self.supervisors[*number].is_alive);
        let was_alone = known.is_empty();
        if was_alone {
            known.push(self.start_supervisor(node));
        }
        let number = u32::try_from(self.next_id()).expect("a seed has fewer ids");
        let links: BTreeMap<SupervisorId, usize> =
            known.iter().enumerate().map(|(place, number)| (SupervisorId(place as u32), *number)).collect();
        for supervisor in &known {
            self.supervisors[*supervisor].executor = Some((proc, number));
        }
        let host = &mut self.nodes[node].host;
        host.supervisors = known;
        let id = host.journal_id;
        if was_alone {
            host.journal
                .retain(|_, kept| kept.journal_id == id || kept.exit.is_some() || kept.report.is_some());
        }
        let journaled = |kept: &Kept| match (&kept.report, &kept.exit) {
            (Some(_), _) => Some(Journaled::Reported),
            (None, Some(_)) => Some(Journaled::Ended),
            (None, None) => (kept.journal_id == id).then_some(Journaled::Started),
        };
        let journal: Vec<_> =
            host.journal.iter().filter_map(|(fence, kept)| Some((*fence, journaled(kept)?))).collect();
        let machine = Machine::new(host.last_session, links.keys().copied(), journal);
        self.nodes[node].driver = Some(Driver {
            machine,
            number,
            runs_at: BTreeMap::new(),
            preparing: BTreeMap::new(),
            exits: BTreeMap::new(),
            conn: None,
            terms: self.knobs.lease,
            alarm: Alarm::default(),
            links,
        });
        self.agenda.at(self.agenda.now() + MS, Event::Connect(proc));
    }

    pub(super) fn streams_of_executor(&mut self, proc: Proc) {
        let of_executor = |conn: &super::network::Conn| conn.to(Direction::ToExecutor) == proc;
        let ids: Vec<ConnId> =
            self.conns.iter().filter(|(_, conn)| of_executor(conn)).map(|(id, _)| *id).collect();
        for id in ids {
            self.close(id, Direction::ToLeader);
        }
    }

    pub(super) fn stream_opened(&mut self, node: usize, id: ConnId) {
        if self.nodes[node].driver.as_ref().is_some_and(|driver| driver.conn == Some(id)) {
            self.tell_executor(node, Told::StreamOpened);
        }
    }

    pub(super) fn stream_closed(&mut self, node: usize, id: ConnId) {
        let Some(driver) = self.nodes[node].driver.as_mut().filter(|driver| driver.conn == Some(id)) else {
            return;
        };
        driver.conn = None;
        self.tell_executor(node, Told::StreamClosed);
        self.connect_soon(node);
    }

    fn connect_soon(&mut self, node: usize) {
        let at = self.agenda.now() + 20 * MS + self.draw(20 * MS);
        self.agenda.at(at, Event::Connect(self.proc(node)));
    }

    /// A node has heard of another leader: its executor goes there.
    pub(super) fn moved(&mut self, proc: Proc) {
        let leader = self.consensus.leader;
        let Some(id) = self.nodes[proc.node].driver.as_ref().and_then(|driver| driver.conn) else { return };
        let is_elsewhere =
            self.conns.get(&id).is_some_and(|conn| Some(conn.to(Direction::ToLeader)) != leader);
        if self.lives(proc) && is_elsewhere {
            self.close(id, Direction::ToLeader);
            self.stream_closed(proc.node, id);
        }
    }

    /// What the leader said over a stream.
    pub(super) fn leader_said(&mut self, node: usize, id: ConnId, message: Message) {
        let Some(driver) = self.nodes[node].driver.as_mut().filter(|driver| driver.conn == Some(id)) else {
            return;
        };
        let Some(event) = wire::heard(&message) else { return };
        if let Told::Opened { params, .. } = &event {
            driver.terms = *params;
        }
        let Message::Start(start) = message else { return self.tell_executor(node, event) };
        let fence = Fence(start.fence);
        let job = start.job.unwrap_or_default();
        let journal_id = self.nodes[node].host.journal_id;
        let kept = Kept {
            on_disconnect: Millis(job.on_disconnect_ms),
            grace: Millis(job.kill_grace_ms),
            journal_id,
            ..Kept::default()
        };
        self.nodes[node].host.journal.entry(fence).or_insert(kept);
        self.tell_executor(node, event);
        let holds = self.nodes[node].driver.as_ref().is_some_and(|driver| driver.machine.holds(fence));
        if !holds {
            self.nodes[node].host.journal.remove(&fence);
        }
    }

    pub(super) fn executor_wakes(&mut self, proc: Proc, at: Instant) {
        let lives = self.lives(proc);
        let driver = self.nodes[proc.node].driver.as_mut().filter(|_| lives);
        if driver.is_some_and(|driver| driver.alarm.rings(at)) {
            self.tell_executor(proc.node, Told::Tick);
        }
    }

    /// Tells the machine what happened, does what it says, and sets its next wake.
    pub(super) fn tell_executor(&mut self, node: usize, event: Told) {
        let boot = self.boot(node);
        let Some(driver) = self.nodes[node].driver.as_mut() else { return };
        let actions = driver.machine.handle(boot, event);
        for action in actions {
            self.executor_acts(node, action);
        }
        let (now, proc) = (self.agenda.now(), self.proc(node));
        let clocks = self.nodes[node].clocks.clone();
        let Some(driver) = self.nodes[node].driver.as_mut() else { return };
        if let Some(wake) = driver.machine.next_wake() {
            let at = clocks.when(wake);
            if driver.alarm.set(now, at) {
                self.agenda.at(at, Event::ExecutorWake(proc, at));
            }
        }
    }

    fn executor_acts(&mut self, node: usize, action: Action) {
        match action {
            Action::Announce(number) => {
                self.nodes[node].host.last_session = number;
                self.announce(node, number);
            }
            Action::PassDeadline { session, at, kill_after } => {
                self.tell_supervisors(node, &supervisor::Event::Deadline { session, at, kill_after });
            }
            // It was journaled when it came.
            Action::Journal(_) => {}
            Action::Spawn(session, fence) => self.prepare(node, session, fence),
            Action::StopGroup(session, fence, how) => self.stop_group(node, session, fence, how),
            Action::MakeReport(fence) => self.make_report(node, fence),
            Action::MakeLost(fence) => self.make_lost(node, fence),
            Action::SendReport(fence) => {
                let report = self.nodes[node].host.journal.get(&fence).and_then(|kept| kept.report.clone());
                if let Some(report) = report {
                    self.say(node, Said::Report(*report));
                }
            }
            Action::Forget(session, fence) => self.forget(node, session, fence),
            Action::CloseStream => {
                let conn = self.nodes[node].driver.as_mut().and_then(|driver| driver.conn.take());
                if let Some(id) = conn {
                    self.close(id, Direction::ToLeader);
                    self.connect_soon(node);
                }
            }
            Action::Hello(number, held) => {
                let hello = self.hello(node, number, &held);
                self.say(node, Said::Hello(hello));
            }
            Action::Renew(sequence) => self.say(node, Said::Renew(v1::Renew { sequence })),
            Action::Confirm(fence) => {
                self.say(node, Said::StartConfirmed(v1::StartConfirmed { fence: fence.0 }));
            }
            Action::Started(fence) => self.say(node, Said::Started(v1::Started { fence: fence.0, at: 0 })),
            Action::RefuseStart(fence, why) => self.refuse_start(node, fence, why),
            Action::SendDead(fence) => self.say(node, Said::StopDead(v1::StopDead { fence: fence.0 })),
            Action::Unkillable(fence) => self.say(node, Said::Unkillable(v1::Unkillable { fence: fence.0 })),
        }
    }

    fn refuse_start(&mut self, node: usize, fence: Fence, why: StartRefusal) {
        let session = self.nodes[node].host.last_session.0;
        let reason = format!("{why:?}");
        self.say(node, Said::StartRefused(v1::StartRefused { fence: fence.0, session, reason }));
    }

    fn hello(&self, node: usize, number: SessionNumber, held: &[(Fence, HeldAs)]) -> v1::Hello {
        let host = &self.nodes[node].host;
        v1::Hello {
            node: self.nodes[node].id.0,
            session: number.0,
            boot_id: host.boot.to_string(),
            journal: host.journal_id,
            held: wire::held_fences(held),
            slots: host.slots,
            name: format!("machine-{node}"),
            level: u32::from(matins_core::LEVEL),
            ..Default::default()
        }
    }

    fn say(&mut self, node: usize, said: Said) {
        if let Some(id) = self.nodes[node].driver.as_ref().and_then(|driver| driver.conn) {
            self.send(id, Direction::ToLeader, Body::ToLeader(Box::new(said)));
        }
    }

    pub(super) fn local_delay(&mut self) -> u64 {
        MS / 20 + self.draw(MS)
    }

    fn pass_to_supervisor(&mut self, number: usize, event: Event) {
        let delay = self.local_delay();
        let at = (self.agenda.now() + delay).max(self.supervisors[number].last_in);
        self.supervisors[number].last_in = at;
        self.agenda.at(at, event);
    }

    fn tell_supervisors(&mut self, node: usize, event: &supervisor::Event) {
        let links: Vec<usize> =
            self.nodes[node].driver.iter().flat_map(|driver| driver.links.values().copied()).collect();
        for number in links {
            self.pass_to_supervisor(number, Event::ToSupervisor(number, event.clone()));
        }
    }

    fn announce(&mut self, node: usize, session: SessionNumber) {
        let proc = self.proc(node);
        let Some(driver) = self.nodes[node].driver.as_ref() else { return };
        let (incarnation, links) = (driver.number, driver.links.values().copied().collect::<Vec<_>>());
        for number in links {
            self.pass_to_supervisor(number, Event::Announced(proc, incarnation, number, session));
        }
    }

    pub(super) fn executor_hears(&mut self, proc: Proc, incarnation: u32, said: FromSupervisor) {
        let node = proc.node;
        let Some(driver) = self.driver_of(proc, incarnation) else { return };
        let event = match said {
            FromSupervisor::Outnumbered(highest) => Told::Outnumbered { highest },
            FromSupervisor::Listed(supervisor, number, held) => {
                for (fence, how) in &held {
                    driver.runs_at.insert(*fence, supervisor);
                    if let Held::Ended(exit) = how {
                        driver.exits.insert(*fence, exit.clone());
                    }
                }
                let Some(id) = driver.links.iter().find(|(_, number)| **number == supervisor) else { return };
                Told::Listed { supervisor: *id.0, number, held }
            }
            FromSupervisor::Answered(fence, answer) => {
                if answer == SpawnAnswer::Refused {
                    driver.runs_at.remove(&fence);
                }
                Told::Answered { fence, answer }
            }
            FromSupervisor::Ended(fence, exit) => {
                driver.exits.insert(fence, exit);
                Told::Ended { fence }
            }
        };
        self.tell_executor(node, event);
    }

    fn driver_of(&mut self, proc: Proc, incarnation: u32) -> Option<&mut Driver> {
        if !self.lives(proc) {
            return None;
        }
        self.nodes[proc.node].driver.as_mut().filter(|driver| driver.number == incarnation)
    }

    fn prepare(&mut self, node: usize, session: SessionNumber, fence: Fence) {
        let proc = self.proc(node);
        let Some(driver) = self.nodes[node].driver.as_mut() else { return };
        driver.preparing.insert(fence, true);
        let number = driver.number;
        let slow = if self.draw(20) == 0 { self.knobs.lease.length.0 * MS } else { 50 * MS };
        let at = self.agenda.now() + MS + self.draw(slow);
        self.agenda.at(at, Event::Prepared(proc, number, session, fence));
    }

    /// The files of an attempt are ready.
    pub(super) fn prepared(&mut self, proc: Proc, incarnation: u32, session: SessionNumber, fence: Fence) {
        let Some(driver) = self.driver_of(proc, incarnation) else { return };
        let is_wanted = driver.preparing.remove(&fence).unwrap_or(false);
        let newest = driver.links.values().next_back().copied();
        if let Some(number) = newest.filter(|_| is_wanted) {
            driver.runs_at.insert(fence, number);
            let kept = self.nodes[proc.node].host.journal.get(&fence);
            let on_disconnect = kept.map_or(Millis::ZERO, |kept| kept.on_disconnect);
            let spawn = supervisor::Event::Spawn { session, fence, on_disconnect };
            self.pass_to_supervisor(number, Event::ToSupervisor(number, spawn));
            return;
        }
        let exit = Exit::NotStarted("it was stopped before it could start".into());
        driver.exits.insert(fence, exit.clone());
        if let Some(kept) = self.nodes[proc.node].host.journal.get_mut(&fence) {
            kept.exit = Some(exit);
        }
        self.tell_executor(proc.node, Told::Ended { fence });
    }

    fn stop_group(&mut self, node: usize, session: SessionNumber, fence: Fence, how: StopHow) {
        let grace_of_job = self.nodes[node].host.journal.get(&fence).map(|kept| kept.grace);
        let Some(driver) = self.nodes[node].driver.as_mut() else { return };
        if let Some(is_wanted) = driver.preparing.get_mut(&fence) {
            *is_wanted = false;
            return;
        }
        let grace = match how {
            StopHow::Graceful => grace_of_job.unwrap_or(Millis::from_secs(10)),
            StopHow::Now => Millis::ZERO,
            StopHow::Lost => driver.terms.kill_after(),
        };
        let stop = supervisor::Event::Stop { session, fence, grace };
        match driver.runs_at.get(&fence).copied() {
            Some(number) => self.pass_to_supervisor(number, Event::ToSupervisor(number, stop)),
            None => self.tell_supervisors(node, &stop),
        }
    }

    fn make_report(&mut self, node: usize, fence: Fence) {
        let told = self.nodes[node].driver.as_mut().and_then(|driver| driver.exits.remove(&fence));
        let kept = self.nodes[node].host.journal.get(&fence).and_then(|kept| kept.exit.clone());
        let lost = |cause: v1::LostCause| {
            Outcome::Lost(v1::Lost { cause: cause.into(), reason: "the simulation".into() })
        };
        let outcome = match kept.or(told) {
            Some(Exit::Code(code)) => Outcome::ExitCode(code),
            Some(Exit::Signal(signal)) => Outcome::Signal(signal),
            Some(Exit::NotStarted(why)) => Outcome::CouldNotStart(why),
            Some(Exit::LeaseEnded) => lost(v1::LostCause::LeaseEnded),
            None => lost(v1::LostCause::NotHeld),
        };
        let outputs = (outcome == Outcome::ExitCode(0))
            .then(|| Outputs::OutputsJson(format!("{{\"n\":{}}}", fence.0 % 4)));
        let log_bytes = fence.0 % 2 * 100;
        self.collect(
            node,
            v1::AttemptReport {
                fence: fence.0,
                outcome: Some(outcome),
                outputs,
                log_bytes,
                ..Default::default()
            },
        );
    }

    fn make_lost(&mut self, node: usize, fence: Fence) {
        if let Some(is_wanted) =
            self.nodes[node].driver.as_mut().and_then(|driver| driver.preparing.get_mut(&fence))
        {
            *is_wanted = false;
        }
        // What is left of it is found by its fence, and killed.
        self.processes.remove_leftovers(fence);
        let lost = v1::Lost { cause: v1::LostCause::NotHeld.into(), reason: "the simulation".into() };
        let outcome = Some(Outcome::Lost(lost));
        self.collect(node, v1::AttemptReport { fence: fence.0, outcome, ..Default::default() });
    }

    fn collect(&mut self, node: usize, report: v1::AttemptReport) {
        let (proc, fence) = (self.proc(node), Fence(report.fence));
        let Some(number) = self.nodes[node].driver.as_ref().map(|driver| driver.number) else { return };
        self.nodes[node].host.journal.entry(fence).or_default().report = Some(Box::new(report));
        let at = self.agenda.now() + MS + self.draw(20 * MS);
        self.agenda.at(at, Event::Collected(proc, number, fence));
    }

    pub(super) fn collected(&mut self, proc: Proc, incarnation: u32, fence: Fence) {
        if self.driver_of(proc, incarnation).is_some() {
            self.tell_executor(proc.node, Told::Reported { fence });
        }
    }

    fn forget(&mut self, node: usize, session: SessionNumber, fence: Fence) {
        self.nodes[node].host.journal.remove(&fence);
        let Some(driver) = self.nodes[node].driver.as_mut() else { return };
        driver.exits.remove(&fence);
        if let Some(number) = driver.runs_at.remove(&fence) {
            let event = supervisor::Event::Acknowledge { session, fence };
            self.pass_to_supervisor(number, Event::ToSupervisor(number, event));
        }
    }

    /// Deadlines and sessions of an executor, for a check from outside: whether it holds a valid session.
    pub(super) fn executor_is_valid(&self, node: usize) -> bool {
        let boot = self.boot(node);
        self.nodes[node].driver.as_ref().is_some_and(|driver| driver.machine.is_valid(boot))
    }
}
