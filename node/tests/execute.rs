//! Executor, supervisor and real processes, against a leader of the test (PROTOCOL 5, issue "bad days").

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use matins_core::id::{Digest, Fence, NodeId};
use matins_node::execute::log::{LogReader, Stream};
use matins_node::execute::{Blobs, Executor, ExecutorConfig, ExecutorHandle, LeaderAddress, TaskEnvironment};
use matins_proto::v1;
use matins_proto::v1::attempt_report::{Outcome, Outputs};
use matins_proto::v1::executor_message::Message as Says;
use matins_proto::v1::leader_message::Message as Hears;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

#[path = "execute/leader.rs"]
mod leader;

use leader::{Leader, Opened, PARAMS, SOON, within};

const HELPER: &str = env!("CARGO_BIN_EXE_matins-execute-helper");

/// Blobs in memory; fetched ones come from a folder.
struct Memory {
    dir: PathBuf,
    stored: Mutex<BTreeMap<Digest, Vec<u8>>>,
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
struct Setup {
    dir: TempDir,
    leader: Leader,
    session: Opened,
    executor: ExecutorHandle,
    blobs: Arc<Memory>,
    _leads: tokio::sync::watch::Sender<Option<LeaderAddress>>,
}

impl Setup {
    async fn begin() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut leader = Leader::begin().await;
        let config = ExecutorConfig {
            dir: dir.path().join("executor"),
            node: NodeId(1),
            name: "test".to_owned(),
            slots: 4,
            labels: BTreeMap::new(),
            level: 1,
            environment: TaskEnvironment::default(),
            program: Some(HELPER.into()),
            cgroup: None,
        };
        fs::create_dir(&config.dir).expect("it can be made");
        let blobs = Arc::new(Memory { dir: dir.path().to_owned(), stored: Mutex::default() });
        let (leads, known) = tokio::sync::watch::channel(Some(LeaderAddress(leader.address.clone())));
        let executor = Executor::spawn(config, known, blobs.clone()).expect("the folder can be used");
        let session = leader.opened().await;
        Self { dir, leader, session, executor, blobs, _leads: leads }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a job to its report.
    async fn report(&mut self, fence: u64, job: v1::Job) -> v1::AttemptReport {
        self.session.start(fence, job).await;
        self.leader.hears_report(fence).await
    }

    fn log(&self, fence: u64, stream: Stream) -> String {
        log_text(&self.executor.logs().path(Fence(fence)), stream)
    }
}

fn log_text(path: &Path, stream: Stream) -> String {
    let mut reader = LogReader::open(path).expect("there is a log");
    let mut text = Vec::new();
    while let Some(frame) = reader.next_frame().expect("it is whole") {
        if frame.stream == stream {
            text.extend(frame.bytes);
        }
    }
    String::from_utf8(text).expect("the tasks of these tests print text")
}

fn job(command: v1::job::Command) -> v1::Job {
    v1::Job {
        command: Some(command),
        kill_grace_ms: 10_000,
        output_bytes_max: 16 << 20,
        log_bytes_max: 256 << 20,
        ..Default::default()
    }
}

fn shell(text: &str) -> v1::Job {
    let shell = v1::ShellText { text: text.to_owned(), shell: v1::ShellKind::Sh.into() };
    job(v1::job::Command::Shell(shell))
}

fn argv(words: &[&str]) -> v1::Job {
    let arguments = words.iter().map(|word| (*word).to_owned()).collect();
    job(v1::job::Command::Argv(v1::Argv { arguments }))
}

/// Waits until `what` gives something: for files and processes, which tell nobody.
async fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
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

async fn pid_in(path: &Path) -> Pid {
    until(|| Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)).await
}

/// A zombie is gone: it does nothing any more.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_ok()
        && !stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'))
}

async fn until_gone(pid: Pid) {
    until(|| (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_task_runs_from_start_to_report() {
    let mut setup = Setup::begin().await;
    let digest = Digest::of(b"print('hello from a file')");
    fs::write(setup.path(&digest.to_string()), "print('hello from a file')").unwrap();
    let mut job = shell(
        "python3 scripts/a.py; echo oops >&2; cat $MATINS_INPUT; pwd; env | grep -c ^SECRET || true\n\
         echo '{\"rows\": 3, \"day\": \"'$DAY'\"}' > $MATINS_OUTPUT",
    );
    job.with_json = "{\"a\":1}".to_owned();
    job.env = vec![v1::EnvironmentPair { name: "DAY".into(), value: "2013-01-02".into() }];
    let file =
        v1::JobFile { path: "scripts/a.py".into(), digest: digest.0.to_vec(), size: 26, executable: false };
    job.files = vec![file];

    let report = setup.report(9, job).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(0)), "{report:?}");
    assert_eq!(report.outputs, Some(Outputs::OutputsJson(r#"{"rows":3,"day":"2013-01-02"}"#.to_owned())));
    assert_eq!(report.output_fault, "");
    assert!(report.started_at > 0 && report.ended_at >= report.started_at);
    let work = setup.path("executor/attempts/9/work");
    let expected = format!("hello from a file\n{{\"a\":1}}{}\n0\n", work.display());
    assert_eq!(setup.log(9, Stream::Stdout), expected);
    assert_eq!(setup.log(9, Stream::Stderr), "oops\n");
    assert_eq!(report.log_bytes, fs::metadata(setup.executor.logs().path(Fence(9))).unwrap().len());

    // Acknowledged, all but the log goes.
    setup.session.send(Hears::ReportAck(v1::ReportAck { fence: 9 })).await;
    until(|| (!setup.path("executor/attempts/9").exists()).then_some(())).await;
    let mut held = setup.executor.held();
    within(held.wait_for(|held| *held == 0)).await.unwrap();
    assert!(setup.executor.logs().path(Fence(9)).exists());
    setup.executor.logs().delete(Fence(9)).unwrap();
    setup.executor.shutdown().await;
}

#[tokio::test]
async fn each_way_to_end_is_told_apart() {
    let mut setup = Setup::begin().await;
    let report = setup.report(1, shell("exit 7")).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(7)));
    let report = setup.report(2, shell("kill -SEGV $$")).await;
    assert_eq!(report.outcome, Some(Outcome::Signal(11)));
    let report = setup.report(3, argv(&["no-such-program"])).await;
    let Some(Outcome::CouldNotStart(why)) = report.outcome else { panic!("{report:?}") };
    assert!(why.starts_with("cannot find `no-such-program` in PATH"), "{why}");
    let script = v1::Script { text: "#!/no/such/interpreter -x\n".into(), interpreter: Vec::new() };
    let report = setup.report(4, job(v1::job::Command::Script(script))).await;
    let Some(Outcome::CouldNotStart(why)) = report.outcome else { panic!("{report:?}") };
    assert!(why.ends_with("its interpreter `/no/such/interpreter` does not exist"), "{why}");
    let report = setup.report(5, argv(&["sh", "-c", "true", &"x".repeat(131_072)])).await;
    let Some(Outcome::CouldNotStart(why)) = report.outcome else { panic!("{report:?}") };
    assert!(why.starts_with("argument 3 has 131072 bytes"), "{why}");
    // Only a success has outputs, and a bad output file makes none of it.
    let report = setup.report(6, shell("echo a=1 > $MATINS_OUTPUT; exit 1")).await;
    assert_eq!((report.outcome, report.outputs), (Some(Outcome::ExitCode(1)), None));
    let report = setup.report(7, shell("echo nonsense > $MATINS_OUTPUT")).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(0)));
    assert!(report.output_fault.contains("is not `key=value`"), "{}", report.output_fault);
}

#[tokio::test]
async fn output_files_have_a_limit_and_large_ones_become_blobs() {
    let mut setup = Setup::begin().await;
    let report = setup.report(1, shell("head -c 100000000 /dev/zero > $MATINS_OUTPUT")).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(0)));
    let fault = &report.output_fault;
    assert!(fault.contains("100000000 bytes, output limit is 16777216"), "{fault}");
    let text = "printf 'big=' > $MATINS_OUTPUT; head -c 70000 /dev/zero | tr '\\0' x >> $MATINS_OUTPUT";
    let report = setup.report(2, shell(text)).await;
    let Some(Outputs::OutputsBlob(blob)) = report.outputs else { panic!("{report:?}") };
    let digest = Digest(blob.digest.try_into().unwrap());
    let stored = setup.blobs.stored.lock().unwrap();
    assert_eq!(stored[&digest].len() as u64, blob.size);
    assert!(blob.size > 70_000);
}

#[tokio::test]
async fn what_a_task_prints_beyond_the_limit_is_dropped() {
    let mut setup = Setup::begin().await;
    let mut job = shell("head -c 67108864 /dev/zero | tr '\\0' x; echo done >&2");
    job.log_bytes_max = 1 << 20;
    let began = Instant::now();
    let report = setup.report(1, job).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(0)));
    assert!(report.log_bytes <= (1 << 20) + 200, "{}", report.log_bytes);
    assert!(setup.log(1, Stream::Note).contains("the rest was dropped"));
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_start_under_another_session_and_after_a_stop_is_refused() {
    let mut setup = Setup::begin().await;
    let refused = |said| match said {
        Says::StartRefused(refused) => Some(refused.reason),
        _ => None,
    };
    let session = setup.session.hello.session;
    let stale = v1::Start { fence: 1, session: session + 1, job: Some(shell("touch never")) };
    setup.session.send(Hears::Start(stale)).await;
    assert_eq!(setup.leader.hears(refused).await, "it came under another session");

    // PROTOCOL 5.7: the stop overtakes its start.
    setup.session.stop(2, false).await;
    let dead = |said| matches!(said, Says::StopDead(v1::StopDead { fence: 2 })).then_some(());
    setup.leader.hears(dead).await;
    setup.session.start(2, shell("touch never")).await;
    assert_eq!(setup.leader.hears(refused).await, "a stop for it was answered before");

    // The same start twice runs once.
    let runs = setup.path("runs");
    let once = shell(&format!("echo x >> {}", runs.display()));
    setup.session.start(3, once.clone()).await;
    setup.session.start(3, once).await;
    setup.leader.hears_report(3).await;
    assert_eq!(fs::read_to_string(runs).unwrap(), "x\n");
}

#[tokio::test]
async fn a_stop_ends_the_whole_group_also_if_it_ignores_term() {
    let mut setup = Setup::begin().await;
    let (gentle, stubborn) = (setup.path("gentle"), setup.path("stubborn"));
    setup.session.start(1, shell(&format!("echo $$ > {}; sleep 1000", gentle.display()))).await;
    let first = pid_in(&gentle).await;
    setup.session.stop(1, false).await;
    assert_eq!(setup.leader.hears_report(1).await.outcome, Some(Outcome::Signal(15)));
    assert!(!is_alive(first));

    let mut job =
        shell(&format!("trap '' TERM; echo $$ > {}; while true; do sleep 1000; done", stubborn.display()));
    job.kill_grace_ms = 200;
    setup.session.start(2, job).await;
    let first = pid_in(&stubborn).await;
    setup.session.stop(2, false).await;
    assert_eq!(setup.leader.hears_report(2).await.outcome, Some(Outcome::Signal(9)));
    assert!(!is_alive(first));
}

#[tokio::test]
async fn what_a_task_leaves_behind_is_gone_before_its_report() {
    let mut setup = Setup::begin().await;
    let (child, escaped) = (setup.path("child"), setup.path("escaped"));
    // One in its group, one in a session of its own and an orphan.
    let text = format!(
        "sleep 1000 & echo $! > {child}\n(({HELPER} escape {escaped} &) &)\nwhile ! test -e {escaped}; do sleep 0.01; done",
        child = child.display(),
        escaped = escaped.display()
    );
    let report = setup.report(1, shell(&text)).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(0)));
    assert!(!is_alive(pid_in(&child).await));
    assert!(!is_alive(pid_in(&escaped).await));
}

#[tokio::test]
async fn a_stop_finds_a_child_that_escaped() {
    let mut setup = Setup::begin().await;
    let escaped = setup.path("escaped");
    let text = format!("(({HELPER} escape {} &) &)\nsleep 1000", escaped.display());
    setup.session.start(1, shell(&text)).await;
    let pid = pid_in(&escaped).await;
    setup.session.stop(1, true).await;
    assert_eq!(setup.leader.hears_report(1).await.outcome, Some(Outcome::Signal(9)));
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_dead_supervisor_takes_its_tasks_along_and_they_are_reported_lost() {
    let mut setup = Setup::begin().await;
    let (first, escaped) = (setup.path("first"), setup.path("escaped"));
    let text = format!("echo $$ > {}; {HELPER} escape {} & sleep 1000", first.display(), escaped.display());
    setup.session.start(1, shell(&text)).await;
    let (first, escaped) = (pid_in(&first).await, pid_in(&escaped).await);
    let stat = fs::read_to_string(format!("/proc/{}/stat", first.as_raw_pid())).unwrap();
    let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();

    let report = setup.leader.hears_report(1).await;
    assert!(matches!(report.outcome, Some(Outcome::Lost(_))), "{report:?}");
    until_gone(first).await;
    until_gone(escaped).await;
    // Another supervisor has taken its place.
    let session = setup.leader.opened().await;
    session.start(2, shell("exit 3")).await;
    assert_eq!(setup.leader.hears_report(2).await.outcome, Some(Outcome::ExitCode(3)));
}

/// An executor in a process of its own.
struct Process(Child);

impl Process {
    fn begin(dir: &Path, leader: &Leader) -> Self {
        let mut command = Command::new(HELPER);
        command.arg("executor").arg(dir).arg(&leader.address).stdin(Stdio::null());
        Self(command.spawn().expect("the helper is built"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).unwrap(), signal).expect("it lives");
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.0.wait().expect("it is our child").signal(), Some(9));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead in some tests.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_node_killed_and_started_again_adopts_its_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let (pid, go) = (dir.path().join("pid"), dir.path().join("go"));
    let executor = dir.path().join("executor");
    fs::create_dir(&executor).unwrap();
    let mut leader = Leader::begin().await;
    let mut process = Process::begin(&executor, &leader);
    let session = leader.opened().await;
    let text = format!(
        "echo before; echo $$ >> {}\nwhile ! test -e {}; do sleep 0.01; done\necho after; exit 7",
        pid.display(),
        go.display()
    );
    session.start(1, shell(&text)).await;
    session.start(2, shell("exit 4")).await;
    let first = pid_in(&pid).await;
    assert_eq!(leader.hears_report(2).await.outcome, Some(Outcome::ExitCode(4)));
    process.kill();
    assert!(is_alive(first));

    let mut process = Process::begin(&executor, &leader);
    let again = leader.opened().await;
    assert!(again.hello.session > session.hello.session);
    assert_eq!(again.hello.journal, session.hello.journal);
    let held: Vec<(u64, v1::HeldState)> =
        again.hello.held.iter().map(|held| (held.fence, held.state())).collect();
    // A task exits, E reconnects before its report was acknowledged: it is held, and reported again.
    assert_eq!(held, [(1, v1::HeldState::Running), (2, v1::HeldState::Ended)]);
    assert_eq!(leader.hears_report(2).await.outcome, Some(Outcome::ExitCode(4)));
    // It ends while no executor is there, and its true exit code is still found.
    process.kill();
    fs::write(go, "").unwrap();
    until_gone(first).await;
    let _process = Process::begin(&executor, &leader);
    assert_eq!(leader.hears_report(1).await.outcome, Some(Outcome::ExitCode(7)));
    assert_eq!(log_text(&executor.join("logs/1.log"), Stream::Stdout), "before\nafter\n");
    assert_eq!(fs::read_to_string(pid).unwrap().lines().count(), 1, "it ran once");
}

/// A lease of the test's length and all that must follow it, with room for a busy machine.
fn lease_and_kill() -> Duration {
    Duration::from_millis(PARAMS.length.0 + PARAMS.kill_budget.0)
}

#[tokio::test]
async fn a_frozen_executor_loses_its_tasks_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let mut leader = Leader::begin().await;
    let process = Process::begin(dir.path(), &leader);
    let session = leader.opened().await;
    let mut patient = shell(&format!("echo $$ > {}.patient; sleep 1000", pid.display()));
    patient.on_disconnect_ms = 3_600_000;
    session
        .start(
            1,
            shell(&format!("trap '' TERM; echo $$ > {}; while true; do sleep 1000; done", pid.display())),
        )
        .await;
    session.start(2, patient).await;
    let first = pid_in(&pid).await;
    let patient = pid_in(&dir.path().join("pid.patient")).await;
    process.signal(Signal::STOP);
    let frozen = Instant::now();
    until_gone(first).await;
    assert!(frozen.elapsed() < lease_and_kill(), "{:?}", frozen.elapsed());
    assert!(is_alive(patient), "PROTOCOL 5.9: its session ends an hour later");

    // Woken, it opens another session and says how the task ended.
    process.signal(Signal::CONT);
    let again = leader.opened().await;
    assert!(again.hello.session > session.hello.session);
    assert_eq!(leader.hears_report(1).await.outcome, Some(Outcome::Signal(9)));
    again.stop(2, true).await;
    assert_eq!(leader.hears_report(2).await.outcome, Some(Outcome::Signal(9)));
}

#[tokio::test]
async fn a_dead_executor_loses_its_tasks_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let mut leader = Leader::begin().await;
    let mut process = Process::begin(dir.path(), &leader);
    leader.opened().await.start(1, shell(&format!("echo $$ > {}; sleep 1000", pid.display()))).await;
    let first = pid_in(&pid).await;
    process.kill();
    let killed = Instant::now();
    until_gone(first).await;
    assert!(killed.elapsed() < lease_and_kill(), "{:?}", killed.elapsed());
    // The supervisor leaves when all is dead, and with it its lock.
    let lock = dir.path().join("supervisors/1/lock");
    until(|| fs::File::open(&lock).ok()?.try_lock().ok()).await;
}

#[tokio::test]
async fn without_grants_nothing_is_started_and_the_session_is_opened_anew() {
    let mut setup = Setup::begin().await;
    setup.leader.grants.send_replace(false);
    let session = setup.session.hello.session;
    let again = setup.leader.opened().await;
    assert!(again.hello.session > session);
    // PROTOCOL 5.1: a session without a deadline spawns nothing.
    let ran = setup.path("ran");
    again.start(1, shell(&format!("touch {}", ran.display()))).await;
    let third = setup.leader.opened().await;
    assert!(third.hello.session > again.hello.session);
    let report = setup.leader.hears_report(1).await;
    let Some(Outcome::CouldNotStart(why)) = report.outcome else { panic!("{report:?}") };
    assert_eq!(why, "its session was over before it could start");
    assert!(!ran.exists());
}

#[tokio::test]
async fn what_is_not_bound_to_the_new_session_is_stopped() {
    let mut setup = Setup::begin().await;
    let pid = setup.path("pid");
    setup.session.start(1, shell(&format!("echo $$ > {}; sleep 1000", pid.display()))).await;
    let first = pid_in(&pid).await;
    setup.leader.unbound.lock().unwrap().push(1);
    setup.leader.grants.send_replace(false);
    setup.leader.opened().await;
    setup.leader.grants.send_replace(true);
    assert_eq!(setup.leader.hears_report(1).await.outcome, Some(Outcome::Signal(15)));
    assert!(!is_alive(first));
}

#[tokio::test]
async fn a_log_is_followed_while_it_grows() {
    use matins_proto::v1::attempt_logs_server::AttemptLogs;
    use tokio_stream::StreamExt;

    let mut setup = Setup::begin().await;
    let go = setup.path("go");
    let text =
        format!("echo one; echo two >&2; while ! test -e {}; do sleep 0.01; done; echo three", go.display());
    setup.session.start(1, shell(&text)).await;
    setup.leader.hears_started(1).await;
    let logs = setup.executor.logs();
    let request = v1::TailRequest { fence: 1, follow: true, ..Default::default() };
    let mut chunks = logs.tail(tonic::Request::new(request.clone())).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let chunk = within(chunks.next()).await.unwrap().unwrap();
        seen.push((chunk.stream(), String::from_utf8(chunk.text).unwrap()));
    }
    seen.sort_by_key(|(stream, _)| i32::from(*stream));
    let line = |stream, text: &str| (stream, text.to_owned());
    use v1::AttemptStream::{Stderr, Stdout};
    assert_eq!(seen, [line(Stdout, "one\n"), line(Stderr, "two\n")]);
    fs::write(go, "").unwrap();
    let chunk = within(chunks.next()).await.unwrap().unwrap();
    assert_eq!(chunk.text, b"three\n");
    assert!(within(chunks.next()).await.is_none(), "it ends with the attempt");

    let last = v1::TailRequest { lines: Some(1), follow: false, ..request };
    let mut chunks = logs.tail(tonic::Request::new(last)).await.unwrap().into_inner();
    assert_eq!(within(chunks.next()).await.unwrap().unwrap().text, b"three\n");
    assert!(within(chunks.next()).await.is_none());
    let unknown = v1::TailRequest { fence: 99, ..Default::default() };
    let missing = logs.tail(tonic::Request::new(unknown)).await.err().expect("there is no such log");
    assert_eq!(missing.code(), tonic::Code::NotFound);
}
