//! What all nodes did, seen from outside and at once: entries as they are applied, who leads, and what clients heard.
//!
//! It is shared by all hosts of a seed, which run in one thread, and by the one who plays fate. It judges while things happen
//! and remembers the first broken promise. Its digest covers every applied entry with its simulated time, which is how two
//! tellings of one seed are compared.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use matins_core::id::{Digest, Fence, ScheduleId};
use matins_core::time::Timestamp;
use matins_core::{Effect, State};
use matins_node::raft::AppliedEntry;
use sha2::{Digest as _, Sha256};

/// Every so many entries the whole state is hashed and checked.
const HASH_EVERY: u64 = 16;

/// How far the story is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The cluster is made.
    #[default]
    Founding,
    /// Work under faults.
    Faults,
    /// Everything is healed: new work must be done.
    Healed,
    /// Nobody asks for anything any more; the nodes say what they have.
    Audit,
}

/// What a client's request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was acknowledged: the run that it made.
    Acknowledged(u64),
    /// It was refused.
    Refused,
    /// Nobody knows.
    Maybe,
}

/// The observer of one seed; clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Observer(Rc<RefCell<Inner>>);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) phase: Phase,
    pub(super) failure: Option<String>,
    trace: Sha256,
    pub(super) commits: u64,
    pub(super) leaders: u64,
    last_leader: Option<u64>,
    /// Checkpoints that a majority agreed on: each becomes a snapshot, and the log is cut behind it.
    pub(super) checkpoints: u64,
    /// Runs that left for history.
    pub(super) blocks: u64,
    /// Index to what the first node found there: its time and answers, and its state's hash at some.
    applied: BTreeMap<u64, (Timestamp, Digest, Option<Digest>)>,
    /// Who led in a term, and in which life of its process.
    led: BTreeMap<(u64, usize), u64>,
    /// The node that is ready to lead, as far as is known, and its term.
    pub(super) leading: BTreeMap<usize, u64>,
    /// Since when each schedule is there: its first mark.
    pub(super) marks_began: BTreeMap<ScheduleId, Timestamp>,
    /// The newest state of each node.
    pub(super) newest: BTreeMap<usize, Arc<State>>,
    /// Clients' requests, by request id.
    pub(super) requests: BTreeMap<String, Fate>,
    /// When an answer with which index came, newest last; indexes only rise.
    answers: BTreeMap<Duration, u64>,
    pub(super) reads: u64,
    pub(super) acknowledged: u64,
    pub(super) acknowledged_healed: BTreeSet<usize>,
    /// Tasks that run now, each with the fences of its processes.
    running: BTreeMap<String, BTreeSet<Fence>>,
    pub(super) attempts: u64,
    /// How often the nodes were asked what they have.
    pub(super) audit: u64,
    /// What each node has at the end.
    pub(super) audits: BTreeMap<usize, super::audit::Audit>,
}

impl Observer {
    /// The first broken promise stays.
    pub(super) fn fail(&self, what: impl Into<String>) {
        self.fail_at(turmoil::sim_elapsed().unwrap_or_default(), what);
    }

    /// The same, from outside of the simulation.
    pub(super) fn fail_at(&self, at: Duration, what: impl Into<String>) {
        let mut inner = self.0.borrow_mut();
        if inner.failure.is_none() {
            inner.failure = Some(format!("{} (at {:.3} s)", what.into(), at.as_secs_f64()));
        }
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&mut Inner) -> R) -> R {
        look(&mut self.0.borrow_mut())
    }

    pub(super) fn phase(&self) -> Phase {
        self.0.borrow().phase
    }

    /// The digest of everything that was applied, when and where.
    pub(super) fn digest(&self) -> String {
        let trace = self.0.borrow().trace.clone().finalize();
        trace.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Anything that must be the same in both tellings.
    pub(super) fn trace(&self, what: &str) {
        self.trace_at(turmoil::sim_elapsed().unwrap_or_default(), what);
    }

    /// The same, from outside of the simulation.
    pub(super) fn trace_at(&self, at: Duration, what: &str) {
        self.0.borrow_mut().trace.update(format!("{} {what}\n", at.as_nanos()));
    }

    /// A node applied an entry.
    pub(super) fn applied(&self, node: usize, entry: &AppliedEntry) {
        let index = entry.index.0;
        let told = format!("{:?}", entry.answers);
        self.trace(&format!("n{node} {index} {} {told}", entry.at.as_millis()));
        let answers = Digest::of(told.as_bytes());
        let is_new = !self.0.borrow().applied.contains_key(&index);
        let hash = index.is_multiple_of(HASH_EVERY).then(|| entry.state.hash());
        if is_new && hash.is_some() {
            for broken in entry.state.check() {
                self.fail(format!("{broken} (after entry {index})"));
            }
        }
        let found = (entry.at, answers, hash);
        let first = self.with(|inner| {
            inner.newest.insert(node, Arc::clone(&entry.state));
            inner.commits = inner.commits.max(index);
            inner.note_leader(&entry.state);
            inner.note_schedules(&entry.state);
            if is_new {
                inner.note_effects(&entry.effects);
            }
            *inner.applied.entry(index).or_insert(found)
        });
        if first != found {
            self.fail(format!(
                "I11: entry {index} came to something else on n{node}: {first:?} and {found:?}"
            ));
        }
    }

    /// A process of a task begins: it is the only one (I6).
    pub(super) fn task_started(&self, at: Duration, task: &str, fence: Fence) {
        self.trace_at(at, &format!("{task} runs under {}", fence.0));
        let others = self.with(|inner| {
            inner.attempts += 1;
            let running = inner.running.entry(task.to_owned()).or_default();
            running.insert(fence);
            running.clone()
        });
        if others.len() > 1 {
            self.fail_at(at, format!("I6: {task} runs under several fences at once: {others:?}"));
        }
    }

    /// A process of a task is gone.
    pub(super) fn task_ended(&self, at: Duration, task: &str, fence: Fence) {
        self.trace_at(at, &format!("{task} ended under {}", fence.0));
        self.with(|inner| {
            if let Some(running) = inner.running.get_mut(task) {
                running.remove(&fence);
            }
        });
    }

    /// A node is ready to lead in this term, or does not lead any more. `life` counts its processes.
    pub(super) fn leads(&self, node: usize, life: u64, term: Option<u64>) {
        self.trace(&format!("n{node} leads in {term:?}"));
        let Some(term) = term else {
            self.with(|inner| inner.leading.remove(&node));
            return;
        };
        let before = self.with(|inner| {
            inner.leading.insert(node, term);
            *inner.led.entry((term, node)).or_insert(life)
        });
        if before != life {
            self.fail(format!(
                "PROTOCOL 2.2: n{node} leads in term {term} without an election after its restart"
            ));
        }
    }

    /// A request began at `began` and was answered now, at an index: no answer that came before it began may be newer.
    pub(super) fn answered(&self, what: &str, began: Duration, index: u64) {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        let newest = self.with(|inner| {
            let newest_at = |answers: &BTreeMap<Duration, u64>, at| {
                answers.range(..at).next_back().map_or(0, |(_, index)| *index)
            };
            let so_far = newest_at(&inner.answers, now).max(index);
            let slot = inner.answers.entry(now).or_insert(0);
            *slot = so_far.max(*slot);
            // Hosts take turns, so a later instant of another host may be noted already.
            for (_, later) in inner.answers.range_mut(now..) {
                *later = index.max(*later);
            }
            newest_at(&inner.answers, began)
        });
        if index < newest {
            self.fail(format!(
                "PROTOCOL 7: {what} was answered at index {index}, and index {newest} was answered before it was asked"
            ));
        }
    }
}

impl Inner {
    /// Whether every run that was made before this instant of the simulation has ended, by the newest state there is.
    pub(super) fn all_ended(&self, epoch_secs: u64, before: Duration) -> bool {
        let before = Timestamp::from_millis(epoch_secs as i64 * 1_000 + before.as_millis() as i64);
        let newest = self.newest.values().max_by_key(|state| state.index);
        newest.is_some_and(|state| {
            state
                .active
                .iter()
                .all(|((_, run), ())| state.runs.get(run).is_none_or(|row| row.created_at > before))
        })
    }

    fn note_leader(&mut self, state: &State) {
        let leader = state.cluster.leader.as_ref().map(|leader| leader.leadership.0);
        if leader > self.last_leader {
            self.last_leader = leader;
            self.leaders += 1;
        }
    }

    fn note_effects(&mut self, effects: &[Effect]) {
        let count = |is: fn(&Effect) -> bool| effects.iter().filter(|effect| is(effect)).count() as u64;
        self.checkpoints += count(|effect| matches!(effect, Effect::Agreed { .. }));
        self.blocks += count(|effect| matches!(effect, Effect::Block { .. }));
    }

    fn note_schedules(&mut self, state: &State) {
        if self.marks_began.len() < state.schedules.len() {
            for (id, row) in state.schedules.iter() {
                self.marks_began.entry(id.clone()).or_insert(row.mark);
            }
        }
    }
}
