//! Threads, random numbers, disk and end of this process.

use std::future::Future;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use super::super::joined;
use crate::store::files::{Disk, Files};

/// A node needs no more open files than this.
const OPEN_FILES_ENOUGH: u64 = 65_536;

/// How many files this process might open when it was started.
static OPEN_FILES_FIRST: OnceLock<Rlimit> = OnceLock::new();

/// Lets this process open as many files as its machine allows, up to what is enough for a node, and tells how many these
/// are. A connection is a file too.
pub fn raise_open_files() -> u64 {
    let first = *OPEN_FILES_FIRST.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = first.maximum.unwrap_or(OPEN_FILES_ENOUGH).min(OPEN_FILES_ENOUGH);
    let current = first.current.unwrap_or(OPEN_FILES_ENOUGH);
    if raised > current
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..first })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
        return current;
    }
    raised.max(current)
}

/// Gives a process that this one has started the limit of open files that this one was started with: programs of before there
/// were so many files take a raised limit badly.
pub fn restore_open_files(process: u32) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    if let (Some(process), Some(first)) = (process, OPEN_FILES_FIRST.get())
        && let Err(error) = prlimit(Some(process), Resource::Nofile, *first)
    {
        tracing::warn!(%error, "tasks have the limit of open files of this node");
    }
}

/// Runs a call that waits for the disk, or is long, where it holds up nobody else. It runs to its end even if nobody waits
/// for it any more.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(call)).await
}

/// Runs something on threads of its own, as many as there are cores: however busy it is, and all that it spawns, the machine
/// gives every other thread its share. What it spawned ends with it.
pub async fn apart<T: Send + 'static>(
    name: &str,
    run: impl Future<Output = T> + Send + 'static,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name(name).enable_all().build()?;
    // A runtime that is dropped waits for its threads, and nobody may wait like that here.
    let runtime = Ending(Some(runtime));
    let running = runtime.0.as_ref().map(|runtime| runtime.spawn(run));
    Ok(joined(running.expect("it is there until it is dropped")).await)
}

/// Ends a runtime without waiting for it.
struct Ending(Option<tokio::runtime::Runtime>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits for something where nothing can be awaited; this thread is given up for the time. Needs a runtime of several
/// threads. `None` if it cannot be waited for.
pub fn wait_here<T>(wait: impl Future<Output = T>) -> Option<T> {
    Some(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(wait)))
}

/// Looks again and again, with `every` between, until `look` answers `false`: in a thread that needs nothing else.
pub fn keep_watch(
    name: &str,
    every: Duration,
    mut look: impl FnMut() -> bool + Send + 'static,
) -> io::Result<()> {
    let look = move || {
        while look() {
            std::thread::sleep(every);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(look).map(drop)
}

/// A source of random numbers.
pub fn random() -> impl rand::Rng {
    rand::rng()
}

/// The disk that data directories are on.
pub fn disk() -> Arc<dyn Files> {
    Arc::new(Disk)
}

/// How much of the disk under `path` is used, in thousandths of what an ordinary user may fill: as `df` counts.
pub fn disk_use(path: &Path) -> io::Result<u16> {
    let disk = rustix::fs::statvfs(path)?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let whole = used.saturating_add(disk.f_bavail);
    // Rounded up: a disk of which any part is used is not empty.
    Ok(used.saturating_mul(1_000).div_ceil(whole.max(1)).min(1_000) as u16)
}

/// Says why on stderr and ends this process at once.
pub fn exit(code: i32, reason: &str) {
    // If stderr is gone too there is nobody left to tell.
    drop(writeln!(io::stderr(), "matins: this node stops: {reason}"));
    std::process::exit(code);
}
