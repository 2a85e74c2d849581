//! What is done with a data directory while no node runs in it: restore, recover, check (PROTOCOL 6.10, 6.13).
//!
//! Nothing here talks to a node. A directory is locked as a node locks it, and changed in steps of which the last one alone
//! makes it usable: whatever is cut short is told at the next start. Start reading at [`restore()`], [`recover()`] or [`check()`].

mod check;
#[cfg(debug_assertions)]
mod corrupt;
mod found;
mod look;
mod recover;
mod restore;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use matins_core::Refusal;

pub use check::{Finding, Health, Report, check};
#[cfg(debug_assertions)]
pub use corrupt::corrupt_for_a_test;
pub use recover::{Plan, plan, recover};
pub use restore::{Contents, Restored, read_backup, restore};

use crate::store::StoreError;
use crate::store::backup::BackupError;
use crate::store::marker::MarkerError;

/// Why an offline step was not done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] MarkerError),
    /// What is in it cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backup is not whole.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The state cannot begin anew.
    #[error("the state cannot begin a new cluster")]
    Refused(#[from] Refusal),
    /// A restore needs an empty directory.
    #[error("directory `{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// There is nothing to go on from.
    #[error("`{}` belongs to no cluster: there is nothing in it to recover", .0.display())]
    Nothing(PathBuf),
    /// It is not what a node keeps its data in.
    #[error("`{}` is not the data directory of a node", .0.display())]
    NotOfNode(PathBuf),
    /// A recovery that was cut short treats the schedules in another way.
    #[error("a recovery of `{}` was begun that {} its schedules", root.display(), if *is_held { "holds" } else { "goes on with" })]
    BegunOtherwise {
        /// The directory.
        root: PathBuf,
        /// Whether the schedules are held in it.
        is_held: bool,
    },
    /// The state in the backup is of another release.
    #[error("the state is of a form that this release does not know")]
    Unreadable,
}

impl OfflineError {
    /// Says what to do next.
    pub fn hint(&self) -> &str {
        match self {
            Self::Directory(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Backup(error) => error.hint(),
            Self::Refused(refusal) => refusal.hint().unwrap_or_default(),
            Self::NotEmpty(_) => "give one that is not there yet, or empty it",
            Self::Nothing(_) => {
                "look for the directory of a node that was a member: `matins cluster check DIR` tells"
            }
            Self::NotOfNode(_) => "give the one of its `--data-dir`: /var/lib/matins unless it was set",
            Self::BegunOtherwise { .. } => "repeat it with the options that it was begun with",
            Self::Unreadable => "use the release that made it, or a later one",
        }
    }
}
