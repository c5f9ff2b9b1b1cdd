//! Deduplication: the event ids of the last 7 days. An event with the id, user and type of an
//! earlier one is a re-send; the set has digests of these three.
//!
//! The ids of events in the logs are in memory, a set for each log. When a log is sealed, its ids
//! go to a file (see [`IdFile`]), of which 2 bytes an id stay in memory; the commit of the seal
//! makes that file live together with the segments.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::digest::{Digest, DigestMap};
use crate::shards::{SHARDS, shard_of};
use crate::store::files::event_ids::IdFile;
use crate::store::files::rotation::LogId;
use crate::store::lock::{Guard, Ordered, Rank};
use crate::window::DAY_US;

/// Two events with the same id, user and type are the same event if they were received at most this
/// far apart, in µs. The later time counts as at most the end of the last trusted day (see
/// [`crate::store::clock`]), so that a clock that jumps ahead makes no id old.
pub const WINDOW_US: i64 = 7 * DAY_US;
/// Bytes of an id in memory: its digest, its time, and the byte of the hash table.
const ID_BYTES: u64 = 25;

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
    /// Ids of events in the open log.
    open: IdSet,
    /// Ids of events in the logs that wait to be sealed, and of those that a start found in the
    /// open one: a log may have several sets.
    rotated: Vec<(LogId, Arc<IdSet>)>,
    /// Ids of events of the load in progress.
    loading: IdSet,
    /// Ids of events in segments.
    sealed: Vec<Arc<IdFile>>,
    /// Ids of events in segments count as received at this time at most, in µs: the clock was set
    /// back to it.
    sealed_until_us: i64,
    /// The end of the last trusted day, in µs.
    until_us: Arc<AtomicI64>,
}

/// The way on which an event comes into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is written to the open log.
    Log,
    /// It is loaded.
    Load,
}

impl RecentIds {
    /// The ids in these files, which count as received at `sealed_until_us` at the latest. Ids age
    /// up to `until_us`.
    pub fn new(sealed: Vec<Arc<IdFile>>, sealed_until_us: i64, until_us: Arc<AtomicI64>) -> Self {
        Self {
            open: IdSet::default(),
            rotated: Vec::new(),
            loading: IdSet::default(),
            sealed,
            sealed_until_us,
            until_us,
        }
    }

    /// Inserts an id. False if it is in the set: the event is a duplicate.
    pub fn insert(&mut self, key: Digest, received_at_us: i64, origin: Origin) -> bool {
        let now_us = received_at_us.min(self.until_us.load(Ordering::Relaxed));
        let is_new = !self.contains(key, now_us - WINDOW_US);
        if is_new {
            self.of(origin).insert(key, received_at_us);
        }
        is_new
    }

    /// True if an event with this id was received since `since_us`.
    pub fn contains(&self, key: Digest, since_us: i64) -> bool {
        let rotated = self.rotated.iter().map(|(_, ids)| ids.as_ref());
        let mut in_memory = rotated.chain([&self.open, &self.loading]);
        if in_memory.any(|ids| ids.get(key).is_some_and(|first| first >= since_us)) {
            return true;
        }
        let is_recent = |received_at_us: i64| received_at_us.min(self.sealed_until_us) >= since_us;
        let mut sealed = self.sealed.iter();
        sealed.any(|file| {
            is_recent(file.meta.last_received_at_us)
                && file.received_at_us(key).is_some_and(is_recent)
        })
    }

    fn of(&mut self, origin: Origin) -> &mut IdSet {
        match origin {
            Origin::Log => &mut self.open,
            Origin::Load => &mut self.loading,
        }
    }

    /// Sets the time back to `now_us`: ids that were received later count as received then.
    pub fn set_back(&mut self, now_us: i64) {
        let rotated = self.rotated.iter_mut().map(|(_, ids)| Arc::make_mut(ids));
        for ids in rotated.chain([&mut self.open, &mut self.loading]) {
            ids.set_back(now_us);
        }
        self.sealed_until_us = self.sealed_until_us.min(now_us);
    }

    /// Adds the id of an event that is in a log already.
    pub fn restore(&mut self, key: Digest, received_at_us: i64) {
        self.open.insert(key, received_at_us);
    }

    /// Removes an id whose event could not be stored.
    pub fn remove(&mut self, key: Digest, origin: Origin) {
        self.of(origin).remove(key);
    }

    /// Notes that a log ends: later events are in the next one, or in the same one after a start.
    pub fn end_log(&mut self, log: LogId) {
        let ids = std::mem::take(&mut self.open);
        self.rotated.push((log, Arc::new(ids)));
    }

    /// The ids of events in a log that ended.
    pub fn of_log(&self, log: LogId) -> Vec<Arc<IdSet>> {
        let rotated = self.rotated.iter().filter(|(id, _)| *id == log);
        rotated.map(|(_, ids)| ids.clone()).collect()
    }

    /// Estimate of the bytes that the ids take in memory.
    pub fn memory_bytes(&self) -> u64 {
        let rotated = self.rotated.iter().map(|(_, ids)| ids.as_ref());
        let in_memory = rotated.chain([&self.open, &self.loading]);
        let sealed = self.sealed.iter().map(|file| file.meta.memory_bytes());
        in_memory.map(IdSet::memory_bytes).sum::<u64>() + sealed.sum::<u64>()
    }

    /// The files of the ids of events in segments.
    pub fn sealed(&self) -> &[Arc<IdFile>] {
        &self.sealed
    }

    /// Notes that the ids of a log, or of the load, are in the live files, which are `sealed` now.
    /// Returns what leaves memory, to be dropped without the lock.
    pub fn seal(&mut self, log: Option<LogId>, sealed: Vec<Arc<IdFile>>) -> impl Sized + use<> {
        let files = std::mem::replace(&mut self.sealed, sealed);
        let rotated = self.rotated.extract_if(.., |(id, _)| log == Some(*id));
        let rotated: Vec<_> = rotated.collect();
        let loaded = log.is_none().then(|| std::mem::take(&mut self.loading));
        (files, rotated, loaded)
    }

    /// Replaces the files of the ids of events in segments.
    pub fn replace_sealed(&mut self, sealed: Vec<Arc<IdFile>>) -> impl Sized + use<> {
        std::mem::replace(&mut self.sealed, sealed)
    }
}

/// Some ids, each with the time at which it was first received.
#[derive(Clone)]
pub struct IdSet {
    shards: Vec<DigestMap<i64>>,
}

impl Default for IdSet {
    fn default() -> Self {
        Self {
            shards: vec![DigestMap::default(); SHARDS],
        }
    }
}

impl IdSet {
    fn get(&self, key: Digest) -> Option<i64> {
        self.shards.get(shard_of(key))?.get(&key).copied()
    }

    fn insert(&mut self, key: Digest, received_at_us: i64) {
        if let Some(shard) = self.shards.get_mut(shard_of(key)) {
            shard.insert(key, received_at_us);
        }
    }

    fn remove(&mut self, key: Digest) {
        if let Some(shard) = self.shards.get_mut(shard_of(key)) {
            shard.remove(&key);
        }
    }

    fn memory_bytes(&self) -> u64 {
        let capacity: usize = self.shards.iter().map(DigestMap::capacity).sum();
        capacity as u64 * ID_BYTES
    }

    fn set_back(&mut self, now_us: i64) {
        for first in self.shards.iter_mut().flat_map(DigestMap::values_mut) {
            *first = (*first).min(now_us);
        }
    }

    /// The ids.
    pub fn iter(&self) -> impl Iterator<Item = (Digest, i64)> + '_ {
        let ids = self.shards.iter().flatten();
        ids.map(|(&key, &received_at_us)| (key, received_at_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digester;
    use crate::error::Result;
    use crate::store::files::event_ids;
    use crate::store::files::folder::Folder;

    const START_US: i64 = 1_761_040_800_000_000;
    const LOG: LogId = (1, 2);

    fn ids(until_us: &Arc<AtomicI64>) -> RecentIds {
        RecentIds::new(Vec::new(), i64::MAX, until_us.clone())
    }

    fn always() -> Arc<AtomicI64> {
        Arc::new(AtomicI64::new(i64::MAX))
    }

    /// Seals the open log.
    fn seal(ids: &mut RecentIds, folder: &Folder, number: u64) -> Result<()> {
        ids.end_log(LOG);
        let of_log = ids.of_log(LOG);
        let mut files = ids.sealed().to_vec();
        for (day, entries) in event_ids::by_day(of_log.iter().flat_map(|ids| ids.iter())) {
            let file = event_ids::write(folder, number, day, &entries, &[])?;
            files.push(Arc::new(file));
        }
        drop(ids.seal(Some(LOG), files));
        assert!(ids.open.iter().next().is_none() && ids.rotated.is_empty());
        Ok(())
    }

    #[test]
    fn an_id_counts_again_after_seven_days_and_not_before() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "the test")?;
        for is_sealed in [false, true] {
            let key = Digester::new().digest("0197a6f0-0000-7000-8000-000000000000");
            let mut ids = ids(&always());
            let insert = |ids: &mut RecentIds, received_at_us| {
                let is_new = ids.insert(key, received_at_us, Origin::Log);
                if is_sealed && is_new {
                    let number = (received_at_us - START_US) as u64;
                    seal(ids, &folder, number).expect("it can be written");
                }
                is_new
            };
            assert!(insert(&mut ids, START_US));
            assert!(!insert(&mut ids, START_US));
            assert!(!insert(&mut ids, START_US + WINDOW_US));
            assert!(insert(&mut ids, START_US + WINDOW_US + 1));
            assert!(!insert(&mut ids, START_US + WINDOW_US + 2));
        }
        Ok(())
    }

    #[test]
    fn an_id_is_known_in_every_part_and_after_a_failed_write_it_is_not() {
        let keys = Digester::new();
        let (log, load) = (keys.digest("log"), keys.digest("load"));
        let mut ids = ids(&always());
        assert!(ids.insert(log, START_US, Origin::Log));
        assert!(ids.insert(load, START_US, Origin::Load));
        for origin in [Origin::Log, Origin::Load] {
            assert!(!ids.insert(log, START_US, origin) && !ids.insert(load, START_US, origin));
        }
        ids.remove(load, Origin::Load);
        assert!(ids.insert(load, START_US, Origin::Log));
        ids.remove(load, Origin::Log);
        ids.end_log(LOG);
        assert!(!ids.insert(log, START_US, Origin::Log));
        assert!(ids.insert(load, START_US, Origin::Log));
    }

    #[test]
    fn ids_are_kept_when_the_clock_jumps_ahead_and_when_it_is_set_back() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "the test")?;
        for is_sealed in [false, true] {
            let keys = Digester::new();
            let (before, during) = (keys.digest("a"), keys.digest("b"));
            let until_us = Arc::new(AtomicI64::new(START_US + DAY_US));
            let mut ids = ids(&until_us);
            assert!(ids.insert(before, START_US, Origin::Log));
            assert!(ids.insert(during, START_US + 8 * DAY_US, Origin::Log));
            assert!(!ids.insert(before, START_US + 8 * DAY_US, Origin::Log));
            if is_sealed {
                seal(&mut ids, &folder, 1)?;
            }
            ids.set_back(START_US + 1);
            for key in [before, during] {
                assert!(!ids.insert(key, START_US + 2, Origin::Log));
            }
            // They count again after 7 days, also those of the time of the jump.
            until_us.store(i64::MAX, Ordering::Relaxed);
            for key in [before, during] {
                assert!(!ids.insert(key, START_US + WINDOW_US, Origin::Log));
                assert!(ids.insert(key, START_US + WINDOW_US + 3, Origin::Log));
            }
        }
        Ok(())
    }
}
