//! What can die or stand still beside a node: its supervisor, and the processes of its tasks.

use std::time::Duration;

use rustix::process::Signal;

use super::{Field, Nemesis, names};
use crate::cluster::processes;
use crate::cluster::workload::Trouble;

/// A task is found within this while there is work.
const TASK_MAX: Duration = Duration::from_secs(10);
/// Tasks that are killed at once.
const TASKS_MAX: usize = 3;

/// The supervisor stands still while its executor goes on.
pub(super) struct Freeze {
    target: usize,
    pids: Vec<i32>,
}

impl Freeze {
    pub(super) fn of(field: &Field, target: usize) -> Self {
        Self { target, pids: field.nodes.all[target].supervisors() }
    }
}

impl Nemesis for Freeze {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, _: &Field) -> Result<(), Trouble> {
        self.pids.iter().for_each(|pid| processes::send(*pid, Signal::STOP));
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        let are_stopped =
            !self.pids.is_empty() && self.pids.iter().all(|pid| processes::state(*pid) == Some('T'));
        Ok(are_stopped.then(|| format!("supervisor {:?} is in state T", self.pids)))
    }

    fn heal(&mut self, _: &Field) -> Result<(), Trouble> {
        self.pids.iter().for_each(|pid| processes::send(*pid, Signal::CONT));
        Ok(())
    }
}

/// Whether the node dies with its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    NodeLives,
    NodeDies,
}

/// The supervisor dies.
pub(super) struct Kill {
    target: usize,
    pids: Vec<i32>,
    beside: Beside,
}

impl Kill {
    pub(super) fn alone(field: &Field, target: usize) -> Self {
        Self { target, pids: field.nodes.all[target].supervisors(), beside: Beside::NodeLives }
    }

    pub(super) fn with_node(field: &Field, target: usize) -> Self {
        Self { target, pids: field.nodes.all[target].supervisors(), beside: Beside::NodeDies }
    }
}

impl Nemesis for Kill {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        self.pids.iter().for_each(|pid| processes::send(*pid, Signal::KILL));
        match self.beside {
            Beside::NodeLives => {}
            Beside::NodeDies => field.nodes.all[self.target].kill(),
        }
        Ok(())
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let is_gone = |pid: &i32| processes::state(*pid).is_none_or(|state| state == 'Z');
        let are_gone = !self.pids.is_empty() && self.pids.iter().all(is_gone);
        let node = &field.nodes.all[self.target];
        let is_as_meant = match self.beside {
            Beside::NodeLives => true,
            Beside::NodeDies => !node.listens(),
        };
        Ok((are_gone && is_as_meant).then(|| format!("supervisor {:?} is gone", self.pids)))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        match self.beside {
            Beside::NodeLives => Ok(()),
            Beside::NodeDies => field.nodes.up(self.target),
        }
    }
}

/// Processes of tasks die, and nothing else.
pub(super) struct TaskKill {
    target: usize,
    supervisors: Vec<i32>,
    killed: Vec<i32>,
}

impl TaskKill {
    pub(super) fn new(field: &Field, target: usize) -> Self {
        Self { target, supervisors: field.nodes.all[target].supervisors(), killed: Vec::new() }
    }
}

impl Nemesis for TaskKill {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        let is_first = |pid: &i32| {
            processes::parent(*pid).is_some_and(|parent| self.supervisors.contains(&parent))
                && processes::fence(*pid).is_some()
        };
        let found = field.until(TASK_MAX, || {
            let found: Vec<i32> = processes::pids().filter(is_first).take(TASKS_MAX).collect();
            Ok((!found.is_empty()).then_some(found))
        })?;
        self.killed = found.unwrap_or_default();
        self.killed.iter().for_each(|pid| processes::send(*pid, Signal::KILL));
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        let is_gone = |pid: &i32| processes::state(*pid).is_none_or(|state| state == 'Z');
        let are_gone = !self.killed.is_empty() && self.killed.iter().all(is_gone);
        Ok(are_gone.then(|| format!("first processes {:?} of tasks are gone", self.killed)))
    }

    fn heal(&mut self, _: &Field) -> Result<(), Trouble> {
        Ok(())
    }
}
