//! Postings: for each feature, who used it when. One file for each segment, made from it beside requests and read in its
//! place by questions about a few features: those of a funnel are found in some MB of a year, and not among all events.
//!
//! Nothing depends on them. No manifest names them; a file is bound to its segment by name and checksum. Where there are none, or
//! damaged ones, the segment itself is read, and they are made (again) later. They go when their segment does.
//!
//! Version 1: `EPPOSTS1`, CRC-32C of the segment, length and CRC-32C of the list (each u32, little endian), the list, and a
//! block for each feature. Numbers are LEB128. The list: the number of features, and for each, in the order of names, its name,
//! its uses, and length and CRC-32C of its block; nothing at all, if there are too many features. A block: the users' numbers, each as the gap to the one before, in their order and
//! then that of time; then the time of each use, in µs since the start of the day, in 5 bytes. Both take about their
//! entropy that way, so that nothing is compressed.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::prelude::*;
use tracing::warn;

use super::files;
use super::folder::{self, Access, Folder};
use super::segment::{self, Segment, SegmentFacts};
use super::shape;
use crate::error::Result;
use crate::leb128::{CUT, Reader, put, put_text};
use crate::names::Names;
use crate::schema;
use crate::window::DAY_US;

/// Their folder in the data folder.
const DIR: &str = "postings";
const MAGIC: &[u8; 8] = b"EPPOSTS1";
/// Bytes before the list.
const HEAD_BYTES: usize = MAGIC.len() + 3 * size_of::<u32>();
/// Bytes of a time: a day has fewer µs than 2^37.
const TIME_BYTES: usize = 5;
/// With more features, as with an id in the path of each page, reading the list takes as long as reading the segment.
const MAX_FEATURES: usize = 1 << 16;
const EXTENSION: &str = "postings";

/// Uses of features by known users.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// For each feature how many there are.
    features: Vec<(String, usize)>,
    /// Who, by number.
    users: Vec<u32>,
    /// When, in µs.
    instants: Vec<i64>,
}

/// Where the uses of a feature are.
struct Block<'a> {
    feature: &'a str,
    uses: usize,
    bytes: usize,
    crc32c: u32,
    offset: u64,
}

/// The file for a segment.
pub fn path_of(segment: &Segment) -> PathBuf {
    segment.root().join(DIR).join(file_name(&segment.facts))
}

fn file_name(segment: &SegmentFacts) -> String {
    format!("{}.{EXTENSION}", segment.file_name())
}

/// Writes the postings of a segment to an unfinished file, durably.
///
/// # Errors
/// [`crate::error::Error::Damaged`] if the segment is, and if the file cannot be written.
pub fn write(folder: &Folder, segment: &Arc<Segment>, names: &Names) -> Result<PathBuf> {
    let temp = folder.temp(&file_name(&segment.facts))?;
    files::write_synced(&temp, &encode(segment, names)?)?;
    Ok(temp)
}

/// Gives a finished file its place.
///
/// # Errors
/// If it cannot be moved.
pub fn publish(folder: &Folder, temp: &Path, segment: &Segment) -> Result<()> {
    let path = path_of(segment);
    let dir = folder.path().join(DIR);
    files::make(&dir)?;
    files::publish(temp, &path)
}

fn encode(segment: &Arc<Segment>, names: &Names) -> Result<Vec<u8>> {
    // What is made from it outlives it, and the engine does not notice damage.
    segment.verify_again()?;
    let events = segment::scan(std::slice::from_ref(segment))?
        .filter(col(schema::USER_ID).is_not_null())
        .filter(col(schema::FEATURE).is_not_null())
        .select([
            col(schema::FEATURE),
            names.users.numbers(col(schema::USER_ID), None),
            col(schema::TS).to_physical(),
        ])
        .collect()?;
    let users = events.column(schema::USER_ID)?.u32()?;
    let instants = events.column(schema::TS)?.i64()?;
    let mut features: BTreeMap<&str, Vec<(u32, i64)>> = BTreeMap::new();
    let uses = users.iter().zip(instants.iter());
    for (feature, (user, ts_us)) in events.column(schema::FEATURE)?.str()?.iter().zip(uses) {
        if let (Some(feature), Some(user), Some(ts_us)) = (feature, user, ts_us) {
            features.entry(feature).or_default().push((user, ts_us));
        }
    }
    let start_us = i64::from(segment.day()) * DAY_US;
    let mut list = Vec::new();
    let mut blocks = Vec::new();
    match features.len() {
        ..=MAX_FEATURES => put(&mut list, features.len() as u64),
        _ => features.clear(),
    }
    for (feature, uses) in &mut features {
        uses.sort_unstable();
        let start = blocks.len();
        let mut last = 0;
        for &(user, _) in uses.iter() {
            put(&mut blocks, u64::from(user - last));
            last = user;
        }
        for &(_, ts_us) in uses.iter() {
            let time = (ts_us - start_us).to_le_bytes();
            blocks.extend_from_slice(time.first_chunk::<TIME_BYTES>().unwrap_or(&[0; TIME_BYTES]));
        }
        let block = blocks.get(start..).unwrap_or_default();
        put_text(&mut list, feature);
        put(&mut list, uses.len() as u64);
        put(&mut list, block.len() as u64);
        put(&mut list, u64::from(crc32c::crc32c(block)));
    }
    let mut bytes = MAGIC.to_vec();
    for number in [
        segment.facts.crc32c,
        list.len() as u32,
        crc32c::crc32c(&list),
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&list);
    bytes.extend_from_slice(&blocks);
    Ok(bytes)
}

/// Adds the uses of some features in a segment. Whether there are postings for it that could be read.
pub fn read(segment: &Segment, features: &[String], uses: &mut Uses) -> bool {
    let path = path_of(segment);
    let Ok(file) = File::open(&path) else {
        return false;
    };
    let wanted: HashSet<&str> = features.iter().map(String::as_str).collect();
    let before = (uses.features.len(), uses.users.len());
    let read = uses.read(&file, segment, &wanted).inspect_err(|message| {
        let path = path.display();
        warn!("{path}: {message}; the segment is read instead, and they are made again");
        uses.cut(before);
    });
    if read.is_err() && folder::access_of(segment.root()) == Access::ReadWrite {
        // What cannot be removed is looked at in vain again.
        let _ = files::remove(&path);
    }
    read.is_ok_and(|has_list| has_list)
}

/// Checks the postings of a segment, if there are any.
///
/// # Errors
/// A sentence that says what is wrong with them.
pub fn verify(segment: &Segment) -> Result<(), String> {
    let Ok(file) = File::open(path_of(segment)) else {
        return Ok(());
    };
    let (list, end) = list(&file, segment)?;
    each_block(&list, end, |block| block.read(&file).map(drop)).map(drop)
}

/// Bytes of all of them.
pub fn bytes(folder: &Folder) -> u64 {
    let files = files::list(&folder.path().join(DIR)).unwrap_or_default();
    let lengths = files.iter().filter_map(|path| path.metadata().ok());
    lengths.map(|found| found.len()).sum()
}

/// Removes the files of segments that are not live.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, live: &[SegmentFacts]) -> Result<()> {
    let live: HashSet<OsString> = live
        .iter()
        .map(|segment| file_name(segment).into())
        .collect();
    for path in files::list(&folder.path().join(DIR))? {
        let name = path.file_name().unwrap_or_default();
        if name.to_str().is_some_and(shape::is_postings) && !live.contains(name) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// The list of a file for this segment, and where it ends.
fn list(file: &File, segment: &Segment) -> Result<(Vec<u8>, u64), String> {
    let mut head = [0; HEAD_BYTES];
    read_at(file, &mut head, 0)?;
    let mut rest = head
        .strip_prefix(MAGIC)
        .ok_or("they are not of this version")?;
    let mut next = || {
        let number;
        (number, rest) = rest.split_first_chunk().ok_or(CUT)?;
        Ok::<u32, String>(u32::from_le_bytes(*number))
    };
    let (of_segment, length, crc32c) = (next()?, next()?, next()?);
    if of_segment != segment.facts.crc32c {
        return Err("they are of another segment".into());
    }
    let offset = HEAD_BYTES as u64;
    Ok((
        read_checked(file, offset, length as usize, crc32c)?,
        offset + u64::from(length),
    ))
}

/// Calls `visit` with the blocks that a list names, the first of which is at `offset`. Whether there is a list.
fn each_block<'a>(
    list: &'a [u8],
    mut offset: u64,
    mut visit: impl FnMut(Block<'a>) -> Result<(), String>,
) -> Result<bool, String> {
    if list.is_empty() {
        return Ok(false);
    }
    let mut reader = Reader(list);
    for _ in 0..reader.number()? {
        let feature = reader.text()?;
        let mut number = || usize::try_from(reader.number()?).map_err(|_| CUT.to_owned());
        let (uses, bytes) = (number()?, number()?);
        let crc32c = u32::try_from(number()?).map_err(|_| CUT)?;
        visit(Block {
            feature,
            uses,
            bytes,
            crc32c,
            offset,
        })?;
        offset += bytes as u64;
    }
    reader.end()?;
    Ok(true)
}

impl Block<'_> {
    fn read(&self, file: &File) -> Result<Vec<u8>, String> {
        read_checked(file, self.offset, self.bytes, self.crc32c)
    }
}

fn read_checked(file: &File, offset: u64, length: usize, crc32c: u32) -> Result<Vec<u8>, String> {
    let held = file.metadata().map_err(|error| error.to_string())?.len();
    if held.saturating_sub(offset) < length as u64 {
        return Err(CUT.into());
    }
    let mut bytes = vec![0; length];
    read_at(file, &mut bytes, offset)?;
    match crc32c::crc32c(&bytes) == crc32c {
        true => Ok(bytes),
        false => Err("their checksum does not match".into()),
    }
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), String> {
    file.read_exact_at(bytes, offset)
        .map_err(|error| error.to_string())
}

impl Uses {
    /// Adds those of some features. Whether the file has any list of uses.
    fn read(
        &mut self,
        file: &File,
        segment: &Segment,
        wanted: &HashSet<&str>,
    ) -> Result<bool, String> {
        let start_us = i64::from(segment.day()) * DAY_US;
        let (list, end) = list(file, segment)?;
        each_block(&list, end, |block| match wanted.contains(block.feature) {
            true => self.add(&block, &block.read(file)?, start_us),
            false => Ok(()),
        })
    }

    fn add(&mut self, block: &Block<'_>, bytes: &[u8], start_us: i64) -> Result<(), String> {
        let times = block.uses.checked_mul(TIME_BYTES);
        let (users, times) = times
            .and_then(|times| bytes.split_at_checked(bytes.len().checked_sub(times)?))
            .ok_or(CUT)?;
        self.users.reserve(block.uses);
        self.instants.reserve(block.uses);
        let mut users = Reader(users);
        let mut user = 0_u32;
        for time in times.as_chunks::<TIME_BYTES>().0 {
            let gap = u32::try_from(users.number()?).ok();
            user = gap
                .and_then(|gap| user.checked_add(gap))
                .ok_or("a user's number is too large")?;
            self.users.push(user);
            let [a, b, c, d, e] = *time;
            let time_us = i64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
            self.instants.push(start_us + time_us);
        }
        users.end()?;
        self.features.push((block.feature.to_owned(), block.uses));
        Ok(())
    }

    /// Leaves so many features and uses.
    fn cut(&mut self, (features, uses): (usize, usize)) {
        self.features.truncate(features);
        self.users.truncate(uses);
        self.instants.truncate(uses);
    }

    /// A frame of `ts`, user, by number, and feature.
    ///
    /// # Errors
    /// If the engine cannot make it.
    pub fn frame(self) -> Result<DataFrame> {
        let name = PlSmallStr::from_static(schema::FEATURE);
        let mut features = StringChunked::full_null(name, 0);
        for (feature, uses) in &self.features {
            features.append(&StringChunked::full(PlSmallStr::EMPTY, feature, *uses))?;
        }
        let height = self.users.len();
        let users = UInt32Chunked::from_vec(PlSmallStr::from_static(schema::USER_ID), self.users);
        let columns = vec![
            schema::instants(schema::TS, self.instants),
            users.into_column(),
            features.rechunk().into_owned().into_column(),
        ];
        Ok(DataFrame::new(height, columns)?)
    }
}
