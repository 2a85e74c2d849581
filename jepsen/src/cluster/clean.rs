//! Nothing of a run stays: neither after it, nor after it was killed in the middle. Start at [`Janitor::start`] and
//! [`remove_stale`].

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::processes::{end_all, is_of};
use super::workload::Trouble;
use super::{disk, network};

/// Begins the names of the folders of runs.
const PREFIX: &str = "matins-jepsen-";
/// The process of a janitor's owner is gone within this after its pipe was closed.
const GONE_MAX: Duration = Duration::from_secs(10);

/// The folder of a run. It is gone when this is dropped, with all processes and mounts that still use it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes one; the number tells the runs of one process apart.
    pub(crate) fn make(number: u32) -> Result<Self, Trouble> {
        let path = std::env::temp_dir().join(format!("{PREFIX}{}-{number}", std::process::id()));
        let made = fs::create_dir_all(&path);
        made.map_err(|error| Trouble(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// A process that cleans up after this one, however this one ends: it waits for the end of a pipe.
pub(crate) struct Janitor(Child);

impl Janitor {
    /// Starts it: this very program, with a word that only it knows.
    pub(crate) fn start() -> Result<Self, Trouble> {
        let wrong = |error: io::Error| Trouble(format!("cannot start the janitor: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(wrong)?);
        let own = std::process::id().to_string();
        command.args(["cluster", "--clean-after", &own]).stdin(Stdio::piped()).stdout(Stdio::null());
        // A group of its own, so that Ctrl-C does not reach it.
        Ok(Self(command.process_group(0).spawn().map_err(wrong)?))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Its pipe is closed by that; it finds nothing to do, since whoever drops it has cleaned up.
        drop(self.0.stdin.take());
        // It must not be taken for gone while it still looks around.
        let _ = self.0.wait();
    }
}

/// What the janitor does: waits for the end of its standard input, and then cleans up after that process.
pub(crate) fn clean_after(pid: u32) {
    // What is written there does not matter, only that it ends.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    let deadline = Instant::now() + GONE_MAX;
    let process = PathBuf::from(format!("/proc/{pid}"));
    while process.exists() && Instant::now() < deadline && folders().any(|(_, owner)| owner == pid) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // While it lives it cleans up itself.
    if !process.exists() {
        remove_stale();
    }
}

/// Removes what runs left whose process is gone.
pub(crate) fn remove_stale() {
    for (path, pid) in folders() {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            remove(&path);
        }
    }
    disk::remove_stale();
    network::remove_stale();
}

/// The folders of all runs, with their process.
fn folders() -> impl Iterator<Item = (PathBuf, u32)> {
    fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let pid = name.to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
        Some((entry.path(), pid))
    })
}

fn remove(folder: &Path) {
    end_all(|pid| is_of(pid, folder));
    disk::unmount_below(folder);
    // Whatever is left is of no use, and of no harm.
    let _ = fs::remove_dir_all(folder);
}
