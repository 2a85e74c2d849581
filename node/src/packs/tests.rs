//! Packs on a paused clock, with the log folder on disk and everything else in memory.

use std::path::Path;
use std::sync::Mutex;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

const ME: ExecutorId = matins_core::id::NodeId(7);

/// What the cluster was given: blobs, and places of logs. The first `failures` puts fail.
struct Sink {
    attached: mpsc::UnboundedSender<Vec<(Fence, LogPlace)>>,
    failures: Mutex<u32>,
}

#[tonic::async_trait]
impl Packs for Sink {
    async fn put(&self, bytes: Bytes) -> Result<Digest, String> {
        let mut failures = self.failures.lock().expect("not poisoned");
        if *failures > 0 {
            *failures -= 1;
            return Err("no majority".into());
        }
        Ok(Digest::of(&bytes))
    }

    async fn attach(&self, logs: Vec<(Fence, LogPlace)>) -> Result<(), String> {
        self.attached.send(logs).map_err(|_| "gone".into())
    }
}

struct Bench {
    dir: TempDir,
    entries: broadcast::Sender<Arc<AppliedEntry>>,
    attached: mpsc::UnboundedReceiver<Vec<(Fence, LogPlace)>>,
    _states: watch::Sender<Arc<State>>,
}

/// A packer of an executor with these logs, of ended attempts that wait.
fn bench(logs: &[(u64, usize)], failures: u32) -> Bench {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("logs")).expect("a folder");
    let mut state = State::default();
    for (fence, bytes) in logs {
        std::fs::write(path(dir.path(), *fence), vec![b'x'; *bytes]).expect("written");
        let task = matins_core::id::TaskId { run: matins_core::id::RunId(1), task: 0, item: None };
        state.logs_open.insert(Fence(*fence), (ME, task, 1));
        state.cluster.counters.fence = state.cluster.counters.fence.max(*fence);
    }
    let (states, seen) = watch::channel(Arc::new(state));
    let (entries, heard) = broadcast::channel(16);
    let (attached, received) = mpsc::unbounded_channel();
    let packs = Arc::new(Sink { attached, failures: Mutex::new(failures) });
    let packer = Packer::new(
        ME,
        (LogFolder::new(dir.path().into()), ExecutorMetrics::default()),
        packs,
        (seen, heard),
    );
    tokio::spawn(packer.run());
    Bench { dir, entries, attached: received, _states: states }
}

/// An entry that asks for one thing.
fn entry(effect: Effect) -> Arc<AppliedEntry> {
    Arc::new(AppliedEntry {
        index: matins_core::id::LogIndex(1),
        at: matins_core::time::Timestamp::ZERO,
        answers: Vec::new(),
        effects: vec![effect],
        state: Arc::new(State::default()),
    })
}

fn path(dir: &Path, fence: u64) -> std::path::PathBuf {
    LogFolder::new(dir.into()).path(Fence(fence))
}

#[tokio::test(start_paused = true)]
async fn logs_of_several_attempts_share_a_pack() {
    let mut bench = bench(&[(1, 10), (2, 20)], 0);
    let begun = Instant::now();
    let logs = bench.attached.recv().await.expect("attached");
    assert_eq!(begun.elapsed().as_secs(), 5, "PROTOCOL 6.7: 5 s after the first");
    let digest = Digest::of(&[b'x'; 30]);
    let expected = [
        (Fence(1), LogPlace::Pack { digest, offset: 0, bytes: 10 }),
        (Fence(2), LogPlace::Pack { digest, offset: 10, bytes: 20 }),
    ];
    assert_eq!(logs, expected);
    // The executor deletes a log when its attachment is applied, not before.
    assert!(path(bench.dir.path(), 1).exists());
    bench.entries.send(entry(Effect::LogsSettled(ME, vec![Fence(1)]))).expect("heard");
    sleep(Duration::from_millis(1)).await;
    assert!(!path(bench.dir.path(), 1).exists());
    assert!(path(bench.dir.path(), 2).exists());
}

#[tokio::test(start_paused = true)]
async fn a_full_pack_is_closed_at_once_and_a_large_log_has_one_of_its_own() {
    let mut bench = bench(&[(1, 700_000), (2, 700_000)], 0);
    let begun = Instant::now();
    let first = bench.attached.recv().await.expect("attached");
    let second = bench.attached.recv().await.expect("attached");
    assert_eq!((first.len(), second.len()), (1, 1));
    assert!(begun.elapsed() < PACK_WAITS);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_tried_again_and_what_is_gone_is_said_to_be_lost() {
    let mut bench = bench(&[(1, 10), (2, 10)], 2);
    std::fs::remove_file(path(bench.dir.path(), 2)).expect("removed");
    let logs = bench.attached.recv().await.expect("attached");
    let digest = Digest::of(&[b'x'; 10]);
    assert_eq!(logs[0], (Fence(1), LogPlace::Pack { digest, offset: 0, bytes: 10 }));
    assert_eq!(logs[1], (Fence(2), LogPlace::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_settled_while_the_node_was_away_is_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("logs")).expect("a folder");
    std::fs::write(path(dir.path(), 3), "x").expect("written");
    std::fs::write(path(dir.path(), 9), "x").expect("written");
    let mut state = State::default();
    state.cluster.counters.fence = 5;
    let (_states, seen) = watch::channel(Arc::new(state));
    let (_entries, heard) = broadcast::channel(1);
    let (attached, _received) = mpsc::unbounded_channel();
    let packs = Arc::new(Sink { attached, failures: Mutex::new(0) });
    let mut packer = Packer::new(
        ME,
        (LogFolder::new(dir.path().into()), ExecutorMetrics::default()),
        packs,
        (seen, heard),
    );
    packer.look_at_state();
    assert!(!path(dir.path(), 3).exists());
    // Of a fence that this node's state has not seen yet nothing is known.
    assert!(path(dir.path(), 9).exists());
}
