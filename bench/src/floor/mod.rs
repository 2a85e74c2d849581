//! What this machine can do at best, measured in the same run: nothing that Matins does can be faster.

mod commit;
mod disk;
mod rpc;
mod spawn;

use crate::workload::Workload;

/// All there are.
pub(crate) fn all() -> Vec<Box<dyn Workload>> {
    vec![Box::new(disk::Disk), Box::new(spawn::Spawn), Box::new(rpc::Rpc), Box::new(commit::Commit)]
}
