//! What a node asks of its machine and operating system, in one place: clocks, network, threads, random numbers, its
//! disk, and the end of its process.
//!
//! Decides nothing. Whoever waits for time uses tokio's timers, and whoever runs processes is in `execute`; everything
//! else that could come out differently twice goes through here, so that the proof can put a simulated machine in its
//! place. Start reading at `real`.

mod real;

pub use real::clock::{boot_time, wall_time};
pub use real::net::{Incoming, Listener, connect, connect_lazy, incoming, listen};
pub use real::process::{blocking, disk, exit, keep_watch, random, wait_here};
