//! The parameters of a synthetic history.

use chrono::NaiveDate;

use crate::error::{Error, ErrorCode};

/// Parameters of a history.
#[derive(Debug, Clone, Copy)]
pub struct Demo {
    /// Number of events.
    pub events: u64,
    /// Number of days, up to and including `last_day`.
    pub days: u32,
    /// Number of users.
    pub users: u32,
    /// Number of features.
    pub features: u32,
    /// Seed of the random numbers; equal seeds give equal histories.
    pub seed: u64,
    /// The last day.
    pub last_day: NaiveDate,
    /// True for events without ids, none of them late, with two metadata keys.
    pub plain: bool,
}

/// The seed of one part of a history.
pub fn part_seed(seed: u64, part: u32) -> u64 {
    // Consecutive numbers must not give related seeds: the golden ratio in 64 bits spreads them.
    seed ^ (u64::from(part) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Reports invalid parameters of a distribution. The constants are valid, and the number of
/// features is checked before.
pub fn wrong_distribution(error: impl std::fmt::Display) -> Error {
    Error::bad_input(ErrorCode::BadDemo, error.to_string())
}
