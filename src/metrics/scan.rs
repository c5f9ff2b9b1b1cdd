//! Scans that several metrics share: what a source falls back to where it has nothing better than
//! events.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use chrono::DateTime;
use chrono_tz::Tz;
use parking_lot::Mutex;
use polars::prelude::*;
use roaring::RoaringBitmap;

use super::active_days::ActiveDays;
use super::budget::Charge;
use super::coded::{FilterBits, column_of, for_each_table};
use super::counts::{Count, Counts, Key};
use super::feature_usage::{greatest_groups, most_used};
use super::filter::{Filter, Property};
use super::local_dictionary::LocalDictionary;
use super::sharded::table_bytes;
use super::source::{CancelChecks, Columns, Scan, Source, TableScan, TableTimes};
use crate::columns::{ANONYMOUS, Codes, Rows, Slice, Table};
use crate::daily::{self, Day, day};
use crate::dictionary::REST_FEATURE;
use crate::error::{Error, Result};
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
    let mut charge = source.budget().charge();
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
        charge.set(found.bytes())
    })?;
    let filter = source.filter().and(also);
    let found = Mutex::new((found, charge));
    for_each_table(source, &tables, |table| {
        let of_table = active_in_table(table, &filter, tz)?;
        let of_table = of_table.into_iter();
        let sets: Vec<_> = of_table
            .map(|(day, list)| (day, daily::set(list)))
            .collect();
        let (found, charge) = &mut *found.lock();
        for (day, users) in &sets {
            found.add(*day, users);
        }
        charge.set(found.bytes())
    })?;
    Ok(found.into_inner().0)
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
/// One scan, unless the sets of users are too many: then it goes on without users, and a second
/// scan counts the users of the features and groups that were found to have the most events.
///
/// # Errors
/// As [`Source::for_each_batch`]; `too_many_groups` if the groups are too many even without users.
pub fn counts(source: &dyn Source, key: Key<'_>) -> Result<Counts> {
    let names = source.names();
    let (most, breakdown) = match key {
        Key::EventType => (None, None),
        Key::Feature { most, breakdown } => (Some(most), breakdown),
    };
    let code = |string: &str| match key {
        Key::EventType => names.event_types.number(string).ok(),
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
    let mut first = FirstScan {
        found: Found::Sets(Counts::default()),
        most,
        source,
        charge: source.budget().charge(),
        charged: 0,
        uncharged: 0,
    };
    let mut checks = CancelChecks::new(source);
    let plan = |events| counts_plan(events, key);
    let tables = source.for_each_batch(&scan, &plan, &mut |frame| {
        match &mut first.found {
            Found::Sets(counts) => read_counts(frame, source, code, counts, &mut checks)?,
            Found::Events(events) => events.read(frame, source, code, &mut checks)?,
        }
        first.charge(&mut checks)
    })?;
    let first = Mutex::new(first);
    for_each_table(source, &tables, |table| {
        let table = CountedTable::open(table, &property, breakdown, source, &code)?;
        let mut checks = CancelChecks::new(source);
        let is_sets = matches!(first.lock().found, Found::Sets(_));
        let places = if is_sets {
            table.places(source, most.is_some(), &mut checks)?
        } else {
            None
        };
        let Some(places) = places else {
            let events = table.events(source, &mut checks)?;
            let first = &mut *first.lock();
            first
                .events(&mut checks)?
                .add_table(&table, events, &mut checks)?;
            return first.charge(&mut checks);
        };
        let first = &mut *first.lock();
        for (place, events, users) in places.counts {
            checks.step()?;
            let (code, group) = (place / table.width, place % table.width);
            let Some(key) = table.keys.get(code).copied().flatten() else {
                continue;
            };
            let group = table.group(group);
            match &mut first.found {
                Found::Sets(counts) => {
                    let group = counts.groups.code(group.as_deref());
                    let users = daily::set(users);
                    let count = counts.counts.entry((key, group)).or_default();
                    count.merge(Count { events, users });
                }
                Found::Events(counts) => {
                    let group = counts.groups.code(group.as_deref());
                    counts.add(key, group, events);
                }
            }
        }
        first.charge_after_table(&mut checks)
    })?;
    let FirstScan {
        found, mut charge, ..
    } = first.into_inner();
    match found {
        Found::Sets(counts) => Ok(counts),
        Found::Events(events) => {
            let wanted = events.wanted(source, &mut checks)?;
            charge.set(0)?;
            wanted.counts(source, &scan, &property, breakdown)
        }
    }
}

/// Sets of users are counted in the first scan as long as they take at most one part of so many of
/// the budget: more of them take longer to free than a cancelled query may go on.
const SETS_SHARE: u64 = 8;

/// Events of a table after which the memory of its counts is charged again: some hundred KiB.
const EVENTS_PER_CHARGE: usize = 4_096;
/// Tables after which the memory of the sets of users is measured again, if there are not many more
/// of them: measuring takes time.
const TABLES_PER_CHARGE: u32 = 16;

/// The counts of the first scan, and their memory.
struct FirstScan<'a> {
    found: Found,
    most: Option<usize>,
    source: &'a dyn Source,
    charge: Charge<'a>,
    /// Sets when the memory was charged.
    charged: usize,
    /// Tables since then.
    uncharged: u32,
}

impl FirstScan<'_> {
    /// The counts without users, which replace the sets of users.
    fn events(&mut self, checks: &mut CancelChecks<'_>) -> Result<&mut EventCounts> {
        if let Found::Sets(counts) = &mut self.found {
            let most = self.most.unwrap_or(usize::MAX);
            let events = EventCounts::of(std::mem::take(counts), most, checks)?;
            self.found = Found::Events(events);
        }
        match &mut self.found {
            Found::Events(events) => Ok(events),
            Found::Sets(_) => Err(Error::Busy("counts of events were not kept")),
        }
    }

    /// Charges the memory, and goes on without users if they take too much of it.
    fn charge(&mut self, checks: &mut CancelChecks<'_>) -> Result<()> {
        self.uncharged = 0;
        let bytes = match &self.found {
            Found::Sets(counts) => {
                self.charged = counts.counts.len();
                counts.bytes()
            }
            Found::Events(events) => events.bytes(),
        };
        let is_sets = matches!(self.found, Found::Sets(_));
        if is_sets && self.most.is_some() && bytes > self.source.budget().bytes() / SETS_SHARE {
            let bytes = self.events(checks)?.bytes();
            return self.charge.set(bytes);
        }
        self.charge.set(bytes)
    }

    /// The same after a table.
    fn charge_after_table(&mut self, checks: &mut CancelChecks<'_>) -> Result<()> {
        self.uncharged += 1;
        let sets = match &self.found {
            Found::Sets(counts) => counts.counts.len(),
            Found::Events(_) => usize::MAX,
        };
        if self.uncharged < TABLES_PER_CHARGE && sets <= self.charged.saturating_mul(5) / 4 {
            return Ok(());
        }
        self.charge(checks)
    }
}

/// The counts of the first scan.
enum Found {
    /// Events and users of each key and group.
    Sets(Counts),
    /// Events of each feature and of each group, because the sets of users were too many.
    Events(EventCounts),
}

/// Events by feature, and by group, without users.
struct EventCounts {
    /// Features that are wanted.
    most: usize,
    of_feature: HashMap<u32, u64>,
    of_group: Vec<u64>,
    groups: LocalDictionary,
}

/// The features and groups whose users are counted.
struct Wanted {
    features: RoaringBitmap,
    /// Values of the groups that have rows of their own.
    groups: Vec<Option<String>>,
}

impl EventCounts {
    fn of(counts: Counts, most: usize, checks: &mut CancelChecks<'_>) -> Result<Self> {
        let mut events = Self {
            most,
            of_feature: HashMap::new(),
            of_group: Vec::new(),
            groups: counts.groups,
        };
        for ((feature, group), count) in counts.counts {
            checks.step()?;
            events.add(feature, group, count.events);
        }
        Ok(events)
    }

    fn add(&mut self, feature: u32, group: u32, events: u64) {
        *self.of_feature.entry(feature).or_default() += events;
        // The rest of the features is in no group.
        if feature != REST_FEATURE {
            self.add_to_group(group, events);
        }
    }

    fn add_to_group(&mut self, group: u32, events: u64) {
        let known = self.of_group.len().max(group as usize + 1);
        self.of_group.resize(known, 0);
        if let Some(of_group) = self.of_group.get_mut(group as usize) {
            *of_group += events;
        }
    }

    fn read(
        &mut self,
        frame: &DataFrame,
        source: &dyn Source,
        code: impl Fn(&str) -> Option<u32>,
        checks: &mut CancelChecks<'_>,
    ) -> Result<()> {
        let names = frame.column(KEY)?.as_materialized_series().cat32()?;
        let names = names.get_mapping();
        let mut codes: HashMap<u32, Option<u32>> = HashMap::new();
        each_count(frame, source, checks, |key, group, _, events| {
            let feature = codes
                .entry(key)
                .or_insert_with(|| names.cat_to_str(key).and_then(&code));
            if let Some(feature) = *feature {
                let group = self.groups.code(group);
                self.add(feature, group, events);
            }
        })
    }

    /// Adds the events of each value of a table.
    fn add_table(
        &mut self,
        table: &CountedTable<'_>,
        (of_key, of_group): (Vec<u64>, Vec<u64>),
        checks: &mut CancelChecks<'_>,
    ) -> Result<()> {
        for (feature, events) in table.keys.iter().zip(of_key) {
            checks.step()?;
            if let Some(feature) = feature.filter(|_| events > 0) {
                *self.of_feature.entry(feature).or_default() += events;
            }
        }
        for (code, events) in of_group.into_iter().enumerate() {
            checks.step()?;
            if events > 0 {
                let group = self.groups.code(table.group(code).as_deref());
                self.add_to_group(group, events);
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let features = table_bytes::<(u32, u64)>(self.of_feature.capacity());
        let of_group = self.of_group.capacity() * size_of::<u64>();
        self.groups.bytes() + features + of_group as u64
    }

    /// The features and groups with the most events.
    fn wanted(self, source: &dyn Source, checks: &mut CancelChecks<'_>) -> Result<Wanted> {
        let mut of_feature = self.of_feature;
        of_feature.remove(&REST_FEATURE);
        let dictionary = &source.names().features;
        let name = |feature: u32| dictionary.text(feature).unwrap_or_default();
        let features = most_used(of_feature.into_iter().collect(), self.most, name).into_iter();
        let mut features: RoaringBitmap = features.map(|(feature, _)| feature).collect();
        features.insert(REST_FEATURE);
        let of_group = (0..).zip(self.of_group).filter(|&(_, events)| events > 0);
        let groups = greatest_groups(of_group, &self.groups, checks)?.into_iter();
        let groups = groups.map(|group| self.groups.string(group).map(str::to_owned));
        Ok(Wanted {
            features,
            groups: groups.collect(),
        })
    }
}

impl Wanted {
    /// Events and users of the wanted features and groups; the other groups are one.
    fn counts(
        self,
        source: &dyn Source,
        scan: &Scan,
        key: &Property,
        breakdown: Option<&Property>,
    ) -> Result<Counts> {
        let mut found = Counts::default();
        for group in &self.groups {
            found.groups.code(group.as_deref());
        }
        let others = self.groups.len() as u32;
        found.others = Some(others);
        let codes: HashMap<Option<String>, u32> = self.groups.into_iter().zip(0..).collect();
        let names = source.names();
        let plan = |events: LazyFrame| {
            let features = self.features.clone();
            let is_wanted = col(KEY).map(
                move |column| {
                    let codes = column.u32()?.iter();
                    let is_wanted: BooleanChunked = codes
                        .map(|code| code.is_some_and(|code| features.contains(code)))
                        .collect();
                    Ok(is_wanted.with_name(column.name().clone()).into_column())
                },
                |_, field| Ok(Field::new(field.name().clone(), DataType::Boolean)),
            );
            let key = names
                .features
                .numbers(col(schema::FEATURE), Some(REST_FEATURE));
            let group = match breakdown {
                Some(property) => group_codes(property.expr(), codes.clone(), others),
                None => lit(0_u32),
            };
            let by = [col(KEY), col(GROUP), col(schema::USER_ID)];
            events
                .with_columns([key.alias(KEY), group.alias(GROUP)])
                .filter(is_wanted)
                .group_by(by)
                .agg([len().cast(DataType::Int64).alias(EVENTS)])
        };
        let mut checks = CancelChecks::new(source);
        let mut charge = source.budget().charge();
        let tables = source.for_each_batch(scan, &plan, &mut |frame| {
            let keys = frame.column(KEY)?.u32()?.iter();
            let groups = frame.column(GROUP)?.u32()?.iter();
            let users = frame.column(schema::USER_ID)?.u32()?.iter();
            let events = frame.column(EVENTS)?.i64()?.iter();
            let mut batch: HashMap<(u32, u32), (u64, Vec<u32>)> = HashMap::new();
            for ((key, group), (user, events)) in keys.zip(groups).zip(users.zip(events)) {
                checks.step()?;
                if let (Some(key), Some(group), Some(events)) = (key, group, events)
                    && source.includes(user)
                {
                    let (sum, list) = batch.entry((key, group)).or_default();
                    *sum += events.unsigned_abs();
                    list.extend(user);
                }
            }
            for (key, (events, users)) in batch {
                checks.step()?;
                let users = daily::set(users);
                let count = found.counts.entry(key).or_default();
                count.merge(Count { events, users });
            }
            charge.set(found.bytes())
        })?;
        let all = Mutex::new((found, charge));
        let code = |string: &str| {
            let code = names.features.find(string).unwrap_or(REST_FEATURE);
            self.features.contains(code).then_some(code)
        };
        for_each_table(source, &tables, |table| {
            let mut table = CountedTable::open(table, key, breakdown, source, &code)?;
            table.merge_groups(&codes, others);
            let mut checks = CancelChecks::new(source);
            let places = table.places(source, false, &mut checks)?;
            let (found, charge) = &mut *all.lock();
            for (place, events, users) in places.into_iter().flat_map(|places| places.counts) {
                checks.step()?;
                let (feature, group) = (place / table.width, place % table.width);
                if let Some(Some(feature)) = table.keys.get(feature) {
                    let users = daily::set(users);
                    let count = found.counts.entry((*feature, group as u32)).or_default();
                    count.merge(Count { events, users });
                }
            }
            charge.set(found.bytes())
        })?;
        Ok(all.into_inner().0)
    }
}

/// A table of which events and users are counted by key and group.
struct CountedTable<'a> {
    slice: Slice,
    bits: FilterBits,
    /// The key of each code; none if it is not counted.
    keys: Vec<Option<u32>>,
    /// The property of the groups and its values.
    breakdown: Option<(&'a Property, Vec<String>)>,
    /// The group of each code, if that is not the code.
    groups: Option<Vec<u32>>,
    /// Number of groups.
    width: usize,
    /// The memory of the keys and values.
    _charge: Charge<'a>,
}

impl<'a> CountedTable<'a> {
    fn open(
        table: &Table,
        key: &Property,
        breakdown: Option<&'a Property>,
        source: &'a dyn Source,
        code: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<Self> {
        let bits = FilterBits::new(table, [(source.filter(), 1)])?;
        let mut columns = bits.columns.clone();
        let key = column_of(table, key)?;
        columns.push(key);
        let keys = table.values(key)?;
        let keys = keys.iter().map(|key| code(key));
        // Code 0 is null.
        let keys: Vec<Option<u32>> = std::iter::once(None).chain(keys).collect();
        let breakdown = match breakdown {
            Some(breakdown) => {
                let column = column_of(table, breakdown)?;
                columns.push(column);
                Some((breakdown, table.values(column)?))
            }
            None => None,
        };
        let width = breakdown.as_ref().map_or(1, |(_, values)| values.len() + 1);
        let text = breakdown.iter().flat_map(|(_, values)| values);
        // Each with its string and its number of events.
        let value_bytes = size_of::<String>() + size_of::<u64>();
        let text_bytes: usize = text.map(|value| value_bytes + value.len()).sum();
        let mut charge = source.budget().charge();
        let key_bytes = size_of_val(keys.as_slice());
        charge.set(bits.bytes() + (key_bytes + text_bytes) as u64)?;
        Ok(Self {
            slice: table.slice(&Rows::All, &columns, false)?,
            bits,
            keys,
            breakdown,
            groups: None,
            width,
            _charge: charge,
        })
    }

    /// The value of a code of the breakdown.
    fn group(&self, code: usize) -> Option<Cow<'_, str>> {
        let (property, values) = self.breakdown.as_ref()?;
        let value = code.checked_sub(1).and_then(|at| values.get(at))?;
        property.string_of(value)
    }

    /// Counts by the codes of some values, and all others as one group.
    fn merge_groups(&mut self, codes: &HashMap<Option<String>, u32>, others: u32) {
        let code = |at: usize| {
            let value = self.group(at).map(Cow::into_owned);
            codes.get(&value).copied().unwrap_or(others)
        };
        self.groups = Some((0..self.width).map(code).collect());
        self.breakdown = None;
        self.width = others as usize + 1;
    }

    /// Calls `add` with the user and the codes of the key and of the group of each event.
    fn for_each(
        &self,
        source: &dyn Source,
        checks: &mut CancelChecks<'_>,
        mut add: impl FnMut(Option<u32>, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let met = self.bits.of_rows(&self.slice);
        let keys = self.slice.codes(self.bits.columns.len());
        let groups = self.slice.codes(self.bits.columns.len() + 1);
        let code = |codes: Option<&Codes>, row| codes.map_or(0, |codes| codes.code(row));
        for (user, rows) in self.slice.runs() {
            checks.step()?;
            let user = (user != ANONYMOUS).then_some(user);
            if !source.includes(user) {
                continue;
            }
            for row in rows {
                checks.step()?;
                let key = code(keys, row);
                if met.get(row) != Some(&1) || !matches!(self.keys.get(key), Some(Some(_))) {
                    continue;
                }
                let group = code(groups, row);
                let group = match &self.groups {
                    Some(groups) => groups.get(group).map_or(0, |&group| group as usize),
                    None => group,
                };
                add(user, key, group)?;
            }
        }
        Ok(())
    }

    /// Events and users of each key and group; none if `is_limited` and they take too much memory.
    fn places(
        &self,
        source: &'a dyn Source,
        is_limited: bool,
        checks: &mut CancelChecks<'_>,
    ) -> Result<Option<Places<'a>>> {
        let budget = source.budget();
        let mut places = Places {
            small: Vec::new(),
            others: HashMap::new(),
            counts: Vec::new(),
            users: 0,
            charge: budget.charge(),
        };
        let mut is_too_much = false;
        let mut events = 0_usize;
        self.for_each(source, checks, |user, key, group| {
            if is_too_much {
                return Ok(());
            }
            places.add(key * self.width + group, user);
            events += 1;
            if !events.is_multiple_of(EVENTS_PER_CHARGE) {
                return Ok(());
            }
            let bytes = places.bytes();
            is_too_much = is_limited
                && (bytes > budget.bytes() / SETS_SHARE || budget.held() > budget.bytes() / 2);
            places.charge.set(if is_too_much { 0 } else { bytes })
        })?;
        if is_too_much {
            return Ok(None);
        }
        places.charge.set(places.bytes())?;
        Ok(Some(places))
    }

    /// Events of each code of the key, and of each code of the group except those of the rest.
    fn events(
        &self,
        source: &dyn Source,
        checks: &mut CancelChecks<'_>,
    ) -> Result<(Vec<u64>, Vec<u64>)> {
        let mut of_key = vec![0; self.keys.len()];
        let mut of_group = vec![0; self.width];
        self.for_each(source, checks, |_, key, group| {
            if let Some(of_key) = of_key.get_mut(key) {
                *of_key += 1;
            }
            let is_rest = self.keys.get(key) == Some(&Some(REST_FEATURE));
            if let Some(of_group) = of_group.get_mut(group).filter(|_| !is_rest) {
                *of_group += 1;
            }
            Ok(())
        })?;
        Ok((of_key, of_group))
    }
}

/// Counts by key and group, both as one number.
struct Places<'a> {
    /// The position in `counts` of each number, plus 1, for small ones.
    small: Vec<u32>,
    others: HashMap<usize, u32>,
    counts: Vec<(usize, u64, Vec<u32>)>,
    /// Users of all counts together.
    users: usize,
    charge: Charge<'a>,
}

impl Places<'_> {
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
                self.users += 1;
            }
        }
    }

    /// Bytes in memory. Lists have space for four users at least, and at most twice their length.
    fn bytes(&self) -> u64 {
        let small = size_of_val(self.small.as_slice());
        let counts = self.counts.capacity() * size_of::<(usize, u64, Vec<u32>)>();
        let lists = (4 * self.counts.len() + 2 * self.users) * size_of::<u32>();
        table_bytes::<(usize, u32)>(self.others.capacity()) + (small + counts + lists) as u64
    }
}

/// The codes of some strings, of which null may be one, and `others` for all others.
fn group_codes(strings: Expr, codes: HashMap<Option<String>, u32>, others: u32) -> Expr {
    let null = codes.get(&None).copied().unwrap_or(others);
    let strings_of = codes
        .into_iter()
        .filter_map(|(string, code)| Some((string?, code)));
    let codes: HashMap<String, u32> = strings_of.collect();
    strings.cast(DataType::String).map(
        move |column| {
            let code = |string: Option<&str>| match string {
                None => null,
                Some(string) => codes.get(string).copied().unwrap_or(others),
            };
            let found: UInt32Chunked = column.str()?.iter().map(|s| Some(code(s))).collect();
            Ok(found.with_name(column.name().clone()).into_column())
        },
        |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
    )
}

/// Calls `add` with key, group, user and events of each row of [`counts_plan`] whose user is one
/// that the query is limited to.
fn each_count(
    frame: &DataFrame,
    source: &dyn Source,
    checks: &mut CancelChecks<'_>,
    mut add: impl FnMut(u32, Option<&str>, Option<u32>, u64),
) -> Result<()> {
    let keys = frame.column(KEY)?.as_materialized_series().cat32()?;
    let groups = frame.column(GROUP)?.str()?;
    let users = frame.column(schema::USER_ID)?.u32()?;
    let events = frame.column(EVENTS)?.i64()?;
    let names = keys.physical().iter().zip(groups.iter());
    for ((key, group), (user, events)) in names.zip(users.iter().zip(events.iter())) {
        checks.step()?;
        if let (Some(key), Some(events)) = (key, events)
            && source.includes(user)
        {
            add(key, group, user, events.unsigned_abs());
        }
    }
    Ok(())
}

fn read_counts(
    frame: &DataFrame,
    source: &dyn Source,
    code: impl Fn(&str) -> Option<u32>,
    into: &mut Counts,
    checks: &mut CancelChecks<'_>,
) -> Result<()> {
    let names = frame.column(KEY)?.as_materialized_series().cat32()?;
    let mut found: HashMap<(u32, u32), (u64, Vec<u32>)> = HashMap::new();
    each_count(frame, source, checks, |key, group, user, events| {
        let group = into.groups.code(group);
        let (sum, list) = found.entry((key, group)).or_default();
        *sum += events;
        list.extend(user);
    })?;
    for ((key, group), (events, users)) in found {
        checks.step()?;
        let Some(key) = names.get_mapping().cat_to_str(key).and_then(&code) else {
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
pub fn local_codes() -> DataType {
    let categories = Categories::random(PlSmallStr::from_static(KEY), CategoricalPhysical::U32);
    let mapping = categories.mapping();
    DataType::Categorical(categories, mapping)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::{FrameSource, Row};

    #[test]
    fn users_of_too_many_groups_are_counted_in_a_second_scan() {
        // Value v0 has 3,000 events of 1,000 users, v1 two of one user, v2 to v9999 one each, and
        // one event has none.
        let values = std::iter::repeat_n(0, 3_000).chain([1]).chain(1..10_000);
        let strings: Vec<[String; 3]> = values
            .enumerate()
            .map(|(i, value)| {
                let metadata = format!("{{\"v\":\"v{value}\"}}");
                [format!("u{}", i % 1_000), format!("f{}", i % 5), metadata]
            })
            .collect();
        let mut rows: Vec<(Row<'_>, &str)> = strings
            .iter()
            .map(|[user, feature, metadata]| {
                let row = (
                    "2024-03-01 10:00",
                    "action",
                    user.as_str(),
                    feature.as_str(),
                );
                (row, metadata.as_str())
            })
            .collect();
        rows.push((("2024-03-01 10:00", "action", "", "f0"), ""));
        rows.push((("2024-03-01 10:00", "action", "u0", "?"), ""));
        let mut source = FrameSource::with_metadata("2024-03-01", 1, &rows);
        source.batch_rows = 1_000;
        let breakdown = Property::Metadata("v".into());
        let key = Key::Feature {
            most: 2,
            breakdown: Some(&breakdown),
        };
        for has_tables in [false, true] {
            source.has_tables = has_tables;
            source.limit_memory(1 << 30);
            let one = counts(&source, key).expect("one scan");
            assert_eq!((one.others, one.groups.len()), (None, 10_001));
            source.limit_memory(2 << 20);
            let two = counts(&source, key).expect("two scans");
            // 25 values have a group of their own.
            assert_eq!((two.others, two.groups.len()), (Some(25), 25));
            assert_eq!(two.groups.string(0), Some("v0"));
            assert_eq!(two.groups.string(1), Some("v1"));
            let feature = source.names().features.find("f0").expect("a feature");
            let of = |counts: &Counts, group: u32| counts.counts.get(&(feature, group)).cloned();
            let code = |value| (0..10_001).find(|&code| one.groups.string(code) == value);
            let of_value = |value| of(&one, code(Some(value)).expect("a code"));
            assert_eq!(of(&two, 0), of_value("v0"));
            assert_eq!(of(&two, 1), of_value("v1"));
            // Of the most used features there are all events, of the third none, and the rest.
            let events = |counts: &Counts, feature: u32| -> u64 {
                let of = counts.counts.iter().filter(|(key, _)| key.0 == feature);
                of.map(|(_, count)| count.events).sum()
            };
            assert_eq!(events(&two, feature), events(&one, feature));
            assert_eq!(events(&two, REST_FEATURE), 1);
            let keys = two.counts.keys().map(|key| key.0);
            assert_eq!(keys.collect::<std::collections::BTreeSet<_>>().len(), 3);
        }
    }
}
