//! Writing columns: which properties get one, and their bytes.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io::Result;
use std::ops::Range;
use std::sync::Arc;

use polars::prelude::StringChunked;

use super::{
    ALL_KEYS, DOTTED_KEY, HAS_URLS, HEAD_BYTES, INDEX_STEP, KEYS_COLUMN, LINKS_COLUMN, MAGIC,
    SOME_KEYS, counts_column,
};
use crate::event::counter::{Count, Counter, Kinds};
use crate::event::path;
use crate::event::text::{self, Escapes};
use crate::leb128::{put, put_text};
use crate::schema;

/// Level of compression of values; higher ones take longer for the same size.
const ZSTD_LEVEL: i32 = 3;
/// Most metadata keys of a segment that are counted: those that come first. Each takes memory
/// while the file is made.
const MAX_KEYS: usize = 256;
/// Most paths below keys of a segment that are counted, and most bytes of their names.
const MAX_PATHS: usize = 1_024;
/// Most bytes of the names of keys and paths in the file.
const MAX_KEY_BYTES: usize = 64 << 10;
/// Bytes of the values of a key, as a multiple of what all columns may have, beyond which it cannot
/// get a column: values compress less.
const MAX_VALUES_SHARE: usize = 4;
/// Bits of a code.
const BITS: [u8; 5] = [1, 2, 4, 8, 16];
/// µs of a unit of time: the greatest that has all times of a file is used.
const UNITS_US: [u32; 2] = [1_000_000, 1_000];

/// Users and times of the events of a segment, and their properties, from which the file is made.
pub struct Writer {
    /// The place of each row in the file.
    places: Vec<u32>,
    /// The users and the row after their last one.
    runs: Vec<(u32, u32)>,
    /// The times since the start of the day, in the order of the file.
    times_us: Vec<u64>,
    always: [Values; 2],
    details: HashMap<String, Values>,
    /// Events by the paths that lead into objects and lists, or have a key with dots.
    paths: Counter,
    /// Keys with dots.
    dotted: BTreeSet<String>,
    /// Some keys or paths were not counted.
    has_others: bool,
    /// A property of an event cannot be told from the JSON.
    is_unreadable: bool,
    /// Bytes that the file may have.
    budget: usize,
    /// The epoch of the links by which users are in the place of aliases.
    epoch: Option<u64>,
}

/// The values of a property.
#[derive(Default)]
struct Values {
    codes: HashMap<Arc<str>, u32>,
    values: Vec<Arc<str>>,
    bytes: usize,
    /// Row and code of each event that has a value.
    rows: Vec<(u32, u32)>,
    /// Events that have a string, number or boolean, also if their rows are not kept.
    scalars: Count,
}

/// A column as it is written.
struct Encoded<'a> {
    name: Cow<'a, str>,
    bits: u8,
    size: usize,
    values: Vec<u8>,
    codes: Vec<u8>,
    /// Events that have a value.
    events: usize,
    /// The column of the number of events of each value.
    counts: Option<Box<Self>>,
}

impl Writer {
    /// The events of a segment in its order, which is by id, time and place in the log: the code of
    /// each user or [`super::ANONYMOUS`], and the times since the start of the day, in µs. A user
    /// may have several ids. The columns of metadata and URLs are left out where the file would
    /// exceed `budget` bytes.
    pub fn new(users: &[u32], times_us: &[u64], budget: usize) -> Self {
        let mut runs: Vec<(u32, Range<usize>)> = Vec::new();
        let mut start = 0;
        for of_user in users.chunk_by(|a, b| a == b) {
            let end = start + of_user.len();
            runs.extend(of_user.first().map(|&user| (user, start..end)));
            start = end;
        }
        runs.sort_by_key(|&(user, _)| user);
        let mut places = vec![0; users.len()];
        let mut sorted_us: Vec<u64> = Vec::with_capacity(users.len());
        let mut ends = Vec::with_capacity(runs.len());
        let time_us = |row: usize| times_us.get(row).copied().unwrap_or_default();
        let mut rows = Vec::new();
        for of_user in runs.chunk_by(|(a, _), (b, _)| a == b) {
            rows.clear();
            rows.extend(of_user.iter().flat_map(|(_, rows)| rows.clone()));
            if of_user.len() > 1 {
                rows.sort_by_key(|&row| time_us(row));
            }
            for &row in &rows {
                if let Some(place) = places.get_mut(row) {
                    *place = sorted_us.len() as u32;
                }
                sorted_us.push(time_us(row));
            }
            ends.extend(
                of_user
                    .first()
                    .map(|&(user, _)| (user, sorted_us.len() as u32)),
            );
        }
        Self {
            places,
            runs: ends,
            times_us: sorted_us,
            always: Default::default(),
            details: HashMap::new(),
            paths: Counter::default(),
            dotted: BTreeSet::new(),
            has_others: false,
            is_unreadable: false,
            budget,
            epoch: None,
        }
    }

    /// Sets the epoch of the links by which users are in the place of aliases, if there are any.
    pub fn set_epoch(&mut self, epoch: Option<u64>) {
        self.epoch = epoch;
    }

    /// Adds the event types and features of all events.
    pub fn add_names(&mut self, event_types: &StringChunked, features: &StringChunked) {
        for (values, column) in self.always.iter_mut().zip([event_types, features]) {
            for (row, value) in (0..).zip(column.iter()) {
                if let Some(value) = value {
                    values.push(row, value);
                }
            }
        }
    }

    /// Adds metadata and URLs of the events from `first_row` on.
    pub fn add_details(&mut self, first_row: u32, metadata: &StringChunked, urls: &StringChunked) {
        let most_bytes = self.budget.saturating_mul(MAX_VALUES_SHARE);
        let mut column_name = String::new();
        for (row, (object, url)) in (first_row..).zip(metadata.iter().zip(urls.iter())) {
            if let Some(url) = url {
                self.push(schema::URL, row, url, most_bytes);
            }
            for (key, value) in path::entries(object.unwrap_or_default()) {
                if value == "null" {
                    continue;
                }
                let Some(name) = plain_key(key) else {
                    self.is_unreadable = true;
                    return;
                };
                column_name.clear();
                column_name.push_str(schema::METADATA);
                column_name.push('.');
                column_name.push_str(&name);
                // A path with dots leads to more than this key.
                let is_dotted = name.contains('.');
                if !is_dotted {
                    self.push(&column_name, row, value, most_bytes);
                } else if self.dotted.len() < MAX_KEYS {
                    self.dotted.insert(column_name.clone());
                } else {
                    self.has_others |= !self.dotted.contains(&column_name);
                }
                if is_dotted || value.starts_with(['{', '[']) {
                    self.count_paths(row, &mut column_name, value);
                }
            }
        }
    }

    /// Counts an event by the paths below a key with this name.
    fn count_paths(&mut self, row: u32, name: &mut String, value: &str) {
        path::for_each_scalar(name, value, &mut |path, json| {
            let bytes = self.paths.name_bytes() + path.len();
            let has_space = self.paths.len() < MAX_PATHS && bytes <= MAX_KEY_BYTES;
            if has_space || self.paths.has(path) {
                self.paths.add(path, Kinds::of(json), u64::from(row), 1);
            } else {
                self.has_others = true;
            }
        });
    }

    fn push(&mut self, name: &str, row: u32, value: &str, most_bytes: usize) {
        if let Some(values) = self.details.get_mut(name) {
            values.count(value);
            if values.bytes <= most_bytes {
                values.push(row, value);
            } else if !values.rows.is_empty() {
                // The bytes stay, as a sign that it has too many values.
                *values = Values {
                    bytes: values.bytes,
                    scalars: values.scalars,
                    ..Values::default()
                };
            }
        } else if self.details.len() < MAX_KEYS {
            let values = self.details.entry(name.to_owned()).or_default();
            values.count(value);
            values.push(row, value);
        } else {
            self.has_others = true;
        }
    }

    /// The bytes of the file for a segment with this checksum.
    ///
    /// # Errors
    /// If values cannot be compressed.
    pub fn finish(&self, segment: u32) -> Result<Vec<u8>> {
        if self.is_unreadable {
            return Ok(without_columns(segment));
        }
        let rows = self.times_us.len();
        let (unit_us, time_width, times) = encode_times(&self.times_us);
        let numbers = |of: fn(&(u32, u32)) -> u32| -> Vec<u8> {
            let numbers = self.runs.iter().map(of);
            numbers.flat_map(u32::to_le_bytes).collect()
        };
        let (users, ends) = (numbers(|run| run.0), numbers(|run| run.1));
        let mut columns = Vec::new();
        for (name, values) in [schema::EVENT_TYPE, schema::FEATURE]
            .iter()
            .zip(&self.always)
        {
            columns.push(values.encode(name, &self.places)?);
        }
        let of_columns: usize = columns.iter().map(Encoded::bytes).sum();
        let mut left = self
            .budget
            .saturating_sub(users.len() + ends.len() + times.len() + of_columns + HEAD_BYTES);
        let mut keys = self.encode_keys(true)?;
        if keys.bytes() > left {
            keys = self.encode_keys(false)?;
        }
        left = left.saturating_sub(keys.bytes());
        columns.push(keys);
        if let Some(epoch) = self.epoch {
            let epoch = [epoch.to_string()];
            columns.push(Encoded::of_strings(LINKS_COLUMN.to_owned(), epoch.iter())?);
        }
        for mut column in self.cheapest_details()? {
            if let Some(less) = left.checked_sub(column.bytes()) {
                left = less;
                let counts = column.counts.take();
                columns.push(column);
                columns.extend(counts.map(|counts| *counts));
            }
        }
        let mut list = Vec::new();
        put(&mut list, rows as u64);
        put(&mut list, self.runs.len() as u64);
        put(&mut list, u64::from(unit_us));
        put(&mut list, time_width as u64);
        let put_block = |list: &mut Vec<u8>, block: &[u8]| {
            put(list, block.len() as u64);
            put(list, u64::from(crc32c::crc32c(block)));
        };
        for block in [&users, &ends, &times] {
            put_block(&mut list, block);
        }
        put(&mut list, self.runs.len().div_ceil(INDEX_STEP) as u64);
        let first_rows = std::iter::once(0).chain(self.runs.iter().map(|&(_, end)| end));
        let runs = self.runs.iter().zip(first_rows);
        for (&(user, _), first_row) in runs.step_by(INDEX_STEP) {
            put(&mut list, u64::from(user));
            put(&mut list, u64::from(first_row));
        }
        put(&mut list, columns.len() as u64);
        for column in &columns {
            put_text(&mut list, &column.name);
            put(&mut list, u64::from(column.bits));
            put(&mut list, column.size as u64);
            put_block(&mut list, &column.values);
            put_block(&mut list, &column.codes);
        }
        let mut bytes = head(segment, &list);
        for block in [&users, &ends, &times] {
            bytes.extend_from_slice(block);
        }
        for column in &columns {
            bytes.extend_from_slice(&column.values);
            bytes.extend_from_slice(&column.codes);
        }
        Ok(bytes)
    }

    /// The column of the keys and paths of the metadata: whether these are all, and of each the
    /// number of events, their kinds and the name; keys with dots, and whether there are URLs.
    fn encode_keys(&self, is_whole: bool) -> Result<Encoded<'static>> {
        let mut keys = Vec::new();
        let of_details = self.details.iter();
        let of_details = of_details.filter(|(name, _)| name.as_str() != schema::URL);
        let of_details = of_details.map(|(name, values)| (name.as_str(), values.scalars));
        let mut bytes = 0;
        for (name, count) in of_details.chain(self.paths.iter()) {
            if count.events > 0 {
                keys.push(format!("{} {} {name}", count.events, count.kinds.bits()));
                bytes += name.len();
            }
        }
        for name in &self.dotted {
            keys.push(format!("{DOTTED_KEY} {name}"));
            bytes += name.len();
        }
        if self.details.contains_key(schema::URL) {
            keys.push(format!("{HAS_URLS} {}", schema::URL));
        }
        let is_whole = is_whole && bytes <= MAX_KEY_BYTES;
        if !is_whole {
            keys.clear();
        }
        // The same events give the same bytes.
        keys.sort_unstable();
        let first = if is_whole && !self.has_others {
            ALL_KEYS
        } else {
            SOME_KEYS
        };
        keys.insert(0, first.to_owned());
        Encoded::of_strings(KEYS_COLUMN.to_owned(), keys.iter())
    }

    /// The columns of metadata and URL, those with the fewest bytes per event that has a value
    /// first.
    fn cheapest_details(&self) -> Result<Vec<Encoded<'_>>> {
        let mut columns = Vec::new();
        for (name, values) in &self.details {
            if !values.rows.is_empty() {
                let mut column = values.encode(name, &self.places)?;
                let counts = values.counts();
                let counts = Encoded::of_strings(counts_column(name), [counts].iter())?;
                column.counts = Some(Box::new(counts));
                columns.push(column);
            }
        }
        columns.sort_by(|a, b| {
            let one = a.bytes() as u128 * b.events as u128;
            let other = b.bytes() as u128 * a.events as u128;
            one.cmp(&other).then_with(|| a.name.cmp(&b.name))
        });
        Ok(columns)
    }
}

/// The bytes of a file that says that its segment must be read.
pub fn without_columns(segment: u32) -> Vec<u8> {
    head(segment, &[])
}

/// All before the blocks.
fn head(segment: u32, list: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for number in [segment, list.len() as u32, crc32c::crc32c(list)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(list);
    bytes
}

/// A key of an object, unless it is written in another way than the one by which paths are found.
fn plain_key(json: &str) -> Option<Cow<'_, str>> {
    let key = text::decode(json, Escapes::Some)?;
    let is_plain = json.get(1..json.len().saturating_sub(1)) == Some(&*key) || {
        let mut encoded = Vec::with_capacity(json.len());
        text::encode(&key, &mut encoded);
        encoded == json.as_bytes()
    };
    is_plain.then_some(key)
}

impl Values {
    fn push(&mut self, row: u32, value: &str) {
        // The events of a user are neighbours, and most have the values of the one before.
        let last = self.rows.last().map_or(0, |&(_, code)| code);
        let is_last = last
            .checked_sub(1)
            .and_then(|last| self.values.get(last as usize));
        let code = match is_last {
            Some(known) if **known == *value => last,
            _ => self.code(value),
        };
        self.rows.push((row, code));
    }

    /// Counts an event, if its value is a scalar.
    fn count(&mut self, value: &str) {
        let kinds = Kinds::of(value);
        if kinds != Kinds::default() {
            self.scalars.events += 1;
            self.scalars.kinds = self.scalars.kinds.union(kinds);
        }
    }

    /// The number of events of each value.
    fn counts(&self) -> String {
        let mut counts = vec![0_u64; self.values.len() + 1];
        for &(_, code) in &self.rows {
            if let Some(count) = counts.get_mut(code as usize) {
                *count += 1;
            }
        }
        let counts = counts.iter().skip(1).map(u64::to_string);
        counts.collect::<Vec<_>>().join(" ")
    }

    fn code(&mut self, value: &str) -> u32 {
        if let Some(&code) = self.codes.get(value) {
            return code;
        }
        let value: Arc<str> = value.into();
        self.bytes += value.len();
        self.values.push(value.clone());
        let code = self.values.len() as u32;
        self.codes.insert(value, code);
        code
    }

    fn encode<'a>(&self, name: &'a str, places: &[u32]) -> Result<Encoded<'a>> {
        let mut codes = vec![0; places.len()];
        for &(row, code) in &self.rows {
            let place = places.get(row as usize).copied().unwrap_or(u32::MAX);
            if let Some(slot) = codes.get_mut(place as usize) {
                *slot = code;
            }
        }
        let greatest = self.values.len() as u64;
        let bits = BITS.into_iter().find(|&bits| greatest < 1 << bits);
        let bits = bits.unwrap_or(32);
        Ok(Encoded {
            name: Cow::Borrowed(name),
            bits,
            size: self.values.len(),
            values: compressed(self.values.iter().map(|value| &**value))?,
            codes: packed(&codes, bits),
            events: self.rows.len(),
            counts: None,
        })
    }
}

impl Encoded<'_> {
    /// A column of strings that belong to no rows.
    fn of_strings<'a>(
        name: String,
        strings: impl ExactSizeIterator<Item = &'a String>,
    ) -> Result<Encoded<'static>> {
        Ok(Encoded {
            name: Cow::Owned(name),
            bits: 0,
            size: strings.len(),
            values: compressed(strings.map(String::as_str))?,
            codes: Vec::new(),
            events: 0,
            counts: None,
        })
    }

    fn bytes(&self) -> usize {
        // Its place in the list.
        const IN_LIST: usize = 24;
        let counts = self.counts.as_ref().map_or(0, |counts| counts.bytes());
        self.values.len() + self.codes.len() + self.name.len() + IN_LIST + counts
    }
}

/// Strings with their lengths, compressed.
fn compressed<'a>(strings: impl Iterator<Item = &'a str>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for string in strings {
        put_text(&mut bytes, string);
    }
    zstd::bulk::compress(&bytes, ZSTD_LEVEL)
}

/// Codes in `bits` bits each.
fn packed(codes: &[u32], bits: u8) -> Vec<u8> {
    match bits {
        32 => codes.iter().flat_map(|code| code.to_le_bytes()).collect(),
        16 => codes
            .iter()
            .flat_map(|&code| (code as u16).to_le_bytes())
            .collect(),
        8 => codes.iter().map(|&code| code as u8).collect(),
        _ => {
            let of_byte = codes.chunks(usize::from(8 / bits));
            let pack = |codes: &[u32]| {
                let shifts = (0..8).step_by(usize::from(bits));
                let parts = codes.iter().zip(shifts).map(|(code, shift)| code << shift);
                parts.fold(0, |all, part| all | part) as u8
            };
            of_byte.map(pack).collect()
        }
    }
}

/// The unit in µs, the bytes of a time, and the times.
fn encode_times(times_us: &[u64]) -> (u32, usize, Vec<u8>) {
    let has_all = |unit: &u32| {
        times_us
            .iter()
            .all(|us| us.is_multiple_of(u64::from(*unit)))
    };
    let unit = UNITS_US.into_iter().find(has_all).unwrap_or(1);
    let units = times_us.iter().map(|us| us / u64::from(unit));
    // A day has fewer ms than 2^32 and fewer µs than 2^40.
    let width = if unit == 1 { 5 } else { 4 };
    let bytes = units.flat_map(|units| units.to_le_bytes().into_iter().take(width));
    (unit, width, bytes.collect())
}
