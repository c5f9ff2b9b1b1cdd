//! A segment: one immutable Parquet file of the lake, with events of one day of UTC, user by user in the order of time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chrono::NaiveDate;
use polars::prelude::*;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::files;
use super::folder::{self, Access, Folder};
use super::output::{Output, Written};
use super::shape::{self, COMPACTING_DIR};
use crate::checksum;
use crate::daily::{Day, date, day_of};
use crate::digest::{DigestMap, Digester};
use crate::error::{Error, Result};
use crate::parquet;
use crate::schema;

/// The lake's folder in the data folder. Nothing but whole segments is ever inside.
pub const LAKE_DIR: &str = "events";

/// Where damaged segments are set aside, in the data folder.
const DAMAGED_DIR: &str = "damaged";
/// Rows of a row group: a reader of one user's events reads one of them, and a scan works on several at once.
const ROW_GROUP_ROWS: usize = 1 << 17;
/// Bytes of metadata in a row group, about: a reader of a few rows may have to read the dictionary of all of it. Usual events
/// have less in as many rows as a row group has.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Rows of a row group at least.
const MIN_ROW_GROUP_ROWS: usize = 1 << 10;

/// How segments are written now. Older ones are read, and compaction writes them again.
pub const FORMAT: u32 = 1;

/// What the manifest keeps of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// Path below the data folder.
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
    /// Greatest `received_at`, in µs: whether its event ids still matter for deduplication.
    pub last_received_at_us: i64,
    /// How the file is written: [`FORMAT`], or 0 for one whose embedded Arrow schema says that strings are views, which many
    /// readers do not take.
    #[serde(default)]
    pub format: u32,
}

impl SegmentFacts {
    /// The day of its events.
    fn day(&self) -> Day {
        day_of(self.first_ts_us)
    }

    /// A name for a file about it outside the lake.
    pub fn file_name(&self) -> String {
        let name = Path::new(&self.path).file_name().unwrap_or_default();
        format!("dt={}-{}", date(self.day()), name.display())
    }
}

/// A live segment. Its checksum is verified before its first use. No descriptor stays open for it: it is opened for each use,
/// and verified again if another file has its name. One whose name is about to go is kept in memory by [`Segment::keep`], as
/// a mapping, for those who still read it.
#[derive(Debug)]
pub struct Segment {
    /// What the manifest says of it.
    pub facts: SegmentFacts,
    root: PathBuf,
    /// The file that was verified.
    verified: Mutex<Option<FileId>>,
    /// Its content, once its name is about to go.
    kept: OnceLock<ScanSources>,
    /// What was found wrong with it.
    damage: OnceLock<String>,
}

/// What tells a file from another one under its name, and from itself before it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileId {
    fn of(file: &File, path: &Path) -> Result<Self> {
        let found = file.metadata().map_err(Error::io("look at", path))?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl Segment {
    /// The segment of the data folder `root` with these facts. The file is not touched yet.
    pub fn new(root: &Path, facts: SegmentFacts) -> Self {
        Self {
            root: root.to_owned(),
            facts,
            verified: Mutex::new(None),
            kept: OnceLock::new(),
            damage: OnceLock::new(),
        }
    }

    /// The data folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.facts.path)
    }

    /// Whether it may hold events of `range_us`.
    pub fn overlaps(&self, range_us: &Range<i64>) -> bool {
        self.facts.first_ts_us < range_us.end && self.facts.last_ts_us >= range_us.start
    }

    /// The day of its events.
    pub fn day(&self) -> Day {
        self.facts.day()
    }

    /// Compares the file with its checksum, now. Polars does not notice most damage of a Parquet file.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn verify(&self) -> Result<()> {
        self.check(&self.open()?)
    }

    fn open(&self) -> Result<File> {
        let path = self.path();
        match File::open(&path) {
            // An exchange of folders that was cut off has left it beside the lake.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                prepared_file(&self.root, self.day(), &path).ok_or_else(|| {
                    self.damaged("it is missing; look for it in damaged, or restore it")
                })
            }
            opened => opened.map_err(Error::io("open", &path)),
        }
    }

    fn check(&self, file: &File) -> Result<()> {
        match checksum::of_file(file, &self.path())? {
            found if found == self.facts.crc32c => Ok(()),
            found => Err(self.damaged(&format!(
                "its checksum is {found:08x}, written was {:08x}",
                self.facts.crc32c
            ))),
        }
    }

    /// The file, compared with its checksum if that was not done yet with this very file in this process. A damaged one is set
    /// aside, where no reader of the lake takes its numbers for good, and every later use fails.
    ///
    /// # Errors
    /// As [`Segment::verify`].
    pub fn verified(&self) -> Result<File> {
        if let Some(message) = self.damage.get() {
            return Err(self.damaged(message));
        }
        self.verify_new().inspect_err(|error| {
            // The name of one that is kept is gone, and nothing is wrong with it.
            if self.kept.get().is_none() {
                self.condemn(error);
            }
        })
    }

    /// Opens the file, and compares it with its checksum unless that was done.
    fn verify_new(&self) -> Result<File> {
        let file = self.open()?;
        let path = self.path();
        let found = FileId::of(&file, &path)?;
        // Held meanwhile, so that of several readers one verifies it.
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if *verified != Some(found) {
            self.check(&file)?;
            *verified = Some(found);
        }
        Ok(file)
    }

    /// The content, verified, for the engine. It stays what it is as long as the value exists, and needs no descriptor.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    fn content(&self) -> Result<ScanSources> {
        if let Some(kept) = self.kept.get() {
            return Ok(kept.clone());
        }
        match self.verified() {
            Ok(file) => mapped(file),
            // Its name went between the two looks.
            Err(error) => self.kept.get().cloned().ok_or(error),
        }
    }

    /// Compares it with its checksum if that was not done yet, whether it still has its name or not.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn verified_or_kept(&self) -> Result<()> {
        match self.verified() {
            Err(error) if self.kept.get().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps the content for those who have this segment: its name is about to go.
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

    /// Writes a copy of the file.
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

    /// Compares the file with its checksum again, as the scrub does from time to time.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn scrub(&self) -> Result<()> {
        if let Some(message) = self.damage.get() {
            return Err(self.damaged(message));
        }
        self.verify().inspect_err(|error| self.condemn(error))
    }

    /// Compares the file with its checksum once more.
    ///
    /// # Errors
    /// As [`Segment::verified`].
    pub fn verify_again(&self) -> Result<()> {
        self.check(&self.verified()?)
    }

    /// Keeps a damaged file from being used again, here and by other programs.
    fn condemn(&self, error: &Error) {
        if let Error::Damaged { message, .. } = error
            && self.damage.set(message.clone()).is_ok()
        {
            error!("{error}; answers that need it fail until it is restored");
            if let Err(error) = self.set_aside() {
                warn!("It stays in the lake: {error}");
            }
        }
    }

    /// Moves the file out of the lake.
    fn set_aside(&self) -> Result<()> {
        let path = self.path();
        if !path.exists() || folder::access_of(&self.root) == Access::ReadOnly {
            return Ok(());
        }
        let dir = self.root.join(DAMAGED_DIR);
        files::make(&dir)?;
        files::publish(&path, &dir.join(self.facts.file_name()))?;
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
/// If the lake cannot be listed; that there is none is no error.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for day in days(root)? {
        files.extend(files::list(&day)?);
    }
    Ok(files)
}

/// The folders of the lake's days.
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

/// Removes the folders of days that have no file and should have none.
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

/// Removes the files of a seal or load that failed, by their number: those that are not live.
///
/// # Errors
/// If the lake cannot be listed or changed; the next start removes them then.
pub fn remove_uncommitted(folder: &Folder, number: u64, live: &[SegmentFacts]) -> Result<()> {
    let live: HashSet<PathBuf> = live
        .iter()
        .map(|facts| folder.path().join(&facts.path))
        .collect();
    for path in files(folder.path())? {
        if number_of(&path) == Some(number) && !live.contains(&path) {
            files::remove(&path)?;
        }
    }
    remove_empty_days(folder.path(), &live)
}

/// The number under which a segment was written, by its name: by it files are older or newer than a manifest.
pub fn number_of(path: &Path) -> Option<u64> {
    let (number, _, rewritten) = shape::segment_parts(path.file_name()?.to_str()?)?;
    rewritten.unwrap_or(number).parse().ok()
}

/// The name of a segment that is written under a number and takes the place of another, or of several of which this is the
/// first. The names of a day's segments sort in the order of the log, by which other programs put events of one instant in
/// order; so the new name begins as the old one does.
pub fn name_in_place_of(first: &SegmentFacts, number: u64) -> String {
    let file = Path::new(&first.path).file_name().unwrap_or_default();
    match file.to_str().and_then(shape::segment_parts) {
        Some((place, part, _)) => format!("{place}-{part}-{number:08}"),
        None => format!("{number:08}-0000"),
    }
}

/// Takes days that expired, of which these are the segments, out of the lake and removes them, what was damaged of them
/// too. A reader that has them
/// keeps them.
///
/// # Errors
/// If they cannot be moved or removed; the next start removes them then.
pub fn remove_days(folder: &Folder, segments: &[Arc<Segment>]) -> Result<()> {
    let mut days = BTreeSet::new();
    for segment in segments {
        // Readers may only now read what they saw before; a damaged one they cannot use anyhow.
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
                // Where there is no room for another name its files go one by one, in sight of others.
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

/// An open file as a source that needs no descriptor: a mapping, as the engine makes one of each file that it reads.
fn mapped(file: File) -> Result<ScanSources> {
    let files = ScanSources::Files(Arc::new([file]));
    let content = files.iter().map(|file| file.to_memslice());
    Ok(ScanSources::Buffers(content.collect::<PolarsResult<_>>()?))
}

/// The events of some segments, with the columns of [`schema::lake`]. They need no descriptor.
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
            // The partition key is a function of `ts` and no column of ours.
            hive_options: HiveOptions::new_disabled(),
            glob: false,
            ..ScanArgsParquet::default()
        },
    )?)
}

/// Writes events as one segment for each day of them, named `name`. The files are durable when this returns, and not live
/// before a manifest names them.
///
/// # Errors
/// If a file cannot be written.
pub fn write_days(folder: &Folder, name: &str, events: &Sorted) -> Result<Vec<SegmentFacts>> {
    let mut files: Vec<(PathBuf, SegmentFacts)> = Vec::new();
    let written = events.days().try_for_each(|(day, events)| {
        let temp = folder.temp(&format!("{}-{name}.parquet", date(day)))?;
        let facts = files::or_remove(&temp, || write_sorted(&temp, path_of(day, name), events))?;
        files.push((temp, facts));
        Ok(())
    });
    if let Err(error) = written.and_then(|()| publish(folder, &files)) {
        for (temp, _) in &files {
            // It is cleared at the next start if it cannot be removed now.
            let _ = std::fs::remove_file(temp);
        }
        return Err(error);
    }
    Ok(files.into_iter().map(|(_, facts)| facts).collect())
}

/// Events in the order of segments: by day, user and time.
pub struct Sorted {
    /// With the columns of [`schema::lake`].
    pub events: DataFrame,
    /// Events of each day.
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
        // Column by column on this thread: the engine's threads are for questions.
        let columns = events.columns().iter().map(|column| column.take(&order));
        let events = DataFrame::new(events.height(), columns.collect::<PolarsResult<_>>()?)?;
        Ok(Self { events, lengths })
    }

    pub(super) fn days(&self) -> impl Iterator<Item = (Day, DataFrame)> {
        let mut start = 0;
        self.lengths.iter().map(move |(&day, &length)| {
            let of_day = self.events.slice(start, length);
            start += length as i64;
            (day, of_day)
        })
    }
}

/// The rows by day, user and time, those of one user and instant in the order of the frame, which is that of the log;
/// and the number of rows of each day.
///
/// Not the engine's own sort by two columns, which compares texts wherever they lie: here each text is looked up once,
/// and numbers are compared.
fn order(events: &DataFrame) -> Result<(Vec<IdxSize>, BTreeMap<Day, usize>)> {
    let users = events.column(schema::USER_ID)?.str()?;
    let instants = events.column(schema::TS)?.to_physical_repr();
    let mut lengths = BTreeMap::new();
    let ranks = ranks(users);
    let mut keys: Vec<(Day, u32, i64, IdxSize)> = ranks
        .into_iter()
        .zip(instants.i64()?.iter())
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

/// The place of each text among those that are there, in their order; nulls first.
fn ranks(texts: &StringChunked) -> Vec<u32> {
    let digester = Digester::new();
    let mut numbers: DigestMap<u32> = DigestMap::default();
    // Null has a number, whether there is one or not.
    let mut sorted = vec![(None, 0)];
    let mut of_rows = Vec::with_capacity(texts.len());
    for text in texts.iter() {
        let number = text.map_or(0, |text| {
            *numbers.entry(digester.digest(text)).or_insert_with(|| {
                let number = sorted.len() as u32;
                sorted.push((Some(text), number));
                number
            })
        });
        of_rows.push(number);
    }
    sorted.sort_unstable();
    let mut ranks = vec![0; sorted.len()];
    for ((_, number), rank) in sorted.into_iter().zip(0..) {
        if let Some(place) = ranks.get_mut(number as usize) {
            *place = rank;
        }
    }
    of_rows
        .into_iter()
        .map(|number| ranks.get(number as usize).copied().unwrap_or_default())
        .collect()
}

/// Path of a segment below the data folder.
pub fn path_of(day: Day, name: &str) -> String {
    format!("{LAKE_DIR}/dt={}/{name}.parquet", date(day))
}

/// Gives finished files, one of each day, their places in the lake, durably.
fn publish(folder: &Folder, files: &[(PathBuf, SegmentFacts)]) -> Result<()> {
    let lake = folder.path().join(LAKE_DIR);
    files::make(&lake)?;
    let mut has_new_day = false;
    for (temp, facts) in files {
        let path = folder.path().join(&facts.path);
        let day = path.parent().unwrap_or(&lake);
        if !day.exists() {
            files::make_private(day).map_err(Error::io("create", day))?;
            has_new_day = true;
        }
        files::may_fail("rename", &path).map_err(Error::io("rename to", &path))?;
        std::fs::rename(temp, &path).map_err(Error::io("rename to", &path))?;
    }
    for (_, facts) in files {
        files::sync_parent(&folder.path().join(&facts.path))?;
    }
    match has_new_day {
        true => files::sync(&lake),
        false => Ok(()),
    }
}

/// Writes events of one day as a segment to the file `temp`, durably; `path` is where it will be below the data folder.
///
/// # Errors
/// If the file cannot be written, or there are events of other days.
pub fn write_day(temp: &Path, path: String, events: DataFrame) -> Result<SegmentFacts> {
    let sorted = Sorted::new(events)?;
    match sorted.lengths.len() {
        1 => files::or_remove(temp, || write_sorted(temp, path, sorted.events)),
        _ => Err(Error::Query("events of one day are of several".into())),
    }
}

/// Rows of a row group of these events: fewer where they have much metadata.
fn row_group_rows(events: &DataFrame) -> Result<usize> {
    let metadata = events.column(schema::METADATA)?.str()?;
    let bytes: usize = metadata.iter().flatten().map(str::len).sum();
    let rows = ROW_GROUP_BYTES.saturating_mul(events.height()) / bytes.max(1);
    Ok(rows.clamp(MIN_ROW_GROUP_ROWS, ROW_GROUP_ROWS))
}

/// Writes events in the order of users and then of time. Users lie together because nearly every question that reads
/// events is about what a user did: groups are found next to each other, and one user's events are in one row group.
fn write_sorted(temp: &Path, path: String, mut events: DataFrame) -> Result<SegmentFacts> {
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
    Ok(SegmentFacts {
        path,
        rows: events.height() as u64,
        bytes,
        crc32c,
        first_ts_us,
        last_ts_us,
        last_received_at_us,
        format: FORMAT,
    })
}

/// The least and the greatest instant of a column.
fn span_us(events: &DataFrame, name: &str) -> Result<(i64, i64)> {
    let column = events.column(name)?.to_physical_repr();
    let instants = column.i64()?;
    Ok((
        instants.min().unwrap_or_default(),
        instants.max().unwrap_or_default(),
    ))
}

/// The file of a live segment that is not in the lake but in a folder beside it, where a crash left it: it is what the manifest
/// says wherever it is.
fn prepared_file(root: &Path, day: Day, live: &Path) -> Option<File> {
    let name = live.file_name()?;
    let folders = files::list(&root.join(COMPACTING_DIR)).ok()?;
    folders
        .iter()
        .filter(|folder| prepared_day(folder) == Some(date(day)))
        .find_map(|folder| files::open(&folder.join(name)).ok())
}

/// The day of a folder that was prepared; none if it is something else.
pub fn prepared_day(path: &Path) -> Option<NaiveDate> {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let name = path.file_name()?.to_str()?;
    shape::prepared_day(name).filter(|_| is_folder)
}
