//! Deduplication: the event ids of the last 7 days. An event with the id, user and type of an
//! earlier one is a re-send; the set has digests of these three.
//!
//! The set is derived from the events at every start and never stored: a second file with its own
//! durability could contradict the events after a power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::digest::{Digest, DigestMap};
use crate::store::lock::{Guard, Ordered, Rank};
use crate::window::{DAY_US, HOUR_US};

/// Two events with the same id, user and type are the same event if they were received at most this
/// far apart, in µs. The later time counts as at most the end of the last trusted day (see
/// [`crate::store::clock`]), so that a clock that jumps ahead makes no id old.
pub const WINDOW_US: i64 = 7 * DAY_US;

/// Shards of the set. A hash table that grows moves all its entries at once; with millions of ids
/// in one table that would delay responses by a tenth of a second. Resizing one shard is too short
/// to matter.
const SHARDS: usize = 256;
/// Slots over which ids are spread evenly; each belongs to one shard.
const SLOTS: usize = 4_096;

/// The ids of a store, shared by everything that adds events.
#[derive(Clone)]
pub struct SharedIds(Arc<Ordered<RecentIds>>);

impl SharedIds {
    /// Shares a set of ids.
    pub fn new(recent: RecentIds) -> Self {
        Self(Arc::new(Ordered::new(Rank::RecentIds, recent)))
    }

    /// Locks the ids. Commits wait for this lock, so it must be held briefly.
    pub(in crate::store) fn lock(&self) -> Guard<'_, RecentIds> {
        self.0.lock()
    }
}

/// The ids of the last [`WINDOW_US`], each with the time at which it was first received.
pub struct RecentIds {
    shards: Vec<Shard>,
    /// The shard of each slot. The shares of the shards are a geometric series from 1 to 2, so that
    /// they are resized one after the other while the set doubles; equal shards would all be
    /// resized at the same time.
    shard_of_slot: Vec<u8>,
    /// The end of the last trusted day, in µs.
    until_us: Arc<AtomicI64>,
}

/// The ids of some slots.
#[derive(Clone, Default)]
struct Shard {
    received_at_us: DigestMap<i64>,
    forgotten_at_us: i64,
}

impl RecentIds {
    /// An empty set, whose ids age up to `until_us`.
    pub fn new(until_us: Arc<AtomicI64>) -> Self {
        Self {
            until_us,
            shards: vec![Shard::default(); SHARDS],
            shard_of_slot: (0..SLOTS)
                .map(|slot| (SHARDS as f64 * (1.0 + slot as f64 / SLOTS as f64).log2()) as u8)
                .collect(),
        }
    }

    /// Inserts an id. False if it is in the set: the event is a duplicate.
    pub fn insert(&mut self, key: Digest, received_at_us: i64) -> bool {
        let now_us = received_at_us.min(self.until_us.load(Ordering::Relaxed));
        self.shard(key)
            .is_none_or(|shard| shard.insert(key, received_at_us, now_us))
    }

    /// Sets the time back to `now_us`: ids that were received later count as received then.
    pub fn set_back(&mut self, now_us: i64) {
        for shard in &mut self.shards {
            shard.forgotten_at_us = shard.forgotten_at_us.min(now_us);
            for first in shard.received_at_us.values_mut() {
                *first = (*first).min(now_us);
            }
        }
    }

    /// Removes an id whose event could not be stored.
    pub fn remove(&mut self, key: Digest) {
        if let Some(shard) = self.shard(key) {
            shard.received_at_us.remove(&key);
        }
    }

    fn shard(&mut self, key: Digest) -> Option<&mut Shard> {
        // By the half of the digest that is not the hash within the shard.
        let slot = self.shard_of_slot.get(key.place() % SLOTS)?;
        self.shards.get_mut(usize::from(*slot))
    }
}

impl Shard {
    fn insert(&mut self, key: Digest, received_at_us: i64, now_us: i64) -> bool {
        self.forget_old(now_us);
        match self.received_at_us.get_mut(&key) {
            Some(first) if now_us - *first <= WINDOW_US => false,
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

    /// Removes the ids that no new event can repeat, once per hour of event time.
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
        let until_us = Arc::new(AtomicI64::new(i64::MAX));
        let mut ids = RecentIds::new(until_us);
        assert!(ids.insert(key, start));
        assert!(!ids.insert(key, start));
        assert!(!ids.insert(key, start + WINDOW_US));
        assert!(ids.insert(key, start + WINDOW_US + 1));
        assert!(!ids.insert(key, start + WINDOW_US + 2));
        ids.remove(key);
        assert!(ids.insert(key, start + WINDOW_US + 3));
    }

    #[test]
    fn ids_are_kept_when_the_clock_jumps_ahead_and_when_it_is_set_back() {
        let keys = Digester::new();
        let (before, during, new) = (keys.digest("a"), keys.digest("b"), keys.digest("c"));
        let start = 1_761_040_800_000_000;
        let until_us = Arc::new(AtomicI64::new(start + DAY_US));
        let mut ids = RecentIds::new(until_us.clone());
        assert!(ids.insert(before, start));
        assert!(ids.insert(during, start + 8 * DAY_US));
        assert!(!ids.insert(before, start + 8 * DAY_US));
        ids.set_back(start + 1);
        for key in [before, during] {
            assert!(!ids.insert(key, start + 2));
        }
        // They are forgotten after 7 days, also those of the time of the jump.
        until_us.store(i64::MAX, Ordering::Relaxed);
        assert!(ids.insert(new, start + WINDOW_US + 2));
        assert!(
            ids.shards
                .iter()
                .map(|shard| shard.received_at_us.len())
                .sum::<usize>()
                <= 3
        );
        for key in [before, during] {
            assert!(ids.insert(key, start + WINDOW_US + 3));
        }
    }
}
