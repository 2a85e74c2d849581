//! One attempt's first process: making it, reading what it prints, learning how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use matins_core::id::Fence;
use matins_core::supervisor::Exit;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::group::{self, Cgroup, ProcessTable};
use super::wire::SpawnTask;
use crate::execute::log::{LogWriter, Stream};

/// A first process and all that hangs on it.
#[derive(Debug)]
pub(super) struct Process {
    fence: Fence,
    pub(super) pid: Pid,
    /// Readable when the first process has exited.
    pub(super) pidfd: OwnedFd,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    log: LogWriter,
    cgroup: Option<Cgroup>,
    /// Processes that outlived the first one; each is watched until it has exited.
    pub(super) leftovers: BTreeMap<i32, OwnedFd>,
    /// KILL was sent: whatever still turns up gets it too.
    pub(super) is_killed: bool,
    pub(super) has_exited: bool,
}

impl Process {
    /// Makes the first process, through the trampoline that ties it to this supervisor ([`crate::execute::task_exec`]).
    pub(super) fn spawn(fence: Fence, task: &SpawnTask, cgroups: Option<&Path>) -> io::Result<Self> {
        let (stdout, stdout_task) = io::pipe()?;
        let (stderr, stderr_task) = io::pipe()?;
        let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let cgroup = cgroups.and_then(|base| Cgroup::create(base, fence));
        if let Some(cgroup) = &cgroup {
            // Whoever finds this supervisor dead kills by it (PROTOCOL 5.5).
            fs::write(task.attempt.join("cgroup"), cgroup.path().as_os_str().as_encoded_bytes())?;
        }
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("task-exec")
            .arg(std::process::id().to_string())
            .arg(task.attempt.join("could-not-start"))
            .arg(cgroup.as_ref().map_or(Path::new("-"), Cgroup::path))
            .arg(&task.program)
            .args(&task.arguments)
            .env_clear()
            .envs(task.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&task.directory)
            .stdin(Stdio::null())
            .stdout(stdout_task)
            .stderr(stderr_task)
            .process_group(0);
        // With an absolute program, no `pre_exec` and one thread this is a `posix_spawn`: no fork, no copy of memory.
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id() as i32).expect("a child's pid is not zero");
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| abandon(pid))?;
        Ok(Self {
            fence,
            pid,
            pidfd,
            stdout: Some(stdout),
            stderr: Some(stderr),
            log: LogWriter::create(&task.log, task.log_bytes_max),
            cgroup,
            leftovers: BTreeMap::new(),
            is_killed: false,
            has_exited: false,
        })
    }

    /// Ends a process that cannot be watched: it must not run unseen.
    pub(super) fn abandon(&self) {
        abandon(self.pid);
    }

    /// How the first process ended, if it has. It stays a zombie, so that its number and its group's stay its own.
    pub(super) fn exit(&self, attempt: &Path) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::Pid(self.pid), options).ok()??;
        if let Ok(reason) = fs::read_to_string(attempt.join("could-not-start")) {
            return Some(Exit::NotStarted(reason));
        }
        match status.exit_status() {
            Some(code) => Some(Exit::Code(code)),
            None => Some(Exit::Signal(status.terminating_signal().unwrap_or_default())),
        }
    }

    /// Living processes of this attempt.
    pub(super) fn members(&self, firsts: &BTreeSet<i32>) -> Vec<Pid> {
        if let Some(cgroup) = &self.cgroup {
            return cgroup.members();
        }
        if self.has_exited && !group::may_have_orphans(firsts) {
            return Vec::new();
        }
        // A table that cannot be read must not pass for an empty group.
        let Ok(table) = ProcessTable::read() else { return vec![self.pid] };
        table.reap_orphans(firsts);
        table.members(self.pid, self.fence, firsts)
    }

    /// Signals all of them.
    pub(super) fn signal(&self, members: &[Pid], signal: Signal) {
        if let (Some(cgroup), Signal::KILL) = (&self.cgroup, signal) {
            cgroup.kill();
        }
        group::signal_all(self.pid, members, signal);
    }

    /// Takes what one pipe holds, a chunk at most, into the log. `false`: it is closed and needs no more watching.
    pub(super) fn read(&mut self, stream: Stream, chunk: &mut [u8]) -> bool {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr | Stream::Note | Stream::End => &mut self.stderr,
        };
        let Some(fd) = pipe else { return false };
        match rustix::io::read(fd, &mut *chunk) {
            Ok(read) if read > 0 => {
                self.log.write(stream, &chunk[..read]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Ok(_) | Err(_) => {
                *pipe = None;
                false
            }
        }
    }

    /// Reads what the group left in the pipes, reaps the first process, ends the log. Gives the bytes of the log.
    pub(super) fn finish(mut self, chunk: &mut [u8]) -> u64 {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A pipe holds 1 MiB at most, so this ends even if a stranger goes on writing.
            for _ in 0..(1 << 20) / 4096 {
                let before = self.log.written();
                if !self.read(stream, chunk) || before == self.log.written() {
                    break;
                }
            }
        }
        self.log.end();
        group::reap(self.pid);
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        self.log.written()
    }
}

/// Kills a process that was just made, which has no children yet, and reaps it.
fn abandon(pid: Pid) {
    // Neither can fail for a child that nobody has waited for.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
}
