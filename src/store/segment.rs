//! A segment: one immutable Parquet file of the lake, with events of one day of UTC in the order of `ts`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, NaiveDate};
use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::folder::{self, Folder};
use crate::checksum;
use crate::error::{Error, Result};
use crate::schema;
use crate::window::DAY_US;

/// The lake's folder in the data folder. Nothing but whole segments is ever inside.
pub const LAKE_DIR: &str = "events";

/// Bytes written at a time: the engine itself writes a few at a time.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

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
}

/// A live segment. Its checksum is verified before its first use.
#[derive(Debug)]
pub struct Segment {
    /// What the manifest says of it.
    pub facts: SegmentFacts,
    path: PathBuf,
    verified: OnceLock<()>,
}

impl Segment {
    /// The segment of the data folder `root` with these facts. The file is not touched yet.
    pub fn new(root: &Path, facts: SegmentFacts) -> Self {
        Self {
            path: root.join(&facts.path),
            facts,
            verified: OnceLock::new(),
        }
    }

    /// Whether it may hold events of `range_us`.
    pub fn overlaps(&self, range_us: &Range<i64>) -> bool {
        self.facts.first_ts_us < range_us.end && self.facts.last_ts_us >= range_us.start
    }

    /// Compares the file with its checksum, now. Polars does not notice most damage of a Parquet file.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn verify(&self) -> Result<()> {
        let found = checksum::of_file(&self.path)?;
        if found == self.facts.crc32c {
            return Ok(());
        }
        Err(Error::Damaged {
            file: self.path.clone(),
            message: format!(
                "its checksum is {found:08x}, written was {:08x}",
                self.facts.crc32c
            ),
        })
    }

    /// Compares the file with its checksum if that was not done yet in this process.
    ///
    /// # Errors
    /// As [`Segment::verify`].
    pub fn verify_once(&self) -> Result<()> {
        if self.verified.get().is_none() {
            self.verify()?;
            // Two readers may both have verified it.
            let _ = self.verified.set(());
        }
        Ok(())
    }
}

/// The file names of all segments in the lake, live or not.
///
/// # Errors
/// If the lake cannot be listed; that there is none is no error.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let lake = folder.join(LAKE_DIR);
    let list = |dir: &Path| match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
            .map_err(Error::io("list", dir)),
    };
    let mut names = Vec::new();
    for day in list(&lake)? {
        for file in list(&day.path())? {
            names.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The events of some segments, with the columns of [`schema::lake`].
///
/// # Errors
/// [`Error::Damaged`] if one of them is.
pub fn scan(segments: &[Arc<Segment>]) -> Result<LazyFrame> {
    let mut paths = Vec::with_capacity(segments.len());
    for segment in segments {
        segment.verify_once()?;
        paths.push(PlRefPath::try_from_path(&segment.path)?);
    }
    Ok(LazyFrame::scan_parquet_files(
        paths.into(),
        ScanArgsParquet {
            // The partition key is a function of `ts` and no column of ours.
            hive_options: HiveOptions::new_disabled(),
            glob: false,
            ..ScanArgsParquet::default()
        },
    )?)
}

/// Writes a frame with the columns of [`schema::lake`] as one segment for each day in it, named `name`.
/// The files are durable when this returns, and not live before a manifest names them.
///
/// # Errors
/// If a file cannot be written.
pub fn write_days(folder: &Folder, name: &str, events: DataFrame) -> Result<Vec<SegmentFacts>> {
    // Stable, so that events of one instant stay in the order of the log.
    let events = events.sort(
        [schema::TS],
        SortMultipleOptions::default().with_maintain_order(true),
    )?;
    let instants = instants_us(&events, schema::TS)?;
    let mut facts = Vec::new();
    let mut start = 0;
    while let Some(first_us) = instants.get(start) {
        let day = first_us.div_euclid(DAY_US);
        let length = instants
            .get(start..)
            .unwrap_or_default()
            .partition_point(|ts_us| ts_us.div_euclid(DAY_US) == day);
        facts.push(write_day(
            folder,
            name,
            day,
            events.slice(start as i64, length),
        )?);
        start += length;
    }
    Ok(facts)
}

fn write_day(folder: &Folder, name: &str, day: i64, mut events: DataFrame) -> Result<SegmentFacts> {
    let date = DateTime::from_timestamp_micros(day * DAY_US)
        .map(|start| start.date_naive())
        .unwrap_or(NaiveDate::MIN);
    let relative = format!("{LAKE_DIR}/dt={date}/{name}.parquet");
    let path = folder.path().join(&relative);
    let parent = path.parent().unwrap_or(Path::new("."));
    let temp = folder.temp(&format!("{date}-{name}.parquet"))?;
    let file = File::create(&temp).map_err(Error::io("create", &temp))?;
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, &file);
    ParquetWriter::new(&mut writer)
        .with_compression(ParquetCompression::Zstd(None))
        .finish(&mut events)?;
    writer.flush().map_err(Error::io("write", &temp))?;
    drop(writer);
    file.sync_all().map_err(Error::io("sync", &temp))?;
    let instants = instants_us(&events, schema::TS)?;
    let received = instants_us(&events, schema::RECEIVED_AT)?;
    let facts = SegmentFacts {
        path: relative,
        rows: events.height() as u64,
        bytes: file.metadata().map_err(Error::io("read", &temp))?.len(),
        crc32c: checksum::of_file(&temp)?,
        first_ts_us: instants.first().copied().unwrap_or_default(),
        last_ts_us: instants.last().copied().unwrap_or_default(),
        last_received_at_us: received.iter().max().copied().unwrap_or_default(),
    };
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    folder::sync_parent(parent)?;
    folder::publish(&temp, &path)?;
    Ok(facts)
}

fn instants_us(events: &DataFrame, name: &str) -> Result<Vec<i64>> {
    let column = events.column(name)?.to_physical_repr();
    Ok(column.i64()?.iter().flatten().collect())
}
