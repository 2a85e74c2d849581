//! A finished run as history keeps it, for good.

use alloc::vec::Vec;

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
}
