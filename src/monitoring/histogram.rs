//! A histogram of atomics: observing takes no lock, other than that of `prometheus-client`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of a second that sums of times are counted in.
const NANOSECONDS: f64 = 1e9;

/// A histogram with fixed bounds.
#[derive(Debug)]
pub struct Histogram {
    /// The upper bounds of all buckets but the last, in order.
    bounds: &'static [f64],
    /// Observations of each bucket, and of those above the last bound.
    buckets: Box<[AtomicU64]>,
    /// The sum of the observations, in this part of their unit.
    sum: AtomicU64,
    parts: f64,
}

/// The state of a histogram at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Sum of the observations.
    pub sum: f64,
    /// Their number.
    pub count: u64,
    /// Observations by bucket, with the upper bound of each; the last one is infinite.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// A histogram of times with bounds in seconds.
    pub fn of_seconds(bounds: &'static [f64]) -> Self {
        Self::new(bounds, NANOSECONDS)
    }

    /// A histogram of bytes.
    pub fn of_bytes(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1.0)
    }

    fn new(bounds: &'static [f64], parts: f64) -> Self {
        debug_assert!(bounds.is_sorted(), "{bounds:?}");
        Self {
            bounds,
            buckets: std::iter::repeat_with(AtomicU64::default)
                .take(bounds.len() + 1)
                .collect(),
            sum: AtomicU64::new(0),
            parts,
        }
    }

    /// Adds an observation, which is not negative.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum
                .fetch_add((value * self.parts) as u64, Ordering::Relaxed);
        }
    }

    /// Adds a time.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// The observations so far. The sum may lack one that is being added.
    pub fn observed(&self) -> Observed {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|one| one.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        Observed {
            sum: self.sum.load(Ordering::Relaxed) as f64 / self.parts,
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_larger_values_to_the_last() {
        let histogram = Histogram::of_seconds(&[0.5, 2.0]);
        for value in [0.0, 0.5, 0.6, 2.0, 3.5] {
            histogram.observe(value);
        }
        histogram.observe_time(Duration::from_millis(1_400));
        let observed = histogram.observed();
        let expected = [(0.5, 2), (2.0, 3), (f64::INFINITY, 1)];
        assert_eq!(observed.buckets, expected);
        assert_eq!((observed.count, observed.sum), (6, 8.0));
    }

    #[test]
    fn no_observation_of_several_threads_is_lost() {
        let histogram = Histogram::of_bytes(&[10.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| histogram.observe(7.0)));
            }
        });
        assert_eq!(histogram.observed().sum, 28_000.0);
        assert_eq!(histogram.observed().count, 4_000);
    }
}
