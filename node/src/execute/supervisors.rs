//! Finding the supervisors that live, starting one for this binary, and talking to them (PROTOCOL 5.1).
//!
//! Each has a folder `supervisors/N` with its lock, its socket and the build it belongs to. A lock that can be had is
//! the proof that the supervisor is gone; one that lives but does not answer is never taken for dead.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use matins_core::executor::SupervisorId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::supervisor::wire::{self, FromSupervisor, ToSupervisor};
use super::supervisor::{LOCK, short_path};
use crate::system::restore_open_files;

/// How long a supervisor that was just started has until it listens.
const START_MAX: Duration = Duration::from_secs(10);
/// How long one that lives has to accept.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Messages on their way to one supervisor; beyond that it counts as stuck.
const QUEUE_MAX: usize = 4_096;

/// Marks the folder of a supervisor that could not be reached.
const GIVEN_UP: &str = "given-up";

/// What the supervisors' side tells the executor.
#[derive(Debug)]
pub(crate) enum Said {
    Message(SupervisorId, FromSupervisor),
    /// The connection broke: its lock will tell whether it died.
    Lost(SupervisorId),
}

/// A connection to one supervisor.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: SupervisorId,
    queue: mpsc::Sender<ToSupervisor>,
}

impl Link {
    /// Queues a message. An error means that it does not read any more.
    pub(crate) fn send(&self, message: ToSupervisor) -> io::Result<()> {
        self.queue
            .try_send(message)
            .map_err(|_| io::Error::other(format!("supervisor {} is stuck", self.id.0)))
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Connected, oldest first; the last one is of this binary and takes new tasks.
    pub(crate) links: Vec<Link>,
    /// Folders of those that live and could not be reached: what was journaled is not ours to judge any more, and
    /// [`give_up`] is to be called once that is on disk.
    pub(crate) unproven: Vec<PathBuf>,
    /// None lived before.
    pub(crate) was_alone: bool,
}

/// Connects to all that live, and starts one if none is of this binary. `tasks` gets the pumps of the connections.
pub(crate) async fn find(
    dir: &Path,
    program: &Path,
    cgroup: Option<&Path>,
    said: &mpsc::Sender<Said>,
    tasks: &mut JoinSet<()>,
) -> io::Result<Found> {
    let folders = dir.join("supervisors");
    let build = build_id(program)?;
    let mut found = Found { links: Vec::new(), unproven: Vec::new(), was_alone: true };
    let mut has_own = false;
    let mut last = 0;
    for number in numbers(&folders)? {
        last = number;
        let folder = folders.join(number.to_string());
        if is_gone(&folder)? {
            fs::remove_dir_all(&folder)?;
            continue;
        }
        found.was_alone = false;
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_MAX, connect(&folder)).await {
            has_own = fs::read_to_string(folder.join("build")).is_ok_and(|known| known == build);
            found.links.push(pump(SupervisorId(number), stream, said, tasks));
        } else if !folder.join(GIVEN_UP).exists() {
            tracing::warn!(supervisor = number, "a supervisor lives but cannot be reached");
            found.unproven.push(folder);
        }
    }
    if !has_own {
        let folder = folders.join((last + 1).to_string());
        start(&folder, program, cgroup, &build)?;
        let stream = tokio::time::timeout(START_MAX, connect_when_up(&folder)).await??;
        found.links.push(pump(SupervisorId(last + 1), stream, said, tasks));
    }
    Ok(found)
}

/// Notes that this supervisor's attempts belong to an earlier journal, so that it costs no further one.
pub(crate) fn give_up(folder: &Path) -> io::Result<()> {
    fs::write(folder.join(GIVEN_UP), "")
}

fn numbers(folders: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folders)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether the supervisor of this folder is proven to be gone.
fn is_gone(folder: &Path) -> io::Result<bool> {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
        // It never came so far as to run a task; if it still starts, it fails on the missing folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let (_folder, path) = short_path(folder)?;
    UnixStream::connect(&path).await
}

/// Asks until it listens: nothing tells us when that is, and it takes a millisecond or two.
async fn connect_when_up(folder: &Path) -> io::Result<UnixStream> {
    loop {
        if let Ok(stream) = connect(folder).await {
            return Ok(stream);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn start(folder: &Path, program: &Path, cgroup: Option<&Path>, build: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("build"), build)?;
    let log = File::create(folder.join("log"))?;
    let mut command = Command::new(program);
    command.arg("supervisor").arg("--dir").arg(folder);
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    // It must hold nothing of ours open: whoever waits for the end of our output would wait for the tasks too.
    let child = command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    restore_open_files(child.id());
    reap_in_background(child);
    Ok(())
}

/// A supervisor that leaves while we live must not stay a zombie.
fn reap_in_background(mut child: std::process::Child) {
    let reaper = std::thread::Builder::new().name("supervisor-reaper".to_owned()).stack_size(64 << 10);
    if let Err(error) = reaper.spawn(move || child.wait().map(drop)) {
        tracing::warn!(%error, "no thread to reap the supervisor with");
    }
}

/// Tells one binary from another: a supervisor runs tasks by its own binary, also after that was replaced.
fn build_id(program: &Path) -> io::Result<String> {
    let file = fs::metadata(program)?;
    Ok(format!("{} {} {} {}", file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

fn pump(id: SupervisorId, stream: UnixStream, said: &mpsc::Sender<Said>, tasks: &mut JoinSet<()>) -> Link {
    let (read, write) = stream.into_split();
    let (queue, queued) = mpsc::channel(QUEUE_MAX);
    let said = said.clone();
    tasks.spawn(async move {
        let outcome = tokio::select! {
            outcome = receive(id, read, &said) => outcome,
            outcome = send(write, queued) => outcome,
        };
        tracing::info!(supervisor = id.0, ?outcome, "the connection to a supervisor ended");
        // Nobody listens if the executor has ended, and then nobody needs to know.
        let _ = said.send(Said::Lost(id)).await;
    });
    Link { id, queue }
}

async fn receive(id: SupervisorId, mut read: OwnedReadHalf, said: &mpsc::Sender<Said>) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        while let Some(message) = wire::decode(&mut received)? {
            said.send(Said::Message(id, message)).await.map_err(io::Error::other)?;
        }
        if read.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

async fn send(mut write: OwnedWriteHalf, mut queued: mpsc::Receiver<ToSupervisor>) -> io::Result<()> {
    while let Some(message) = queued.recv().await {
        write.write_all(&wire::encode(&message)).await?;
    }
    Ok(())
}

/// The program of this process, as it was when it started.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}
