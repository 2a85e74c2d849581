//! The checker of linearizability: pure, over requests with the log index of each answer.
//!
//! The log is the order. So it is enough that (a) the order of indexes agrees with real time: what began after another
//! request was answered has an index that is not lower, and a write a higher one; and (b) each read shows, for each
//! object, the newest write at or below its index. A write without an answer may have happened, once, at some index
//! above all that was answered before it was sent. Start at [`broken`].

use std::collections::{BTreeMap, BTreeSet};

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// No two writes have the same value.
    Write { pool: usize, value: u32 },
    /// The values of all objects at one index; `None`: the object is not there.
    Read { values: Vec<Option<u32>>, is_stale: bool },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered { at: u64, index: u64 },
    Refused,
    Maybe,
}

/// One request. Times are of the boot-time clock.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    pub(crate) node: usize,
    pub(crate) invoked: u64,
    pub(crate) fate: Fate,
}

/// All requests, in any order.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The index at which each object was made, with the value 0, before the first request was sent.
    pub(crate) made: Vec<u64>,
    pub(crate) operations: Vec<Operation>,
}

/// What breaks linearizability, or the promise of a stale read.
pub(crate) fn broken(history: &History) -> Vec<String> {
    let floors = floors(&history.operations);
    let mut broken = real_time(&history.operations, &floors);
    for (pool, made) in history.made.iter().enumerate() {
        broken.extend(values(&Object::of(history, pool, *made, &floors)));
    }
    let newest = history.made.iter().max().copied().unwrap_or(0);
    for operation in &history.operations {
        if let (Action::Read { is_stale: false, .. }, Fate::Answered { index, .. }) =
            (&operation.action, operation.fate)
            && index < newest
        {
            broken.push(format!("7: a read shows index {index}, and {newest} had been answered before"));
        }
    }
    broken
}

/// For each request the highest index that had been answered to anyone before it was sent.
fn floors(operations: &[Operation]) -> Vec<u64> {
    // A stale read proves an index as well as any: what it shows had been applied.
    let answered = operations.iter().filter_map(|it| match it.fate {
        Fate::Answered { at, index } => Some((at, index)),
        Fate::Refused | Fate::Maybe => None,
    });
    let mut answers: Vec<(u64, u64)> = answered.collect();
    answers.sort_unstable();
    let mut highest = 0;
    let mut highest_until: Vec<(u64, u64)> = Vec::with_capacity(answers.len());
    for (at, index) in answers {
        highest = highest.max(index);
        highest_until.push((at, highest));
    }
    let floor = |it: &Operation| {
        let before = highest_until.partition_point(|(at, _)| *at < it.invoked);
        before.checked_sub(1).map_or(0, |last| highest_until[last].1)
    };
    operations.iter().map(floor).collect()
}

/// (a): indexes agree with real time.
fn real_time(operations: &[Operation], floors: &[u64]) -> Vec<String> {
    let mut broken = Vec::new();
    for (operation, floor) in operations.iter().zip(floors) {
        let Fate::Answered { index, .. } = operation.fate else { continue };
        match &operation.action {
            Action::Read { is_stale: false, .. } if index < *floor => broken.push(format!(
                "7: node {} answered a read at index {index} after {floor} had been answered elsewhere",
                operation.node
            )),
            Action::Write { value, .. } if index <= *floor => broken.push(format!(
                "7: the write of {value} has index {index}, and {floor} was answered before it was sent"
            )),
            Action::Read { .. } | Action::Write { .. } => {}
        }
    }
    broken
}

/// All that concerns one object.
struct Object {
    pool: usize,
    made: u64,
    /// Values written, by index; an entry may hold several writes.
    writes: BTreeMap<u64, BTreeSet<u32>>,
    /// Values read, by index; `None`: the object was not there.
    reads: BTreeMap<u64, BTreeSet<Option<u32>>>,
    /// Of each write without an answer the index above which it happened, if it did.
    maybes: BTreeMap<u32, u64>,
}

impl Object {
    fn of(history: &History, pool: usize, made: u64, floors: &[u64]) -> Self {
        let (writes, reads, maybes) = Default::default();
        let mut object = Self { pool, made, writes, reads, maybes };
        for (operation, floor) in history.operations.iter().zip(floors) {
            match (&operation.action, operation.fate) {
                (Action::Write { pool: of, value }, Fate::Answered { index, .. }) if *of == pool => {
                    object.writes.entry(index).or_default().insert(*value);
                }
                (Action::Write { pool: of, value }, Fate::Maybe) if *of == pool => {
                    object.maybes.insert(*value, *floor);
                }
                (Action::Read { values, .. }, Fate::Answered { index, .. }) => {
                    object.reads.entry(index).or_default().insert(values.get(pool).copied().flatten());
                }
                (Action::Write { .. } | Action::Read { .. }, _) => {}
            }
        }
        object
    }
}

/// (b): walks up the log and holds each read against what was written.
fn values(object: &Object) -> Vec<String> {
    let mut broken = Vec::new();
    let mut possible = BTreeSet::from([0]);
    let mut placed = BTreeSet::new();
    let indexes: BTreeSet<u64> = object.writes.keys().chain(object.reads.keys()).copied().collect();
    for index in indexes {
        if let Some(values) = object.writes.get(&index) {
            // Their order within the entry is not known: the first read tells which was the last.
            possible.clone_from(values);
        }
        let Some(reads) = object.reads.get(&index) else { continue };
        let name = format!("pool {} at index {index}", object.pool);
        if index < object.made && reads.iter().all(Option::is_none) {
            // A stale read of a node that lags may show a state from before it was made.
            continue;
        }
        if reads.len() > 1 {
            broken.push(format!("7: {name}: reads of one state differ: {reads:?}"));
            continue;
        }
        let Some(Some(value)) = reads.first().copied() else {
            broken.push(format!("I10: {name}: it is not there"));
            continue;
        };
        if possible.contains(&value) {
            possible = BTreeSet::from([value]);
            continue;
        }
        match object.maybes.get(&value) {
            Some(floor) if index > *floor && placed.insert(value) => possible = BTreeSet::from([value]),
            Some(floor) => broken.push(format!(
                "7: {name}: a read shows {value}, whose write has no answer, and which cannot have happened there \
                 (sent above index {floor}, or seen and overwritten before)"
            )),
            None => broken.push(format!("7: {name}: a read shows {value}, and what was written last is {possible:?}")),
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u32, invoked: u64, fate: Fate) -> Operation {
        Operation { action: Action::Write { pool: 0, value }, node: 0, invoked, fate }
    }

    fn read(value: u32, invoked: u64, at: u64, index: u64) -> Operation {
        let action = Action::Read { values: vec![Some(value)], is_stale: false };
        Operation { action, node: 1, invoked, fate: Fate::Answered { at, index } }
    }

    fn stale(value: u32, invoked: u64, at: u64, index: u64) -> Operation {
        let action = Action::Read { values: vec![Some(value)], is_stale: true };
        Operation { action, ..read(value, invoked, at, index) }
    }

    fn answered(at: u64, index: u64) -> Fate {
        Fate::Answered { at, index }
    }

    fn check(operations: &[Operation]) -> Vec<String> {
        broken(&History { made: vec![0], operations: operations.to_vec() })
    }

    #[test]
    fn only_a_stale_read_may_show_what_was_before_the_object() {
        let nothing = |is_stale, index| {
            let action = Action::Read { values: vec![None], is_stale };
            let operations = vec![Operation { action, ..read(0, 1, 2, index) }];
            broken(&History { made: vec![5], operations }).len()
        };
        assert_eq!(nothing(true, 4), 0);
        assert_eq!(nothing(true, 5), 1, "it was there by then");
        assert_eq!(nothing(false, 4), 1, "it had been answered");
    }

    #[test]
    fn reads_that_follow_writes_are_right() {
        let good = [
            read(0, 1, 2, 5),
            write(7, 3, answered(4, 6)),
            read(7, 5, 6, 6),
            stale(0, 7, 8, 5),
            // Two at the same time share an entry, and either may be the last.
            write(8, 10, answered(14, 9)),
            write(9, 10, answered(15, 9)),
            read(8, 16, 17, 9),
            read(8, 18, 19, 12),
        ];
        assert_eq!(check(&good), Vec::<String>::new());
    }

    #[test]
    fn a_maybe_may_happen_once_or_never() {
        let maybe = write(7, 3, Fate::Maybe);
        let before = read(0, 1, 2, 5);
        let right = |rest: &[Operation]| {
            assert_eq!(check(&[&[before.clone(), maybe.clone()], rest].concat()), Vec::<String>::new());
        };
        right(&[]);
        right(&[read(0, 4, 5, 6)]);
        right(&[read(0, 4, 5, 6), read(7, 6, 7, 9)]);
        right(&[write(8, 4, answered(5, 7)), read(7, 6, 7, 9)]);
        let twice = [read(7, 4, 5, 6), write(8, 6, answered(7, 7)), read(8, 8, 9, 8), read(7, 10, 11, 9)];
        assert_eq!(check(&[&[before, maybe], &twice[..]].concat()).len(), 1);
    }

    #[test]
    fn a_maybe_happens_above_what_was_known_when_it_was_sent() {
        assert_eq!(check(&[read(0, 1, 2, 5), write(7, 3, Fate::Maybe), stale(7, 4, 6, 4)]).len(), 1);
        assert_eq!(
            check(&[read(0, 1, 2, 5), write(7, 3, Fate::Maybe), stale(7, 4, 6, 6)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_refused_write_never_happened() {
        assert_eq!(check(&[write(7, 3, Fate::Refused), read(7, 4, 5, 6)]).len(), 1);
    }

    #[test]
    fn a_stale_read_that_nobody_asked_for_is_found() {
        let late = read(0, 5, 6, 5);
        let found = check(&[write(7, 3, answered(4, 6)), late]);
        assert_eq!(found, ["7: node 1 answered a read at index 5 after 6 had been answered elsewhere"]);
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_eq!(check(&[write(7, 3, answered(4, 6)), read(0, 5, 6, 8)]).len(), 1);
        // A stale read may be old, not wrong.
        assert_eq!(check(&[write(7, 3, answered(4, 6)), stale(0, 5, 6, 8)]).len(), 1);
        assert_eq!(check(&[write(7, 3, answered(4, 6)), stale(0, 5, 6, 5)]), Vec::<String>::new());
    }

    #[test]
    fn two_nodes_that_disagree_are_found() {
        assert_eq!(check(&[write(7, 1, answered(9, 6)), read(7, 2, 8, 7), read(0, 3, 8, 7)]).len(), 1);
    }

    #[test]
    fn a_write_below_what_was_answered_before_is_found() {
        // The read of that index does not show it either.
        assert_eq!(check(&[read(0, 1, 2, 9), write(7, 3, answered(4, 9))]).len(), 2);
        assert_eq!(check(&[write(7, 1, answered(2, 9)), write(8, 3, answered(4, 9))]).len(), 1);
    }

    #[test]
    fn an_object_that_is_gone_is_found() {
        let action = Action::Read { values: vec![None], is_stale: false };
        assert_eq!(check(&[Operation { action, ..read(0, 1, 2, 5) }]).len(), 1);
    }
}
