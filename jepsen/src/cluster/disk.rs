//! A disk of its own for each node: an image of a file system, mounted where the node keeps its data. It can be full, and it
//! can lose what was never synced, as at a power cut.
//!
//! The image lies in memory. What the kernel has not yet written to it is in its cache only, so a copy of the image is what
//! a disk holds after the power was cut. Start at [`Disk::make`].

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::shell::call;
use super::workload::Trouble;

/// Size of an image; it is sparse.
const IMAGE_BYTES: u64 = 1 << 30;
/// Begins the names of images, so that those of a killed run are known.
const PREFIX: &str = "matins-jepsen-";
/// Room that a filler leaves: what does not fit here fits nowhere.
const FILL_STEPS: [u64; 4] = [64 << 20, 1 << 20, 64 << 10, 4 << 10];
/// How long it is tried to unmount, while the last processes on it end.
const UNMOUNT_MAX: Duration = Duration::from_secs(10);
/// How often a copy is made anew because the kernel wrote to the image meanwhile.
const COPIES_MAX: usize = 50;

/// A mounted image. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    /// How often it was marked.
    marked: AtomicU32,
}

impl Disk {
    /// Makes an image with a file system and mounts it. An error: this machine does not allow it.
    pub(crate) fn make(name: &str, mount: &Path) -> Result<Self, Trouble> {
        let image = shelf().join(format!("{PREFIX}{name}.img"));
        let disk = Self { image, mount: mount.into(), marked: AtomicU32::new(0) };
        let made = File::create(&disk.image).and_then(|file| file.set_len(IMAGE_BYTES));
        made.map_err(|error| Trouble(format!("cannot make {}: {error}", disk.image.display())))?;
        // No room is set aside for root, which all of this runs as: a full disk is full for everybody.
        call("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&disk.image)])?;
        fs::create_dir_all(mount).map_err(|error| Trouble(format!("{}: {error}", mount.display())))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn folder(&self) -> &Path {
        &self.mount
    }

    /// Takes all its room. The error says what room was left.
    pub(crate) fn fill(&self) -> Result<(), Trouble> {
        let wrong = |error: std::io::Error| Trouble(format!("cannot fill {}: {error}", self.mount.display()));
        let file = OpenOptions::new().create(true).append(true).open(self.filler()).map_err(wrong)?;
        let mut taken = file.metadata().map_err(wrong)?.len();
        for step in FILL_STEPS {
            while fallocate(&file, FallocateFlags::empty(), taken, step).is_ok() {
                taken += step;
            }
        }
        Ok(())
    }

    /// Whether a small write fails for lack of room, as it would for the node.
    pub(crate) fn is_full(&self) -> bool {
        let path = self.mount.join("probe");
        let written = File::create(&path)
            .and_then(|mut file| file.write_all(&[1; 8_192]).and_then(|()| file.sync_data()));
        let _ = fs::remove_file(&path);
        written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
    }

    /// Gives the room back.
    pub(crate) fn clear(&self) {
        // Not there: it was never filled.
        let _ = fs::remove_file(self.filler());
    }

    /// Writes something that is synced, and something that is not.
    pub(crate) fn leave_marks(&self) -> Result<(), Trouble> {
        let wrong = |error: std::io::Error| Trouble(format!("cannot mark {}: {error}", self.mount.display()));
        // New names each time: ext4 makes haste with a file that is truncated and written anew.
        self.marked.fetch_add(1, Ordering::Relaxed);
        let (synced, loose) = self.marks();
        let mut file = File::create(synced).map_err(wrong)?;
        file.write_all(&[1; 4_096]).and_then(|()| file.sync_all()).map_err(wrong)?;
        // Its name may become durable along with others'; its bytes do not.
        File::create(loose).and_then(|mut file| file.write_all(&[1; 4_096])).map_err(wrong)
    }

    /// Whether what was synced is still there, and what was not is not.
    pub(crate) fn has_lost(&self) -> bool {
        let (synced, loose) = self.marks();
        let holds = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes == [1; 4_096]);
        holds(&synced) && !holds(&loose)
    }

    /// Becomes what it would be had the power been cut now. No process may use it any more.
    pub(crate) fn cut_power(&self) -> Result<(), Trouble> {
        let copy = self.image.with_extension("copy");
        for _ in 0..COPIES_MAX {
            let before = self.writes()?;
            call("cp", &["--sparse=always", &text(&self.image), &text(&copy)])?;
            if self.writes()? == before {
                self.unmount()?;
                fs::rename(&copy, &self.image)
                    .map_err(|error| Trouble(format!("cannot put {} in place: {error}", copy.display())))?;
                return self.mount();
            }
        }
        Err(Trouble(format!("{} is never at rest", self.image.display())))
    }

    fn mount(&self) -> Result<(), Trouble> {
        call("mount", &["-o", "loop,noatime", &text(&self.image), &text(&self.mount)]).map(drop)
    }

    /// The processes on it were killed, but the last may still be on its way out.
    fn unmount(&self) -> Result<(), Trouble> {
        let deadline = Instant::now() + UNMOUNT_MAX;
        loop {
            match call("umount", &[&text(&self.mount)]) {
                Ok(_) => return Ok(()),
                Err(trouble) if Instant::now() > deadline => return Err(trouble),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        }
    }

    /// What the kernel has written to the image so far, and what is under way.
    fn writes(&self) -> Result<(String, String), Trouble> {
        let device = call("findmnt", &["-n", "-o", "SOURCE", &text(&self.mount)])?;
        let name = device.trim().trim_start_matches("/dev/").to_owned();
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))
            .map_err(|error| Trouble(format!("cannot read the counters of {name}: {error}")))?;
        let fields: Vec<&str> = stat.split_whitespace().collect();
        let field = |at: usize| fields.get(at).map_or_else(String::new, |field| (*field).to_owned());
        // Writes that have ended, and requests in flight (Documentation/block/stat.rst).
        Ok((field(4), field(8)))
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    fn marks(&self) -> (PathBuf, PathBuf) {
        let number = self.marked.load(Ordering::Relaxed);
        (self.mount.join(format!("synced-{number}")), self.mount.join(format!("loose-{number}")))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            // Somebody still has it: it goes when they do.
            let _ = call("umount", &["-l", &text(&self.mount)]);
        }
        let _ = fs::remove_file(&self.image);
        let _ = fs::remove_file(self.image.with_extension("copy"));
    }
}

/// Unmounts what a killed run left below its folder.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(mount).starts_with(folder) {
            let _ = call("umount", &["-l", mount]);
        }
    }
}

/// Removes images of runs whose process is gone.
pub(crate) fn remove_stale() {
    for entry in fs::read_dir(shelf()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) && entry.path().is_file() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Memory, where there is some: a sync of the image itself must not cost anything.
fn shelf() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
