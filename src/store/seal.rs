//! Sealing: the event log becomes segments. At every instant an event is visible exactly once.
//!
//! 1. The log gets a second name, under a number, and the writer goes on with an empty one. 2. The oldest rotated log is
//!    written as segments, which nobody sees yet. 3. The manifest names the segments and the number: that is the commit.
//!    4. The log is removed. A crash before 3 leaves the log, which is read back and sealed again; a crash after 3 leaves a
//!    log that the manifest says is covered, which is removed. Each log is a commit of its own, the oldest first, so that a
//!    server that is killed again and again gets on with what waits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use polars::prelude::*;

use super::folder::Folder;
use super::pipeline;
use super::recovery;
use super::rotation::RotatedLog;
use super::rows::LakeRows;
use super::segment::{self, SegmentFacts, Sorted};
use super::tail::Chunk;
use crate::backoff::Backoff;
use crate::daily::{self, DailyState, Day, date, day_of};
use crate::error::{Error, Result};

/// So much more room than after a seal that found none may be enough for the next one: what a few events take.
const HEALED_BYTES: u64 = 64 << 10;
/// Bytes of lines that become one segment of each day; a core that is at work on them takes twice as much memory.
const PART_BYTES: u64 = 16 << 20;

impl RotatedLog {
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

/// Whether a seal may still rotate the open log: once, or it would never end while events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It is still to be done.
    Due,
    /// It was done.
    Done,
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
