//! The queries that daily states are enough for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use chrono_tz::Tz;
use roaring::RoaringBitmap;

use super::Cancel;
use super::user_union::UserUnion;
use crate::daily::{Activity, DailyState, Day, Members, MembersOf};
use crate::dictionary::{Dictionaries, REST_FEATURE};
use crate::error::{Error, Result};
use crate::metrics::active_days::ActiveDays;
use crate::metrics::budget::Budget;
use crate::metrics::counts::{Count, Counts};
use crate::metrics::feature_usage::most_used;
use crate::metrics::filter::{Filter, Property};
use crate::metrics::source::{DayCounts, DaySink, Wanted};
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
        let met = self.met(days, filter)?;
        let mut all_know = true;
        self.each_day(
            days,
            |parts| filter.users(parts, self.tz, names, &met),
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
        self.counts(&days, MembersOf::Features, |feature| {
            wanted.contains(&feature)
        })
    }

    /// Events and users of each event type.
    pub(super) fn event_type_counts(&self, days: &Range<Day>) -> Result<Counts> {
        self.counts(days, MembersOf::EventTypes, |_| true)
    }

    /// Events and users of the event types or features that are wanted.
    fn counts(
        &self,
        days: &Range<Day>,
        of: MembersOf,
        is_wanted: impl Fn(u32) -> bool + Sync,
    ) -> Result<Counts> {
        let names = self.store.names();
        let mut found: HashMap<u32, (u64, UserUnion)> = HashMap::new();
        let mut charge = self.budget.charge();
        let mut days_read = 0_u32;
        self.each_day(
            days,
            |parts| parts.members(names, of, &is_wanted),
            |_, members| {
                for Members {
                    code,
                    events,
                    users,
                } in members
                {
                    let (all_events, union) = found.entry(code).or_default();
                    *all_events += events;
                    union.add(&users);
                }
                // The unions grow slowly from day to day, and measuring them takes time.
                days_read += 1;
                if days_read % DAYS_PER_CHARGE == 1 {
                    charge.set(found.values().map(|(_, union)| union.bytes()).sum())?;
                }
                Ok(())
            },
        )?;
        let mut counts = Counts::default();
        for (code, (events, union)) in found {
            *counts.of_key(code) = Count {
                events,
                users: union.finish(),
            };
        }
        Ok(counts)
    }

    /// Calls `sink` with the events and users of each day that meet a filter, by event type or
    /// feature. False if the states of a day do not know them.
    pub(super) fn day_counts(
        &self,
        days: &Range<Day>,
        filter: &AggregateFilter<'_>,
        by: Option<&Property>,
        wanted: Wanted,
        sink: &mut DaySink<'_>,
    ) -> Result<bool> {
        let names = self.store.names();
        let met = self.met(days, filter)?;
        let mut is_known = true;
        let read = |parts: &DayParts| match by {
            None => {
                let count = filter.totals(parts, wanted, self.tz, names, &met)?;
                Ok(count.map(|count| vec![(None, count)]))
            }
            Some(by) => filter.groups(parts, by, wanted, self.tz, names, &met),
        };
        let done = self.each_day(days, read, |day, counts| match counts {
            Some(counts) => sink(day, counts),
            None => {
                is_known = false;
                Err(Error::Busy("daily states do not know a group"))
            }
        });
        match done {
            Err(_) if !is_known => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// The codes of the strings that meet a filter. Features have codes once the states that name
    /// them were read, so these are read before.
    fn met(&self, days: &Range<Day>, filter: &AggregateFilter<'_>) -> Result<Met> {
        if let AggregateFilter::SomeFeatures(_) = filter {
            self.each_day(
                days,
                |parts| parts.activities(self.store.names()),
                |_, _| Ok(()),
            )?;
        }
        filter.met(self.store.names(), self.cancel)
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
    /// Users of events of the types that meet a filter which is on these alone.
    SomeEventTypes(&'a Filter),
    /// Users of the features that meet a filter which is on these alone and that no event without a
    /// feature meets.
    SomeFeatures(&'a Filter),
}

/// The codes of the strings that meet an [`AggregateFilter`] on strings of any kind.
pub(super) type Met = Option<RoaringBitmap>;

impl<'a> AggregateFilter<'a> {
    /// `None` if states are not enough for the filter.
    pub(in crate::engine) fn of(filter: &'a Filter) -> Option<Self> {
        match filter.only() {
            _ if filter.is_empty() => Some(Self::All),
            // States have no `system` events.
            _ if filter.names_system() => None,
            Some((Property::EventType, names)) => Some(Self::EventTypes(names)),
            Some((Property::Feature, names)) => Some(Self::Features(names)),
            Some(_) => None,
            None => match filter.property() {
                Some(Property::EventType) => Some(Self::SomeEventTypes(filter)),
                // States do not know who had an event without a feature.
                Some(Property::Feature) if !filter.on_value()(None) => {
                    Some(Self::SomeFeatures(filter))
                }
                _ => None,
            },
        }
    }

    /// True if states may know the groups of the events that meet it.
    pub(in crate::engine) fn knows_groups(&self, by: Option<&Property>) -> bool {
        match by {
            None => true,
            Some(Property::EventType) => !matches!(self, Self::Features(_) | Self::SomeFeatures(_)),
            Some(Property::Feature) => {
                !matches!(self, Self::EventTypes(_) | Self::SomeEventTypes(_))
            }
            Some(_) => false,
        }
    }

    /// Tests each feature once.
    fn met(&self, names: &Dictionaries, cancel: &Cancel) -> Result<Met> {
        let Self::SomeFeatures(filter) = self else {
            return Ok(None);
        };
        let test = filter.on_value();
        let mut met = RoaringBitmap::new();
        for code in 0..names.features.len() as u32 {
            cancel.check()?;
            let name = names.features.text(code);
            if code != REST_FEATURE && name.is_some_and(|name| test(Some(name))) {
                met.insert(code);
            }
        }
        filter.check_time()?;
        Ok(Some(met))
    }

    /// The users of a day; `None` if one of the features may be beyond the limit of the day.
    fn users(
        &self,
        parts: &DayParts,
        tz: Tz,
        names: &Dictionaries,
        met: &Met,
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
            self.add_users(&state, names, met, &mut users);
        }
        Ok(Some(users))
    }

    /// Events, and users if these are wanted, of a day; `None` as for [`Self::users`].
    fn totals(
        &self,
        parts: &DayParts,
        wanted: Wanted,
        tz: Tz,
        names: &Dictionaries,
        met: &Met,
    ) -> Result<Option<Count>> {
        let mut count = Count::default();
        for activity in parts.activities(names)? {
            if self.may_be_rest(&activity, tz, names) {
                return Ok(None);
            }
            count.events += self.events(&activity, names, met);
        }
        if wanted == Wanted::Users {
            match self.users(parts, tz, names, met)? {
                Some(users) => count.users = users,
                None => return Ok(None),
            }
        }
        Ok(Some(count))
    }

    /// Events, and users if these are wanted, of a day by event type or feature; `None` as for
    /// [`Self::users`], and if users had events without a feature, which states do not know.
    fn groups(
        &self,
        parts: &DayParts,
        by: &Property,
        wanted: Wanted,
        tz: Tz,
        names: &Dictionaries,
        met: &Met,
    ) -> Result<Option<DayCounts>> {
        let is_by_type = *by == Property::EventType;
        let dictionary = match is_by_type {
            true => &names.event_types,
            false => &names.features,
        };
        let mut found: BTreeMap<u32, Count> = BTreeMap::new();
        let mut missing = 0;
        for activity in parts.activities(names)? {
            let has_rest = !is_by_type && activity.features.contains_key(&REST_FEATURE);
            let is_all = matches!(self, Self::All);
            if (is_all && has_rest) || self.may_be_rest(&activity, tz, names) {
                return Ok(None);
            }
            let of_codes = match is_by_type {
                true => &activity.event_types,
                false => &activity.features,
            };
            for (&code, events) in of_codes {
                if dictionary
                    .text(code)
                    .is_some_and(|name| self.has(code, name, met))
                {
                    found.entry(code).or_default().events += events;
                }
            }
            if is_all {
                missing += activity.events - of_codes.values().sum::<u64>().min(activity.events);
            }
        }
        if wanted == Wanted::Users {
            if missing > 0 {
                return Ok(None);
            }
            for state in parts.states(names)? {
                let of_codes = match is_by_type {
                    true => &state.event_type_users,
                    false => &state.feature_users,
                };
                for (code, users) in of_codes {
                    if let Some(count) = found.get_mut(code) {
                        count.users |= users;
                    }
                }
            }
        }
        let name = |code: u32| dictionary.text(code).map(str::to_owned);
        let mut groups: DayCounts = found
            .into_iter()
            .map(|(code, count)| (name(code), count))
            .collect();
        if missing > 0 {
            let users = RoaringBitmap::new();
            groups.push((
                None,
                Count {
                    events: missing,
                    users,
                },
            ));
        }
        Ok(Some(groups))
    }

    /// True if events with a type or a feature meet it.
    fn has(&self, code: u32, name: &str, met: &Met) -> bool {
        match self {
            Self::All => true,
            Self::EventTypes(wanted) | Self::Features(wanted) => {
                wanted.iter().any(|wanted| wanted == name)
            }
            Self::SomeEventTypes(filter) => filter.on_value()(Some(name)),
            Self::SomeFeatures(_) => met.as_ref().is_some_and(|met| met.contains(code)),
        }
    }

    fn events(&self, activity: &Activity, names: &Dictionaries, met: &Met) -> u64 {
        match self {
            Self::All => activity.events,
            Self::EventTypes(wanted) => {
                let codes: BTreeSet<u32> = wanted
                    .iter()
                    .filter_map(|name| names.event_types.find(name))
                    .collect();
                let of_types = codes
                    .iter()
                    .filter_map(|code| activity.event_types.get(code));
                of_types.sum()
            }
            Self::SomeEventTypes(filter) => {
                let test = filter.on_value();
                let of_types = activity.event_types.iter().filter(|(code, _)| {
                    let name = names.event_types.text(**code);
                    name.is_some_and(|name| test(Some(name)))
                });
                of_types.map(|(_, events)| events).sum()
            }
            Self::Features(wanted) => {
                let codes: BTreeSet<u32> = wanted
                    .iter()
                    .filter_map(|name| names.features.find(name))
                    .collect();
                let of_features = codes.iter().filter_map(|code| activity.features.get(code));
                of_features.sum()
            }
            Self::SomeFeatures(_) => {
                let of_features = activity
                    .features
                    .iter()
                    .filter(|(code, _)| met.as_ref().is_some_and(|met| met.contains(**code)));
                of_features.map(|(_, events)| events).sum()
            }
        }
    }

    fn may_be_rest(&self, activity: &Activity, tz: Tz, names: &Dictionaries) -> bool {
        let wanted = match self {
            Self::Features(wanted) => wanted,
            // What is beyond the limit has no name there.
            Self::SomeFeatures(_) => return activity.features.contains_key(&REST_FEATURE),
            _ => return false,
        };
        // The limit is one of days of UTC: a feature that a day of another zone names may be beyond
        // the limit of the other day of UTC.
        let is_named = |name: &String| {
            let code = names.features.find(name);
            tz == Tz::UTC && code.is_some_and(|code| activity.features.contains_key(&code))
        };
        activity.features.contains_key(&REST_FEATURE) && !wanted.iter().all(is_named)
    }

    fn add_users(
        &self,
        state: &DailyState,
        names: &Dictionaries,
        met: &Met,
        users: &mut RoaringBitmap,
    ) {
        match self {
            Self::All => *users |= &state.activity.users,
            Self::EventTypes(wanted) => {
                for code in wanted
                    .iter()
                    .filter_map(|name| names.event_types.find(name))
                {
                    if let Some(some) = state.event_type_users.get(&code) {
                        *users |= some;
                    }
                }
            }
            Self::SomeEventTypes(filter) => {
                let test = filter.on_value();
                for (&code, some) in &state.event_type_users {
                    let name = names.event_types.text(code);
                    if name.is_some_and(|name| test(Some(name))) {
                        *users |= some;
                    }
                }
            }
            Self::SomeFeatures(_) => {
                let met = met.iter();
                for (feature, some) in &state.feature_users {
                    if met.clone().any(|met| met.contains(*feature)) {
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
