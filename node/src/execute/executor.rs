//! The executor of a node: it runs what it holds a lease for (PROTOCOL 5.4 to 5.8).
//!
//! It decides nothing: [`matins_core::executor::Machine`] does. One task owns the machine, carries out what it says, and
//! tells it what leader, supervisors and files answer. When a supervisor's connection breaks, the whole incarnation ends
//! and another begins from the files, as after the death of the process: there is one path of recovery.
//! Start reading at [`Executor::spawn`], then `Driver::run`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use matins_core::executor::{Event, Machine, SpawnAnswer, SupervisorId};
use matins_core::id::{Digest, Fence, NodeId, SessionNumber};
use matins_core::state::settings::LeaseTerms;
use matins_core::supervisor::{Exit, Held};
use matins_core::time::BootTime;
use matins_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::collect;
use super::journal::Journal;
use super::link::{self, Heard, LeaderAddress};
use super::prepare::{self, Fetched, TaskEnvironment};
use super::supervisor::wire::{FromSupervisor, SpawnTask, Status, ToSupervisor};
use super::supervisors::{self, Link, Said};
use super::tail::LogFolder;
use super::wire;
use crate::metrics::ExecutorMetrics;
use crate::system::boot_time;

mod actions;

/// Messages that wait for the driver; whoever sends more waits.
const QUEUE_MAX: usize = 1_024;
/// Before an incarnation that could not begin is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where the files of jobs come from and large outputs go: the node's blobs.
#[tonic::async_trait]
pub trait Blobs: Send + Sync + 'static {
    /// A file with the content of this blob, fetched from a peer if need be. It is copied, never changed.
    async fn fetch(&self, digest: Digest) -> io::Result<PathBuf>;

    /// Stores a blob on this node, durably.
    async fn store(&self, bytes: Vec<u8>) -> io::Result<Digest>;
}

/// What an executor is told once.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Its folder, and nobody else's; made if it is not there.
    pub dir: PathBuf,
    /// The node it belongs to.
    pub node: NodeId,
    /// A label for people.
    pub name: String,
    /// How many attempts the leader may place here at once.
    pub slots: u32,
    /// What tasks may ask for.
    pub labels: BTreeMap<String, String>,
    /// Host and port where its logs are read; empty: those of its node.
    pub address: String,
    /// The highest feature level of this binary.
    pub level: u32,
    /// What this machine gives its tasks.
    pub environment: TaskEnvironment,
    /// A binary whose `main` knows `supervisor`; `None`: that of this process.
    pub program: Option<PathBuf>,
    /// A cgroup to make those of the tasks in; `None`: this process's own, if it is delegated.
    pub cgroup: Option<PathBuf>,
}

/// An executor that runs in the background.
#[derive(Debug)]
pub struct Executor;

impl Executor {
    /// Begins to run attempts for whoever leads. `leader` is the address of the leader's cluster port as this node knows
    /// it. An error means that the folder cannot be used.
    pub fn spawn(
        mut config: ExecutorConfig,
        leader: watch::Receiver<Option<LeaderAddress>>,
        blobs: Arc<dyn Blobs>,
    ) -> io::Result<ExecutorHandle> {
        std::fs::create_dir_all(&config.dir)?;
        // Supervisors and tasks have working directories of their own.
        config.dir = config.dir.canonicalize()?;
        let journal = Journal::open(&config.dir)?;
        let logs = LogFolder::new(config.dir.clone());
        let stop = CancellationToken::new();
        let metrics = ExecutorMetrics::new(config.slots);
        let (activity, seen) = watch::channel(Activity::default());
        let told = Told { activity, metrics: metrics.clone() };
        let environment = Environment { config: Arc::new(config), blobs, leader, told };
        let task = tokio::spawn(live(environment, journal, stop.clone()));
        Ok(ExecutorHandle { stop, task, logs, activity: seen, metrics })
    }
}

/// What an executor does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// How many attempts it holds, those that wait for their report's acknowledgement included.
    pub held: usize,
    /// The session with the leader, if one is open and holds.
    pub session: Option<SessionNumber>,
}

/// Stops an executor, and knows its logs.
#[derive(Debug)]
pub struct ExecutorHandle {
    stop: CancellationToken,
    task: JoinHandle<()>,
    logs: LogFolder,
    activity: watch::Receiver<Activity>,
    metrics: ExecutorMetrics,
}

impl ExecutorHandle {
    /// The logs of its attempts; also the `AttemptLogs` service of this node.
    pub fn logs(&self) -> LogFolder {
        self.logs.clone()
    }

    /// What it does.
    pub fn activity(&self) -> watch::Receiver<Activity> {
        self.activity.clone()
    }

    /// What it counts.
    pub fn metrics(&self) -> ExecutorMetrics {
        self.metrics.clone()
    }

    /// Lets go of leader and supervisors. Running tasks go on until their lease ends or an executor adopts them.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the executor ended badly");
        }
    }
}

/// What outlives an incarnation.
struct Environment {
    config: Arc<ExecutorConfig>,
    blobs: Arc<dyn Blobs>,
    leader: watch::Receiver<Option<LeaderAddress>>,
    told: Told,
}

/// Where an executor says what it does.
struct Told {
    activity: watch::Sender<Activity>,
    metrics: ExecutorMetrics,
}

impl Told {
    /// Tells what is new.
    fn tell(&self, now: Activity) {
        let before = self.activity.send_replace(now);
        if before.held != now.held {
            self.metrics.holds(now.held);
        }
        if before.session != now.session {
            if before.session.is_some() {
                self.metrics.session_lost();
            }
            if now.session.is_some() {
                self.metrics.session_opened();
            }
        }
    }
}

/// Incarnation after incarnation, until told to stop.
async fn live(environment: Environment, mut journal: Journal, stop: CancellationToken) {
    let incarnations = async {
        loop {
            let ended = incarnation(&environment, &mut journal).await;
            environment.told.tell(Activity::default());
            tracing::warn!(?ended, "an incarnation of the executor ended");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    };
    tokio::select! {
        () = incarnations => {}
        () = stop.cancelled() => {}
    }
}

/// From finding the supervisors to losing one of them. All it started ends with it.
async fn incarnation(environment: &Environment, journal: &mut Journal) -> io::Result<()> {
    let config = &environment.config;
    let mut tasks = JoinSet::new();
    let (say, said) = mpsc::channel(QUEUE_MAX);
    let program = config.program.clone().unwrap_or_else(supervisors::own_program);
    let found = supervisors::find(&config.dir, &program, config.cgroup.as_deref(), &say, &mut tasks).await?;
    if !found.unproven.is_empty() {
        journal.renew()?;
        found.unproven.iter().try_for_each(|folder| supervisors::give_up(folder))?;
    }
    let held = journal.load(found.was_alone)?;
    let machine = Machine::new(journal.last_session(), found.links.iter().map(|link| link.id), held);
    let (hear, heard) = mpsc::channel(QUEUE_MAX);
    tasks.spawn(link::keep(environment.leader.clone(), hear));
    let (finish, finished) = mpsc::channel(QUEUE_MAX);
    let driver = Driver {
        config: Arc::clone(config),
        blobs: Arc::clone(&environment.blobs),
        told: &environment.told,
        journal: journal.clone(),
        machine,
        links: found.links,
        runs_at: BTreeMap::new(),
        preparing: BTreeMap::new(),
        exits: BTreeMap::new(),
        jobs: BTreeMap::new(),
        stream: None,
        params: LeaseTerms::default(),
        finish,
        done: VecDeque::new(),
        tasks,
    };
    driver.run(Inputs { said, heard, finished }).await
}

/// What the driver waits for.
struct Inputs {
    said: mpsc::Receiver<Said>,
    heard: mpsc::Receiver<Heard>,
    finished: mpsc::Receiver<Finished>,
}

/// What a background task has done.
enum Finished {
    /// An attempt is ready to be spawned, or why it cannot be.
    Prepared { session: SessionNumber, fence: Fence, task: Result<Box<SpawnTask>, String> },
    /// The report of an attempt is in the outbox.
    Reported(Fence),
}

/// An open stream to a leader.
struct Stream {
    to_leader: mpsc::Sender<v1::ExecutorMessage>,
    close: CancellationToken,
    cluster: u64,
}

struct Driver<'a> {
    config: Arc<ExecutorConfig>,
    blobs: Arc<dyn Blobs>,
    told: &'a Told,
    journal: Journal,
    machine: Machine,
    /// Oldest first; the last one takes new tasks.
    links: Vec<Link>,
    /// Which supervisor has which attempt.
    runs_at: BTreeMap<Fence, SupervisorId>,
    /// Attempts whose files are being made ready; `false`: a stop came meanwhile.
    preparing: BTreeMap<Fence, bool>,
    /// What supervisors said of attempts that ended.
    exits: BTreeMap<Fence, Exit>,
    jobs: BTreeMap<Fence, Arc<v1::Job>>,
    stream: Option<Stream>,
    /// Of the present session.
    params: LeaseTerms,
    finish: mpsc::Sender<Finished>,
    /// What was done at once, to be looked at next.
    done: VecDeque<Finished>,
    tasks: JoinSet<()>,
}

impl Driver<'_> {
    /// Takes what comes until a supervisor is lost.
    async fn run(mut self, mut inputs: Inputs) -> io::Result<()> {
        loop {
            while let Some(finished) = self.done.pop_front() {
                self.finished(finished)?;
            }
            self.tell();
            let wake = self.machine.next_wake();
            tokio::select! {
                Some(said) = inputs.said.recv() => match said {
                    Said::Message(supervisor, message) => self.hear_supervisor(supervisor, message)?,
                    Said::Lost(supervisor) if self.links.iter().any(|link| link.id == supervisor) => {
                        return Err(io::Error::other(format!("supervisor {} is lost", supervisor.0)));
                    }
                    // One of an older binary that was let go when it was empty.
                    Said::Lost(_) => {}
                },
                Some(heard) = inputs.heard.recv() => self.hear_leader(heard)?,
                Some(finished) = inputs.finished.recv() => self.finished(finished)?,
                // Background tasks that ended are let go of.
                Some(_) = self.tasks.join_next() => {}
                () = sleep_until(wake) => self.happened(Event::Tick)?,
            }
        }
    }

    /// Tells whoever watches what it does, if that has changed.
    fn tell(&self) {
        let session = self.machine.is_valid(boot_time()).then(|| self.machine.number());
        let now = Activity { held: self.machine.held(), session };
        if *self.told.activity.borrow() != now {
            self.told.tell(now);
        }
    }

    fn hear_supervisor(&mut self, supervisor: SupervisorId, message: FromSupervisor) -> io::Result<()> {
        match message {
            FromSupervisor::Session { taken: true, .. } => Ok(()),
            FromSupervisor::Session { highest, .. } => self.happened(Event::Outnumbered { highest }),
            FromSupervisor::List { session, held } => {
                for (fence, state) in &held {
                    self.runs_at.insert(*fence, supervisor);
                    if let Held::Ended(exit) = state {
                        self.exits.insert(*fence, exit.clone());
                    }
                }
                let is_empty = held.is_empty();
                self.happened(Event::Listed { supervisor, number: session, held })?;
                if is_empty {
                    self.retire(supervisor);
                }
                Ok(())
            }
            FromSupervisor::Status { fence, status } => match status {
                Status::Started => {
                    self.told.metrics.started();
                    self.happened(Event::Answered { fence, answer: SpawnAnswer::Started })
                }
                Status::Refused(refusal) => {
                    tracing::info!(lease = fence.0, ?refusal, "a spawn was refused");
                    self.runs_at.remove(&fence);
                    self.happened(Event::Answered { fence, answer: SpawnAnswer::Refused })
                }
                Status::Unkillable => {
                    self.happened(Event::Answered { fence, answer: SpawnAnswer::Unkillable })
                }
                Status::Ended(exit) => {
                    self.exits.insert(fence, exit);
                    self.happened(Event::Ended { fence })
                }
            },
        }
    }

    /// Lets a supervisor of an older binary go once it holds nothing; the newest stays.
    fn retire(&mut self, supervisor: SupervisorId) {
        let is_newest = self.links.last().is_some_and(|link| link.id == supervisor);
        if !is_newest && !self.runs_at.values().any(|other| *other == supervisor) {
            self.links.retain(|link| link.id != supervisor);
            self.machine.retire(supervisor);
        }
    }

    fn hear_leader(&mut self, heard: Heard) -> io::Result<()> {
        match heard {
            Heard::Opened { to_leader, close, cluster } => {
                self.stream = Some(Stream { to_leader, close, cluster });
                self.happened(Event::StreamOpened)
            }
            Heard::Closed => {
                self.stream = None;
                self.happened(Event::StreamClosed)
            }
            Heard::Message(message) => message.message.map_or(Ok(()), |message| self.hear_message(message)),
        }
    }

    fn hear_message(&mut self, message: v1::leader_message::Message) -> io::Result<()> {
        use v1::leader_message::Message;
        // The link has read already who leads if this one does not.
        let Some(event) = wire::heard(&message) else { return Ok(()) };
        if let Event::Opened { params, .. } = &event {
            self.params = *params;
        }
        let Message::Start(start) = message else { return self.happened(event) };
        let fence = Fence(start.fence);
        // The text that came first for a fence is the attempt's (PROTOCOL 4.3).
        self.jobs.entry(fence).or_insert_with(|| Arc::new(start.job.unwrap_or_default()));
        self.happened(event)?;
        if !self.machine.holds(fence) {
            self.jobs.remove(&fence);
        }
        Ok(())
    }

    fn finished(&mut self, finished: Finished) -> io::Result<()> {
        match finished {
            Finished::Reported(fence) => self.happened(Event::Reported { fence }),
            Finished::Prepared { session, fence, task } => {
                let is_wanted = self.preparing.remove(&fence).unwrap_or(false);
                match task {
                    Ok(task) if is_wanted => {
                        let link = self.links.last().expect("an incarnation has a supervisor of its own");
                        self.runs_at.insert(fence, link.id);
                        link.send(ToSupervisor::Spawn { session, fence, task })
                    }
                    Ok(_) => self.never_started(fence, "it was stopped before it could start".to_owned()),
                    Err(reason) => self.never_started(fence, reason),
                }
            }
        }
    }

    fn never_started(&mut self, fence: Fence, reason: String) -> io::Result<()> {
        let status = collect::never_started(reason);
        self.exits.insert(fence, status.exit.clone());
        self.journal.write_status(fence, &status)?;
        self.happened(Event::Ended { fence })
    }

    /// Tells the machine what happened and does what it says.
    fn happened(&mut self, event: Event) -> io::Result<()> {
        for action in self.machine.handle(boot_time(), event) {
            self.act(action)?;
        }
        Ok(())
    }
}

async fn sleep_until(wake: Option<BootTime>) {
    let Some(at) = wake else { return std::future::pending().await };
    // Rounded up: a timer that fires a moment early would find nothing to do and be set again.
    tokio::time::sleep(Duration::from_nanos(at.0.saturating_sub(boot_time().0) + 100_000)).await;
}

/// Fetches the blobs that a job's files are copied from.
async fn fetch(blobs: &dyn Blobs, job: &v1::Job) -> Result<Fetched, String> {
    let mut fetched = Fetched::new();
    for digest in prepare::digests(job)? {
        let path = blobs.fetch(digest).await;
        let path = path.map_err(|error| format!("cannot fetch the file with digest {digest}: {error}"))?;
        fetched.insert(digest, path);
    }
    Ok(fetched)
}
