//! Bytes from disk and wire that are to become values of the core: entries, forwarded commands, states, blocks of history.
//!
//! Arbitrary bytes are refused without a panic; a valid encoding reads back; a damaged one is refused, or is the encoding of
//! something that then reads back itself.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the words of scripts are shared with the golden scripts"
)]

mod common;

use std::sync::OnceLock;

use common::Script;
use common::arbitrary::Source;
use matins_core::State;
use matins_core::command::{Entry, Proposal};
use matins_core::history::{Block, RetiredRun};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Changes some bytes, cuts some off, or puts some in.
fn damage(bytes: &mut Vec<u8>, changes: &[(prop::sample::Index, u8)]) {
    for (at, byte) in changes {
        let at = at.index(bytes.len() + 1);
        match byte % 4 {
            0 => bytes.insert(at, *byte),
            1 => bytes.truncate(at),
            _ => {
                if let Some(there) = bytes.get_mut(at) {
                    *there ^= byte | 1;
                }
            }
        }
    }
}

/// What reads, reads again from its own encoding as the same value.
fn is_canonical<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(read) = postcard::from_bytes::<T>(bytes) {
        let encoded = postcard::to_allocvec(&read).expect("what was read can be written");
        assert_eq!(postcard::from_bytes::<T>(&encoded).as_ref(), Ok(&read));
    }
}

fn check_all(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(Entry::decode(&entry.encode()).as_ref(), Ok(&entry));
    }
    if let Some(state) = State::decode(bytes) {
        assert_eq!(State::decode(&state.encode()).map(|again| again.hash()), Some(state.hash()));
    }
    if let Some(block) = Block::decode(bytes) {
        assert_eq!(Block::decode(&block.encode()).as_ref(), Some(&block));
    }
    // The places in a block are inside of it.
    for (_, place) in Block::places(bytes).unwrap_or_default() {
        assert!(bytes.get(place).is_some());
    }
    is_canonical::<Proposal>(bytes);
    is_canonical::<RetiredRun>(bytes);
}

/// The bytes of a state with rows of many kinds.
fn busy() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| busy_state().encode())
}

fn busy_state() -> State {
    let mut script = Script::founded();
    let lines = [
        "pool db 2",
        "apply w a b@a c@a s=tick pool=b@db",
        "open node-1 1 slots=3",
        "fire w@tick next=+60",
        "start w",
        "time +70",
        "fire w@tick next=+60",
        "finish %fence0 exit=0 log=1",
        "checkpoint",
    ];
    for line in lines {
        script.line(line).expect("the invariants hold");
    }
    script.state
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_all(&bytes);
    }

    #[test]
    fn an_entry_of_any_command_reads_back_and_a_damaged_one_does_no_harm(seed: u64, changes in changes()) {
        let mut source = Source::new(seed);
        source.now = 1_000_000;
        let proposals: Vec<Proposal> = (0..3).filter_map(|_| source.draw()).collect();
        let entry = Entry { level: 1, at: matins_core::time::Timestamp::from_millis(5), proposals };
        let mut bytes = entry.encode();
        prop_assert_eq!(Entry::decode(&bytes), Ok(entry));
        damage(&mut bytes, &changes);
        check_all(&bytes);
    }

    #[test]
    fn a_block_of_any_runs_reads_back_and_a_damaged_one_does_no_harm(seed: u64, changes in changes()) {
        let mut source = Source::new(seed);
        let runs: Vec<RetiredRun> = (0..2).filter_map(|_| source.draw()).collect();
        let block = Block { level: 1, runs };
        let mut bytes = block.encode();
        let places = Block::places(&bytes).expect("a block has places");
        prop_assert_eq!(places.len(), block.runs.len());
        prop_assert_eq!(Block::decode(&bytes), Some(block));
        damage(&mut bytes, &changes);
        check_all(&bytes);
    }

    #[test]
    fn a_damaged_state_is_refused_or_reads_back(changes in changes()) {
        let mut bytes = busy().to_vec();
        damage(&mut bytes, &changes);
        check_all(&bytes);
    }
}
