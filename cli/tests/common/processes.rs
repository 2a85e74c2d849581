//! Processes that outlive a node on purpose: its supervisor and its tasks. Found under `/proc` by the folder of the test,
//! never by name, so that no test touches another's. Start at [`end_all_of`].

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends every supervisor and task of the nodes in this folder, and waits until they are gone.
pub(crate) fn end_all_of(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let found: Vec<i32> = pids().filter(|pid| is_of(*pid, folder)).collect();
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            // It may have ended by itself since.
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(Duration::from_millis(10));
    }
}

/// Whether a process of a task in this folder has this fence.
pub(crate) fn with_fence(folder: &Path, fence: u64) -> bool {
    let fence = format!("MATINS_FENCE={fence}");
    pids().any(|pid| {
        let environ = read(pid, "environ");
        has(&environ, folder.as_os_str().as_encoded_bytes())
            && environ.split(|byte| *byte == 0).any(|entry| entry == fence.as_bytes())
    })
}

/// A supervisor names the folder on its command line, a task in its environment.
fn is_of(pid: i32, folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    has(&read(pid, "cmdline"), folder) || has(&read(pid, "environ"), folder)
}

fn pids() -> impl Iterator<Item = i32> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").expect("this is Linux").flatten();
    entries.filter_map(|it| it.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}

/// Empty where the process has ended or belongs to somebody else.
fn read(pid: i32, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
