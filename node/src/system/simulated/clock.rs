//! The two clocks of a simulated machine.

use std::io;
use std::time::Duration;

use matins_core::time::{BootTime, Timestamp};

use super::{Clocks, Machine};

/// The boot-time clock of this machine: it runs on while processes come and go.
pub fn boot_time() -> BootTime {
    Machine::current().clocks().boot_time(elapsed())
}

impl Clocks {
    /// The boot-time clock when so much time of the simulation has passed.
    pub fn boot_time(&self, elapsed: Duration) -> BootTime {
        let elapsed = elapsed.as_nanos() as i128;
        let ahead = elapsed * i128::from(self.boot_ppm) / 1_000_000;
        BootTime(self.boot.0 + (elapsed + ahead) as u64)
    }
}

/// A timer on the boot-time clock.
#[derive(Debug)]
pub struct BootTimer;

impl BootTimer {
    /// One that is not set.
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for an instant, which may have passed.
    pub async fn wait_until(&mut self, at: BootTime) -> io::Result<()> {
        tokio::time::sleep(Duration::from_nanos(at.0.saturating_sub(boot_time().0))).await;
        Ok(())
    }
}

/// The wall clock of this machine.
pub fn wall_time() -> Timestamp {
    let wall = Machine::current().clocks().wall;
    Timestamp::from_millis(wall.as_millis() + elapsed().as_millis() as i64)
}

fn elapsed() -> Duration {
    turmoil::sim_elapsed().expect("a simulated node runs under turmoil only")
}

/// A simulated node runs no processes and keeps no index on a disk, so it has nothing that a boot could end.
pub fn boot_id() -> io::Result<String> {
    Err(io::ErrorKind::Unsupported.into())
}
