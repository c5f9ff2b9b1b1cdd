//! Usage: daily, weekly and monthly active users, events per feature and per type of a window.
//!
//! - `dau` = (sum over days with data of distinct users of the day) / (days with data); a day with data has at
//!   least one event, anonymous ones included.
//! - `wau` = the same over ISO weeks, counting only events in the window; a week cut by its edge is a week.
//! - `mau` = distinct users of the window.
//!
//! Days are those of the reporting zone. Late events count in the day they happened. Duplicates are not in
//! the frame. Whole days of UTC are counted from daily states, in which no event is read; a reporting zone needs the
//! events. Both ways give the same numbers. Definitions: `spec/definitions.md`, "Usage"; the user's document, "Metrics Definitions".

use std::collections::BTreeMap;

use chrono_tz::Tz;
use polars::prelude::*;
use roaring::{MultiOps, RoaringBitmap};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{day, week};
use crate::daily::{Activities, Activity, Week, week_of};
use crate::error::{Error, Result};
use crate::event::EventType;
use crate::names::Names;
use crate::schema;

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
/// Column of the sum over weeks of the week's users.
pub const USER_WEEKS: &str = "user_weeks";

const DAY: &str = "day";
const WEEK: &str = "week";

/// The plans that usage is made of. The outcome of each is small, whatever the number of events.
pub struct Usage {
    /// One row: [`EVENTS`], [`DAYS`], [`WEEKS`], [`USERS`], [`USER_DAYS`].
    pub totals: LazyFrame,
    /// One row: [`USER_WEEKS`].
    pub weekly: LazyFrame,
    /// A row per feature, most used first, ties by name: the feature, [`EVENTS`].
    pub features: LazyFrame,
    /// A row per event type that occurs: the type, [`EVENTS`].
    pub event_types: LazyFrame,
}

/// Usage of the events in a frame that holds one window, with days of the zone `tz`.
pub fn usage(events: LazyFrame, tz: Tz) -> Usage {
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
            count(col(schema::USER_ID).drop_nulls().n_unique()).alias(USERS),
            count(col(schema::USER_ID).count()).alias(USER_DAYS),
        ]),
        weekly: user_days
            .filter(col(schema::USER_ID).is_not_null())
            .select([col(WEEK), col(schema::USER_ID)])
            .unique(None, UniqueKeepStrategy::Any)
            .select([count(len()).alias(USER_WEEKS)]),
        features: events_per(events.clone(), schema::FEATURE)
            .filter(col(schema::FEATURE).is_not_null())
            .sort_by_exprs(
                [col(EVENTS), col(schema::FEATURE)],
                SortMultipleOptions::default().with_order_descending_multi([true, false]),
            ),
        event_types: events_per(events, schema::EVENT_TYPE)
            .sort([schema::EVENT_TYPE], SortMultipleOptions::default()),
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
    /// Events per feature, most used first, ties by name.
    pub features: Vec<(String, u64)>,
    /// Events per type that occurs.
    pub event_types: Vec<(String, u64)>,
}

impl UsageCounts {
    /// Reads what the plans gave, in their order.
    ///
    /// # Errors
    /// If a frame lacks a column.
    pub fn read(frames: &[DataFrame]) -> Result<Self> {
        let [totals, weekly, features, event_types] = frames else {
            return Err(Error::Query(
                "four plans gave another number of frames".into(),
            ));
        };
        Ok(Self {
            events: number(totals, EVENTS)?,
            days: number(totals, DAYS)?,
            weeks: number(totals, WEEKS)?,
            users: number(totals, USERS)?,
            user_days: number(totals, USER_DAYS)?,
            user_weeks: number(weekly, USER_WEEKS)?,
            features: named_numbers(features, schema::FEATURE, EVENTS)?,
            event_types: named_numbers(event_types, schema::EVENT_TYPE, EVENTS)?,
        })
    }

    /// Counts from what happened on each day of UTC, without events.
    pub fn of_days(activities: &Activities, names: &Names) -> Self {
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
        let name = |feature| names.features.text(feature);
        counts.features = whole
            .features
            .into_iter()
            .filter_map(|(feature, events)| Some((name(feature)?.to_owned(), events)))
            .collect();
        counts
            .features
            .sort_by(|(a, many), (b, more)| more.cmp(many).then_with(|| a.cmp(b)));
        counts.event_types = EventType::ALL
            .iter()
            .map(|event_type| event_type.name().to_owned())
            .zip(whole.event_types)
            .collect();
        counts
    }

    /// The numbers in the user's shape.
    pub fn numbers(self) -> UsageNumbers {
        let funnel_steps = EventType::ALL.map(|step| {
            let found = self
                .event_types
                .iter()
                .find(|(name, _)| name == step.name());
            (
                step.name().to_owned(),
                found.map_or(0, |(_, events)| *events),
            )
        });
        UsageNumbers {
            dau: average(self.user_days, self.days),
            wau: average(self.user_weeks, self.weeks),
            mau: self.users,
            feature_usage: self.features,
            funnel_steps: funnel_steps.into(),
            total_events: self.events,
        }
    }
}

fn events_per(events: LazyFrame, column: &str) -> LazyFrame {
    events
        .group_by([col(column)])
        .agg([count(len()).alias(EVENTS)])
        .with_column(col(column).cast(DataType::String))
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

fn named_numbers(frame: &DataFrame, names: &str, numbers: &str) -> Result<Vec<(String, u64)>> {
    let names = frame.column(names)?.str()?;
    let numbers = frame.column(numbers)?.i64()?;
    Ok(names
        .iter()
        .zip(numbers.iter())
        .filter_map(|(name, number)| Some((name?.to_owned(), number?.unsigned_abs())))
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
