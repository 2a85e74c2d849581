//! The supervisor: a small process that is the parent of an executor's tasks and ends them when their lease ends,
//! whether the executor lives, is frozen or is gone (PROTOCOL 5.1). `matins supervisor --dir D [--cgroup C]`.
//!
//! It decides nothing: [`matins_core::supervisor::Machine`] does. It has one thread, which waits for its socket, its timer
//! on the boot-time clock, the pipes of its tasks and their exits. It owns the pipes because a task must not lose its
//! output, nor die of SIGPIPE, when the node dies. Start reading at [`main`], then `Supervisor::turn`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use matins_core::id::Fence;
use matins_core::supervisor::{Action, Event, Exit, Machine, Refusal};
use matins_core::time::{BootTime, Millis, Timestamp};
use rustix::event::epoll::EventFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

mod connections;
pub(crate) use self::connections::short_path;
pub(crate) mod group;
mod process;
mod reactor;
pub(crate) mod wire;

use self::connections::{Connections, From};
use self::process::Process;
use self::reactor::{Reactor, Source};
use self::wire::{FromSupervisor, SpawnTask, Status, ToSupervisor};
use super::files::replace;
use super::log::{CHUNK_BYTES_MAX, Stream};
use crate::system::{self, boot_time, wall_time};

/// The socket's name in the supervisor's folder.
pub(crate) const SOCKET: &str = "socket";
/// The file that a supervisor holds locked as long as it lives.
pub(crate) const LOCK: &str = "lock";
/// The status file's name in the folder of an attempt.
pub(crate) const STATUS: &str = "status";

/// How long a new supervisor waits for its executor before it leaves again.
const FIRST_CONTACT_MAX: Millis = Millis::from_secs(30);
/// How often a group is looked at before its processes count as impossible to watch.
const LOOKS_MAX: usize = 100;
/// How often orphans that exited are reaped while nothing else looks for them.
const REAP_EVERY: Millis = Millis::from_secs(10);

/// How one attempt ended, as the supervisor writes it beside the journal. Frozen like the messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusFile {
    pub(crate) exit: Exit,
    /// Wall clock; zero: it never started.
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Timestamp,
    pub(crate) log_bytes: u64,
}

/// Runs a supervisor until its executor is gone and all its tasks are dead.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (mut dir, mut cgroup) = (None, None);
    let mut arguments = arguments.into_iter();
    while let Some(flag) = arguments.next() {
        let value = arguments.next().map(PathBuf::from);
        match flag.to_str() {
            Some("--dir") => dir = value,
            Some("--cgroup") => cgroup = value,
            Some(_) | None => return ExitCode::from(2),
        }
    }
    let Some(dir) = dir else { return ExitCode::from(2) };
    match run(&dir, cgroup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Its standard error is the supervisor's own log file.
            let _ = io::Write::write_all(&mut io::stderr(), format!("supervisor: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, cgroup: Option<PathBuf>) -> io::Result<()> {
    // The lock is the proof of life: it goes with the process, and nothing else lets it go.
    let lock = File::create(dir.join(LOCK))?;
    lock.try_lock().map_err(|_| io::Error::other("another supervisor holds the lock"))?;
    // A terminal's or a session's end must not reach the tasks. It fails for a group leader, which has its own.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut supervisor = Supervisor::new(dir, cgroup.or_else(group::delegated_cgroup))?;
    while supervisor.has_reason_to_live() {
        supervisor.turn()?;
    }
    drop(lock);
    Ok(())
}

/// One attempt as the shell sees it: what was asked, and the process if there is one.
struct Attempt {
    task: Box<SpawnTask>,
    process: Option<Process>,
    started_at: Timestamp,
    log_bytes: u64,
}

struct Supervisor {
    machine: Machine,
    reactor: Reactor,
    timer: OwnedFd,
    connections: Connections,
    attempts: BTreeMap<Fence, Attempt>,
    cgroups: Option<PathBuf>,
    chunk: Box<[u8]>,
    leaves_at: BootTime,
    reaped_at: BootTime,
}

impl Supervisor {
    fn new(dir: &Path, cgroups: Option<PathBuf>) -> io::Result<Self> {
        let reactor = Reactor::new()?;
        let timer = system::timer()?;
        reactor.watch(&timer, Source::Timer, EventFlags::IN)?;
        let connections = Connections::listen(dir, &reactor)?;
        Ok(Self {
            machine: Machine::default(),
            reactor,
            timer,
            connections,
            attempts: BTreeMap::new(),
            cgroups,
            chunk: vec![0; CHUNK_BYTES_MAX].into(),
            leaves_at: boot_time() + FIRST_CONTACT_MAX,
            reaped_at: boot_time(),
        })
    }

    /// It stays while tasks live, an executor is connected, or the first one may still come.
    fn has_reason_to_live(&self) -> bool {
        let may_come = !self.connections.ever_connected() && boot_time() < self.leaves_at;
        may_come || !self.connections.is_empty() || !self.machine.is_idle()
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> io::Result<()> {
        self.set_timer()?;
        for (source, flags) in self.reactor.wait()? {
            self.deal_with(source, flags);
        }
        // Deadlines come before whatever else may be waiting.
        self.happened(Event::Tick);
        if boot_time().since(self.reaped_at) >= REAP_EVERY && !self.attempts.is_empty() {
            self.reaped_at = boot_time();
            self.look_around();
        }
        Ok(())
    }

    /// Reaps orphans, and looks again after groups whose processes could not be watched (no file descriptor left).
    fn look_around(&mut self) {
        if let Ok(table) = group::ProcessTable::read() {
            table.reap_orphans(&self.firsts());
        }
        let fences: Vec<Fence> = self.attempts.keys().copied().collect();
        for fence in fences {
            self.look_after(fence);
        }
    }

    fn set_timer(&self) -> io::Result<()> {
        let leave = (!self.connections.ever_connected()).then_some(self.leaves_at);
        let wake = [self.machine.next_wake(), leave].into_iter().flatten().min();
        system::set_timer(&self.timer, wake)
    }

    fn deal_with(&mut self, source: Source, flags: EventFlags) {
        match source {
            // What it is for is done by the tick of this turn; setting it anew makes it unreadable.
            Source::Timer => {}
            Source::Listener => self.connections.accept(&self.reactor),
            Source::Connection(id) => {
                for message in self.connections.deal_with(id, flags, &self.reactor) {
                    self.hear(From(id), message);
                }
            }
            Source::Stdout(fence) => self.read(fence, Stream::Stdout),
            Source::Stderr(fence) => self.read(fence, Stream::Stderr),
            Source::First(fence) => self.first_exited(fence),
            Source::Leftover(fence, pid) => {
                if let Some(process) = self.process(fence) {
                    process.leftovers.remove(&pid);
                }
                if let Some(pid) = Pid::from_raw(pid) {
                    group::reap(pid);
                }
                self.look_after(fence);
            }
        }
    }

    /// Takes one message of an executor.
    fn hear(&mut self, from: From, message: ToSupervisor) {
        match message {
            ToSupervisor::Session { number } => {
                let taken = number > self.machine.highest();
                self.happened(Event::Session { number });
                let highest = self.machine.highest();
                self.answer(from, &FromSupervisor::Session { number, taken, highest });
            }
            ToSupervisor::Spawn { session, fence, task } => {
                let on_disconnect = task.on_disconnect;
                let attempt = Attempt { task, process: None, started_at: Timestamp::ZERO, log_bytes: 0 };
                self.attempts.entry(fence).or_insert(attempt);
                for action in self.machine.handle(boot_time(), Event::Spawn { session, fence, on_disconnect })
                {
                    self.act(action, Some(from));
                }
            }
            ToSupervisor::Deadline { session, at, kill_after } => {
                self.happened(Event::Deadline { session, at, kill_after });
            }
            ToSupervisor::Stop { session, fence, grace } => {
                self.happened(Event::Stop { session, fence, grace });
            }
            ToSupervisor::List { session } => {
                let held = self.machine.held();
                self.answer(from, &FromSupervisor::List { session, held });
            }
            ToSupervisor::Statuses { session, acknowledged } => {
                for fence in acknowledged {
                    self.happened(Event::Acknowledge { session, fence });
                    if !self.machine.holds(fence) {
                        self.attempts.remove(&fence);
                    }
                }
            }
        }
    }

    /// Tells the machine what happened and does what it says.
    fn happened(&mut self, event: Event) {
        for action in self.machine.handle(boot_time(), event) {
            self.act(action, None);
        }
    }

    /// Does what the machine says; `from` is whose message made it say so.
    fn act(&mut self, action: Action, from: Option<From>) {
        match action {
            Action::Spawn(fence) => self.spawn(fence),
            Action::Refuse(fence, refusal) => self.refuse(from, fence, refusal),
            Action::Term(fence) => self.signal(fence, Signal::TERM),
            Action::Kill(fence) => {
                if let Some(process) = self.process(fence) {
                    process.is_killed = true;
                }
                self.signal(fence, Signal::KILL);
            }
            Action::Ended(fence, exit) => {
                self.write_status(fence, &exit);
                self.tell(fence, Status::Ended(exit));
            }
            Action::Unkillable(fence) => self.tell(fence, Status::Unkillable),
        }
    }

    /// Only who asked hears of it: another executor may rightly hold that fence.
    fn refuse(&mut self, from: Option<From>, fence: Fence, refusal: Refusal) {
        if !self.machine.holds(fence) {
            self.attempts.remove(&fence);
        }
        if let Some(from) = from {
            self.answer(from, &FromSupervisor::Status { fence, status: Status::Refused(refusal) });
        }
    }

    fn spawn(&mut self, fence: Fence) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        attempt.started_at = wall_time();
        let spawned = Process::spawn(fence, &attempt.task, self.cgroups.as_deref());
        let watched = spawned.and_then(|process| {
            let watched = watch_first(&process, fence, &self.reactor).inspect_err(|_| process.abandon());
            watched.map(|()| process).map_err(|error| format!("cannot watch its process: {error}"))
        });
        match watched {
            Ok(process) => {
                attempt.process = Some(process);
                self.tell(fence, Status::Started);
            }
            Err(why) => {
                self.happened(Event::Exited { fence, exit: Exit::NotStarted(why) });
                self.happened(Event::Gone { fence });
            }
        }
    }

    fn read(&mut self, fence: Fence, stream: Stream) {
        let chunk = &mut self.chunk;
        if let Some(process) = self.attempts.get_mut(&fence).and_then(|attempt| attempt.process.as_mut()) {
            process.read(stream, chunk);
        }
    }

    fn first_exited(&mut self, fence: Fence) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        let Some(process) = &mut attempt.process else { return };
        let Some(exit) = process.exit() else { return };
        // It stays a zombie until the group is gone, and would be readable all the time.
        self.reactor.forget(&process.pidfd);
        process.has_exited = true;
        self.happened(Event::Exited { fence, exit });
        // A group that was being stopped already gets no further signal by this: it may be gone now.
        self.look_after(fence);
    }

    fn signal(&mut self, fence: Fence, signal: Signal) {
        let firsts = self.firsts();
        let Some(process) = self.process(fence) else { return };
        let members = process.members(&firsts);
        if !(process.has_exited && members.is_empty()) {
            process.signal(&members, signal);
        }
        self.look_at(fence, members);
    }

    /// Looks whether the group of a first process that has exited is gone, and watches whoever is left of it.
    fn look_after(&mut self, fence: Fence) {
        let firsts = self.firsts();
        let Some(process) = self.process(fence).filter(|process| process.has_exited) else { return };
        let members = process.members(&firsts);
        self.look_at(fence, members);
    }

    /// The same, where the processes that are left have just been found: finding them reads all of `/proc` on machines
    /// that do not list children.
    fn look_at(&mut self, fence: Fence, mut members: Vec<Pid>) {
        let firsts = self.firsts();
        let Some(process) = self.attempts.get_mut(&fence).and_then(|attempt| attempt.process.as_mut()) else {
            return;
        };
        if !process.has_exited {
            return;
        }
        // Whoever could not be watched has exited meanwhile, so a second look finds fewer; the bound is for a machine
        // without file descriptors, where `look_around` goes on.
        for _ in 0..LOOKS_MAX {
            if members.is_empty() {
                return self.group_gone(fence);
            }
            if process.is_killed {
                process.signal(&members, Signal::KILL);
            }
            if watch_leftovers(process, &members, fence, &self.reactor) {
                // The exit of any of them looks again.
                return;
            }
            members = process.members(&firsts);
        }
    }

    fn group_gone(&mut self, fence: Fence) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        if let Some(process) = attempt.process.take() {
            attempt.log_bytes = process.finish(&mut self.chunk);
        }
        self.happened(Event::Gone { fence });
    }

    fn write_status(&self, fence: Fence, exit: &Exit) {
        let Some(attempt) = self.attempts.get(&fence) else { return };
        let status = StatusFile {
            exit: exit.clone(),
            started_at: attempt.started_at,
            ended_at: wall_time(),
            log_bytes: attempt.log_bytes,
        };
        let text = serde_json::to_vec(&status).expect("a status is plain data");
        // On a full disk the status is still told by message and by list as long as this process lives.
        let _ = replace(&attempt.task.attempt.join(STATUS), &text);
    }

    fn process(&mut self, fence: Fence) -> Option<&mut Process> {
        self.attempts.get_mut(&fence)?.process.as_mut()
    }

    /// First processes: children that are not orphans.
    fn firsts(&self) -> BTreeSet<i32> {
        let pid = |attempt: &Attempt| attempt.process.as_ref().map(|process| process.pid.as_raw_pid());
        self.attempts.values().filter_map(pid).collect()
    }

    fn answer(&mut self, to: From, message: &FromSupervisor) {
        self.connections.send(to, message, &self.reactor);
    }

    fn tell(&mut self, fence: Fence, status: Status) {
        self.connections.send_all(&FromSupervisor::Status { fence, status }, &self.reactor);
    }
}

/// Watches a first process and its pipes.
fn watch_first(process: &Process, fence: Fence, reactor: &Reactor) -> io::Result<()> {
    reactor.watch(&process.pidfd, Source::First(fence), EventFlags::IN)?;
    let pipes = [(&process.stdout, Source::Stdout(fence)), (&process.stderr, Source::Stderr(fence))];
    for (pipe, source) in pipes {
        reactor.watch(pipe.as_ref().expect("a new process has both"), source, EventFlags::IN)?;
    }
    Ok(())
}

/// Watches each of them for its exit. Whether any could be watched.
fn watch_leftovers(process: &mut Process, members: &[Pid], fence: Fence, reactor: &Reactor) -> bool {
    let mut watched = false;
    for pid in members {
        let raw = pid.as_raw_pid();
        if process.leftovers.contains_key(&raw) {
            watched = true;
            continue;
        }
        let Ok(fd) = rustix::process::pidfd_open(*pid, PidfdFlags::empty()) else { continue };
        if reactor.watch(&fd, Source::Leftover(fence, raw), EventFlags::IN).is_ok() {
            process.leftovers.insert(raw, fd);
            watched = true;
        }
    }
    watched
}
