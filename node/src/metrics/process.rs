//! What every process of ours tells of itself: its release, its memory, its disk.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::registrar::Registrar;

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
}

/// The gauges.
#[derive(Clone, Default)]
pub(super) struct Process {
    build: Family<[(&'static str, &'static str); 1], Gauge>,
    memory: Gauge,
    open_files: Gauge,
    disk_free: Gauge,
    disk_size: Gauge,
}

impl Process {
    pub(super) fn name(&self, to: &mut Registrar) {
        let it = self.clone();
        to.add(("build_info", &["version"]), "Always 1; the version is the label", it.build);
        to.add(("process_resident_memory_bytes", &[]), "Memory of the process", it.memory);
        to.add(("process_open_fds", &[]), "Open files and connections of the process", it.open_files);
        to.add(
            ("disk_free_bytes", &[]),
            "Bytes that can still be written to the data directory",
            it.disk_free,
        );
        to.add(("disk_size_bytes", &[]), "Size of the disk with the data directory", it.disk_size);
    }

    /// Sets them to what is so now; `disk` is that of the data directory, if it can be asked.
    pub(super) fn set(&self, disk: Option<Disk>) {
        self.build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        if let Some(bytes) = resident_bytes() {
            self.memory.set(bytes);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.open_files.set(files.count() as i64);
        }
        if let Some(disk) = disk {
            self.disk_free.set(disk.free as i64);
            self.disk_size.set(disk.size as i64);
        }
    }
}

/// Memory of this process.
fn resident_bytes() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}
