//! A process that stands still for longer than a lease and then goes on as if nothing had happened.

use rustix::process::Signal;

use super::{Field, Nemesis, names};
use crate::cluster::processes;
use crate::cluster::workload::Trouble;

/// SIGSTOP, later SIGCONT.
pub(super) struct Pause {
    target: usize,
    pid: Option<i32>,
}

impl Pause {
    pub(super) fn of(field: &Field, target: usize) -> Self {
        Self { target, pid: field.nodes.all[target].pid() }
    }
}

impl Nemesis for Pause {
    fn nodes(&self) -> Vec<String> {
        names(&[self.target])
    }

    fn inject(&mut self, _: &Field) -> Result<(), Trouble> {
        if let Some(pid) = self.pid {
            processes::send(pid, Signal::STOP);
        }
        Ok(())
    }

    fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
        let stopped = self.pid.filter(|pid| processes::state(*pid) == Some('T'));
        Ok(stopped.map(|pid| format!("process {pid} is in state T")))
    }

    fn heal(&mut self, _: &Field) -> Result<(), Trouble> {
        if let Some(pid) = self.pid {
            processes::send(pid, Signal::CONT);
        }
        Ok(())
    }
}
