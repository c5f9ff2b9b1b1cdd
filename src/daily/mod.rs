//! Daily states: mergeable counts and user sets of one day of UTC or of a reporting zone, which
//! give exact numbers of distinct users without reading events.
//!
//! The state of a day is the union of the states of any parts of its events, in any order, so that
//! late events are added without reading the others. Users are codes of the store's dictionary.
//! Everything here is pure.

mod codec;
mod slices;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use chrono::NaiveDate;
use chrono_tz::Tz;
use polars::prelude::*;
use roaring::RoaringBitmap;

pub use codec::{decode, decode_activity, decode_members, encode};
pub use slices::{OtherZones, Place, Slices};

use crate::dictionary::{REST_USER, SYSTEM_TYPE};
use crate::error::Result;
use crate::schema;
use crate::window::DAY_US;
use slices::SliceDays;

/// A calendar day of UTC or of a zone, as days since 1970-01-01.
pub type Day = i32;

/// The state of one day.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DailyState {
    /// The counts, and the active users.
    pub activity: Arc<Activity>,
    /// Users of each event type by its code; types that only anonymous users sent are missing.
    pub event_type_users: BTreeMap<u32, RoaringBitmap>,
    /// Users of each feature by its code; features that only anonymous users used are missing.
    pub feature_users: BTreeMap<u32, RoaringBitmap>,
}

/// The part of a state that most queries need, small enough to keep a year of it in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activity {
    /// Events, anonymous ones included.
    pub events: u64,
    /// The active users.
    pub users: RoaringBitmap,
    /// Events of each type by its code; types without events are missing.
    pub event_types: BTreeMap<u32, u64>,
    /// Events of each feature by its code; those of features beyond the day's limit are under
    /// [`crate::dictionary::REST_FEATURE`].
    pub features: BTreeMap<u32, u64>,
    /// Events of users beyond the limit of new users a day, who are not among `users`.
    pub rest_user_events: u64,
    /// The `system` events, which are in no other number.
    pub system: SystemActivity,
}

/// The `system` events of a day. No query reads them from here: they are kept so that the events
/// of a day can be compared with its segments, and its users be found by expiry and erasure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SystemActivity {
    /// Their number.
    pub events: u64,
    /// Their users.
    pub users: RoaringBitmap,
    /// Events of users beyond the limit of new users a day, who are not among `users`.
    pub rest_user_events: u64,
}

/// The keys that a state has sets of users of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembersOf {
    /// Each event type.
    EventTypes,
    /// Each feature.
    Features,
}

/// An event type or a feature of a day.
#[derive(Debug, Clone, PartialEq)]
pub struct Members {
    /// Its code.
    pub code: u32,
    /// Events, anonymous ones included.
    pub events: u64,
    /// Known users, in ascending order.
    pub users: Vec<u32>,
}

/// An ISO week, as weeks since the Monday before 1970-01-01.
pub type Week = i32;

/// The merged activity of the days of an ISO week.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WeekActivity {
    /// Days with events.
    pub days: u64,
    /// Sum of the distinct users of each day.
    pub user_days: u64,
    /// The days merged.
    pub whole: Activity,
}

/// The activity in a range of days: merged weeks where there are such, and the other days with
/// events, each in parts.
#[derive(Debug, Clone, Default)]
pub struct Activities {
    /// Weeks; no day of them is in `days`.
    pub weeks: BTreeMap<Week, Arc<WeekActivity>>,
    /// Days, each in parts that may share users.
    pub days: BTreeMap<Day, Vec<Arc<Activity>>>,
}

/// Days from a Monday to 1970-01-01, a Thursday.
pub const DAYS_SINCE_MONDAY: i32 = 3;

/// Bytes of a feature of an [`Activity`] in memory: code, number, and its share of the tree.
const FEATURE_BYTES: usize = 24;

const DAY: &str = "day";
const EVENTS: &str = "events";

/// The UTC day of a timestamp in µs.
pub fn day_of(ts_us: i64) -> Day {
    // Accepted timestamps are within two years of the server's clock.
    i32::try_from(ts_us.div_euclid(DAY_US)).unwrap_or(if ts_us < 0 { Day::MIN } else { Day::MAX })
}

/// The date of a day.
pub fn date(day: Day) -> NaiveDate {
    NaiveDate::from_epoch_days(day).unwrap_or_default()
}

/// The calendar day of an event in a zone, as an expression.
pub fn day(tz: Tz) -> Expr {
    let ts = col(schema::TS);
    let local = match tz {
        Tz::UTC => ts,
        // The name of a zone that chrono-tz knows is one that Polars knows.
        tz => match TimeZone::opt_try_new(Some(tz.name())) {
            Ok(Some(zone)) => ts.dt().convert_time_zone(zone),
            _ => ts,
        },
    };
    local.dt().date().cast(DataType::Int32)
}

/// The ISO week of a day.
pub fn week_of(day: Day) -> Week {
    (day + DAYS_SINCE_MONDAY).div_euclid(7)
}

/// The days of an ISO week.
pub fn days_of(week: Week) -> Range<Day> {
    let monday = week * 7 - DAYS_SINCE_MONDAY;
    monday..monday + 7
}

/// The name of the column with the day in the zone at a place.
fn day_column(place: usize) -> PlSmallStr {
    format!("{DAY}{place}").into()
}

/// The lazy plan of slices, whose result [`read`] turns into them: from events whose strings are
/// categoricals or codes, a row for each day of UTC and of each zone, user, feature and type with
/// the number of events.
pub fn plan(events: LazyFrame, zones: &[Tz]) -> LazyFrame {
    let zones = [Tz::UTC].into_iter().chain(zones.iter().copied());
    let days: Vec<Expr> = zones
        .enumerate()
        .map(|(place, tz)| day(tz).alias(day_column(place)))
        .collect();
    let names = [schema::EVENT_TYPE, schema::USER_ID, schema::FEATURE];
    let by_day = (0..days.len()).map(|place| col(day_column(place)));
    let by: Vec<Expr> = by_day.chain(names.map(col)).collect();
    let columns = names.map(|name| col(name).to_physical());
    events
        .select(days.into_iter().chain(columns).collect::<Vec<_>>())
        .group_by(by)
        .agg([len().cast(DataType::Int64).alias(EVENTS)])
}

/// The slices of a frame that [`plan`] returned for these zones.
///
/// # Errors
/// If a column is missing.
pub fn read(frame: &DataFrame, zones: &[Tz]) -> Result<Slices> {
    let days = (0..=zones.len()).map(|place| Ok(frame.column(&day_column(place))?.i32()?));
    let mut days = days
        .map(|column: Result<&Int32Chunked>| column.map(Int32Chunked::iter))
        .collect::<Result<Vec<_>>>()?;
    let types = frame.column(schema::EVENT_TYPE)?.u32()?;
    let users = frame.column(schema::USER_ID)?.u32()?;
    let features = frame.column(schema::FEATURE)?.u32()?;
    let events = frame.column(EVENTS)?.i64()?;
    let mut tallies: BTreeMap<SliceDays, Tally> = BTreeMap::new();
    let mut slice = SliceDays::new();
    let keys = types.iter().zip(users.iter());
    for ((event_type, user), (feature, events)) in keys.zip(features.iter().zip(events.iter())) {
        slice.clear();
        slice.extend(days.iter_mut().filter_map(|days| days.next().flatten()));
        let (Some(event_type), Some(events)) = (event_type, events) else {
            continue;
        };
        if !tallies.contains_key(&slice) {
            tallies.insert(slice.clone(), Tally::default());
        }
        if let Some(tally) = tallies.get_mut(&slice) {
            tally.add(event_type, user, feature, events.unsigned_abs());
        }
    }
    Ok(tallies
        .into_iter()
        .map(|(days, tally)| (days, tally.finish()))
        .collect())
}

/// Collects the rows of one slice, in any order.
#[derive(Default)]
struct Tally {
    events: u64,
    rest_user_events: u64,
    system: SystemTally,
    /// Events and users of each event type; its place is the code, of which there are few.
    event_types: Vec<(u64, Vec<u32>)>,
    /// Events and users of each feature.
    features: PlHashMap<u32, (u64, Vec<u32>)>,
}

/// Collects the `system` events of one slice.
#[derive(Default)]
struct SystemTally {
    events: u64,
    users: Vec<u32>,
    rest_user_events: u64,
}

impl SystemTally {
    fn add(&mut self, user: Option<u32>, events: u64) {
        self.events += events;
        match user {
            Some(REST_USER) => self.rest_user_events += events,
            user => self.users.extend(user),
        }
    }
}

impl Tally {
    fn add(&mut self, event_type: u32, user: Option<u32>, feature: Option<u32>, events: u64) {
        if event_type == SYSTEM_TYPE {
            return self.system.add(user, events);
        }
        self.events += events;
        if user == Some(REST_USER) {
            self.rest_user_events += events;
        }
        let user = user.filter(|&user| user != REST_USER);
        let of_type = event_type as usize;
        if of_type >= self.event_types.len() {
            self.event_types.resize_with(of_type + 1, Default::default);
        }
        if let Some((of_type, users)) = self.event_types.get_mut(of_type) {
            *of_type += events;
            users.extend(user);
        }
        if let Some(feature) = feature {
            let (of_feature, users) = self.features.entry(feature).or_default();
            *of_feature += events;
            users.extend(user);
        }
    }

    fn finish(self) -> DailyState {
        let mut event_types = BTreeMap::new();
        let mut event_type_users = BTreeMap::new();
        for (code, (events, users)) in (0..).zip(self.event_types) {
            if events > 0 {
                event_types.insert(code, events);
            }
            if !users.is_empty() {
                event_type_users.insert(code, set(users));
            }
        }
        let counts = self.features.iter();
        let features = counts.map(|(&feature, &(events, _))| (feature, events));
        DailyState {
            activity: Arc::new(Activity {
                events: self.events,
                // Every event has a type.
                users: event_type_users
                    .values()
                    .fold(RoaringBitmap::new(), |all, some| all | some),
                event_types,
                features: features.collect(),
                rest_user_events: self.rest_user_events,
                system: SystemActivity {
                    events: self.system.events,
                    users: set(self.system.users),
                    rest_user_events: self.system.rest_user_events,
                },
            }),
            event_type_users,
            feature_users: self
                .features
                .into_iter()
                .filter(|(_, (_, users))| !users.is_empty())
                .map(|(feature, (_, users))| (feature, set(users)))
                .collect(),
        }
    }
}

/// A bitmap of numbers in any order. They are sorted first, because appending to a bitmap takes a
/// fraction of the time of inserting.
pub fn set(mut numbers: Vec<u32>) -> RoaringBitmap {
    numbers.sort_unstable();
    numbers.dedup();
    // This fails for unsorted numbers only.
    RoaringBitmap::from_sorted_iter(numbers).unwrap_or_default()
}

impl DailyState {
    /// The greatest code of its users.
    pub fn greatest_user(&self) -> Option<u32> {
        self.activity
            .users
            .max()
            .max(self.activity.system.users.max())
    }

    /// The event types or features that are wanted.
    pub fn members(&self, of: MembersOf, is_wanted: impl Fn(u32) -> bool) -> Vec<Members> {
        let users = match of {
            MembersOf::EventTypes => &self.event_type_users,
            MembersOf::Features => &self.feature_users,
        };
        let events = self.activity.events_of(of);
        let wanted = events.iter().filter(|(code, _)| is_wanted(**code));
        let members = wanted.map(|(&code, &events)| Members {
            code,
            events,
            users: users
                .get(&code)
                .map_or_else(Vec::new, |of| of.iter().collect()),
        });
        members.collect()
    }

    /// Gives the users other codes: `new_codes` has that of each code, in the same order. False if
    /// a user has none; then the state must not be used.
    pub fn renumber(&mut self, new_codes: &[Option<u32>]) -> bool {
        let renumber = |users: &mut RoaringBitmap| {
            let codes = users.iter();
            let new = codes.map(|code| new_codes.get(code as usize).copied().flatten());
            let new: Option<Vec<u32>> = new.collect();
            let new = new.and_then(|new| RoaringBitmap::from_sorted_iter(new).ok());
            let is_known = new.is_some();
            *users = new.unwrap_or_default();
            is_known
        };
        let of_types = self.event_type_users.values_mut();
        let mut sets = of_types.chain(self.feature_users.values_mut());
        let activity = Arc::make_mut(&mut self.activity);
        renumber(&mut activity.users) && renumber(&mut activity.system.users) && sets.all(renumber)
    }

    /// Removes users, and the counts of their events, `left`, where these are known.
    pub fn remove(&mut self, users: &RoaringBitmap, left: Option<&Self>) {
        let activity = Arc::make_mut(&mut self.activity);
        activity.users -= users;
        activity.system.users -= users;
        self.event_type_users.retain(|_, of_type| {
            *of_type -= users;
            !of_type.is_empty()
        });
        self.feature_users.retain(|_, of_feature| {
            *of_feature -= users;
            !of_feature.is_empty()
        });
        let Some(left) = left.map(|left| &left.activity) else {
            return;
        };
        activity.events = activity.events.saturating_sub(left.events);
        for (event_type, theirs) in &left.event_types {
            if let Some(mine) = activity.event_types.get_mut(event_type) {
                *mine = mine.saturating_sub(*theirs);
            }
        }
        activity.event_types.retain(|_, events| *events > 0);
        for (feature, theirs) in &left.features {
            if let Some(mine) = activity.features.get_mut(feature) {
                *mine = mine.saturating_sub(*theirs);
            }
        }
        activity.features.retain(|_, events| *events > 0);
        activity.rest_user_events = activity
            .rest_user_events
            .saturating_sub(left.rest_user_events);
        let (mine, theirs) = (&mut activity.system, &left.system);
        mine.events = mine.events.saturating_sub(theirs.events);
        mine.rest_user_events = mine
            .rest_user_events
            .saturating_sub(theirs.rest_user_events);
    }

    /// Merges the state of other events of the same day.
    pub fn merge(&mut self, other: &Self) {
        Arc::make_mut(&mut self.activity).merge(&other.activity);
        for (&event_type, users) in &other.event_type_users {
            *self.event_type_users.entry(event_type).or_default() |= users;
        }
        for (&feature, users) in &other.feature_users {
            *self.feature_users.entry(feature).or_default() |= users;
        }
    }
}

impl Activities {
    /// Events of each feature, by its code.
    pub fn features(&self) -> BTreeMap<u32, u64> {
        let weeks = self.weeks.values().map(|week| &week.whole);
        let days = self.days.values().flatten().map(Arc::as_ref);
        let mut features = BTreeMap::new();
        for (&feature, events) in weeks.chain(days).flat_map(|activity| &activity.features) {
            *features.entry(feature).or_default() += events;
        }
        features
    }
}

impl WeekActivity {
    /// Merges a complete day.
    pub fn add(&mut self, day: &Activity) {
        if day.events == 0 {
            return;
        }
        self.days += 1;
        self.user_days += day.users.len();
        self.whole.merge(day);
    }
}

impl Activity {
    /// Events of each event type or of each feature, by its code.
    pub fn events_of(&self, of: MembersOf) -> &BTreeMap<u32, u64> {
        match of {
            MembersOf::EventTypes => &self.event_types,
            MembersOf::Features => &self.features,
        }
    }

    /// Estimate of its bytes in memory.
    pub fn memory_bytes(&self) -> u64 {
        let features = self.features.len() * FEATURE_BYTES;
        let users = self.users.serialized_size() + self.system.users.serialized_size();
        (size_of::<Self>() + users + features) as u64
    }

    /// All stored events of the day, `system` events included.
    pub fn stored_events(&self) -> u64 {
        self.events + self.system.events
    }

    /// Stored events of users beyond the limit of new users a day.
    pub fn stored_rest_user_events(&self) -> u64 {
        self.rest_user_events + self.system.rest_user_events
    }

    /// All users of stored events that have a code.
    pub fn stored_users(&self) -> RoaringBitmap {
        &self.users | &self.system.users
    }

    /// True if a user has a stored event.
    pub fn has(&self, user: u32) -> bool {
        self.users.contains(user) || self.system.users.contains(user)
    }

    /// True if one of these users has a stored event.
    pub fn has_any(&self, users: &RoaringBitmap) -> bool {
        !self.users.is_disjoint(users) || !self.system.users.is_disjoint(users)
    }

    /// Merges the activity of other events, of the same days or of others.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.users |= &other.users;
        for (&event_type, events) in &other.event_types {
            *self.event_types.entry(event_type).or_default() += events;
        }
        for (&feature, events) in &other.features {
            *self.features.entry(feature).or_default() += events;
        }
        self.rest_user_events += other.rest_user_events;
        self.system.events += other.system.events;
        self.system.users |= &other.system.users;
        self.system.rest_user_events += other.system.rest_user_events;
    }
}
