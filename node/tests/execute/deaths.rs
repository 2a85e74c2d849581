//! What becomes of tasks when node, executor or supervisor die or freeze (PROTOCOL 5.1, 5.3 to 5.5).

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matins_node::execute::log::Stream;
use matins_proto::v1;
use matins_proto::v1::attempt_report::Outcome;
use matins_proto::v1::executor_message::Message as Says;
use matins_proto::v1::leader_message::Message as Hears;
use rustix::process::{Pid, Signal, kill_process};

use crate::leader::{Leader, PARAMS};
use crate::setup::{HELPER, Setup, is_alive, log_text, pid_in, shell, until, until_gone};

/// A task's supervisor.
fn parent_of(pid: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).expect("it lives");
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    parent.and_then(Pid::from_raw).expect("it has a parent")
}

#[tokio::test]
async fn a_dead_supervisor_takes_its_tasks_along_and_they_are_reported_lost() {
    let mut setup = Setup::begin().await;
    let (first, escaped) = (setup.path("first"), setup.path("escaped"));
    let text = format!("echo $$ > {}; {HELPER} escape {} & sleep 1000", first.display(), escaped.display());
    setup.session.start(1, shell(&text)).await;
    let (first, escaped) = (pid_in(&first).await, pid_in(&escaped).await);
    kill_process(parent_of(first), Signal::KILL).unwrap();

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
        kill_process(Pid::from_child(&self.0), signal).expect("it lives");
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
    let Some(Outcome::Lost(lost)) = leader.hears_report(1).await.outcome else { panic!("it was not lost") };
    assert_eq!(lost.cause(), v1::LostCause::LeaseEnded);
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

/// Gives a task that runs until `go` is there, and its pid.
async fn start_waiting(session: &crate::leader::Opened, fence: u64, dir: &Path) -> Pid {
    let (pid, go) = (dir.join(format!("pid.{fence}")), dir.join("go"));
    let text = format!(
        "echo $$ > {}.new; mv {0}.new {0}; while ! test -e {}; do sleep 0.01; done; exit 7",
        pid.display(),
        go.display()
    );
    session.start(fence, shell(&text)).await;
    pid_in(&pid).await
}

#[tokio::test]
async fn a_supervisor_that_cannot_be_reached_is_never_taken_for_dead() {
    let dir = tempfile::tempdir().unwrap();
    let executor = dir.path().join("executor");
    fs::create_dir(&executor).unwrap();
    let mut leader = Leader::begin().await;
    let mut process = Process::begin(&executor, &leader);
    let session = leader.opened().await;
    let first = start_waiting(&session, 1, dir.path()).await;
    process.kill();
    fs::remove_file(executor.join("supervisors/1/socket")).unwrap();

    // PROTOCOL 5.5: it runs on under an old session, so it is neither reported lost nor held by this journal.
    let mut process = Process::begin(&executor, &leader);
    let again = leader.opened().await;
    assert_ne!(again.hello.journal, session.hello.journal);
    assert!(again.hello.held.is_empty(), "{:?}", again.hello.held);
    again.start(2, shell("exit 3")).await;
    let reported =
        leader.hears(|said| if let Says::Report(report) = said { Some(report) } else { None }).await;
    assert_eq!((reported.fence, reported.outcome), (2, Some(Outcome::ExitCode(3))));
    // It costs one journal id, not one at each start.
    process.kill();
    let _process = Process::begin(&executor, &leader);
    let third = leader.opened().await;
    assert_eq!(third.hello.journal, again.hello.journal);
    // The old supervisor keeps its promise alone.
    until_gone(first).await;
}

#[tokio::test]
async fn a_new_binary_goes_on_with_the_old_supervisor_until_that_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let executor = dir.path().join("executor");
    fs::create_dir(&executor).unwrap();
    let mut leader = Leader::begin().await;
    let mut process = Process::begin(&executor, &leader);
    let first = start_waiting(&leader.opened().await, 1, dir.path()).await;
    process.kill();
    fs::write(executor.join("supervisors/1/build"), "an older one").unwrap();

    let _process = Process::begin(&executor, &leader);
    let session = leader.opened().await;
    let second = start_waiting(&session, 2, dir.path()).await;
    // Longer than a lease: renewals must reach both.
    let mut renewed = 0;
    leader.hears(|said| matches!(said, Says::Renew(_)).then(|| renewed += 1).filter(|()| renewed > 15)).await;
    assert!(is_alive(first) && is_alive(second));
    assert_ne!(parent_of(first), parent_of(second));
    let old = parent_of(first);
    fs::write(dir.path().join("go"), "").unwrap();
    for fence in [1, 2] {
        // In either order.
        let report =
            leader.hears(|said| if let Says::Report(report) = said { Some(report) } else { None }).await;
        assert_eq!(report.outcome, Some(Outcome::ExitCode(7)), "{fence}");
        session.send(Hears::ReportAck(v1::ReportAck { fence: report.fence })).await;
    }
    until_gone(old).await;
    until(|| (!executor.join("attempts/1").exists()).then_some(())).await;
}

#[tokio::test]
async fn a_wiped_directory_does_not_keep_a_task_alive() {
    let dir = tempfile::tempdir().unwrap();
    let executor = dir.path().join("executor");
    fs::create_dir(&executor).unwrap();
    let mut leader = Leader::begin().await;
    let mut process = Process::begin(&executor, &leader);
    let session = leader.opened().await;
    let first = start_waiting(&session, 1, dir.path()).await;
    process.kill();
    for lost in ["journal", "session", "attempts", "logs"] {
        let path = executor.join(lost);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    // The journal's id has changed, so the leader binds nothing.
    leader.unbound.lock().unwrap().push(1);
    let _process = Process::begin(&executor, &leader);
    let again = leader.opened().await;
    assert_ne!(again.hello.journal, session.hello.journal);
    assert!(again.hello.session > session.hello.session, "the old supervisor has heard that number");
    assert_eq!(again.hello.held.len(), 1);
    until_gone(first).await;
    leader.hears_report(1).await;
}
