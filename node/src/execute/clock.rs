//! The boot-time clock: it counts suspend and is never set. All deadlines are readings of it (PROTOCOL 5.3).

use matins_core::time::BootTime;
use rustix::time::{ClockId, Timespec};

/// The present instant.
pub fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    BootTime(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// An instant as the kernel's timers take it.
pub(crate) const fn timespec(at: BootTime) -> Timespec {
    Timespec { tv_sec: (at.0 / 1_000_000_000) as i64, tv_nsec: (at.0 % 1_000_000_000) as i64 }
}
