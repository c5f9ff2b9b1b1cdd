//! Files of event ids: the digests of the ids of sealed events, for deduplication. A file has those
//! that were received on one day, and is immutable; the manifest lists the live ones.
//!
//! In memory an id of a file takes 2 bytes: a Bloom filter says of nearly every new id that it is
//! not in the file. The others are searched in the file itself, so that the result is exact.
//!
//! Nothing depends on these files but deduplication. They are derived from the segments, and made
//! again when one is missing or damaged.
//!
//! A file has three parts, whose lengths follow from the number of ids. Integers are little endian.
//!
//! - Entries of 16 bytes in ascending order: the upper 88 bits of the digest and, below them, the
//!   time of receipt in µs since the start of the day.
//! - A table with 8 bytes for each bucket, about [`BUCKET_IDS`] entries whose digests have the same
//!   beginning: the number of entries up to its end, and the CRC-32C of its entries.
//! - The blocks of the Bloom filter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use tracing::error;

use super::folder::Folder;
use super::output::Output;
use super::shape;
use crate::bloom::Bloom;
use crate::daily::{Day, date, day_of};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::files;
use crate::window::DAY_US;

/// Their folder in the data folder.
const DIR: &str = "ids";
/// Entries of a bucket, on average: a lookup reads 4 KiB.
const BUCKET_IDS: u64 = 256;
const ENTRY_BYTES: usize = size_of::<u128>();
const BUCKET_BYTES: usize = 2 * size_of::<u32>();
/// Low bits of an entry, for the time: a day has fewer than 2^37 µs.
const TIME_BITS: u32 = 40;

/// The live files of event ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventIdsMeta {
    /// Seed of the digests.
    pub seed: u64,
    /// The files; those of one day in the order in which they were written.
    pub files: Vec<IdFileMeta>,
}

/// Metadata of a file in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdFileMeta {
    /// Day on which its ids were received.
    pub day: NaiveDate,
    /// Path below the data folder.
    pub path: String,
    /// Number of ids.
    pub ids: u64,
    /// Greatest time of receipt, in µs.
    pub last_received_at_us: i64,
    /// CRC-32C of table and filter.
    pub crc32c: u32,
}

impl IdFileMeta {
    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.table_offset() + buckets(self.ids) * BUCKET_BYTES as u64 + filter_bytes(self.ids)
    }

    /// Bytes of table and filter, which are in memory while the file is live.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes() - self.table_offset()
    }

    fn table_offset(&self) -> u64 {
        self.ids * ENTRY_BYTES as u64
    }
}

/// An id with its time of receipt, as in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry(u128);

impl Entry {
    /// The id with this digest.
    pub fn new(digest: Digest, received_at_us: i64) -> Self {
        let time_us = received_at_us.rem_euclid(DAY_US).unsigned_abs();
        Self(beginning(digest) << TIME_BITS | u128::from(time_us))
    }

    fn time_us(self) -> i64 {
        (self.0 as u64 & ((1 << TIME_BITS) - 1)).cast_signed()
    }

    /// Its bucket of so many.
    fn bucket(self, buckets: u64) -> usize {
        bucket((self.0 >> 96) as u64, buckets)
    }
}

/// The part of a digest that entries have.
fn beginning(digest: Digest) -> u128 {
    digest.number() >> TIME_BITS
}

fn buckets(ids: u64) -> u64 {
    ids.div_ceil(BUCKET_IDS)
}

/// The bucket of digests that begin with these 32 bits.
fn bucket(first_bits: u64, buckets: u64) -> usize {
    ((first_bits * buckets) >> 32) as usize
}

fn filter_bytes(ids: u64) -> u64 {
    Bloom::blocks(ids) * Bloom::BLOCK_BYTES as u64
}

/// A bucket in the table.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Entries up to its end.
    end: u32,
    /// CRC-32C of its entries.
    crc32c: u32,
}

/// A live file, with table and filter in memory.
#[derive(Debug)]
pub struct IdFile {
    /// Its entry in the manifest.
    pub meta: IdFileMeta,
    file: File,
    path: PathBuf,
    table: Vec<Bucket>,
    filter: Bloom,
    is_damaged: AtomicBool,
}

impl IdFile {
    /// Opens a file, and verifies its table and filter. Its entries are verified when they are
    /// read.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is missing or not what was written.
    pub fn open(root: &Path, meta: IdFileMeta) -> Result<Self> {
        let path = root.join(&meta.path);
        let damaged = |message: String| damaged(&path, message);
        let file = File::open(&path).map_err(|error| damaged(error.to_string()))?;
        let length = file.metadata().map_err(Error::io("inspect", &path))?.len();
        if length != meta.bytes() || u32::try_from(meta.ids).is_err() {
            return Err(damaged(format!(
                "it has {length} bytes, written were {}",
                meta.bytes()
            )));
        }
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        reader
            .seek(SeekFrom::Start(meta.table_offset()))
            .map_err(Error::io("read", &path))?;
        let mut crc32c = 0;
        let mut read = |bytes: &mut [u8]| {
            reader.read_exact(bytes).map_err(Error::io("read", &path))?;
            crc32c = crc32c::crc32c_append(crc32c, bytes);
            Ok::<(), Error>(())
        };
        let mut table = Vec::with_capacity(buckets(meta.ids) as usize);
        for _ in 0..buckets(meta.ids) {
            let (mut end, mut crc32c) = ([0; 4], [0; 4]);
            read(&mut end)?;
            read(&mut crc32c)?;
            table.push(Bucket {
                end: u32::from_le_bytes(end),
                crc32c: u32::from_le_bytes(crc32c),
            });
        }
        let filter = Bloom::read(meta.ids, read)?;
        if crc32c != meta.crc32c {
            return Err(damaged("its checksum does not match".into()));
        }
        Ok(Self {
            meta,
            file,
            table,
            filter,
            is_damaged: AtomicBool::new(false),
            path,
        })
    }

    /// The last time, in µs, at which an id of this digest was received. `None` if it is not in
    /// the file, or if that part of the file is damaged.
    pub fn received_at_us(&self, digest: Digest) -> Option<i64> {
        if !self.filter.may_contain(digest.place() as u64) {
            return None;
        }
        let beginning = beginning(digest);
        let at = bucket((digest.number() >> 96) as u64, buckets(self.meta.ids));
        let entries = self
            .bucket(at)
            .inspect_err(|error| self.condemn(error))
            .ok()?;
        let end = entries.partition_point(|entry| entry.0 >> TIME_BITS <= beginning);
        let last = entries.get(..end)?.last()?;
        (last.0 >> TIME_BITS == beginning).then(|| i64::from(self.day()) * DAY_US + last.time_us())
    }

    /// True if a part of it that was needed is damaged.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// Day on which its ids were received.
    pub fn day(&self) -> Day {
        self.meta.day.to_epoch_days()
    }

    /// Verifies the entries; the rest was verified when it was opened.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was written.
    pub fn verify(&self) -> Result<()> {
        (0..self.table.len()).try_for_each(|at| {
            let read = self.bucket(at).inspect_err(|error| self.condemn(error));
            read.map(drop)
        })
    }

    fn condemn(&self, error: &Error) {
        if !self.is_damaged.swap(true, Ordering::Relaxed) {
            error!("{error}; events with these ids may be counted again until it is made again");
        }
    }

    /// The entries of a bucket.
    fn bucket(&self, at: usize) -> Result<Vec<Entry>> {
        let entries = self.entries_of(at);
        let count = entries.end.saturating_sub(entries.start) as usize;
        let mut bytes = vec![0; count * ENTRY_BYTES];
        self.file
            .read_exact_at(&mut bytes, entries.start * ENTRY_BYTES as u64)
            .map_err(|error| damaged(&self.path, error.to_string()))?;
        let expected = self.table.get(at).map_or(0, |bucket| bucket.crc32c);
        if crc32c::crc32c(&bytes) != expected {
            let message = format!("the checksum of bucket {at} does not match");
            return Err(damaged(&self.path, message));
        }
        let entries = bytes.as_chunks().0.iter();
        Ok(entries
            .map(|&entry| Entry(u128::from_le_bytes(entry)))
            .collect())
    }

    /// Positions of the entries of a bucket.
    fn entries_of(&self, at: usize) -> Range<u64> {
        let end = |at: usize| self.table.get(at).map_or(0, |bucket| bucket.end.into());
        at.checked_sub(1).map_or(0, end)..end(at)
    }

    /// All entries, in order.
    fn entries(&self) -> impl Iterator<Item = Result<Entry>> + '_ {
        (0..self.table.len()).flat_map(|at| match self.bucket(at) {
            Ok(entries) => entries.into_iter().map(Ok).collect(),
            Err(error) => {
                self.condemn(&error);
                vec![Err(error)]
            }
        })
    }
}

fn damaged(path: &Path, message: String) -> Error {
    Error::Damaged {
        file: path.to_owned(),
        message,
    }
}

/// The entries of ids by the day on which they were received, in order.
pub fn by_day(ids: impl IntoIterator<Item = (Digest, i64)>) -> BTreeMap<Day, Vec<Entry>> {
    let mut days: BTreeMap<Day, Vec<Entry>> = BTreeMap::new();
    for (digest, received_at_us) in ids {
        let entry = Entry::new(digest, received_at_us);
        days.entry(day_of(received_at_us)).or_default().push(entry);
    }
    days.values_mut()
        .for_each(|entries| entries.sort_unstable());
    days
}

/// Writes a file with some entries, in order, of ids that were received on a day, and with those of
/// other files of the same day. It is not live before a manifest names it. The number makes its
/// name unique.
///
/// # Errors
/// [`Error::Damaged`] if one of the others is, and if the file cannot be written.
pub fn write(
    folder: &Folder,
    number: u64,
    day: Day,
    new: &[Entry],
    others: &[Arc<IdFile>],
) -> Result<IdFile> {
    let name = format!("{DIR}/{}-{number:08}.ids", date(day));
    let path = folder.path().join(&name);
    files::make(&folder.path().join(DIR))?;
    let ids = new.len() as u64 + others.iter().map(|file| file.meta.ids).sum::<u64>();
    let (crc32c, last_us) = files::or_remove(&path, || {
        let mut writer = Writer::new(ids);
        Output::new(files::create(&path)?, &path).write(|out| {
            let mut runs: Vec<Run<'_>> = vec![Box::new(new.iter().map(|&entry| Ok(entry)))];
            for file in others {
                runs.push(Box::new(file.entries()));
            }
            for entry in Merge::new(runs)? {
                writer
                    .entry(entry?, out)
                    .map_err(Error::io("write", &path))?;
            }
            writer.finish(out).map_err(Error::io("write", &path))
        })?;
        files::sync_parent(&path)?;
        Ok((writer.crc32c, writer.last_us))
    })?;
    let meta = IdFileMeta {
        day: date(day),
        path: name,
        ids,
        last_received_at_us: i64::from(day) * DAY_US + last_us,
        crc32c,
    };
    IdFile::open(folder.path(), meta)
}

/// Writes the parts of a file.
struct Writer {
    table: Vec<Bucket>,
    filter: Bloom,
    /// Entries that were written.
    written: u32,
    /// Greatest time of an entry, in µs since the start of the day.
    last_us: i64,
    /// CRC-32C of table and filter.
    crc32c: u32,
}

impl Writer {
    fn new(ids: u64) -> Self {
        Self {
            table: vec![Bucket::default(); buckets(ids) as usize],
            filter: Bloom::new(ids),
            written: 0,
            last_us: 0,
            crc32c: 0,
        }
    }

    fn entry(&mut self, entry: Entry, out: &mut impl Write) -> std::io::Result<()> {
        let bytes = entry.0.to_le_bytes();
        out.write_all(&bytes)?;
        self.written += 1;
        self.last_us = self.last_us.max(entry.time_us());
        let at = entry.bucket(self.table.len() as u64);
        if let Some(bucket) = self.table.get_mut(at) {
            bucket.crc32c = crc32c::crc32c_append(bucket.crc32c, &bytes);
            bucket.end = self.written;
        }
        self.filter.insert((entry.0 >> u64::BITS) as u64);
        Ok(())
    }

    fn finish(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        let mut crc32c = 0;
        let mut write = |bytes: &[u8]| {
            crc32c = crc32c::crc32c_append(crc32c, bytes);
            out.write_all(bytes)
        };
        let mut end = 0;
        for bucket in &mut self.table {
            // A bucket without entries ends where it starts.
            bucket.end = bucket.end.max(end);
            end = bucket.end;
            write(&bucket.end.to_le_bytes())?;
            write(&bucket.crc32c.to_le_bytes())?;
        }
        self.filter.write_blocks(write)?;
        self.crc32c = crc32c;
        Ok(())
    }
}

/// Entries of several ordered runs, in order.
struct Merge<'a> {
    runs: Vec<Run<'a>>,
    /// The next entry of each run, and the run; the least first.
    next: BinaryHeap<Reverse<(Entry, usize)>>,
}

type Run<'a> = Box<dyn Iterator<Item = Result<Entry>> + 'a>;

impl<'a> Merge<'a> {
    fn new(runs: Vec<Run<'a>>) -> Result<Self> {
        let mut merge = Self {
            next: BinaryHeap::with_capacity(runs.len()),
            runs,
        };
        (0..merge.runs.len()).try_for_each(|run| merge.advance(run))?;
        Ok(merge)
    }

    fn advance(&mut self, run: usize) -> Result<()> {
        let next = self.runs.get_mut(run).and_then(Iterator::next);
        self.next
            .extend(next.transpose()?.map(|entry| Reverse((entry, run))));
        Ok(())
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let Reverse((entry, run)) = self.next.pop()?;
        Some(self.advance(run).map(|()| entry))
    }
}

/// Opens the live files.
///
/// # Errors
/// [`Error::Damaged`] if one is missing or damaged.
pub fn open_all(root: &Path, live: &[IdFileMeta]) -> Result<Vec<Arc<IdFile>>> {
    let files = live.iter().cloned();
    files
        .map(|meta| IdFile::open(root, meta).map(Arc::new))
        .collect()
}

/// Removes the files that are not live.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, live: Option<&EventIdsMeta>) -> Result<()> {
    let live: HashSet<PathBuf> = live
        .into_iter()
        .flat_map(|live| &live.files)
        .map(|meta| folder.path().join(&meta.path))
        .collect();
    for path in files::list(&folder.path().join(DIR))? {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(shape::is_event_ids) && !live.contains(&path) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digester;

    const DAY: Day = 20_000;
    const START_US: i64 = DAY as i64 * DAY_US;
    const IDS: u64 = 3_000;

    fn digest(number: u64) -> Digest {
        Digester::fixed().digest(&number.to_string())
    }

    /// The entries of some ids, each received as many µs after the start of the day.
    fn entries(numbers: Range<u64>) -> Vec<Entry> {
        let ids = numbers.map(|number| (digest(number), START_US + number.cast_signed()));
        by_day(ids).remove(&DAY).unwrap_or_default()
    }

    fn folder() -> Result<(tempfile::TempDir, Folder)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "the test")?;
        Ok((dir, folder))
    }

    /// Checks that a file has the first [`IDS`] ids and no others.
    fn check(file: &IdFile) -> Result<()> {
        for number in 0..2 * IDS {
            let expected = (number < IDS).then_some(START_US + number.cast_signed());
            assert_eq!(file.received_at_us(digest(number)), expected, "{number}");
        }
        file.verify()
    }

    #[test]
    fn a_file_has_its_ids_and_no_others_also_after_files_became_one() -> Result<()> {
        let (dir, folder) = folder()?;
        let whole = write(&folder, 1, DAY, &entries(0..IDS), &[])?;
        check(&whole)?;
        assert_eq!(
            whole.meta.last_received_at_us,
            START_US + IDS.cast_signed() - 1
        );
        let bytes = std::fs::metadata(dir.path().join(&whole.meta.path)).expect("a file");
        assert_eq!(bytes.len(), whole.meta.bytes());
        let parts = [(2, 0..10), (3, 10..1_500), (4, 1_500..1_501)];
        let parts = parts.map(|(number, ids)| write(&folder, number, DAY, &entries(ids), &[]));
        let parts = parts.into_iter().map(|part| part.map(Arc::new));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let joined = write(&folder, 5, DAY, &entries(1_501..IDS), &parts)?;
        check(&joined)?;
        let read = |file: &IdFile| std::fs::read(dir.path().join(&file.meta.path)).expect("bytes");
        assert_eq!(read(&joined), read(&whole));
        let live = EventIdsMeta {
            seed: 0,
            files: vec![joined.meta.clone()],
        };
        remove_others(&folder, Some(&live))?;
        assert_eq!(files::list(&dir.path().join(DIR))?.len(), 1);
        check(&IdFile::open(dir.path(), joined.meta)?)
    }

    #[test]
    fn an_id_that_was_received_again_counts_as_received_then() -> Result<()> {
        let (_dir, folder) = folder()?;
        let ids = [(digest(1), START_US + 5), (digest(1), START_US + 9)];
        let days = by_day(ids);
        let file = write(&folder, 1, DAY, days.get(&DAY).expect("the day"), &[])?;
        assert_eq!(file.received_at_us(digest(1)), Some(START_US + 9));
        Ok(())
    }

    #[test]
    fn ids_of_several_days_and_none_are_written() -> Result<()> {
        let (_dir, folder) = folder()?;
        let days = by_day([(digest(1), START_US - 1), (digest(2), START_US)]);
        assert_eq!(days.keys().copied().collect::<Vec<_>>(), [DAY - 1, DAY]);
        let before = write(
            &folder,
            1,
            DAY - 1,
            days.get(&(DAY - 1)).expect("a day"),
            &[],
        )?;
        assert_eq!(before.received_at_us(digest(1)), Some(START_US - 1));
        let empty = write(&folder, 2, DAY, &[], &[])?;
        assert_eq!(empty.received_at_us(digest(1)), None);
        empty.verify()
    }

    #[test]
    fn no_time_comes_from_a_damaged_file() -> Result<()> {
        let (dir, folder) = folder()?;
        let file = write(&folder, 1, DAY, &entries(0..IDS), &[])?;
        let path = dir.path().join(&file.meta.path);
        let written = std::fs::read(&path).expect("bytes");
        let table = file.meta.table_offset() as usize;
        for at in [0, table / 2, table - 1, table, table + 9, written.len() - 1] {
            let mut damaged = written.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).expect("written");
            let opened = IdFile::open(dir.path(), file.meta.clone());
            if at >= table {
                assert!(matches!(opened, Err(Error::Damaged { .. })), "{at}");
                continue;
            }
            let opened = opened?;
            let found = (0..IDS).filter(|&number| {
                let received = opened.received_at_us(digest(number));
                assert!(received.is_none_or(|us| us == START_US + number.cast_signed()));
                received.is_some()
            });
            let found = found.count() as u64;
            assert!(
                opened.is_damaged() && found < IDS && found > IDS / 2,
                "{found}"
            );
            assert!(matches!(opened.verify(), Err(Error::Damaged { .. })));
            let opened = [Arc::new(opened)];
            let joined = write(&folder, 2, DAY, &[], &opened);
            assert!(matches!(joined, Err(Error::Damaged { .. })));
            assert_eq!(files::list(&dir.path().join(DIR))?, [path.as_path()]);
        }
        std::fs::write(&path, &written[1..]).expect("written");
        let cut = IdFile::open(dir.path(), file.meta.clone());
        assert!(matches!(cut, Err(Error::Damaged { .. })));
        std::fs::remove_file(&path).expect("removed");
        let missing = IdFile::open(dir.path(), file.meta);
        assert!(matches!(missing, Err(Error::Damaged { .. })));
        Ok(())
    }
}
