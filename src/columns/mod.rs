//! Columns: the events of one UTC day as integers, in a file that queries read instead of strings.
//!
//! Rows are sorted by user code, then by time and, at one timestamp, by their place in the log.
//! Each property has a dictionary of its values and a code for each row, in as few bits as the
//! number of values allows. What a filter says of a value is so computed once per value and file,
//! and by the same code as for events, whatever the type of the value. Any range of users is read
//! without the rest.
//!
//! Version 1 is `EPCOLUM1`, the CRC-32C of the events' segment, the length and the CRC-32C of the
//! list (each u32, little endian), the list, and the blocks. Integers of the list are LEB128.
//!
//! - The list: rows; users; µs of a unit of time and bytes of a time; bytes and CRC-32C of the
//!   blocks of users, of ends and of times; the number of entries of the index and, for each 256th
//!   user, its code and its first row; the number of columns and, for each, its name, bits of a
//!   code, number of values, and bytes and CRC-32C of its block of values and its block of codes.
//!   An empty list means that the segment must be read.
//! - Users: the code of each, u32, ascending; [`ANONYMOUS`] for the events without a user. Ends:
//!   for each user the row after its last one, u32. Times: units since the start of the day.
//! - Columns of no bits have no codes: they are about others, and their names begin with NUL.
//!   `\0keys` lists the keys and paths of the metadata; `\0counts.NAME` has one string, the
//!   number of events of each value of a column. Files of earlier versions have neither. `\0links`
//!   has one string, the epoch of the links between ids by which users are in the place of aliases;
//!   without such users there is none.
//! - Values: strings with their lengths, as a zstd frame; that of metadata is JSON. Codes: from the
//!   lowest bits of each byte; 0 is null, and `n` the value number `n` from 1. Little endian.

mod write;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use roaring::RoaringBitmap;

use crate::daily::Day;
use crate::error::{Error, Result};
use crate::event::counter::{Count, Kinds};
use crate::leb128::{CUT, Reader};
use crate::window::DAY_US;

pub use write::{Writer, without_columns};

/// Stands for the user of events that have none.
pub const ANONYMOUS: u32 = u32::MAX;

const MAGIC: &[u8; 8] = b"EPCOLUM1";
/// Bytes before the list.
const HEAD_BYTES: usize = MAGIC.len() + 3 * size_of::<u32>();
/// Users between two entries of the index: reading so many more than wanted costs less than a
/// longer index.
const INDEX_STEP: usize = 256;
/// The longest block of values, uncompressed: more than the metadata of a segment.
const MAX_VALUES_BYTES: usize = 1 << 30;
/// Bits of a code or byte of a user or an end.
const U32_BYTES: usize = size_of::<u32>();

/// The bytes of a file of columns, which do not change as long as the value exists.
pub trait Content: Send + Sync {
    /// Path of the file, for error messages.
    fn path(&self) -> &Path;

    /// Reads ranges of bytes.
    ///
    /// # Errors
    /// A sentence about what prevents it.
    fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, String>;
}

/// The column of keys and paths of the metadata. No property has a name with NUL.
const KEYS_COLUMN: &str = "\0keys";
/// Its first string if it has all keys and paths of the events.
const ALL_KEYS: &str = "all";
/// Its first string otherwise.
const SOME_KEYS: &str = "some";
/// The start of a string for a key with dots.
const DOTTED_KEY: &str = "dotted";

/// The column with the epoch of the links, if some ids are those of users in the place of aliases.
const LINKS_COLUMN: &str = "\0links";

/// The start of the string that says that events have URLs.
const HAS_URLS: &str = "urls";

/// The name of the column with the number of events of each value of a column.
fn counts_column(name: &str) -> String {
    format!("\0counts.{name}")
}

/// The keys and paths of the metadata of a file, all that its events have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The names of properties that have strings, numbers or booleans, with their events.
    pub counts: Vec<(String, Count)>,
    /// The names of properties whose key has dots.
    pub dotted: Vec<String>,
    /// Events have URLs.
    pub has_urls: bool,
}

/// The columns that a query needs, in addition to the users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projection {
    /// Names of the columns.
    pub columns: BTreeSet<String>,
    /// True if times are needed.
    pub times: bool,
}

/// Rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// Those of the users with these codes.
    Of(Range<u32>),
}

/// A file of columns, of which some are known to be undamaged.
pub struct Table {
    content: Box<dyn Content>,
    list: List,
}

/// Some rows of a table.
#[derive(Debug)]
pub struct Slice {
    /// For each user the row after its last one.
    runs: Vec<(u32, usize)>,
    times: Option<Times>,
    codes: Vec<Codes>,
}

#[derive(Debug)]
struct Times {
    start_us: i64,
    unit_us: i64,
    width: usize,
    bytes: Vec<u8>,
}

/// The codes of one column.
#[derive(Debug)]
pub struct Codes {
    bits: u8,
    /// Codes in the first byte that belong to rows before the first one.
    skipped: usize,
    bytes: Vec<u8>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Block {
    /// Its bytes.
    pub bytes: Range<u64>,
    /// Their CRC-32C.
    pub crc32c: u32,
}

/// The list of a file.
#[derive(Debug)]
pub struct List {
    day: Day,
    rows: usize,
    unit_us: i64,
    time_width: usize,
    users: Block,
    ends: Block,
    times: Block,
    /// Code and first row of each user whose number is a multiple of [`INDEX_STEP`].
    index: Vec<(u32, usize)>,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    bits: u8,
    size: usize,
    values: Block,
    codes: Block,
}

impl List {
    /// Reads the list of the columns of a segment with this checksum, which has events of `day`.
    /// None if the file says that the segment must be read.
    ///
    /// # Errors
    /// A sentence about what is wrong with the file.
    pub fn read(content: &dyn Content, segment: u32, day: Day) -> Result<Option<Self>, String> {
        let end = HEAD_BYTES as u64;
        let head = read_one(content, &(0..end))?;
        let mut rest = head
            .strip_prefix(MAGIC)
            .ok_or("they are not of this version")?;
        let mut next = || {
            let number;
            (number, rest) = rest.split_first_chunk().ok_or(CUT)?;
            Ok::<u32, String>(u32::from_le_bytes(*number))
        };
        let (of_segment, length, crc32c) = (next()?, next()?, next()?);
        if of_segment != segment {
            return Err("they are of another segment".into());
        }
        let list = Block {
            bytes: end..end + u64::from(length),
            crc32c,
        };
        let bytes = list.read(content)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Self::parse(&bytes, list.bytes.end, day).map(Some)
    }

    fn parse(bytes: &[u8], mut offset: u64, day: Day) -> Result<Self, String> {
        let mut reader = Reader(bytes);
        let mut number = || usize::try_from(reader.number()?).map_err(|_| CUT.to_owned());
        let (rows, users) = (number()?, number()?);
        let (unit_us, time_width) = (number()? as i64, number()?);
        let mut block = |reader: &mut Reader<'_>| {
            let start = offset;
            offset = offset.checked_add(reader.number()?).ok_or(CUT)?;
            let crc32c = u32::try_from(reader.number()?).map_err(|_| CUT)?;
            Ok::<_, String>(Block {
                bytes: start..offset,
                crc32c,
            })
        };
        let (of_users, ends) = (block(&mut reader)?, block(&mut reader)?);
        let times = block(&mut reader)?;
        let mut index = Vec::new();
        for _ in 0..reader.number()? {
            let user = u32::try_from(reader.number()?).map_err(|_| CUT)?;
            index.push((user, reader.number()? as usize));
        }
        let mut columns = Vec::new();
        for _ in 0..reader.number()? {
            columns.push(Column {
                name: reader.text()?.to_owned(),
                bits: reader.number()? as u8,
                size: reader.number()? as usize,
                values: block(&mut reader)?,
                codes: block(&mut reader)?,
            });
        }
        reader.end()?;
        let has = |block: &Block, bytes: usize| block.len() == bytes;
        let is_whole = has(&of_users, users * U32_BYTES)
            && has(&ends, users * U32_BYTES)
            && has(&times, rows * time_width)
            && index.len() == users.div_ceil(INDEX_STEP)
            && columns
                .iter()
                .all(|column| has(&column.codes, (rows * usize::from(column.bits)).div_ceil(8)));
        if !is_whole {
            return Err("its blocks do not have the length of its rows".into());
        }
        Ok(Self {
            day,
            rows,
            unit_us,
            time_width,
            users: of_users,
            ends,
            times,
            index,
            columns,
        })
    }

    /// The blocks that a projection needs; none if it needs a column that the file does not have.
    pub fn blocks(&self, projection: &Projection) -> Option<Vec<&Block>> {
        let mut blocks = vec![&self.users, &self.ends];
        blocks.extend(projection.times.then_some(&self.times));
        for name in &projection.columns {
            let column = self.columns.iter().find(|column| column.name == *name)?;
            blocks.extend([&column.values, &column.codes]);
        }
        Some(blocks)
    }

    /// True if the file has a column.
    pub fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    /// The values of a column with the number of events of each, which are verified. None if there
    /// is no such column.
    ///
    /// # Errors
    /// A sentence about what is wrong with the file.
    pub fn counted_values(
        &self,
        content: &dyn Content,
        name: &str,
    ) -> Result<Option<Vec<(String, u64)>>, String> {
        let Some(column) = self.columns.iter().find(|column| column.name == name) else {
            return Ok(None);
        };
        let values = column.strings(&column.values.read(content)?)?;
        let counts = match self.strings(content, &counts_column(name))? {
            Some(counts) => {
                let counts = counts.first().map(String::as_str).unwrap_or_default();
                let counts = counts.split_ascii_whitespace().map(|count| {
                    let count = count.parse();
                    count.map_err(|_| "a number of events is none".to_owned())
                });
                counts.collect::<Result<Vec<u64>, String>>()?
            }
            // A file of an earlier version.
            None => {
                let codes = Codes {
                    bits: column.bits,
                    skipped: 0,
                    bytes: column.codes.read(content)?,
                };
                let mut counts = vec![0; column.size + 1];
                for row in 0..self.rows {
                    if let Some(count) = counts.get_mut(codes.code(row)) {
                        *count += 1;
                    }
                }
                counts.into_iter().skip(1).collect()
            }
        };
        if values.len() != counts.len() {
            return Err("it has not as many values as numbers of events".into());
        }
        Ok(Some(values.into_iter().zip(counts).collect()))
    }

    /// The keys and paths of the metadata; none if the file does not have all of them.
    ///
    /// # Errors
    /// A sentence about what is wrong with the file.
    pub fn keys(&self, content: &dyn Content) -> Result<Option<Keys>, String> {
        let strings = self.strings(content, KEYS_COLUMN)?.unwrap_or_default();
        let mut strings = strings.iter();
        if strings.next().is_none_or(|first| first != ALL_KEYS) {
            return Ok(None);
        }
        let mut keys = Keys::default();
        for string in strings {
            let (first, rest) = string.split_once(' ').ok_or(CUT)?;
            if first == DOTTED_KEY {
                keys.dotted.push(rest.to_owned());
                continue;
            }
            if first == HAS_URLS {
                keys.has_urls = true;
                continue;
            }
            let (kinds, name) = rest.split_once(' ').ok_or(CUT)?;
            let number = |string: &str| string.parse().map_err(|_| CUT.to_owned());
            let kinds = u8::try_from(number(kinds)?).map_err(|_| CUT)?;
            let count = Count {
                events: number(first)?,
                kinds: Kinds::from_bits(kinds),
            };
            keys.counts.push((name.to_owned(), count));
        }
        Ok(Some(keys))
    }

    /// The epoch of the links by which users are in the place of aliases; none if no alias was
    /// replaced.
    ///
    /// # Errors
    /// A sentence about what is wrong with the file.
    pub fn epoch(&self, content: &dyn Content) -> Result<Option<u64>, String> {
        let strings = self.strings(content, LINKS_COLUMN)?;
        let epoch = strings.as_ref().and_then(|strings| strings.first());
        let epoch = epoch.map(|epoch| epoch.parse().map_err(|_| CUT.to_owned()));
        epoch.transpose()
    }

    /// The codes of all users, which are verified.
    ///
    /// # Errors
    /// A sentence about what is wrong with the file.
    pub fn users(&self, content: &dyn Content) -> Result<RoaringBitmap, String> {
        let users = self.users.read(content)?;
        let users = users
            .as_chunks()
            .0
            .iter()
            .map(|&user| u32::from_le_bytes(user));
        RoaringBitmap::from_sorted_iter(users).map_err(|_| "its users are in no order".to_owned())
    }

    /// The strings of a column, which are verified; none if there is no such column.
    fn strings(&self, content: &dyn Content, name: &str) -> Result<Option<Vec<String>>, String> {
        let column = self.columns.iter().find(|column| column.name == name);
        let strings = column.map(|column| column.strings(&column.values.read(content)?));
        strings.transpose()
    }

    /// All blocks.
    pub fn all_blocks(&self) -> impl Iterator<Item = &Block> {
        let of_columns = self.columns.iter();
        let of_columns = of_columns.flat_map(|column| [&column.values, &column.codes]);
        [&self.users, &self.ends, &self.times]
            .into_iter()
            .chain(of_columns)
    }
}

impl Column {
    /// The strings of the block of values.
    fn strings(&self, block: &[u8]) -> Result<Vec<String>, String> {
        let held = zstd::zstd_safe::get_frame_content_size(block);
        let held = held.ok().flatten().unwrap_or(0) as usize;
        let bytes = zstd::bulk::decompress(block, held.min(MAX_VALUES_BYTES))
            .map_err(|error| error.to_string())?;
        let mut reader = Reader(&bytes);
        let values = (0..self.size).map(|_| reader.text().map(str::to_owned));
        values.collect()
    }
}

impl Block {
    fn len(&self) -> usize {
        (self.bytes.end - self.bytes.start) as usize
    }

    /// Reads the block and verifies its checksum.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn read(&self, content: &dyn Content) -> Result<Vec<u8>, String> {
        let bytes = read_one(content, &self.bytes)?;
        if crc32c::crc32c(&bytes) != self.crc32c {
            return Err("their checksum does not match".into());
        }
        Ok(bytes)
    }

    /// The part of it that has `items` of so many bytes each.
    fn part(&self, items: Range<usize>, width: usize) -> Range<u64> {
        let at = |item: usize| self.bytes.start + (item * width) as u64;
        at(items.start)..at(items.end)
    }
}

fn read_one(content: &dyn Content, bytes: &Range<u64>) -> Result<Vec<u8>, String> {
    let mut read = content.read(std::slice::from_ref(bytes))?;
    read.pop().ok_or_else(|| CUT.into())
}

impl Table {
    /// The columns with this list, whose blocks are verified.
    pub fn new(content: Box<dyn Content>, list: List) -> Self {
        Self { content, list }
    }

    /// The day of the events.
    pub fn day(&self) -> Day {
        self.list.day
    }

    /// Number of events.
    pub fn rows(&self) -> usize {
        self.list.rows
    }

    /// The position of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        let mut columns = self.list.columns.iter();
        columns.position(|column| column.name == name)
    }

    /// About how many rows the users have from each code on.
    pub fn index(&self) -> impl Iterator<Item = (u32, usize)> {
        let next = self.list.index.iter().skip(1).map(|&(_, row)| row);
        let entries = self.list.index.iter().zip(next.chain([self.list.rows]));
        entries.map(|(&(user, row), end)| (user, end - row))
    }

    /// The values of a column, by their code minus 1.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they cannot be read.
    pub fn values(&self, column: usize) -> Result<Vec<String>> {
        let read = || {
            let column = self.list.columns.get(column).ok_or(CUT)?;
            column.strings(&read_one(&*self.content, &column.values.bytes)?)
        };
        read().map_err(|message| self.damaged(message))
    }

    /// Reads rows of some columns.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they cannot be read.
    pub fn slice(&self, rows: &Rows, columns: &[usize], times: bool) -> Result<Slice> {
        self.read_slice(rows, columns, times)
            .map_err(|message| self.damaged(message))
    }

    fn read_slice(&self, rows: &Rows, columns: &[usize], times: bool) -> Result<Slice, String> {
        let list = &self.list;
        let (first, runs) = self.runs(rows)?;
        let end = runs.last().map_or(first, |&(_, end)| end);
        let mut wanted = Vec::with_capacity(columns.len() + 1);
        if times {
            wanted.push(list.times.part(first..end, list.time_width));
        }
        for &column in columns {
            let column = list.columns.get(column).ok_or(CUT)?;
            let bits = usize::from(column.bits);
            let bytes = first * bits / 8..(end * bits).div_ceil(8);
            wanted.push(column.codes.part(bytes, 1));
        }
        let mut read = self.content.read(&wanted)?.into_iter();
        let mut next = || read.next().ok_or_else(|| CUT.to_owned());
        let times = if times {
            Some(Times {
                start_us: i64::from(list.day) * DAY_US,
                unit_us: list.unit_us,
                width: list.time_width,
                bytes: next()?,
            })
        } else {
            None
        };
        let codes = columns.iter().map(|&column| {
            let bits = list.columns.get(column).ok_or(CUT)?.bits;
            Ok(Codes {
                bits,
                skipped: first * usize::from(bits) % 8 / usize::from(bits.max(1)),
                bytes: next()?,
            })
        });
        Ok(Slice {
            codes: codes.collect::<Result<_, String>>()?,
            runs: runs
                .into_iter()
                .map(|(user, end)| (user, end - first))
                .collect(),
            times,
        })
    }

    /// The first row and the runs of some users.
    fn runs(&self, rows: &Rows) -> Result<(usize, Vec<(u32, usize)>), String> {
        let list = &self.list;
        let count = list.users.len() / U32_BYTES;
        let (from, to) = match rows {
            Rows::All => (0, count),
            Rows::Of(users) => {
                let entries = |end: u32| list.index.partition_point(|&(user, _)| user < end);
                // The entry before the first greater one may have the user itself.
                let from = entries(users.start).saturating_sub(1) * INDEX_STEP;
                (from, count.min(entries(users.end) * INDEX_STEP))
            }
        };
        let mut first = list.index.get(from / INDEX_STEP).map_or(0, |&(_, row)| row);
        if from >= to {
            return Ok((first, Vec::new()));
        }
        let parts = [&list.users, &list.ends].map(|block| block.part(from..to, U32_BYTES));
        let mut read = self.content.read(&parts)?.into_iter();
        let mut numbers = || {
            let bytes = read.next().unwrap_or_default();
            let (numbers, _) = bytes.as_chunks::<U32_BYTES>();
            let numbers: Vec<u32> = numbers.iter().map(|&le| u32::from_le_bytes(le)).collect();
            numbers
        };
        let (users, ends) = (numbers(), numbers());
        let mut runs = Vec::with_capacity(users.len());
        for (user, end) in users.into_iter().zip(ends) {
            let end = end as usize;
            match rows {
                Rows::Of(wanted) if user < wanted.start => first = end,
                Rows::Of(wanted) if user >= wanted.end => break,
                _ => runs.push((user, end)),
            }
        }
        Ok((first, runs))
    }

    fn damaged(&self, message: String) -> Error {
        Error::Damaged {
            file: self.content.path().to_owned(),
            message,
        }
    }
}

impl Slice {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.runs.last().map_or(0, |&(_, end)| end)
    }

    /// The users with their rows. [`ANONYMOUS`] is the last one.
    pub fn runs(&self) -> impl Iterator<Item = (u32, Range<usize>)> {
        let starts = std::iter::once(0).chain(self.runs.iter().map(|&(_, end)| end));
        let runs = self.runs.iter().zip(starts);
        runs.map(|(&(user, end), start)| (user, start..end))
    }

    /// The codes of a column, by its position among those that were asked for.
    pub fn codes(&self, at: usize) -> Option<&Codes> {
        self.codes.get(at)
    }

    /// The time of a row, in µs.
    #[inline]
    pub fn ts_us(&self, row: usize) -> i64 {
        self.times.as_ref().map_or(0, |times| times.ts_us(row))
    }
}

impl Times {
    #[inline]
    fn ts_us(&self, row: usize) -> i64 {
        let start = row * self.width;
        let bytes = self.bytes.get(start..start + self.width);
        let units = match *bytes.unwrap_or_default() {
            [a, b, c, d] => i64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e] => i64::from_le_bytes([a, b, c, d, e, 0, 0, 0]),
            _ => 0,
        };
        self.start_us + units * self.unit_us
    }
}

impl Codes {
    /// Calls `with` with each item and the code of the row in its place.
    #[inline]
    pub fn zip<T>(&self, items: &mut [T], mut with: impl FnMut(&mut T, usize)) {
        match self.bits {
            8 => {
                for (item, &code) in items.iter_mut().zip(&self.bytes) {
                    with(item, usize::from(code));
                }
            }
            16 => {
                let (codes, _) = self.bytes.as_chunks::<2>();
                for (item, &code) in items.iter_mut().zip(codes) {
                    with(item, usize::from(u16::from_le_bytes(code)));
                }
            }
            _ => {
                for (row, item) in items.iter_mut().enumerate() {
                    with(item, self.code(row));
                }
            }
        }
    }

    /// The code of a row.
    #[inline]
    pub fn code(&self, row: usize) -> usize {
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or(0);
        // Codes of less than a byte; there are 2, 4 or 8 in one.
        let part = |log2: u32| {
            let at = self.skipped + row;
            let bits = 8 >> log2;
            let shift = (at & ((1 << log2) - 1)) * bits;
            usize::from(byte(at >> log2) >> shift) & ((1 << bits) - 1)
        };
        match self.bits {
            1 => part(3),
            2 => part(2),
            4 => part(1),
            8 => usize::from(byte(row)),
            16 => usize::from(byte(2 * row)) | usize::from(byte(2 * row + 1)) << 8,
            _ => {
                let code = self.bytes.get(4 * row..).and_then(<[u8]>::first_chunk);
                code.map_or(0, |&code| u32::from_le_bytes(code) as usize)
            }
        }
    }
}

/// A file in memory.
#[cfg(test)]
pub struct InMemory(pub Vec<u8>);

#[cfg(test)]
impl Content for InMemory {
    fn path(&self) -> &Path {
        Path::new("in memory")
    }

    fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, String> {
        let read = ranges.iter().map(|range| {
            let bytes = self.0.get(range.start as usize..range.end as usize);
            bytes.map(<[u8]>::to_vec).ok_or_else(|| CUT.to_owned())
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use polars::prelude::*;

    use super::*;

    const SEGMENT: u32 = 7;
    const DAY: Day = 3;

    /// An event: user, time, metadata.
    type Row = (u32, u64, String);

    /// A file with these events, whose event type and feature are their numbers.
    fn file(rows: &[Row], budget: usize) -> Vec<u8> {
        let users: Vec<u32> = rows.iter().map(|row| row.0).collect();
        let times_us: Vec<u64> = rows.iter().map(|row| row.1).collect();
        let mut writer = Writer::new(&users, &times_us, budget);
        let numbers: StringChunked = (0..rows.len()).map(|row| Some(row.to_string())).collect();
        writer.add_names(&numbers, &numbers);
        for (first, rows) in (0..).step_by(5).zip(rows.chunks(5)) {
            let metadata: StringChunked = rows.iter().map(|row| Some(row.2.as_str())).collect();
            let urls: StringChunked = rows.iter().map(|_| None::<&str>).collect();
            writer.add_details(first, &metadata, &urls);
        }
        writer.finish(SEGMENT).expect("a file")
    }

    fn table(bytes: Vec<u8>) -> Table {
        let content = InMemory(bytes);
        let list = List::read(&content, SEGMENT, DAY).expect("a list");
        Table::new(Box::new(content), list.expect("columns"))
    }

    /// User, time and value of a column of each row.
    fn read(table: &Table, rows: &Rows, column: &str) -> Vec<(u32, i64, Option<String>)> {
        let column = table.column(column).expect("the column");
        let values = table.values(column).expect("values");
        let slice = table.slice(rows, &[column], true).expect("rows");
        let codes = slice.codes(0).expect("codes");
        let mut zipped = vec![0; slice.rows()];
        codes.zip(&mut zipped, |item, code| *item = code);
        let mut read = Vec::new();
        for (user, rows) in slice.runs() {
            for row in rows {
                let code = codes.code(row);
                assert_eq!(zipped[row], code);
                let value = code.checked_sub(1).map(|value| values[value].clone());
                read.push((user, slice.ts_us(row), value));
            }
        }
        read
    }

    #[test]
    fn rows_are_sorted_by_user_and_codes_of_every_width_are_read_back() {
        for values in [1, 2, 3, 4, 15, 16, 255, 256, 70_000_usize] {
            let count = values + 3;
            // Users in the order of their ids, and each with some rows.
            let row = |at: usize| {
                let user = (count - at) as u32 / 3;
                let value = at % (values + 1);
                let metadata = match value {
                    0 => r#"{"k":null}"#.to_owned(),
                    value => format!(r#"{{"k":"v{value}"}}"#),
                };
                (
                    user,
                    at as u64 * if values == 4 { 1 } else { 1_000 },
                    metadata,
                )
            };
            let mut rows: Vec<Row> = (0..count).map(row).collect();
            rows.insert(0, (ANONYMOUS, 5_000, "{}".into()));
            let table = table(file(&rows, usize::MAX));
            let value = |metadata: &str| {
                let value = metadata.strip_prefix(r#"{"k":"#)?.strip_suffix('}')?;
                (value != "null").then(|| value.to_owned())
            };
            rows.sort_by_key(|row| row.0);
            let start_us = i64::from(DAY) * DAY_US;
            let expected: Vec<_> = rows
                .iter()
                .map(|(user, us, metadata)| (*user, start_us + *us as i64, value(metadata)))
                .collect();
            assert_eq!(read(&table, &Rows::All, "metadata.k"), expected, "{values}");
            let index: Vec<_> = table.index().collect();
            assert_eq!(index.iter().map(|entry| entry.1).sum::<usize>(), rows.len());
            for users in [0..1, 1..2, 3..60, 5..5, 20_000..20_900, 0..u32::MAX] {
                let of_users = expected.iter().filter(|row| users.contains(&row.0));
                let of_users: Vec<_> = of_users.cloned().collect();
                let found = read(&table, &Rows::Of(users.clone()), "metadata.k");
                assert_eq!(found, of_users, "{users:?} of {values}");
            }
        }
    }

    #[test]
    fn properties_that_take_most_bytes_are_left_out_and_others_never_shared() {
        let row = |at: u64| {
            let metadata = format!(
                r#"{{"id":"{}","a.b":1,"plan":"pro","o":{{"x":1}}}}"#,
                at * 7_919_191
            );
            (at as u32, at * 1_000, metadata)
        };
        let rows: Vec<Row> = (0..1_000).map(row).collect();
        let names = |budget: usize| {
            let table = table(file(&rows, budget));
            let names = ["id", "plan", "o", "a.b"].into_iter();
            let names = names.filter(|name| table.column(&format!("metadata.{name}")).is_some());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(usize::MAX), ["id", "plan", "o"]);
        let always = file(&rows, 0).len();
        assert_eq!(names(0), [""; 0]);
        assert_eq!(names(always + 600), ["plan", "o"]);
        assert!(file(&rows, always + 600).len() <= always + 600);
    }

    #[test]
    fn values_have_their_events_and_keys_their_kinds_also_without_a_column() {
        let row = |at: u64| {
            let plan = if at.is_multiple_of(3) { "pro" } else { "free" };
            let rest = match at % 4 {
                0 => r#","l":["a",1,"a"],"o":{"x":{"y":true}}"#,
                1 => r#","l":"a","a.b":2,"z":null"#,
                _ => r#","l":[]"#,
            };
            let id = at * 7_919_191;
            let metadata = format!(r#"{{"id":{id},"plan":"{plan}"{rest}}}"#);
            ((at / 200) as u32, at * 1_000, metadata)
        };
        let rows: Vec<Row> = (0..1_200).map(row).collect();
        let without_details = file(&rows, 0).len();
        for budget in [usize::MAX, without_details + 1_000] {
            let content = InMemory(file(&rows, budget));
            let list = List::read(&content, SEGMENT, DAY).expect("a list");
            let mut list = list.expect("columns");
            assert_eq!(list.has("metadata.id"), budget == usize::MAX);
            let keys = list.keys(&content).expect("valid").expect("all keys");
            let mut counts: Vec<_> = keys
                .counts
                .iter()
                .map(|(name, count)| (name.as_str(), count.events, count.kinds.name()))
                .collect();
            counts.sort_unstable();
            let expected = [
                ("metadata.a.b", 300, "number"),
                ("metadata.id", 1_200, "number"),
                // A column counts the strings of `l`, and its lists are counted by their members.
                ("metadata.l", 300, "mixed"),
                ("metadata.l", 300, "string"),
                ("metadata.o.x.y", 300, "boolean"),
                ("metadata.plan", 1_200, "string"),
            ];
            assert_eq!(counts, expected);
            assert_eq!(keys.dotted, ["metadata.a.b"]);
            assert!(!keys.has_urls, "the test has none");
            let values = list.counted_values(&content, "metadata.plan");
            let values = values.expect("valid").expect("a column");
            let expected = [(r#""pro""#.to_owned(), 400), (r#""free""#.to_owned(), 800)];
            assert_eq!(values, expected);
            // As in a file of an earlier version.
            list.columns.retain(|column| column.bits > 0);
            assert_eq!(list.keys(&content), Ok(None));
            let counted = list.counted_values(&content, "metadata.plan");
            assert_eq!(counted, Ok(Some(values)));
            assert_eq!(list.counted_values(&content, "metadata.none"), Ok(None));
        }
        let many = (0..300).map(|at| (0, at, format!(r#"{{"k{at}":1}}"#)));
        let content = InMemory(file(&many.collect::<Vec<_>>(), usize::MAX));
        let list = List::read(&content, SEGMENT, DAY).expect("a list");
        assert_eq!(list.expect("columns").keys(&content), Ok(None));
    }

    #[test]
    fn a_key_that_paths_do_not_find_leaves_no_columns() {
        for (key, is_plain) in [("plan", true), (r"pl\u0061n", false), (r#"a\"b"#, true)] {
            let content = InMemory(file(&[(1, 0, format!(r#"{{"{key}":1}}"#))], usize::MAX));
            let list = List::read(&content, SEGMENT, DAY).expect("a list");
            assert_eq!(list.is_some(), is_plain, "{key}");
        }
    }

    #[test]
    fn damage_of_any_byte_is_found() {
        let rows = [(1, 0, r#"{"k":"v"}"#.to_owned()), (2, 1, "{}".to_owned())];
        let valid = file(&rows, usize::MAX);
        let verified = |bytes: Vec<u8>| {
            let content = InMemory(bytes);
            let Some(list) = List::read(&content, SEGMENT, DAY)? else {
                return Err("no columns".to_owned());
            };
            let mut blocks = list.all_blocks();
            blocks.try_for_each(|block| block.read(&content).map(drop))
        };
        assert_eq!(verified(valid.clone()), Ok(()));
        for at in 0..valid.len() {
            let mut damaged = valid.clone();
            damaged[at] ^= 1;
            assert!(verified(damaged).is_err(), "{at}");
            assert!(verified(valid[..at].to_vec()).is_err(), "{at}");
        }
    }
}
