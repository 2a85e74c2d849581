//! The two clocks of a simulated machine, and what is wrong with them.

use matins_core::time::{BootTime, Timestamp};

use super::agenda::{Instant, MS};

/// Clocks of one machine. Both run at rates of their own, in parts per million of true time.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// The boot-time clock began here, in true time.
    pub(super) booted_at: Instant,
    /// What it said then.
    pub(super) boot_base: u64,
    /// How much faster it runs than true time.
    pub(super) boot_ppm: i64,
    /// What the wall clock said at the beginning.
    pub(super) wall_base: i64,
    /// How much faster it runs.
    pub(super) wall_ppm: i64,
    /// How far it was set off since, in milliseconds.
    pub(super) wall_step: i64,
}

const MILLION: i128 = 1_000_000;

impl Clocks {
    /// The boot-time clock at an instant.
    pub(super) fn boot(&self, at: Instant) -> BootTime {
        let passed = i128::from(at.saturating_sub(self.booted_at));
        let shown = passed * (MILLION + i128::from(self.boot_ppm)) / MILLION;
        BootTime(self.boot_base + u64::try_from(shown).unwrap_or(0))
    }

    /// The first instant at which the boot-time clock shows this.
    pub(super) fn when(&self, boot: BootTime) -> Instant {
        let rate = MILLION + i128::from(self.boot_ppm);
        let shown = i128::from(boot.0.saturating_sub(self.boot_base));
        // Rounded up, and a nanosecond more for the rounding down of `boot`.
        let passed = (shown * MILLION + rate - 1) / rate + 1;
        self.booted_at + u64::try_from(passed).unwrap_or(0)
    }

    /// The wall clock at an instant.
    pub(super) fn wall(&self, at: Instant) -> Timestamp {
        let passed = i128::from(at) * (MILLION + i128::from(self.wall_ppm)) / MILLION;
        let millis = i64::try_from(passed / i128::from(MS)).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.wall_base + millis + self.wall_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_clock_reads_back() {
        for boot_ppm in [-50_000, -1_000, 0, 7, 50_000] {
            let clocks =
                Clocks { booted_at: 5, boot_base: 77, boot_ppm, wall_base: 0, wall_ppm: 0, wall_step: 0 };
            for at in [5, 1_000, 999_999_999_999, 86_400_000_000_000] {
                let back = clocks.when(clocks.boot(at));
                assert!(clocks.boot(back) >= clocks.boot(at), "{boot_ppm} {at}");
                assert!(back.abs_diff(at) <= 3, "{boot_ppm}: {back} for {at}");
            }
        }
    }
}
