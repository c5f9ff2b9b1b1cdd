//! The queries that daily states are enough for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use chrono_tz::Tz;
use roaring::{MultiOps, RoaringBitmap};

use super::Cancel;
use super::user_union::UserUnion;
use crate::daily::{self, Activity, Day, Members, MembersOf};
use crate::dictionary::{Dictionaries, Dictionary, REST_FEATURE};
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
        let days = self.store.days(self.tz, days)?;
        let met = self.met(&days, filter)?;
        let mut all_know = true;
        self.each_day(
            &days,
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
            &self.store.days(self.tz, days)?,
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
        let days = self.store.days(self.tz, days)?;
        let met = self.met(&days, filter)?;
        let mut is_known = true;
        let read = |parts: &DayParts| match by {
            None => {
                let count = filter.totals(parts, wanted, self.tz, names, &met)?;
                Ok(count.map(|count| vec![(None, count)]))
            }
            Some(by) => filter.groups(parts, by, wanted, self.tz, names, &met),
        };
        let done = self.each_day(&days, read, |day, counts| match counts {
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

    /// The codes of the strings that meet a filter. Strings have codes once the states that name
    /// them were read, so these are read before.
    fn met(&self, days: &[DayParts], filter: &AggregateFilter<'_>) -> Result<Met> {
        let names = self.store.names();
        if !matches!(filter, AggregateFilter::All) {
            self.each_day(days, |parts| parts.activities(names), |_, _| Ok(()))?;
        }
        filter.met(names, self.cancel)
    }

    /// Calls `sink` with the result of `read` for each day, in order.
    fn each_day<T: Send>(
        &self,
        days: &[DayParts],
        read: impl Fn(&DayParts) -> Result<T> + Sync,
        mut sink: impl FnMut(Day, T) -> Result<()>,
    ) -> Result<()> {
        let mut days = days.iter();
        pipeline::ordered(
            || Ok(days.next()),
            |parts| {
                self.cancel.check()?;
                Ok((parts.day, read(parts)?))
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

/// The codes of the event types or features that meet an [`AggregateFilter`]; none if all events
/// do.
type Met = Option<(MembersOf, RoaringBitmap)>;

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

    /// Tests each string once.
    fn met(&self, names: &Dictionaries, cancel: &Cancel) -> Result<Met> {
        let (types, features) = (&names.event_types, &names.features);
        let find = |dictionary: &Dictionary, wanted: &[String]| {
            let codes = wanted.iter().filter_map(|name| dictionary.find(name));
            codes.collect()
        };
        Ok(Some(match self {
            Self::All => return Ok(None),
            Self::EventTypes(wanted) => (MembersOf::EventTypes, find(types, wanted)),
            Self::Features(wanted) => (MembersOf::Features, find(features, wanted)),
            Self::SomeEventTypes(filter) => (MembersOf::EventTypes, some(types, filter, cancel)?),
            Self::SomeFeatures(filter) => {
                let mut met = some(features, filter, cancel)?;
                met.remove(REST_FEATURE);
                (MembersOf::Features, met)
            }
        }))
    }

    /// Users and events of a day in parts; `None` if one of the features may be beyond the limit of
    /// the day.
    fn activities(
        &self,
        parts: &DayParts,
        tz: Tz,
        names: &Dictionaries,
    ) -> Result<Option<Vec<Arc<Activity>>>> {
        let activities = parts.activities(names)?;
        let mut parts = activities.iter();
        let may_be_rest = parts.any(|activity| self.may_be_rest(activity, tz, names));
        Ok((!may_be_rest).then_some(activities))
    }

    /// The users of a day; `None` as for [`Self::activities`].
    fn users(
        &self,
        parts: &DayParts,
        tz: Tz,
        names: &Dictionaries,
        met: &Met,
    ) -> Result<Option<RoaringBitmap>> {
        let Some(activities) = self.activities(parts, tz, names)? else {
            return Ok(None);
        };
        let Some((of, met)) = met else {
            let users = activities.iter().map(|activity| &activity.users);
            return Ok(Some(users.union()));
        };
        let mut users = UserUnion::default();
        for members in parts.members(names, *of, |code| met.contains(code))? {
            users.add(&members.users);
        }
        Ok(Some(users.finish()))
    }

    /// Events, and users if these are wanted, of a day; `None` as for [`Self::activities`].
    fn totals(
        &self,
        parts: &DayParts,
        wanted: Wanted,
        tz: Tz,
        names: &Dictionaries,
        met: &Met,
    ) -> Result<Option<Count>> {
        let Some(activities) = self.activities(parts, tz, names)? else {
            return Ok(None);
        };
        let events = activities.iter().map(|activity| self.events(activity, met));
        let mut count = Count {
            events: events.sum(),
            ..Count::default()
        };
        if wanted == Wanted::Users {
            match self.users(parts, tz, names, met)? {
                Some(users) => count.users = users,
                None => return Ok(None),
            }
        }
        Ok(Some(count))
    }

    /// Events, and users if these are wanted, of a day by event type or feature; `None` as for
    /// [`Self::activities`], and if users had events without a feature, which states do not know.
    fn groups(
        &self,
        parts: &DayParts,
        by: &Property,
        wanted: Wanted,
        tz: Tz,
        names: &Dictionaries,
        met: &Met,
    ) -> Result<Option<DayCounts>> {
        let (of, dictionary) = match *by == Property::EventType {
            true => (MembersOf::EventTypes, &names.event_types),
            false => (MembersOf::Features, &names.features),
        };
        let Some(activities) = self.activities(parts, tz, names)? else {
            return Ok(None);
        };
        let is_met = |code: u32| met.as_ref().is_none_or(|(_, met)| met.contains(code));
        let mut found: BTreeMap<u32, Count> = BTreeMap::new();
        let mut missing = 0;
        for activity in &activities {
            let of_codes = activity.events_of(of);
            for (&code, events) in of_codes.iter().filter(|(code, _)| is_met(**code)) {
                found.entry(code).or_default().events += events;
            }
            if met.is_none() {
                if of == MembersOf::Features && of_codes.contains_key(&REST_FEATURE) {
                    return Ok(None);
                }
                missing += activity.events - of_codes.values().sum::<u64>().min(activity.events);
            }
        }
        if wanted == Wanted::Users {
            if missing > 0 {
                return Ok(None);
            }
            for members in parts.members(names, of, is_met)? {
                let count = found.entry(members.code).or_default();
                count.users |= daily::set(members.users);
            }
        }
        let name = |code: u32| Some(dictionary.text(code)?.to_owned());
        let groups = found.into_iter();
        let mut groups: DayCounts = groups
            .filter_map(|(code, count)| Some((Some(name(code)?), count)))
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

    fn events(&self, activity: &Activity, met: &Met) -> u64 {
        let Some((of, met)) = met else {
            return activity.events;
        };
        let events = activity.events_of(*of);
        match self {
            // A name is looked up, which is faster than going through all.
            Self::EventTypes(_) | Self::Features(_) => {
                met.iter().filter_map(|code| events.get(&code)).sum()
            }
            _ => {
                let met = events.iter().filter(|(code, _)| met.contains(**code));
                met.map(|(_, events)| events).sum()
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
}

/// The codes of the strings that meet a filter.
fn some(dictionary: &Dictionary, filter: &Filter, cancel: &Cancel) -> Result<RoaringBitmap> {
    let test = filter.on_value();
    let mut met = RoaringBitmap::new();
    for code in 0..dictionary.len() as u32 {
        cancel.check()?;
        if dictionary.text(code).is_some_and(|name| test(Some(name))) {
            met.insert(code);
        }
    }
    filter.check_time()?;
    Ok(met)
}
