//! Events and distinct users per key: what feature usage and event types are made of.

use std::collections::HashMap;

use polars::prelude::*;
use roaring::RoaringBitmap;

use super::filter::Property;
use super::local_dictionary::LocalDictionary;
use super::source::{CancelChecks, Columns, Scan, Source};
use crate::daily;
use crate::error::Result;
use crate::names::REST_FEATURE;
use crate::schema;

const KEY: &str = "key";
const GROUP: &str = "group";
const EVENTS: &str = "events";

/// The key that events are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// The code of the event type.
    EventType,
    /// The code of the feature and, with a breakdown, the value of that property.
    Feature {
        /// Features beyond the `most` used ones may be missing, except [`REST_FEATURE`].
        most: usize,
        /// The property that groups are made by.
        breakdown: Option<&'a Property>,
    },
}

/// Events and users of one key and group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Count {
    /// Events, anonymous ones included.
    pub events: u64,
    /// Known users.
    pub users: RoaringBitmap,
}

impl Count {
    /// Merges another partial count.
    pub fn merge(&mut self, other: Self) {
        self.events += other.events;
        self.users |= other.users;
    }
}

/// Events and users by the code of a key and the code of a group.
#[derive(Debug, Default)]
pub struct Counts {
    /// By key and group.
    pub counts: HashMap<(u32, u32), Count>,
    /// Values of the groups. Without breakdown the only one is null.
    pub groups: LocalDictionary,
}

impl Counts {
    /// The count of a key without a group.
    pub fn of_key(&mut self, key: u32) -> &mut Count {
        let group = self.groups.code(None);
        self.counts.entry((key, group)).or_default()
    }

    /// Reads events.
    ///
    /// # Errors
    /// As [`Source::for_each_batch`].
    pub fn scan(source: &dyn Source, key: Key<'_>) -> Result<Self> {
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
        let mut found = Self::default();
        let mut checks = CancelChecks::new(source);
        source.for_each_batch(&scan, &|events| plan(events, key), &mut |frame| {
            found.read(frame, source, code, &mut checks)
        })?;
        Ok(found)
    }

    fn read(
        &mut self,
        frame: &DataFrame,
        source: &dyn Source,
        code: impl Fn(&str) -> Option<u32>,
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
                let group = self.groups.code(group);
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
            let count = self.counts.entry((key, group)).or_default();
            count.merge(Count { events, users });
        }
        Ok(())
    }
}

/// A row for each key, group and user, with the number of events.
fn plan(events: LazyFrame, key: Key<'_>) -> LazyFrame {
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
