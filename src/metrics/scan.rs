//! Scans that several metrics share: what a source falls back to where it has nothing better than
//! events.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use chrono_tz::Tz;
use polars::prelude::*;

use super::active_days::ActiveDays;
use super::counts::{Count, Counts, Key};
use super::filter::{Filter, Property};
use super::source::{CancelChecks, Columns, Scan, Source};
use crate::daily::{self, Day, day};
use crate::dictionary::REST_FEATURE;
use crate::error::Result;
use crate::schema;

const DAY: &str = "day";
const KEY: &str = "key";
const GROUP: &str = "group";
const EVENTS: &str = "events";

/// All users of a range of days with an event that meets the query's filter and `also`, from
/// events.
///
/// # Errors
/// As [`Source::for_each_batch`].
pub fn active_days(source: &dyn Source, days: Range<Day>, also: &Filter) -> Result<ActiveDays> {
    let tz = source.window().tz();
    let features = Filter::only_features([&source.filter().and(also)].into_iter());
    let scan = Scan {
        days,
        also: also.clone(),
        columns: features
            .as_deref()
            .map_or(Columns::Counted, Columns::Occurrences),
    };
    let mut found = ActiveDays::default();
    let plan = |events| active_days_plan(events, tz);
    source.for_each_batch(&scan, &plan, &mut |frame| {
        let days = frame.column(DAY)?.i32()?;
        let users = frame.column(schema::USER_ID)?.u32()?;
        let mut lists: BTreeMap<Day, Vec<u32>> = BTreeMap::new();
        for (day, user) in days.iter().zip(users.iter()) {
            if let (Some(day), Some(user)) = (day, user) {
                lists.entry(day).or_default().push(user);
            }
        }
        for (day, users) in lists {
            found.add(day, &daily::set(users));
        }
        Ok(())
    })?;
    Ok(found)
}

/// A row for each day of the zone and user with an event.
fn active_days_plan(events: LazyFrame, tz: Tz) -> LazyFrame {
    events
        .filter(col(schema::USER_ID).is_not_null())
        .select([day(tz).alias(DAY), col(schema::USER_ID)])
        .unique(None, UniqueKeepStrategy::Any)
}

/// Events and users of the window by key, from events.
///
/// # Errors
/// As [`Source::for_each_batch`].
pub fn counts(source: &dyn Source, key: Key<'_>) -> Result<Counts> {
    let names = source.names();
    let breakdown = match key {
        Key::EventType => None,
        Key::Feature { breakdown, .. } => breakdown,
    };
    let code = |string: &str| match key {
        Key::EventType => names.event_types.find(string),
        Key::Feature { .. } => Some(names.features.find(string).unwrap_or(REST_FEATURE)),
    };
    let details = breakdown.is_some_and(Property::is_detail);
    let scan = Scan::of_window(source, Columns::with_details(details));
    let mut found = Counts::default();
    let mut checks = CancelChecks::new(source);
    source.for_each_batch(&scan, &|events| counts_plan(events, key), &mut |frame| {
        read_counts(frame, source, code, &mut found, &mut checks)
    })?;
    Ok(found)
}

fn read_counts(
    frame: &DataFrame,
    source: &dyn Source,
    code: impl Fn(&str) -> Option<u32>,
    into: &mut Counts,
    checks: &mut CancelChecks<'_>,
) -> Result<()> {
    let keys = frame.column(KEY)?.as_materialized_series().cat32()?;
    let groups = frame.column(GROUP)?.str()?;
    let users = frame.column(schema::USER_ID)?.u32()?;
    let events = frame.column(EVENTS)?.i64()?;
    let mut found: HashMap<(u32, u32), (u64, Vec<u32>)> = HashMap::new();
    let names = keys.physical().iter().zip(groups.iter());
    for ((key, group), (user, events)) in names.zip(users.iter().zip(events.iter())) {
        checks.step()?;
        let (Some(key), Some(events)) = (key, events) else {
            continue;
        };
        if source.includes(user) {
            let group = into.groups.code(group);
            let (sum, list) = found.entry((key, group)).or_default();
            *sum += events.unsigned_abs();
            list.extend(user);
        }
    }
    for ((key, group), (events, users)) in found {
        checks.step()?;
        let Some(key) = keys.get_mapping().cat_to_str(key).and_then(&code) else {
            continue;
        };
        let users = daily::set(users);
        let count = into.counts.entry((key, group)).or_default();
        count.merge(Count { events, users });
    }
    Ok(())
}

/// A row for each key, group and user, with the number of events.
fn counts_plan(events: LazyFrame, key: Key<'_>) -> LazyFrame {
    let (events, key, group) = match key {
        Key::EventType => (events, col(schema::EVENT_TYPE), None),
        Key::Feature { breakdown, .. } => (
            events.filter(col(schema::FEATURE).is_not_null()),
            col(schema::FEATURE),
            breakdown.map(Property::expr),
        ),
    };
    let by = [
        Some(key.cast(local_codes()).alias(KEY)),
        group.clone().map(|group| group.alias(GROUP)),
        Some(col(schema::USER_ID)),
    ];
    events
        .group_by(by.into_iter().flatten().collect::<Vec<_>>())
        .agg([len().cast(DataType::Int64).alias(EVENTS)])
        .with_columns([match group {
            Some(_) => col(GROUP).cast(DataType::String),
            None => lit(NULL).cast(DataType::String).alias(GROUP),
        }])
}

/// Strings with codes of one frame: groups are found by codes faster than by strings.
fn local_codes() -> DataType {
    let categories = Categories::random(PlSmallStr::from_static(KEY), CategoricalPhysical::U32);
    let mapping = categories.mapping();
    DataType::Categorical(categories, mapping)
}
