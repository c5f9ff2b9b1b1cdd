//! A token bucket: so much a second, and a burst at once.

use std::time::{Duration, Instant};

/// How much a bucket holds, and how fast it fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Tokens that come back each second.
    pub per_second: f64,
    /// Tokens of a full bucket.
    pub burst: f64,
}

/// What one client has taken out of its bucket. A new one is full.
#[derive(Debug, Clone, Copy, Default)]
pub struct Level {
    missing: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Takes tokens.
    ///
    /// More than a bucket holds are given by a full one, which then takes longer to fill: otherwise a batch that is larger than
    /// a small burst could never pass.
    ///
    /// # Errors
    /// The time until there are enough, if there are too few; then none is taken.
    pub fn take(&self, level: &mut Level, tokens: f64, now: Instant) -> Result<(), Duration> {
        let lacking = self.missing(level, now) + tokens.min(self.burst) - self.burst;
        if lacking > 0.0 {
            // At most some hours, whatever the settings: it is for a header that says when to come back.
            return Err(Duration::from_secs_f64(
                (lacking / self.per_second).clamp(0.0, 3_600.0),
            ));
        }
        level.missing = self.missing(level, now) + tokens;
        level.at = Some(now);
        Ok(())
    }

    /// The time until there is a token.
    ///
    /// # Errors
    /// That time, if there is none now.
    pub fn check(&self, level: &Level, now: Instant) -> Result<(), Duration> {
        let mut level = *level;
        self.take(&mut level, 1.0, now)
    }

    /// Tokens that were taken and have not come back yet.
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
    fn a_bucket_gives_a_burst_and_then_so_much_a_second() {
        let bucket = Bucket {
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
        // It is full after ten seconds, and never more than full.
        assert_eq!(bucket.missing(&level, after(60_000)), 0.0);
        // A batch that is larger than the bucket passes when it is full, and costs what it costs.
        assert_eq!(bucket.take(&mut level, 100.0, after(60_000)), Ok(()));
        assert_eq!(
            bucket.take(&mut level, 100.0, after(60_000)),
            Err(Duration::from_secs(20))
        );
    }
}
