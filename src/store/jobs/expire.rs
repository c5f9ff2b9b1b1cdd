//! Expiry: removes events and daily states that are older than they may be kept.

use chrono::NaiveDate;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use crate::daily::date;
use crate::error::Result;
use crate::store::version::{Clock, ExpiryPolicy, Horizon, Version, clock_jump, horizon};
use crate::store::{Store, clock};

/// Result of an expiry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Expired {
    /// Removed segments.
    pub segments: usize,
    /// Events in them.
    pub events: u64,
    /// Removed daily states.
    pub states: usize,
    /// Users whose last event and state are gone: their ids were removed from the dictionary.
    pub users: usize,
    /// The day from which ages were measured: today, or the last day that is trusted.
    pub as_of: NaiveDate,
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
}

/// Removes from a version what is older than a horizon. Returns the numbers of segments and states.
fn plan(next: &mut Version, horizon: Horizon) -> (usize, usize) {
    let before = (next.segments.len(), next.all_states().count());
    let segments = &mut next.segments;
    segments.retain(|segment| date(segment.day()) >= horizon.raw_from);
    next.states
        .retain(|&day, _| date(day) >= horizon.states_from);
    for zone in &mut next.zones {
        zone.states
            .retain(|&day, _| date(day) >= horizon.states_from);
    }
    let segments = before.0 - next.segments.len();
    let states = before.1 - next.all_states().count();
    if segments > 0 {
        next.expiry.raw_from = next.expiry.raw_from.max(Some(horizon.raw_from));
    }
    if states > 0 {
        next.expiry.states_from = next.expiry.states_from.max(Some(horizon.states_from));
    }
    (segments, states)
}

impl Store {
    /// Removes what is older than it may be kept on the day `today`.
    ///
    /// # Errors
    /// `clock_jump` if the clock cannot be trusted, and if a file cannot be written or removed.
    pub fn expire(
        &self,
        today: NaiveDate,
        retention: ExpiryPolicy,
        clock: Clock,
    ) -> Result<Expired> {
        let mut transaction = self.begin()?;
        let trusted = &self.ingest.clock;
        if clock == Clock::Confirmed {
            trusted.confirm_day(today);
        }
        let as_of = trusted
            .day_of_expiry(today)
            .map_err(|last_on| clock_jump(today, last_on))?;
        let next = &mut transaction.next;
        let (segments, states) = plan(next, horizon(as_of, retention));
        trusted.save(&mut next.clock, &mut next.expiry);
        let (base, next) = (transaction.base(), &transaction.next);
        let mut expired = Expired {
            segments,
            events: base.rows() - next.rows(),
            states,
            users: 0,
            as_of,
            raw_from: next.expiry.raw_from,
            states_from: next.expiry.states_from,
        };
        // The time of the newest event is written with the next events.
        let is_same_day =
            next.expiry == base.expiry && clock::doubted(next.clock) == clock::doubted(base.clock);
        let was_never_sealed = base.sequence == 0;
        if was_never_sealed || is_same_day && segments + states == 0 {
            drop(transaction);
        } else {
            transaction.commit(|_| {})?.removed?;
        }
        expired.users = self.expire_ids(states)?;
        if expired.segments + expired.states > 0 {
            info!(
                events = expired.events,
                segments = expired.segments,
                states = expired.states,
                "Expired {} events and {} daily states",
                expired.events,
                expired.states
            );
        }
        Ok(expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_before_the_horizon_expire() {
        let horizon = |raw_from, states_from| Horizon {
            raw_from: date(raw_from),
            states_from: date(states_from),
        };
        let mut next = Version::with(&[3, 3, 10, 20], &[1, 3, 10, 20]);
        assert_eq!(plan(&mut next, horizon(3, 1)), (0, 0));
        assert_eq!(next.expiry, crate::store::version::ExpiryMeta::default());
        assert_eq!(plan(&mut next, horizon(10, 3)), (2, 1));
        assert_eq!((next.segments.len(), next.states.len()), (2, 3));
        assert_eq!(next.expiry.raw_from, Some(date(10)));
        assert_eq!(next.expiry.states_from, Some(date(3)));
        // A horizon that went back brings nothing back.
        assert_eq!(plan(&mut next, horizon(5, 2)), (0, 0));
        assert_eq!(next.expiry.raw_from, Some(date(10)));
    }
}
