//! A cost curve: what a snapshot costs while the state grows.
//!
//! A node takes one once an hour or after 64 MiB of log, when a majority agrees on the hash. Here each step is taken by
//! itself, by the same functions and on the same disk, of a state with ever more runs.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use matins_core::State;
use matins_core::id::Digest;
use matins_node::store::Position;
use matins_node::store::snapshot::{SnapshotMeta, Snapshots};
use matins_node::system;

use crate::figure::{Figure, Unit, median};
use crate::finished::with_runs;
use crate::trouble::{Trouble, must_be};
use crate::workload::{Size, Stage, Workload};

pub(crate) struct Snapshot;

/// What one snapshot took.
#[derive(Default)]
struct Taken {
    copy: Duration,
    hash: Duration,
    write: Duration,
    load: Duration,
    bytes: u64,
}

#[tonic::async_trait(?Send)]
impl Workload for Snapshot {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn about(&self) -> &'static str {
        "a snapshot of a state with 1,000 to 1,000,000 runs: copy, hash, file, and back"
    }

    fn nodes(&self) -> &'static [usize] {
        &[1]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let counts: &[u64] = match stage.size {
            Size::Full => &[1_000, 10_000, 100_000, 1_000_000],
            Size::Quick => &[200, 2_000],
        };
        let states = with_runs(stage, counts).await?;
        let mut figures = Vec::new();
        for (number, (count, state)) in counts.iter().zip(states).enumerate() {
            let folder = stage.folder.path().join(format!("snapshots-{count}"));
            let mut all = Vec::new();
            for again in 0..stage.size.of(3, 1) {
                all.push(take(&folder, &state, (number * 10 + again) as u64)?);
            }
            let span = |of: fn(&Taken) -> Duration| median(&all.iter().map(of).collect::<Vec<_>>());
            let mega = |bytes: u64| bytes as f64 / 1e6;
            let name = |what: &str| format!("{count} runs: {what}");
            figures.push(Figure::new(name("state"), mega(state.bytes()), Unit::Megabytes));
            figures.push(Figure::new(name("snapshot"), mega(all[0].bytes), Unit::Megabytes));
            // All that holds up the node; the rest goes on beside its work.
            figures.push(Figure::micros(name("copy"), span(|it| it.copy)));
            figures.push(Figure::millis(name("hash"), span(|it| it.hash)));
            figures.push(Figure::millis(name("written and published"), span(|it| it.write)));
            figures.push(Figure::millis(name("loaded at a start"), span(|it| it.load)));
        }
        Ok(figures)
    }
}

/// Takes one as a node does, and reads it back as a node does that starts.
fn take(folder: &Path, state: &State, index: u64) -> Result<Taken, Trouble> {
    let snapshots = Snapshots::open(system::disk(), folder)?;
    let began = Instant::now();
    let copy = state.clone();
    let mut taken = Taken { copy: began.elapsed(), ..Taken::default() };
    let began = Instant::now();
    let state_hash = copy.hash();
    taken.hash = began.elapsed();
    let began = Instant::now();
    let last = Position { index, term: 1, leader: 1 };
    let meta = SnapshotMeta { last, level: copy.cluster.level.into(), membership: Vec::new(), state_hash };
    let mut writer = snapshots.write(&meta)?;
    writer.write_all(&copy.encode())?;
    let published = snapshots.publish(writer.finish()?)?;
    taken.write = began.elapsed();
    taken.bytes = published.bytes();
    drop((published, snapshots));
    let began = Instant::now();
    let snapshots = Snapshots::open(system::disk(), folder)?;
    let newest = snapshots.newest().ok_or_else(|| Trouble("the snapshot is not there".into()))?;
    let mut bytes = Vec::new();
    newest.reader().read_to_end(&mut bytes)?;
    must_be("the hash of what was read", Digest::of(&bytes), state_hash)?;
    let loaded = State::decode(&bytes).ok_or_else(|| Trouble("a state that cannot be read".into()))?;
    taken.load = began.elapsed();
    must_be("the state that was loaded is the one that was written", loaded == *state, true)?;
    Ok(taken)
}
