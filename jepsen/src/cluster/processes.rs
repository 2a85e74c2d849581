//! Processes, found under `/proc`: by the folder of this run or by the network namespace of a node, never by name, so that
//! no run touches another's. Start at [`end_all`].

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What was killed is gone within this, unless the kernel holds it.
const GONE_MAX: Duration = Duration::from_secs(10);

/// Kills all processes that `is_ours` picks, again and again until none is left. `false`: some are left.
pub(crate) fn end_all(is_ours: impl Fn(i32) -> bool) -> bool {
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let found: Vec<i32> = pids().filter(|pid| is_ours(*pid)).collect();
        if found.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        for pid in found {
            send(pid, Signal::KILL);
        }
        sleep(Duration::from_millis(5));
    }
}

/// Sends a signal; a process that has ended does not mind.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The only error that can be is that it has ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// All processes but this one.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|it| it.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}

/// Whether it is of this folder: a node and a supervisor name it on their command line, a task in its environment.
pub(crate) fn is_of(pid: i32, folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    has(&read(pid, "cmdline"), folder) || has(&read(pid, "environ"), folder)
}

/// Whether it lives in this network namespace.
pub(crate) fn is_in(pid: i32, namespace: u64) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|metadata| metadata.ino() == namespace)
}

/// The words of its command line. Empty where it has ended.
pub(crate) fn words(pid: i32) -> Vec<String> {
    let line = read(pid, "cmdline");
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The fence of the attempt that it belongs to, if it is of a task.
pub(crate) fn fence(pid: i32) -> Option<u64> {
    let environ = read(pid, "environ");
    let mut entries = environ.split(|byte| *byte == 0);
    entries.find_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("MATINS_FENCE=")?.parse().ok())
}

/// The letter that the kernel tells its state by: `T` is stopped, `Z` a zombie. `None`: it has ended.
pub(crate) fn state(pid: i32) -> Option<char> {
    after_name(pid)?.chars().next()
}

/// Its parent. `None`: it has ended.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    after_name(pid)?.split(' ').nth(1)?.parse().ok()
}

/// `/proc/PID/stat` behind the name, which may hold anything.
fn after_name(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
}

/// Empty where the process has ended or belongs to somebody else.
fn read(pid: i32, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn processes_are_found_by_their_folder_and_their_state_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut child =
            Command::new("sleep").arg("60").env("MATINS_FENCE", "7").env("D", folder.path()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let deadline = Instant::now() + GONE_MAX;
        while !is_of(pid, folder.path()) {
            assert!(Instant::now() < deadline);
        }
        assert_eq!(fence(pid), Some(7));
        assert_eq!(parent(pid), Some(std::process::id().cast_signed()));
        send(pid, Signal::STOP);
        while state(pid) != Some('T') {
            assert!(Instant::now() < deadline);
        }
        // A child that nobody has waited for yet keeps its id, but no environment.
        assert!(end_all(|pid| is_of(pid, folder.path())));
        child.wait().unwrap();
        assert_eq!(state(pid), None);
    }
}
