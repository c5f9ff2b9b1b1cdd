//! The event ids of the last 7 days, by which a re-send is known: an event of the same user and type with the same id. Each is
//! a digest of these three.
//!
//! The set is derived from the events themselves at every start, never stored on its own: a second file
//! with a durability of its own could disagree with the data after a power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::lock::{Guard, Ordered, Rank};
use crate::digest::{Digest, DigestMap};
use crate::window::{DAY_US, HOUR_US};

/// Two events of one user and type with one id are one event if received at most this far apart, in µs. Both times are those of the log, and
/// the later one at most the end of the last believed day (see [`super::clock`]): a clock that jumps ahead makes no id old.
pub const WINDOW_US: i64 = 7 * DAY_US;

/// Parts of the set. A table that grows moves all its entries at once, which for one table of millions of ids
/// is a pause of a tenth of a second before the next reply; a part's share of that is not felt.
const SHARDS: usize = 256;
/// Places that ids fall on with equal chance, each of one shard.
const SLOTS: usize = 4_096;

/// The ids of a store, shared by all who add events.
#[derive(Clone)]
pub struct SharedIds(Arc<Ordered<RecentIds>>);

impl SharedIds {
    /// Shares them.
    pub fn new(recent: RecentIds) -> Self {
        Self(Arc::new(Ordered::new(Rank::RecentIds, recent)))
    }

    /// The ids, for a moment: whoever commits events waits for them.
    pub(super) fn lock(&self) -> Guard<'_, RecentIds> {
        self.0.lock()
    }
}

/// The ids seen in the last [`WINDOW_US`], each with when it was first received.
pub struct RecentIds {
    shards: Vec<Shard>,
    /// The shard of each slot. Shards get shares from 1 to 2 in a geometric row, so that while the set doubles
    /// they grow one after the other; equal shards would all grow at the same moment.
    shard_of_slot: Vec<u8>,
    /// The end of the last believed day, in µs.
    until_us: Arc<AtomicI64>,
}

/// The ids whose keys begin alike.
#[derive(Clone, Default)]
struct Shard {
    received_at_us: DigestMap<i64>,
    forgotten_at_us: i64,
}

impl RecentIds {
    /// No ids; they grow old up to `until_us`.
    pub fn new(until_us: Arc<AtomicI64>) -> Self {
        Self {
            until_us,
            shards: vec![Shard::default(); SHARDS],
            shard_of_slot: (0..SLOTS)
                .map(|slot| (SHARDS as f64 * (1.0 + slot as f64 / SLOTS as f64).log2()) as u8)
                .collect(),
        }
    }

    /// Takes the id in. False if it was there: the event is a duplicate.
    pub fn insert(&mut self, key: Digest, received_at_us: i64) -> bool {
        let now_us = received_at_us.min(self.until_us.load(Ordering::Relaxed));
        self.shard(key)
            .is_none_or(|shard| shard.insert(key, received_at_us, now_us))
    }

    /// Goes on from `now_us`, when the log's time was ahead of it: ids that were received later count as received then.
    pub fn set_back(&mut self, now_us: i64) {
        for shard in &mut self.shards {
            shard.forgotten_at_us = shard.forgotten_at_us.min(now_us);
            for first in shard.received_at_us.values_mut() {
                *first = (*first).min(now_us);
            }
        }
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
    fn a_clock_that_jumps_makes_no_id_old_and_one_that_is_set_back_keeps_them() {
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
        // Once days have passed they are forgotten, those of the jump too.
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
