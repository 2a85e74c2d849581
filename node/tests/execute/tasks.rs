//! How tasks start, run, print, end and are stopped.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use matins_core::id::{Digest, Fence};
use matins_node::execute::log::Stream;
use matins_proto::v1;
use matins_proto::v1::AttemptStream::{Stderr, Stdout};
use matins_proto::v1::attempt_logs_server::AttemptLogs;
use matins_proto::v1::attempt_report::{Outcome, Outputs};
use matins_proto::v1::executor_message::Message as Says;
use matins_proto::v1::leader_message::Message as Hears;
use tokio_stream::StreamExt;

use crate::leader::{SOON, within};
use crate::setup::{HELPER, Setup, argv, is_alive, job, pid_in, shell, until};

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
    let mut activity = setup.executor.activity();
    within(activity.wait_for(|now| now.held == 0)).await.unwrap();
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
    let refused = |said| if let Says::StartRefused(refused) = said { Some(refused.reason) } else { None };
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
    let Some(Outcome::Lost(lost)) = setup.leader.hears_report(1).await.outcome else {
        panic!("it was not lost")
    };
    assert_eq!(lost.cause(), v1::LostCause::LeaseEnded);
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
    let mut setup = Setup::begin().await;
    let go = setup.path("go");
    let text =
        format!("echo one; echo two >&2; while ! test -e {}; do sleep 0.01; done; echo three", go.display());
    setup.session.start(1, shell(&text)).await;
    setup.leader.hears_started(1).await;
    let logs = setup.executor.logs();
    let request = v1::TailRequest { fence: 1, follow: true, ..Default::default() };
    let mut chunks = logs.tail(tonic::Request::new(request)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let chunk = within(chunks.next()).await.unwrap().unwrap();
        seen.push((chunk.stream(), String::from_utf8(chunk.text).unwrap()));
    }
    seen.sort_by_key(|(stream, _)| i32::from(*stream));
    let line = |stream, text: &str| (stream, text.to_owned());
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

/// A cgroup of this test's own, if the machine lets us have one.
fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    let path = PathBuf::from(mount.split(' ').nth(1)?).join(format!("matins-test-{}", std::process::id()));
    fs::create_dir(&path).ok()?;
    Some(path)
}

#[tokio::test]
async fn a_cgroup_finds_what_has_neither_group_nor_fence() {
    let Some(cgroup) = own_cgroup() else {
        eprintln!("this machine gives us no cgroup: nothing to test");
        return;
    };
    let mut setup = Setup::begin_in(Some(cgroup.clone())).await;
    let escaped = setup.path("escaped");
    let text = |end: &str| format!("((env -i {HELPER} escape {} &) &)\n{end}", escaped.display());
    let wait = format!("while ! test -e {}; do sleep 0.01; done", escaped.display());
    let report = setup.report(1, shell(&text(&wait))).await;
    assert_eq!(report.outcome, Some(Outcome::ExitCode(0)));
    assert!(!is_alive(pid_in(&escaped).await));

    fs::remove_file(&escaped).unwrap();
    setup.session.start(2, shell(&text("sleep 1000"))).await;
    let pid = pid_in(&escaped).await;
    setup.session.stop(2, true).await;
    assert_eq!(setup.leader.hears_report(2).await.outcome, Some(Outcome::Signal(9)));
    assert!(!is_alive(pid));
    // Those of the attempts are gone, so this one can go too.
    until(|| fs::remove_dir(&cgroup).ok()).await;
}
