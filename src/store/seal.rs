//! Sealing: the event log becomes segments. At every instant an event is visible exactly once.
//!
//! 1. The log gets a second name, under a number, and the writer goes on with an empty one. 2. The oldest rotated log is
//!    written as segments, which nobody sees yet. 3. The manifest names the segments and the number: that is the commit.
//!    4. The log is removed. A crash before 3 leaves the log, which is read back and sealed again; a crash after 3 leaves a
//!    log that the manifest says is covered, which is removed. Each log is a commit of its own, the oldest first, so that a
//!    server that is killed again and again gets on with what waits.

use std::collections::{BTreeMap, VecDeque};
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

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
use crate::backoff::Backoff;
use crate::daily::{self, DailyState, Day, day_of};
use crate::error::{Error, Result};

/// Where rotated logs wait to be sealed, in the data folder.
const SEALING_DIR: &str = "sealing";
/// So much more room than after a seal that found none may be enough for the next one: what a few events take.
const HEALED_BYTES: u64 = 64 << 10;
/// Bytes of lines that become one segment of each day; a core that is at work on them takes twice as much memory.
const PART_BYTES: u64 = 16 << 20;

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

    /// What tells its file from all others.
    ///
    /// # Errors
    /// If the file cannot be looked at.
    pub fn id(&self) -> Result<(u64, u64)> {
        let found = std::fs::metadata(&self.path).map_err(Error::io("look at", &self.path))?;
        Ok((found.dev(), found.ino()))
    }

    /// Writes the log's events as segments under a number, a part of the log on each core. They are not live yet.
    pub fn write_segments(&self, folder: &Folder, number: u64) -> Result<Vec<SegmentFacts>> {
        let mut parts = (0_u32..).zip(recovery::parts(&self.path, PART_BYTES)?);
        let mut facts = Vec::new();
        pipeline::ordered(
            || Ok(parts.next()),
            |(place, part)| {
                // With zeros, so that the order of names is that of the log.
                let name = format!("{number:08}-{place:04}");
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

/// Whether a seal may still rotate the open log: once, or it would never end while events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It is still to be done.
    Due,
    /// It was done.
    Done,
}

/// The rotated logs that wait to be sealed.
#[derive(Debug, Default)]
pub struct WaitingLogs {
    /// Their bytes, oldest first.
    lengths: VecDeque<u64>,
    /// Since when the oldest event in them waits.
    pub since: Option<Instant>,
    /// When the store was opened, while what it found in its logs waits.
    pub found: Option<Instant>,
}

impl WaitingLogs {
    /// Those that are there when a store is opened.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn found(folder: &Path, has_events: bool) -> Result<Self> {
        let now = has_events.then(Instant::now);
        let lengths = RotatedLog::list(folder)?.into_iter();
        Ok(Self {
            lengths: lengths
                .map(|log| Ok(metadata(&log.path)?.map_or(0, |found| found.len())))
                .collect::<Result<_>>()?,
            since: now,
            found: now,
        })
    }

    /// How many there are.
    pub fn logs(&self) -> usize {
        self.lengths.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Adds the log that was open.
    pub fn rotated(&mut self, bytes: u64, since: Option<Instant>) {
        self.lengths.push_back(bytes);
        self.since = self.since.or(since);
        self.found = None;
    }

    /// Takes out the oldest.
    pub fn sealed(&mut self) {
        self.lengths.pop_front();
        if self.lengths.is_empty() {
            self.since = None;
        }
    }
}

/// Seals that failed since one succeeded.
#[derive(Debug, Default)]
pub struct FailedSeals {
    backoff: Backoff,
    /// Free bytes after one that found no room.
    room: Option<u64>,
}

impl FailedSeals {
    /// Notes a failure.
    pub fn fail(&mut self, folder: &Folder, error: &Error) {
        self.backoff.fail(Instant::now());
        self.room = match error {
            Error::DiskFull => folder.free_bytes(),
            _ => None,
        };
    }

    /// Notes a success.
    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Whether it is too early for another seal that nobody asked for.
    pub fn is_waiting(&self, folder: &Folder) -> bool {
        self.backoff.is_waiting(Instant::now(), || {
            let room = self.room.zip(folder.free_bytes());
            room.is_some_and(|(then, now)| now >= then + HEALED_BYTES)
        })
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
