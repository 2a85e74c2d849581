//! A directory full of finished runs, as a node that ran them all would have it.
//!
//! Running ten million runs takes hours, so a few are run, and then their rows are put into the state again and again under
//! new ids. They leave it by the product's own `RetireRuns`, which makes the blocks; the product's own blobs keep these, and
//! its own restore makes a directory of that state. The index is built by the node that starts there. Nothing is written in
//! a form of this program's own. Start reading at [`fill`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use matins_core::command::{After, Command, Entry, Proposal};
use matins_core::history::RetiredRun;
use matins_core::id::{Digest, Fence, LogIndex, RunId};
use matins_core::state::RunState;
use matins_core::time::Millis;
use matins_core::{Effect, State, apply};
use matins_node::offline;
use matins_node::store::backup::{CHUNK_BYTES, Head, Part, Scan, Writer};
use matins_node::store::blobs::Blobs;
use matins_node::system;
use matins_proto::v1;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::trouble::{Trouble, must_be};
use crate::workload::Stage;

/// Workflows that the runs are of, in turn. Each has run twice, once in success and once not.
pub(crate) const WORKFLOWS: u64 = 100;
/// The place of the one among them that a rare filter asks for.
pub(crate) const NIGHTLY: u64 = 42;
/// Of so many runs of a workflow one has failed.
const FAILED_OF: u64 = 100;
/// Runs that leave together: the most that the product takes.
const TOGETHER: u64 = 1_000;
/// From the end of one run to that of the next.
const APART: Millis = Millis(50);
/// Runs that one call waits for, at most.
const WAITED_TOGETHER: usize = 100;
const WITHIN: Duration = Duration::from_secs(60);

/// What a directory was filled with.
pub(crate) struct Filled {
    /// The folder in which the directory of the one node lies.
    pub(crate) folder: PathBuf,
    /// The id of the first of these runs; they follow each other.
    pub(crate) first: u64,
    /// How many there are.
    pub(crate) count: u64,
    /// Bytes of their blocks.
    pub(crate) bytes: u64,
}

impl Filled {
    /// The runs for which something holds, the newest first.
    pub(crate) fn newest(&self, holds: impl Fn(u64) -> bool) -> impl Iterator<Item = String> {
        (0..self.count).rev().filter(move |at| holds(*at)).map(|at| format!("run-{}", self.first + at))
    }
}

/// Of which workflow the run at a place is.
pub(crate) fn workflow_at(at: u64) -> u64 {
    at % WORKFLOWS
}

/// Whether the run at a place has failed.
pub(crate) fn has_failed(at: u64) -> bool {
    (at / WORKFLOWS + workflow_at(at)) % FAILED_OF == FAILED_OF - 1
}

/// What the workflow at a place is called.
pub(crate) fn name_of(workflow: u64) -> String {
    if workflow == NIGHTLY { "nightly-load".into() } else { format!("load-{workflow}") }
}

/// What the real cluster had after the few real runs.
struct Seed {
    state: State,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

/// Makes the directory of a cluster of one with so many finished runs.
pub(crate) async fn fill(stage: &Stage, count: u64) -> Result<Filled, Trouble> {
    let seed = seed(stage).await?;
    let folder = stage.folder.path().join(format!("finished-{count}"));
    let (root, aside) = (folder.join("n1"), folder.join("blobs"));
    fs::create_dir_all(&folder)?;
    let blobs = Blobs::open(system::disk(), &aside)?;
    for (digest, bytes) in &seed.blobs {
        must_be("a blob's name", blobs.put(bytes)?, *digest)?;
    }
    let mut state = seed.state;
    let first = state.cluster.counters.run + 1;
    let (sender, blocks) = sync_channel(8);
    let bytes = std::thread::scope(|scope| {
        let keeper = scope.spawn(|| keep(&blobs, blocks));
        let retired = retire_many(&mut state, count, &sender);
        drop(sender);
        let kept = keeper.join().map_err(|_| Trouble("the writer of blocks panicked".into()))?;
        retired.and(kept)
    })?;
    must_be("faults of the state", state.check(), Vec::new())?;
    drop(blobs);
    let restored =
        offline::restore(&backup_of(&state)[..], &root, (After::GoesOn, After::GoesOn), &mut |_| {});
    must_be("finished runs restored", restored?.contents.finished_runs, count)?;
    fs::remove_dir_all(root.join("blobs"))?;
    fs::rename(&aside, root.join("blobs"))?;
    Ok(Filled { folder, first, count, bytes })
}

/// States with so many runs that are over and have not left for history.
pub(crate) async fn with_runs(stage: &Stage, counts: &[u64]) -> Result<Vec<State>, Trouble> {
    let mut state = seed(stage).await?.state;
    let templates = templates(&state)?;
    let (mut states, mut there) = (Vec::new(), 2 * WORKFLOWS);
    for count in counts {
        for at in there..*count {
            put(&mut state, &templates[(at % (2 * WORKFLOWS)) as usize], Millis(count - at));
        }
        there = *count;
        must_be("faults of the state", state.check(), Vec::new())?;
        states.push(state.clone());
    }
    Ok(states)
}

/// Runs each workflow twice on a real node, and gives what that comes to.
async fn seed(stage: &Stage) -> Result<Seed, Trouble> {
    let folder = stage.folder.path().join("seed");
    fs::create_dir_all(&folder)?;
    let cluster = Cluster::start(&stage.binary, &folder, 1, 8).await?;
    // Otherwise the oldest would be taken as soon as there are ten million.
    let settings = [("retention.runs-max".to_owned(), "100000000".to_owned())].into();
    cluster
        .client
        .call(v1::ChangeSettingsRequest { settings, ..v1::ChangeSettingsRequest::default() })
        .await?;
    let text = |at: u64| {
        format!(
            "workflow: {}\nparams:\n  code: {{ type: int, default: 0 }}\n\
             tasks:\n  work: {{ run: \"exit {{{{ params.code }}}}\" }}\n",
            name_of(at)
        )
    };
    let texts: Vec<String> = (0..WORKFLOWS).map(text).collect();
    cluster.apply(&texts.join("---\n")).await?;
    let mut runs = Vec::new();
    for at in 0..WORKFLOWS {
        for code in [0, 1] {
            let params = Some(serde_json::json!({ "code": code }).into());
            let ask = v1::StartRunRequest { workflow: name_of(at), params, ..v1::StartRunRequest::default() };
            runs.push(cluster.client.call(ask).await?.run_id);
        }
    }
    for runs in runs.chunks(WAITED_TOGETHER) {
        let waited = cluster.client.wait(runs.to_vec(), Some(WITHIN)).await?;
        must_be("the real runs are over", waited.done, true)?;
    }
    let deadline = Instant::now() + WITHIN;
    loop {
        let seed = backup(&cluster).await?;
        // They can leave once their logs are settled.
        if seed.state.finished.len() as u64 == 2 * WORKFLOWS {
            drop(cluster);
            fs::remove_dir_all(&folder)?;
            return Ok(seed);
        }
        if Instant::now() > deadline {
            return Err(Trouble(format!("only {} runs can leave for history", seed.state.finished.len())));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// What a cluster has, by its own backup.
async fn backup(cluster: &Cluster) -> Result<Seed, Trouble> {
    let (mut scan, mut state, mut blobs) = (Scan::default(), Vec::new(), BTreeMap::new());
    let (mut stream, mut open) = (cluster.client.backup().await?, Digest::default());
    while let Some(frame) = stream.next().await? {
        match scan.add(&frame)? {
            Part::State(bytes) => state.extend_from_slice(&bytes),
            Part::Blob { digest, .. } => {
                open = digest;
                blobs.insert(open, Vec::new());
            }
            Part::Chunk(bytes) => blobs.entry(open).or_default().extend_from_slice(&bytes),
            Part::Head(_) | Part::Missing(_) | Part::End { .. } => {}
        }
    }
    scan.finish()?;
    let state = State::decode(&state).ok_or_else(|| Trouble("a state that cannot be read".into()))?;
    Ok(Seed { state, blobs })
}

/// Lets so many runs be there and leave.
fn retire_many(
    state: &mut State,
    count: u64,
    blocks: &SyncSender<(Digest, Vec<u8>)>,
) -> Result<u64, Trouble> {
    let templates = templates(state)?;
    // The real ones have done their part; what is left is counted easily.
    let real = state.finished.iter().map(|((_, run), ())| *run).collect();
    retire(state, real, |_, _| Ok(()))?;
    let last = *state.blocks.last().ok_or_else(|| Trouble("the real runs have not left".into()))?.0;
    state.blocks.remove(&last);
    let mut at = 0;
    while at < count {
        let until = (at + TOGETHER).min(count);
        let runs: Vec<RunId> = (at..until)
            .map(|at| {
                let place = 2 * workflow_at(at) as usize + usize::from(has_failed(at));
                let ended_before = Millis(APART.0 * (count - at));
                put(state, &templates[place], ended_before)
            })
            .collect();
        let send =
            |digest, bytes| blocks.send((digest, bytes)).map_err(|_| Trouble("no block is taken".into()));
        retire(state, runs, send)?;
        at = until;
    }
    Ok(0)
}

/// Of each workflow a run that succeeded and one that failed, by workflow.
fn templates(state: &State) -> Result<Vec<RetiredRun>, Trouble> {
    let mut found: BTreeMap<(u64, bool), RetiredRun> = BTreeMap::new();
    let names: BTreeMap<String, u64> = (0..WORKFLOWS).map(|at| (name_of(at), at)).collect();
    for ((_, run), ()) in state.finished.iter() {
        let retired = state.retired(*run).ok_or_else(|| Trouble("a finished run without its rows".into()))?;
        let full = retired.run.workflow.to_string();
        let at = full.rsplit('/').next().and_then(|name| names.get(name)).copied();
        let at = at.ok_or_else(|| Trouble(format!("an unknown workflow {full}")))?;
        found.insert((at, retired.run.state == RunState::Failed), retired);
    }
    must_be("workflows with a run that succeeded and one that failed", found.len() as u64, 2 * WORKFLOWS)?;
    Ok(found.into_values().collect())
}

/// Puts the rows of a run into the state once more, as a run of its own that ended so long ago.
fn put(state: &mut State, template: &RetiredRun, ended_before: Millis) -> RunId {
    state.cluster.counters.run += 1;
    let id = RunId(state.cluster.counters.run);
    let ended = template.run.ended_at.unwrap_or_default();
    let base = state.now - ended_before;
    let moved = |at: matins_core::time::Timestamp| base - ended.since(at);
    let mut run = template.run.clone();
    (run.logical_time, run.interval_start) = (moved(run.logical_time), moved(run.interval_start));
    (run.created_at, run.started_at) = (moved(run.created_at), run.started_at.map(moved));
    (run.ended_at, run.retry_root) = (Some(base), id);
    state.definitions.update(&run.definition, |row| row.uses += 1);
    state.runs.insert(id, run);
    for (task, row) in &template.tasks {
        let mut row = row.clone();
        (row.since, row.started_at) = (moved(row.since), row.started_at.map(moved));
        state.tasks.insert(matins_core::id::TaskId { run: id, ..*task }, row);
    }
    for ((task, number), row) in &template.attempts {
        let mut row = row.clone();
        state.cluster.counters.fence += 1;
        row.fence = Fence(state.cluster.counters.fence);
        (row.granted_at, row.started_at) = (moved(row.granted_at), row.started_at.map(moved));
        row.timeout_at = base + row.timeout_at.since(ended);
        state.attempts.insert((matins_core::id::TaskId { run: id, ..*task }, *number), row);
    }
    for (number, row) in (1..).zip(&template.transitions) {
        let mut row = row.clone();
        (row.at, row.task) =
            (moved(row.at), row.task.map(|task| matins_core::id::TaskId { run: id, ..task }));
        state.transitions.insert((id, number), row);
    }
    state.finished.insert((base, id), ());
    id
}

/// Lets these runs leave by the command by which a leader lets them, and passes on the block that they become.
fn retire(
    state: &mut State,
    mut runs: Vec<RunId>,
    keep: impl Fn(Digest, Vec<u8>) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    runs.sort_unstable();
    let leadership = state.cluster.leader.as_ref().map(|leader| leader.leadership);
    let proposal = Proposal { request: None, leadership, command: Command::RetireRuns { runs } };
    let entry = Entry { level: state.cluster.level, at: state.now, proposals: vec![proposal] };
    let index = LogIndex(state.index.0 + 1);
    let outcome = apply(state, index, entry);
    for answer in outcome.answers {
        answer.map_err(|refusal| Trouble(format!("runs were not retired: {refusal}")))?;
    }
    for effect in outcome.effects {
        if let Effect::Block { digest, bytes } = effect {
            keep(digest, bytes)?;
        }
    }
    Ok(())
}

/// Stores blocks as a node does, and gives how many bytes they have.
fn keep(blobs: &Blobs, blocks: Receiver<(Digest, Vec<u8>)>) -> Result<u64, Trouble> {
    let mut sum = 0;
    for (digest, bytes) in blocks {
        must_be("a block's name", blobs.put(&bytes)?, digest)?;
        sum += bytes.len() as u64;
    }
    Ok(sum)
}

/// A backup of a state, its blobs left out: they are put in their place as they are.
fn backup_of(state: &State) -> Vec<u8> {
    let bytes = state.encode();
    let mut writer = Writer::default();
    let mut backup = writer.frame(&Part::Head(Head::of(state, &bytes, 0)));
    for chunk in bytes.chunks(CHUNK_BYTES) {
        backup.extend(writer.frame(&Part::State(chunk.to_vec())));
    }
    backup.extend(writer.end());
    backup
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_below(folder: &Path) -> Result<u64, Trouble> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(sum)
}
