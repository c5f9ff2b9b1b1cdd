//! Sealing: the event log becomes segments. At every instant an event is visible exactly once.
//!
//! 1. The log gets a second name, under a number, and the writer goes on with an empty one. 2. The logs that lie
//!    aside are written as segments, which nobody sees yet. 3. The manifest names the segments and the number:
//!    that is the commit. 4. The logs are removed. A crash before 3 leaves the logs, which are read back and
//!    sealed again; a crash after 3 leaves logs that the manifest says are covered, which are removed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::prelude::*;

use super::event_log::{FILE_NAME as EVENT_LOG_FILE, NEXT_FILE_NAME};
use super::folder::{self, Folder};
use super::pipeline;
use super::recovery;
use super::rows::LakeRows;
use super::segment::{self, SegmentFacts, Sorted};
use super::shape;
use super::states::date;
use super::tail::Chunk;
use crate::daily::{self, DailyState, Day, day_of};
use crate::error::{Error, Result};

/// Where rotated logs wait to be sealed, in the data folder.
const SEALING_DIR: &str = "sealing";
/// Bytes of lines that become one segment of each day; a core that is at work on them takes twice as much memory.
const PART_BYTES: u64 = 32 << 20;

/// A log that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RotatedLog {
    pub number: u64,
    pub path: PathBuf,
}

impl RotatedLog {
    /// The path for a log of that number, in a folder that is there.
    pub fn prepare(folder: &Path, number: u64) -> Result<PathBuf> {
        let dir = folder.join(SEALING_DIR);
        folder::make_private(&dir).map_err(Error::io("create", &dir))?;
        folder::sync_parent(&dir)?;
        Ok(dir.join(format!("{number:08}.ndjson")))
    }

    /// The logs that lie aside, in order; the open log is none of them, also while it has a second name.
    pub fn list(folder: &Path) -> Result<Vec<Self>> {
        let open = Self::of_open_log(folder)?;
        let mut logs = Self::all(folder)?;
        logs.retain(|log| open.as_ref() != Some(&log.path));
        Ok(logs)
    }

    /// Ends a rotation that was cut off, when a store is opened whose segments cover the logs up to that number: with events
    /// in the next log it had come to its last step, without them it is undone.
    pub fn finish_rotation(folder: &Path, sealed_through: u64) -> Result<()> {
        let next = folder.join(NEXT_FILE_NAME);
        let bytes = metadata(&next)?.map(|found| found.len());
        match (bytes.unwrap_or(0), Self::of_open_log(folder)?) {
            (0, _) => {
                Self::undo_rotation(folder)?;
                bytes.map_or(Ok(()), |_| folder::remove(&next))
            }
            (_, Some(_)) => folder::publish(&next, &folder.join(EVENT_LOG_FILE)),
            // No rotation leaves this; a copy of the folder may have made two files of the two names.
            (_, None) => {
                let last = Self::all(folder)?.last().map_or(0, |log| log.number);
                folder::publish(&next, &Self::prepare(folder, last.max(sealed_through) + 1)?)
            }
        }
    }

    /// Takes its second name from the open log, if a rotation has left one.
    pub fn undo_rotation(folder: &Path) -> Result<()> {
        match Self::of_open_log(folder)? {
            Some(path) => folder::remove(&path),
            None => Ok(()),
        }
    }

    fn of_open_log(folder: &Path) -> Result<Option<PathBuf>> {
        let Some(open) = inode(&folder.join(EVENT_LOG_FILE))? else {
            return Ok(None);
        };
        for log in Self::all(folder)? {
            if inode(&log.path)? == Some(open) {
                return Ok(Some(log.path));
            }
        }
        Ok(None)
    }

    /// The files that have the name of a log that lies aside, in order.
    fn all(folder: &Path) -> Result<Vec<Self>> {
        let dir = folder.join(SEALING_DIR);
        let mut logs = Vec::new();
        for path in folder::list(&dir)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(number) = name.and_then(shape::rotated_log) {
                logs.push(Self { number, path });
            }
        }
        logs.sort_by_key(|log| log.number);
        Ok(logs)
    }

    /// Writes the log's events as segments, a part of the log on each core. They are not live yet.
    pub fn write_segments(&self, folder: &Folder) -> Result<Vec<SegmentFacts>> {
        let mut parts = (0_u32..).zip(recovery::parts(&self.path, PART_BYTES)?);
        let mut facts = Vec::new();
        pipeline::ordered(
            || Ok(parts.next()),
            |(place, part)| {
                // With zeros, so that the order of names is that of the log.
                let name = format!("{:08}-{place:04}", self.number);
                segment::write_days(folder, &name, &Sorted::new(self.read(part)?)?)
            },
            |written: Result<Vec<SegmentFacts>>| {
                facts.extend(written?);
                Ok(())
            },
        )?;
        Ok(facts)
    }

    /// The events of a part of the log.
    fn read(&self, part: Range<u64>) -> Result<DataFrame> {
        let mut rows = LakeRows::for_lines((part.end - part.start) as usize);
        let scan = recovery::scan_part(&self.path, part, |event| {
            rows.push(event);
            Ok(())
        })?;
        // What was damaged when the log was read back is blank now, so this is new.
        match scan.damage.first() {
            None => rows.finish(),
            Some(damage) => Err(Error::Damaged {
                file: self.path.clone(),
                message: format!(
                    "at byte {}: {}; restart to set it aside",
                    damage.offset,
                    damage.reason.reason()
                ),
            }),
        }
    }
}

/// What makes a file another one; `None` if there is no such file.
fn inode(path: &Path) -> Result<Option<(u64, u64)>> {
    Ok(metadata(path)?.map(|found| (found.dev(), found.ino())))
}

fn metadata(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(Error::io("look at", path)),
    }
}

/// Segments that are written and nobody sees yet, and what their events leave behind of each day.
#[derive(Default)]
pub struct Sealing {
    pub segments: Vec<SegmentFacts>,
    pub left: BTreeMap<Day, DailyState>,
}

/// What the events of some chunks leave behind of each day.
///
/// # Errors
/// If the engine cannot compute it.
pub fn left_behind(chunks: &[Arc<Chunk>]) -> Result<BTreeMap<Day, DailyState>> {
    let mut left: BTreeMap<Day, DailyState> = BTreeMap::new();
    let mut chunks = chunks.iter();
    pipeline::ordered(
        || Ok(chunks.next()),
        |chunk| chunk.states(),
        |states| {
            let states = states?.iter().map(|(&day, state)| (day, state.as_ref()));
            daily::merge_days(&mut left, states);
            Ok(())
        },
    )?;
    Ok(left)
}

/// Refuses a seal whose events were counted otherwise from memory than from the files: two independent ways.
///
/// # Errors
/// [`Error::Damaged`], with the first day that differs.
pub fn check_pair(
    root: &Path,
    left: &BTreeMap<Day, DailyState>,
    written: &[SegmentFacts],
) -> Result<()> {
    let in_memory: BTreeMap<Day, u64> = left
        .iter()
        .map(|(&day, state)| (day, state.activity.events))
        .collect();
    let mut in_files: BTreeMap<Day, u64> = BTreeMap::new();
    for facts in written {
        *in_files.entry(day_of(facts.first_ts_us)).or_default() += facts.rows;
    }
    if in_memory == in_files {
        return Ok(());
    }
    let days = in_memory.keys().chain(in_files.keys());
    let differs = |day: &&Day| in_memory.get(*day) != in_files.get(*day);
    let day = days.copied().find(|day| differs(&day)).unwrap_or_default();
    Err(Error::Damaged {
        file: root.join(segment::LAKE_DIR),
        message: format!(
            "{} events of {} were written of {}; nothing is sealed",
            in_files.get(&day).copied().unwrap_or(0),
            date(day),
            in_memory.get(&day).copied().unwrap_or(0)
        ),
    })
}
