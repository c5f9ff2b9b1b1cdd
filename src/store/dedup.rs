//! The event ids of the last 7 days, by which a re-send is known.
//!
//! The set is derived from the events themselves at every start, never stored on its own: a second file
//! with a durability of its own could disagree with the data after a power cut.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::window::{DAY_US, HOUR_US};

/// Two events with one id are one event if received at most this far apart, in µs.
pub const WINDOW_US: i64 = 7 * DAY_US;

/// A 128-bit digest of an event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKey([u64; 2]);

impl std::hash::Hash for EventKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Makes keys. Its seed is secret and new in each process, so that nobody can craft two ids of one key.
#[derive(Debug, Clone, Copy)]
pub struct KeyMaker {
    seed: u64,
}

impl KeyMaker {
    /// A maker with a fresh seed.
    pub fn new() -> Self {
        // Without the system's randomness the seed is guessable, which harms only the guesser's own events.
        Self {
            seed: getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15),
        }
    }

    /// The key of an id.
    pub fn key(self, event_id: &str) -> EventKey {
        let digest = xxh3_128_with_seed(event_id.as_bytes(), self.seed);
        EventKey([digest as u64, (digest >> 64) as u64])
    }
}

/// Keys are digests already: their first half is their hash.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }
}

/// Parts of the set. A table that grows moves all its entries at once, which for one table of millions of ids
/// is a pause of a tenth of a second before the next reply; a part's share of that is not felt.
const SHARDS: usize = 256;
/// Places that ids fall on with equal chance, each of one shard.
const SLOTS: usize = 4_096;

/// The ids seen in the last [`WINDOW_US`], each with when it was first received.
pub struct RecentIds {
    shards: Vec<Shard>,
    /// The shard of each slot. Shards get shares from 1 to 2 in a geometric row, so that while the set doubles
    /// they grow one after the other; equal shards would all grow at the same moment.
    shard_of_slot: Vec<u8>,
}

/// The ids whose keys begin alike.
#[derive(Clone, Default)]
struct Shard {
    received_at_us: HashMap<EventKey, i64, BuildHasherDefault<DigestHasher>>,
    forgotten_at_us: i64,
}

impl RecentIds {
    /// No ids.
    pub fn new() -> Self {
        Self {
            shards: vec![Shard::default(); SHARDS],
            shard_of_slot: (0..SLOTS)
                .map(|slot| (SHARDS as f64 * (1.0 + slot as f64 / SLOTS as f64).log2()) as u8)
                .collect(),
        }
    }

    /// Takes the id in. False if it was there: the event is a duplicate.
    pub fn insert(&mut self, key: EventKey, received_at_us: i64) -> bool {
        self.shard(key)
            .is_none_or(|shard| shard.insert(key, received_at_us))
    }

    /// Takes an id back whose event could not be stored.
    pub fn remove(&mut self, key: EventKey) {
        if let Some(shard) = self.shard(key) {
            shard.received_at_us.remove(&key);
        }
    }

    fn shard(&mut self, key: EventKey) -> Option<&mut Shard> {
        // The half that is not the hash inside the shard.
        let slot = self.shard_of_slot.get(key.0[1] as usize % SLOTS)?;
        self.shards.get_mut(usize::from(*slot))
    }
}

impl Shard {
    fn insert(&mut self, key: EventKey, received_at_us: i64) -> bool {
        self.forget_old(received_at_us);
        match self.received_at_us.get_mut(&key) {
            Some(first) if received_at_us - *first <= WINDOW_US => false,
            Some(first) => {
                *first = received_at_us;
                true
            }
            None => {
                self.received_at_us.insert(key, received_at_us);
                true
            }
        }
    }

    /// Once an hour of event time, drops what no new event can repeat.
    fn forget_old(&mut self, now_us: i64) {
        if now_us - self.forgotten_at_us > HOUR_US {
            self.received_at_us
                .retain(|_, first| now_us - *first <= WINDOW_US);
            self.forgotten_at_us = now_us;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_again_after_seven_days_and_not_before() {
        let key = KeyMaker::new().key("0197a6f0-0000-7000-8000-000000000000");
        let start = 1_761_040_800_000_000;
        let mut ids = RecentIds::new();
        assert!(ids.insert(key, start));
        assert!(!ids.insert(key, start));
        assert!(!ids.insert(key, start + WINDOW_US));
        assert!(ids.insert(key, start + WINDOW_US + 1));
        assert!(!ids.insert(key, start + WINDOW_US + 2));
        ids.remove(key);
        assert!(ids.insert(key, start + WINDOW_US + 3));
    }
}
