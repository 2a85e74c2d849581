//! The attempts that an executor holds, from the journaled start to the acknowledged report.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Action, HeldAs};
use crate::id::Fence;
use crate::supervisor::Held;
use crate::time::BootTime;

/// What an executor finds of an attempt in its journal when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Journaled {
    /// A start; whether it runs, only a supervisor knows.
    Started,
    /// A status written by a supervisor, and no report yet.
    Ended,
    /// A report in the outbox.
    Reported,
}

/// Where one attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attempt {
    /// Journaled; no supervisor has said yet that it runs.
    Starting,
    /// A supervisor runs it, or is ending it.
    Running,
    /// Its group is gone, the report is being made.
    Collecting,
    /// The report is in the outbox, and was sent at this instant (`None`: not in this incarnation).
    Reported { sent: Option<BootTime> },
}

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Attempts {
    held: BTreeMap<Fence, Attempt>,
    /// Not named by a supervisor since the last announcement; the lists take them out one by one.
    unlisted: Vec<Fence>,
    /// Found ended in the journal: the report is to be made with the first lists.
    to_collect: Vec<Fence>,
}

impl Attempts {
    pub(super) fn from_journal(journal: impl IntoIterator<Item = (Fence, Journaled)>) -> Self {
        let mut attempts = Self::default();
        for (fence, found) in journal {
            let attempt = match found {
                Journaled::Started => Attempt::Starting,
                Journaled::Ended => {
                    attempts.to_collect.push(fence);
                    Attempt::Collecting
                }
                Journaled::Reported => Attempt::Reported { sent: None },
            };
            attempts.held.insert(fence, attempt);
        }
        attempts
    }

    pub(super) fn get(&self, fence: Fence) -> Option<Attempt> {
        self.held.get(&fence).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn start(&mut self, fence: Fence) {
        self.held.insert(fence, Attempt::Starting);
    }

    /// Whether this is news.
    pub(super) fn started(&mut self, fence: Fence) -> bool {
        let starting = self.held.get_mut(&fence).filter(|attempt| **attempt == Attempt::Starting);
        starting.map(|attempt| *attempt = Attempt::Running).is_some()
    }

    pub(super) fn ended(&mut self, fence: Fence, actions: &mut Vec<Action>) {
        match self.held.get(&fence) {
            // The same end heard twice, by list and by message, is reported once.
            Some(Attempt::Collecting | Attempt::Reported { .. }) => {}
            Some(Attempt::Starting | Attempt::Running) | None => {
                self.held.insert(fence, Attempt::Collecting);
                actions.push(Action::MakeReport(fence));
            }
        }
    }

    pub(super) fn reported(&mut self, fence: Fence, sent: Option<BootTime>) {
        self.held.insert(fence, Attempt::Reported { sent });
    }

    /// Whether it was held.
    pub(super) fn forget(&mut self, fence: Fence) -> bool {
        self.held.remove(&fence).is_some()
    }

    /// Forgets what earlier lists said. Called when a number is announced.
    pub(super) fn expect_lists(&mut self) {
        let is_open = |attempt: &Attempt| matches!(attempt, Attempt::Starting | Attempt::Running);
        self.unlisted =
            self.held.iter().filter(|(_, attempt)| is_open(attempt)).map(|(&fence, _)| fence).collect();
    }

    /// Takes one supervisor's list.
    pub(super) fn listed(&mut self, held: Vec<(Fence, Held)>, actions: &mut Vec<Action>) {
        for (fence, held) in held {
            self.unlisted.retain(|unlisted| *unlisted != fence);
            match (held, self.get(fence)) {
                // A fence that the journal does not know (a wiped directory) is held all the same: it runs.
                (Held::Running, None | Some(Attempt::Starting)) => {
                    self.held.insert(fence, Attempt::Running);
                }
                (Held::Running, Some(_)) => {}
                (Held::Ended(_), _) => self.ended(fence, actions),
            }
        }
    }

    /// Reports lost what no supervisor holds: all lists are here (PROTOCOL 5.5).
    pub(super) fn lose_unlisted(&mut self, actions: &mut Vec<Action>) {
        for fence in core::mem::take(&mut self.unlisted) {
            self.held.insert(fence, Attempt::Collecting);
            actions.push(Action::MakeLost(fence));
        }
        actions.extend(core::mem::take(&mut self.to_collect).into_iter().map(Action::MakeReport));
    }

    /// All that is held, as `Hello` names it.
    pub(super) fn held(&self) -> Vec<(Fence, HeldAs)> {
        let held_as = |attempt: &Attempt| match attempt {
            Attempt::Starting | Attempt::Running => HeldAs::Running,
            Attempt::Collecting | Attempt::Reported { .. } => HeldAs::Ended,
        };
        self.held.iter().map(|(&fence, attempt)| (fence, held_as(attempt))).collect()
    }

    /// Fences that may have living processes.
    pub(super) fn running(&self) -> impl Iterator<Item = Fence> {
        let is_running = |attempt: &Attempt| matches!(attempt, Attempt::Starting | Attempt::Running);
        self.held.iter().filter(move |(_, attempt)| is_running(attempt)).map(|(&fence, _)| fence)
    }

    /// When the report that waits longest for its acknowledgement was sent.
    pub(super) fn next_resend(&self) -> Option<BootTime> {
        let sent = |attempt: &Attempt| match attempt {
            Attempt::Reported { sent } => *sent,
            Attempt::Starting | Attempt::Running | Attempt::Collecting => None,
        };
        self.held.values().filter_map(sent).min()
    }

    /// Sends every report that waits.
    pub(super) fn resend(&mut self, now: BootTime, actions: &mut Vec<Action>) {
        for (&fence, attempt) in &mut self.held {
            if let Attempt::Reported { sent } = attempt {
                *sent = Some(now);
                actions.push(Action::SendReport(fence));
            }
        }
    }
}
