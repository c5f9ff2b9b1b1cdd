//! The most used values of a property, and the keys of metadata: for autocompletion.
//!
//! Event types and features are counted from daily states. URLs, metadata and keys are counted
//! segment by segment from the columns, and these counts are kept, so that a request adds numbers.
//! Segments whose columns do not have the property are read themselves, the newest first and
//! [`MAX_READ_EVENTS`] a request at most; the response says from which day on it is complete, and
//! as these counts are kept too, the next request is complete for longer.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, Utc};
use chrono_tz::Tz;
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Cancel, Engine, check_limit};
use crate::daily::{Day, date};
use crate::dictionary::REST_FEATURE;
use crate::error::{Error, ErrorCode, Result, shown};
use crate::event::counter::{Count, Counter, Kinds};
use crate::schema;
use crate::store::{PartKey, ValuePart, ValuesOf, pipeline};
use crate::window::{DAY_US, Window, WindowMeta, WindowRequest};

/// Most values of a response: a list to choose from.
const MAX_LIMIT: usize = 200;
/// The values of a response without `limit`.
pub const DEFAULT_LIMIT: usize = 20;
/// Longest `prefix`, in characters: as long as the longest URL.
const MAX_PREFIX_CHARS: usize = 2_048;
/// Events that a request reads in addition to columns and to those that are not sealed: about a
/// second.
const MAX_READ_EVENTS: u64 = 2 << 20;
/// Bytes of the counts that are kept, of all properties: those of the least recently used ones are
/// dropped. A year of 50,000 URLs takes a third of it.
const MAX_KEPT_BYTES: u64 = 96 << 20;
/// Properties whose counts are kept.
const MAX_KEPT_PROPERTIES: usize = 200;
/// Bytes of a value in memory without its string: in the list and in the table.
const VALUE_BYTES: u64 = 80;

/// A request for the values of a property.
#[derive(Debug, Clone)]
pub struct ValuesRequest {
    /// `event_type`, `feature`, `url`, `metadata.<path>`, or `metadata` for its keys.
    pub property: String,
    /// The beginning of the values or, after these, a part of them; without case.
    pub prefix: String,
    /// Most values; [`DEFAULT_LIMIT`] if absent.
    pub limit: Option<usize>,
    /// The window, in days of UTC.
    pub window: WindowRequest,
    /// Most sealed events that are read because the columns do not have the property.
    pub max_read_events: u64,
}

impl Default for ValuesRequest {
    fn default() -> Self {
        Self {
            property: String::new(),
            prefix: String::new(),
            limit: None,
            window: WindowRequest::default(),
            max_read_events: MAX_READ_EVENTS,
        }
    }
}

/// Response to a request for the values of a property.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ValuesAnswer {
    /// Always true.
    pub ok: bool,
    /// The property.
    pub property: String,
    /// The window.
    pub window: WindowMeta,
    /// First day of the window whose events are all counted. Events before it are not counted.
    pub covered_from: NaiveDate,
    /// All events of the window are counted.
    pub complete: bool,
    /// Events with features beyond the daily limit, which are not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<u64>,
    /// The values: those that begin with the prefix, then those that contain it; the most used ones
    /// first.
    pub values: Vec<UsedValue>,
    /// There are more than these.
    pub more: bool,
}

/// A value with the number of its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsedValue {
    /// The value as a filter takes it, or the name of the property.
    pub value: String,
    /// Events of the window that have it.
    pub events: u64,
    /// Of a key: `string`, `number`, `boolean`, or `mixed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
}

/// The counts of the properties that were requested last.
#[derive(Default)]
pub(super) struct ValueCounts {
    properties: Mutex<HashMap<String, Kept>>,
}

/// The counts of a property, and when they were used.
struct Kept {
    counts: Arc<Mutex<PropertyCounts>>,
    used: u64,
    bytes: u64,
}

/// The counts of a property in each part of the events.
#[derive(Default)]
struct PropertyCounts {
    values: Vec<Arc<str>>,
    codes: HashMap<Arc<str>, u32>,
    parts: HashMap<PartKey, Box<[PartCount]>>,
    value_bytes: u64,
    part_bytes: u64,
}

/// The count of a value in a part. A part has fewer events than 2^32.
#[derive(Clone, Copy)]
struct PartCount {
    value: u32,
    events: u32,
    kinds: Kinds,
}

/// Values with their counts.
type Counted = Vec<(Arc<str>, Count)>;

impl Engine {
    /// The most used values of a property.
    ///
    /// # Errors
    /// `bad_query` or `bad_limit` for a wrong request; if the window is wrong, stored data that is
    /// needed is damaged, the values do not fit into the memory of a query, or it is cancelled.
    pub fn values(
        &self,
        request: &ValuesRequest,
        now: DateTime<Utc>,
        cancel: &Cancel,
    ) -> Result<ValuesAnswer> {
        let limit = request.check()?;
        let window = request.window.resolve(now)?;
        if window.tz() != Tz::UTC {
            let message = format!("tz is {}; values have windows of days of UTC", window.tz());
            return Err(Error::bad_input(ErrorCode::BadTz, message));
        }
        let expiry = self.store.expiry();
        let mut rest = None;
        let (counted, kept_from) = match request.property.as_str() {
            schema::EVENT_TYPE => (self.event_types(&window)?, expiry.states_from),
            schema::FEATURE => {
                let features;
                (features, rest) = self.features(&window)?;
                (features, expiry.states_from)
            }
            property => {
                let of = values_of(property)?;
                let (counted, read_from) = self.count_values(request, &of, &window, cancel)?;
                (counted, expiry.raw_from.max(read_from))
            }
        };
        let first = window.first_day();
        let after = window.last_day() + Days::new(1);
        let covered_from = kept_from.map_or(first, |day| day.clamp(first, after));
        let is_keys = request.property == schema::METADATA;
        let (values, more) = most_used(counted, &request.prefix, limit, is_keys);
        Ok(ValuesAnswer {
            ok: true,
            property: request.property.clone(),
            window: window.describe(now),
            covered_from,
            complete: covered_from == first && rest.is_none(),
            rest,
            values,
            more,
        })
    }

    fn event_types(&self, window: &Window) -> Result<Counted> {
        let found = self.store.activities(Tz::UTC, window.days_in_epoch())?;
        let weeks = found.weeks.values().map(|week| &week.whole);
        let days = found.days.values().flatten().map(Arc::as_ref);
        let mut events: BTreeMap<u32, u64> = BTreeMap::new();
        for (&code, some) in weeks.chain(days).flat_map(|activity| &activity.event_types) {
            *events.entry(code).or_default() += some;
        }
        let names = &self.store.names().event_types;
        let counted = events.into_iter().filter_map(|(code, events)| {
            let name = names.text(code)?;
            Some((name.into(), of_events(events)))
        });
        Ok(counted.collect())
    }

    /// The features, and the events of those that are beyond the limit of their day, if there are
    /// any.
    fn features(&self, window: &Window) -> Result<(Counted, Option<u64>)> {
        let found = self.store.activities(Tz::UTC, window.days_in_epoch())?;
        let mut features = found.features();
        let rest = features.remove(&REST_FEATURE);
        let names = &self.store.names().features;
        let counted = features.into_iter().filter_map(|(feature, events)| {
            let name = names.text(feature)?;
            Some((name.into(), of_events(events)))
        });
        Ok((counted.collect(), rest))
    }

    /// The counts of the values of a property in a window, and the first day whose events are all
    /// counted if it is not that of the window; those before it are not counted then.
    fn count_values(
        &self,
        request: &ValuesRequest,
        of: &ValuesOf,
        window: &Window,
        cancel: &Cancel,
    ) -> Result<(Counted, Option<NaiveDate>)> {
        let kept = self.value_counts.of(&request.property);
        let mut counts = kept.lock();
        counts.remove_gone();
        let mut range_us = window.range_us();
        let mut covered_from = None;
        // Again if a day cannot be counted: from the day after it on.
        let counted = loop {
            let scope = (range_us.clone(), request.max_read_events);
            match self.count_range(of, scope, &mut counts, cancel)? {
                Ok(counted) => break counted,
                Err(uncounted) => {
                    range_us.start = i64::from(uncounted + 1) * DAY_US;
                    covered_from = Some(date(uncounted + 1));
                }
            }
        };
        let bytes = counts.bytes();
        drop(counts);
        self.value_counts.keep(&request.property, bytes);
        Ok((counted, covered_from))
    }

    /// The counts in a range of days, or the last day that there are too many events to read of.
    fn count_range(
        &self,
        of: &ValuesOf,
        (range_us, max_read_events): (Range<i64>, u64),
        counts: &mut PropertyCounts,
        cancel: &Cancel,
    ) -> Result<Result<Counted, Day>> {
        if range_us.is_empty() {
            return Ok(Ok(Counted::new()));
        }
        let parts = self.store.value_parts(range_us)?;
        let budget = self.query_memory.budget();
        let mut charge = budget.charge();
        // Of parts whose counts are not kept.
        let mut others = Counter::default();
        let mut number = 0;
        let is_new = |part: &&ValuePart| {
            let key = part.key();
            key.is_none_or(|key| !counts.parts.contains_key(key))
        };
        let new: Vec<&ValuePart> = parts.iter().filter(is_new).collect();
        let mut add = |part: &ValuePart, found: &Counter| {
            match part.key() {
                Some(key) => counts.add(key.clone(), found),
                None => {
                    for (value, count) in found.iter() {
                        others.add(value, count.kinds, number, count.events);
                        number += 1;
                    }
                }
            }
            charge.set(counts.bytes() + others.bytes())
        };
        let mut unknown: Vec<&ValuePart> = Vec::new();
        let mut new = new.into_iter();
        pipeline::ordered(
            || Ok(new.next()),
            |part| cancel.check().map(|()| (part, part.known(of))),
            |known| {
                let (part, known) = known?;
                match known {
                    Some(found) => add(part, &found)?,
                    None => unknown.push(part),
                }
                Ok(())
            },
        )?;
        // Those that are not sealed may be of any day, and are not many.
        let mut events = 0;
        let is_too_much = |part: &&ValuePart| {
            events += part.day().map_or(0, |_| part.rows());
            part.day().is_some() && events > max_read_events
        };
        let uncounted = unknown.iter().position(is_too_much);
        let uncounted_day = uncounted.and_then(|at| unknown.get(at)?.day());
        let mut readable = unknown.into_iter().take(uncounted.unwrap_or(usize::MAX));
        pipeline::ordered(
            || Ok(readable.next()),
            |part| {
                let mut charge = budget.charge();
                let found = part.read(of, |bytes| {
                    cancel.check()?;
                    charge.set(bytes)
                })?;
                Ok((part, found, charge))
            },
            |found: Result<_>| {
                let (part, found, _charge) = found?;
                add(part, &found)
            },
        )?;
        if let Some(day) = uncounted_day {
            return Ok(Err(day));
        }
        let keys = parts.iter().filter_map(ValuePart::key);
        Ok(Ok(counts.total(keys, &others)))
    }
}

impl ValuesRequest {
    /// Checks the request, and returns the limit.
    fn check(&self) -> Result<usize> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        check_limit(limit, MAX_LIMIT)?;
        let chars = self.prefix.chars().count();
        if chars > MAX_PREFIX_CHARS {
            return Err(Error::bad_input(
                ErrorCode::BadQuery,
                format!("prefix has {chars} characters; allowed are {MAX_PREFIX_CHARS}"),
            ));
        }
        Ok(limit)
    }
}

/// The counted part of the events for a property that daily states do not know.
fn values_of(property: &str) -> Result<ValuesOf> {
    match property {
        schema::URL => Ok(ValuesOf::Urls),
        schema::METADATA => Ok(ValuesOf::Keys),
        other => match other.strip_prefix("metadata.") {
            Some(path) => Ok(ValuesOf::path(path)),
            None => {
                let property = shown(property);
                let message = format!(
                    "property is {property:?}; allowed are event_type, feature, url, metadata.<path>, and metadata for its keys"
                );
                Err(Error::bad_input(ErrorCode::BadQuery, message))
            }
        },
    }
}

fn of_events(events: u64) -> Count {
    Count {
        events,
        kinds: Kinds::default(),
    }
}

/// The values that begin with a prefix, then those that contain it, without case, and of each the
/// most used ones first; and whether there are more.
fn most_used(
    counted: Counted,
    prefix: &str,
    limit: usize,
    is_keys: bool,
) -> (Vec<UsedValue>, bool) {
    let prefix = prefix.to_lowercase();
    let mut found: Vec<_> = counted
        .into_iter()
        .filter(|(_, count)| count.events > 0)
        .filter_map(|(value, count)| {
            let place = match prefix.is_empty() {
                true => 0,
                false => place_of(&value.to_lowercase(), &prefix, is_keys)?,
            };
            Some((place, Reverse(count.events), value, count))
        })
        .collect();
    let more = found.len() > limit;
    let order = |a: &(u8, Reverse<u64>, Arc<str>, Count),
                 b: &(u8, Reverse<u64>, Arc<str>, Count)| {
        (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2))
    };
    if more {
        found.select_nth_unstable_by(limit, order);
        found.truncate(limit);
    }
    found.sort_unstable_by(order);
    let values = found.into_iter().map(|(_, _, value, count)| UsedValue {
        value: value.as_ref().to_owned(),
        events: count.events,
        kind: is_keys.then(|| count.kinds.name()),
    });
    (values.collect(), more)
}

/// 0 for a value that begins with a string, 1 for one that contains it. A key begins with its path,
/// too.
fn place_of(value: &str, prefix: &str, is_key: bool) -> Option<u8> {
    let path = value.strip_prefix("metadata.").filter(|_| is_key);
    if value.starts_with(prefix) || path.is_some_and(|path| path.starts_with(prefix)) {
        return Some(0);
    }
    value.contains(prefix).then_some(1)
}

impl ValueCounts {
    /// The counts of a property.
    fn of(&self, property: &str) -> Arc<Mutex<PropertyCounts>> {
        let mut properties = self.properties.lock();
        let used = next_use(&properties);
        match properties.entry(property.to_owned()) {
            Entry::Occupied(mut known) => {
                known.get_mut().used = used;
                known.get().counts.clone()
            }
            Entry::Vacant(new) => {
                let kept = Kept {
                    counts: Arc::default(),
                    used,
                    bytes: 0,
                };
                new.insert(kept).counts.clone()
            }
        }
    }

    /// Notes the bytes of the counts of a property, and drops the least recently used counts while
    /// all take too much.
    fn keep(&self, property: &str, bytes: u64) {
        let mut properties = self.properties.lock();
        if let Some(kept) = properties.get_mut(property) {
            kept.bytes = bytes + property.len() as u64;
        }
        while properties.values().map(|kept| kept.bytes).sum::<u64>() > MAX_KEPT_BYTES
            || properties.len() > MAX_KEPT_PROPERTIES
        {
            let oldest = properties.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(property, _)| property.clone()) else {
                return;
            };
            properties.remove(&oldest);
        }
    }
}

fn next_use(properties: &HashMap<String, Kept>) -> u64 {
    let last = properties.values().map(|kept| kept.used).max();
    last.unwrap_or(0) + 1
}

impl PropertyCounts {
    fn code(&mut self, value: &str) -> u32 {
        if let Some(&code) = self.codes.get(value) {
            return code;
        }
        let value: Arc<str> = value.into();
        let code = self.values.len() as u32;
        self.value_bytes += VALUE_BYTES + value.len() as u64;
        self.values.push(value.clone());
        self.codes.insert(value, code);
        code
    }

    /// Adds the counts of a part.
    fn add(&mut self, key: PartKey, found: &Counter) {
        let counts = found.iter().map(|(value, count)| PartCount {
            value: self.code(value),
            events: u32::try_from(count.events).unwrap_or(u32::MAX),
            kinds: count.kinds,
        });
        let counts: Box<[PartCount]> = counts.collect();
        self.part_bytes += part_bytes(&counts);
        self.parts.insert(key, counts);
    }

    /// Removes the counts of parts that do not exist any more, and their values.
    fn remove_gone(&mut self) {
        if self.parts.keys().all(PartKey::is_live) {
            return;
        }
        let before = std::mem::take(self);
        for (key, counts) in before.parts {
            if !key.is_live() {
                continue;
            }
            let counts = counts.iter().filter_map(|count| {
                let value = before.values.get(count.value as usize)?;
                Some(PartCount {
                    value: self.code(value),
                    ..*count
                })
            });
            let counts: Box<[PartCount]> = counts.collect();
            self.part_bytes += part_bytes(&counts);
            self.parts.insert(key, counts);
        }
    }

    /// The sum of the counts of some parts and of others.
    fn total<'a>(&self, parts: impl Iterator<Item = &'a PartKey>, others: &Counter) -> Counted {
        let mut totals = vec![Count::default(); self.values.len()];
        for count in parts.filter_map(|part| self.parts.get(part)).flatten() {
            if let Some(total) = totals.get_mut(count.value as usize) {
                total.events += u64::from(count.events);
                total.kinds = total.kinds.union(count.kinds);
            }
        }
        let mut counted: Counted = self.values.iter().cloned().zip(totals).collect();
        for (value, count) in others.iter() {
            match self.codes.get(value).map(|&code| code as usize) {
                Some(code) => {
                    if let Some((_, total)) = counted.get_mut(code) {
                        total.events += count.events;
                        total.kinds = total.kinds.union(count.kinds);
                    }
                }
                None => counted.push((value.into(), count)),
            }
        }
        counted
    }

    fn bytes(&self) -> u64 {
        self.value_bytes + self.part_bytes
    }
}

fn part_bytes(counts: &[PartCount]) -> u64 {
    (std::mem::size_of_val(counts) + 2 * size_of::<PartKey>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(values: &[(&str, u64)]) -> Counted {
        let values = values.iter();
        values
            .map(|&(value, events)| (value.into(), of_events(events)))
            .collect()
    }

    fn names(values: &[UsedValue]) -> Vec<&str> {
        values.iter().map(|value| value.value.as_str()).collect()
    }

    #[test]
    fn values_that_begin_with_the_prefix_come_before_those_that_contain_it() {
        let all = [
            ("Pro", 5),
            ("pro\u{7}\"", 7),
            ("apropos", 90),
            ("free", 80),
            ("PRÓ", 0),
        ];
        for (prefix, limit, expected, expects_more) in [
            ("", 3, vec!["apropos", "free", "pro\u{7}\""], true),
            ("", 4, vec!["apropos", "free", "pro\u{7}\"", "Pro"], false),
            ("PRO", 9, vec!["pro\u{7}\"", "Pro", "apropos"], false),
            ("pro", 1, vec!["pro\u{7}\""], true),
            ("none", 1, vec![], false),
        ] {
            let (found, more) = most_used(counted(&all), prefix, limit, false);
            assert_eq!((names(&found), more), (expected, expects_more), "{prefix}");
        }
        let keys = [("metadata.plan", 1), ("metadata.data", 9)];
        for (prefix, expected) in [
            ("pl", vec!["metadata.plan"]),
            ("data", vec!["metadata.data", "metadata.plan"]),
            ("metadata.", vec!["metadata.data", "metadata.plan"]),
        ] {
            assert_eq!(
                names(&most_used(counted(&keys), prefix, 9, true).0),
                expected
            );
        }
    }

    #[test]
    fn counts_that_were_not_used_for_long_are_dropped() {
        let kept = ValueCounts::default();
        for (property, bytes) in [("a", 40), ("b", 40), ("a", 40), ("c", 40)] {
            drop(kept.of(property));
            kept.keep(property, bytes << 20);
        }
        let mut names: Vec<String> = kept.properties.lock().keys().cloned().collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c"]);
        // One that is too large by itself is not kept.
        drop(kept.of("d"));
        kept.keep("d", 97 << 20);
        assert!(kept.properties.lock().is_empty());
        for property in 0..2 * MAX_KEPT_PROPERTIES {
            let property = property.to_string();
            drop(kept.of(&property));
            kept.keep(&property, 1);
        }
        assert_eq!(kept.properties.lock().len(), MAX_KEPT_PROPERTIES);
    }
}
