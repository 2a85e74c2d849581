//! Power cuts under a real file system: ext4 in an image file, mounted through a loop device.
//!
//! A writer (this program again) does the workload of `store` on the real disk, and tells over a pipe what it asks for and
//! what was acknowledged. It is stopped at some instant, the image is copied as it lies in the host's file, and the copy is
//! mounted elsewhere, which replays its journal, opened and compared.
//!
//! What this shows: that everything acknowledged had left the page cache of ext4, with its journal, when the power went. The
//! loop device uses direct I/O, so what ext4 still held back is not in the image. What it does not show: a drive that
//! acknowledges writes and keeps them in a cache of its own; here each write that the device took counts as durable.
//! A copy during which the device was written to is not used. Start reading at [`cut`].

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use matins_node::store::files::{Disk, Files};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};

use super::contents::open;
use super::store::{self, Note, Work};
use super::tape::TapeDisk;
use crate::child::plant_arguments;

/// The size of the file system.
const IMAGE_BYTES: u64 = 32 << 20;
/// A writer is left alone for so long at most before it is stopped.
const ALONE_MS: u64 = 30;
/// A stopped process has stopped by then.
const DEADLINE: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Default)]
pub(super) struct Cuts {
    pub(super) done: u64,
    pub(super) checked: u64,
    /// Copies that the file system wrote into meanwhile.
    pub(super) thrown_away: u64,
}

/// Why there were no more.
pub(super) enum Ended {
    /// This machine does not allow it.
    Skipped(String),
    /// A promise was broken, under the writer of this seed.
    Broken(u64, String),
}

/// Cuts the power `wanted` times, under one writer after the other.
pub(super) fn cut(wanted: u64, first_seed: u64, cuts: &mut Cuts) -> Result<(), Ended> {
    let folder = tempfile::tempdir().map_err(|error| Ended::Skipped(error.to_string()))?;
    let mut random = StdRng::seed_from_u64(first_seed);
    for seed in first_seed.. {
        let writer = Writer::start(folder.path(), seed).map_err(Ended::Skipped)?;
        writer.cut_until(wanted, &mut random, cuts).map_err(|error| Ended::Broken(seed, error))?;
        if cuts.done >= wanted {
            break;
        }
    }
    Ok(())
}

/// The writer itself: does the workload in a directory and writes a byte for each thing asked for or acknowledged.
pub(super) fn write(root: &Path, seed: u64) -> Result<(), String> {
    store::run_on(Arc::new(Disk), root, seed).map(drop)
}

/// A file system in an image, mounted; gone when it is dropped.
struct Mounted {
    device: String,
    at: PathBuf,
}

impl Mounted {
    fn of(image: &Path, at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let image = image.to_str().ok_or("the path of the image is text")?;
        let device = run("losetup", &["--direct-io=on", "--find", "--show", image])?;
        let mounted = Self { device, at };
        run("mount", &["-t", "ext4", &mounted.device, &mounted.at.to_string_lossy()])?;
        Ok(mounted)
    }

    /// How often the device was written to.
    fn writes(&self) -> Result<String, String> {
        let name = self.device.trim_start_matches("/dev/");
        let stat =
            fs::read_to_string(format!("/sys/block/{name}/stat")).map_err(|error| error.to_string())?;
        stat.split_whitespace().nth(4).map(str::to_owned).ok_or_else(|| "the device does not count".into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What fails here was not mounted, or not attached, in the first place.
        let _ = run("umount", &[&self.at.to_string_lossy()]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{program} says: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

struct Writer {
    child: Child,
    told: ChildStdout,
    image: PathBuf,
    folder: PathBuf,
    /// What it tells, one after the other: the same as on a disk in memory.
    notes: Vec<Note>,
    heard: usize,
    mounted: Mounted,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Writer {
    fn start(folder: &Path, seed: u64) -> Result<Self, String> {
        let told = |error: std::io::Error| error.to_string();
        let image = folder.join("image");
        fs::File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(told)?;
        run("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
        let mounted = Mounted::of(&image, folder.join("mount"))?;
        let notes = store::run(&TapeDisk::default(), seed).map(|Work { notes, .. }| notes)?;
        let this = std::env::current_exe().map_err(told)?;
        let mut child = Command::new(this)
            .args(["crash", "--seed", &seed.to_string(), "--write-in"])
            .arg(mounted.at.join("data"))
            // A deliberate bug is in the writer too.
            .args(plant_arguments())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(told)?;
        let pipe = child.stdout.take().ok_or("it was asked for")?;
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).map_err(|error| error.to_string())?;
        Ok(Self { child, told: pipe, image, folder: folder.into(), notes, heard: 0, mounted })
    }

    /// Cuts until there are enough, or the writer has come to its end.
    fn cut_until(mut self, wanted: u64, random: &mut StdRng, cuts: &mut Cuts) -> Result<(), String> {
        while cuts.done < wanted {
            std::thread::sleep(Duration::from_millis(random.random_range(1..ALONE_MS)));
            let has_ended = self.child.try_wait().map_err(|error| error.to_string())?.is_some();
            if !has_ended {
                self.stop()?;
            }
            self.hear()?;
            if self.copy()? {
                cuts.done += 1;
                cuts.checked += self.look()?;
            } else {
                cuts.thrown_away += 1;
            }
            if has_ended {
                return Ok(());
            }
            self.signal(Signal::CONT)?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).map_err(|error| error.to_string())
    }

    fn stop(&self) -> Result<(), String> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + DEADLINE;
        let stat = format!("/proc/{}/stat", self.child.id());
        // The state stands behind the name, which is in brackets. A process in a call to the disk stops after it.
        let state = |text: String| text.rsplit(") ").next().and_then(|rest| rest.chars().next());
        while !matches!(fs::read_to_string(&stat).ok().and_then(state), Some('T' | 'Z')) {
            if Instant::now() > deadline {
                return Err("the writer does not stop".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Counts what the writer has told.
    fn hear(&mut self) -> Result<(), String> {
        let mut bytes = [0; 4096];
        loop {
            match self.told.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(read) => self.heard += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Whether nothing was written meanwhile: the copy is then what a power cut leaves.
    fn copy(&self) -> Result<bool, String> {
        let before = self.mounted.writes()?;
        fs::copy(&self.image, self.folder.join("copy")).map_err(|error| error.to_string())?;
        Ok(self.mounted.writes()? == before)
    }

    fn look(&self) -> Result<u64, String> {
        let copy = Mounted::of(&self.folder.join("copy"), self.folder.join("after"))?;
        let root = copy.at.join("data");
        // What a writer says besides, it says at its end.
        let heard = self.heard.min(self.notes.len());
        let Some(note) = heard.checked_sub(1).map(|newest| &self.notes[newest]) else {
            return Ok(0);
        };
        let files: Arc<dyn Files> = Arc::new(Disk);
        let found = open(&files, &root)?;
        note.known.check(&found)
    }
}
