//! Pauses before failed work is retried, and limits on how often its failure is traced: a lasting
//! cause, such as a full disk, must neither keep the machine busy nor fill the traces.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

/// Pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: long compared to the work, and short enough that it is bearable once the cause is
/// gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The same failure is traced at most this often.
const TRACE_INTERVAL: Duration = Duration::from_secs(60);
/// Different causes of one failure that are traced in that time: file names and numbers in them may
/// differ each time.
const CAUSES_PER_INTERVAL: usize = 3;

/// Pauses after failures: 1 s, 2 s, 4 s … up to 5 minutes, until the work succeeds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
    failed: Option<Instant>,
}

impl Backoff {
    /// Records a failure.
    pub fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.failed = Some(now);
    }

    /// Records a success, which ends the pause.
    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// True while it is too early to retry. If `healed` says that the cause of the last failure
    /// seems to be gone, only the first pause is kept.
    pub fn is_waiting(&self, now: Instant, healed: impl FnOnce() -> bool) -> bool {
        let Some(failed) = self.failed else {
            return false;
        };
        let waited = now.saturating_duration_since(failed);
        waited < FIRST_PAUSE || (waited < self.pause() && !healed())
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(u32::BITS - 1);
        FIRST_PAUSE
            .saturating_mul(1 << doublings)
            .min(LONGEST_PAUSE)
    }
}

/// Traces repeated failures: each cause immediately, and again at most once a minute, with the
/// number of failures in between.
#[derive(Debug, Default)]
pub struct Reporter {
    failing: Mutex<BTreeMap<String, Failing>>,
}

/// Work whose last attempt failed.
#[derive(Debug, Default)]
struct Failing {
    /// Failures since the last success.
    failures: u64,
    causes: Vec<Cause>,
}

/// A cause that was traced.
#[derive(Debug)]
struct Cause {
    message: String,
    traced: Instant,
    /// Failures since then.
    untraced: u64,
}

impl Reporter {
    /// Traces a failure as an error: `what` is a sentence such as `The seal failed`, and failures
    /// with different `cause`s are traced separately.
    pub fn failed(&self, what: &str, cause: &str) {
        if let Some(line) = self.line(what, cause, Instant::now()) {
            error!("{line}");
        }
    }

    /// Traces a failure as a warning, as [`Reporter::failed`] does.
    pub fn warned(&self, what: &str, cause: &str) {
        if let Some(line) = self.line(what, cause, Instant::now()) {
            warn!("{line}");
        }
    }

    /// Records a success, which is traced if the last attempt failed.
    pub fn succeeded(&self, what: &str) {
        if let Some(Failing { failures, .. }) = self.failing.lock().remove(what) {
            info!(failures, "{what} {failures} times, and succeeds again");
        }
    }

    /// The line to trace for a failure; none if its cause was traced less than a minute ago.
    fn line(&self, what: &str, message: &str, now: Instant) -> Option<String> {
        let mut failing = self.failing.lock();
        let failing = failing.entry(what.to_owned()).or_default();
        failing.failures += 1;
        let age = |cause: &Cause| now.saturating_duration_since(cause.traced);
        let mut causes = failing.causes.iter_mut();
        let Some(cause) = causes.find(|cause| cause.message == message) else {
            failing.causes.retain(|cause| age(cause) < TRACE_INTERVAL);
            if failing.causes.len() >= CAUSES_PER_INTERVAL {
                return None;
            }
            failing.causes.push(Cause {
                message: message.to_owned(),
                traced: now,
                untraced: 0,
            });
            return Some(format!("{what}: {message}"));
        };
        cause.untraced += 1;
        let since = age(cause);
        if since < TRACE_INTERVAL {
            return None;
        }
        cause.traced = now;
        Some(match std::mem::take(&mut cause.untraced) {
            1 => format!("{what}: {message}"),
            times => format!(
                "{what} {times} times in the last {} s: {message}",
                since.as_secs()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes_and_end_with_a_success() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        assert!(!backoff.is_waiting(now, || false));
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            backoff.fail(now);
            let pause = Duration::from_secs(pause);
            assert!(backoff.is_waiting(now + pause - Duration::from_millis(1), || false));
            assert!(!backoff.is_waiting(now + pause, || false), "{pause:?}");
            now += pause;
        }
        backoff.fail(now);
        assert!(backoff.is_waiting(now + Duration::from_millis(999), || true));
        assert!(!backoff.is_waiting(now + Duration::from_secs(1), || true));
        backoff.succeed();
        assert!(!backoff.is_waiting(now, || false));
        for _ in 0..200 {
            backoff.fail(now);
        }
        assert!(!backoff.is_waiting(now + LONGEST_PAUSE, || false));
    }

    #[test]
    fn three_hundred_failures_a_minute_are_one_line_a_minute() {
        let reporter = Reporter::default();
        let start = Instant::now();
        let mut lines = Vec::new();
        for number in 0..900 {
            let now = start + Duration::from_millis(200 * number);
            lines.extend(reporter.line("The seal failed", "no space left", now));
        }
        assert_eq!(
            lines,
            [
                "The seal failed: no space left",
                "The seal failed 300 times in the last 60 s: no space left",
                "The seal failed 300 times in the last 60 s: no space left",
            ]
        );
        // Another cause is traced immediately, and so is another job.
        let now = start + Duration::from_secs(180);
        let is_traced = |what: &str, cause: &str| reporter.line(what, cause, now).is_some();
        assert!(is_traced("The seal failed", "damaged"));
        assert!(!is_traced("The seal failed", "damaged"));
        assert!(is_traced("The rollup failed", "damaged"));
        // Causes that differ each time are limited.
        let others = (0..300).filter(|number| is_traced("The scrub failed", &number.to_string()));
        assert_eq!(others.count(), CAUSES_PER_INTERVAL);
        // A failure after a success is traced.
        reporter.succeeded("The seal failed");
        assert!(is_traced("The seal failed", "damaged"));
    }
}
