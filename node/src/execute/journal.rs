//! What an executor must remember of its attempts when its process dies: starts, statuses, reports (PROTOCOL 5.5).
//!
//! One folder per attempt below `attempts/`: `start`, then `status` (written by the supervisor), then `report` (the
//! outbox). Nothing is fsynced: it must survive the death of a process, not of the machine, where the tasks are dead too.
//! Logs lie beside, in `logs/`, since they live on until they are attached.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use matins_core::executor::Journaled;
use matins_core::id::{Fence, JournalId, SessionNumber};
use matins_proto::v1;
use prost::Message;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::files::replace;
use super::spares::Spares;
use super::supervisor::{STATUS, StatusFile};
use crate::system;

const START: &str = "start";
const REPORT: &str = "report";

/// Under which executor and which boot of the machine something was journaled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) boot: String,
    pub(crate) journal: JournalId,
}

#[derive(Serialize, Deserialize)]
struct StartFile {
    identity: Identity,
    job: Vec<u8>,
}

/// The journal of one executor.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    identity: Identity,
    spares: Spares,
}

impl Journal {
    /// Opens the journal in `dir`, or begins one under a new id.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        for folder in ["attempts", "logs", "supervisors", "trash"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        // Jobs, outputs and logs are nobody else's business on this machine.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let known = fs::read_to_string(dir.join("journal")).ok().and_then(|text| text.trim().parse().ok());
        let identity = Identity { boot, journal: known.unwrap_or_default() };
        let mut journal = Self { dir: dir.to_owned(), identity, spares: Spares::open(dir.join("spare"))? };
        if known.is_none() {
            journal.renew()?;
        }
        // What was being deleted when the process died.
        for entry in fs::read_dir(dir.join("trash"))? {
            remove(&entry?.path());
        }
        Ok(journal)
    }

    /// Draws a new id: what was journaled before is no longer ours to judge (PROTOCOL 5.1).
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        self.identity.journal = JournalId(system::random().random());
        self.replace("journal", self.identity.journal.to_string().as_bytes())
    }

    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is held, as the files say. `alone`: no supervisor is alive, so that starts of other identities are of no
    /// use to anybody and are deleted.
    pub(crate) fn load(&self, alone: bool) -> io::Result<Vec<(Fence, Journaled)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.join("attempts"))? {
            let name = entry?.file_name();
            let Some(fence) = name.to_str().and_then(|name| name.parse().ok()).map(Fence) else { continue };
            let is_ours = || self.start(fence).is_some_and(|start| start.identity == self.identity);
            if self.report(fence).is_some() {
                found.push((fence, Journaled::Reported));
            } else if self.status(fence).is_some() {
                found.push((fence, Journaled::Ended));
            } else if is_ours() {
                found.push((fence, Journaled::Started));
            } else if alone {
                self.forget(fence);
            }
        }
        Ok(found)
    }

    /// The folder of an attempt.
    pub(crate) fn attempt(&self, fence: Fence) -> PathBuf {
        self.dir.join("attempts").join(fence.0.to_string())
    }

    /// The log file of an attempt.
    pub(crate) fn log(&self, fence: Fence) -> PathBuf {
        log_path(&self.dir, fence)
    }

    /// Journals a start; the text that came first stays (PROTOCOL 4.3).
    pub(crate) fn write_start(&self, fence: Fence, job: &v1::Job) -> io::Result<()> {
        let attempt = self.attempt(fence);
        if !self.spares.take(&attempt) {
            fs::create_dir_all(&attempt)?;
        }
        let start = StartFile { identity: self.identity.clone(), job: job.encode_to_vec() };
        let bytes = postcard::to_allocvec(&start).map_err(io::Error::other)?;
        self.replace_in(fence, START, &bytes)
    }

    pub(crate) fn job(&self, fence: Fence) -> Option<v1::Job> {
        v1::Job::decode(self.start(fence)?.job.as_slice()).ok()
    }

    pub(crate) fn status(&self, fence: Fence) -> Option<StatusFile> {
        serde_json::from_slice(&fs::read(self.attempt(fence).join(STATUS)).ok()?).ok()
    }

    /// Writes the status of an attempt that no supervisor was asked to run.
    pub(crate) fn write_status(&self, fence: Fence, status: &StatusFile) -> io::Result<()> {
        self.replace_in(fence, STATUS, &serde_json::to_vec(status)?)
    }

    /// Puts a report into the outbox.
    pub(crate) fn write_report(&self, report: &v1::AttemptReport) -> io::Result<()> {
        let body = report.encode_to_vec();
        // After a power cut the file may hold anything: the sum tells.
        let bytes = [&crc32fast::hash(&body).to_le_bytes()[..], &body].concat();
        let fence = Fence(report.fence);
        fs::create_dir_all(self.attempt(fence))?;
        self.replace_in(fence, REPORT, &bytes)
    }

    pub(crate) fn report(&self, fence: Fence) -> Option<v1::AttemptReport> {
        let bytes = fs::read(self.attempt(fence).join(REPORT)).ok()?;
        let (sum, body) = bytes.split_first_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        v1::AttemptReport::decode(body).ok().filter(|report| report.fence == fence.0)
    }

    /// Deletes all of an attempt but its log. It may take a while, if the task left many files.
    pub(crate) fn forget(&self, fence: Fence) {
        let trash = self.dir.join("trash").join(fence.0.to_string());
        // Renamed first: a start that outlives half of its folder would count as journaled.
        if fs::rename(self.attempt(fence), &trash).is_ok() && !self.spares.give(&trash) {
            remove(&trash);
        }
    }

    /// The last session number that was used; 0 if none is known.
    pub(crate) fn last_session(&self) -> SessionNumber {
        let text = fs::read_to_string(self.dir.join("session")).unwrap_or_default();
        text.parse().unwrap_or_default()
    }

    pub(crate) fn write_session(&self, number: SessionNumber) -> io::Result<()> {
        self.replace("session", number.to_string().as_bytes())
    }

    fn start(&self, fence: Fence) -> Option<StartFile> {
        postcard::from_bytes(&fs::read(self.attempt(fence).join(START)).ok()?).ok()
    }

    fn replace_in(&self, fence: Fence, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.attempt(fence).join(name), bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.dir.join(name), bytes)
    }
}

/// Where the log of an attempt lies below an executor's folder.
pub(crate) fn log_path(dir: &Path, fence: Fence) -> PathBuf {
    dir.join("logs").join(format!("{}.log", fence.0))
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "cannot delete what an attempt left behind");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_remembers_what_a_dead_process_knew() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let job = v1::Job { label: "run-1/a".into(), ..Default::default() };
        for fence in [Fence(1), Fence(2), Fence(3)] {
            journal.write_start(fence, &job).unwrap();
        }
        fs::write(
            journal.attempt(Fence(2)).join(STATUS),
            r#"{"exit":{"Code":3},"started_at":1,"ended_at":2,"log_bytes":0}"#,
        )
        .unwrap();
        journal.write_report(&v1::AttemptReport { fence: 3, ..Default::default() }).unwrap();
        journal.write_session(SessionNumber(7)).unwrap();

        let again = Journal::open(dir.path()).unwrap();
        assert_eq!(again.identity(), journal.identity());
        assert_eq!(again.last_session(), SessionNumber(7));
        let mut held = again.load(true).unwrap();
        held.sort_unstable_by_key(|(fence, _)| *fence);
        let expected =
            [(Fence(1), Journaled::Started), (Fence(2), Journaled::Ended), (Fence(3), Journaled::Reported)];
        assert_eq!(held, expected);
        assert_eq!(again.job(Fence(1)), Some(job));
        again.forget(Fence(1));
        assert!(!again.attempt(Fence(1)).exists());
    }

    #[test]
    fn under_a_new_id_a_start_is_not_ours_to_judge() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.write_start(Fence(1), &v1::Job::default()).unwrap();
        journal.renew().unwrap();
        assert_eq!(journal.load(false).unwrap(), []);
        assert!(journal.attempt(Fence(1)).exists(), "a supervisor that cannot be reached may be using it");
        assert_eq!(journal.load(true).unwrap(), []);
        assert!(!journal.attempt(Fence(1)).exists());
    }

    #[test]
    fn a_torn_report_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        journal
            .write_report(&v1::AttemptReport { fence: 3, log_bytes: 70_000, ..Default::default() })
            .unwrap();
        let path = journal.attempt(Fence(3)).join(REPORT);
        let whole = fs::read(&path).unwrap();
        assert!(journal.report(Fence(3)).is_some());
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(journal.report(Fence(3)), None, "{cut}");
        }
    }

    proptest! {
        // Each case makes a directory: an eighth of what is asked for takes a second.
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

        /// After a power cut these files may hold anything (PROTOCOL 5.5).
        #[test]
        fn files_of_any_bytes_are_passed_over(
            bytes in prop::collection::vec(any::<u8>(), 0..80), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let journal = Journal::open(dir.path()).unwrap();
            let fence = Fence(7);
            fs::create_dir_all(journal.attempt(fence)).unwrap();
            for name in [START, REPORT, STATUS] {
                fs::write(journal.attempt(fence).join(name), &bytes).unwrap();
            }
            prop_assert_eq!(journal.report(fence), None);
            drop((journal.job(fence), journal.status(fence), journal.load(false).unwrap()));

            let report = v1::AttemptReport { fence: 7, log_bytes: 300, ..v1::AttemptReport::default() };
            journal.write_report(&report).unwrap();
            prop_assert_eq!(journal.report(fence), Some(report));
            let path = journal.attempt(fence).join(REPORT);
            let mut damaged = fs::read(&path).unwrap();
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            prop_assert_eq!(journal.report(fence), None);
            for name in ["journal", "session"] {
                fs::write(dir.path().join(name), &bytes).unwrap();
            }
            Journal::open(dir.path()).unwrap().last_session();
        }
    }
}
