//! Compaction: small segments of a day become one, so that a day of many small seals is not many files for ever.
//!
//! The folder of the day is prepared anew beside the lake (`compacting/`), and the two are exchanged in one step:
//! another program that lists the folder sees the old files or the new one, and never both. The manifest follows;
//! after a crash between the two, [`finish`] makes the folder what the manifest says. The old folder is removed a while
//! later, so that a program that is just reading its list reads all of it.
//!
//! A program that listed a folder an instant before it was exchanged finds a name gone. Polars says so; DuckDB and
//! pyarrow do too when they open the file, and pass over it without a word when they only look at it in the same
//! instant. No order of steps that other programs see by names can prevent that, so folders are exchanged once a night,
//! and at other times only when a day has very many files.
//!
//! The names of a day's files sort in the order of the log: a joined one begins with the name of the first of those that it
//! takes the place of. Where an earlier version gave others, the files are given new names first, in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::warn;

use super::files::{self, Left};
use super::folder::Folder;
use super::manifest::Manifest;
use super::segment::{self, FORMAT, LAKE_DIR, Segment, SegmentFacts};
use super::shape::{self, COMPACTING_DIR};
use crate::daily::{Day, date, day_of};
use crate::error::{Error, Result};
use crate::window::HOUR_US;

/// A joined segment has at most so many rows: some MB.
const FULL_ROWS: u64 = 1 << 19;
/// So many segments of similar size become one in the night.
const FAN_IN: usize = 8;
/// So many become one at any time: files that are slow to list.
const URGENT_FAN_IN: usize = 64;
/// An older segment joins younger ones if it has at most so many times the rows that they have on average: each event
/// is rewritten a few times in all, however many seals there are.
const SIMILAR_FACTOR: u64 = 4;
/// A day that got nothing for so long is quiet: all its small segments become one.
const QUIET_US: i64 = HOUR_US;

/// How long the old folder of a day is kept: longer than anyone takes to list it.
const RETIRED_FOR: Duration = Duration::from_secs(60);

/// How long no day is compacted after a failure.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Bytes of segments that are joined at once: they are up to ten times as large in memory.
const FULL_BYTES: u64 = 16 << 20;

/// How much is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// All that can be joined: once a night, and when a person asks.
    Full,
    /// What cannot wait for the night.
    Urgent,
}

/// Whether a day had segments to write again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// Some were written; there may be more.
    Some,
    /// There were none, or it is not the time for it.
    Nothing,
}

/// Which of a day's segments, in the order of the log, should become one now. They are next to each other, because
/// events of one instant are ordered by the log. Where none should, one that has an earlier format is written again alone.
pub fn plan(day: &[&SegmentFacts], now_us: i64, effort: Effort) -> Option<Range<usize>> {
    run_to_join(day, now_us, effort).or_else(|| {
        let is_old = |facts: &&SegmentFacts| facts.format < FORMAT;
        let at = day.iter().position(is_old)?;
        (effort == Effort::Full).then_some(at..at + 1)
    })
}

fn run_to_join(day: &[&SegmentFacts], now_us: i64, effort: Effort) -> Option<Range<usize>> {
    let mut end = day.len();
    loop {
        // The last run of segments that are not full.
        end -= day
            .iter()
            .take(end)
            .rev()
            .take_while(|facts| is_full(facts))
            .count();
        let small = day
            .iter()
            .take(end)
            .rev()
            .take_while(|facts| !is_full(facts));
        let run: Vec<&SegmentFacts> = small.copied().collect();
        if run.is_empty() {
            return None;
        }
        if let Some(length) = joined(&run, now_us, effort) {
            return Some(end - length..end);
        }
        end -= run.len();
    }
}

fn is_full(facts: &SegmentFacts) -> bool {
    facts.rows >= FULL_ROWS / 2 || facts.bytes >= FULL_BYTES / 2
}

/// How many of a run of small segments, youngest first, become one.
fn joined(run: &[&SegmentFacts], now_us: i64, effort: Effort) -> Option<usize> {
    let is_quiet = run
        .iter()
        .all(|facts| facts.last_received_at_us < now_us - QUIET_US);
    let (mut rows, mut bytes) = (0, 0);
    let fits = (0..)
        .zip(run)
        .take_while(|(before, facts)| {
            let is_similar = facts.rows * before <= rows * SIMILAR_FACTOR;
            rows += facts.rows;
            bytes += facts.bytes;
            rows <= FULL_ROWS && bytes <= FULL_BYTES && (is_quiet || is_similar)
        })
        .count();
    let enough = match effort {
        Effort::Urgent => URGENT_FAN_IN,
        Effort::Full if is_quiet => 2,
        Effort::Full => FAN_IN,
    };
    (fits >= enough).then_some(fits)
}

/// The days that have segments to join.
pub fn due_days(segments: &[SegmentFacts], now_us: i64, effort: Effort) -> Vec<Day> {
    let days = by_day(segments).into_iter();
    days.filter(|(_, of_day)| plan(of_day, now_us, effort).is_some())
        .map(|(day, _)| day)
        .collect()
}

/// The days whose segments have names in another order than that of the log: earlier versions gave segments that were written
/// anew later names.
pub fn misordered_days(segments: &[SegmentFacts]) -> Vec<Day> {
    let days = by_day(segments).into_iter();
    days.filter(|(_, of_day)| !of_day.is_sorted_by(|a, b| a.path < b.path))
        .map(|(day, _)| day)
        .collect()
}

/// The live segments of each day, in the order of the log.
pub fn by_day(segments: &[SegmentFacts]) -> BTreeMap<Day, Vec<&SegmentFacts>> {
    let mut days: BTreeMap<Day, Vec<&SegmentFacts>> = BTreeMap::new();
    for facts in segments {
        days.entry(day_of(facts.first_ts_us))
            .or_default()
            .push(facts);
    }
    days
}

/// Writes some segments of one day as one, beside the lake.
///
/// # Errors
/// [`Error::Damaged`] if one of them is; then the day stays as it is.
pub fn merge(
    folder: &Folder,
    day: Day,
    number: u64,
    inputs: &[Arc<Segment>],
) -> Result<(PathBuf, SegmentFacts)> {
    let mut events = segment::scan(inputs)?.collect()?;
    events.rechunk_mut();
    let first = inputs.first().map(|first| &first.facts);
    let name = first.map_or_else(String::new, |first| {
        segment::name_in_place_of(first, number)
    });
    let temp = folder.temp(&format!("{}-{name}.parquet", date(day)))?;
    let merged = segment::write_day(&temp, segment::path_of(day, &name), events)?;
    let rows: u64 = inputs.iter().map(|segment| segment.facts.rows).sum();
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

/// A day's folder that waits to be exchanged with the one in the lake.
pub struct Staged {
    staged: PathBuf,
    live: PathBuf,
}

impl Staged {
    /// Prepares the folder of a day: new segments, each with the file it lies at, and those that stay. `number` makes its
    /// name new.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn prepare<'a>(
        folder: &Folder,
        day: Day,
        number: u64,
        new: &[(PathBuf, SegmentFacts)],
        stay: impl Iterator<Item = &'a SegmentFacts>,
    ) -> Result<Self> {
        let root = folder.path().join(COMPACTING_DIR);
        let staged = root.join(format!("{number:08}-{}", date(day)));
        let prepared = Self {
            live: live_folder(folder, &date(day).to_string()),
            staged,
        };
        let filled = prepared.fill(folder, &root, new, stay);
        if filled.is_err() {
            // The next start removes it if it cannot be removed now.
            let _ = prepared.remove();
            for (temp, _) in new {
                let _ = std::fs::remove_file(temp);
            }
        }
        filled.map(|()| prepared)
    }

    fn fill<'a>(
        &self,
        folder: &Folder,
        root: &Path,
        new: &[(PathBuf, SegmentFacts)],
        stay: impl Iterator<Item = &'a SegmentFacts>,
    ) -> Result<()> {
        let staged = &self.staged;
        files::make_private(root).map_err(Error::io("create", root))?;
        files::make_private(staged).map_err(Error::io("create", staged))?;
        files::sync_parent(root)?;
        let place = |facts: &SegmentFacts| {
            let file = Path::new(&facts.path).file_name().unwrap_or_default();
            staged.join(file)
        };
        for facts in stay {
            let path = folder.path().join(&facts.path);
            std::fs::hard_link(&path, place(facts)).map_err(Error::io("link", &path))?;
        }
        for (temp, facts) in new {
            files::publish(temp, &place(facts))?;
        }
        files::sync_parent(&staged.join(LAKE_DIR))?;
        files::sync_parent(staged)
    }

    /// Exchanges the folder with the one in the lake, durably and in one step. Done twice, nothing has changed.
    ///
    /// # Errors
    /// If the file system cannot; then nothing has changed.
    pub fn exchange(&self) -> Result<()> {
        self.exchange_names()?;
        let synced = files::sync_parent(&self.live).and_then(|()| files::sync_parent(&self.staged));
        if synced.is_err() {
            self.exchange_names()?;
        }
        synced
    }

    fn exchange_names(&self) -> Result<()> {
        renameat_with(CWD, &self.staged, CWD, &self.live, RenameFlags::EXCHANGE)
            .map_err(|error| Error::io("exchange", &self.live)(error.into()))
    }

    /// Removes what is beside the lake now.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if files::remove_ours(&self.staged, shape::is_segment)? == Left::Others {
            self.give_back()?;
        }
        files::sync_parent(&self.staged)
    }

    /// Puts files that the store did not write back into the lake, where they were before the folders were exchanged.
    fn give_back(&self) -> Result<()> {
        for path in files::list(&self.staged)? {
            let place = self.live.join(path.file_name().unwrap_or_default());
            if self.live.is_dir() && !place.exists() {
                std::fs::rename(&path, &place).map_err(Error::io("rename to", &place))?;
            }
        }
        match files::list(&self.staged)?.is_empty() {
            true => std::fs::remove_dir(&self.staged).map_err(Error::io("remove", &self.staged)),
            false => {
                warn!(folder = %self.staged.display(), "Left files that the store did not write");
                Ok(())
            }
        }
    }
}

/// Ends what a crash interrupted: a prepared folder that is what the manifest says goes into the lake; then what is
/// beside the lake is removed.
///
/// # Errors
/// If the folders cannot be read or changed.
pub fn finish(folder: &Folder, manifest: &Manifest) -> Result<()> {
    let days = by_day(&manifest.segments);
    for staged in files::list(&folder.path().join(COMPACTING_DIR))? {
        let Some(prepared) = segment::prepared_day(&staged) else {
            continue;
        };
        let day = &prepared.to_string();
        let staged = Staged {
            live: live_folder(folder, day),
            staged: staged.clone(),
        };
        let found = file_names(&staged.staged)?;
        let wanted = days.iter().find(|(other, _)| date(**other) == prepared);
        let wanted: BTreeSet<_> = wanted
            .into_iter()
            .flat_map(|(_, segments)| segments)
            .filter_map(|facts| Path::new(&facts.path).file_name().map(Into::into))
            .collect();
        let missing = |live: BTreeSet<OsString>| wanted.difference(&live).cloned().collect();
        let mut lacking: Vec<OsString> = missing(file_names(&staged.live)?);
        if !lacking.is_empty() && wanted.is_subset(&found) {
            staged.exchange()?;
            lacking = missing(file_names(&staged.live)?);
        }
        // Nothing is removed that the manifest names and the lake lacks.
        for name in lacking.iter().filter(|name| found.contains(*name)) {
            let path = staged.live.join(name);
            std::fs::hard_link(staged.staged.join(name), &path)
                .map_err(Error::io("link", &path))?;
            files::sync_parent(&path)?;
        }
        staged.remove()?;
    }
    Ok(())
}

/// Whether the folder of a day in the lake has the live segments and nothing else: only then it can be exchanged.
///
/// # Errors
/// If it cannot be listed.
pub fn is_clean(folder: &Folder, day: Day, segments: &[&SegmentFacts]) -> Result<bool> {
    let found = file_names(&live_folder(folder, &date(day).to_string()))?;
    let files = segments
        .iter()
        .map(|facts| Path::new(&facts.path).file_name());
    Ok(found.len() == segments.len() && files.flatten().all(|name| found.contains(name)))
}

/// The folder of a day in the lake.
fn live_folder(folder: &Folder, day: &str) -> PathBuf {
    folder.path().join(LAKE_DIR).join(format!("dt={day}"))
}

/// Old folders of days, which are removed a while after they left the lake.
#[derive(Default)]
pub struct Retired {
    folders: Vec<(Instant, Staged)>,
    /// When a compaction failed.
    failed: Option<Instant>,
}

impl Retired {
    /// Keeps a folder that left the lake just now.
    pub fn push(&mut self, staged: Staged) {
        self.folders.push((Instant::now(), staged));
    }

    /// Notes that a compaction failed, which it would soon do again: it is tried again after a while.
    pub fn pause(&mut self) {
        self.failed = Some(Instant::now());
    }

    /// Removes all that was kept.
    ///
    /// # Errors
    /// If it cannot be removed; the next start removes it then.
    pub fn remove_all(&mut self) -> Result<()> {
        while let Some((_, staged)) = self.folders.last() {
            staged.remove()?;
            self.folders.pop();
        }
        Ok(())
    }

    /// Removes what was kept for long enough. Whether days may be compacted now.
    ///
    /// # Errors
    /// If it cannot be removed; the next start removes it then.
    pub fn begin(&mut self) -> Result<bool> {
        let (old, kept) = std::mem::take(&mut self.folders)
            .into_iter()
            .partition(|(since, _)| since.elapsed() >= RETIRED_FOR);
        self.folders = kept;
        let old: Vec<(Instant, Staged)> = old;
        old.iter().try_for_each(|(_, staged)| staged.remove())?;
        Ok(self.failed.is_none_or(|failed| failed.elapsed() >= PAUSE))
    }
}

fn file_names(dir: &Path) -> Result<BTreeSet<OsString>> {
    let paths = files::list(dir)?;
    Ok(paths
        .iter()
        .filter_map(|path| path.file_name().map(Into::into))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(rows: u64) -> SegmentFacts {
        SegmentFacts {
            path: String::new(),
            rows,
            bytes: 0,
            crc32c: 0,
            first_ts_us: 0,
            last_ts_us: 0,
            last_received_at_us: 0,
            format: FORMAT,
        }
    }

    fn plan_of(rows: &[u64], age_us: i64) -> Option<Range<usize>> {
        let day: Vec<SegmentFacts> = rows.iter().copied().map(facts).collect();
        plan(&day.iter().collect::<Vec<_>>(), age_us, Effort::Full)
    }

    #[test]
    fn similar_segments_join_when_they_are_many_and_all_small_ones_when_the_day_is_quiet() {
        let (busy, quiet) = (0, QUIET_US + 1);
        assert_eq!(plan_of(&[10; 7], busy), None);
        assert_eq!(plan_of(&[10; 8], busy), Some(0..8));
        let many = vec![facts(10); URGENT_FAN_IN];
        let urgent = |count: usize| {
            let day: Vec<&SegmentFacts> = many.iter().take(count).collect();
            plan(&day, quiet, Effort::Urgent)
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
    fn segments_of_an_earlier_format_are_written_again_one_by_one_when_none_are_joined() {
        let mut day = [facts(FULL_ROWS), facts(10), facts(FULL_ROWS)];
        let planned = |day: &[SegmentFacts], effort| {
            let day: Vec<&SegmentFacts> = day.iter().collect();
            plan(&day, QUIET_US + 1, effort)
        };
        assert_eq!(planned(&day, Effort::Full), None);
        for old in &mut day {
            old.format = 0;
        }
        // Not in the middle of the day, when readers are told that files are gone.
        assert_eq!(planned(&day, Effort::Urgent), None);
        for place in 0..day.len() {
            assert_eq!(planned(&day, Effort::Full), Some(place..place + 1));
            if let Some(written) = day.get_mut(place) {
                written.format = FORMAT;
            }
        }
        assert_eq!(planned(&day, Effort::Full), None);
        // Those that are joined are written again with that.
        let small = [
            SegmentFacts {
                format: 0,
                ..facts(10)
            },
            facts(10),
        ];
        assert_eq!(planned(&small, Effort::Full), Some(0..2));
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
