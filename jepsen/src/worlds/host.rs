//! One machine: an executor, its journal, its supervisors and the processes that really run.
//!
//! Executor and supervisor decide by the machines of production; what the shell around them does
//! (`matins_node::execute`) is told here again in its smallest form: files, the local socket, processes. Start reading at
//! [`Host::hear`] and `Host::act`.

use std::collections::{BTreeMap, VecDeque};

use matins_core::executor::{Action, Event, Journaled, Machine, SpawnAnswer, StopHow, SupervisorId};
use matins_core::id::{Fence, SessionNumber};
use matins_core::supervisor::{self, Exit};
use matins_core::time::{BootTime, Millis};

mod supervising;
pub(super) use supervising::Supervisor;
use supervising::{FromSupervisor, ToSupervisor};

/// From TERM to KILL on a cancel.
const KILL_GRACE: Millis = Millis::from_secs(10);

/// What an executor says to a leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ToLeader {
    Hello(Hello),
    Renew(u64),
    Confirm(Fence),
    Report(Fence, Exit),
    Dead(Fence),
    Unkillable(Fence),
}

/// The first message of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hello {
    pub(super) number: SessionNumber,
    pub(super) identity: Identity,
    /// `true`: ended.
    pub(super) held: Vec<(Fence, bool)>,
}

/// Boot id and journal id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) boot: u8,
    pub(super) journal: u8,
}

/// One attempt in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct File {
    identity: Identity,
    status: Option<Exit>,
    report: Option<Exit>,
}

/// What the machine says to the world around it.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) to_leader: Vec<ToLeader>,
    /// The executor closed its stream.
    pub(super) closes: bool,
}

/// How messages travel between an executor and its supervisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LocalLink {
    /// Each message is a step of its own, so that anything can come between.
    Slow,
    /// At once.
    Immediate,
}

/// A machine.
#[derive(Clone, Debug, Hash)]
pub(super) struct Host {
    link: LocalLink,
    identity: Identity,
    /// The last journal id that was drawn.
    journals: u8,
    last_session: SessionNumber,
    files: BTreeMap<Fence, File>,
    executor: Option<Executor>,
    pub(super) supervisors: Vec<Supervisor>,
}

/// One incarnation of the executor.
#[derive(Clone, Debug, Hash)]
struct Executor {
    machine: Machine,
    has_stream: bool,
    runs_at: BTreeMap<Fence, SupervisorId>,
    /// Starts whose files are being made ready; `false`: a stop came meanwhile.
    preparing: BTreeMap<Fence, (SessionNumber, bool)>,
    exits: BTreeMap<Fence, Exit>,
    kill_after: Millis,
    /// From the supervisors, in order.
    heard: VecDeque<(SupervisorId, FromSupervisor)>,
}

impl Host {
    /// A machine on which nothing has run yet.
    pub(super) fn new(link: LocalLink) -> Self {
        Self {
            link,
            identity: Identity { boot: 1, journal: 1 },
            journals: 1,
            last_session: SessionNumber(0),
            files: BTreeMap::new(),
            executor: None,
            supervisors: Vec::new(),
        }
    }

    pub(super) fn has_executor(&self) -> bool {
        self.executor.is_some()
    }

    /// Whether its executor lives and has no stream.
    pub(super) fn wants_stream(&self) -> bool {
        self.executor.as_ref().is_some_and(|executor| !executor.has_stream)
    }

    /// Starts whose files are being made ready.
    pub(super) fn preparing(&self) -> impl Iterator<Item = Fence> {
        self.executor.iter().flat_map(|executor| executor.preparing.keys().copied())
    }

    /// Messages that wait at the local socket: for supervisors, and for the executor.
    pub(super) fn waiting(&self) -> (impl Iterator<Item = SupervisorId>, bool) {
        let filled = self.supervisors.iter().filter(|supervisor| !supervisor.inbox.is_empty());
        let heard = self.executor.as_ref().is_some_and(|executor| !executor.heard.is_empty());
        (filled.map(|supervisor| supervisor.id), heard)
    }

    /// Starts the executor: it finds what lives and what is journaled, and begins a supervisor if it has none.
    pub(super) fn start_executor(&mut self) {
        let was_alone = self.supervisors.iter().all(|supervisor| !supervisor.is_known);
        let is_unproven = |supervisor: &&mut Supervisor| supervisor.is_known && !supervisor.is_reachable;
        let mut unproven = self.supervisors.iter_mut().filter(is_unproven).peekable();
        if unproven.peek().is_some() {
            // What it holds is not ours to judge any more (PROTOCOL 5.1). It costs no further journal id.
            unproven.for_each(|supervisor| supervisor.is_known = false);
            self.draw_journal();
        }
        if !self.supervisors.iter().any(|supervisor| supervisor.is_known) {
            let last = self.supervisors.iter().map(|supervisor| supervisor.id.0).max().unwrap_or(0);
            self.supervisors.push(Supervisor::new(SupervisorId(last + 1)));
        }
        let links = self.supervisors.iter().filter(|supervisor| supervisor.is_known);
        let links: Vec<SupervisorId> = links.map(|supervisor| supervisor.id).collect();
        let machine = Machine::new(self.last_session, links, self.load(was_alone));
        self.executor = Some(Executor {
            machine,
            has_stream: false,
            runs_at: BTreeMap::new(),
            preparing: BTreeMap::new(),
            exits: BTreeMap::new(),
            kill_after: Millis::ZERO,
            heard: VecDeque::new(),
        });
    }

    fn draw_journal(&mut self) {
        self.journals += 1;
        self.identity.journal = self.journals;
    }

    fn load(&mut self, alone: bool) -> Vec<(Fence, Journaled)> {
        let identity = self.identity;
        let mut found = Vec::new();
        self.files.retain(|fence, file| {
            let journaled = match file {
                File { report: Some(_), .. } => Journaled::Reported,
                File { status: Some(_), .. } => Journaled::Ended,
                File { identity: of, .. } if *of == identity => Journaled::Started,
                File { .. } => return !alone,
            };
            found.push((*fence, journaled));
            true
        });
        found
    }

    /// The process of the executor dies, with all that it had not sent yet.
    pub(super) fn crash_executor(&mut self) {
        self.executor = None;
        for supervisor in &mut self.supervisors {
            supervisor.inbox.clear();
        }
        self.let_go_of_idle();
    }

    /// The machine goes down with everything on it, and comes back under another boot id.
    pub(super) fn reboot(&mut self) {
        self.executor = None;
        self.supervisors.clear();
        self.identity.boot += 1;
    }

    /// The data directory is lost, under a dead executor. The socket of the supervisor may have been elsewhere.
    pub(super) fn wipe(&mut self, finds_supervisor: bool) {
        self.files.clear();
        self.last_session = SessionNumber(0);
        self.draw_journal();
        for supervisor in &mut self.supervisors {
            supervisor.is_known &= finds_supervisor;
        }
    }

    /// The sockets of the supervisors are removed, under a dead executor: they live and cannot be reached.
    pub(super) fn lose_supervisors(&mut self) {
        for supervisor in &mut self.supervisors {
            supervisor.is_reachable = false;
        }
    }

    /// A stream to a leader is open.
    pub(super) fn stream_opened(&mut self, now: BootTime) -> Said {
        if let Some(executor) = &mut self.executor {
            executor.has_stream = true;
        }
        self.hear(now, Event::StreamOpened)
    }

    /// The stream is gone.
    pub(super) fn stream_closed(&mut self, now: BootTime) -> Said {
        if let Some(executor) = &mut self.executor {
            executor.has_stream = false;
        }
        self.hear(now, Event::StreamClosed)
    }

    /// The executor is told something.
    pub(super) fn hear(&mut self, now: BootTime, event: Event) -> Said {
        let mut said = Said::default();
        self.happened(now, event, &mut said);
        self.pass_on(now, &mut said);
        said
    }

    /// The files of a start are ready.
    pub(super) fn prepared(&mut self, now: BootTime, fence: Fence) -> Said {
        let mut said = Said::default();
        self.spawn(now, fence, &mut said);
        self.pass_on(now, &mut said);
        said
    }

    /// The supervisor takes the next message of its executor.
    pub(super) fn supervisor_hears(&mut self, now: BootTime, id: SupervisorId) -> Said {
        self.deliver_to(now, id);
        let mut said = Said::default();
        self.pass_on(now, &mut said);
        said
    }

    /// The executor takes the next message of a supervisor.
    pub(super) fn executor_hears(&mut self, now: BootTime) -> Said {
        let mut said = Said::default();
        self.deliver_from(now, &mut said);
        self.pass_on(now, &mut said);
        said
    }

    /// The first process of a task exits by itself, and the rest of its group with it or later.
    pub(super) fn exit(&mut self, now: BootTime, fence: Fence, leaves_children: bool) -> Said {
        self.with_process(now, fence, |supervisor| supervisor.exit(now, fence, leaves_children))
    }

    /// What a first process left behind exits.
    pub(super) fn rest_exits(&mut self, now: BootTime, fence: Fence) -> Said {
        self.with_process(now, fence, |supervisor| supervisor.rest_exits(now, fence))
    }

    fn with_process(&mut self, now: BootTime, fence: Fence, act: impl Fn(&mut Supervisor)) -> Said {
        let owner = self.supervisors.iter_mut().find(|supervisor| supervisor.processes.contains_key(&fence));
        owner.into_iter().for_each(act);
        let mut said = Said::default();
        self.pass_on(now, &mut said);
        said
    }

    /// Time goes on from one instant to another. Supervisors wake exactly when they want to, the executor at the end.
    pub(super) fn pass_time(&mut self, until: BootTime) -> Said {
        for supervisor in &mut self.supervisors {
            supervisor.pass_time(until);
        }
        let mut said = Said::default();
        self.pass_on(until, &mut said);
        self.happened(until, Event::Tick, &mut said);
        self.pass_on(until, &mut said);
        said
    }

    /// What supervisors said is queued for the executor, the files are written, and on a fast link all is delivered.
    fn pass_on(&mut self, now: BootTime, said: &mut Said) {
        loop {
            self.collect();
            if self.link == LocalLink::Slow {
                break;
            }
            let filled = self.supervisors.iter().find(|supervisor| !supervisor.inbox.is_empty());
            if let Some(id) = filled.map(|supervisor| supervisor.id) {
                self.deliver_to(now, id);
            } else if self.waiting().1 {
                self.deliver_from(now, said);
            } else {
                break;
            }
        }
        self.let_go_of_idle();
    }

    /// Takes what supervisors have to say. Statuses are on disk before anybody hears of them.
    fn collect(&mut self) {
        for supervisor in &mut self.supervisors {
            for message in std::mem::take(&mut supervisor.outbox) {
                if let FromSupervisor::Ended(fence, exit) = &message
                    && let Some(file) = self.files.get_mut(fence)
                {
                    file.status = Some(exit.clone());
                }
                if let Some(executor) = self.executor.as_mut().filter(|_| supervisor.is_linked()) {
                    executor.heard.push_back((supervisor.id, message));
                }
            }
        }
    }

    /// A supervisor without executor and without tasks leaves.
    fn let_go_of_idle(&mut self) {
        let has_executor = self.executor.is_some();
        self.supervisors
            .retain(|supervisor| (has_executor && supervisor.is_linked()) || !supervisor.machine.is_idle());
    }

    fn deliver_to(&mut self, now: BootTime, id: SupervisorId) {
        if let Some(supervisor) = self.supervisors.iter_mut().find(|supervisor| supervisor.id == id) {
            supervisor.hear_next(now);
        }
        self.collect();
    }

    fn deliver_from(&mut self, now: BootTime, said: &mut Said) {
        let Some(executor) = &mut self.executor else { return };
        let Some((supervisor, message)) = executor.heard.pop_front() else { return };
        let event = match message {
            FromSupervisor::Outnumbered(highest) => Event::Outnumbered { highest },
            FromSupervisor::List(number, held) => {
                for (fence, held) in &held {
                    executor.runs_at.insert(*fence, supervisor);
                    if let supervisor::Held::Ended(exit) = held {
                        executor.exits.insert(*fence, exit.clone());
                    }
                }
                Event::Listed { supervisor, number, held }
            }
            FromSupervisor::Started(fence) => Event::Answered { fence, answer: SpawnAnswer::Started },
            FromSupervisor::Refused(fence) => {
                executor.runs_at.remove(&fence);
                Event::Answered { fence, answer: SpawnAnswer::Refused }
            }
            FromSupervisor::Unkillable(fence) => Event::Answered { fence, answer: SpawnAnswer::Unkillable },
            FromSupervisor::Ended(fence, exit) => {
                executor.exits.insert(fence, exit);
                Event::Ended { fence }
            }
        };
        self.happened(now, event, said);
    }

    /// Tells the executor's machine what happened and does what it says.
    fn happened(&mut self, now: BootTime, event: Event, said: &mut Said) {
        let Some(executor) = &mut self.executor else { return };
        if let Event::Opened { params, .. } = &event {
            executor.kill_after = params.kill_after();
        }
        for action in executor.machine.handle(now, event) {
            self.act(now, action, said);
        }
    }

    fn act(&mut self, now: BootTime, action: Action, said: &mut Said) {
        match action {
            Action::Announce(number) => {
                self.last_session = number;
                self.tell_all(&ToSupervisor::Session(number));
                self.tell_all(&ToSupervisor::List(number));
            }
            Action::Hello(number, held) => {
                let held = held.into_iter().map(|(fence, how)| (fence, supervising::has_ended(how)));
                let hello = Hello { number, identity: self.identity, held: held.collect() };
                said.to_leader.push(ToLeader::Hello(hello));
            }
            Action::Renew(sequence) => said.to_leader.push(ToLeader::Renew(sequence)),
            Action::PassDeadline { session, at, kill_after } => {
                self.tell_all(&ToSupervisor::Deadline(session, at, kill_after));
            }
            Action::Journal(fence) => {
                let file = File { identity: self.identity, status: None, report: None };
                self.files.entry(fence).or_insert(file);
            }
            Action::Confirm(fence) => said.to_leader.push(ToLeader::Confirm(fence)),
            Action::Spawn(session, fence) => self.prepare(now, session, fence),
            Action::StopGroup(session, fence, how) => self.stop(session, fence, how),
            // A leader does no more than log these.
            Action::Started(_) | Action::RefuseStart(..) => {}
            Action::SendDead(fence) => said.to_leader.push(ToLeader::Dead(fence)),
            Action::Unkillable(fence) => said.to_leader.push(ToLeader::Unkillable(fence)),
            Action::MakeReport(fence) => self.make_report(now, fence, said),
            Action::MakeLost(fence) => self.make_lost(now, fence, said),
            Action::SendReport(fence) => {
                if let Some(exit) = self.files.get(&fence).and_then(|file| file.report.clone()) {
                    said.to_leader.push(ToLeader::Report(fence, exit));
                }
            }
            Action::Forget(session, fence) => self.forget(session, fence),
            Action::CloseStream => {
                if let Some(executor) = &mut self.executor {
                    said.closes |= std::mem::replace(&mut executor.has_stream, false);
                }
            }
        }
    }

    fn prepare(&mut self, now: BootTime, session: SessionNumber, fence: Fence) {
        if let Some(executor) = &mut self.executor {
            executor.preparing.insert(fence, (session, true));
        }
        if self.link == LocalLink::Immediate {
            self.spawn(now, fence, &mut Said::default());
        }
    }

    fn spawn(&mut self, now: BootTime, fence: Fence, said: &mut Said) {
        let Some(executor) = &mut self.executor else { return };
        let Some((session, is_wanted)) = executor.preparing.remove(&fence) else { return };
        if is_wanted {
            let newest = self.supervisors.iter_mut().filter(|supervisor| supervisor.is_linked()).next_back();
            if let Some(supervisor) = newest {
                executor.runs_at.insert(fence, supervisor.id);
                supervisor.inbox.push_back(ToSupervisor::Spawn(session, fence));
            }
        } else {
            let exit = Exit::NotStarted(String::new());
            executor.exits.insert(fence, exit.clone());
            if let Some(file) = self.files.get_mut(&fence) {
                file.status = Some(exit);
            }
            self.happened(now, Event::Ended { fence }, said);
        }
    }

    fn stop(&mut self, session: SessionNumber, fence: Fence, how: StopHow) {
        let Some(executor) = &mut self.executor else { return };
        if let Some((_, is_wanted)) = executor.preparing.get_mut(&fence) {
            *is_wanted = false;
            return;
        }
        let grace = match how {
            StopHow::Graceful => KILL_GRACE,
            StopHow::Now => Millis::ZERO,
            StopHow::Lost => executor.kill_after,
        };
        let message = ToSupervisor::Stop(session, fence, grace);
        let owner = executor.runs_at.get(&fence).copied();
        match self.supervisors.iter_mut().find(|supervisor| Some(supervisor.id) == owner) {
            Some(supervisor) => supervisor.inbox.push_back(message),
            None => self.tell_all(&message),
        }
    }

    fn make_report(&mut self, now: BootTime, fence: Fence, said: &mut Said) {
        let told = self.executor.as_mut().and_then(|executor| executor.exits.remove(&fence));
        let status = self.files.get(&fence).and_then(|file| file.status.clone());
        let exit = status.or(told).unwrap_or(Exit::LeaseEnded);
        self.reported(now, fence, exit, said);
    }

    fn make_lost(&mut self, now: BootTime, fence: Fence, said: &mut Said) {
        if let Some((_, is_wanted)) =
            self.executor.as_mut().and_then(|executor| executor.preparing.get_mut(&fence))
        {
            *is_wanted = false;
        }
        self.reported(now, fence, Exit::LeaseEnded, said);
    }

    fn reported(&mut self, now: BootTime, fence: Fence, exit: Exit, said: &mut Said) {
        let file = File { identity: self.identity, status: None, report: None };
        self.files.entry(fence).or_insert(file).report = Some(exit);
        self.happened(now, Event::Reported { fence }, said);
    }

    fn forget(&mut self, session: SessionNumber, fence: Fence) {
        self.files.remove(&fence);
        let Some(executor) = &mut self.executor else { return };
        executor.exits.remove(&fence);
        let Some(owner) = executor.runs_at.remove(&fence) else { return };
        if let Some(supervisor) = self.supervisors.iter_mut().find(|supervisor| supervisor.id == owner) {
            supervisor.inbox.push_back(ToSupervisor::Acknowledge(session, fence));
        }
    }

    fn tell_all(&mut self, message: &ToSupervisor) {
        for supervisor in self.supervisors.iter_mut().filter(|supervisor| supervisor.is_linked()) {
            supervisor.inbox.push_back(message.clone());
        }
    }
}
