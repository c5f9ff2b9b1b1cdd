//! The queries that daily states are enough for.

use std::collections::HashSet;
use std::ops::Range;

use chrono_tz::Tz;
use roaring::RoaringBitmap;

use super::Cancel;
use crate::daily::{Activity, DailyState, Day};
use crate::dictionary::{Dictionaries, REST_FEATURE};
use crate::error::Result;
use crate::event::EventType;
use crate::metrics::active_days::ActiveDays;
use crate::metrics::budget::Budget;
use crate::metrics::counts::Counts;
use crate::metrics::feature_usage::most_used;
use crate::metrics::filter::{Filter, Property};
use crate::store::{DayParts, Store, pipeline};

/// Days after which the memory of the sets of users is charged again.
const DAYS_PER_CHARGE: u32 = 16;

/// The daily states of a store, for one query.
pub(super) struct States<'a> {
    pub(super) store: &'a Store,
    /// UTC or a reporting zone.
    pub(super) tz: Tz,
    pub(super) cancel: &'a Cancel,
    pub(super) budget: &'a Budget,
}

impl States<'_> {
    /// Adds the users of events that meet a filter, by day of the zone. Returns whether the states
    /// of all days know them.
    pub(super) fn add_users(
        &self,
        days: &Range<Day>,
        filter: &AggregateFilter<'_>,
        found: &mut ActiveDays,
    ) -> Result<bool> {
        let names = self.store.names();
        let mut all_know = true;
        self.each_day(
            days,
            |parts| filter.users(parts, self.tz, names),
            |day, users| {
                match users {
                    Some(users) => found.add(day, &users),
                    None => all_know = false,
                }
                Ok(())
            },
        )?;
        Ok(all_know)
    }

    /// Events and users of the most used features and of the rest. Which features these are is
    /// found by events alone: the sets of users of all features may be many.
    pub(super) fn feature_counts(&self, days: Range<Day>, most: usize) -> Result<Counts> {
        let names = self.store.names();
        let mut features = self.store.activities(self.tz, days.clone())?.features();
        features.remove(&REST_FEATURE);
        let name = |feature| names.features.text(feature).unwrap_or_default();
        let mut wanted: HashSet<u32> = most_used(features.into_iter().collect(), most, name)
            .into_iter()
            .map(|(feature, _)| feature)
            .collect();
        wanted.insert(REST_FEATURE);
        let mut found = Counts::default();
        let mut charge = self.budget.charge();
        let mut days_read = 0_u32;
        self.each_day(
            &days,
            |parts| parts.states(names),
            |_, states| {
                for state in states {
                    for (feature, events) in &state.activity.features {
                        if wanted.contains(feature) {
                            found.of_key(*feature).events += events;
                        }
                    }
                    for (feature, users) in &state.feature_users {
                        if wanted.contains(feature) {
                            found.of_key(*feature).users |= users;
                        }
                    }
                }
                // The sets grow slowly from day to day, and measuring them takes time.
                days_read += 1;
                if days_read % DAYS_PER_CHARGE == 1 {
                    charge.set(found.bytes())?;
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Events and users of each event type.
    pub(super) fn event_type_counts(&self, days: &Range<Day>) -> Result<Counts> {
        let names = self.store.names();
        let mut found = Counts::default();
        self.each_day(
            days,
            |parts| parts.states(names),
            |_, states| {
                for state in states {
                    let of_state = state
                        .activity
                        .event_types
                        .iter()
                        .zip(&state.event_type_users);
                    for (code, (&events, users)) in (0..).zip(of_state) {
                        let count = found.of_key(code);
                        count.events += events;
                        count.users |= users;
                    }
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Calls `sink` with the result of `read` for each day of a range that has events, in order.
    fn each_day<T: Send>(
        &self,
        days: &Range<Day>,
        read: impl Fn(&DayParts) -> Result<T> + Sync,
        mut sink: impl FnMut(Day, T) -> Result<()>,
    ) -> Result<()> {
        let mut parts = self.store.days(self.tz, days)?.into_iter();
        pipeline::ordered(
            || Ok(parts.next()),
            |parts| {
                self.cancel.check()?;
                Ok((parts.day, read(&parts)?))
            },
            |result: Result<(Day, T)>| {
                self.cancel.check()?;
                let (day, result) = result?;
                sink(day, result)
            },
        )
    }
}

/// A filter whose users daily states have.
pub(in crate::engine) enum AggregateFilter<'a> {
    /// Users of any event.
    All,
    /// Users of events of these types.
    EventTypes(&'a [String]),
    /// Users of these features.
    Features(&'a [String]),
}

impl<'a> AggregateFilter<'a> {
    /// `None` if states are not enough for the filter.
    pub(in crate::engine) fn of(filter: &'a Filter) -> Option<Self> {
        match filter.only() {
            _ if filter.is_empty() => Some(Self::All),
            Some((Property::EventType, names)) => Some(Self::EventTypes(names)),
            Some((Property::Feature, names)) => Some(Self::Features(names)),
            _ => None,
        }
    }

    /// The users of a day; `None` if one of the features may be beyond the limit of the day.
    fn users(
        &self,
        parts: &DayParts,
        tz: Tz,
        names: &Dictionaries,
    ) -> Result<Option<RoaringBitmap>> {
        let mut users = RoaringBitmap::new();
        if let Self::All = self {
            for activity in parts.activities(names)? {
                let Activity { users: some, .. } = activity.as_ref();
                users |= some;
            }
            return Ok(Some(users));
        }
        for state in parts.states(names)? {
            if self.may_be_rest(&state.activity, tz, names) {
                return Ok(None);
            }
            self.add_users(&state, names, &mut users);
        }
        Ok(Some(users))
    }

    fn may_be_rest(&self, activity: &Activity, tz: Tz, names: &Dictionaries) -> bool {
        let Self::Features(wanted) = self else {
            return false;
        };
        // The limit is one of days of UTC: a feature that a day of another zone names may be beyond
        // the limit of the other day of UTC.
        let is_named = |name: &String| {
            let code = names.features.find(name);
            tz == Tz::UTC && code.is_some_and(|code| activity.features.contains_key(&code))
        };
        activity.features.contains_key(&REST_FEATURE) && !wanted.iter().all(is_named)
    }

    fn add_users(&self, state: &DailyState, names: &Dictionaries, users: &mut RoaringBitmap) {
        match self {
            Self::All => *users |= &state.activity.users,
            Self::EventTypes(wanted) => {
                for (event_type, some) in EventType::ALL.iter().zip(&state.event_type_users) {
                    if wanted.iter().any(|name| name == event_type.name()) {
                        *users |= some;
                    }
                }
            }
            Self::Features(wanted) => {
                for feature in wanted.iter().filter_map(|name| names.features.find(name)) {
                    if let Some(some) = state.feature_users.get(&feature) {
                        *users |= some;
                    }
                }
            }
        }
    }
}
