//! The revision of the data that a result is computed from.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::Engine;
use crate::daily::Day;
use crate::error::Result;
use crate::metrics::query::CohortCondition;
use crate::window::{self, WindowRequest};

impl Engine {
    /// A string that changes whenever the results of a closed window may: with late events, an
    /// erasure, an expiry, the cohorts, the states of its zone, and the program. `None` while the
    /// window includes a day that is not over, and where a cohort has a window of its own.
    ///
    /// It covers all days up to the end of the window, as metrics may read those before it. It is
    /// of this process, because events that a crash lost may be followed by as many others.
    ///
    /// # Errors
    /// If the window or a cohort is wrong, or the events that are not sealed cannot be counted.
    pub fn revision_of_closed(
        &self,
        request: &WindowRequest,
        cohorts: &[CohortCondition],
        now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        let window = request.resolve(now)?;
        if window.is_partial(now) {
            return Ok(None);
        }
        let mut definitions = String::new();
        if !cohorts.is_empty() {
            let known = self.cohorts()?;
            for condition in cohorts {
                let cohort = known.find(&condition.name)?;
                if cohort.window.is_some() {
                    // It may have days that are not over, or later than those of the query.
                    return Ok(None);
                }
                definitions += &serde_json::to_string(cohort).unwrap_or_default();
            }
        }
        let tz = window.tz();
        let days = Day::MIN..window::utc_days_of(window.last_day(), tz).end;
        let mut revision = format!(
            "{} {} {} {:?} {} {:?} {definitions}",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            self.opened_at.timestamp_micros(),
            self.store.expiry(),
            self.store.has_states(tz, &window.days_in_epoch()),
            self.store.first_complete_day(tz),
        );
        for (day, of_day) in self.store.revisions(&days)? {
            // Writing to a string cannot fail.
            let _ = write!(revision, " {day}:{of_day}");
        }
        Ok(Some(revision))
    }
}
