//! How full the disk of a node is, and from where on that matters (PROTOCOL 6.12).
//!
//! Each node judges its own disk by its own limits; what follows is decided by the leader, in `lead`.

/// From how much on a disk is too full, in thousandths of what an ordinary user may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// An alarm.
    pub warn_permille: u16,
    /// No new runs.
    pub full_permille: u16,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self { warn_permille: 850, full_permille: 950 }
    }
}

/// How full a disk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// The data directory.
    pub path: String,
    /// In thousandths.
    pub used_permille: u16,
    /// The limits of that node.
    pub limits: DiskLimits,
}

/// Once a disk was full, so much must be free below its limit before it has room again: a figure at the limit would switch
/// the cluster on and off.
const ROOM_AGAIN_PERMILLE: u16 = 10;

impl DiskUse {
    /// Whether it has room for new runs; `was_full`: it had none when this was last asked.
    pub fn has_room(&self, was_full: bool) -> bool {
        let slack = if was_full { ROOM_AGAIN_PERMILLE } else { 0 };
        self.used_permille < self.limits.full_permille.saturating_sub(slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_room_again_a_little_below_its_limit() {
        let at = |used_permille| DiskUse { used_permille, ..DiskUse::default() };
        assert!(at(949).has_room(false));
        assert!(!at(950).has_room(false));
        assert!(!at(940).has_room(true));
        assert!(at(939).has_room(true));
    }
}
