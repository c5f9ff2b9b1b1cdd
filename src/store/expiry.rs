//! Expiry: events and daily states go when they are older than they may be kept.
//!
//! What goes follows from what is there. The clock alone deletes nothing: what is old is judged by the last believed day
//! (see [`super::clock`]), and a clock that is further ahead than a server is ever off is rejected until a person confirms
//! the date.

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A clock that is further ahead of the last look is not believed: longer than a server is off for repair, and a third
/// of what raw events are kept by default.
pub(super) const MAX_STEP_DAYS: u64 = 30;

/// What expired, as the manifest says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryFacts {
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
    /// The last day that was believed.
    pub looked_on: Option<NaiveDate>,
}

/// How long what is kept, in days before today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events.
    pub raw_days: u16,
    /// Daily states and rollup lines.
    pub state_days: u16,
}

/// Whether a person said that the clock is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It may be wrong.
    Doubted,
    /// It is right, however far ahead.
    Confirmed,
}

/// What an expiry removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Expired {
    /// Segments.
    pub segments: usize,
    /// Events in them.
    pub events: u64,
    /// Daily states.
    pub states: usize,
    /// Users whose last event and state are gone: their ids were taken out of the dictionary.
    pub users: usize,
    /// The day by which it was judged what is old: today, or the last day that is believed.
    pub as_of: NaiveDate,
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
}

/// The first days that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Of events.
    pub raw_from: NaiveDate,
    /// Of states.
    pub states_from: NaiveDate,
}

/// What may go on a day.
pub fn horizon(day: NaiveDate, retention: Retention) -> Horizon {
    let before = |days: u16| day - Days::new(u64::from(days));
    Horizon {
        raw_from: before(retention.raw_days),
        // A state outlives its events: without it they would be all that is known of the day.
        states_from: before(retention.state_days.max(retention.raw_days)),
    }
}

/// The rejection of a clock that is too far ahead of the day on which it was last seen.
pub fn clock_jump(today: NaiveDate, last_on: NaiveDate) -> Error {
    Error::bad_input(
        "clock_jump",
        format!(
            "nothing expires: the clock says {today}, and the last day seen is {last_on}, more than {MAX_STEP_DAYS} days \
             before; if it is right, run `echopilot expire --confirm-date {today}`, or, where a server runs, send it POST \
             /api/analytics/clock?confirm={today}"
        ),
    )
}
