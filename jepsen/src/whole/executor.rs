//! An executor on a machine of its own: it speaks the real link to the real leader, by the real rules of
//! `matins_core::executor`; its journal is memory that survives a process, and its tasks are simulated.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use matins_core::LEVEL;
use matins_core::executor::{
    Action, Event, HeldAs, Journaled, Machine as Rules, StartRefusal, StopHow, SupervisorId,
};
use matins_core::id::{Fence, SessionNumber};
use matins_core::state::settings::LeaseTerms;
use matins_core::supervisor::{Event as SupervisorEvent, Exit};
use matins_core::time::Millis;
use matins_node::execute::wire;
use matins_node::system::{boot_time, connect, simulated::Machine};
use matins_proto::v1;
use matins_proto::v1::attempt_report::Outcome;
use matins_proto::v1::executor_link_client::ExecutorLinkClient;
use matins_proto::v1::executor_message::Message as Said;
use matins_proto::v1::leader_message::Message as Heard;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::host::{CLUSTER, name_of};
use super::tasks::Supervisor;

/// An executor's id among those of nodes, which are drawn: the first of them.
const FIRST_ID: u64 = 11;
const SUPERVISOR: SupervisorId = SupervisorId(1);
/// Between two looks at what the supervisor says.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const QUEUE_MAX: usize = 4_096;

/// What survives the process of an executor.
#[derive(Default)]
pub(super) struct Journal {
    /// Rises with each power cut: the boot id of the machine.
    pub(super) boots: u64,
    session: SessionNumber,
    attempts: BTreeMap<Fence, Held>,
}

/// A start that was journaled, and its report once it is in the outbox.
#[derive(Default)]
struct Held {
    report: Option<v1::AttemptReport>,
}

/// An executor of one seed.
#[derive(Clone)]
pub(super) struct Executor {
    pub(super) number: usize,
    pub(super) nodes: usize,
    pub(super) machine: Machine,
    pub(super) supervisor: Supervisor,
    pub(super) journal: Rc<RefCell<Journal>>,
}

type Client = ExecutorLinkClient<Channel>;

/// One process of an executor.
struct Process {
    executor: Executor,
    rules: Rules,
    terms: LeaseTerms,
    jobs: BTreeMap<Fence, v1::Job>,
    /// To the leader; closed when it is dropped.
    stream: Option<mpsc::Sender<v1::ExecutorMessage>>,
    /// Events that follow from what was just done.
    next: Vec<Event>,
}

impl Executor {
    /// One process, until its machine crashes.
    pub(super) async fn run(self) -> turmoil::Result {
        self.machine.enter();
        self.supervisor.connect(true);
        let rules = {
            let journal = self.journal.borrow();
            let held = journal.attempts.iter().map(|(fence, held)| {
                let ended = self.supervisor.exit(*fence).is_some();
                let state = match (&held.report, ended) {
                    (Some(_), _) => Journaled::Reported,
                    (None, true) => Journaled::Ended,
                    (None, false) => Journaled::Started,
                };
                (*fence, state)
            });
            Rules::new(journal.session, [SUPERVISOR], held)
        };
        let (terms, jobs) = (LeaseTerms::default(), BTreeMap::new());
        let mut process = Process { executor: self, rules, terms, jobs, stream: None, next: Vec::new() };
        let mut node = 0;
        loop {
            let (mut client, messages) = process.connect(&mut node).await;
            process.happened(Event::StreamOpened);
            // The answer's headers may come only with its first message, and that only after our first one.
            let answer = client.session(ReceiverStream::new(messages));
            match tokio::time::timeout(Duration::from_secs(3), answer).await {
                Ok(Ok(answer)) => process.follow(answer.into_inner(), &mut node).await,
                Ok(Err(_)) | Err(_) => node = (node + 1) % process.executor.nodes,
            }
            process.stream = None;
            process.happened(Event::StreamClosed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Process {
    /// Looks for a leader, while its supervisor goes on.
    async fn connect(&mut self, node: &mut usize) -> (Client, mpsc::Receiver<v1::ExecutorMessage>) {
        loop {
            let address = format!("http://{}:{CLUSTER}", name_of(*node));
            let opened = tokio::time::timeout(Duration::from_secs(2), open(address)).await;
            if let Ok(Some(client)) = opened {
                let (to_leader, messages) = mpsc::channel(QUEUE_MAX);
                self.stream = Some(to_leader);
                return (client, messages);
            }
            *node = (*node + 1) % self.executor.nodes;
            self.hear_supervisor();
            self.happened(Event::Tick);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Takes what comes until the stream ends.
    async fn follow(&mut self, mut from_leader: Streaming<v1::LeaderMessage>, node: &mut usize) {
        while self.stream.is_some() {
            tokio::select! {
                biased;
                message = from_leader.message() => match message {
                    Ok(Some(v1::LeaderMessage { message: Some(Heard::NotLeader(other)) })) => {
                        let named = (0..self.executor.nodes)
                            .find(|node| other.leader == format!("{}:{CLUSTER}", name_of(*node)));
                        *node = named.unwrap_or((*node + 1) % self.executor.nodes);
                        return;
                    }
                    Ok(Some(message)) => self.hear(message),
                    Ok(None) | Err(_) => return,
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.hear_supervisor();
            self.happened(Event::Tick);
        }
    }

    fn hear_supervisor(&mut self) {
        while let Some(event) = self.executor.supervisor.news() {
            self.happened(event);
        }
    }

    fn hear(&mut self, message: v1::LeaderMessage) {
        let Some(message) = message.message else { return };
        let Some(event) = wire::heard(&message) else { return };
        if let Event::Opened { params, .. } = &event {
            self.terms = *params;
        }
        if let Heard::Start(start) = message {
            self.jobs.entry(Fence(start.fence)).or_insert_with(|| start.job.unwrap_or_default());
        }
        self.happened(event);
    }

    fn happened(&mut self, event: Event) {
        self.next.push(event);
        while !self.next.is_empty() {
            let event = self.next.remove(0);
            for action in self.rules.handle(boot_time(), event) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        let supervisor = self.executor.supervisor.clone();
        match action {
            Action::Announce(number) => self.announce(number),
            Action::PassDeadline { session, at, kill_after } => {
                supervisor.hear(SupervisorEvent::Deadline { session, at, kill_after }, None);
            }
            Action::Journal(fence) => {
                self.executor.journal.borrow_mut().attempts.entry(fence).or_default();
            }
            Action::Spawn(session, fence) => self.spawn(session, fence),
            Action::StopGroup(session, fence, how) => {
                let grace = match how {
                    StopHow::Graceful => Millis::from_secs(10),
                    StopHow::Now => Millis::ZERO,
                    StopHow::Lost => self.terms.kill_after(),
                };
                supervisor.hear(SupervisorEvent::Stop { session, fence, grace }, None);
            }
            Action::MakeReport(fence) => {
                let outcome = match supervisor.exit(fence) {
                    Some(Exit::Code(code)) => Outcome::ExitCode(code),
                    Some(Exit::Signal(signal)) => Outcome::Signal(signal),
                    Some(Exit::NotStarted(reason)) => Outcome::CouldNotStart(reason),
                    Some(Exit::LeaseEnded) => lost(v1::LostCause::LeaseEnded),
                    None => lost(v1::LostCause::NotHeld),
                };
                self.report(fence, outcome);
            }
            Action::MakeLost(fence) => self.report(fence, lost(v1::LostCause::NotHeld)),
            Action::Forget(session, fence) => {
                self.jobs.remove(&fence);
                self.executor.journal.borrow_mut().attempts.remove(&fence);
                supervisor.hear(SupervisorEvent::Acknowledge { session, fence }, None);
            }
            Action::CloseStream => self.stream = None,
            Action::Hello(number, held) => self.hello(number, &held),
            Action::Renew(sequence) => self.say(Said::Renew(v1::Renew { sequence })),
            Action::Confirm(fence) => self.say(Said::StartConfirmed(v1::StartConfirmed { fence: fence.0 })),
            Action::Started(fence) => self.say(Said::Started(v1::Started { fence: fence.0, at: 0 })),
            Action::RefuseStart(fence, why) => self.refuse(fence, why),
            Action::SendDead(fence) => self.say(Said::StopDead(v1::StopDead { fence: fence.0 })),
            Action::Unkillable(fence) => self.say(Said::Unkillable(v1::Unkillable { fence: fence.0 })),
            Action::SendReport(fence) => {
                let report =
                    self.executor.journal.borrow().attempts.get(&fence).and_then(|held| held.report.clone());
                if let Some(report) = report {
                    self.say(Said::Report(report));
                }
            }
        }
    }

    fn announce(&mut self, number: SessionNumber) {
        self.executor.journal.borrow_mut().session = number;
        let supervisor = &self.executor.supervisor;
        let taken = number > supervisor.highest();
        supervisor.hear(SupervisorEvent::Session { number }, None);
        if !taken {
            self.next.push(Event::Outnumbered { highest: supervisor.highest() });
        }
        self.next.push(Event::Listed { supervisor: SUPERVISOR, number, held: supervisor.held() });
    }

    fn spawn(&mut self, session: SessionNumber, fence: Fence) {
        let job = self.jobs.get(&fence).cloned().unwrap_or_default();
        let on_disconnect = Millis(job.on_disconnect_ms);
        let event = SupervisorEvent::Spawn { session, fence, on_disconnect };
        self.executor.supervisor.hear(event, Some(&job.label));
    }

    fn report(&mut self, fence: Fence, outcome: Outcome) {
        let report = v1::AttemptReport { fence: fence.0, outcome: Some(outcome), ..Default::default() };
        let mut journal = self.executor.journal.borrow_mut();
        journal.attempts.entry(fence).or_default().report = Some(report);
        drop(journal);
        self.next.push(Event::Reported { fence });
    }

    fn refuse(&mut self, fence: Fence, why: StartRefusal) {
        let (fence, session) = (fence.0, self.rules.number().0);
        self.say(Said::StartRefused(v1::StartRefused { fence, session, reason: format!("{why:?}") }));
    }

    fn hello(&mut self, number: SessionNumber, held: &[(Fence, HeldAs)]) {
        let boots = self.executor.journal.borrow().boots;
        self.say(Said::Hello(v1::Hello {
            node: FIRST_ID + self.executor.number as u64,
            session: number.0,
            boot_id: format!("x{}-{boots}", self.executor.number + 1),
            journal: boots + 1,
            held: wire::held_fences(held),
            slots: 4,
            labels: BTreeMap::new(),
            name: format!("x{}", self.executor.number + 1),
            level: u32::from(LEVEL),
            // It belongs to no node, so it says where its logs would be read.
            address: format!("x{}:7072", self.executor.number + 1),
            cluster: 0,
        }));
    }

    /// A message that finds no room ends the stream: the leader does not read.
    fn say(&mut self, message: Said) {
        let message = v1::ExecutorMessage { message: Some(message) };
        if self.stream.as_ref().is_some_and(|stream| stream.try_send(message).is_err()) {
            self.stream = None;
        }
    }
}

impl Journal {
    /// The machine lost its power: what was journaled may be there, and is of no use to anybody.
    pub(super) fn lose_power(&mut self) {
        self.boots += 1;
        self.attempts.clear();
    }
}

fn lost(cause: v1::LostCause) -> Outcome {
    Outcome::Lost(v1::Lost { cause: cause.into(), reason: "simulated".to_owned() })
}

async fn open(address: String) -> Option<Client> {
    let endpoint = Endpoint::from_shared(address).ok()?.connect_timeout(Duration::from_secs(1));
    let endpoint = endpoint
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    connect(&endpoint).await.ok().map(ExecutorLinkClient::new)
}
