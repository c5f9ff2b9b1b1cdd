//! Postings: for each feature, the users and times of its uses. Each segment has a file of them,
//! which is written in the background. Queries about a few features, such as funnels, read it
//! instead of the segment: some MB for a year.
//!
//! Nothing depends on postings. The manifest does not list them; a file belongs to a segment by its
//! name and the checksum in it. If it is missing or damaged, the segment is read, and the file is
//! written (again) later. It is removed together with its segment.
//!
//! Version 1 is `EPPOSTS1`, the CRC-32C of the segment, the length and the CRC-32C of the list
//! (each u32, little endian), the list, and a block for each feature. Integers are LEB128.
//!
//! - The list is the number of features and, for each in the order of names, its name, the number
//!   of its uses, and the length and CRC-32C of its block. With too many features it is empty.
//! - A block is the user codes of the uses, ordered by user and then by time, each as the gap to
//!   the one before; then the time of each use, in µs since the start of the day, in 5 bytes. Both
//!   take about their entropy, so that compression would not help.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::prelude::*;
use tracing::warn;

use super::folder::{self, Access, Folder};
use super::segment::{self, Segment, SegmentMeta};
use super::shape;
use crate::dictionary::Dictionaries;
use crate::error::Result;
use crate::leb128::{CUT, Reader, put, put_text};
use crate::schema;
use crate::store::files;
use crate::window::DAY_US;

/// Folder of the postings in the data folder.
const DIR: &str = "postings";
const MAGIC: &[u8; 8] = b"EPPOSTS1";
/// Bytes before the list.
const HEAD_BYTES: usize = MAGIC.len() + 3 * size_of::<u32>();
/// Bytes of a time: a day has fewer µs than 2^37.
const TIME_BYTES: usize = 5;
/// With more features, such as pages with an id in their path, reading the list would take as long
/// as reading the segment.
const MAX_FEATURES: usize = 1 << 16;
const EXTENSION: &str = "postings";

/// Occurrences of features by known users.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Occurrences {
    /// Each feature with the number of its uses.
    features: Vec<(String, usize)>,
    /// Codes of the users.
    users: Vec<u32>,
    /// Times of the uses, in µs.
    timestamps: Vec<i64>,
}

/// Position of the uses of a feature in a file.
struct Block<'a> {
    feature: &'a str,
    uses: usize,
    bytes: usize,
    crc32c: u32,
    offset: u64,
}

/// Path of the postings of a segment.
pub fn path_of(segment: &Segment) -> PathBuf {
    segment.root().join(DIR).join(file_name(&segment.meta))
}

fn file_name(segment: &SegmentMeta) -> String {
    format!("{}.{EXTENSION}", segment.file_name())
}

/// Writes the postings of a segment to an unfinished file, durably.
///
/// # Errors
/// [`crate::error::Error::Damaged`] if the segment is, and if the file cannot be written.
pub fn write(folder: &Folder, segment: &Arc<Segment>, names: &Dictionaries) -> Result<PathBuf> {
    let temp = folder.temp(&file_name(&segment.meta))?;
    files::write_synced(&temp, &encode(segment, names)?)?;
    Ok(temp)
}

/// Moves a finished file into the folder of postings, durably.
///
/// # Errors
/// If it cannot be moved.
pub fn publish(folder: &Folder, temp: &Path, segment: &Segment) -> Result<()> {
    let path = path_of(segment);
    let dir = folder.path().join(DIR);
    files::make(&dir)?;
    files::publish(temp, &path)
}

fn encode(segment: &Arc<Segment>, names: &Dictionaries) -> Result<Vec<u8>> {
    // The checksum is verified again: Polars does not notice damage, and it would pass into the
    // postings.
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
    let timestamps = events.column(schema::TS)?.i64()?;
    let mut features: BTreeMap<&str, Vec<(u32, i64)>> = BTreeMap::new();
    let uses = users.iter().zip(timestamps.iter());
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
        segment.meta.crc32c,
        list.len() as u32,
        crc32c::crc32c(&list),
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&list);
    bytes.extend_from_slice(&blocks);
    Ok(bytes)
}

/// Adds the uses of some features in a segment to `uses`. False if the segment has no usable
/// postings and must be read itself.
pub fn read(segment: &Segment, features: &[String], uses: &mut Occurrences) -> bool {
    let path = path_of(segment);
    let Ok(file) = File::open(&path) else {
        return false;
    };
    let wanted: HashSet<&str> = features.iter().map(String::as_str).collect();
    let before = (uses.features.len(), uses.users.len());
    let read = uses.read(&file, segment, &wanted).inspect_err(|message| {
        let path = path.display();
        warn!("{path}: {message}; the segment is read instead, and its postings are written again");
        uses.cut(before);
    });
    if read.is_err() && folder::access_of(segment.root()) == Access::ReadWrite {
        // If it cannot be removed, the next query tries to read it again.
        let _ = files::remove(&path);
    }
    read.is_ok_and(|has_list| has_list)
}

/// Checks the postings of a segment, if there are any.
///
/// # Errors
/// A sentence about what is wrong with them.
pub fn verify(segment: &Segment) -> Result<(), String> {
    let Ok(file) = File::open(path_of(segment)) else {
        return Ok(());
    };
    let (list, end) = list(&file, segment)?;
    each_block(&list, end, |block| block.read(&file).map(drop)).map(drop)
}

/// Bytes of all postings.
pub fn bytes(folder: &Folder) -> u64 {
    let files = files::list(&folder.path().join(DIR)).unwrap_or_default();
    let lengths = files.iter().filter_map(|path| path.metadata().ok());
    lengths.map(|found| found.len()).sum()
}

/// Removes the postings of segments that are not live.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, live: &[SegmentMeta]) -> Result<()> {
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

/// Reads the list of the postings of this segment. Returns it with the offset of its end.
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
    if of_segment != segment.meta.crc32c {
        return Err("they are of another segment".into());
    }
    let offset = HEAD_BYTES as u64;
    Ok((
        read_checked(file, offset, length as usize, crc32c)?,
        offset + u64::from(length),
    ))
}

/// Calls `visit` with each block of a list; the first block is at `offset`. False if the list is
/// empty.
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
    if crc32c::crc32c(&bytes) != crc32c {
        return Err("their checksum does not match".into());
    }
    Ok(bytes)
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), String> {
    file.read_exact_at(bytes, offset)
        .map_err(|error| error.to_string())
}

impl Occurrences {
    /// Adds the uses of some features. False if the list of the file is empty.
    fn read(
        &mut self,
        file: &File,
        segment: &Segment,
        wanted: &HashSet<&str>,
    ) -> Result<bool, String> {
        let start_us = i64::from(segment.day()) * DAY_US;
        let (list, end) = list(file, segment)?;
        each_block(&list, end, |block| {
            if !wanted.contains(block.feature) {
                return Ok(());
            }
            self.add(&block, &block.read(file)?, start_us)
        })
    }

    /// Adds the uses in a block.
    fn add(&mut self, block: &Block<'_>, bytes: &[u8], start_us: i64) -> Result<(), String> {
        let times = block.uses.checked_mul(TIME_BYTES);
        let (users, times) = times
            .and_then(|times| bytes.split_at_checked(bytes.len().checked_sub(times)?))
            .ok_or(CUT)?;
        self.users.reserve(block.uses);
        self.timestamps.reserve(block.uses);
        let mut users = Reader(users);
        let mut user = 0_u32;
        for time in times.as_chunks::<TIME_BYTES>().0 {
            let gap = u32::try_from(users.number()?).ok();
            user = gap
                .and_then(|gap| user.checked_add(gap))
                .ok_or("the code of a user exceeds 32 bits")?;
            self.users.push(user);
            let [a, b, c, d, e] = *time;
            let time_us = i64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
            self.timestamps.push(start_us + time_us);
        }
        users.end()?;
        self.features.push((block.feature.to_owned(), block.uses));
        Ok(())
    }

    /// Truncates to so many features and uses.
    fn cut(&mut self, (features, uses): (usize, usize)) {
        self.features.truncate(features);
        self.users.truncate(uses);
        self.timestamps.truncate(uses);
    }

    /// A frame of `ts`, the code of the user, and the feature.
    ///
    /// # Errors
    /// If Polars cannot create it.
    pub fn frame(self) -> Result<DataFrame> {
        let name = PlSmallStr::from_static(schema::FEATURE);
        let mut features = StringChunked::full_null(name, 0);
        for (feature, uses) in &self.features {
            features.append(&StringChunked::full(PlSmallStr::EMPTY, feature, *uses))?;
        }
        let height = self.users.len();
        let users = UInt32Chunked::from_vec(PlSmallStr::from_static(schema::USER_ID), self.users);
        let columns = vec![
            schema::timestamps(schema::TS, self.timestamps),
            users.into_column(),
            features.rechunk().into_owned().into_column(),
        ];
        Ok(DataFrame::new(height, columns)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventType};
    use crate::store::files::rows::LakeRows;
    use crate::store::files::segment::{Sorted, write_days};

    /// A segment with these users, features and times after the start of day 1, and its postings.
    fn written(
        rows: &[(Option<&'static str>, Option<&'static str>, i64)],
    ) -> Result<(tempfile::TempDir, Folder, Arc<Segment>)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let mut events = LakeRows::for_lines(0);
        let names = Dictionaries::new()?;
        for &(user, feature, time_us) in rows {
            if let Some(user) = user {
                names.users.number(user)?;
            }
            events.push(&Event {
                ts_us: DAY_US + time_us,
                event_type: EventType::Action,
                user_id: user.map(Into::into),
                feature: feature.map(Into::into),
                metadata: "{}".into(),
                url: None,
                event_id: None,
                received_at_us: DAY_US,
            });
        }
        let meta = write_days(&folder, "00000001-0000", &Sorted::new(events.finish()?)?)?;
        let segment = Arc::new(Segment::new(folder.path(), meta[0].clone()));
        let temp = write(&folder, &segment, &names)?;
        publish(&folder, &temp, &segment)?;
        Ok((dir, folder, segment))
    }

    const ROWS: [(Option<&str>, Option<&str>, i64); 6] = [
        (Some("u"), Some("a"), 9),
        (Some("v"), Some("a"), DAY_US - 1),
        (Some("u"), Some("a"), 3),
        (Some("v"), Some("b"), 5),
        (None, Some("a"), 1),
        (Some("u"), None, 2),
    ];

    #[test]
    fn uses_are_read_by_feature_ordered_by_user_and_time() -> Result<()> {
        let (_dir, _folder, segment) = written(&ROWS)?;
        assert_eq!(verify(&segment), Ok(()));
        let mut uses = Occurrences::default();
        assert!(read(&segment, &["a".into(), "none".into()], &mut uses));
        let expected = Occurrences {
            features: vec![("a".into(), 3)],
            users: vec![0, 0, 1],
            timestamps: [3, 9, DAY_US - 1].map(|time_us| DAY_US + time_us).into(),
        };
        assert_eq!(uses, expected);
        assert_eq!(uses.frame()?.height(), 3);
        Ok(())
    }

    #[test]
    fn damaged_postings_are_removed_and_add_nothing() -> Result<()> {
        let (_dir, folder, segment) = written(&ROWS)?;
        let path = path_of(&segment);
        let valid = std::fs::read(&path).expect("read");
        for at in 0..valid.len() {
            let mut damaged = valid.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).expect("written");
            let mut uses = Occurrences::default();
            assert!(
                !read(&segment, &["a".into(), "b".into()], &mut uses),
                "{at}"
            );
            assert_eq!(uses, Occurrences::default(), "{at}");
            assert!(!path.exists(), "{at}");
        }
        std::fs::write(&path, &valid).expect("written");
        remove_others(&folder, std::slice::from_ref(&segment.meta))?;
        assert!(path.exists());
        remove_others(&folder, &[])?;
        assert!(!path.exists());
        Ok(())
    }
}
