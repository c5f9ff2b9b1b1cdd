//! Usage: daily, weekly and monthly active users, events per feature and per type of a window.
//!
//! - `dau` = (sum over days with data of distinct users of the day) / (days with data); a day with
//!   data has at least one event, anonymous ones included.
//! - `wau` = the same over ISO weeks, counting only events in the window; a week cut by its edge is
//!   a week.
//! - `mau` = distinct users of the window.
//!
//! Which days are not over, and which weeks the window or the present cuts, is part of the
//! response. Days are those of the reporting zone. Late events count in the day they happened.
//! Duplicates are not read. Users and features beyond the limits of a day, and features beyond the
//! most used ones that are asked for, are the *rest*. The response is not rows, so usage is not in
//! the list of metrics and is requested by `GET usage`. Definitions: `docs/metrics.md`, "Usage".

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono_tz::Tz;
use polars::prelude::*;
use roaring::{MultiOps, RoaringBitmap};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::budget::set_bytes;
use super::feature_usage::most_used;
use super::source::{CancelChecks, Columns, Scan, Source};
use super::table::Table;
use crate::daily::{Activities, Activity, Day, Week, day, week_of};
use crate::dictionary::{Dictionaries, REST_FEATURE, REST_USER};
use crate::error::Result;
use crate::schema;

/// Features that are listed, unless fewer are asked for: a response of two megabytes at most.
pub const MAX_FEATURES: usize = 10_000;

/// Bytes of a feature of a day in memory.
const FEATURE_BYTES: usize = 32;

const DAY: &str = "day";
const EVENTS: &str = "events";
const IS_BY_USER: &str = "is_by_user";

/// Usage with the `features` most used features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Most features that are listed.
    pub features: usize,
}

impl Usage {
    /// Computes usage, of a source without filter and cohort.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    pub fn run(&self, source: &dyn Source) -> Result<UsageCounts> {
        let activities = source.activities()?;
        UsageCounts::of_days(&activities, self.features, source)
    }
}

/// Reads events: the totals of each day of the window in its zone.
///
/// # Errors
/// As [`Source::for_each_batch`].
pub fn scan(source: &dyn Source) -> Result<Activities> {
    let tz = source.window().tz();
    let scan = Scan::of_window(source, Columns::Codes);
    let mut days: BTreeMap<Day, Activity> = BTreeMap::new();
    let mut checks = CancelChecks::new(source);
    let mut charge = source.budget().charge();
    source.for_each_batch(&scan, &|events| plan(events, tz), &mut |frame| {
        read(frame, &mut days, &mut checks)?;
        let features = |of_day: &Activity| of_day.features.len() * FEATURE_BYTES;
        let bytes = |of_day: &Activity| set_bytes(&of_day.users) + features(of_day) as u64;
        charge.set(days.values().map(bytes).sum())
    })?;
    let days = days.into_iter();
    Ok(Activities {
        weeks: BTreeMap::new(),
        days: days.map(|(day, all)| (day, vec![Arc::new(all)])).collect(),
    })
}

/// Events by day and user, and below these events by day, type and feature: with [`IS_BY_USER`].
fn plan(events: LazyFrame, tz: Tz) -> LazyFrame {
    let events = events.select([
        day(tz).alias(DAY),
        col(schema::EVENT_TYPE),
        col(schema::USER_ID),
        col(schema::FEATURE),
    ]);
    let null = |name: &'static str| lit(NULL).cast(DataType::UInt32).alias(name);
    let columns = |is_by_user: bool, event_type: Expr, user: Expr, feature: Expr| {
        let events = len().cast(DataType::Int64).alias(EVENTS);
        (
            events,
            [
                lit(is_by_user).alias(IS_BY_USER),
                col(DAY),
                event_type,
                user,
                feature,
                col(EVENTS),
            ],
        )
    };
    let (count, by_user) = columns(
        true,
        null(schema::EVENT_TYPE),
        col(schema::USER_ID),
        null(schema::FEATURE),
    );
    let users = events
        .clone()
        .group_by([col(DAY), col(schema::USER_ID)])
        .agg([count.clone()])
        .select(by_user);
    let (_, by_feature) = columns(
        false,
        col(schema::EVENT_TYPE),
        null(schema::USER_ID),
        col(schema::FEATURE),
    );
    let features = events
        .group_by([col(DAY), col(schema::EVENT_TYPE), col(schema::FEATURE)])
        .agg([count])
        .select(by_feature);
    concat([users, features], UnionArgs::default()).unwrap_or_default()
}

fn read(
    frame: &DataFrame,
    into: &mut BTreeMap<Day, Activity>,
    checks: &mut CancelChecks<'_>,
) -> Result<()> {
    let by_user = frame.column(IS_BY_USER)?.bool()?.iter();
    let days = frame.column(DAY)?.i32()?.iter();
    let types = frame.column(schema::EVENT_TYPE)?.u32()?.iter();
    let users = frame.column(schema::USER_ID)?.u32()?.iter();
    let features = frame.column(schema::FEATURE)?.u32()?.iter();
    let events = frame.column(EVENTS)?.i64()?.iter();
    let mut users_of: HashMap<Day, Vec<u32>> = HashMap::new();
    let keys = by_user.zip(days).zip(events);
    for (((by_user, day), events), (event_type, (user, feature))) in
        keys.zip(types.zip(users.zip(features)))
    {
        checks.step()?;
        let (Some(by_user), Some(day), Some(events)) = (by_user, day, events) else {
            continue;
        };
        let events = events.unsigned_abs();
        let of_day = into.entry(day).or_default();
        if by_user {
            of_day.events += events;
            match user {
                Some(REST_USER) => of_day.rest_user_events += events,
                Some(user) => users_of.entry(day).or_default().push(user),
                None => {}
            }
            continue;
        }
        if let Some(event_type) = event_type {
            *of_day.event_types.entry(event_type).or_default() += events;
        }
        if let Some(feature) = feature {
            *of_day.features.entry(feature).or_default() += events;
        }
    }
    for (day, users) in users_of {
        checks.step()?;
        into.entry(day).or_default().users |= crate::daily::set(users);
    }
    Ok(())
}

/// The numbers of usage, as the response has them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct UsageNumbers {
    /// Average distinct users per day with data.
    pub dau: f64,
    /// Average distinct users per ISO week with data.
    pub wau: f64,
    /// Distinct users of the window.
    pub mau: u64,
    /// Events per feature, most used first, ties by name.
    #[serde(serialize_with = "in_order")]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub feature_usage: Vec<(String, u64)>,
    /// Events per type: the three of the funnel, in its order, and then those that a tracking plan
    /// declares and that occur, by name.
    #[serde(serialize_with = "in_order")]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub funnel_steps: Vec<(String, u64)>,
    /// Events of the window.
    pub total_events: u64,
    /// Events of features and users that are not counted one by one.
    #[serde(skip_serializing_if = "Rest::is_empty")]
    pub rest: Rest,
}

impl UsageNumbers {
    /// The numbers as rows, for formats without nesting: a measure, of some the name of a feature
    /// or type, and the value.
    pub fn rows(&self) -> Table {
        let mut measures: Vec<String> = Vec::new();
        let (mut names, mut values) = (Vec::new(), Vec::new());
        let mut push = |measure: &str, name: Option<&String>, value: f64| {
            measures.push(measure.to_owned());
            names.push(name.cloned());
            values.push(value);
        };
        push("dau", None, self.dau);
        push("wau", None, self.wau);
        push("mau", None, self.mau as f64);
        push("total_events", None, self.total_events as f64);
        for (event_type, events) in &self.funnel_steps {
            push("funnel_steps", Some(event_type), *events as f64);
        }
        for (feature, events) in &self.feature_usage {
            push("feature_usage", Some(feature), *events as f64);
        }
        if !self.rest.is_empty() {
            push("rest_feature_events", None, self.rest.feature_events as f64);
            push("rest_user_events", None, self.rest.user_events as f64);
        }
        Table::default()
            .with("measure", measures)
            .with("name", names)
            .with("value", values)
    }
}

/// Events in the total whose feature or user is not counted by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rest {
    /// Events of features that are not listed: those beyond the most used ones, and those beyond a
    /// day's limit of features.
    pub feature_events: u64,
    /// Events of users beyond the limit of new users a day, who are not among the users.
    pub user_events: u64,
}

impl Rest {
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The counts of usage, before anything is divided.
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
    /// Events per type: the three of the funnel, in its order, and then the declared ones that
    /// occur, by name.
    pub event_types: Vec<(String, u64)>,
    /// Events of features and users that are not counted one by one.
    pub rest: Rest,
}

impl UsageCounts {
    /// Counts from the totals of each day.
    fn of_days(activities: &Activities, features: usize, source: &dyn Source) -> Result<Self> {
        let mut counts = Self::default();
        let mut all = Activity::default();
        for week in activities.weeks.values() {
            source.check_cancelled()?;
            counts.weeks += 1;
            counts.days += week.days;
            counts.user_days += week.user_days;
            counts.user_weeks += week.whole.users.len();
            all.merge(&week.whole);
        }
        let mut users_of_week: BTreeMap<Week, RoaringBitmap> = BTreeMap::new();
        for (&day, parts) in &activities.days {
            source.check_cancelled()?;
            counts.days += 1;
            counts.user_days += match parts.as_slice() {
                [part] => part.users.len(),
                parts => parts.iter().map(|part| &part.users).union().len(),
            };
            for part in parts {
                *users_of_week.entry(week_of(day)).or_default() |= &part.users;
                all.merge(part);
            }
        }
        counts.weeks += users_of_week.len() as u64;
        counts.user_weeks += users_of_week.values().map(RoaringBitmap::len).sum::<u64>();
        counts.events = all.events;
        counts.users = all.users.len();
        let types = source
            .names()
            .listed_event_types(all.event_types.keys().copied());
        let events = |code| all.event_types.get(&code).copied().unwrap_or(0);
        let types = types.into_iter();
        counts.event_types = types
            .map(|(name, code)| (name.to_owned(), events(code)))
            .collect();
        counts.rest.user_events = all.rest_user_events;
        counts.list_features(all.features.into_iter().collect(), source.names(), features);
        Ok(counts)
    }

    /// Lists the most used features; the others are the rest.
    fn list_features(&mut self, mut features: Vec<(u32, u64)>, names: &Dictionaries, limit: usize) {
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

    /// The numbers, as the response has them.
    pub fn numbers(self) -> UsageNumbers {
        UsageNumbers {
            dau: average(self.user_days, self.days),
            wau: average(self.user_weeks, self.weeks),
            mau: self.users,
            feature_usage: self.features,
            funnel_steps: self.event_types,
            total_events: self.events,
            rest: self.rest,
        }
    }
}

/// An average over no days is zero: an empty window is all zeros, never null.
fn average(sum: u64, count: u64) -> f64 {
    match count {
        0 => 0.0,
        count => sum as f64 / count as f64,
    }
}

/// A JSON object whose keys stay in the order of the list.
fn in_order<S: Serializer>(pairs: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (name, number) in pairs {
        map.serialize_entry(name, number)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::FrameSource;

    #[test]
    fn days_weeks_and_users_are_counted_by_batch() {
        let mut source = FrameSource::new(
            "2024-03-04",
            4,
            &[
                // Friday: two users, one of them twice, and an anonymous event.
                ("2024-03-01 00:00", "page_view", "ann", "home"),
                ("2024-03-01 12:00", "action", "ann", "save"),
                ("2024-03-01 12:00", "page_view", "bob", "home"),
                ("2024-03-01 23:59", "page_view", "", "home"),
                // Saturday: an anonymous event. Sunday: no event. Monday: another week.
                ("2024-03-02 10:00", "action", "", ""),
                ("2024-03-04 10:00", "conversion", "ann", "blog"),
                ("2024-03-04 11:00", "signup", "ann", "blog"),
                // Before and after the window.
                ("2024-02-29 23:59", "action", "eve", "save"),
                ("2024-03-05 00:00", "action", "eve", "save"),
            ],
        );
        source.batch_rows = 1;
        let counts = Usage { features: 2 }.run(&source).expect("usage");
        let expected = UsageCounts {
            events: 7,
            days: 3,
            weeks: 2,
            users: 2,
            user_days: 3,
            user_weeks: 3,
            features: vec![("home".into(), 3), ("blog".into(), 2)],
            event_types: vec![
                ("page_view".into(), 3),
                ("action".into(), 2),
                ("conversion".into(), 1),
                ("signup".into(), 1),
            ],
            rest: Rest {
                feature_events: 1,
                user_events: 0,
            },
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn users_and_features_without_a_code_are_the_rest() {
        let source = FrameSource::new(
            "2024-03-01",
            1,
            &[
                ("2024-03-01 10:00", "action", "ann", "home"),
                ("2024-03-01 10:00", "action", "?bob", "?save"),
            ],
        );
        let counts = Usage { features: 9 }.run(&source).expect("usage");
        assert_eq!((counts.events, counts.users, counts.user_days), (2, 1, 1));
        assert_eq!(counts.features, [("home".to_owned(), 1)]);
        let rest = Rest {
            feature_events: 1,
            user_events: 1,
        };
        assert_eq!(counts.rest, rest);
    }
}
