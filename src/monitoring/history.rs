//! The recent past that alerts compare with: counters of each minute, in memory, and events and
//! free space of each five minutes of a day, which a restart keeps.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::histogram::Observed;
use super::{BatchOutcome, EventOutcome, Family, Monitoring};

/// Seconds of a slot.
const SLOT_SECONDS: i64 = 300;
/// Seconds for which slots are kept: a day and an hour, for the same hour of the day before.
const KEPT_SECONDS: i64 = 25 * 3_600 + SLOT_SECONDS;
/// Seconds for which moments are kept: the longest window of a rate, and one more evaluation.
const MOMENT_SECONDS: i64 = 7 * 60;
/// Seconds by which an evaluation may be late and still belong to a window.
const LATE_SECONDS: i64 = 20;

/// Counters at one time, as they count since the start of the process.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// Seconds since 1970.
    pub at: i64,
    /// Batches.
    pub batches: u64,
    /// Batches that failed.
    pub failed: u64,
    /// Events that were stored.
    pub logged: u64,
    /// Times of queries that daily states were enough for, as upper bounds and counts of buckets.
    pub query_times: Vec<(f64, u64)>,
}

/// Events and free space of five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its begin in seconds since 1970, a multiple of its length.
    pub start: i64,
    /// Events that were stored.
    pub logged: u64,
    /// Free bytes on the disk at its end.
    pub disk_free: Option<u64>,
}

/// The recent past.
#[derive(Debug, Default)]
pub struct History {
    moments: VecDeque<Moment>,
    /// Slots that are over, the oldest first.
    slots: VecDeque<Slot>,
    /// The slot that is not over.
    open: Option<Slot>,
}

impl Moment {
    /// The counters now.
    pub fn of(monitoring: &Monitoring, at: i64) -> Self {
        let batches = monitoring.batches.iter();
        let families = Family::ALL.into_iter();
        let events = families
            .clone()
            .filter_map(|family| monitoring.events.at(family, EventOutcome::Logged));
        let failed =
            families.filter_map(|family| monitoring.batches.at(family, BatchOutcome::Failed));
        Self {
            at,
            batches: batches
                .map(|(_, count)| count.load(Ordering::Relaxed))
                .sum(),
            failed: failed.map(|count| count.load(Ordering::Relaxed)).sum(),
            logged: events.map(|count| count.load(Ordering::Relaxed)).sum(),
            query_times: states_times(monitoring),
        }
    }
}

/// The buckets of the times of all queries that daily states were enough for.
fn states_times(monitoring: &Monitoring) -> Vec<(f64, u64)> {
    let all = monitoring.query_times.iter();
    let of_states = all.filter(|([_, (_, source)], _)| *source == "states");
    let mut sum: Vec<(f64, u64)> = Vec::new();
    for (_, histogram) in of_states {
        let Observed { buckets, .. } = histogram.observed();
        if sum.is_empty() {
            sum = buckets;
        } else {
            for ((_, sum), (_, count)) in sum.iter_mut().zip(buckets) {
                *sum += count;
            }
        }
    }
    sum
}

impl History {
    /// The past that was kept over a restart.
    pub fn of(slots: Vec<Slot>) -> Self {
        Self {
            slots: slots.into(),
            ..Self::default()
        }
    }

    /// The slots that are over.
    pub fn slots(&self) -> Vec<Slot> {
        self.slots.iter().copied().collect()
    }

    /// Adds the present. True if a slot ended with it.
    pub fn add(&mut self, now: Moment, disk_free: Option<u64>) -> bool {
        let at = now.at;
        let before = self.moments.back().map_or(0, |moment| moment.logged);
        let logged = now.logged.saturating_sub(before);
        // A clock that was set back, or forward by much, leaves nothing to compare with.
        self.moments
            .retain(|moment| (at - MOMENT_SECONDS..at).contains(&moment.at));
        self.moments.push_back(now);
        let start = at.div_euclid(SLOT_SECONDS) * SLOT_SECONDS;
        let ended = self.open.take_if(|open| open.start != start);
        self.slots.extend(ended);
        self.slots
            .retain(|slot| (start - KEPT_SECONDS..start).contains(&slot.start));
        let open = self.open.get_or_insert(Slot {
            start,
            logged: 0,
            disk_free: None,
        });
        open.logged += logged;
        open.disk_free = disk_free.or(open.disk_free);
        ended.is_some()
    }

    /// The first and the last moment of a window of so many seconds that ends now; `None` before
    /// there are two.
    pub fn window(&self, seconds: i64) -> Option<(&Moment, &Moment)> {
        let last = self.moments.back()?;
        let from = last.at - seconds - LATE_SECONDS;
        let first = self.moments.iter().find(|moment| moment.at >= from)?;
        (first.at < last.at).then_some((first, last))
    }

    /// Events of the slots that begin in the seconds from one time before now to another; `None` if
    /// a slot is missing, as after a pause of the process.
    pub fn events(&self, from_ago: i64, to_ago: i64) -> Option<u64> {
        let now = self.open?.start;
        let range = now - from_ago..now - to_ago;
        let slots = self.slots.iter().filter(|slot| range.contains(&slot.start));
        let (count, events) = slots.fold((0, 0), |(count, events), slot| {
            (count + 1, events + slot.logged)
        });
        (count >= (from_ago - to_ago) / SLOT_SECONDS).then_some(events)
    }

    /// Events of the slot that is not over.
    pub fn open_events(&self) -> u64 {
        self.open.map_or(0, |open| open.logged)
    }

    /// Free bytes on the disk `ahead` seconds from now, by a line of least squares through the last
    /// `seconds`; `None` with fewer than two points. As `predict_linear` of Prometheus.
    pub fn predict_disk_free(&self, seconds: i64, ahead: f64) -> Option<f64> {
        let open = self.open?;
        let recent = self.slots.iter().chain([&open]);
        let recent = recent.filter(|slot| slot.start > open.start - seconds);
        let points: Vec<(f64, f64)> = recent
            .filter_map(|slot| Some(((slot.start - open.start) as f64, slot.disk_free? as f64)))
            .collect();
        let count = points.len() as f64;
        let mean = |sum: f64| sum / count;
        let time = mean(points.iter().map(|(time, _)| time).sum());
        let free = mean(points.iter().map(|(_, free)| free).sum());
        let products = points.iter().map(|(x, y)| (x - time) * (y - free));
        let squares: f64 = points.iter().map(|(x, _)| (x - time).powi(2)).sum();
        let slope = products.sum::<f64>() / squares;
        (squares > 0.0).then_some(free + slope * (ahead - time))
    }
}

/// A quantile of observations by the upper bounds of buckets and their counts, as
/// `histogram_quantile` of Prometheus: linear inside a bucket. `None` without observations.
pub fn quantile(of: f64, buckets: &[(f64, u64)]) -> Option<f64> {
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let rank = of * all as f64;
    let (mut lower, mut below) = (0.0, 0.0);
    for &(upper, count) in buckets {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            // Nothing is known about times above the last bound.
            let is_last = upper.is_infinite();
            let inside = (rank - below) / count;
            return Some(if is_last {
                lower
            } else {
                lower + (upper - lower) * inside
            });
        }
        (lower, below) = (upper, below + count);
    }
    None
}

/// The counts of buckets between two times.
pub fn difference(first: &[(f64, u64)], last: &[(f64, u64)]) -> Vec<(f64, u64)> {
    let firsts = first.iter().map(|(_, count)| *count);
    let before = firsts.chain(std::iter::repeat(0));
    last.iter()
        .zip(before)
        .map(|((bound, count), before)| (*bound, count.saturating_sub(before)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: i64, logged: u64) -> Moment {
        Moment {
            at,
            batches: 0,
            failed: 0,
            logged,
            query_times: Vec::new(),
        }
    }

    #[test]
    fn a_quantile_is_that_of_prometheus() {
        let buckets = |counts: [u64; 4]| {
            let bounds = [0.25, 0.5, 1.0, f64::INFINITY];
            bounds.into_iter().zip(counts).collect::<Vec<_>>()
        };
        assert_eq!(quantile(0.95, &buckets([0, 90, 10, 0])), Some(0.75));
        assert_eq!(quantile(0.95, &buckets([100, 0, 0, 0])), Some(0.95 * 0.25));
        // At the bound, and beyond the last one.
        assert_eq!(quantile(0.5, &buckets([0, 50, 50, 0])), Some(0.5));
        assert_eq!(quantile(0.95, &buckets([0, 0, 0, 7])), Some(1.0));
        assert_eq!(quantile(0.95, &buckets([0, 0, 0, 0])), None);
    }

    #[test]
    fn slots_have_the_events_between_evaluations_and_only_complete_ranges_are_known() {
        let mut history = History::default();
        let mut logged = 0;
        // Ten events a minute for an hour.
        for minute in 0..=60 {
            history.add(moment(minute * 60, logged), None);
            logged += 10;
        }
        assert_eq!(history.events(1_800, 0), Some(6 * 50));
        assert_eq!(history.events(3_600, 0), Some(12 * 50 - 10));
        assert_eq!(history.events(3_900, 0), None);
        assert_eq!(history.open_events(), 10);
        // A pause of ten minutes leaves a hole.
        history.add(moment(72 * 60, logged), None);
        assert_eq!(history.events(1_800, 0), None);
        // The slots are kept over a restart, and the counters begin again.
        let mut restarted = History::of(history.slots());
        restarted.add(moment(75 * 60, 3), None);
        assert_eq!(restarted.open_events(), 3);
        assert_eq!(
            restarted.events(75 * 60, 25 * 60),
            history.events(70 * 60, 20 * 60)
        );
    }

    #[test]
    fn a_window_needs_two_moments_and_none_is_kept_when_the_clock_is_set_back() {
        let mut history = History::default();
        history.add(moment(1_000, 1), None);
        assert_eq!(history.window(300), None);
        for minute in 1..10 {
            history.add(moment(1_000 + minute * 60, 1), None);
        }
        let (first, last) = history.window(300).expect("a window");
        assert_eq!((first.at, last.at), (1_240, 1_540));
        history.add(moment(500, 1), None);
        assert_eq!(history.window(300), None);
        assert_eq!(history.slots(), []);
    }

    #[test]
    fn free_space_is_predicted_by_a_line() {
        let mut history = History::default();
        assert_eq!(history.predict_disk_free(21_600, 0.0), None);
        for slot in 0..100_i64 {
            let free = 1_000_000 - 300 * slot.unsigned_abs();
            history.add(moment(slot * 300, 0), Some(free));
        }
        // A byte a second, also in an hour.
        let predicted = history.predict_disk_free(21_600, 3_600.0).expect("points");
        let expected = 1_000_000.0 - 300.0 * 99.0 - 3_600.0;
        assert!(
            (predicted - expected).abs() < 1e-3,
            "{predicted} {expected}"
        );
    }
}
