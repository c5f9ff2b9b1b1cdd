//! Inspection of a data folder without its lock, also while a server uses it. Nothing is changed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chrono::NaiveDate;
use serde::de::DeserializeOwned;

use super::files;
use super::files::ownership::{self, Owner};
use super::files::rotation::RotatedLog;
use super::files::segment::{FORMAT, LAKE_DIR, Segment};
use super::files::shape::EVENT_LOG_FILE;
use super::ingest::pseudonym::{self, Pseudonyms};
use super::jobs::LATE_BYTES;
use super::version::Manifest;
use crate::config::StoreConfig;
use crate::daily::Day;
use crate::error::Result;

/// Free space that compaction and columns leave for seals, in bytes.
pub const RESERVED_BYTES: u64 = LATE_BYTES;

/// A data folder, as its mark, manifest and logs describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Id of the store; none for a folder of an earlier version.
    pub store: Option<String>,
    /// Live segments.
    pub segments: usize,
    /// Those of an earlier format, which the next compaction writes again.
    pub old_segments: usize,
    /// Bytes of the segments of the largest day, which a compaction writes again at most.
    pub largest_day_bytes: u64,
    /// Bytes of the logs, which a seal writes as segments.
    pub log_bytes: u64,
    /// Newest `received_at` of a sealed event, in µs.
    pub newest_us: Option<i64>,
}

/// Inspects a data folder; none if it is empty.
///
/// # Errors
/// As a start: the folder is of another program, its restore was interrupted, or mark or manifest
/// is damaged or of a newer program.
pub fn inspect(root: &Path) -> Result<Option<Inspected>> {
    let store = match ownership::look(root)? {
        Owner::Empty => return Ok(None),
        Owner::Unmarked => None,
        Owner::Marked(mark) => Some(mark.store),
    };
    ownership::check_places(root)?;
    let manifest = Manifest::load(root)?;
    let mut days: BTreeMap<Day, u64> = BTreeMap::new();
    for meta in &manifest.segments {
        *days
            .entry(Segment::new(root, meta.clone()).day())
            .or_default() += meta.bytes;
    }
    let logs = RotatedLog::all(root)?.into_iter();
    let logs = logs.filter(|log| log.number > manifest.sealed_through);
    let logs = logs.map(|log| log.path).chain([root.join(EVENT_LOG_FILE)]);
    // The server may have removed one meanwhile.
    let log_bytes = logs.filter_map(|log| Some(std::fs::metadata(log).ok()?.size()));
    let segments = &manifest.segments;
    let of_segments = segments.iter().map(|meta| meta.last_received_at_us).max();
    Ok(Some(Inspected {
        store,
        segments: segments.len(),
        old_segments: segments.iter().filter(|meta| meta.format < FORMAT).count(),
        largest_day_bytes: days.into_values().max().unwrap_or(0),
        log_bytes: log_bytes.sum(),
        newest_us: manifest.clock.map(|clock| clock.newest_us).max(of_segments),
    }))
}

/// The value of a small file of a data folder; the default if there is no such file.
///
/// # Errors
/// If it cannot be read, and [`Error::Damaged`](crate::error::Error::Damaged) if it is not what was
/// written.
pub fn read_json<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    Ok(files::read_json(path)?.map_or_else(T::default, |(value, _)| value))
}

/// The segments of one committed version of the lake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommittedLake {
    /// Number of the version; each commit has a greater one.
    pub version: u64,
    /// Day and path of each segment, relative to the folder of the lake, in the order of the log.
    pub files: Vec<(NaiveDate, String)>,
    /// Newest `received_at` of a sealed event, in µs.
    pub newest_us: Option<i64>,
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// Path of the table of links between ids of users, relative to the data folder; none without
    /// links. It is written a moment after the version is committed.
    pub links: Option<String>,
    /// Ids of users are stored as pseudonyms.
    pub has_user_key: bool,
}

impl CommittedLake {
    /// The day of the oldest event.
    pub fn first_day(&self) -> Option<NaiveDate> {
        self.files.iter().map(|(day, _)| *day).min()
    }
}

/// Reads the segments of the committed version of a data folder, for another program that reads
/// them.
///
/// # Errors
/// If the manifest is damaged or of a newer program.
pub fn committed_lake(root: &Path) -> Result<CommittedLake> {
    let manifest = Manifest::load(root)?;
    let segments = manifest.segments.iter();
    let newest_us = segments.clone().map(|meta| meta.last_received_at_us).max();
    let files = segments.filter_map(|meta| {
        let path = meta.path.strip_prefix(LAKE_DIR)?.strip_prefix('/')?;
        let day = NaiveDate::from_epoch_days(Segment::new(root, meta.clone()).day())?;
        Some((day, path.to_owned()))
    });
    Ok(CommittedLake {
        version: manifest.sequence,
        files: files.collect(),
        newest_us,
        raw_from: manifest.expiry.raw_from,
        links: manifest
            .links
            .filter(|links| links.links > 0)
            .map(|links| links.table()),
        has_user_key: manifest.user_key.is_some(),
    })
}

/// The fingerprint of the user key, if one is configured.
///
/// # Errors
/// As a start: the key cannot be read, is too short, or is not the one of the data folder.
pub fn user_key_fingerprint(config: &StoreConfig) -> Result<Option<String>> {
    let key = pseudonym::check_and_load(config)?;
    Ok(key.as_ref().map(Pseudonyms::fingerprint))
}
