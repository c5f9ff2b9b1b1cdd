//! Scans that several metrics share: what a source falls back to where it has nothing better than
//! events.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use chrono::DateTime;
use chrono_tz::Tz;
use parking_lot::Mutex;
use polars::prelude::*;

use super::active_days::ActiveDays;
use super::coded::{FilterBits, column_of, for_each_table};
use super::counts::{Count, Counts, Key};
use super::filter::{Filter, Property};
use super::source::{CancelChecks, Columns, Scan, Source, TableScan, TableTimes};
use crate::columns::{ANONYMOUS, Rows, Table};
use crate::daily::{self, Day, day};
use crate::dictionary::REST_FEATURE;
use crate::error::Result;
use crate::schema;
use crate::window::DAY_US;

/// A minute in µs.
const MINUTE_US: i64 = 60 * 1_000_000;

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
    let scan = Scan {
        days,
        also: also.clone(),
        columns: Columns::Counted,
        tables: Some(TableScan {
            properties: Vec::new(),
            times: match tz {
                Tz::UTC => TableTimes::Unread,
                _ => TableTimes::Read,
            },
        }),
    };
    let mut found = ActiveDays::default();
    let plan = |events| active_days_plan(events, tz);
    let tables = source.for_each_batch(&scan, &plan, &mut |frame| {
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
    let filter = source.filter().and(also);
    let found = Mutex::new(found);
    for_each_table(source, &tables, |table| {
        for (day, users) in active_in_table(table, &filter, tz)? {
            let users = daily::set(users);
            found.lock().add(day, &users);
        }
        Ok(())
    })?;
    Ok(found.into_inner())
}

/// The users of a table by day of the zone.
fn active_in_table(table: &Table, filter: &Filter, tz: Tz) -> Result<BTreeMap<Day, Vec<u32>>> {
    let bits = FilterBits::new(table, [(filter, 1)])?;
    let is_utc = tz == Tz::UTC;
    let slice = table.slice(&Rows::Of(0..ANONYMOUS), &bits.columns, !is_utc)?;
    let met = bits.of_rows(&slice);
    let start_us = i64::from(table.day()) * DAY_US;
    let minutes = if is_utc {
        Vec::new()
    } else {
        days_of_minutes(table.day(), tz)
    };
    let mut found: BTreeMap<Day, Vec<u32>> = BTreeMap::new();
    for (user, rows) in slice.runs() {
        let mut last = None;
        for row in rows {
            if met.get(row) != Some(&1) {
                continue;
            }
            let day = if is_utc {
                table.day()
            } else {
                let minute = (slice.ts_us(row) - start_us) / MINUTE_US;
                minutes.get(minute as usize).copied().unwrap_or_default()
            };
            if last != Some(day) {
                last = Some(day);
                found.entry(day).or_default().push(user);
            }
            if is_utc {
                break;
            }
        }
    }
    Ok(found)
}

/// The day of a zone in which each minute of a day of UTC lies. Offsets from UTC have no
/// seconds since 1972.
fn days_of_minutes(day: Day, tz: Tz) -> Vec<Day> {
    let start_us = i64::from(day) * DAY_US;
    let of_minute = |minute: i64| {
        let utc = DateTime::from_timestamp_micros(start_us + minute * MINUTE_US);
        let local = utc.map(|utc| utc.with_timezone(&tz).date_naive());
        local.map_or(day, |local| local.to_epoch_days())
    };
    (0..DAY_US / MINUTE_US).map(of_minute).collect()
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
    let property = match key {
        Key::EventType => Property::EventType,
        Key::Feature { .. } => Property::Feature,
    };
    let columns = [Some(&property), breakdown].into_iter().flatten().cloned();
    let scan = Scan::of_window(source, Columns::with_details(details))
        .with_tables(columns, TableTimes::Unread);
    let mut found = Counts::default();
    let mut checks = CancelChecks::new(source);
    let plan = |events| counts_plan(events, key);
    let tables = source.for_each_batch(&scan, &plan, &mut |frame| {
        read_counts(frame, source, code, &mut found, &mut checks)
    })?;
    let found = Mutex::new(found);
    for_each_table(source, &tables, |table| {
        let counts = counts_in_table(table, &property, breakdown, source)?;
        let mut found = found.lock();
        let mut checks = CancelChecks::new(source);
        for count in counts {
            checks.step()?;
            let Some(key) = code(&count.key) else {
                continue;
            };
            let group = found.groups.code(count.group.as_deref());
            let users = daily::set(count.users);
            let of_key = found.counts.entry((key, group)).or_default();
            of_key.merge(Count {
                events: count.events,
                users,
            });
        }
        Ok(())
    })?;
    Ok(found.into_inner())
}

/// Events and users of one key and group in a table.
#[derive(Default)]
struct TableCount {
    key: String,
    group: Option<String>,
    events: u64,
    users: Vec<u32>,
}

fn counts_in_table(
    table: &Table,
    key: &Property,
    breakdown: Option<&Property>,
    source: &dyn Source,
) -> Result<Vec<TableCount>> {
    let bits = FilterBits::new(table, [(source.filter(), 1)])?;
    let mut columns = bits.columns.clone();
    let key = column_of(table, key)?;
    columns.push(key);
    let group = match breakdown {
        Some(breakdown) => {
            let column = column_of(table, breakdown)?;
            columns.push(column);
            Some((breakdown, table.values(column)?))
        }
        None => None,
    };
    let slice = table.slice(&Rows::All, &columns, false)?;
    let met = bits.of_rows(&slice);
    let keys = slice.codes(bits.columns.len());
    let groups = slice.codes(bits.columns.len() + 1);
    let width = group.as_ref().map_or(1, |(_, values)| values.len() + 1);
    let mut counts = Places::default();
    let mut checks = CancelChecks::new(source);
    for (user, rows) in slice.runs() {
        let user = (user != ANONYMOUS).then_some(user);
        if !source.includes(user) {
            continue;
        }
        for row in rows {
            checks.step()?;
            let key = keys.map_or(0, |keys| keys.code(row));
            if key == 0 || met.get(row) != Some(&1) {
                continue;
            }
            let group = groups.map_or(0, |groups| groups.code(row));
            counts.add(key * width + group, user);
        }
    }
    let keys = table.values(key)?;
    let string = |values: &[String], code: usize| {
        let value = code.checked_sub(1).and_then(|at| values.get(at));
        value.cloned()
    };
    let named = counts.counts.into_iter().map(|(place, events, users)| {
        let group = group.as_ref().and_then(|(property, values)| {
            let value = string(values, place % width)?;
            property.string_of(&value).map(Cow::into_owned)
        });
        TableCount {
            key: string(&keys, place / width).unwrap_or_default(),
            group,
            events,
            users,
        }
    });
    Ok(named.collect())
}

/// Counts by key and group, both as one number.
#[derive(Default)]
struct Places {
    /// The position in `counts` of each number, plus 1, for small ones.
    small: Vec<u32>,
    others: HashMap<usize, u32>,
    counts: Vec<(usize, u64, Vec<u32>)>,
}

impl Places {
    /// Adds an event. Users come in ascending order.
    fn add(&mut self, place: usize, user: Option<u32>) {
        /// Numbers whose counts are found without a hash table: a MB.
        const SMALL: usize = 1 << 18;
        let at = if place < SMALL {
            if self.small.len() <= place {
                self.small.resize((place + 1).next_power_of_two(), 0);
            }
            self.small.get_mut(place)
        } else {
            Some(self.others.entry(place).or_insert(0))
        };
        let Some(at) = at else { return };
        if *at == 0 {
            self.counts.push((place, 0, Vec::new()));
            *at = self.counts.len() as u32;
        }
        if let Some((_, events, users)) = self.counts.get_mut(*at as usize - 1) {
            *events += 1;
            if user.is_some() && users.last().copied() != user {
                users.extend(user);
            }
        }
    }
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
