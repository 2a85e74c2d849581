//! What the tests of the executor share.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matins_core::id::{Digest, Fence, NodeId};
use matins_node::execute::log::{LogReader, Stream};
use matins_node::execute::{Blobs, Executor, ExecutorConfig, ExecutorHandle, LeaderAddress, TaskEnvironment};
use matins_proto::v1;
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

use crate::leader::{Leader, Opened, within};

pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_matins-execute-helper");

/// Blobs in memory; fetched ones come from a folder.
pub(crate) struct Memory {
    pub(crate) dir: PathBuf,
    pub(crate) stored: Mutex<BTreeMap<Digest, Vec<u8>>>,
}

#[tonic::async_trait]
impl Blobs for Memory {
    async fn fetch(&self, digest: Digest) -> io::Result<PathBuf> {
        Ok(self.dir.join(digest.to_string()))
    }

    async fn store(&self, bytes: Vec<u8>) -> io::Result<Digest> {
        let digest = Digest::of(&bytes);
        self.stored.lock().expect("no test panics with it").insert(digest, bytes);
        Ok(digest)
    }
}

/// An executor in this process, with an open session.
pub(crate) struct Setup {
    pub(crate) dir: TempDir,
    pub(crate) leader: Leader,
    pub(crate) session: Opened,
    pub(crate) executor: ExecutorHandle,
    pub(crate) blobs: Arc<Memory>,
    _leads: tokio::sync::watch::Sender<Option<LeaderAddress>>,
}

impl Setup {
    pub(crate) async fn begin() -> Self {
        Self::begin_in(None).await
    }

    /// With a cgroup for each task, below this one.
    pub(crate) async fn begin_in(cgroup: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut leader = Leader::begin().await;
        let config = ExecutorConfig {
            dir: dir.path().join("executor"),
            node: NodeId(1),
            name: "test".to_owned(),
            slots: 4,
            labels: BTreeMap::new(),
            address: String::new(),
            level: 1,
            environment: TaskEnvironment::default(),
            program: Some(HELPER.into()),
            cgroup,
        };
        fs::create_dir(&config.dir).expect("it can be made");
        let blobs = Arc::new(Memory { dir: dir.path().to_owned(), stored: Mutex::default() });
        let address = LeaderAddress { address: leader.address.clone(), cluster: 0 };
        let (leads, known) = tokio::sync::watch::channel(Some(address));
        let executor = Executor::spawn(config, known, blobs.clone()).expect("the folder can be used");
        let session = leader.opened().await;
        Self { dir, leader, session, executor, blobs, _leads: leads }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a job to its report.
    pub(crate) async fn report(&mut self, fence: u64, job: v1::Job) -> v1::AttemptReport {
        self.session.start(fence, job).await;
        self.leader.hears_report(fence).await
    }

    pub(crate) fn log(&self, fence: u64, stream: Stream) -> String {
        log_text(&self.executor.logs().path(Fence(fence)), stream)
    }
}

pub(crate) fn log_text(path: &Path, stream: Stream) -> String {
    let mut reader = LogReader::open(path).expect("there is a log");
    let mut text = Vec::new();
    while let Some(frame) = reader.next_frame().expect("it is whole") {
        if frame.stream == stream {
            text.extend(frame.bytes);
        }
    }
    String::from_utf8(text).expect("the tasks of these tests print text")
}

pub(crate) fn job(command: v1::job::Command) -> v1::Job {
    v1::Job {
        command: Some(command),
        kill_grace_ms: 10_000,
        output_bytes_max: 16 << 20,
        log_bytes_max: 256 << 20,
        ..Default::default()
    }
}

pub(crate) fn shell(text: &str) -> v1::Job {
    let shell = v1::ShellText { text: text.to_owned(), shell: v1::ShellKind::Sh.into() };
    job(v1::job::Command::Shell(shell))
}

pub(crate) fn argv(words: &[&str]) -> v1::Job {
    let arguments = words.iter().map(|word| (*word).to_owned()).collect();
    job(v1::job::Command::Argv(v1::Argv { arguments }))
}

/// Waits until `what` gives something: for files and processes, which tell nobody.
pub(crate) async fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    within(async {
        loop {
            match what() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

pub(crate) async fn pid_in(path: &Path) -> Pid {
    until(|| Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)).await
}

/// A zombie is gone: it does nothing any more.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_ok()
        && !stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'))
}

pub(crate) async fn until_gone(pid: Pid) {
    until(|| (!is_alive(pid)).then_some(())).await;
}
