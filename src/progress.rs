//! Progress of long work: counters that the work advances and others read, and its cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// The work may be cancelled.
const OPEN: u8 = 0;
/// It was cancelled, and ends at its next check.
const CANCELLED: u8 = 1;
/// It can no longer be cancelled.
const COMMITTED: u8 = 2;

/// The progress of long work, shared by its threads and those that read it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    /// 0 while unknown.
    total: AtomicU64,
    events: AtomicU64,
    phase: AtomicU8,
}

/// The counters at one time, in the unit of the work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// The part that is done.
    pub done: u64,
    /// The whole work; `None` while that is unknown.
    pub total: Option<u64>,
    /// Events that were read, of work that is counted in bytes.
    pub events: u64,
}

impl Counted {
    /// The part that is done in a second, after the time since the start.
    pub fn rate(self, elapsed: Duration) -> f64 {
        self.done as f64 / elapsed.as_secs_f64().max(0.001)
    }

    /// The time left at this rate, in seconds; `None` while it is unknown.
    pub fn left(self, elapsed: Duration) -> Option<Duration> {
        let to_do = self.total?.saturating_sub(self.done) as f64;
        // A rate of nothing gives more seconds than a duration can hold.
        Duration::try_from_secs_f64((to_do / self.rate(elapsed)).ceil()).ok()
    }
}

impl Progress {
    /// Sets what is to do.
    pub fn set_total(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// Sets what is done.
    pub fn set_done(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// Adds to what is done.
    pub fn add(&self, done: u64) {
        self.0.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Sets the events that were read.
    pub fn set_events(&self, events: u64) {
        self.0.events.store(events, Ordering::Relaxed);
    }

    /// Adds events that were read.
    pub fn add_events(&self, events: u64) {
        self.0.events.fetch_add(events, Ordering::Relaxed);
    }

    /// The counters.
    pub fn counted(&self) -> Counted {
        let total = self.0.total.load(Ordering::Relaxed);
        Counted {
            done: self.0.done.load(Ordering::Relaxed),
            total: (total > 0).then_some(total),
            events: self.0.events.load(Ordering::Relaxed),
        }
    }

    /// Cancels the work, which ends at its next check. False if it can no longer be cancelled.
    pub fn cancel(&self) -> bool {
        self.0.leave_open(CANCELLED) == CANCELLED
    }

    /// True if the work can be cancelled now.
    pub fn is_open(&self) -> bool {
        self.0.phase.load(Ordering::Acquire) == OPEN
    }

    /// Checks whether the work is to continue.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if not.
    pub fn check(&self) -> Result<()> {
        match self.0.phase.load(Ordering::Acquire) {
            CANCELLED => Err(cancelled()),
            _ => Ok(()),
        }
    }

    /// Checks whether the work is to continue; from then on it cannot be cancelled.
    ///
    /// # Errors
    /// As [`Progress::check`].
    pub fn commit(&self) -> Result<()> {
        match self.0.leave_open(COMMITTED) {
            CANCELLED => Err(cancelled()),
            _ => Ok(()),
        }
    }
}

impl Counters {
    /// Sets the phase unless it was set before, and returns the one that holds.
    fn leave_open(&self, phase: u8) -> u8 {
        let swapped = self
            .phase
            .compare_exchange(OPEN, phase, Ordering::AcqRel, Ordering::Acquire);
        swapped.map_or_else(|known| known, |_| phase)
    }
}

fn cancelled() -> Error {
    Error::Cancelled("the job was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_cancelled_before_it_commits_and_not_after() {
        let progress = Progress::default();
        assert!(progress.check().is_ok() && progress.is_open());
        assert!(progress.cancel() && progress.clone().cancel());
        assert!(progress.check().is_err() && progress.commit().is_err());
        let progress = Progress::default();
        assert!(progress.commit().is_ok() && progress.commit().is_ok());
        assert!(!progress.cancel() && progress.check().is_ok() && !progress.is_open());
    }

    #[test]
    fn counters_are_shared_and_an_unknown_total_is_none() {
        let progress = Progress::default();
        assert_eq!(progress.counted(), Counted::default());
        let shared = progress.clone();
        shared.set_total(10);
        shared.set_done(3);
        shared.add(2);
        shared.add_events(7);
        let counted = Counted {
            done: 5,
            total: Some(10),
            events: 7,
        };
        assert_eq!(progress.counted(), counted);
    }

    #[test]
    fn the_time_left_follows_from_the_rate() {
        let left = |done, total, seconds| {
            let counted = Counted {
                done,
                total,
                events: 0,
            };
            counted.left(Duration::from_secs(seconds))
        };
        assert_eq!(left(250, Some(1_000), 10), Some(Duration::from_secs(30)));
        assert_eq!(left(20, Some(10), 10), Some(Duration::ZERO));
        assert_eq!(left(0, Some(10), 10), None);
        assert_eq!(left(0, Some(0), 10), None);
        assert_eq!(left(5, None, 10), None);
        assert_eq!(left(1, Some(u64::MAX), u64::MAX), None);
    }
}
