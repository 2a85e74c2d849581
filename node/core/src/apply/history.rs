//! Runs that leave for history, and checkpoints (PROTOCOL 6.5, 6.8).

use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Thing};
use crate::effect::Effect;
use crate::history::{Block, RetiredRun};
use crate::id::{Digest, NodeId, RunId};
use crate::state::{BlockRow, CheckpointRow, State};

use super::{Applied, Step, conflict};

/// Canonical bytes that one `RetireRuns` takes at most (PROTOCOL 6.5).
const BLOCK_BYTES_MAX: usize = 4 << 20;

impl State {
    /// A run with all its rows, as history will have it.
    pub fn retired(&self, run: RunId) -> Option<RetiredRun> {
        let row = self.runs.get(&run)?.clone();
        let definition = self.definitions.get(&row.definition);
        let names = definition.map(|row| row.workflow.tasks.iter().map(|task| task.name.clone()).collect());
        let tasks: Vec<_> = self.tasks_of(run).map(|(id, row)| (*id, row.clone())).collect();
        let attempts = tasks.iter().flat_map(|(id, _)| self.attempts.range((*id, 0)..=(*id, u32::MAX)));
        let attempts = attempts.map(|(key, row)| (*key, row.clone())).collect();
        let transitions =
            self.transitions.range((run, 0)..=(run, u32::MAX)).map(|(_, row)| row.clone()).collect();
        let labels = definition.map(|row| row.workflow.labels.clone()).unwrap_or_default();
        let task_names = names.unwrap_or_default();
        Some(RetiredRun { id: run, run: row, task_names, labels, tasks, attempts, transitions })
    }
}

impl Step<'_> {
    /// Finished runs leave the state together: their rows become a block, which every node writes for itself.
    pub(super) fn retire_runs(&mut self, runs: &[RunId]) -> Applied {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return Err(Refusal::Invalid("no runs to retire".into()));
        };
        if !runs.is_sorted_by(|a, b| a < b) {
            return Err(Refusal::Invalid("runs to retire come in order, each once".into()));
        }
        let mut retired = Vec::with_capacity(runs.len());
        for run in runs {
            self.check_retirable(*run)?;
            retired.extend(self.state.retired(*run));
        }
        let block = Block { level: self.state.cluster.level, runs: retired };
        let bytes = block.encode();
        if bytes.len() > BLOCK_BYTES_MAX && runs.len() > 1 {
            return Err(Refusal::Limit {
                limit: "bytes of a block of history".into(),
                value: BLOCK_BYTES_MAX as u64,
                asked: bytes.len() as u64,
                hint: "retire fewer runs at once".into(),
            });
        }
        let digest = Digest::of(&bytes);
        self.state.cluster.counters.block += 1;
        let row = BlockRow {
            digest,
            bytes: bytes.len() as u64,
            first: *first,
            last: *last,
            runs: runs.len() as u32,
            at: self.now(),
            ..self.state.terms_of(&block.runs)
        };
        self.state.blocks.insert(self.state.cluster.counters.block, row);
        self.settle_waiting_ticks(&block.runs);
        for run in block.runs {
            self.forget_run(&run);
        }
        self.effects.push(Effect::Block { digest, bytes });
        Ok(Answer::Done)
    }

    fn check_retirable(&self, run: RunId) -> Result<(), Refusal> {
        let row = self.state.runs.get(&run).ok_or(Refusal::NotFound(Thing::Run(run)))?;
        let ended_at = row.ended_at.filter(|at| self.state.finished.contains(&(*at, run)));
        let is_retried = self.state.retries.contains(&run);
        if ended_at.is_none() || is_retried {
            return Err(conflict(Thing::Run(run), "it is not over, or its logs are open", "retire it later"));
        }
        Ok(())
    }

    fn forget_run(&mut self, retired: &RetiredRun) {
        let (id, row) = (retired.id, &retired.run);
        for (key, _) in &retired.attempts {
            self.state.attempts.remove(key);
        }
        for (task, _) in &retired.tasks {
            self.state.tasks.remove(task);
        }
        for number in 1..=row.transitions {
            if self.state.transitions.remove(&(id, number)).is_none() {
                break;
            }
        }
        if let Some(schedule) = row.schedule_id() {
            self.state.runs_by_tick.remove(&(schedule, row.logical_time, id));
        }
        if let Some(ended_at) = row.ended_at {
            self.state.finished.remove(&(ended_at, id));
        }
        self.state.runs.remove(&id);
        let before = self.state.retired_runs.get(&row.workflow).copied().unwrap_or(0);
        self.state.retired_runs.insert(row.workflow.clone(), before + 1);
        self.unuse_definition(row.definition);
        self.effects.push(Effect::Run(id));
    }

    /// Every node copies and hashes its state at this index.
    pub(super) fn checkpoint(&mut self) -> Applied {
        let (index, at, is_split) = (self.state.index.0, self.now(), self.state.is_split());
        let row = CheckpointRow { index, at, reports: Vec::new(), agreed: None, is_split };
        self.state.cluster.checkpoint = Some(row);
        self.effects.push(Effect::Checkpoint);
        Ok(Answer::Done)
    }

    /// What a node found. When a majority found the same, the snapshot of that index may be published.
    pub(super) fn checkpoint_report(
        &mut self,
        node: NodeId,
        index: u64,
        (hash, voters): (Digest, u32),
    ) -> Applied {
        let Some(row) = self.state.cluster.checkpoint.as_mut().filter(|row| row.index == index) else {
            return Err(conflict(Thing::Cluster, "another checkpoint is the newest", "report that one"));
        };
        row.reports.retain(|(reporter, _)| *reporter != node);
        row.reports.push((node, hash));
        row.reports.sort_unstable();
        let same = row.reports.iter().filter(|(_, found)| *found == hash).count();
        if row.agreed.is_some() {
            return Ok(Answer::Done);
        }
        if same > voters as usize / 2 {
            row.agreed = Some(hash);
            self.effects.push(Effect::Agreed { index, hash });
            if core::mem::take(&mut row.is_split) {
                self.free_slots();
            }
        } else if same < row.reports.len() {
            row.is_split = true;
        }
        Ok(Answer::Done)
    }
}
