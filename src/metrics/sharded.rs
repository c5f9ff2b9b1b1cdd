//! A map in shards: none of its steps takes long. A map of millions of entries that grows moves all
//! of them at once, in which time a query cannot be cancelled and holds them twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};

/// Number of shards. One of 64 of a map of 16 Mi entries moves in some milliseconds.
pub const SHARDS: usize = 64;

/// A hash map in shards.
#[derive(Debug)]
pub struct ShardedMap<K, V> {
    shards: Vec<HashMap<K, V>>,
    hasher: RandomState,
}

impl<K, V> Default for ShardedMap<K, V> {
    fn default() -> Self {
        let shards = std::iter::repeat_with(HashMap::default);
        Self {
            shards: shards.take(SHARDS).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Hash + Eq, V> ShardedMap<K, V> {
    /// The entry of a key.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        let shard = self.hasher.hash_one(&key) as usize % SHARDS;
        #[expect(
            clippy::indexing_slicing,
            reason = "there are as many shards as the remainder may say"
        )]
        self.shards[shard].entry(key)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(HashMap::len).sum()
    }

    /// Bytes of the tables, without what keys and values point to.
    pub fn bytes(&self) -> u64 {
        let places: usize = self.shards.iter().map(HashMap::capacity).sum();
        table_bytes::<(K, V)>(places)
    }
}

impl<K, V> IntoIterator for ShardedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<HashMap<K, V>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.shards.into_iter().flatten()
    }
}

/// Bytes of a hash table with a capacity of `places` entries: an eighth stays free, and each place
/// has a byte for control.
pub fn table_bytes<T>(places: usize) -> u64 {
    (places as u64).saturating_mul(size_of::<T>() as u64 + 1) / 7 * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_again() {
        let mut map = ShardedMap::default();
        for _ in 0..2 {
            for key in 0..10_000_u32 {
                *map.entry(key).or_insert(0_u64) += u64::from(key);
            }
        }
        assert_eq!(map.len(), 10_000);
        assert!(map.bytes() >= 10_000 * 16);
        let mut entries: Vec<(u32, u64)> = map.into_iter().collect();
        entries.sort_unstable();
        let expected: Vec<(u32, u64)> = (0..10_000).map(|key| (key, 2 * u64::from(key))).collect();
        assert_eq!(entries, expected);
    }
}
