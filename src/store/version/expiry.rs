//! Expiry policy: which events and daily states are too old to be kept.
//!
//! Expiry is derived from stored state; the clock alone never deletes data. Age is measured from
//! the last trusted day (see [`crate::store::clock`]), and a clock that is further ahead than any
//! usual downtime is rejected until an operator confirms the date.

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};

/// A clock that is more days than this ahead of the last trusted one is not trusted: longer than
/// a server is down for repair, and a third of the default retention of events.
pub const MAX_STEP_DAYS: u64 = 30;

/// Progress of expiry, as the manifest has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryMeta {
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
    /// The last day that was trusted.
    pub looked_on: Option<NaiveDate>,
}

/// Retention periods, in days before today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryPolicy {
    /// Events.
    pub raw_days: u16,
    /// Daily states and rollup lines.
    pub state_days: u16,
}

/// Trust in the clock's date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It may be wrong.
    Doubted,
    /// An operator confirmed it, however far ahead it is.
    Confirmed,
}

/// The first days that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Of events.
    pub raw_from: NaiveDate,
    /// Of states.
    pub states_from: NaiveDate,
}

/// The first days that are kept on a day.
pub fn horizon(day: NaiveDate, retention: ExpiryPolicy) -> Horizon {
    let before = |days: u16| day - Days::new(u64::from(days));
    Horizon {
        raw_from: before(retention.raw_days),
        // A state outlives its events: without it they would be the only record of the day.
        states_from: before(retention.state_days.max(retention.raw_days)),
    }
}

/// The error for a clock that is too far ahead of the day on which it was last seen.
pub fn clock_jump(today: NaiveDate, last_on: NaiveDate) -> Error {
    Error::bad_input(
        ErrorCode::ClockJump,
        format!(
            "nothing expires: the clock says {today}, and the last day seen is {last_on}, more than {MAX_STEP_DAYS} days \
             before; if it is right, run `echopilot expire --confirm-date {today}`, or, where a server runs, send it POST \
             /api/analytics/clock?confirm={today}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_kept_at_least_as_long_as_events() {
        let day = |text: &str| -> NaiveDate { text.parse().expect("a date") };
        let kept = |raw_days, state_days| {
            let retention = ExpiryPolicy {
                raw_days,
                state_days,
            };
            let horizon = horizon(day("2026-03-05"), retention);
            (horizon.raw_from, horizon.states_from)
        };
        assert_eq!(kept(4, 10), (day("2026-03-01"), day("2026-02-23")));
        assert_eq!(kept(10, 4), (day("2026-02-23"), day("2026-02-23")));
    }
}
