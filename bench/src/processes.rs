//! Processes under `/proc`: ending what belongs to one folder, never by name, and what a process uses of the machine.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::trouble::Trouble;

/// What was killed is gone within this, unless the kernel holds it.
const GONE_MAX: Duration = Duration::from_secs(10);

/// Ends every supervisor and task of the nodes in this folder, and waits until they are gone.
pub(crate) fn end_all_of(folder: &Path) {
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let found: Vec<i32> = pids().filter(|pid| is_of(*pid, folder)).collect();
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        found.into_iter().for_each(kill);
        sleep(Duration::from_millis(10));
    }
}

/// Ends a process as a power cut would.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The only error that can be is that it has ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Memory of a process that no other shares, and its part of what is shared, in bytes.
pub(crate) fn memory(pid: i32) -> Result<u64, Trouble> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map(|it| it * 1024).ok_or_else(|| Trouble("the kernel tells no Pss".into()))
}

/// Time that a process has spent on a core so far.
pub(crate) fn cpu(pid: i32) -> Result<Duration, Trouble> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything, the two times are the 12th and the 13th field, in ticks of 10 ms.
    let (_, rest) = stat.rsplit_once(") ").ok_or_else(|| Trouble("a strange /proc/PID/stat".into()))?;
    let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Supervisors and tasks of the nodes in this folder. A supervisor names it on its command line, a task in its environment.
pub(crate) fn of(folder: &Path) -> Vec<i32> {
    pids().filter(|pid| is_of(*pid, folder)).collect()
}

fn is_of(pid: i32, folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    let has = |file| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(folder.len()).any(|window| window == folder)
    };
    has("cmdline") || has("environ")
}

fn pids() -> impl Iterator<Item = i32> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|it| it.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_has_used_a_core() {
        let own = std::process::id().cast_signed();
        assert!(memory(own).unwrap() > 1 << 20);
        let deadline = Instant::now() + GONE_MAX;
        while cpu(own).unwrap() < Duration::from_millis(20) {
            assert!(Instant::now() < deadline, "the time on a core does not rise");
        }
    }
}
