//! What this machine allows: some faults need namespaces, a tracer, disks of their own, or nodes of a build for
//! development. Start at [`lacking`].

use std::time::Duration;

use clap::ValueEnum as _;

use super::nemesis::{Field, Kind, Need};
use super::shell::can;
use super::workload::Trouble;

/// A clock that was set off is seen to be within this: the leader reads it each second.
const CLOCK_MAX: Duration = Duration::from_secs(6);
/// How far a clock is set off to see whether it can be, in milliseconds.
const CLOCK_TRIAL: i64 = 4_000;

/// Every fault that a mixed run may draw.
pub(crate) fn mixed() -> Vec<Kind> {
    Kind::value_variants().iter().copied().filter(|kind| kind.is_mixed()).collect()
}

impl Need {
    /// What kind of faults it is for, as an adjective.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "network",
            Self::Trace => "fsync",
            Self::Disks => "disk",
            Self::Clocks => "clock",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Which of these needs are not met here, each with what is missing.
pub(crate) fn lacking(field: &Field, mut needs: Vec<Need>) -> Result<Vec<(Need, String)>, Trouble> {
    needs.sort_unstable();
    needs.dedup();
    let mut lacking = Vec::new();
    for need in needs {
        let why = match need {
            Need::Filter => match &field.nodes.network {
                Some(network) if network.has_filter() => None,
                Some(_) => Some("no `nft` in the namespaces; install nftables"),
                None => {
                    Some("the nodes share this machine's network; network namespaces need root and iproute2")
                }
            },
            Need::Trace if can("strace", &["-qq", "-e", "inject=fdatasync:error=EIO", "true"]) => None,
            Need::Trace => Some("`strace` is missing or may not trace; install it, run as root"),
            Need::Disks if field.nodes.members().iter().all(|node| node.disk.is_some()) => None,
            Need::Disks => Some("images cannot be mounted; that needs root, loop devices and e2fsprogs"),
            Need::Clocks if can_set_clocks(field)? => None,
            Need::Clocks => {
                Some("only a debug build of `matins` lets its clock be set: give one with --matins")
            }
            // They come while it runs, and `haunt` looks for them.
            Need::Snapshot if field.nodes.are_bounds_small() => None,
            Need::Snapshot => Some("with the bounds of this seed one comes after an hour or 64 MiB of log"),
        };
        lacking.extend(why.map(|why| (need, why.to_owned())));
    }
    Ok(lacking)
}

/// Tries it.
fn can_set_clocks(field: &Field) -> Result<bool, Trouble> {
    let node = &field.nodes.all[0];
    node.set_clock(CLOCK_TRIAL)?;
    let seen = field.until(CLOCK_MAX, || {
        Ok(super::nemesis::seen_ahead(field, 0).filter(|ahead| (ahead - CLOCK_TRIAL).abs() < CLOCK_TRIAL / 2))
    })?;
    node.set_clock(0)?;
    Ok(seen.is_some())
}
