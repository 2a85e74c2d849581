//! Processes of nodes that die, or are asked to end, and come back.

use std::time::Duration;

use super::{Field, Nemesis, names};
use crate::cluster::nodes::Node;
use crate::cluster::processes;
use crate::cluster::workload::Trouble;

/// A node that is asked to end does so within this.
const STOP_MAX: Duration = Duration::from_secs(10);
/// A node that was started answers within this.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How often each node is restarted in a rolling restart.
const ROUNDS: usize = 2;

/// SIGKILL, of all targets at the same moment.
pub(super) struct Kill {
    targets: Vec<usize>,
    pids: Vec<i32>,
}

impl Kill {
    pub(super) fn of(field: &Field, targets: Vec<usize>) -> Self {
        let pids = targets.iter().filter_map(|at| field.nodes.all[*at].pid()).collect();
        Self { targets, pids }
    }
}

impl Nemesis for Kill {
    fn nodes(&self) -> Vec<String> {
        names(&self.targets)
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        std::thread::scope(|scope| {
            for at in &self.targets {
                scope.spawn(|| field.nodes.all[*at].kill());
            }
        });
        Ok(())
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let are_gone = self.pids.len() == self.targets.len()
            && self.pids.iter().all(|pid| processes::state(*pid).is_none())
            && self.targets.iter().all(|at| !field.nodes.all[*at].listens());
        Ok(are_gone.then(|| format!("process {:?} is gone, its port refuses", self.pids)))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        self.targets.iter().try_for_each(|at| field.nodes.up(*at))
    }
}

/// SIGTERM to one node after the other; the next one as soon as the last one answers.
pub(super) struct Rolling {
    before: Vec<Option<i32>>,
    /// Nodes that did not end when they were asked to.
    killed: Vec<String>,
}

impl Rolling {
    pub(super) fn new(field: &Field) -> Self {
        Self { before: field.nodes.members().iter().map(Node::pid).collect(), killed: Vec::new() }
    }
}

impl Nemesis for Rolling {
    fn nodes(&self) -> Vec<String> {
        names(&(0..self.before.len()).collect::<Vec<_>>())
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        for (at, node) in field.nodes.members().iter().enumerate().cycle().take(ROUNDS * self.before.len()) {
            if !node.stop(STOP_MAX) {
                self.killed.push(node.name.clone());
            }
            field.nodes.up(at)?;
            let answer = || Ok(field.runtime.block_on(field.observer.status(at)));
            if field.until(ANSWER_MAX, answer)?.is_none() {
                field.fail(format!("I15: {} does not answer within {ANSWER_MAX:?} of its start", node.name));
            }
        }
        for name in &self.killed {
            field.fail(format!("{name} did not end within {STOP_MAX:?} of SIGTERM"));
        }
        Ok(())
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let now: Vec<Option<i32>> = field.nodes.members().iter().map(Node::pid).collect();
        let are_new = now.iter().zip(&self.before).all(|(now, before)| now.is_some() && now != before);
        Ok(are_new.then(|| format!("{:?} became {now:?}", self.before)))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        let down = (0..self.before.len()).filter(|at| field.nodes.all[*at].pid().is_none());
        down.collect::<Vec<_>>().into_iter().try_for_each(|at| field.nodes.up(at))
    }
}
