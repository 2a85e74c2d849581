//! Descriptors that become readable at an instant of the boot-time clock (`timerfd_create(2)`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use matins_core::time::BootTime;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// One that is not set.
pub fn timer() -> io::Result<OwnedFd> {
    Ok(timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?)
}

/// Sets it to an instant in the place of an earlier one. One that has passed makes it readable at once; `None` never does.
pub fn set_timer(timer: impl AsFd, at: Option<BootTime>) -> io::Result<()> {
    // All zero switches it off.
    let at = at.map_or(BootTime(0), |at| at.max(BootTime(1)));
    let value = Itimerspec { it_interval: timespec(BootTime(0)), it_value: timespec(at) };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value)?;
    Ok(())
}

const fn timespec(at: BootTime) -> Timespec {
    Timespec { tv_sec: (at.0 / 1_000_000_000) as i64, tv_nsec: (at.0 % 1_000_000_000) as i64 }
}
