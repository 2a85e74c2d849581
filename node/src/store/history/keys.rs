//! The keys of the orders: an order's tag, what it is by, then maybe a logical time, and a run, so that they sort by these.

use matins_core::id::Digest;

use super::{Filter, IndexedRun, Order, PageToken};

const BY_WORKFLOW: u8 = 1;
const BY_PAIR: u8 = 2;
const BY_CHAIN: u8 = 3;

/// The keys under which a run is listed.
pub(super) fn of_run(run: &IndexedRun) -> Vec<Vec<u8>> {
    let mut by_time = prefix(BY_WORKFLOW, &[&run.workflow]);
    push_place(&mut by_time, run.logical_time, run.run);
    let mut keys = vec![by_time];
    keys.push([&prefix(BY_PAIR, &[&run.workflow, &run.state])[..], &run.run.to_be_bytes()].concat());
    if run.retry_of.is_some() {
        keys.push(in_chain(run.retry_root, run.run));
    }
    keys
}

/// The keys of the runs of a workflow that ended in a state and have lower ids.
pub(super) fn of_pair(workflow: &str, state: &str, before: u64) -> (Vec<u8>, Vec<u8>) {
    let first = prefix(BY_PAIR, &[workflow, state]);
    let end = [&first[..], &before.to_be_bytes()].concat();
    (first, end)
}

/// The keys of the runs of a chain of retries that come after one of it.
pub(super) fn later_in_chain(root: u64, run: u64) -> (Vec<u8>, Vec<u8>) {
    let mut first = in_chain(root, run);
    first.push(0);
    let mut end = in_chain(root, u64::MAX);
    end.push(0);
    (first, end)
}

fn in_chain(root: u64, run: u64) -> Vec<u8> {
    [&[BY_CHAIN][..], &root.to_be_bytes(), &run.to_be_bytes()].concat()
}

/// The keys that a list reads, from the first to before the second.
pub(super) fn range(filter: &Filter, after: Option<PageToken>, order: Order) -> (Vec<u8>, Vec<u8>) {
    let prefix = prefix(BY_WORKFLOW, &[&filter.workflow]);
    let (mut first, mut end, mut place) = (prefix.clone(), prefix.clone(), prefix);
    push_place(&mut first, filter.from.unwrap_or(i64::MIN), 0);
    match filter.until {
        Some(until) => push_place(&mut end, until, 0),
        // Longer than any place, and not before any.
        None => end.extend_from_slice(&[0xff; 17]),
    }
    if let Some(PageToken { logical_time, run }) = after {
        push_place(&mut place, logical_time, run);
        match order {
            Order::NewestFirst => end = end.min(place),
            Order::OldestFirst => {
                place.push(0);
                first = first.max(place);
            }
        }
    }
    (first, end)
}

/// Names a part of a block's members.
pub(super) fn members(block: &Digest, part: u32) -> Vec<u8> {
    [&block.0[..], &part.to_be_bytes()].concat()
}

/// The run at the end of a key. `None`: it is no key of ours, so the index is damaged.
pub(super) fn run_of(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|run| u64::from_be_bytes(*run))
}

/// Texts carry their length, so that none is the beginning of another.
fn prefix(tag: u8, texts: &[&str]) -> Vec<u8> {
    let mut key = vec![tag];
    for text in texts {
        key.extend_from_slice(&(text.len() as u32).to_be_bytes());
        key.extend_from_slice(text.as_bytes());
    }
    key
}

fn push_place(key: &mut Vec<u8>, logical_time: i64, run: u64) {
    // The flipped sign makes the times before 1970 sort before the others.
    key.extend_from_slice(&(logical_time as u64 ^ (1 << 63)).to_be_bytes());
    key.extend_from_slice(&run.to_be_bytes());
}
