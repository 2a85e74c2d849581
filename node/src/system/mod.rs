//! What a node asks of its machine and operating system, in one place: clocks, network, threads, random numbers, its
//! disk, and the end of its process.
//!
//! Decides nothing. Whoever waits for time uses tokio's timers unless milliseconds count, and whoever runs processes is in
//! `execute`; everything else that could come out differently twice goes through here, so that the proof can put a simulated
//! machine in its place (the feature `simulation`). Both machines offer the same functions. Start reading at `real`.

#[cfg(not(feature = "simulation"))]
mod real;
#[cfg(feature = "simulation")]
pub mod simulated;
mod timer;

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::task::{JoinError, JoinHandle};

#[cfg(not(feature = "simulation"))]
use real as machine;
#[cfg(feature = "simulation")]
use simulated as machine;

pub use machine::clock::{BootTimer, boot_id, boot_time, wall_time};
pub use machine::net::{Incoming, Listener, close_stalled, connect, connect_lazy, incoming, listen};
pub use machine::process::{
    apart, blocking, disk, disk_use, exit, keep_watch, raise_open_files, random, restore_open_files,
    wait_here,
};
pub use timer::{set_timer, timer};

/// Has the runtime tell when there is something to read of a descriptor.
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe code, and an owned descriptor fulfils what that asks for"
    )]
    AsyncFd::new(descriptor)
}

/// What a task came to: its panic goes on here.
async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is being shut down, and with it whoever waits here.
        Err(Err(_)) => std::future::pending().await,
    }
}
