//! Large outputs that were read for templates, and who waits for them. A cache: nothing is lost when it is emptied.

use std::collections::{BTreeMap, BTreeSet};

use matins_core::id::Digest;

use super::queue::Key;
use super::scope::{Fetched, Outputs};

/// Text kept at once. One output has 16 MiB at most (DESIGN 5).
const BYTES_MAX: usize = 64 << 20;

/// Outputs by the blob that holds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutputCache {
    fetched: BTreeMap<Digest, Fetched>,
    bytes: usize,
    waiting: BTreeMap<Digest, BTreeSet<Key>>,
}

impl OutputCache {
    /// `key` waits for an output. `true`: it is to be read; `false`: that is under way.
    pub(crate) fn wants(&mut self, digest: Digest, key: Key) -> bool {
        let waiting = self.waiting.entry(digest).or_default();
        let is_first = waiting.is_empty();
        waiting.insert(key);
        is_first
    }

    /// An output was read, or is lost. Gives those that waited for it. `NotYet`: it cannot be read now, and they ask again.
    pub(crate) fn read(&mut self, digest: Digest, fetched: Fetched) -> BTreeSet<Key> {
        if let Fetched::Text(text) = &fetched {
            if self.bytes + text.len() > BYTES_MAX {
                self.fetched.clear();
                self.bytes = 0;
            }
            self.bytes += text.len();
        }
        match fetched {
            // What is lost now may be found later; those that wait hear of it once.
            Fetched::Text(_) | Fetched::Lost => {
                self.fetched.insert(digest, fetched);
            }
            Fetched::NotYet => {}
        }
        self.waiting.remove(&digest).unwrap_or_default()
    }
}

impl Outputs for OutputCache {
    fn output(&self, digest: &Digest) -> Fetched {
        self.fetched.get(digest).cloned().unwrap_or(Fetched::NotYet)
    }
}
