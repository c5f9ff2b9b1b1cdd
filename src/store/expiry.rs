//! Expiry: events and daily states go when they are older than they may be kept.
//!
//! What goes follows from what is there. The clock alone deletes nothing: when it is further ahead of the last time
//! anyone looked than a server is ever off, expiry refuses until a person confirms the date.

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A clock that is further ahead of the last look is not believed: longer than a server is off for repair, and a third
/// of what raw events are kept by default.
const MAX_STEP_DAYS: u64 = 30;

/// What expired, as the manifest says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryFacts {
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
    /// The day of the last look at the clock.
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

/// What may go on the day `today`, when the clock was last seen on `looked_on`.
///
/// # Errors
/// `clock_jump` if the clock cannot be believed.
pub fn horizon(
    today: NaiveDate,
    looked_on: Option<NaiveDate>,
    retention: Retention,
    clock: Clock,
) -> Result<Horizon> {
    if let Some(looked_on) = looked_on
        && clock == Clock::Doubted
        && today > looked_on + Days::new(MAX_STEP_DAYS)
    {
        return Err(Error::bad_input(
            "clock_jump",
            format!(
                "nothing expires: the clock says {today}, and the last day seen is {looked_on}, more than {MAX_STEP_DAYS} \
                 days before; if it is right, run `echopilot expire --confirm-date {today}`"
            ),
        ));
    }
    let before = |days: u16| today - Days::new(u64::from(days));
    Ok(Horizon {
        raw_from: before(retention.raw_days),
        // A state outlives its events: without it they would be all that is known of the day.
        states_from: before(retention.state_days.max(retention.raw_days)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::parse_day;

    #[test]
    fn a_clock_that_jumps_deletes_nothing_until_it_is_confirmed() {
        let day = |text| parse_day(text).expect("a day");
        let keep = Retention {
            raw_days: 90,
            state_days: 365,
        };
        let seen = Some(day("2026-11-22"));
        let at = |today, clock| horizon(day(today), seen, keep, clock);
        assert!(matches!(
            at("2099-01-01", Clock::Doubted),
            Err(Error::BadInput {
                code: "clock_jump",
                ..
            })
        ));
        assert!(at("2026-12-23", Clock::Doubted).is_err());
        assert!(at("2099-01-01", Clock::Confirmed).is_ok());
        for today in ["2026-12-22", "2026-11-22", "1999-01-01"] {
            assert!(at(today, Clock::Doubted).is_ok(), "{today}");
        }
        let kept = at("2026-11-23", Clock::Doubted).expect("the next day");
        assert_eq!(kept.raw_from, day("2026-08-25"));
        assert_eq!(kept.states_from, day("2025-11-23"));
    }
}
