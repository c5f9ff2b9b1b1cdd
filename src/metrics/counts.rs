//! Events and distinct users per key: what feature usage and event types are made of.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;
use roaring::RoaringBitmap;

use crate::daily;
use crate::error::Result;
use crate::schema;

const KEY: &str = "key";
const GROUP: &str = "group";
const EVENTS: &str = "events";

/// Of one key: how many events, and who.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Count {
    /// Events, anonymous ones included.
    pub events: u64,
    /// Known users.
    pub users: RoaringBitmap,
}

impl Count {
    /// Adds what other events came to.
    pub fn merge(&mut self, other: Self) {
        self.events += other.events;
        self.users |= other.users;
    }
}

/// Counts by the number of a key and, where there is one, group.
pub type Counts = BTreeMap<(u32, Option<String>), Count>;

/// A row for each key, group and user, with the number of events, from events whose users are numbers.
pub fn counts(events: LazyFrame, key: Expr, group: Option<Expr>) -> LazyFrame {
    let key = key.cast(numbered()).alias(KEY);
    let by = [
        Some(key),
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

/// Texts as numbers that hold for one frame: groups are found by them faster than by texts.
fn numbered() -> DataType {
    let categories = Categories::random(PlSmallStr::from_static(KEY), CategoricalPhysical::U32);
    let mapping = categories.mapping();
    DataType::Categorical(categories, mapping)
}

/// Adds what [`counts`] gave, of users that `keep` wants; `None` is an anonymous one. `number` gives a key its number.
///
/// # Errors
/// If the frame lacks a column.
pub fn read(
    frame: &DataFrame,
    keep: impl Fn(Option<u32>) -> bool,
    number: impl Fn(&str) -> u32,
    into: &mut Counts,
) -> Result<()> {
    let keys = frame.column(KEY)?.as_materialized_series().cat32()?;
    let groups = frame.column(GROUP)?.str()?;
    let users = frame.column(schema::USER_ID)?.u32()?;
    let events = frame.column(EVENTS)?.i64()?;
    type Name<'a> = (u32, Option<&'a str>);
    let mut found: HashMap<Name<'_>, (u64, Vec<u32>)> = HashMap::new();
    let names = keys.physical().iter().zip(groups.iter());
    for ((key, group), (user, events)) in names.zip(users.iter().zip(events.iter())) {
        let (Some(key), Some(events)) = (key, events) else {
            continue;
        };
        if keep(user) {
            let (sum, list) = found.entry((key, group)).or_default();
            *sum += events.unsigned_abs();
            list.extend(user);
        }
    }
    for ((key, group), (events, users)) in found {
        let Some(key) = keys.get_mapping().cat_to_str(key) else {
            continue;
        };
        let users = daily::set(users);
        into.entry((number(key), group.map(str::to_owned)))
            .or_default()
            .merge(Count { events, users });
    }
    Ok(())
}
