//! What every workload and every floor has: a name, the clusters it wants, and a way to be measured.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::figure::Figure;
use crate::trouble::Trouble;

/// One line, or a few, of the table.
#[tonic::async_trait(?Send)]
pub(crate) trait Workload: Sync {
    /// As `--only` takes it.
    fn name(&self) -> &'static str;

    /// What is done and what is timed, in a line.
    fn about(&self) -> &'static str;

    /// On how many nodes it is measured, one after the other. Empty: it wants no node.
    fn nodes(&self) -> &'static [usize] {
        &[1, 3]
    }

    /// Does it, checks that all was done that should be, and gives the figures.
    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble>;
}

/// How large a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// As the table says.
    Full,
    /// Seconds: to see that it works. Its figures say nothing.
    Quick,
}

impl Size {
    /// One of two numbers.
    pub(crate) fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// Where a workload is measured. Everything it makes is below its folder, which goes with it.
pub(crate) struct Stage {
    pub(crate) binary: PathBuf,
    pub(crate) folder: TempDir,
    pub(crate) nodes: usize,
    pub(crate) size: Size,
    /// The larger size of `finished-runs`.
    pub(crate) finished_runs: u64,
}

impl Stage {
    /// A new cluster of as many nodes as wanted, with a leader and all executors ready. `slots` is of each node.
    pub(crate) async fn cluster(&self, slots: u32) -> Result<Cluster, Trouble> {
        Cluster::start(&self.binary, self.folder.path(), self.nodes, slots).await
    }
}
