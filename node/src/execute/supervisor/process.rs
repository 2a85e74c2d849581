//! One attempt's first process: making it, reading what it prints, learning how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use matins_core::id::Fence;
use matins_core::supervisor::Exit;
use rustix::fs::{Mode, OFlags};
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
    /// Makes the first process; when this comes back it is the task's own program. The error says why there is none.
    pub(super) fn spawn(fence: Fence, task: &SpawnTask, cgroups: Option<&Path>) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot make a process: {error}");
        let pipes = Pipes::make().map_err(cannot)?;
        let cgroup = cgroups.and_then(|base| Cgroup::create(base, fence));
        if let Some(cgroup) = &cgroup {
            // Whoever finds this supervisor dead kills by it (PROTOCOL 5.5).
            let noted = fs::write(task.attempt.join("cgroup"), cgroup.path().as_os_str().as_encoded_bytes());
            noted.map_err(cannot)?;
        }
        let mut command = Command::new(&task.program);
        command
            .args(&task.arguments)
            .env_clear()
            .envs(task.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&task.directory)
            .stdin(Stdio::null())
            .stdout(pipes.stdout_task)
            .stderr(pipes.stderr_task)
            .process_group(0);
        tie_to_this_process(&mut command, cgroup.as_ref()).map_err(cannot)?;
        let child = command.spawn().map_err(|error| describe(&task.program, &error))?;
        let pid = Pid::from_raw(child.id() as i32).expect("a child's pid is not zero");
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let pidfd = pidfd.inspect_err(|_| abandon(pid)).map_err(|errno| cannot(errno.into()))?;
        Ok(Self {
            fence,
            pid,
            pidfd,
            stdout: Some(pipes.stdout),
            stderr: Some(pipes.stderr),
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
    pub(super) fn exit(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::Pid(self.pid), options).ok()??;
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

/// What a task prints into, and where that comes out.
struct Pipes {
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdout_task: io::PipeWriter,
    stderr_task: io::PipeWriter,
}

impl Pipes {
    fn make() -> io::Result<Self> {
        let (stdout, stdout_task) = io::pipe()?;
        let (stderr, stderr_task) = io::pipe()?;
        let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { stdout, stderr, stdout_task, stderr_task })
    }
}

/// Has the process that comes of `command` ask, before it becomes the task, to die with this one, and join its cgroup.
///
/// It must do so itself, and no program of a task's own does. A program in between that does it would cost as much as
/// three processes (1.4 ms measured): it would be this one, which is large. This costs a fork of the supervisor, which is
/// small and stays so.
fn tie_to_this_process(command: &mut Command, cgroup: Option<&Cgroup>) -> io::Result<()> {
    let own = rustix::process::getpid();
    let procs =
        cgroup.map(|cgroup| CString::new(cgroup.path().join("cgroup.procs").into_os_string().into_vec()));
    let procs = procs.transpose()?;
    let tied = move || tie(own, procs.as_deref());
    #[expect(unsafe_code, reason = "the only way to do something between fork and exec")]
    // SAFETY: `tie` makes system calls and nothing else: it allocates nothing, takes no lock, and this process has one thread.
    unsafe {
        command.pre_exec(tied);
    }
    Ok(())
}

/// Runs in the new process.
fn tie(parent: Pid, cgroup: Option<&CStr>) -> io::Result<()> {
    // No program that cannot be run gives this error, so whoever waits can tell the two apart.
    let not_tied = |_: Errno| io::Error::from(Errno::CANCELED);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(not_tied)?;
    // It may have died before that call, and then nobody would end this task.
    if rustix::process::getppid() != Some(parent) {
        return Err(Errno::CANCELED.into());
    }
    if let Some(procs) = cgroup {
        let procs =
            rustix::fs::open(procs, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(not_tied)?;
        rustix::io::write(procs, b"0").map_err(not_tied)?;
    }
    Ok(())
}

/// Says why a program cannot run; the kernel says ENOENT also when only the interpreter of a script is missing.
fn describe(program: &Path, error: &io::Error) -> String {
    let name = program.display();
    if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) {
        return "cannot tie the task to its supervisor, or put it into its cgroup".to_owned();
    }
    let mut head = [0; 256];
    let read = fs::File::open(program).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    let first_line = head[..read].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let interpreter = first_line.strip_prefix(b"#!").map(String::from_utf8_lossy);
    match (error.kind(), interpreter) {
        (io::ErrorKind::NotFound, Some(interpreter)) => {
            let interpreter = interpreter.split_whitespace().next().unwrap_or_default().to_owned();
            format!("cannot run `{name}`: its interpreter `{interpreter}` does not exist")
        }
        (io::ErrorKind::ArgumentListTooLong, _) => format!(
            "cannot run `{name}`: arguments and environment are longer than Linux allows; pass large values by `with`"
        ),
        _ => format!("cannot run `{name}`: {error}"),
    }
}

/// Kills a process that was just made, which has no children yet, and reaps it.
fn abandon(pid: Pid) {
    // Neither can fail for a child that nobody has waited for.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
}
