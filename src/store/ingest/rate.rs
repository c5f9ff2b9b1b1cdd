//! Throughput: the numbers of accepted events since the start and in the last hour, in memory.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds of a bucket, which is the precision of the last minute.
const BUCKET_SECONDS: u64 = 5;
const BUCKETS_A_MINUTE: usize = 12;
const MINUTES: usize = 60;

/// Counter of accepted events. It takes a lock for each commit, which is cheap compared to its
/// sync.
pub(in crate::store) struct Rate {
    since: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: u64,
    /// Number of the newest bucket, counted from the start.
    newest: u64,
    /// Events of the buckets of the last hour, the newest last.
    buckets: VecDeque<u64>,
}

/// Numbers of accepted events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Accepted {
    /// Since the start.
    pub since_start: u64,
    /// In the last minute, to within five seconds.
    pub last_minute: u64,
    /// In each of the last 60 minutes, the one that ends now last.
    pub per_minute: Vec<u64>,
}

impl Rate {
    pub fn new(since: Instant) -> Self {
        Self {
            since,
            counts: Mutex::default(),
        }
    }

    /// Counts events that were accepted at `now`.
    pub fn count(&self, events: usize, now: Instant) {
        let mut counts = self.advance(now);
        counts.total += events as u64;
        if let Some(newest) = counts.buckets.back_mut() {
            *newest += events as u64;
        }
    }

    /// The numbers of events accepted up to `now`.
    pub fn accepted(&self, now: Instant) -> Accepted {
        let counts = self.advance(now);
        let newest_first: Vec<u64> = counts.buckets.iter().rev().copied().collect();
        let mut per_minute: Vec<u64> = newest_first
            .chunks(BUCKETS_A_MINUTE)
            .map(|minute| minute.iter().sum())
            .collect();
        per_minute.resize(MINUTES, 0);
        per_minute.reverse();
        Accepted {
            since_start: counts.total,
            last_minute: per_minute.last().copied().unwrap_or(0),
            per_minute,
        }
    }

    /// Adds the buckets up to `now`, and drops those before the last hour.
    fn advance(&self, now: Instant) -> MutexGuard<'_, Counts> {
        let bucket = now.saturating_duration_since(self.since).as_secs() / BUCKET_SECONDS;
        let mut counts = self.counts.lock();
        let most = MINUTES * BUCKETS_A_MINUTE;
        let missing = bucket.saturating_sub(counts.newest).min(most as u64);
        let missing = missing + u64::from(counts.buckets.is_empty());
        for _ in 0..missing {
            counts.buckets.push_back(0);
        }
        let surplus = counts.buckets.len().saturating_sub(most);
        counts.buckets.drain(..surplus);
        counts.newest = counts.newest.max(bucket);
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn minutes_end_now_and_old_ones_are_dropped() {
        let start = Instant::now();
        let rate = Rate::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        rate.count(3, at(0));
        rate.count(4, at(61));
        let accepted = rate.accepted(at(62));
        assert_eq!((accepted.since_start, accepted.last_minute), (7, 4));
        assert_eq!(accepted.per_minute.len(), 60);
        assert_eq!(accepted.per_minute[58..], [3, 4]);
        assert_eq!(rate.accepted(at(130)).last_minute, 0);
        let later = rate.accepted(at(100_000));
        assert_eq!(later.since_start, 7);
        assert_eq!(later.per_minute, vec![0; 60]);
    }

    #[test]
    fn a_minute_has_the_events_of_its_last_twelve_buckets() {
        let start = Instant::now();
        let rate = Rate::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rate.accepted(at(0)).last_minute, 0);
        rate.count(1, at(2));
        rate.count(1, at(4));
        rate.count(1, at(59));
        for (now, last_minute) in [(59, 3), (60, 1), (114, 1), (115, 0)] {
            assert_eq!(rate.accepted(at(now)).last_minute, last_minute, "{now} s");
        }
        // A time before the newest bucket counts as that of the newest.
        rate.count(5, at(30));
        assert_eq!(rate.accepted(at(115)).last_minute, 5);
        // The minute before is dropped 60 minutes later.
        let per_minute = |now| rate.accepted(at(now)).per_minute;
        assert_eq!(per_minute(115 + 58 * 60)[..2], [3, 5]);
        assert_eq!(per_minute(115 + 59 * 60)[..2], [5, 0]);
    }
}
