//! Usage: daily, weekly and monthly active users, events per feature and per type of a window.
//!
//! - `dau` = (sum over days with data of distinct users of the day) / (days with data); a day with data has at
//!   least one event, anonymous ones included.
//! - `wau` = the same over ISO weeks, counting only events in the window; a week cut by its edge is a week.
//! - `mau` = distinct users of the window.
//!
//! Which days are not over, and which weeks the window or the present cuts, is said beside the numbers.
//! Days are those of the reporting zone. Late events count in the day they happened. Duplicates are not in
//! the frame. Names beyond the limits of a day, and features beyond the most used ones that are asked for, are the *rest*.
//! Whole days of UTC are counted from daily states, in which no event is read; a reporting zone needs the
//! events. Both ways give the same numbers. Definitions: `docs/metrics.md`, "Usage".

use std::collections::BTreeMap;

use chrono_tz::Tz;
use polars::prelude::*;
use roaring::{MultiOps, RoaringBitmap};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::feature_usage::most_used;
use super::{day, week};
use crate::daily::{Activities, Activity, Week, week_of};
use crate::error::{Error, Result};
use crate::event::EventType;
use crate::names::{Names, REST_FEATURE, REST_USER};
use crate::schema;

/// Features that are listed, unless fewer are asked for: an answer of two megabytes at most.
pub const MAX_FEATURES: usize = 10_000;

/// Column of the number of events.
pub const EVENTS: &str = "events";
/// Column of the number of users.
pub const USERS: &str = "users";
/// Column of the number of days with data.
pub const DAYS: &str = "days";
/// Column of the number of ISO weeks with data.
pub const WEEKS: &str = "weeks";
/// Column of the sum over days of the day's users.
pub const USER_DAYS: &str = "user_days";
/// Column of the number of events of users beyond the limit of new users a day.
pub const REST_USER_EVENTS: &str = "rest_user_events";
/// Column of the sum over weeks of the week's users.
pub const USER_WEEKS: &str = "user_weeks";

const DAY: &str = "day";
const WEEK: &str = "week";

/// The plans that usage is made of. The outcome of each is small, whatever the number of events.
pub struct Usage {
    /// One row: [`EVENTS`], [`DAYS`], [`WEEKS`], [`USERS`], [`USER_DAYS`], [`REST_USER_EVENTS`].
    pub totals: LazyFrame,
    /// One row: [`USER_WEEKS`].
    pub weekly: LazyFrame,
    /// A row per feature, by its number: the feature, [`EVENTS`].
    pub features: LazyFrame,
    /// A row per event type that occurs, by its number: the type, [`EVENTS`].
    pub event_types: LazyFrame,
}

/// Usage of the events in a frame that holds one window, with days of the zone `tz`. Names are numbers, as the columns of
/// [`Names::counted`].
pub fn usage(events: LazyFrame, tz: Tz) -> Usage {
    let is_rest = || {
        col(schema::USER_ID)
            .eq(lit(REST_USER))
            .fill_null(lit(false))
    };
    let user = || {
        when(is_rest())
            .then(lit(NULL))
            .otherwise(col(schema::USER_ID))
    };
    // Every number of users follows from who was active on which day, which is far less than the events.
    let user_days = events
        .clone()
        .select([day(tz).alias(DAY), col(schema::USER_ID)])
        .group_by([col(DAY), col(schema::USER_ID)])
        .agg([len().alias(EVENTS)])
        .with_column(week(col(DAY)).alias(WEEK));
    Usage {
        totals: user_days.clone().select([
            col(EVENTS).cast(DataType::Int64).sum(),
            count(col(DAY).n_unique()).alias(DAYS),
            count(col(WEEK).n_unique()).alias(WEEKS),
            count(user().drop_nulls().n_unique()).alias(USERS),
            count(user().count()).alias(USER_DAYS),
            col(EVENTS)
                .filter(is_rest())
                .cast(DataType::Int64)
                .sum()
                .alias(REST_USER_EVENTS),
        ]),
        weekly: user_days
            .filter(user().is_not_null())
            .select([col(WEEK), col(schema::USER_ID)])
            .unique(None, UniqueKeepStrategy::Any)
            .select([count(len()).alias(USER_WEEKS)]),
        features: events_per(events.clone(), schema::FEATURE)
            .filter(col(schema::FEATURE).is_not_null()),
        event_types: events_per(events, schema::EVENT_TYPE),
    }
}

impl Usage {
    /// The plans, to be executed together, in the order that [`UsageCounts::read`] expects.
    pub fn plans(self) -> Vec<LazyFrame> {
        vec![self.totals, self.weekly, self.features, self.event_types]
    }
}

/// The numbers of usage, in the user's shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageNumbers {
    /// Average distinct users per day with data.
    pub dau: f64,
    /// Average distinct users per ISO week with data.
    pub wau: f64,
    /// Distinct users of the window.
    pub mau: u64,
    /// Events per feature, most used first, ties by name.
    #[serde(serialize_with = "in_order")]
    pub feature_usage: Vec<(String, u64)>,
    /// Events per type, in funnel order.
    #[serde(serialize_with = "in_order")]
    pub funnel_steps: Vec<(String, u64)>,
    /// Events of the window.
    pub total_events: u64,
    /// Events that are not in the numbers above one by one.
    #[serde(skip_serializing_if = "Rest::is_empty")]
    pub rest: Rest,
}

/// Events that are counted, and whose feature or user is not counted by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rest {
    /// Events of features that are not listed: those beyond the most used ones, and those beyond a day's limit of features.
    pub feature_events: u64,
    /// Events of users beyond the limit of new users a day, who are not among the users.
    pub user_events: u64,
}

impl Rest {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What usage counts, before anything is divided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UsageCounts {
    /// Events of the window.
    pub events: u64,
    /// Days with data.
    pub days: u64,
    /// ISO weeks with data.
    pub weeks: u64,
    /// Distinct users of the window.
    pub users: u64,
    /// Sum over days of the day's distinct users.
    pub user_days: u64,
    /// Sum over weeks of the week's distinct users.
    pub user_weeks: u64,
    /// Events per feature, most used first, ties by name; at most as many as asked for.
    pub features: Vec<(String, u64)>,
    /// Events per type, in funnel order.
    pub event_types: [u64; EventType::ALL.len()],
    /// What is not counted one by one.
    pub rest: Rest,
}

impl UsageCounts {
    /// Reads what the plans gave, in their order, with at most `limit` features.
    ///
    /// # Errors
    /// If a frame lacks a column.
    pub fn read(frames: &[DataFrame], names: &Names, limit: usize) -> Result<Self> {
        let [totals, weekly, features, event_types] = frames else {
            return Err(Error::Query(
                "four plans gave another number of frames".into(),
            ));
        };
        let mut counts = Self {
            events: number(totals, EVENTS)?,
            days: number(totals, DAYS)?,
            weeks: number(totals, WEEKS)?,
            users: number(totals, USERS)?,
            user_days: number(totals, USER_DAYS)?,
            user_weeks: number(weekly, USER_WEEKS)?,
            ..Self::default()
        };
        counts.rest.user_events = number(totals, REST_USER_EVENTS)?;
        for (event_type, events) in numbered(event_types, schema::EVENT_TYPE)? {
            if let Some(of_type) = counts.event_types.get_mut(event_type as usize) {
                *of_type = events;
            }
        }
        counts.list_features(numbered(features, schema::FEATURE)?, names, limit);
        Ok(counts)
    }

    /// Lists the most used features; the others are the rest.
    fn list_features(&mut self, mut features: Vec<(u32, u64)>, names: &Names, limit: usize) {
        let name = |feature: u32| names.features.text(feature).unwrap_or_default();
        let all: u64 = features.iter().map(|(_, events)| events).sum();
        features.retain(|&(feature, _)| feature != REST_FEATURE);
        let listed = most_used(features, limit, name).into_iter();
        self.features = listed
            .map(|(feature, events)| (name(feature).to_owned(), events))
            .collect();
        let listed: u64 = self.features.iter().map(|(_, events)| events).sum();
        self.rest.feature_events = all - listed;
    }

    /// Counts from what happened on each day of UTC, without events, with at most `limit` features.
    pub fn of_days(activities: &Activities, names: &Names, limit: usize) -> Self {
        let mut counts = Self::default();
        let mut whole = Activity::default();
        for week in activities.weeks.values() {
            counts.weeks += 1;
            counts.days += week.days;
            counts.user_days += week.user_days;
            counts.user_weeks += week.whole.users.len();
            whole.merge(&week.whole);
        }
        let mut users_of_week: BTreeMap<Week, RoaringBitmap> = BTreeMap::new();
        for (&day, parts) in &activities.days {
            counts.days += 1;
            counts.user_days += match parts.as_slice() {
                [all] => all.users.len(),
                parts => parts.iter().map(|part| &part.users).union().len(),
            };
            for part in parts {
                *users_of_week.entry(week_of(day)).or_default() |= &part.users;
                whole.merge(part);
            }
        }
        counts.weeks += users_of_week.len() as u64;
        counts.user_weeks += users_of_week.values().map(RoaringBitmap::len).sum::<u64>();
        counts.events = whole.events;
        counts.users = whole.users.len();
        counts.event_types = whole.event_types;
        counts.rest.user_events = whole.rest_user_events;
        counts.list_features(whole.features.into_iter().collect(), names, limit);
        counts
    }

    /// The numbers in the user's shape.
    pub fn numbers(self) -> UsageNumbers {
        let names = EventType::ALL.iter().map(|step| step.name().to_owned());
        let funnel_steps = names.zip(self.event_types).collect();
        UsageNumbers {
            dau: average(self.user_days, self.days),
            wau: average(self.user_weeks, self.weeks),
            mau: self.users,
            feature_usage: self.features,
            funnel_steps,
            total_events: self.events,
            rest: self.rest,
        }
    }
}

fn events_per(events: LazyFrame, column: &str) -> LazyFrame {
    events
        .group_by([col(column)])
        .agg([count(len()).alias(EVENTS)])
}

/// Counts come out of Polars in 32 bits without sign; everyone else's are 64 bits.
fn count(expr: Expr) -> Expr {
    expr.cast(DataType::Int64)
}

/// An average over no days is zero: an empty window is all zeros, never null.
fn average(sum: u64, count: u64) -> f64 {
    match count {
        0 => 0.0,
        count => sum as f64 / count as f64,
    }
}

/// The number in the only row of a frame.
fn number(frame: &DataFrame, column: &str) -> Result<u64> {
    let value = frame.column(column)?.i64()?.get(0).unwrap_or(0);
    Ok(value.unsigned_abs())
}

/// Events by the number of a name.
fn numbered(frame: &DataFrame, names: &str) -> Result<Vec<(u32, u64)>> {
    let names = frame.column(names)?.u32()?;
    let events = frame.column(EVENTS)?.i64()?;
    Ok(names
        .iter()
        .zip(events.iter())
        .filter_map(|(name, events)| Some((name?, events?.unsigned_abs())))
        .collect())
}

/// A JSON object whose keys stay in the order of the list.
fn in_order<S: Serializer>(pairs: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, number) in pairs {
        map.serialize_entry(name, number)?;
    }
    map.end()
}
