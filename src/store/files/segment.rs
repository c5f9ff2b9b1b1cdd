//! Segments: immutable Parquet files of the lake, each with events of one UTC day, sorted by user
//! and then by time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::NaiveDate;
use parking_lot::Mutex;
use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::folder::{self, Access, Folder};
use super::output::{Output, Written};
use super::shape::{self, COMPACTING_DIR};
use crate::checksum;
use crate::columns::Block;
use crate::daily::{Day, date, day_of};
use crate::digest::{DigestMap, Digester};
use crate::error::{Error, Result};
use crate::event::SYSTEM_NAME;
use crate::parquet;
use crate::schema;
use crate::store::files;

/// Folder of the lake in the data folder. It never contains unfinished files.
pub const LAKE_DIR: &str = "events";

/// Folder in the data folder to which damaged segments are moved.
const DAMAGED_DIR: &str = "damaged";
/// Rows of a row group: a reader of one user's events reads one group, and a scan works on several
/// in parallel.
const ROW_GROUP_ROWS: usize = 1 << 17;
/// Approximate bytes of metadata in a row group: a reader of a few rows may have to read the
/// Parquet dictionary of the column. The metadata of usual events takes less.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Fewest rows of a row group.
const MIN_ROW_GROUP_ROWS: usize = 1 << 10;

/// Format of the segments that are written now. Older ones can be read, and compaction rewrites
/// them.
pub const FORMAT: u32 = 1;

/// Metadata of a segment in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// Path relative to the data folder.
    pub path: String,
    /// Events in it.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32C of the file.
    pub crc32c: u32,
    /// Least `ts`, in µs.
    pub first_ts_us: i64,
    /// Greatest `ts`, in µs.
    pub last_ts_us: i64,
    /// Greatest `received_at`, in µs, which tells whether its event ids still matter for
    /// deduplication.
    pub last_received_at_us: i64,
    /// Format of the file: [`FORMAT`], or 0 for a file whose embedded Arrow schema has string
    /// views, which many readers cannot use.
    #[serde(default)]
    pub format: u32,
    /// Those of the events that are `system` events.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub system: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SegmentMeta {
    /// The day of its events.
    fn day(&self) -> Day {
        day_of(self.first_ts_us)
    }

    /// The number of its events in the order of the log: those that are sealed later have greater
    /// ones, and one that replaces others has that of the first. 0 for other names.
    pub fn place_number(&self) -> u64 {
        let name = Path::new(&self.path).file_name().and_then(OsStr::to_str);
        let parts = name.and_then(shape::segment_parts);
        parts.map_or(0, |(number, ..)| number.parse().unwrap_or(0))
    }

    /// File name for it, or for a file that belongs to it, outside of the lake.
    pub fn file_name(&self) -> String {
        let name = Path::new(&self.path).file_name().unwrap_or_default();
        format!("dt={}-{}", date(self.day()), name.display())
    }
}

/// A live segment, whose checksum is verified before its first use.
///
/// No file descriptor stays open: the file is opened for each use, and verified again if another
/// file has its name. Before the file is removed, [`Segment::keep`] maps it into memory for its
/// readers.
#[derive(Debug)]
pub struct Segment {
    /// Its metadata in the manifest.
    pub meta: SegmentMeta,
    root: PathBuf,
    /// The file that was verified last.
    verified: Mutex<Option<FileId>>,
    /// Its content, once the file is about to be removed.
    kept: OnceLock<ScanSources>,
    /// A description of its damage.
    damage: OnceLock<String>,
    /// The state of the file of its columns.
    pub(super) columns: ColumnsState,
}

/// The state of the file of the columns of a segment.
#[derive(Debug, Default)]
pub(super) struct ColumnsState {
    /// The blocks that were verified, and their file.
    pub verified: Mutex<Option<(FileId, HashSet<Block>)>>,
    /// The content, once the file is about to be removed or replaced.
    pub kept: Mutex<Option<(FileId, ScanSources)>>,
    /// The users of the file, which are read where there are links between ids.
    pub users: Mutex<Option<(FileId, Arc<RoaringBitmap>)>>,
}

/// Identity of a file, which changes when the file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    pub(super) bytes: u64,
    modified: (i64, i64),
}

impl FileId {
    /// The identity of an open file; `path` is for error messages.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self> {
        let found = file.metadata().map_err(Error::io("inspect", path))?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl Segment {
    /// The segment with this metadata in the data folder `root`. The file is not opened yet.
    pub fn new(root: &Path, meta: SegmentMeta) -> Self {
        Self {
            root: root.to_owned(),
            meta,
            verified: Mutex::new(None),
            kept: OnceLock::new(),
            damage: OnceLock::new(),
            columns: ColumnsState::default(),
        }
    }

    /// The data folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of the file.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.meta.path)
    }

    /// True if it may have events of `range_us`.
    pub fn overlaps(&self, range_us: &Range<i64>) -> bool {
        self.meta.first_ts_us < range_us.end && self.meta.last_ts_us >= range_us.start
    }

    /// The day of its events.
    pub fn day(&self) -> Day {
        self.meta.day()
    }

    /// As [`SegmentMeta::place_number`].
    pub fn place_number(&self) -> u64 {
        self.meta.place_number()
    }

    /// Verifies the checksum of the file, because Polars does not notice most damage of a Parquet
    /// file.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn verify(&self) -> Result<()> {
        self.check(&self.open()?)
    }

    /// Opens the file, wherever an exchange of day folders has left it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is missing.
    pub(in crate::store) fn open(&self) -> Result<File> {
        let path = self.path();
        match File::open(&path) {
            // An interrupted exchange of day folders has left it outside of the lake.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                prepared_file(&self.root, self.day(), &path).ok_or_else(|| {
                    self.damaged("it is missing; search the folder damaged for it, or restore it")
                })
            }
            opened => opened.map_err(Error::io("open", &path)),
        }
    }

    fn check(&self, file: &File) -> Result<()> {
        match checksum::of_file(file, &self.path())? {
            found if found == self.meta.crc32c => Ok(()),
            found => Err(self.damaged(&format!(
                "its checksum is {found:08x}, but it was written with {:08x}",
                self.meta.crc32c
            ))),
        }
    }

    /// True once the file was found to be damaged.
    pub fn is_damaged(&self) -> bool {
        self.damage.get().is_some()
    }

    /// Opens the file, and verifies its checksum unless this process has verified the same file
    /// before. A damaged file is moved out of the lake, so that no program reads it, and every
    /// later use fails.
    ///
    /// # Errors
    /// As [`Segment::verify`].
    pub fn verified(&self) -> Result<File> {
        if let Some(message) = self.damage.get() {
            return Err(self.damaged(message));
        }
        self.verify_new().inspect_err(|error| {
            // A kept segment is not damaged: its file was removed on purpose.
            if self.kept.get().is_none() {
                self.condemn(error);
            }
        })
    }

    /// Opens the file, and verifies its checksum if the file is a new one.
    fn verify_new(&self) -> Result<File> {
        let file = self.open()?;
        let path = self.path();
        let found = FileId::of(&file, &path)?;
        // Locked meanwhile, so that only one of several readers verifies it.
        let mut verified = self.verified.lock();
        if *verified != Some(found) {
            self.check(&file)?;
            *verified = Some(found);
        }
        Ok(file)
    }

    /// The verified content as a Polars source. It stays unchanged as long as the value exists, and
    /// needs no file descriptor.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    fn content(&self) -> Result<ScanSources> {
        if let Some(kept) = self.kept.get() {
            return Ok(kept.clone());
        }
        match self.verified() {
            Ok(file) => mapped(file),
            // The file was removed after `kept` was read above.
            Err(error) => self.kept.get().cloned().ok_or(error),
        }
    }

    /// Verifies the file as [`Segment::verified`] does. A segment that was kept counts as verified.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn verified_or_kept(&self) -> Result<()> {
        match self.verified() {
            Err(error) if self.kept.get().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Maps the content into memory for the readers of this segment, because the file is about to
    /// be removed.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn keep(&self) -> Result<()> {
        if self.kept.get().is_none() {
            let content = self.content()?;
            self.kept.get_or_init(|| content);
        }
        Ok(())
    }

    /// Copies the file to a writer; `path` is for error messages.
    ///
    /// # Errors
    /// As [`Segment::verified`], and if the copy cannot be written.
    pub fn copy_to(&self, to: &mut impl Write, path: &Path) -> Result<()> {
        let written = Error::io("write", path);
        let content = match self.verified() {
            Ok(mut file) => return std::io::copy(&mut file, to).map(drop).map_err(written),
            Err(error) => self.kept.get().ok_or(error)?,
        };
        let source = content.first().map(|source| source.to_memslice());
        let bytes = source.transpose()?.unwrap_or_default();
        to.write_all(&bytes).map_err(written)
    }

    /// Verifies the checksum again, as the scrub does from time to time, and moves a damaged file
    /// out of the lake.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn scrub(&self) -> Result<()> {
        if let Some(message) = self.damage.get() {
            return Err(self.damaged(message));
        }
        match self.verify() {
            // Its name went after the version was read, and nothing is wrong with it.
            Err(_) if self.kept.get().is_some() => Ok(()),
            verified => verified.inspect_err(|error| self.condemn(error)),
        }
    }

    /// Verifies the checksum again.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn verify_again(&self) -> Result<()> {
        self.check(&self.verified()?)
    }

    /// Prevents further use of a damaged file, here and by other programs.
    fn condemn(&self, error: &Error) {
        if let Error::Damaged { message, .. } = error
            && self.damage.set(message.clone()).is_ok()
        {
            error!("{error}; queries that need it fail until it is restored");
            if let Err(error) = self.move_out_of_lake() {
                warn!("It stays in the lake: {error}");
            }
        }
    }

    /// Moves the file to the folder of damaged segments.
    fn move_out_of_lake(&self) -> Result<()> {
        let path = self.path();
        if !path.exists() || folder::access_of(&self.root) == Access::ReadOnly {
            return Ok(());
        }
        let dir = self.root.join(DAMAGED_DIR);
        files::make(&dir)?;
        files::publish(&path, &dir.join(self.meta.file_name()))?;
        files::sync_parent(&path)
    }

    fn damaged(&self, message: &str) -> Error {
        Error::Damaged {
            file: self.path(),
            message: message.into(),
        }
    }
}

/// The files of the lake, live or not.
///
/// # Errors
/// If the lake cannot be listed; a missing lake is not an error.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for day in days(root)? {
        files.extend(files::list(&day)?);
    }
    Ok(files)
}

/// The day folders of the lake.
fn days(root: &Path) -> Result<Vec<PathBuf>> {
    let mut days = Vec::new();
    for path in files::list(&root.join(LAKE_DIR))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if shape::is_day_folder(&name) && is_folder {
            days.push(path);
        }
    }
    Ok(days)
}

/// Removes the empty day folders that have no live segment.
///
/// # Errors
/// If the lake cannot be listed or changed.
pub fn remove_empty_days(root: &Path, live: &HashSet<PathBuf>) -> Result<()> {
    let wanted: HashSet<&Path> = live.iter().filter_map(|path| path.parent()).collect();
    for day in days(root)? {
        if !wanted.contains(day.as_path()) && files::list(&day)?.is_empty() {
            std::fs::remove_dir(&day).map_err(Error::io("remove", &day))?;
            files::sync_parent(&day)?;
        }
    }
    Ok(())
}

/// Removes the files of a failed seal or load, by their number, unless they are live.
///
/// # Errors
/// If the lake cannot be listed or changed; the next start removes them then.
pub fn remove_uncommitted(folder: &Folder, number: u64, live: &[SegmentMeta]) -> Result<()> {
    let live: HashSet<PathBuf> = live
        .iter()
        .map(|meta| folder.path().join(&meta.path))
        .collect();
    for path in files(folder.path())? {
        if number_of(&path) == Some(number) && !live.contains(&path) {
            files::remove(&path)?;
        }
    }
    remove_empty_days(folder.path(), &live)
}

/// The number under which a segment was written, from its name. It tells whether the file is older
/// or newer than a manifest.
pub fn number_of(path: &Path) -> Option<u64> {
    let (number, _, rewritten) = shape::segment_parts(path.file_name()?.to_str()?)?;
    rewritten.unwrap_or(number).parse().ok()
}

/// The name of a segment that is written under `number` and replaces others, of which `first` is
/// the first. The names of the segments of a day sort in the order of the log, by which other
/// programs order events of the same time; so the new name begins like that of `first`.
pub fn name_in_place_of(first: &SegmentMeta, number: u64) -> String {
    let file = Path::new(&first.path).file_name().unwrap_or_default();
    match file.to_str().and_then(shape::segment_parts) {
        Some((first, part, _)) => format!("{first}-{part}-{number:08}"),
        None => format!("{number:08}-0000"),
    }
}

/// Moves the folders of expired days, which have these segments, out of the lake and removes them,
/// and also their damaged segments. Readers of the segments keep the content.
///
/// # Errors
/// If they cannot be moved or removed; the next start removes them then.
pub fn remove_days(folder: &Folder, segments: &[Arc<Segment>]) -> Result<()> {
    let mut days = BTreeSet::new();
    for segment in segments {
        // Readers may not have opened it yet. A damaged segment they could not use anyway.
        if Arc::strong_count(segment) > 1 {
            let _ = segment.keep();
        }
        days.insert(segment.day());
    }
    let lake = folder.path().join(LAKE_DIR);
    for day in days {
        let name = format!("dt={}", date(day));
        let live = lake.join(&name);
        let has_others = |path: &PathBuf| number_of(path).is_none();
        if files::list(&live)?.iter().any(has_others) {
            warn!(folder = %live.display(), "A day expired; files there that the store did not write are left");
            files::remove_ours(&live, shape::is_segment)?;
        } else if live.exists() {
            let moved = folder.temp(&name).and_then(|temp| {
                files::publish(&live, &temp)?;
                Ok(temp)
            });
            let removed = match moved {
                // There is no space for another name: it is removed file by file in the lake, where
                // other programs see it.
                Err(Error::DiskFull) => live.clone(),
                moved => {
                    files::sync_parent(&live)?;
                    moved?
                }
            };
            files::may_fail("remove", &removed).map_err(Error::io("remove", &removed))?;
            std::fs::remove_dir_all(&removed).map_err(Error::io("remove", &removed))?;
            files::sync_parent(&live)?;
        }
        for path in files::list(&folder.path().join(DAMAGED_DIR))? {
            let of_day = path.file_name().and_then(OsStr::to_str);
            if of_day.is_some_and(|file| file.starts_with(&name) && shape::is_segment_of_day(file))
            {
                files::remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Maps an open file into memory, as Polars does with each file that it reads; the source then
/// needs no file descriptor.
pub(super) fn mapped(file: File) -> Result<ScanSources> {
    let files = ScanSources::Files(Arc::new([file]));
    let content = files.iter().map(|file| file.to_memslice());
    Ok(ScanSources::Buffers(content.collect::<PolarsResult<_>>()?))
}

/// A lazy frame of the events of some segments, with the columns of [`schema::lake`]. It needs no
/// file descriptors.
///
/// # Errors
/// [`Error::Damaged`] if one of them is.
pub fn scan(segments: &[Arc<Segment>]) -> Result<LazyFrame> {
    let mut contents = Vec::with_capacity(segments.len());
    for segment in segments {
        let content = segment.content()?;
        for part in content.iter() {
            contents.push(part.to_memslice()?);
        }
    }
    Ok(LazyFrame::scan_parquet_sources(
        ScanSources::Buffers(contents.into()),
        ScanArgsParquet {
            // The partition key of the path is derived from `ts` and is not a column.
            hive_options: HiveOptions::new_disabled(),
            glob: false,
            ..ScanArgsParquet::default()
        },
    )?)
}

/// All rows of a segment.
pub const ALL_ROWS: Range<usize> = 0..usize::MAX;

/// Reads some rows of a segment on this thread alone, with all columns or some of them: for
/// background work, which must not use the threads of Polars, because these have the priority of
/// queries.
///
/// # Errors
/// [`Error::Damaged`] if the segment is.
pub fn read_alone(
    segment: &Segment,
    columns: Option<&[&str]>,
    rows: Range<usize>,
) -> Result<DataFrame> {
    let content = segment.content()?;
    let source = content.first().map(|source| source.to_memslice());
    let bytes = source.transpose()?.unwrap_or_default();
    let columns = columns.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    Ok(ParquetReader::new(Cursor::new(bytes))
        .read_parallel(ParallelStrategy::None)
        .with_columns(columns)
        .with_slice(Some((rows.start, rows.len())))
        .finish()?)
}

/// Writes a segment with the name `name` for each day of the events. The files are durable when
/// this returns, and live once a manifest lists them.
///
/// # Errors
/// If a file cannot be written.
pub fn write_days(folder: &Folder, name: &str, events: &Sorted) -> Result<Vec<SegmentMeta>> {
    let mut files: Vec<(PathBuf, SegmentMeta)> = Vec::new();
    let written = events.days().try_for_each(|(day, events)| {
        let temp = folder.temp(&format!("{}-{name}.parquet", date(day)))?;
        let meta = files::or_remove(&temp, || write_sorted(&temp, path_of(day, name), events))?;
        files.push((temp, meta));
        Ok(())
    });
    if let Err(error) = written.and_then(|()| publish(folder, &files)) {
        for (temp, _) in &files {
            // If it cannot be removed now, the next start removes it.
            let _ = std::fs::remove_file(temp);
        }
        return Err(error);
    }
    Ok(files.into_iter().map(|(_, meta)| meta).collect())
}

/// Events sorted as in segments: by day, user and time.
pub struct Sorted {
    /// The events, with the columns of [`schema::lake`].
    pub events: DataFrame,
    /// Number of events of each day.
    lengths: BTreeMap<Day, usize>,
}

impl Sorted {
    /// Sorts a frame with the columns of [`schema::lake`].
    ///
    /// # Errors
    /// If a column is missing.
    pub fn new(events: DataFrame) -> Result<Self> {
        let (order, lengths) = order(&events)?;
        let order = IdxCa::from_vec(PlSmallStr::EMPTY, order);
        // Column by column on this thread: the threads of Polars are for queries.
        let columns = events.columns().iter().map(|column| column.take(&order));
        let events = DataFrame::new(events.height(), columns.collect::<PolarsResult<_>>()?)?;
        Ok(Self { events, lengths })
    }

    /// The days with their events.
    pub(in crate::store) fn days(&self) -> impl Iterator<Item = (Day, DataFrame)> {
        let mut start = 0;
        self.lengths.iter().map(move |(&day, &length)| {
            let of_day = self.events.slice(start, length);
            start += length as i64;
            (day, of_day)
        })
    }
}

/// The rows in the order of day, user and time, and the number of rows of each day. Rows with the
/// same user and time stay in the order of the frame, which is that of the log.
///
/// This is faster than the sort of Polars by two columns, which compares strings that are scattered
/// in memory: here each string is looked up once, and integers are compared.
fn order(events: &DataFrame) -> Result<(Vec<IdxSize>, BTreeMap<Day, usize>)> {
    let users = events.column(schema::USER_ID)?.str()?;
    let timestamps = events.column(schema::TS)?.to_physical_repr();
    let mut lengths = BTreeMap::new();
    let ranks = ranks(users);
    let mut keys: Vec<(Day, u32, i64, IdxSize)> = ranks
        .into_iter()
        .zip(timestamps.i64()?.iter())
        .zip(0..)
        .map(|((rank, ts_us), row)| {
            let ts_us = ts_us.unwrap_or_default();
            let day = day_of(ts_us);
            *lengths.entry(day).or_default() += 1;
            (day, rank, ts_us, row)
        })
        .collect();
    keys.sort_unstable();
    Ok((keys.into_iter().map(|(.., row)| row).collect(), lengths))
}

/// The rank of the string of each row among the distinct strings; that of null is 0.
fn ranks(strings: &StringChunked) -> Vec<u32> {
    let digester = Digester::new();
    let mut codes: DigestMap<u32> = DigestMap::default();
    // Null has a code and a rank even if no row is null.
    let mut sorted = vec![(None, 0)];
    let mut code_of_row = Vec::with_capacity(strings.len());
    for string in strings.iter() {
        let code = string.map_or(0, |string| {
            *codes.entry(digester.digest(string)).or_insert_with(|| {
                let code = sorted.len() as u32;
                sorted.push((Some(string), code));
                code
            })
        });
        code_of_row.push(code);
    }
    sorted.sort_unstable();
    let mut rank_of_code = vec![0; sorted.len()];
    for ((_, code), rank) in sorted.into_iter().zip(0..) {
        if let Some(of_code) = rank_of_code.get_mut(code as usize) {
            *of_code = rank;
        }
    }
    code_of_row
        .into_iter()
        .map(|code| rank_of_code.get(code as usize).copied().unwrap_or_default())
        .collect()
}

/// Path of a segment relative to the data folder.
pub fn path_of(day: Day, name: &str) -> String {
    format!("{LAKE_DIR}/dt={}/{name}.parquet", date(day))
}

/// Moves finished files, one of each day, into the lake, durably.
fn publish(folder: &Folder, files: &[(PathBuf, SegmentMeta)]) -> Result<()> {
    let lake = folder.path().join(LAKE_DIR);
    files::make(&lake)?;
    let mut has_new_day = false;
    for (temp, meta) in files {
        let path = folder.path().join(&meta.path);
        let day = path.parent().unwrap_or(&lake);
        if !day.exists() {
            files::make_private(day).map_err(Error::io("create", day))?;
            has_new_day = true;
        }
        files::may_fail("rename", &path).map_err(Error::io("rename to", &path))?;
        std::fs::rename(temp, &path).map_err(Error::io("rename to", &path))?;
    }
    for (_, meta) in files {
        files::sync_parent(&folder.path().join(&meta.path))?;
    }
    if has_new_day {
        files::sync(&lake)?;
    }
    Ok(())
}

/// Writes events of one day as a segment to the file `temp`, durably; `path` is its later path
/// relative to the data folder.
///
/// # Errors
/// If the file cannot be written, or the events are not of one day.
pub fn write_day(temp: &Path, path: String, events: DataFrame) -> Result<SegmentMeta> {
    let sorted = Sorted::new(events)?;
    match sorted.lengths.len() {
        1 => files::or_remove(temp, || write_sorted(temp, path, sorted.events)),
        days => Err(Error::Query(
            format!("a segment of one day has events of {days}").into(),
        )),
    }
}

/// Rows of a row group of these events; fewer if they have much metadata.
fn row_group_rows(events: &DataFrame) -> Result<usize> {
    let metadata = events.column(schema::METADATA)?.str()?;
    let bytes: usize = metadata.iter().flatten().map(str::len).sum();
    let rows = ROW_GROUP_BYTES.saturating_mul(events.height()) / bytes.max(1);
    Ok(rows.clamp(MIN_ROW_GROUP_ROWS, ROW_GROUP_ROWS))
}

/// Writes sorted events. The rows of a user are neighbours because nearly every query that reads
/// events groups by user, and because the events of one user are then in one row group.
fn write_sorted(temp: &Path, path: String, mut events: DataFrame) -> Result<SegmentMeta> {
    let rows = row_group_rows(&events)?;
    let output = Output::new(files::create(temp)?, temp);
    let Written { bytes, crc32c } = output.write(|out| {
        parquet::writer(out, events.schema())?
            .with_row_group_size(Some(rows))
            .set_parallel(false)
            .finish(&mut events)?;
        Ok(())
    })?;
    let (first_ts_us, last_ts_us) = span_us(&events, schema::TS)?;
    let (_, last_received_at_us) = span_us(&events, schema::RECEIVED_AT)?;
    Ok(SegmentMeta {
        path,
        rows: events.height() as u64,
        bytes,
        crc32c,
        first_ts_us,
        last_ts_us,
        last_received_at_us,
        format: FORMAT,
        system: system_events(&events)?,
    })
}

/// Number of `system` events.
fn system_events(events: &DataFrame) -> Result<u64> {
    let event_types = events.column(schema::EVENT_TYPE)?.str()?;
    let is_system = |event_type: &Option<&str>| *event_type == Some(SYSTEM_NAME);
    Ok(event_types.iter().filter(is_system).count() as u64)
}

/// The least and the greatest timestamp of a column, in µs.
fn span_us(events: &DataFrame, name: &str) -> Result<(i64, i64)> {
    let column = events.column(name)?.to_physical_repr();
    let timestamps = column.i64()?;
    Ok((
        timestamps.min().unwrap_or_default(),
        timestamps.max().unwrap_or_default(),
    ))
}

/// Opens a live segment that a crash left in a prepared day folder instead of the lake. Its
/// checksum is verified as usual.
fn prepared_file(root: &Path, day: Day, live: &Path) -> Option<File> {
    let name = live.file_name()?;
    let folders = files::list(&root.join(COMPACTING_DIR)).ok()?;
    folders
        .iter()
        .filter(|folder| prepared_day(folder) == Some(date(day)))
        .find_map(|folder| files::open(&folder.join(name)).ok())
}

/// The day of a prepared day folder; none for anything else.
pub fn prepared_day(path: &Path) -> Option<NaiveDate> {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let name = path.file_name()?.to_str()?;
    shape::prepared_day(name).filter(|_| is_folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventType};
    use crate::store::files::rows::LakeRows;
    use crate::window::DAY_US;

    /// Events of these users and times, with metadata of so many bytes each.
    fn events(rows: &[(Option<&'static str>, i64)], metadata_bytes: usize) -> Result<DataFrame> {
        let mut events = LakeRows::for_lines(0);
        for &(user, ts_us) in rows {
            events.push(&Event {
                ts_us,
                event_type: EventType::Action,
                user_id: user.map(Into::into),
                feature: None,
                metadata: "x".repeat(metadata_bytes).into(),
                url: None,
                event_id: None,
                received_at_us: ts_us,
            });
        }
        events.finish()
    }

    #[test]
    fn strings_are_ranked_in_their_order_after_null() {
        for (strings, expected) in [
            (&[][..], &[][..]),
            (&[None, None], &[0, 0]),
            (&[Some("b")], &[1]),
            (
                &[Some("b"), Some("a"), None, Some("b"), Some("")],
                &[3, 2, 0, 3, 1],
            ),
            (&[Some("ü"), Some("z"), Some("Z")], &[3, 2, 1]),
        ] {
            let column = StringChunked::from_iter_options("s".into(), strings.iter().copied());
            assert_eq!(ranks(&column), expected, "{strings:?}");
        }
    }

    #[test]
    fn rows_are_sorted_by_day_user_and_time_and_else_stay_in_order() -> Result<()> {
        let events = events(
            &[
                (Some("b"), DAY_US + 5),
                (Some("a"), DAY_US + 9),
                (Some("b"), DAY_US + 5),
                (None, DAY_US + 9),
                (Some("b"), DAY_US + 1),
                (Some("z"), DAY_US - 1),
                (Some("a"), 2 * DAY_US),
            ],
            2,
        )?;
        let (order, lengths) = order(&events)?;
        assert_eq!(order, [5, 3, 1, 4, 0, 2, 6]);
        assert_eq!(lengths, BTreeMap::from([(0, 1), (1, 5), (2, 1)]));
        let sorted = Sorted::new(events)?;
        let days = sorted.days().map(|(day, events)| (day, events.height()));
        let days: Vec<(Day, usize)> = days.collect();
        assert_eq!(days, [(0, 1), (1, 5), (2, 1)]);
        Ok(())
    }

    #[test]
    fn row_groups_are_smaller_with_much_metadata() -> Result<()> {
        let rows = [(Some("u"), 1); 4];
        for (metadata_bytes, expected) in [
            (2, ROW_GROUP_ROWS),
            (ROW_GROUP_BYTES / ROW_GROUP_ROWS, ROW_GROUP_ROWS),
            (ROW_GROUP_BYTES / 4_096, 4_096),
            (1 << 20, MIN_ROW_GROUP_ROWS),
        ] {
            let found = row_group_rows(&events(&rows, metadata_bytes)?)?;
            assert_eq!(found, expected, "{metadata_bytes} bytes");
        }
        Ok(())
    }

    #[test]
    fn a_segment_is_written_read_and_verified() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let rows = [
            (Some("b"), DAY_US + 2),
            (Some("a"), DAY_US + 8),
            (Some("a"), 2 * DAY_US),
        ];
        let sorted = Sorted::new(events(&rows, 2)?)?;
        let meta = write_days(&folder, "00000001-0000", &sorted)?;
        let extents = meta
            .iter()
            .map(|meta| (meta.rows, meta.first_ts_us, meta.last_ts_us));
        assert_eq!(
            extents.collect::<Vec<_>>(),
            [(2, DAY_US + 2, DAY_US + 8), (1, 2 * DAY_US, 2 * DAY_US)]
        );
        let segment = Segment::new(folder.path(), meta[0].clone());
        assert!(segment.overlaps(&(DAY_US + 8..DAY_US + 9)));
        assert!(!segment.overlaps(&(DAY_US..DAY_US + 2)));
        assert!(!segment.overlaps(&(DAY_US + 9..i64::MAX)));
        let segment = Arc::new(segment);
        let read = scan(std::slice::from_ref(&segment))?.collect()?;
        let users = read
            .column(schema::USER_ID)?
            .str()?
            .iter()
            .collect::<Vec<_>>();
        assert_eq!(users, [Some("a"), Some("b")]);
        // A kept segment outlives its file; another one without a file is damaged.
        segment.keep()?;
        std::fs::remove_file(segment.path()).expect("removed");
        assert_eq!(scan(std::slice::from_ref(&segment))?.collect()?.height(), 2);
        let missing = Segment::new(folder.path(), meta[0].clone());
        assert!(matches!(missing.verified(), Err(Error::Damaged { .. })));
        Ok(())
    }

    #[test]
    fn a_segment_that_is_read_alone_has_the_rows_of_a_scan() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        // So much metadata that there are three row groups.
        let rows: Vec<_> = (0..2_100).map(|at| (Some("u"), DAY_US + at)).collect();
        let sorted = Sorted::new(events(&rows, 17_000)?)?;
        let meta = write_days(&folder, "00000001-0000", &sorted)?.remove(0);
        let segment = Arc::new(Segment::new(folder.path(), meta));
        let scanned = scan(std::slice::from_ref(&segment))?;
        let all = scanned.clone().collect()?;
        assert_eq!(all.height(), 2_100);
        assert!(read_alone(&segment, None, ALL_ROWS)?.equals_missing(&all));
        let names = [schema::USER_ID, schema::TS];
        let some = read_alone(&segment, Some(&names), ALL_ROWS)?.select(names)?;
        let expected = scanned.select([col(schema::USER_ID), col(schema::TS)]);
        assert!(some.equals_missing(&expected.collect()?));
        let part = read_alone(&segment, None, 900..1_100)?;
        assert!(part.equals_missing(&all.slice(900, 200)));
        Ok(())
    }

    #[test]
    fn a_damaged_segment_is_moved_out_of_the_lake() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let sorted = Sorted::new(events(&[(Some("a"), DAY_US)], 2)?)?;
        let meta = write_days(&folder, "00000001-0000", &sorted)?.remove(0);
        let segment = Segment::new(folder.path(), meta);
        segment.verified()?;
        let mut bytes = std::fs::read(segment.path()).expect("read");
        bytes[10] ^= 1;
        std::fs::write(segment.path(), bytes).expect("written");
        assert!(segment.scrub().is_err());
        assert!(!segment.path().exists());
        let damaged = folder
            .path()
            .join(DAMAGED_DIR)
            .join(segment.meta.file_name());
        assert!(damaged.exists());
        assert!(segment.verified().is_err(), "every later use fails");
        Ok(())
    }

    #[test]
    fn a_replacing_segment_keeps_the_position_in_the_order_of_names() {
        let meta = |name: &str| SegmentMeta {
            path: path_of(1, name),
            rows: 1,
            bytes: 1,
            crc32c: 1,
            first_ts_us: DAY_US,
            last_ts_us: DAY_US,
            last_received_at_us: DAY_US,
            format: FORMAT,
            system: 0,
        };
        for (name, expected) in [
            ("00000012-0003", "00000012-0003-00000017"),
            ("00000012-0003-00000015", "00000012-0003-00000017"),
            ("00000012-m", "00000012-m-00000017"),
            ("other", "00000017-0000"),
        ] {
            assert_eq!(name_in_place_of(&meta(name), 17), expected);
        }
        for (name, number) in [
            ("00000012-0003", Some(12)),
            ("00000012-0003-00000017", Some(17)),
            ("other", None),
        ] {
            assert_eq!(number_of(Path::new(&meta(name).path)), number);
        }
        assert_eq!(
            meta("00000012-0003").file_name(),
            "dt=1970-01-02-00000012-0003.parquet"
        );
    }
}
