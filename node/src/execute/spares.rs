//! Folders of attempts that are over, kept for the next ones.
//!
//! An attempt has four folders and five files, and making all of them only to delete them again is work that every attempt would
//! pay for, most on file systems that keep an inode back for a while after it was freed. So a folder that an attempt left as it was made goes to
//! another one. Never one in which anything is left of what a task did: such a folder is deleted as a whole.
//! Start reading at [`Spares::give`].

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// More than an executor runs at once on most machines.
const FOLDERS_MAX: usize = 64;
/// A file of more bytes is not worth keeping: it would hold its blocks.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Folders that every attempt has.
const FOLDERS: [&str; 3] = ["work", "home", "tmp"];
/// Files that are replaced by renaming: their inodes serve the next `NAME.new`.
const RENAMED: [&str; 3] = ["start", "status", "report"];
/// Files that are written in place.
const WRITTEN: [&str; 1] = ["input"];
/// Files that only some attempts have.
const RARE: [&str; 6] = ["output", "script", "cgroup", "start.new", "status.new", "report.new"];

/// The spare folders of one executor. A clone is the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Spares {
    dir: PathBuf,
    folders: Arc<Mutex<Vec<PathBuf>>>,
    /// Modes of a folder and a file as this process makes them.
    modes: (u32, u32),
}

impl Spares {
    /// Keeps them in `dir`, which is made anew: what a dead process kept is not known well enough.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::create_dir(&dir)?,
        }
        let file = dir.join("mode");
        fs::write(&file, "")?;
        let modes = (fs::metadata(&dir)?.mode(), fs::metadata(&file)?.mode());
        fs::remove_file(&file)?;
        Ok(Self { dir, folders: Arc::default(), modes })
    }

    /// Makes a spare folder the one at `path`. `false`: there is none, or something lies at `path`.
    pub(crate) fn take(&self, path: &Path) -> bool {
        let Some(spare) = self.lock().pop() else { return false };
        let taken = fs::rename(&spare, path).is_ok();
        if !taken {
            self.lock().push(spare);
        }
        taken
    }

    /// Takes a folder that an attempt has left, and whose name no other has. `false`: it is of no use, and is to be deleted.
    pub(crate) fn give(&self, folder: &Path) -> bool {
        let Some(name) = folder.file_name().filter(|_| self.lock().len() < FOLDERS_MAX) else { return false };
        let spare = self.dir.join(name);
        // An error means that it is not as it was made.
        let is_given = self.clean(folder).unwrap_or(false) && fs::rename(folder, &spare).is_ok();
        if is_given {
            self.lock().push(spare);
        }
        is_given
    }

    /// Whether a folder is as good as new afterwards.
    fn clean(&self, folder: &Path) -> io::Result<bool> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { return Ok(false) };
            let is_clean = if FOLDERS.contains(&name) {
                self.is_as_made(&entry)? && fs::read_dir(entry.path())?.next().is_none()
            } else if RENAMED.contains(&name) {
                self.is_own_file(&entry)? && {
                    fs::rename(entry.path(), folder.join(name).with_extension("new"))?;
                    true
                }
            } else if WRITTEN.contains(&name) {
                self.is_own_file(&entry)?
            } else if RARE.contains(&name) {
                fs::remove_file(entry.path()).is_ok()
            } else {
                false
            };
            if !is_clean {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A folder with the mode that it was given.
    fn is_as_made(&self, entry: &DirEntry) -> io::Result<bool> {
        Ok(metadata(entry)?.mode() == self.modes.0)
    }

    /// A small file with the mode that it was given, and with no second name by which a task kept it.
    fn is_own_file(&self, entry: &DirEntry) -> io::Result<bool> {
        let file = metadata(entry)?;
        Ok(file.mode() == self.modes.1 && file.nlink() == 1 && file.len() <= FILE_BYTES_MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its own, if it is a link: the mode tells that it is one.
fn metadata(entry: &DirEntry) -> io::Result<Metadata> {
    fs::symlink_metadata(entry.path())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Case {
        root: tempfile::TempDir,
        spares: Spares,
    }

    impl Case {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let spares = Spares::open(root.path().join("spare")).unwrap();
            Self { root, spares }
        }

        /// A folder as an attempt that did nothing leaves it.
        fn left(&self, name: &str) -> PathBuf {
            let folder = self.root.path().join(name);
            for inner in FOLDERS {
                fs::create_dir_all(folder.join(inner)).unwrap();
            }
            for file in RENAMED.iter().chain(&WRITTEN) {
                fs::write(folder.join(file), "old").unwrap();
            }
            folder
        }
    }

    #[test]
    fn a_folder_that_was_left_as_it_was_made_serves_again_and_says_nothing_of_before() {
        let case = Case::new();
        let left = case.left("7");
        fs::write(left.join("output"), "a=b").unwrap();
        assert!(case.spares.give(&left));
        assert!(!left.exists());
        let next = case.root.path().join("8");
        assert!(case.spares.take(&next));
        for file in ["start", "status", "report", "output"] {
            assert!(!next.join(file).exists(), "{file}");
        }
        for inner in FOLDERS {
            assert!(next.join(inner).is_dir());
        }
        assert!(!case.spares.take(&case.root.path().join("9")), "there was one only");
    }

    #[test]
    fn a_folder_in_which_a_task_left_something_is_of_no_use() {
        type Trace = fn(&Path);
        let traces: [(&str, Trace); 7] = [
            ("a file", |folder| fs::write(folder.join("work/a"), "").unwrap()),
            ("a hidden folder", |folder| fs::create_dir(folder.join("home/.cache")).unwrap()),
            ("a file beside ours", |folder| fs::write(folder.join("mine"), "").unwrap()),
            ("a mode", |folder| {
                fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o500)).unwrap();
            }),
            ("a link", |folder| {
                fs::remove_file(folder.join("input")).unwrap();
                symlink("/etc/passwd", folder.join("input")).unwrap();
            }),
            ("a second name", |folder| {
                fs::hard_link(folder.join("input"), folder.with_extension("kept")).unwrap();
            }),
            ("a link to a folder", |folder| {
                fs::remove_dir(folder.join("tmp")).unwrap();
                symlink("/tmp", folder.join("tmp")).unwrap();
            }),
        ];
        let case = Case::new();
        for (what, trace) in traces {
            let left = case.left("7");
            trace(&left);
            assert!(!case.spares.give(&left), "{what}");
            fs::remove_dir_all(&left).unwrap();
        }
        assert!(case.spares.give(&case.left("7")), "without a trace it is of use");
    }

    #[test]
    fn nothing_is_put_in_the_place_of_a_folder_that_is_in_use() {
        let case = Case::new();
        assert!(case.spares.give(&case.left("7")));
        let used = case.left("8");
        assert!(!case.spares.take(&used));
        assert_eq!(fs::read_to_string(used.join("start")).unwrap(), "old");
        assert!(case.spares.take(&case.root.path().join("9")), "it is kept for another one");
    }

    #[test]
    fn what_a_dead_process_kept_is_deleted() {
        let case = Case::new();
        assert!(case.spares.give(&case.left("7")));
        let again = Spares::open(case.root.path().join("spare")).unwrap();
        assert!(!again.take(&case.root.path().join("8")));
        assert_eq!(fs::read_dir(case.root.path().join("spare")).unwrap().count(), 0);
    }
}
