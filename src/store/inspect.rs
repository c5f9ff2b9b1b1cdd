//! Inspection of a data folder without its lock, also while a server uses it. Nothing is changed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::files::ownership::{self, Owner};
use super::files::rotation::RotatedLog;
use super::files::segment::{FORMAT, Segment};
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

/// The fingerprint of the user key, if one is configured.
///
/// # Errors
/// As a start: the key cannot be read, is too short, or is not the one of the data folder.
pub fn user_key_fingerprint(config: &StoreConfig) -> Result<Option<String>> {
    let key = pseudonym::check_and_load(config)?;
    Ok(key.as_ref().map(Pseudonyms::fingerprint))
}
