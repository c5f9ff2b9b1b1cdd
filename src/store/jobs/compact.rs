//! Compaction: small segments of a day become one, so that a day of many small seals does not stay
//! many files.
//!
//! The names of a day's files sort in the order of the log: a joined one begins with the name of
//! the first of those that it replaces. Where an earlier version gave others, the files are renamed
//! first, in the same way.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use polars::prelude::DataFrame;
use tracing::info;

use super::published::SharedTableMeta;
use super::seal::LATE_BYTES;
use crate::daily::{Day, date};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::schema;
use crate::store::Store;
use crate::store::files::day_folder;
use crate::store::files::folder::Folder;
use crate::store::files::segment::{self, ALL_ROWS, FORMAT, LAKE_DIR, Segment, SegmentMeta};
use crate::store::version::{DayChange, Transaction, Unpublished, Version};
use crate::window::HOUR_US;

/// Most rows of a joined segment: some MB.
const FULL_ROWS: u64 = 1 << 19;
/// Segments of similar size that become one at night.
const FAN_IN: usize = 8;
/// Segments that become one at any time: as many files are slow to list.
const URGENT_FAN_IN: usize = 64;
/// An older segment joins younger ones if it has at most this many times the rows that they have on
/// average: each event is rewritten a few times in all, however many seals there are.
const SIMILAR_FACTOR: u64 = 4;
/// A day that got no event for this long is quiet: all its small segments become one.
const QUIET_US: i64 = HOUR_US;
/// Bytes of segments that are joined at once: they are up to ten times as large in memory.
const FULL_BYTES: u64 = 16 << 20;

/// Scope of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactionScope {
    /// All that can be joined: once a night, and on request.
    Full,
    /// Days with so many segments that they cannot wait for the night.
    Urgent,
}

/// Result for one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compacted {
    /// Segments were written; there may be more to do.
    Some,
    /// There was nothing to do, or it is not the time for it.
    Nothing,
}

/// The segments of a day, given in the order of the log, that should become one now. They are
/// adjacent, because events of one timestamp are ordered by the log. If there are none, a segment
/// of an earlier format is written again alone.
fn plan(day: &[&SegmentMeta], now_us: i64, effort: CompactionScope) -> Option<Range<usize>> {
    run_to_join(day, now_us, effort).or_else(|| {
        let is_old = |meta: &&SegmentMeta| meta.format < FORMAT;
        let at = day.iter().position(is_old)?;
        (effort == CompactionScope::Full).then_some(at..at + 1)
    })
}

fn run_to_join(day: &[&SegmentMeta], now_us: i64, effort: CompactionScope) -> Option<Range<usize>> {
    let mut end = day.len();
    loop {
        // The last run of segments that are not full.
        end -= day
            .iter()
            .take(end)
            .rev()
            .take_while(|meta| is_full(meta))
            .count();
        let small = day.iter().take(end).rev().take_while(|meta| !is_full(meta));
        let run: Vec<&SegmentMeta> = small.copied().collect();
        if run.is_empty() {
            return None;
        }
        if let Some(length) = joined(&run, now_us, effort) {
            return Some(end - length..end);
        }
        end -= run.len();
    }
}

fn is_full(meta: &SegmentMeta) -> bool {
    meta.rows >= FULL_ROWS / 2 || meta.bytes >= FULL_BYTES / 2
}

/// The number of a run of small segments, youngest first, that become one.
fn joined(run: &[&SegmentMeta], now_us: i64, effort: CompactionScope) -> Option<usize> {
    let is_quiet = run
        .iter()
        .all(|meta| meta.last_received_at_us < now_us - QUIET_US);
    let (mut rows, mut bytes) = (0, 0);
    let fits = (0..)
        .zip(run)
        .take_while(|(before, meta)| {
            let is_similar = meta.rows * before <= rows * SIMILAR_FACTOR;
            rows += meta.rows;
            bytes += meta.bytes;
            rows <= FULL_ROWS && bytes <= FULL_BYTES && (is_quiet || is_similar)
        })
        .count();
    let enough = match effort {
        CompactionScope::Urgent => URGENT_FAN_IN,
        CompactionScope::Full if is_quiet => 2,
        CompactionScope::Full => FAN_IN,
    };
    (fits >= enough).then_some(fits)
}

/// The same, of segments that do not all become one: those that are published in a shared table
/// stay apart from the others.
fn plan_apart(
    day: &[&SegmentMeta],
    shared: &SharedTableMeta,
    now_us: i64,
    effort: CompactionScope,
) -> Option<Range<usize>> {
    let mut start = 0;
    for group in day.chunk_by(|first, second| !shared.are_apart(first, second)) {
        if let Some(run) = plan(group, now_us, effort) {
            return Some(start + run.start..start + run.end);
        }
        start += group.len();
    }
    None
}

/// The days that have segments to compact.
pub fn due_days(
    version: &Version,
    shared: &SharedTableMeta,
    now_us: i64,
    effort: CompactionScope,
) -> Vec<Day> {
    let days = version.by_day().into_iter();
    days.filter(|(_, of_day)| plan_apart(of_day, shared, now_us, effort).is_some())
        .map(|(day, _)| day)
        .collect()
}

/// The days whose segments have names in another order than that of the log: earlier versions gave
/// segments that were written again later names.
fn misordered_days(version: &Version) -> Vec<Day> {
    let days = version.by_day().into_iter();
    days.filter(|(_, of_day)| !of_day.is_sorted_by(|a, b| a.path < b.path))
        .map(|(day, _)| day)
        .collect()
}

/// Writes some segments of one day as one, to a temporary file.
///
/// # Errors
/// [`Error::Damaged`] if one of them is; then the day stays as it is.
fn merge(
    folder: &Folder,
    day: Day,
    number: u64,
    inputs: &[Arc<Segment>],
) -> Result<(PathBuf, SegmentMeta)> {
    let mut events = DataFrame::empty_with_schema(&schema::lake());
    for segment in inputs {
        events.vstack_mut(&segment::read_alone(segment, None, ALL_ROWS)?)?;
    }
    events.rechunk_mut();
    let first = inputs.first().map(|first| &first.meta);
    let name = first.map_or_else(String::new, |first| {
        segment::name_in_place_of(first, number)
    });
    let temp = folder.temp(&format!("{}-{name}.parquet", date(day)))?;
    let merged = segment::write_day(&temp, segment::path_of(day, &name), events)?;
    let rows: u64 = inputs.iter().map(|segment| segment.meta.rows).sum();
    if merged.rows != rows {
        return Err(Error::Damaged {
            file: folder.path().join(LAKE_DIR),
            message: format!(
                "the segments of {} gave {} events of {rows}; they stay as they are",
                date(day),
                merged.rows
            ),
        });
    }
    Ok((temp, merged))
}

impl Store {
    /// Joins all that can be joined, and writes no columns.
    ///
    /// # Errors
    /// As [`Store::compact`].
    #[cfg(test)]
    pub(in crate::store) fn compact_without_index(&self, now: DateTime<Utc>) -> Result<()> {
        let now_us = now.timestamp_micros();
        let shared = self.shared_table()?;
        let version = self.versions.version();
        for day in due_days(&version, &shared, now_us, CompactionScope::Full) {
            self.compact_day(day, now_us, CompactionScope::Full)?;
        }
        Ok(())
    }

    /// Joins small segments, and writes columns of those that stay. Ingest and queries go on
    /// meanwhile.
    ///
    /// # Errors
    /// If a file cannot be written or a segment is damaged; then its day stays as it is.
    pub fn compact(&self, now: DateTime<Utc>, effort: CompactionScope) -> Result<()> {
        self.compact_with(now, effort, &Progress::default())
    }

    /// The same, with its progress in days.
    ///
    /// # Errors
    /// As [`Store::compact`], and if it is cancelled; then the days that are done stay so.
    pub fn compact_with(
        &self,
        now: DateTime<Utc>,
        effort: CompactionScope,
        progress: &Progress,
    ) -> Result<()> {
        if !self.jobs.retired.lock().begin()? {
            return Ok(());
        }
        let _running = self.jobs.compacting.clone();
        let mut failed = None;
        let now_us = now.timestamp_micros();
        for day in misordered_days(&self.versions.version()) {
            if let Err(error) = self.rename_in_order(day) {
                failed = failed.or(Some(error));
            }
        }
        let shared = self.shared_table()?;
        let due = due_days(&self.versions.version(), &shared, now_us, effort);
        progress.set_total(due.len() as u64);
        for day in due {
            progress.check()?;
            // Between two days there is no transaction, so that a seal waits for one day at most.
            // A damaged segment costs its own day.
            loop {
                match self.compact_day(day, now_us, effort) {
                    // A day may have more to do: several runs, and segments of an earlier format.
                    Ok(Compacted::Some) => {}
                    Ok(Compacted::Nothing) => break,
                    Err(error) => {
                        failed = failed.or(Some(error));
                        break;
                    }
                }
                // Every day of a lake of an earlier format is written again: the old files must not
                // fill the disk.
                self.jobs.retired.lock().begin()?;
            }
            progress.add(1);
        }
        if let Err(error) = self.index(now_us, effort) {
            failed = failed.or(Some(error));
        }
        if let Err(error) = self.tidy_event_ids(now_us, effort) {
            failed = failed.or(Some(error));
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                self.jobs.retired.lock().pause();
                Err(error)
            }
        }
    }

    fn compact_day(&self, day: Day, now_us: i64, effort: CompactionScope) -> Result<Compacted> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Ok(Compacted::Nothing);
        };
        let transaction = self.begin()?;
        let of_day = transaction.base().segments_of(day);
        let meta: Vec<&SegmentMeta> = of_day.iter().map(|segment| &segment.meta).collect();
        // What was published meanwhile stays apart too: it is recorded in a transaction.
        let Some(run) = plan_apart(&meta, &self.shared_table()?, now_us, effort) else {
            return Ok(Compacted::Nothing);
        };
        if !day_folder::is_clean(&self.folder, day, meta.into_iter())? {
            return Ok(Compacted::Nothing);
        }
        // One alone is only written in another format: the segments of a full log have precedence.
        if run.len() == 1 && !self.folder.has_free_bytes(LATE_BYTES) {
            return Ok(Compacted::Nothing);
        }
        let inputs = of_day.get(run).unwrap_or_default();
        let number = transaction.base().sequence + 1;
        let (temp, merged) = merge(&self.folder, day, number, inputs)?;
        let mut new = Unpublished::default();
        new.push(temp, merged.clone());
        let taken = std::iter::once(Some(merged)).chain(std::iter::repeat(None));
        let replaced: Vec<_> = inputs.iter().cloned().zip(taken).collect();
        drop(of_day);
        let count = replaced.len();
        self.exchange_day(
            transaction,
            DayChange {
                day,
                number,
                new,
                replaced,
            },
        )?;
        info!(
            replaced = count,
            "Compacted {count} segments of {}",
            date(day)
        );
        Ok(Compacted::Some)
    }

    /// Gives the segments of a day names in the order of the log, where an earlier version gave
    /// them others.
    fn rename_in_order(&self, day: Day) -> Result<()> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Ok(());
        };
        let mut transaction = self.begin()?;
        let segments = transaction.base().segments_of(day);
        let meta = segments.iter().map(|segment| &segment.meta);
        if !day_folder::is_clean(&self.folder, day, meta)? {
            return Ok(());
        }
        let number = transaction.reserve_numbers(1)?;
        let mut new = Unpublished::default();
        let mut replaced = Vec::new();
        for (place, segment) in segments.into_iter().enumerate() {
            let name = format!("{number:08}-{place:04}");
            let temp = self.folder.temp(&format!("{}-{name}.parquet", date(day)))?;
            let path = segment.path();
            std::fs::hard_link(&path, &temp).map_err(Error::io("link", &path))?;
            let meta = SegmentMeta {
                path: segment::path_of(day, &name),
                ..segment.meta.clone()
            };
            new.push(temp, meta.clone());
            replaced.push((segment, Some(meta)));
        }
        self.exchange_day(
            transaction,
            DayChange {
                day,
                number,
                new,
                replaced,
            },
        )?;
        info!(
            "Gave the segments of {} names in the order of the log",
            date(day)
        );
        Ok(())
    }

    /// Commits other segments of a day. The old folder is kept for a while.
    fn exchange_day(&self, mut transaction: Transaction<'_>, change: DayChange) -> Result<()> {
        transaction.exchange_day(change)?;
        let committed = transaction.commit(|_| {})?;
        if let Some(old) = committed.old_day {
            self.jobs.retired.lock().push(old);
        }
        // The next indexing tries again.
        committed.removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(rows: u64) -> SegmentMeta {
        SegmentMeta {
            path: String::new(),
            rows,
            bytes: 0,
            crc32c: 0,
            first_ts_us: 0,
            last_ts_us: 0,
            last_received_at_us: 0,
            format: FORMAT,
            system: 0,
        }
    }

    fn plan_of(rows: &[u64], age_us: i64) -> Option<Range<usize>> {
        let day: Vec<SegmentMeta> = rows.iter().copied().map(meta).collect();
        plan(
            &day.iter().collect::<Vec<_>>(),
            age_us,
            CompactionScope::Full,
        )
    }

    #[test]
    fn similar_segments_join_when_they_are_many_and_all_small_ones_when_the_day_is_quiet() {
        let (busy, quiet) = (0, QUIET_US + 1);
        assert_eq!(plan_of(&[10; 7], busy), None);
        assert_eq!(plan_of(&[10; 8], busy), Some(0..8));
        let many = vec![meta(10); URGENT_FAN_IN];
        let urgent = |count: usize| {
            let day: Vec<&SegmentMeta> = many.iter().take(count).collect();
            plan(&day, quiet, CompactionScope::Urgent)
        };
        assert_eq!(urgent(URGENT_FAN_IN - 1), None);
        assert_eq!(urgent(URGENT_FAN_IN), Some(0..URGENT_FAN_IN));
        // The large one is not rewritten for a few small ones while more may come.
        assert_eq!(plan_of(&[9_000, 10, 10, 10], busy), None);
        assert_eq!(plan_of(&[9_000, 10, 10, 10], quiet), Some(0..4));
        assert_eq!(plan_of(&[10; 2], quiet), Some(0..2));
        assert_eq!(plan_of(&[10], quiet), None);
        assert_eq!(plan_of(&[], quiet), None);
        // Full ones are left alone, and small ones on both sides of one stay in order.
        assert_eq!(plan_of(&[FULL_ROWS, 10], quiet), None);
        assert_eq!(plan_of(&[10, 10, FULL_ROWS, 10], quiet), Some(0..2));
        assert_eq!(plan_of(&[FULL_ROWS / 2 - 1; 4], quiet), Some(2..4));
    }

    #[test]
    fn published_segments_are_not_joined_with_others() {
        let day: Vec<SegmentMeta> = (1..=9)
            .map(|number| SegmentMeta {
                path: format!("events/dt=1970-01-01/{number:08}-0000.parquet"),
                ..meta(10)
            })
            .collect();
        let day: Vec<&SegmentMeta> = day.iter().collect();
        let plan_of = |through: &[u64]| {
            let shared = SharedTableMeta {
                through: through.iter().copied().collect(),
                ..SharedTableMeta::default()
            };
            plan_apart(&day, &shared, QUIET_US + 1, CompactionScope::Full)
        };
        for (through, expected) in [
            (&[][..], Some(0..9)),
            (&[0], Some(0..9)),
            (&[9], Some(0..9)),
            (&[7], Some(0..7)),
            (&[1], Some(1..9)),
            (&[1, 2, 8], Some(2..8)),
            (&[1, 2, 3, 4, 5, 6, 7, 8], None),
        ] {
            assert_eq!(plan_of(through), expected, "{through:?}");
        }
    }

    #[test]
    fn segments_of_an_earlier_format_are_written_again_one_by_one_when_none_are_joined() {
        let mut day = [meta(FULL_ROWS), meta(10), meta(FULL_ROWS)];
        let planned = |day: &[SegmentMeta], effort| {
            let day: Vec<&SegmentMeta> = day.iter().collect();
            plan(&day, QUIET_US + 1, effort)
        };
        assert_eq!(planned(&day, CompactionScope::Full), None);
        for old in &mut day {
            old.format = 0;
        }
        // Not in the middle of the day, when readers are told that files are gone.
        assert_eq!(planned(&day, CompactionScope::Urgent), None);
        for place in 0..day.len() {
            assert_eq!(planned(&day, CompactionScope::Full), Some(place..place + 1));
            if let Some(written) = day.get_mut(place) {
                written.format = FORMAT;
            }
        }
        assert_eq!(planned(&day, CompactionScope::Full), None);
        // Those that are joined are written again with that.
        let small = [
            SegmentMeta {
                format: 0,
                ..meta(10)
            },
            meta(10),
        ];
        assert_eq!(planned(&small, CompactionScope::Full), Some(0..2));
    }

    #[test]
    fn a_year_of_seals_rewrites_each_event_a_few_times() {
        let (mut segments, mut rewritten) = (Vec::new(), 0);
        for rows in std::iter::repeat_n(100, 10_000) {
            segments.push(rows);
            while let Some(run) = plan_of(&segments, 0) {
                let rows: u64 = segments.drain(run.clone()).sum();
                rewritten += rows;
                segments.insert(run.start, rows);
            }
        }
        assert!(segments.len() < 5 * FAN_IN, "{}", segments.len());
        assert!(rewritten <= 10_000 * 100 * 5, "{rewritten}");
    }
}
