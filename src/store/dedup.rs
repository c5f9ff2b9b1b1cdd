//! The event ids of the last 7 days, by which a re-send is known.
//!
//! The set is derived from the events themselves at every start, never stored on its own: a second file
//! with a durability of its own could disagree with the data after a power cut.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::{Digest, DigestMap};
use crate::window::{DAY_US, HOUR_US};

/// Two events with one id are one event if received at most this far apart, in µs.
pub const WINDOW_US: i64 = 7 * DAY_US;

/// Parts of the set. A table that grows moves all its entries at once, which for one table of millions of ids
/// is a pause of a tenth of a second before the next reply; a part's share of that is not felt.
const SHARDS: usize = 256;
/// Places that ids fall on with equal chance, each of one shard.
const SLOTS: usize = 4_096;

/// The ids of a store, shared by all who add events.
#[derive(Clone)]
pub struct SharedIds(Arc<Mutex<RecentIds>>);

impl SharedIds {
    /// Shares them.
    pub fn new(recent: RecentIds) -> Self {
        Self(Arc::new(Mutex::new(recent)))
    }

    /// The ids, for a moment: whoever commits events waits for them.
    pub fn lock(&self) -> MutexGuard<'_, RecentIds> {
        // Each change of it is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    received_at_us: DigestMap<i64>,
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
    pub fn insert(&mut self, key: Digest, received_at_us: i64) -> bool {
        self.shard(key)
            .is_none_or(|shard| shard.insert(key, received_at_us))
    }

    /// Takes an id back whose event could not be stored.
    pub fn remove(&mut self, key: Digest) {
        if let Some(shard) = self.shard(key) {
            shard.received_at_us.remove(&key);
        }
    }

    fn shard(&mut self, key: Digest) -> Option<&mut Shard> {
        // The half that is not the hash inside the shard.
        let slot = self.shard_of_slot.get(key.place() % SLOTS)?;
        self.shards.get_mut(usize::from(*slot))
    }
}

impl Shard {
    fn insert(&mut self, key: Digest, received_at_us: i64) -> bool {
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
    use crate::digest::Digester;

    #[test]
    fn an_id_counts_again_after_seven_days_and_not_before() {
        let key = Digester::new().digest("0197a6f0-0000-7000-8000-000000000000");
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
