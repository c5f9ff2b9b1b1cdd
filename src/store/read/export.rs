//! Export: the sealed events of each day in one version, to be written elsewhere.

use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;

use chrono::NaiveDate;
use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::checksum;
use crate::daily::date;
use crate::error::{Error, Result};
use crate::event::SYSTEM_NAME;
use crate::parquet;
use crate::schema;
use crate::store::Store;
use crate::store::erased::{Visible, is_about, is_any};
use crate::store::files::output::Output;
use crate::store::files::segment::{self, FORMAT, Segment, Sorted};
use crate::store::version::{ALWAYS_US, SealedLinks, Version};
use crate::window::Window;

/// Rows of a row group of a joined file, which are in memory at once: as many as of a segment.
const ROW_GROUP_ROWS: usize = 1 << 17;

/// The segments of a day. They stay readable while this exists.
pub struct SealedDay {
    /// The day.
    pub day: NaiveDate,
    segments: Vec<Arc<Segment>>,
    /// Its events that cannot be sealed, because the folder is read-only.
    unsealed: Option<DataFrame>,
}

/// Some segments of a day, and events that are in no segment, which become one file.
pub struct Part<'a>(&'a [Arc<Segment>], Option<&'a DataFrame>);

/// Metadata of a written part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPartMeta {
    /// Events.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32C of these.
    pub crc32c: u32,
}

impl Store {
    /// The sealed events of the days of a window, or of all days.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment is.
    pub fn sealed_days(&self, window: Option<&Window>) -> Result<Vec<SealedDay>> {
        let mut segments = self.versions.version().segments.clone();
        if let Some(window) = window {
            let days = window.days_in_epoch();
            segments.retain(|segment| days.contains(&segment.day()));
        }
        segments.sort_by_key(|segment| segment.day());
        // They stay readable when compaction or expiry removes their names.
        segments
            .iter()
            .try_for_each(|segment| segment.verified_or_kept())?;
        let days = segments.chunk_by(|a, b| a.day() == b.day());
        Ok(days
            .filter_map(|of_day| {
                Some(SealedDay {
                    day: date(of_day.first()?.day()),
                    segments: of_day.to_vec(),
                    unsealed: None,
                })
            })
            .collect())
    }

    /// All events of the days of a window, or of all days, unsealed ones included.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment or the log is.
    pub fn days_with_unsealed(&self, window: Option<&Window>) -> Result<Vec<SealedDay>> {
        let mut days = self.sealed_days(window)?;
        let snapshot = self.versions.snapshot(&ALWAYS_US)?;
        let visible = snapshot.visible.map_or(lit(true), Visible::all);
        let mut unsealed = Vec::new();
        for chunk in snapshot.tail {
            unsealed.push(chunk.whole()?.lazy().filter(visible.clone()));
        }
        if unsealed.is_empty() {
            return Ok(days);
        }
        let events = concat(unsealed, UnionArgs::default())?.collect()?;
        for (day, events) in Sorted::new(events)?.days() {
            if window.is_some_and(|window| !window.days_in_epoch().contains(&day)) {
                continue;
            }
            let day = date(day);
            match days.binary_search_by_key(&day, |known| known.day) {
                Ok(place) => {
                    if let Some(known) = days.get_mut(place) {
                        known.unsealed = Some(events);
                    }
                }
                Err(place) => days.insert(
                    place,
                    SealedDay {
                        day,
                        segments: Vec::new(),
                        unsealed: Some(events),
                    },
                ),
            }
        }
        Ok(days)
    }
}

/// The segments of a committed version. They stay readable while this exists.
pub struct SealedVersion {
    /// Greatest number in the name of a file that was ever live.
    pub sequence: u64,
    /// Its segments, in the order of the log.
    pub segments: Vec<SealedSegment>,
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// Its links between ids.
    pub(in crate::store) links: SealedLinks,
}

/// A segment of a version.
pub struct SealedSegment(Arc<Segment>);

impl SealedVersion {
    /// The published version.
    pub(in crate::store) fn of(version: &Version) -> Self {
        let segments = version.segments.iter().cloned();
        Self {
            sequence: version.sequence,
            segments: segments.map(SealedSegment).collect(),
            raw_from: version.expiry.raw_from,
            links: version.links.clone(),
        }
    }

    /// Identifies its content.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        for SealedSegment(segment) in &self.segments {
            (&segment.meta.path, segment.meta.crc32c).hash(&mut hasher);
        }
        let links = self.links.meta.as_ref();
        links.map(|links| &links.path).hash(&mut hasher);
        hasher.finish()
    }

    /// Number of times that links were removed, of this version and those before it.
    pub fn link_removals(&self) -> u64 {
        self.links.links.removals()
    }
}

impl SealedSegment {
    /// The day of its events.
    pub fn day(&self) -> NaiveDate {
        date(self.0.day())
    }

    /// A name for its content: those of the segments of a day sort in the order of the log.
    pub fn name(&self) -> String {
        let path = Path::new(&self.0.meta.path);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        format!("{stem}-{:08x}", self.0.meta.crc32c)
    }

    /// The number of its events in the order of the log: those that are sealed later have greater
    /// ones, and one that replaces others has that of the first.
    pub fn number(&self) -> u64 {
        self.0.place_number()
    }

    /// Events.
    pub fn rows(&self) -> u64 {
        self.0.meta.rows
    }

    /// Least and greatest `ts`, in µs.
    pub fn span_us(&self) -> (i64, i64) {
        (self.0.meta.first_ts_us, self.0.meta.last_ts_us)
    }

    /// The length of a copy; `None` if it is written again, because its format is an earlier one.
    pub fn bytes(&self) -> Option<u64> {
        (self.0.meta.format == FORMAT).then_some(self.0.meta.bytes)
    }

    /// Writes a copy that every program can read, durably.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the segment is, and if the copy cannot be written.
    pub fn write(&self, path: &Path) -> Result<ExportPartMeta> {
        Part(std::slice::from_ref(&self.0), None).write(path)
    }
}

impl SealedDay {
    /// Identifies its content.
    pub fn sources(&self) -> Vec<String> {
        let meta = self.segments.iter().map(|segment| &segment.meta);
        let sealed = meta.map(|meta| format!("{} {:08x}", meta.path, meta.crc32c));
        // The log only grows until it is sealed, and then the segments change.
        let unsealed = self.unsealed.iter();
        let unsealed = unsealed.map(|events| format!("{} events of the log", events.height()));
        sealed.chain(unsealed).collect()
    }

    /// Events.
    pub fn rows(&self) -> u64 {
        let sealed: u64 = self.segments.iter().map(|segment| segment.meta.rows).sum();
        sealed
            + self
                .unsealed
                .as_ref()
                .map_or(0, |events| events.height() as u64)
    }

    /// Its segments in parts of at most about `bytes`.
    pub fn parts(&self, bytes: u64) -> Vec<Part<'_>> {
        let mut sum = 0;
        let mut parts = Vec::new();
        let mut rest = self.segments.as_slice();
        for (place, segment) in self.segments.iter().enumerate() {
            sum += segment.meta.bytes;
            if sum > bytes && sum > segment.meta.bytes {
                let taken = self.segments.len() - rest.len();
                let (part, after) = rest.split_at(place - taken);
                parts.push(Part(part, None));
                rest = after;
                sum = segment.meta.bytes;
            }
        }
        parts.push(Part(rest, self.unsealed.as_ref()));
        parts
    }
}

impl Part<'_> {
    /// Writes it as one Parquet file, durably: a copy of its segment or, of several, their events
    /// one after another.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment is, and if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<ExportPartMeta> {
        let rows: u64 = self.0.iter().map(|segment| segment.meta.rows).sum();
        let rows = rows + self.1.map_or(0, |events| events.height() as u64);
        let file = File::create(path).map_err(Error::io("create", path))?;
        // A segment of an earlier format is not copied: other programs read the export.
        let copied = match (self.0, self.1) {
            ([segment], None) if segment.meta.format == FORMAT => Some(segment),
            _ => None,
        };
        Output::new(file, path).write(|out| match copied {
            Some(segment) => segment.copy_to(out, path),
            None => join(self.0, self.1, out),
        })?;
        let meta = meta(path, rows)?;
        match copied {
            Some(segment) if segment.meta.crc32c != meta.crc32c => Err(Error::Damaged {
                file: path.to_owned(),
                message: "the copy differs from the segment".into(),
            }),
            _ => Ok(meta),
        }
    }
}

/// Writes the events of a Parquet file with the columns of [`schema::lake`] to `temp`, durably,
/// without those of some users and the identity calls that name them. `None` if there are none.
///
/// # Errors
/// If a file cannot be read or written.
pub fn rewrite_without(path: &Path, temp: &Path, users: &[&str]) -> Result<Option<ExportPartMeta>> {
    let events = read(path)?;
    let before = events.height();
    let kept = events.lazy().filter(is_about(users).not()).collect()?;
    if kept.height() == before {
        return Ok(None);
    }
    write(kept, temp).map(Some)
}

/// The number of events of such a file that are of some users, or identity calls that name them.
///
/// # Errors
/// If it cannot be read.
pub fn count_of(path: &Path, users: &[&str]) -> Result<u64> {
    let read = |columns: &[&str]| {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        let reader = ParquetReader::new(file).with_columns(Some(columns));
        Ok::<_, Error>(reader.finish()?)
    };
    let ids = read(&[schema::USER_ID, schema::EVENT_TYPE])?;
    let types = ids.column(schema::EVENT_TYPE)?.str()?;
    let has_system = types.iter().any(|name| name == Some(SYSTEM_NAME));
    let theirs = if has_system {
        let details = read(&[schema::FEATURE, schema::METADATA])?;
        ids.hstack(details.columns())?
            .lazy()
            .filter(is_about(users))
            .collect()?
    } else {
        ids.lazy().filter(is_any(users)).collect()?
    };
    Ok(theirs.height() as u64)
}

/// Writes the events of such a file to `temp`, durably, as files are written now.
///
/// # Errors
/// If a file cannot be read or written.
pub fn rewrite(path: &Path, temp: &Path) -> Result<ExportPartMeta> {
    write(read(path)?, temp)
}

fn read(path: &Path) -> Result<DataFrame> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    Ok(ParquetReader::new(file).finish()?)
}

/// Writes events as a Parquet file, durably.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(mut events: DataFrame, temp: &Path) -> Result<ExportPartMeta> {
    let file = File::create(temp).map_err(Error::io("create", temp))?;
    Output::new(file, temp).write(|out| {
        parquet::writer(out, events.schema())?
            .with_row_group_size(Some(ROW_GROUP_ROWS))
            .finish(&mut events)?;
        Ok(())
    })?;
    meta(temp, events.height() as u64)
}

/// Metadata of a written file.
fn meta(path: &Path, rows: u64) -> Result<ExportPartMeta> {
    let written = File::open(path).map_err(Error::io("open", path))?;
    Ok(ExportPartMeta {
        rows,
        bytes: written.metadata().map_err(Error::io("read", path))?.len(),
        crc32c: checksum::of_file(&written, path)?,
    })
}

fn join(segments: &[Arc<Segment>], unsealed: Option<&DataFrame>, out: &mut Output) -> Result<()> {
    let mut writer = parquet::writer(out, &schema::lake())?
        .with_row_group_size(Some(ROW_GROUP_ROWS))
        .batched(&schema::lake())?;
    for segment in segments {
        let events = segment::scan(std::slice::from_ref(segment))?;
        for start in (0..segment.meta.rows).step_by(ROW_GROUP_ROWS) {
            let rows = events
                .clone()
                .slice(start as i64, ROW_GROUP_ROWS as IdxSize);
            writer.write_batch(&rows.collect()?)?;
        }
    }
    if let Some(events) = unsealed {
        for start in (0..events.height()).step_by(ROW_GROUP_ROWS) {
            writer.write_batch(&events.slice(start as i64, ROW_GROUP_ROWS))?;
        }
    }
    writer.finish()?;
    Ok(())
}
