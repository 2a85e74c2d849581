//! What watches see when they look: a run or a list, worked out once for each state however many of them look.
//!
//! Never decides what is told of it; that is for each watch, which knows what it told before. Start reading at [`Looks`].

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use matins_core::State;
use matins_core::history::RetiredRun;
use matins_core::id::{LogIndex, RunId};
use matins_proto::v1::{Run, Task};

use super::list::Lines;
use crate::serve::view::run::whole;
use crate::serve::view::task::Detail;

/// Runs, and lists, that are kept. Each may be some megabytes.
const KEPT_MAX: usize = 16;

/// What was seen last. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(crate) struct Looks(Arc<Kept>);

#[derive(Default)]
struct Kept {
    runs: Shared<RunId, Shown>,
    lists: Shared<Vec<u8>, Listed>,
}

impl Looks {
    /// A run, if it has not left the state.
    pub(super) fn run(&self, run: RunId, state: &State) -> Option<Arc<Shown>> {
        let work = || Shown::new(&state.retired(run).expect("it is in the state"), state);
        state.runs.contains(&run).then(|| self.0.runs.look(&run, state.index, work))
    }

    /// The lines of a list in the state, so many at most; `key` stands for both.
    pub(super) fn list(&self, key: &Vec<u8>, (lines, limit): (&Lines, usize), state: &State) -> Arc<Listed> {
        self.0.lists.look(key, state.index, || Listed::new(lines.of_state(state, limit)))
    }
}

/// Things by what was asked, each as of one state.
struct Shared<K, V>(Mutex<BTreeMap<K, (LogIndex, Arc<V>)>>);

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone, V> Shared<K, V> {
    /// What is kept, or else worked out; by two who look at once, twice.
    fn look(&self, key: &K, index: LogIndex, work: impl FnOnce() -> V) -> Arc<V> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, seen)) = kept().get(key).filter(|(at, _)| *at == index) {
            return Arc::clone(seen);
        }
        let seen = Arc::new(work());
        let mut kept = kept();
        if kept.len() >= KEPT_MAX && !kept.contains_key(key) {
            kept.retain(|_, (at, _)| *at >= index);
        }
        if kept.len() >= KEPT_MAX {
            kept.pop_first();
        }
        kept.insert(key.clone(), (index, Arc::clone(&seen)));
        seen
    }
}

/// A run as a watch tells it.
pub(super) struct Shown {
    /// Without tasks.
    pub(super) run: Run,
    /// Without items, in the order of the definition.
    pub(super) tasks: Vec<(u64, Task)>,
    pub(super) items: Vec<(u64, Task)>,
    /// Stands for all of it.
    pub(super) prints: Arc<RunPrints>,
}

/// What a watch remembers of a run that it told: small, since a reader may leave it there for hours, and ten thousand may.
pub(super) struct RunPrints {
    pub(super) run: u64,
    /// Of all tasks and items, in order.
    pub(super) tasks: Vec<u64>,
}

impl Shown {
    pub(super) fn new(rows: &RetiredRun, state: &State) -> Self {
        let mut run = whole(rows, state, (Detail::NoOutputs, usize::MAX));
        let mut tasks = std::mem::take(&mut run.tasks);
        let items = tasks.iter_mut().flat_map(|task| std::mem::take(&mut task.items));
        let printed = |task: Task| (print(&task), task);
        let items: Vec<_> = items.map(printed).collect();
        let tasks: Vec<_> = tasks.into_iter().map(printed).collect();
        let mut prints: Vec<u64> = tasks.iter().chain(&items).map(|(print, _)| *print).collect();
        prints.sort_unstable();
        let prints = Arc::new(RunPrints { run: print(&run), tasks: prints });
        Self { run, tasks, items, prints }
    }
}

/// The lines of a list, the newest first.
pub(super) struct Listed {
    pub(super) runs: Vec<(RunId, u64, Run)>,
    /// Their ids.
    pub(super) lines: BTreeSet<RunId>,
    /// Runs that they stand for as well.
    pub(super) folded: BTreeSet<RunId>,
}

impl Listed {
    pub(super) fn new(runs: Vec<Run>) -> Self {
        let folded = runs.iter().flat_map(|run| &run.retries).filter_map(|run| run.parse().ok()).collect();
        let printed = |run: Run| Some((run.id.parse().ok()?, print(&run), run));
        let runs: Vec<(RunId, u64, Run)> = runs.into_iter().filter_map(printed).collect();
        Self { lines: runs.iter().map(|(id, _, _)| *id).collect(), folded, runs }
    }
}

/// Stands for a message: two that differ have the same one once in 2^64.
fn print(message: &impl prost::Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&message.encode_to_vec());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_often_is_worked_out_once_and_little_is_kept() {
        let shared: Shared<u64, u64> = Shared::default();
        let look = |key: u64, index: u64, work: u64| *shared.look(&key, LogIndex(index), || work);
        assert_eq!((look(1, 5, 10), look(1, 5, 11), look(1, 6, 12), look(1, 6, 13)), (10, 10, 12, 12));
        for key in 0..100 {
            assert_eq!(look(key, 7, key), key);
        }
        assert_eq!(shared.0.lock().unwrap().len(), KEPT_MAX);
    }
}
