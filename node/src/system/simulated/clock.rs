//! The two clocks of a simulated machine.

use std::time::Duration;

use matins_core::time::{BootTime, Timestamp};

use super::Machine;

/// The boot-time clock of this machine: it runs on while processes come and go.
pub fn boot_time() -> BootTime {
    let (clocks, elapsed) = (Machine::current().clocks(), elapsed().as_nanos() as u64);
    let ahead = i128::from(elapsed) * i128::from(clocks.boot_ppm) / 1_000_000;
    BootTime(clocks.boot.0 + (i128::from(elapsed) + ahead) as u64)
}

/// The wall clock of this machine.
pub fn wall_time() -> Timestamp {
    let wall = Machine::current().clocks().wall;
    Timestamp::from_millis(wall.as_millis() + elapsed().as_millis() as i64)
}

fn elapsed() -> Duration {
    turmoil::sim_elapsed().expect("a simulated node runs under turmoil only")
}
