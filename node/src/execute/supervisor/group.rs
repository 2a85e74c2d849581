//! Finding and signalling all processes of one attempt: by cgroup where there is one, else as descendants, by process
//! group and by the fence in their environment (PROTOCOL 5.1).
//!
//! It never signals a process that is not a descendant of this supervisor, save by the process group of a first process
//! that is not reaped yet: so no number can have been given to a stranger meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use matins_core::id::Fence;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// One line of the table of processes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    parent: i32,
    group: i32,
    /// It has exited and waits for its parent to notice.
    is_zombie: bool,
}

/// The table of processes of this machine at one moment.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    entries: BTreeMap<i32, Entry>,
}

impl ProcessTable {
    /// Reads `/proc`. A process that comes or goes meanwhile may be in it or not: callers look again.
    pub(crate) fn read() -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            if let Some(entry) = parse_stat(&stat) {
                entries.insert(pid, entry);
            }
        }
        Ok(Self { entries })
    }

    /// Living processes of the attempt: the first one, what descends from it, its process group, and what was orphaned
    /// but still carries its fence, with all that descends from those.
    pub(crate) fn members(&self, first: Pid, fence: Fence, firsts: &BTreeSet<i32>) -> Vec<Pid> {
        let first = first.as_raw_pid();
        let own = std::process::id() as i32;
        let mut members: BTreeSet<i32> = BTreeSet::from([first]);
        for (&pid, entry) in &self.entries {
            let is_orphan = entry.parent == own && !firsts.contains(&pid);
            if entry.group == first || (is_orphan && carries_fence(pid, fence)) {
                members.insert(pid);
            }
        }
        loop {
            let before = members.len();
            let child = |(pid, entry): (&i32, &Entry)| members.contains(&entry.parent).then_some(*pid);
            let children: Vec<i32> = self.entries.iter().filter_map(child).collect();
            members.extend(children);
            if members.len() == before {
                break;
            }
        }
        let is_alive = |pid: &i32| self.entries.get(pid).is_some_and(|entry| !entry.is_zombie);
        members.into_iter().filter(is_alive).filter_map(Pid::from_raw).collect()
    }

    /// Reaps orphans that were adopted and have exited; first processes are left to their attempts.
    pub(crate) fn reap_orphans(&self, firsts: &BTreeSet<i32>) {
        let own = std::process::id() as i32;
        for (&pid, entry) in &self.entries {
            if entry.parent == own && entry.is_zombie && !firsts.contains(&pid) {
                reap(Pid::from_raw(pid).expect("the table holds no pid 0"));
            }
        }
    }

    /// Pids of all processes that the machine runs, ours or not.
    pub(crate) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.entries.keys().filter_map(|pid| Pid::from_raw(*pid))
    }
}

/// Whether this process has children besides `firsts`. Cheap where the kernel lists children; `true` where it does
/// not, so that the table is read.
pub(crate) fn may_have_orphans(firsts: &BTreeSet<i32>) -> bool {
    let own = std::process::id();
    let Ok(children) = fs::read_to_string(format!("/proc/{own}/task/{own}/children")) else { return true };
    children.split_whitespace().any(|pid| pid.parse().is_ok_and(|pid| !firsts.contains(&pid)))
}

/// Takes the exit status of a child that has exited; nothing if there is none.
pub(crate) fn reap(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // ECHILD: it was not ours, or is reaped already. Either way nothing is left to do.
    let _ = rustix::process::waitid(WaitId::Pid(pid), options);
}

/// Sends a signal to each of these, and to the process group of the first one, which is not reaped yet.
pub(crate) fn signal_all(first: Pid, members: &[Pid], signal: Signal) {
    // ESRCH: already gone, which is what a stop wants.
    let _ = rustix::process::kill_process_group(first, signal);
    for pid in members {
        let _ = rustix::process::kill_process(*pid, signal);
    }
}

/// Whether the environment of a process has a variable of exactly this value.
pub(crate) fn has_env(pid: i32, name: &str, value: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{name}={value}");
    environment.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes())
}

fn carries_fence(pid: i32, fence: Fence) -> bool {
    has_env(pid, "MATINS_FENCE", &fence.0.to_string())
}

/// `pid (name) state ppid pgrp ...`; the name may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Entry> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X" | "x");
    Some(Entry { is_zombie, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

/// The cgroup of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below `base`; `None` if that is not allowed, and then the attempt runs without.
    pub(crate) fn create(base: &Path, fence: Fence) -> Option<Self> {
        let path = base.join(format!("matins-{}-{}", std::process::id(), fence.0));
        fs::create_dir(&path).ok()?;
        Some(Self { path })
    }

    /// The cgroup of an earlier supervisor's attempt.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Living processes in it.
    pub(crate) fn members(&self) -> Vec<Pid> {
        let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    /// Kills all of it at once, also what forks meanwhile.
    pub(crate) fn kill(&self) {
        // An older kernel has no such file: its members are signalled one by one besides.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Removes it. It fails while anything is in it, and then it stays.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Where this process may make cgroups: its own one, if it is delegated.
///
/// The root of the tree is left alone: a machine without delegation has its processes there, and joining a cgroup costs
/// several milliseconds a task (5.7 ms measured), which only a set-up that asks for it should pay.
pub(crate) fn delegated_cgroup() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/').to_owned();
    if own.is_empty() {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let point = fields.nth(1)?;
        (fields.next()? == "cgroup2").then_some(point)
    })?;
    let base = Path::new(mount).join(own);
    rustix::fs::access(base.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).ok()?;
    rustix::fs::access(&base, rustix::fs::Access::WRITE_OK).ok()?;
    Some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let entry = parse_stat("12 (a) b) Z 3 (x) S 7 8 9 0").unwrap();
        assert_eq!((entry.parent, entry.group, entry.is_zombie), (7, 8, false));
    }

    #[test]
    fn the_table_has_this_process() {
        let table = ProcessTable::read().unwrap();
        let own = std::process::id() as i32;
        assert!(table.pids().any(|pid| pid.as_raw_pid() == own));
        let members = table.members(Pid::from_raw(own).unwrap(), Fence(1), &BTreeSet::new());
        assert!(members.iter().any(|pid| pid.as_raw_pid() == own));
    }
}
