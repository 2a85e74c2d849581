//! The one type of every table in `State`: an ordered map whose copies share structure.
//!
//! A copy costs O(1), so that snapshots, hashes and reads work on copies and never hold `apply` up
//! (PROTOCOL 6.3). Each table counts the canonical bytes of its rows, since the budget is counted inside `apply`.

use core::fmt;
use core::ops::{Bound, RangeBounds};

use rpds::RedBlackTreeMapSync;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};

/// An ordered map with structural sharing.
pub struct Table<K: Ord, V> {
    rows: RedBlackTreeMapSync<K, V>,
    bytes: u64,
}

impl<K: Ord + Clone + Serialize, V: Clone + Serialize> Table<K, V> {
    /// A table without rows.
    pub fn new() -> Self {
        Self { rows: RedBlackTreeMapSync::new_sync(), bytes: 0 }
    }

    /// The row of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Whether there is a row of `key`.
    pub fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Canonical bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts a row in the place of the one there was.
    pub fn insert(&mut self, key: K, row: V) {
        if let Some(old) = self.rows.get(&key) {
            self.bytes -= size(&key) + size(old);
        }
        self.bytes += size(&key) + size(&row);
        self.rows.insert_mut(key, row);
    }

    /// Takes the row of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let row = self.rows.get(key)?.clone();
        self.bytes -= size(key) + size(&row);
        self.rows.remove_mut(key);
        Some(row)
    }

    /// Changes the row of `key`, if there is one, and gives back what `change` gives.
    pub fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut row = self.rows.get(key)?.clone();
        let before = size(&row);
        let result = change(&mut row);
        self.bytes = self.bytes - before + size(&row);
        self.rows.insert_mut(key.clone(), row);
        Some(result)
    }

    /// All rows, in order of key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    /// The rows of a range of keys, in order.
    pub fn range(&self, keys: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        // rpds panics on an empty range that is turned round; a query may well be one.
        let keys = (keys.start_bound().cloned(), keys.end_bound().cloned());
        let is_empty = match (&keys.0, &keys.1) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
            | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        };
        (!is_empty).then(|| self.rows.range(keys)).into_iter().flatten()
    }

    /// The row with the least key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.rows.first()
    }

    /// The row with the greatest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        self.rows.last()
    }
}

impl<K: Ord + Clone + Serialize, V: Clone + Serialize> Default for Table<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), bytes: self.bytes }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl<K: Ord + Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.rows.size()))?;
        for row in &self.rows {
            rows.serialize_element(&row)?;
        }
        rows.end()
    }
}

impl<'de, K, V> Deserialize<'de> for Table<K, V>
where
    K: Ord + Clone + Serialize + Deserialize<'de>,
    V: Clone + Serialize + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows<K, V>(core::marker::PhantomData<(K, V)>);

        impl<'de, K, V> Visitor<'de> for Rows<K, V>
        where
            K: Ord + Clone + Serialize + Deserialize<'de>,
            V: Clone + Serialize + Deserialize<'de>,
        {
            type Value = Table<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the rows of a table")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
                let mut table = Table::new();
                while let Some((key, row)) = rows.next_element()? {
                    table.insert(key, row);
                }
                Ok(table)
            }
        }

        deserializer.deserialize_seq(Rows(core::marker::PhantomData))
    }
}

/// Canonical bytes of one value.
fn size(value: &impl Serialize) -> u64 {
    // The only failures are a sequence of unknown length and a custom error, and our rows have neither.
    postcard::experimental::serialized_size(value).map_or(0, |bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_rows_that_are_there() {
        let mut table = Table::new();
        table.insert(1u64, "one".to_string());
        table.insert(2, "two".to_string());
        table.insert(1, "eins".to_string());
        assert_eq!(table.bytes(), 1 + 5 + 1 + 4);
        table.update(&2, String::clear);
        assert_eq!(table.bytes(), 1 + 5 + 1 + 1);
        table.remove(&1);
        table.remove(&2);
        assert_eq!(table.bytes(), 0);
    }

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut table = Table::new();
        table.insert(1u64, 1u64);
        let copy = table.clone();
        table.insert(1, 2);
        assert_eq!(copy.get(&1), Some(&1));
    }

    #[test]
    fn a_range_turned_round_is_empty() {
        let mut table = Table::new();
        table.insert(1u64, ());
        assert_eq!(table.range((Bound::Included(5), Bound::Excluded(2))).count(), 0);
        assert_eq!(table.range((Bound::Excluded(1), Bound::Included(1))).count(), 0);
        assert_eq!(table.range(..=1).map(|(key, ())| *key).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_table_reads_back() {
        let mut table = Table::new();
        for key in 0u64..100 {
            table.insert(key, key.to_string());
        }
        let bytes = postcard::to_allocvec(&table).expect("rows encode");
        let back: Table<u64, String> = postcard::from_bytes(&bytes).expect("rows decode");
        assert_eq!(back, table);
        assert_eq!(back.bytes(), table.bytes());
    }
}
