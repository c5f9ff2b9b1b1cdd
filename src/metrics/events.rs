//! Single events, newest first: the explorer.
//!
//! Events are ordered by `ts`, descending; at one timestamp those without a user come first, then
//! those of each user in the order of the ids, and those of one user with the last of the log
//! first. The log has no order of users at one timestamp once it is sealed, so that only this order
//! stays the same. A page ends with `limit` events; the note `next` is the cursor of the page after
//! it, and null if the page is not full. The cursor names the last event by its time, its user, and
//! its number among the events of these that meet the filter, so that later events, a seal and a
//! compaction change no page after it. Duplicates are not stored, and late events are in the order
//! of their `ts`. Days are read from the newest on, until the page is full, and in memory are a
//! page and the times and users of a segment. Definitions: `docs/metrics.md`, "Events".

use std::cmp::Ordering;
use std::fmt;
use std::ops::{ControlFlow, Range};

use chrono::{DateTime, Utc};
use polars::prelude::*;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::budget::Charge;
use super::source::{CancelChecks, DayEvents, Source};
use super::table::{Table, Values};
use super::{Answer, Measure, check_limit};
use crate::error::Result;
use crate::event::timestamp;
use crate::schema;

/// Most events of a page.
const MAX_LIMIT: usize = 1_000;
/// Bytes of an event in memory without its strings.
const EVENT_BYTES: usize = 256;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Most events of the page.
    #[schema(minimum = 1, maximum = 1_000)]
    pub limit: usize,
    /// The cursor of the page: `next` of the page before it.
    #[schema(value_type = Option<String>, default = json!(null))]
    pub before: Option<Cursor>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            limit: 100,
            before: None,
        }
    }
}

/// The last event of a page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cursor {
    key: Key,
    /// Its number among the events with this key that meet the filter, in the order of the log.
    number: u64,
}

impl Cursor {
    /// The cursor of an event by its time, its user, and its number among the events of these that
    /// meet the filter, in the order of the log.
    pub fn new(ts_us: i64, user: Option<String>, number: u64) -> Self {
        Self {
            key: Key { ts_us, user },
            number,
        }
    }

    /// The same parts.
    pub fn parts(&self) -> (i64, Option<&str>, u64) {
        (self.key.ts_us, self.key.user.as_deref(), self.number)
    }
}

/// The time and the user of an event. Keys are ordered as the events of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    ts_us: i64,
    user: Option<String>,
}

impl Key {
    /// The order of this key and one of these parts.
    fn order(&self, ts_us: i64, user: Option<&str>) -> Ordering {
        let later_first = ts_us.cmp(&self.ts_us);
        later_first.then_with(|| self.user.as_deref().cmp(&user))
    }

    /// The events with this key.
    fn is(&self) -> Expr {
        let user = col(schema::USER_ID);
        let user = match &self.user {
            Some(id) => user.eq(lit(id.as_str())).fill_null(lit(false)),
            None => user.is_null(),
        };
        ts().eq(lit(self.ts_us)).and(user)
    }

    /// The events that come before all with this key in a page.
    fn precedes(&self) -> Expr {
        let is_earlier_user = match &self.user {
            Some(id) => {
                let user = col(schema::USER_ID);
                user.clone().is_null().or(user.lt(lit(id.as_str())))
            }
            None => lit(false),
        };
        let at_once = ts().eq(lit(self.ts_us));
        let before = at_once.and(is_earlier_user.fill_null(lit(false)));
        ts().gt(lit(self.ts_us)).or(before)
    }
}

const COUNT: &str = "count";

fn ts() -> Expr {
    col(schema::TS).to_physical()
}

impl TryFrom<String> for Cursor {
    type Error = String;

    fn try_from(cursor: String) -> Result<Self, String> {
        let mut parts = cursor.splitn(3, '.');
        let mut parse = || {
            let ts_us = parts.next()?.parse().ok()?;
            let number = parts.next()?.parse().ok()?;
            let user = parts.next()?;
            let user = (!user.is_empty()).then(|| user.to_owned());
            Some(Self {
                key: Key { ts_us, user },
                number,
            })
        };
        parse().ok_or_else(|| {
            let start: String = cursor.chars().take(64).collect();
            format!("{start:?} is not a cursor; allowed is the value of next of an earlier page")
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { ts_us, user } = &self.key;
        let user = user.as_deref().unwrap_or_default();
        write!(f, "{ts_us}.{}.{user}", self.number)
    }
}

impl Measure for Events {
    fn check(&self) -> Result<(), String> {
        check_limit(self.limit, MAX_LIMIT)
    }

    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, _now: DateTime<Utc>) -> Result<Answer> {
        let mut page = Page {
            checks: CancelChecks::new(source),
            charge: source.budget().charge(),
            limit: self.limit,
            before: self.before.as_ref(),
            events: Vec::new(),
            bytes: 0,
        };
        let mut range_us = source.window().range_us();
        if let Some(before) = &self.before {
            range_us.end = range_us.end.min(before.key.ts_us.saturating_add(1));
        }
        let mut next = None;
        source.each_day_backwards(range_us, &mut |day| {
            next = page.read_day(day)?;
            Ok(match next {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            })
        })?;
        let next = next.map(|next| next.to_string());
        let mut columns = EventColumns::default();
        for Event {
            key,
            received_at_us,
            strings,
            ..
        } in page.events
        {
            columns.push(key.ts_us, key.user, received_at_us, strings);
        }
        Ok(Answer::from(columns.table()).with_note("next", json!(next)))
    }
}

/// An event of a page.
struct Event {
    key: Key,
    /// Its part of the day and its place there, in the order of the log.
    place: (usize, usize),
    received_at_us: Option<i64>,
    strings: [Option<String>; STRINGS.len()],
}

/// The string columns of an event other than the user.
pub const STRINGS: [&str; 5] = [
    schema::EVENT_TYPE,
    schema::FEATURE,
    schema::METADATA,
    schema::URL,
    schema::EVENT_ID,
];

/// A page that is being filled.
struct Page<'a> {
    checks: CancelChecks<'a>,
    charge: Charge<'a>,
    limit: usize,
    before: Option<&'a Cursor>,
    events: Vec<Event>,
    bytes: u64,
}

impl Page<'_> {
    /// Adds the events of a day, all of which come after those of the page. Returns the cursor of
    /// the last event if the page is full.
    fn read_day(&mut self, day: &dyn DayEvents) -> Result<Option<Cursor>> {
        let left = self.limit.saturating_sub(self.events.len());
        let keys = self.first_keys(day, left)?;
        let Some(last) = keys.last() else {
            self.before = None;
            return Ok(None);
        };
        let of_last = keys.iter().rev().take_while(|key| *key == last).count() as u64;
        let mut found = Vec::new();
        // Those between the key of the cursor and the last one; then those of these two.
        let mut between = last.precedes();
        if let Some(Cursor { key, number }) = self.before {
            between = between.and(key.is().or(key.precedes()).not());
            if key != last && *number > 0 {
                let counts = counts_of(day, key)?;
                self.read_key(day, (key, &counts), 0..*number, &mut found)?;
            }
        }
        for part in 0..day.parts() {
            let frame = day.collect(part, &|events| events.filter(between.clone()))?;
            self.add(&frame, part, 0, &mut found)?;
        }
        let counts = counts_of(day, last)?;
        let mut end = counts.iter().sum();
        if let Some(Cursor { key, number }) = self.before
            && key == last
        {
            end = *number.min(&end);
        }
        let start = end.saturating_sub(of_last);
        self.read_key(day, (last, &counts), start..end, &mut found)?;
        found.sort_by(|a: &Event, b| {
            let by_key = a.key.order(b.key.ts_us, b.key.user.as_deref());
            by_key.then_with(|| b.place.cmp(&a.place))
        });
        let cursor = (keys.len() == left).then(|| Cursor {
            key: last.clone(),
            number: start,
        });
        self.events.extend(found);
        // All other days are before the cursor.
        self.before = None;
        Ok(cursor)
    }

    /// The keys of the first events of a day that come after the cursor, in their order.
    fn first_keys(&mut self, day: &dyn DayEvents, limit: usize) -> Result<Vec<Key>> {
        let order = |a: &Key, b: &Key| a.order(b.ts_us, b.user.as_deref());
        let mut kept: Vec<Key> = Vec::new();
        // After the first cut, the key at place `limit - 1` comes after all others that are kept.
        let mut is_cut = false;
        let mut of_cursor = 0;
        for part in 0..day.parts() {
            let keys = day.collect(part, &|events| events.select([ts(), col(schema::USER_ID)]))?;
            let times = keys.column(schema::TS)?.i64()?;
            let users = keys.column(schema::USER_ID)?.str()?;
            for (ts_us, user) in times.iter().zip(users.iter()) {
                self.checks.step()?;
                let Some(ts_us) = ts_us else {
                    continue;
                };
                if let Some(before) = self.before {
                    match before.key.order(ts_us, user) {
                        // The event comes after those with the key of the cursor.
                        Ordering::Less => {}
                        Ordering::Equal if of_cursor < before.number => of_cursor += 1,
                        _ => continue,
                    }
                }
                let last = kept.get(limit - 1).filter(|_| is_cut);
                if last.is_some_and(|last| last.order(ts_us, user).is_le()) {
                    continue;
                }
                kept.push(Key {
                    ts_us,
                    user: user.map(str::to_owned),
                });
                if kept.len() >= 2 * limit {
                    kept.select_nth_unstable_by(limit - 1, order);
                    kept.truncate(limit);
                    is_cut = true;
                }
            }
        }
        kept.sort_unstable_by(order);
        kept.truncate(limit);
        Ok(kept)
    }

    /// Reads the events with a key whose numbers lie in a range, where each part has so many.
    fn read_key(
        &mut self,
        day: &dyn DayEvents,
        (key, counts): (&Key, &[u64]),
        numbers: Range<u64>,
        found: &mut Vec<Event>,
    ) -> Result<()> {
        let mut number = 0;
        for (part, &count) in counts.iter().enumerate() {
            let start = numbers.start.clamp(number, number + count) - number;
            let end = numbers.end.clamp(number, number + count) - number;
            number += count;
            if start < end {
                let length = (end - start) as IdxSize;
                let frame = day.collect(part, &|events| {
                    events.filter(key.is()).slice(start as i64, length)
                })?;
                self.add(&frame, part, start as usize, found)?;
            }
        }
        Ok(())
    }

    /// Adds the events of a frame, the first of which has this place in its part.
    fn add(
        &mut self,
        frame: &DataFrame,
        part: usize,
        first: usize,
        found: &mut Vec<Event>,
    ) -> Result<()> {
        let physical = |name| frame.column(name).map(Column::to_physical_repr);
        let (times, received) = (physical(schema::TS)?, physical(schema::RECEIVED_AT)?);
        let (times, received) = (times.i64()?, received.i64()?);
        let users = frame.column(schema::USER_ID)?.str()?;
        let mut strings = Vec::with_capacity(STRINGS.len());
        for name in STRINGS {
            strings.push(frame.column(name)?.str()?);
        }
        for row in 0..frame.height() {
            let mut of_row = strings.iter().map(|column| column.get(row));
            let event = Event {
                key: Key {
                    ts_us: times.get(row).unwrap_or_default(),
                    user: users.get(row).map(str::to_owned),
                },
                place: (part, first + row),
                received_at_us: received.get(row),
                strings: STRINGS.map(|_| of_row.next().flatten().map(str::to_owned)),
            };
            let lengths = event.strings.iter().flatten().map(String::len);
            self.bytes += (EVENT_BYTES + lengths.sum::<usize>()) as u64;
            found.push(event);
        }
        self.charge.set(self.bytes)
    }
}

/// The events of a page, as columns.
#[derive(Default)]
pub struct EventColumns {
    times: Vec<String>,
    users: Vec<Option<String>>,
    received: Vec<Option<String>>,
    strings: [Vec<Option<String>>; STRINGS.len()],
}

impl EventColumns {
    /// Adds an event with its time, its user, its time of receipt, and its [`STRINGS`]. Times are
    /// in µs.
    pub fn push(
        &mut self,
        ts_us: i64,
        user: Option<String>,
        received_at_us: Option<i64>,
        strings: [Option<String>; STRINGS.len()],
    ) {
        let time = |ts_us: i64| {
            let mut string = Vec::new();
            timestamp::write(ts_us, &mut string);
            String::from_utf8_lossy(&string).into_owned()
        };
        self.times.push(time(ts_us));
        self.users.push(user);
        self.received.push(received_at_us.map(time));
        for (column, string) in self.strings.iter_mut().zip(strings) {
            column.push(string);
        }
    }

    /// True if there are as many events as a page has at most.
    pub fn is_full(&self, limit: usize) -> bool {
        self.times.len() == limit
    }

    /// The rows of the metric.
    pub fn table(self) -> Table {
        let [event_types, features, metadata, urls, ids] = self.strings;
        Table::default()
            .with(schema::TS, self.times)
            .with(schema::EVENT_TYPE, event_types)
            .with(schema::USER_ID, self.users)
            .with(schema::FEATURE, features)
            .with(schema::METADATA, Values::Json(metadata))
            .with(schema::URL, urls)
            .with(schema::EVENT_ID, ids)
            .with(schema::RECEIVED_AT, self.received)
    }
}

/// The number of events with a key in each part of a day.
fn counts_of(day: &dyn DayEvents, key: &Key) -> Result<Vec<u64>> {
    let counts = (0..day.parts()).map(|part| {
        let counted = day.collect(part, &|events| {
            let count = len().cast(DataType::Int64).alias(COUNT);
            events.filter(key.is()).select([count])
        })?;
        let count = counted.column(COUNT)?.i64()?.get(0);
        Ok(count.unwrap_or(0).unsigned_abs())
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::metrics::frame::{FrameSource, Row};

    /// The events of a page as `time user feature`, and the next cursor.
    fn page(source: &mut FrameSource, limit: usize, before: &Value) -> (Vec<String>, Value) {
        let query = json!({"metric":"events","limit":limit,"before":before,
                           "filter":{"event_type":"action"}});
        let answer = source.query(query, "2038-01-01 00:00").expect("a page");
        let rows = json!(answer.rows);
        let row = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
            let ts = text("ts");
            let time = ts.get(8..16).unwrap_or_default().replace('T', " ");
            format!("{time} {} {}", text("user_id"), text("feature"))
        };
        let rows = rows.as_array().expect("rows").iter().map(row).collect();
        (rows, answer.notes["next"].clone())
    }

    fn events() -> Vec<Row<'static>> {
        vec![
            ("2024-03-01 10:00", "action", "bob", "b1"),
            ("2024-03-01 10:00", "action", "ann", "a1"),
            ("2024-03-01 10:00", "page_view", "ann", "not met"),
            ("2024-03-02 10:00", "action", "bob", "b1"),
            ("2024-03-01 10:00", "action", "ann", "a2"),
            ("2024-03-02 10:00", "action", "", "x1"),
            ("2024-03-02 10:00", "action", "ann", "a3"),
            ("2024-03-02 10:00", "action", "", "x2"),
            ("2024-03-02 23:59", "action", "cyd", "c"),
            ("2024-03-01 10:00", "action", "ann", "a4"),
            ("2024-03-02 10:00", "action", "", "x3"),
            ("2024-03-03 00:00", "action", "cyd", "after the window"),
        ]
    }

    const ALL: [&str; 10] = [
        "02 23:59 cyd c",
        "02 10:00 - x3",
        "02 10:00 - x2",
        "02 10:00 - x1",
        "02 10:00 ann a3",
        "02 10:00 bob b1",
        "01 10:00 ann a4",
        "01 10:00 ann a2",
        "01 10:00 ann a1",
        "01 10:00 bob b1",
    ];

    #[test]
    fn pages_of_any_length_have_each_event_once_in_order() {
        let mut source = FrameSource::new("2024-03-02", 2, &events());
        for limit in 1..12 {
            for batch_rows in [1, 2, 5, 100] {
                source.batch_rows = batch_rows;
                let mut found = Vec::new();
                let mut next = Value::Null;
                loop {
                    let (rows, cursor) = page(&mut source, limit, &next);
                    assert!(rows.len() <= limit);
                    assert_eq!(cursor.is_null(), rows.len() < limit);
                    found.extend(rows);
                    next = cursor;
                    if next.is_null() {
                        break;
                    }
                }
                assert_eq!(found, ALL, "{limit} of {batch_rows}");
            }
        }
    }

    #[test]
    fn events_that_arrive_later_change_no_page_after_the_cursor() {
        let mut source = FrameSource::new("2024-03-02", 2, &events());
        for (limit, expected) in [(2, &ALL[2..]), (3, &ALL[3..]), (7, &ALL[7..])] {
            let (_, next) = page(&mut source, limit, &Value::Null);
            let mut more = events();
            more.extend([
                ("2024-03-02 10:00", "action", "", "newer"),
                ("2024-03-01 10:00", "action", "ann", "newer"),
                ("2024-03-02 23:59", "action", "cyd", "newer"),
            ]);
            let mut later = FrameSource::new("2024-03-02", 2, &more);
            let (mut rows, _) = page(&mut later, 100, &next);
            // Later events after the cursor are there, too: the list is as it is now.
            if limit < 7 {
                rows.retain(|row| row != "01 10:00 ann newer");
            }
            assert_eq!(rows, expected, "{limit}");
        }
    }

    #[test]
    fn a_cursor_is_the_last_event_and_anything_else_is_rejected() {
        for user in [
            None,
            Some("ann"),
            Some("a.b"),
            Some("1.2.3"),
            Some("\u{1b}\n"),
        ] {
            let key = Key {
                ts_us: -5,
                user: user.map(str::to_owned),
            };
            let cursor = Cursor { key, number: 7 };
            assert_eq!(Cursor::try_from(cursor.to_string()), Ok(cursor));
        }
        for wrong in ["", "1", "1.2", "a.1.", "1.-1.ann", "1.x.ann"] {
            let message = Cursor::try_from(wrong.to_owned()).expect_err(wrong);
            assert!(message.contains("is not a cursor"), "{message}");
        }
    }
}
