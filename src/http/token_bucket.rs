//! A token bucket: a rate, and a burst.

use std::time::{Duration, Instant};

/// Capacity and rate of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenBucket {
    /// Tokens that are added each second.
    pub per_second: f64,
    /// Capacity in tokens.
    pub burst: f64,
}

/// The fill level of one client's bucket. A new one is full.
#[derive(Debug, Clone, Copy, Default)]
pub struct Level {
    missing: f64,
    at: Option<Instant>,
}

impl TokenBucket {
    /// Takes tokens.
    ///
    /// A full bucket gives more tokens than its capacity, and then takes longer to fill: otherwise
    /// a batch that is larger than a small burst could never pass.
    ///
    /// # Errors
    /// The time until there are enough tokens; then none is taken.
    pub fn take(&self, level: &mut Level, tokens: f64, now: Instant) -> Result<(), Duration> {
        let lacking = self.missing(level, now) + tokens.min(self.burst) - self.burst;
        if lacking > 0.0 {
            // At most an hour, whatever the settings: it is the value of `Retry-After`.
            return Err(Duration::from_secs_f64(
                (lacking / self.per_second).clamp(0.0, 3_600.0),
            ));
        }
        level.missing = self.missing(level, now) + tokens;
        level.at = Some(now);
        Ok(())
    }

    /// Checks that there is a token.
    ///
    /// # Errors
    /// The time until there is one.
    pub fn check(&self, level: &Level, now: Instant) -> Result<(), Duration> {
        let mut level = *level;
        self.take(&mut level, 1.0, now)
    }

    /// Tokens that are missing from a full bucket.
    pub fn missing(&self, level: &Level, now: Instant) -> f64 {
        let passed = level
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (level.missing - passed.as_secs_f64() * self.per_second).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_a_rate() {
        let bucket = TokenBucket {
            per_second: 5.0,
            burst: 50.0,
        };
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut level = Level::default();
        for _ in 0..5 {
            assert_eq!(bucket.take(&mut level, 10.0, start), Ok(()));
        }
        assert_eq!(
            bucket.take(&mut level, 10.0, start),
            Err(Duration::from_secs(2))
        );
        assert_eq!(bucket.take(&mut level, 10.0, after(2_000)), Ok(()));
        assert!(bucket.check(&level, after(2_100)).is_err());
        assert!(bucket.check(&level, after(2_300)).is_ok());
        // It is full after ten seconds and does not overflow.
        assert_eq!(bucket.missing(&level, after(60_000)), 0.0);
        // A batch that is larger than the bucket passes when it is full, and all its tokens count.
        assert_eq!(bucket.take(&mut level, 100.0, after(60_000)), Ok(()));
        assert_eq!(
            bucket.take(&mut level, 100.0, after(60_000)),
            Err(Duration::from_secs(20))
        );
    }
}
