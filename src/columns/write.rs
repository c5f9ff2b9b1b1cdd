//! Writing columns: which properties get one, and their bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Result;
use std::ops::Range;
use std::sync::Arc;

use polars::prelude::StringChunked;

use super::{HEAD_BYTES, INDEX_STEP, MAGIC};
use crate::event::path;
use crate::event::text::{self, Escapes};
use crate::leb128::{put, put_text};
use crate::schema;

/// Level of compression of values; higher ones take longer for the same size.
const ZSTD_LEVEL: i32 = 3;
/// Most metadata keys of a segment that are counted: those that come first. Each takes memory
/// while the file is made.
const MAX_KEYS: usize = 256;
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
    /// A property of an event cannot be told from the JSON.
    is_unreadable: bool,
    /// Bytes that the file may have.
    budget: usize,
}

/// The values of a property.
#[derive(Default)]
struct Values {
    codes: HashMap<Arc<str>, u32>,
    values: Vec<Arc<str>>,
    bytes: usize,
    /// Row and code of each event that has a value.
    rows: Vec<(u32, u32)>,
}

/// A column as it is written.
struct Encoded<'a> {
    name: &'a str,
    bits: u8,
    size: usize,
    values: Vec<u8>,
    codes: Vec<u8>,
    /// Events that have a value.
    events: usize,
}

impl Writer {
    /// The events of a segment in its order, which is by user, time and place in the log: the code
    /// of each user or [`super::ANONYMOUS`], and the times since the start of the day, in µs. The
    /// columns of metadata and URLs are left out where the file would exceed `budget` bytes.
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
        let mut sorted_us = Vec::with_capacity(users.len());
        let mut ends = Vec::with_capacity(runs.len());
        for (user, rows) in runs {
            let of_user = places.get_mut(rows.clone()).unwrap_or_default();
            for (place, next) in of_user.iter_mut().zip(sorted_us.len() as u32..) {
                *place = next;
            }
            sorted_us.extend_from_slice(times_us.get(rows).unwrap_or_default());
            ends.push((user, sorted_us.len() as u32));
        }
        debug_assert!(ends.is_sorted_by(|a, b| a.0 < b.0), "the rows are sorted");
        Self {
            places,
            runs: ends,
            times_us: sorted_us,
            always: Default::default(),
            details: HashMap::new(),
            is_unreadable: false,
            budget,
        }
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
                // A path with dots leads to more than this key.
                if !name.contains('.') {
                    column_name.clear();
                    column_name.push_str(schema::METADATA);
                    column_name.push('.');
                    column_name.push_str(&name);
                    self.push(&column_name, row, value, most_bytes);
                }
            }
        }
    }

    fn push(&mut self, name: &str, row: u32, value: &str, most_bytes: usize) {
        if let Some(values) = self.details.get_mut(name) {
            if values.bytes <= most_bytes {
                values.push(row, value);
            } else if !values.rows.is_empty() {
                // The bytes stay, as a sign that it has too many values.
                *values = Values {
                    bytes: values.bytes,
                    ..Values::default()
                };
            }
        } else if self.details.len() < MAX_KEYS {
            let values = self.details.entry(name.to_owned()).or_default();
            values.push(row, value);
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
        for column in self.cheapest_details()? {
            if let Some(less) = left.checked_sub(column.bytes()) {
                left = less;
                columns.push(column);
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
            put_text(&mut list, column.name);
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

    /// The columns of metadata and URL, those with the fewest bytes per event that has a value
    /// first.
    fn cheapest_details(&self) -> Result<Vec<Encoded<'_>>> {
        let mut columns = Vec::new();
        for (name, values) in &self.details {
            if !values.rows.is_empty() {
                columns.push(values.encode(name, &self.places)?);
            }
        }
        columns.sort_by(|a, b| {
            let one = a.bytes() as u128 * b.events as u128;
            let other = b.bytes() as u128 * a.events as u128;
            one.cmp(&other).then_with(|| a.name.cmp(b.name))
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
        let mut values = Vec::with_capacity(self.bytes + self.values.len());
        for value in &self.values {
            put_text(&mut values, value);
        }
        let values = zstd::bulk::compress(&values, ZSTD_LEVEL)?;
        Ok(Encoded {
            name,
            bits,
            size: self.values.len(),
            values,
            codes: packed(&codes, bits),
            events: self.rows.len(),
        })
    }
}

impl Encoded<'_> {
    fn bytes(&self) -> usize {
        // Its place in the list.
        const IN_LIST: usize = 24;
        self.values.len() + self.codes.len() + self.name.len() + IN_LIST
    }
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
