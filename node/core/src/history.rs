//! A finished run as history keeps it, for good.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::id::{RunId, TaskId, TaskName};
use crate::state::{AttemptRow, RunRow, TaskRow, TransitionRow};

/// A finished run with all its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredRun {
    /// Its id.
    pub id: RunId,
    /// The run itself.
    pub run: RunRow,
    /// Names of the tasks of its definition, which may be gone by then.
    pub task_names: Vec<TaskName>,
    /// Labels of its definition.
    pub labels: BTreeMap<String, String>,
    /// Its tasks, in order.
    pub tasks: Vec<(TaskId, TaskRow)>,
    /// Their attempts, in order of task and number.
    pub attempts: Vec<((TaskId, u32), AttemptRow)>,
    /// What happened to it.
    pub transitions: Vec<TransitionRow>,
}

/// A batch of finished runs: a blob equal on every node (PROTOCOL 6.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The feature level that it was written at.
    pub level: u16,
    /// Ascending by id.
    pub runs: Vec<RetiredRun>,
}

impl Block {
    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("rows have no sequence of unknown length and no custom error")
    }

    /// Reads back what `encode` wrote; `None` if these bytes are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// Each run of an encoded block and where in it its bytes are, so that an index can point there.
    pub fn places(bytes: &[u8]) -> Option<Vec<(RetiredRun, Range<usize>)>> {
        let (_level, rest) = postcard::take_from_bytes::<u16>(bytes).ok()?;
        // postcard writes the length of a sequence as it writes any number.
        let (count, mut rest) = postcard::take_from_bytes::<u64>(rest).ok()?;
        let mut places = Vec::new();
        for _ in 0..count {
            let from = bytes.len() - rest.len();
            let (run, behind) = postcard::take_from_bytes(rest).ok()?;
            rest = behind;
            places.push((run, from..bytes.len() - rest.len()));
        }
        rest.is_empty().then_some(places)
    }
}

impl RetiredRun {
    /// The task or item that an address such as `extract.3` names, whether or not it has a row yet; `None` if the run has no
    /// such task, or the fan-out no such item.
    pub fn task_named(&self, address: &str) -> Option<TaskId> {
        let (name, item) = match address.split_once('.') {
            Some((name, item)) => (name, Some(item.parse().ok()?)),
            None => (address, None),
        };
        let place = self.task_names.iter().position(|known| known.as_str() == name)?;
        let id = TaskId { run: self.id, task: place as u16, item };
        let is_there = item.is_none() || self.tasks.binary_search_by_key(&id, |(id, _)| *id).is_ok();
        is_there.then_some(id)
    }

    /// Reads one run back, from the bytes at its place in a block.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;
    use crate::state::{RunOrigin, RunState};
    use crate::time::Timestamp;

    fn run(id: u64) -> RetiredRun {
        let row = RunRow {
            workflow: "a/b".parse().expect("a name"),
            definition: Digest::default(),
            version: Some(1),
            origin: RunOrigin::Manual,
            schedule: None,
            logical_time: Timestamp::from_millis(5),
            interval_start: Timestamp::ZERO,
            params: "{}".into(),
            state: RunState::Success,
            tasks_open: 0,
            has_failed: false,
            created_at: Timestamp::ZERO,
            started_at: None,
            ended_at: Some(Timestamp::ZERO),
            retry_of: None,
            retry_root: RunId(id),
            reason: None,
            transitions: 0,
            logs_open: 0,
        };
        let (tasks, attempts, transitions) = (Vec::new(), Vec::new(), Vec::new());
        let (task_names, labels) = (Vec::new(), BTreeMap::new());
        RetiredRun { id: RunId(id), run: row, task_names, labels, tasks, attempts, transitions }
    }

    #[test]
    fn each_run_of_a_block_is_found_at_its_place() {
        let block = Block { level: 1, runs: alloc::vec![run(1), run(300), run(70_000)] };
        let bytes = block.encode();
        assert_eq!(Block::decode(&bytes).as_ref(), Some(&block));
        let places = Block::places(&bytes).expect("a block");
        assert_eq!(places.len(), 3);
        for ((found, place), run) in places.into_iter().zip(block.runs) {
            assert_eq!(found, run);
            assert_eq!(RetiredRun::decode(&bytes[place]), Some(run));
        }
        assert_eq!(Block::places(&bytes[1..]), None);
    }
}
