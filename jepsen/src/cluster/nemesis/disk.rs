//! Disks that fail, stall, are full, or lose what was never synced.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::{Field, Nemesis, PAUSE, names};
use crate::cluster::disk::Disk;
use crate::cluster::nodes::DiskHealth;
use crate::cluster::processes;
use crate::cluster::workload::Trouble;

/// The tracer holds the process within this.
const ATTACH_MAX: Duration = Duration::from_secs(10);
/// The tracer lets go of the process within this, or is killed.
const DETACH_MAX: Duration = Duration::from_secs(3);
/// A node whose log could not be synced is gone within this.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How long a node goes on after the marks of a power cut, so that there is more to lose.
const LOOSE: Duration = Duration::from_millis(300);

/// What becomes of fsync and fdatasync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// They fail with EIO.
    Error,
    /// They take so much longer.
    Slow(Duration),
}

/// The kernel's answers to one node's fsync are changed, by `strace`.
pub(super) struct Fsync {
    target: usize,
    outcome: Outcome,
    tracer: Option<Child>,
    output: Option<PathBuf>,
    pid: Option<i32>,
}

impl Fsync {
    pub(super) fn error(target: usize) -> Self {
        Self { target, outcome: Outcome::Error, tracer: None, output: None, pid: None }
    }

    /// From a bad disk to one that makes a leader give up (PROTOCOL 2.3).
    pub(super) fn slow(target: usize, random: &mut StdRng) -> Self {
        let delay = Duration::from_millis(random.random_range(30..1_500));
        Self { target, outcome: Outcome::Slow(delay), tracer: None, output: None, pid: None }
    }

    /// Calls that were changed, with the files that they were for.
    fn changed(&self) -> Vec<String> {
        let text = self.output.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let mark = match self.outcome {
            Outcome::Error => "(INJECTED)",
            Outcome::Slow(_) => "(DELAYED)",
        };
        text.lines().filter(|line| line.contains(mark)).map(ToOwned::to_owned).collect()
    }
}

impl Nemesis for Fsync {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        let node = &field.nodes.all[self.target];
        let Some(pid) = node.pid() else { return Err(Trouble(format!("{} is down", node.name))) };
        let output = field.nodes.folder.join(format!("{}-{pid}.strace", node.name));
        let fault = match self.outcome {
            Outcome::Error => {
                node.blame_disk(DiskHealth::Bad);
                "error=EIO".to_owned()
            }
            Outcome::Slow(delay) => format!("delay_enter={}", delay.as_micros()),
        };
        let mut tracer = Command::new("strace");
        // With `-y` it names the files; what the tracer itself says is of no use to anybody.
        tracer
            .args(["-f", "-qq", "-y", "-e", "trace=fdatasync,fsync"])
            .args(["-e", &format!("inject=fdatasync,fsync:{fault}"), "-p", &pid.to_string(), "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let tracer = tracer.spawn().map_err(|error| Trouble(format!("cannot run strace: {error}")))?;
        let number = tracer.id().to_string();
        (self.tracer, self.output, self.pid) = (Some(tracer), Some(output), Some(pid));
        let is_held = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            Ok(status
                .lines()
                .any(|line| line.strip_prefix("TracerPid:").is_some_and(|it| it.trim() == number))
                .then_some(()))
        };
        // If it never is, nothing is seen to be changed, and the run is invalid.
        field.until(ATTACH_MAX, is_held).map(drop)
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let changed = self.changed();
        let Some(first) = changed.first() else { return Ok(None) };
        let (log, vote) = (field.nodes.all[self.target].data_dir.join("log/"), "/vote");
        let is_durable = |line: &&String| line.contains(&*log.to_string_lossy()) || line.contains(vote);
        if self.outcome == Outcome::Error && changed.iter().any(|line| is_durable(&line)) {
            let pid = self.pid;
            let is_gone = || {
                let is_gone = pid.is_none_or(|pid| processes::state(pid).is_none_or(|state| state == 'Z'));
                Ok((is_gone || field.nodes.all[self.target].pid() != pid).then_some(()))
            };
            if field.until(STOP_MAX, is_gone)?.is_none() {
                let name = &field.nodes.all[self.target].name;
                field.fail(format!("6.1: {name} goes on after its log could not be synced: {first}"));
            }
        }
        Ok(Some(format!("{} calls were changed, first {first}", changed.len())))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        if let Some(mut tracer) = self.tracer.take() {
            let_go(&mut tracer).map_err(|error| Trouble(format!("strace: {error}")))?;
        }
        // A node that was told of the failure in the last moment is still about to stop for it.
        field.sleep(PAUSE * 25);
        field.nodes.all[self.target].blame_disk(DiskHealth::Good);
        Ok(())
    }
}

impl Drop for Fsync {
    fn drop(&mut self) {
        if let Some(mut tracer) = self.tracer.take() {
            // Nothing can be done about it here.
            let _ = let_go(&mut tracer);
        }
    }
}

/// Ends a tracer, so that the process goes on without it. One that waits for a thread which it delays itself, while the
/// process exits, does not listen to TERM; the kernel lets go of what it held when it is killed.
fn let_go(tracer: &mut Child) -> std::io::Result<()> {
    processes::send(tracer.id().cast_signed(), Signal::TERM);
    let deadline = Instant::now() + DETACH_MAX;
    while tracer.try_wait()?.is_none() {
        if Instant::now() > deadline {
            tracer.kill()?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Somebody else has taken all the room on the disk.
pub(super) struct Full {
    target: usize,
}

impl Full {
    pub(super) fn new(target: usize) -> Self {
        Self { target }
    }
}

impl Nemesis for Full {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        field.nodes.all[self.target].blame_disk(DiskHealth::Bad);
        disk_of(field, self.target)?.fill()
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let disk = disk_of(field, self.target)?;
        // The node may have deleted something meanwhile.
        disk.fill()?;
        Ok(disk.is_full().then(|| format!("a write of 8 KiB to {} fails", disk.folder().display())))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        disk_of(field, self.target)?.clear();
        field.sleep(PAUSE * 25);
        field.nodes.all[self.target].blame_disk(DiskHealth::Good);
        Ok(())
    }
}

/// Everything on these machines ends at once, and their disks hold only what was synced.
pub(super) struct PowerCut {
    targets: Vec<usize>,
}

impl PowerCut {
    pub(super) fn of(targets: Vec<usize>) -> Self {
        Self { targets }
    }
}

impl Nemesis for PowerCut {
    fn nodes(&self) -> Vec<String> {
        names(&self.targets)
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        for at in &self.targets {
            disk_of(field, *at)?.leave_marks()?;
        }
        field.sleep(LOOSE);
        let cut = |at: usize| -> Result<(), Trouble> {
            let node = &field.nodes.all[at];
            node.kill();
            if !processes::end_all(|pid| node.is_own(pid)) {
                return Err(Trouble(format!("processes of {} do not die", node.name)));
            }
            disk_of(field, at)?.cut_power()
        };
        std::thread::scope(|scope| {
            let cuts: Vec<_> = self.targets.iter().map(|at| scope.spawn(move || cut(*at))).collect();
            cuts.into_iter().try_for_each(|cut| {
                cut.join().map_err(|_| Trouble("a thread that cut the power panicked".into()))?
            })
        })
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        for at in &self.targets {
            if !disk_of(field, *at)?.has_lost() {
                return Ok(None);
            }
        }
        Ok(Some("what was synced is there, what was not is lost".into()))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        self.targets.iter().try_for_each(|at| field.nodes.up(*at))
    }
}

fn disk_of(field: &Field, at: usize) -> Result<&Disk, Trouble> {
    let disk = field.nodes.all[at].disk.as_ref();
    disk.ok_or_else(|| Trouble(format!("n{} has no disk of its own", at + 1)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_tracer_that_does_not_listen_is_ended() {
        let mut deaf = Command::new("sh").args(["-c", "trap '' TERM; exec sleep 60"]).spawn().unwrap();
        // The trap is set by then.
        std::thread::sleep(Duration::from_millis(500));
        let_go(&mut deaf).unwrap();
        let status = deaf.try_wait().unwrap().expect("it has ended");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    }
}
