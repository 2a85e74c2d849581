//! Threads, random numbers, disk and end of a simulated process.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::super::joined;
use super::{Machine, Random};
use crate::store::files::Files;

thread_local! {
    /// Nothing can be awaited now: what would block does so.
    static MUST_NOT_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// A simulated process may open what it likes.
pub fn raise_open_files() -> u64 {
    65_536
}

/// Nothing was raised.
pub fn restore_open_files(_process: u32) {}

/// Runs a call that waits for the disk, or is long: after as long as this machine's disk takes, and to its end even if
/// nobody waits for it any more.
pub async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    if MUST_NOT_WAIT.get() {
        return call();
    }
    let wait = Machine::current().draw_disk_wait();
    let called = async move {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        call()
    };
    joined(tokio::spawn(called)).await
}

/// There is one thread, and it has time for everything.
pub async fn apart<T: Send + 'static>(
    _name: &str,
    run: impl Future<Output = T> + Send + 'static,
) -> io::Result<T> {
    Ok(joined(tokio::spawn(run)).await)
}

/// Takes the result of something where nothing can be awaited. There is one thread, so what needs more than this
/// machine cannot be had: `None`.
pub fn wait_here<T>(wait: impl Future<Output = T>) -> Option<T> {
    MUST_NOT_WAIT.set(true);
    let done = wait.now_or_never();
    MUST_NOT_WAIT.set(false);
    done
}

/// Looks again and again, with `every` between, until `look` answers `false`.
pub fn keep_watch(
    _name: &str,
    every: Duration,
    mut look: impl FnMut() -> bool + Send + 'static,
) -> io::Result<()> {
    tokio::spawn(async move {
        while look() {
            tokio::time::sleep(every).await;
        }
    });
    Ok(())
}

/// A source of random numbers.
pub fn random() -> Random {
    Random(Machine::current())
}

/// The disk that data directories are on.
pub fn disk() -> Arc<dyn Files> {
    Arc::new(Machine::current().disk())
}

/// A simulated disk has no size.
pub fn disk_use(_: &Path) -> io::Result<u16> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Ends this process: whoever simulates finds it in [`Machine::ended`].
pub fn exit(code: i32, reason: &str) {
    Machine::current().end(code, reason);
}
