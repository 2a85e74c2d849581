//! The two clocks of this machine, and what tells one boot of it from another.

use std::io;
use std::os::fd::OwnedFd;

use matins_core::time::{BootTime, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use crate::system::{set_timer, timer, watched};

/// The boot-time clock of this machine: it counts suspend and is never set. All deadlines are readings of it
/// (PROTOCOL 5.3).
pub fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    BootTime(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// A timer on the boot-time clock: true to some microseconds, where tokio's timers come up to two milliseconds late, and not
/// stopped while the machine sleeps, as they are.
#[derive(Debug)]
pub struct BootTimer {
    timer: AsyncFd<OwnedFd>,
}

impl BootTimer {
    /// One that is not set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: watched(timer()?)? })
    }

    /// Waits for an instant, which may have passed.
    pub async fn wait_until(&mut self, at: BootTime) -> io::Result<()> {
        set_timer(&self.timer, Some(at))?;
        loop {
            let mut ready = self.timer.readable().await?;
            // Ready may be left over from an instant that nobody waited for any more.
            match ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?)) {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

/// The wall clock of this machine. Only readings for the leader, and the times in logs of tasks, are taken from it
/// (PROTOCOL 1.1).
pub fn wall_time() -> Timestamp {
    let now = clock_gettime(ClockId::Realtime);
    Timestamp::from_millis(now.tv_sec * 1_000 + now.tv_nsec / 1_000_000 + test_offset_millis())
}

/// How far tests have set this process's wall clock off: the number in the file that `MATINS_TEST_WALL_CLOCK` names.
/// Only builds for development look.
#[cfg(debug_assertions)]
fn test_offset_millis() -> i64 {
    static FILE: std::sync::OnceLock<Option<std::path::PathBuf>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("MATINS_TEST_WALL_CLOCK").map(Into::into));
    let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(not(debug_assertions))]
const fn test_offset_millis() -> i64 {
    0
}

/// Names this boot of the machine: what only its memory held is there until this changes.
pub fn boot_id() -> io::Result<String> {
    if let Some(pretended) = test_boot_id() {
        return Ok(pretended);
    }
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The boot that a test pretends: what `MATINS_TEST_BOOT` says. Only builds for development look.
fn test_boot_id() -> Option<String> {
    cfg!(debug_assertions).then(|| std::env::var("MATINS_TEST_BOOT").ok()).flatten()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use matins_core::time::Millis;

    use super::*;

    #[tokio::test]
    async fn a_timer_waits_for_the_last_instant_that_it_was_given() {
        let mut timer = BootTimer::new().unwrap();
        let began = boot_time();
        timer.wait_until(BootTime(0)).await.unwrap();
        assert!(timer.wait_until(began + Millis::from_secs(3_600)).now_or_never().is_none());
        timer.wait_until(began + Millis(5)).await.unwrap();
        assert!(boot_time() >= began + Millis(5));
        // One that came while nobody waited is not taken for the next one.
        assert!(timer.wait_until(boot_time() + Millis(1)).now_or_never().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
        let next = boot_time() + Millis(20);
        timer.wait_until(next).await.unwrap();
        assert!(boot_time() >= next);
    }
}
