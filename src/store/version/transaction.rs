//! A change of the committed state: begin, prepare files, change the next version, commit. Dropped
//! without commit it leaves nothing.
//!
//! [`Transaction::commit`] is the only place that replaces the manifest of an open store:
//!
//! 1. exchange the prepared folder of a day with the one in the lake, if there is one;
//! 2. replace `manifest.json`: this is the commit. If it fails, 1 is undone; if the outcome is
//!    unknown, the store is poisoned, and nothing is committed until a restart reads which manifest
//!    holds;
//! 3. publish the version, and under the same lock what the job does to tail and erased users;
//! 4. delete the files that the version no longer names. What cannot be deleted does not undo the
//!    commit.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, warn};

use super::manifest::Manifest;
use super::{Published, SealedLinks, Version, VersionControl, segment_of};
use crate::daily::{DailyState, Day};
use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::links::Links;
use crate::store::files::columns;
use crate::store::files::day_folder::PreparedDay;
use crate::store::files::dictionary;
use crate::store::files::event_ids::{self, Entry, IdFile};
use crate::store::files::folder::Folder;
use crate::store::files::links as links_files;
use crate::store::files::rotation::RotatedLog;
use crate::store::files::segment::{self, Segment, SegmentMeta};
use crate::store::files::states::{self, ZoneDay};
use crate::store::lock::Guard;

/// A change of the committed state that is being prepared. No other one runs meanwhile.
pub struct Transaction<'a> {
    control: &'a VersionControl,
    folder: &'a Folder,
    base: Arc<Version>,
    /// The version that [`Transaction::commit`] publishes.
    pub next: Version,
    /// The day whose folder is exchanged, and its new segments until they have their places.
    day: Option<(PreparedDay, Unpublished)>,
    /// The number in the names of new segments in the lake.
    lake_number: Option<u64>,
    has_written_states: bool,
    has_written_ids: bool,
    has_written_links: bool,
    /// The files that were prepared are live, or may be.
    is_settled: bool,
    guard: Option<Guard<'a, ()>>,
}

/// A committed transaction. No other one begins while it exists.
pub struct Committed<'a> {
    /// The published version.
    pub version: Arc<Version>,
    /// The folder of a day that left the lake.
    pub old_day: Option<PreparedDay>,
    /// Result of the deletion of files that are no longer live; without effect on the commit.
    pub removed: Result<()>,
    _guard: Option<Guard<'a, ()>>,
}

/// A replaced segment and the one that takes its place in the order of the log, if there is one. Of
/// several that become one, that is the place of the first.
pub type Replaced = (Arc<Segment>, Option<SegmentMeta>);

/// An exchange of segments of one day.
pub struct DayChange {
    /// The day.
    pub day: Day,
    /// Number of the new files: greater than any that was live.
    pub number: u64,
    /// The new segments.
    pub new: Unpublished,
    /// The segments that are replaced.
    pub replaced: Vec<Replaced>,
}

/// New segments of a day in temporary files, which are removed when this is dropped.
#[derive(Default)]
pub struct Unpublished(Vec<(PathBuf, SegmentMeta)>);

impl Unpublished {
    /// Adds a segment and its temporary file.
    pub fn push(&mut self, temp: PathBuf, meta: SegmentMeta) {
        self.0.push((temp, meta));
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        for (temp, _) in &self.0 {
            // Most are in their places now. The next start removes one that cannot be removed.
            let _ = std::fs::remove_file(temp);
        }
    }
}

impl<'a> Transaction<'a> {
    /// Begins with the published version.
    pub(super) fn new(
        control: &'a VersionControl,
        folder: &'a Folder,
        guard: Guard<'a, ()>,
    ) -> Self {
        let base = control.version();
        Self {
            control,
            folder,
            next: Version::clone(&base),
            base,
            day: None,
            lake_number: None,
            has_written_states: false,
            has_written_ids: false,
            has_written_links: false,
            is_settled: false,
            guard: Some(guard),
        }
    }

    /// The published version, which this transaction replaces.
    pub fn base(&self) -> &Version {
        &self.base
    }

    /// Commits a greater sequence, so that a start knows the numbers of files that a crash left.
    /// Returns the first of `count` numbers.
    ///
    /// # Errors
    /// If the manifest cannot be replaced.
    pub fn reserve_numbers(&mut self, count: u64) -> Result<u64> {
        // The segments of a log that waits will have the log's number.
        let waiting = RotatedLog::list(self.folder.path())?;
        let last = waiting.last().map_or(0, |log| log.number);
        let first = self.base.sequence.max(last) + 1;
        let mut reserved = Version::clone(&self.base);
        reserved.sequence = first + count - 1;
        self.replace_manifest(&reserved)?;
        self.next.sequence = self.next.sequence.max(reserved.sequence);
        self.base = Arc::new(reserved);
        self.control.published().version = self.base.clone();
        Ok(first)
    }

    /// Announces that segments with this number are written to the lake: they are removed unless
    /// they are committed.
    pub fn prepare_segments(&mut self, number: u64) {
        self.lake_number = Some(number);
        self.next.sequence = self.next.sequence.max(number);
    }

    /// Adds segments behind all that are live, in the order of the log.
    pub fn add_segments(&mut self, new: Vec<SegmentMeta>) {
        let new = new.into_iter();
        let new = new.map(|meta| segment_of(self.folder.path(), meta));
        self.next.segments.extend(new);
    }

    /// Writes the states of days that `next` returns, and puts them in the place of those of the
    /// same days. `next` is called with the base version. Returns the number of states.
    ///
    /// # Errors
    /// Those of `next`, and if a file cannot be written.
    pub fn write_states(
        &mut self,
        names: &Dictionaries,
        mut next: impl FnMut(&Version) -> Result<Option<(ZoneDay, DailyState)>> + Send,
    ) -> Result<usize> {
        self.has_written_states = true;
        let base = self.base.clone();
        let written = states::write(self.folder, self.next.sequence, names, || next(&base))?;
        let count = written.len();
        self.next.put_states(self.folder.path(), written);
        Ok(count)
    }

    /// Writes a file of event ids, as [`event_ids::write`] does. It is live once this transaction
    /// is committed with its metadata.
    ///
    /// # Errors
    /// As [`event_ids::write`].
    pub fn write_event_ids(
        &mut self,
        day: Day,
        new: &[Entry],
        others: &[Arc<IdFile>],
    ) -> Result<Arc<IdFile>> {
        self.has_written_ids = true;
        event_ids::write(self.folder, self.next.sequence, day, new, others).map(Arc::new)
    }

    /// Writes the links between ids, which take the place of all before.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_links(&mut self, links: Links) -> Result<()> {
        self.has_written_links = true;
        let meta = links_files::write(self.folder, self.next.sequence, &links)?;
        // The transaction has a number of its own by now.
        debug_assert_ne!(
            self.base.links.meta.as_ref().map(|live| &live.path),
            Some(&meta.path)
        );
        self.next.links = SealedLinks {
            meta: Some(meta),
            links: Arc::new(links),
        };
        Ok(())
    }

    /// Prepares a folder with other segments of a day, which takes the place of the one in the lake
    /// when this is committed.
    ///
    /// # Errors
    /// [`Error::Busy`] if a replaced segment is not live any more, and if a file cannot be written.
    pub fn exchange_day(&mut self, change: DayChange) -> Result<()> {
        let DayChange {
            day,
            number,
            new,
            replaced,
        } = change;
        let new_of = |meta: &SegmentMeta| {
            let is_same = |(old, _): &&Replaced| old.meta.path == meta.path;
            replaced.iter().find(is_same).map(|(_, new)| new.as_ref())
        };
        let of_day = self.base.segments_of(day);
        let of_day = of_day.iter().map(|segment| &segment.meta);
        // After a compaction or expiry in between, the next attempt finds what they made.
        if of_day.clone().filter_map(new_of).count() < replaced.len() {
            return Err(changed_meanwhile());
        }
        // Readers that have them, or get them until the new ones are live, go on when their names
        // are gone.
        for (old, _) in &replaced {
            old.keep()?;
            columns::keep(old);
        }
        let stay = of_day.filter(|meta| new_of(meta).is_none());
        let prepared = PreparedDay::prepare(self.folder, day, number, &new.0, stay)?;
        self.next.sequence = self.next.sequence.max(number);
        self.next.segments = self
            .base
            .segments
            .iter()
            .filter_map(|segment| match new_of(&segment.meta) {
                None => Some(segment.clone()),
                Some(new) => new.map(|meta| segment_of(self.folder.path(), meta.clone())),
            })
            .collect();
        self.day = Some((prepared, new));
        Ok(())
    }

    /// Commits the next version, and publishes it together with what `publish` changes.
    ///
    /// # Errors
    /// If the folder of the day cannot be exchanged or the manifest cannot be replaced. Then
    /// everything is as it was, unless the store is poisoned.
    pub fn commit(mut self, publish: impl FnOnce(&mut Published)) -> Result<Committed<'a>> {
        if let Some((day, _)) = &self.day {
            day.exchange().inspect_err(|error| {
                if matches!(error, Error::Poisoned(_)) {
                    self.control.poison(error);
                }
            })?;
        }
        if let Err(error) = self.replace_manifest(&self.next) {
            if let Some((day, _)) = &self.day
                && self.control.poisoned.get().is_none()
                && let Err(undo) = day.exchange()
            {
                self.control.poison(&undo);
            }
            return Err(error);
        }
        self.is_settled = true;
        let version = Arc::new(self.next.clone());
        let mut published = self.control.published();
        published.version = version.clone();
        publish(&mut published);
        drop(published);
        Ok(Committed {
            removed: self.remove_obsolete(),
            old_day: self.day.take().map(|(day, _)| day),
            version,
            _guard: self.guard.take(),
        })
    }

    /// Replaces the manifest. If the new one has its name and may not be durable, it is unknown
    /// which one a power cut leaves: then the store is poisoned.
    fn replace_manifest(&self, next: &Version) -> Result<()> {
        Manifest::of(next).commit(self.folder).inspect_err(|error| {
            let on_disk = Manifest::load(self.folder.path());
            if !on_disk.is_ok_and(|on_disk| on_disk == Manifest::of(&self.base)) {
                self.control.poison(error);
            }
        })
    }

    /// Deletes the files that only the base names; those that readers of the base need are kept in
    /// memory.
    fn remove_obsolete(&self) -> Result<()> {
        let (base, next) = (&self.base, &self.next);
        let has_readers = Arc::strong_count(base) > 1;
        let is_live = next.state_paths();
        let mut has_replaced = self.has_written_states;
        for state in base.all_states() {
            if !is_live.contains(state.meta.path.as_str()) {
                has_replaced = true;
                if has_readers || Arc::strong_count(state) > 1 {
                    state.keep();
                }
            }
        }
        let mut removed = Ok(());
        if has_replaced {
            removed = removed.and(states::remove_others(self.folder, &is_live));
        }
        if next.sealed_through != base.sealed_through {
            removed = removed.and(RotatedLog::remove_through(
                self.folder.path(),
                next.sealed_through,
            ));
        }
        if next.dictionary.generation != base.dictionary.generation {
            removed = removed.and(dictionary::remove_others(self.folder, next.dictionary));
        }
        if next.event_ids != base.event_ids {
            removed = removed.and(event_ids::remove_others(
                self.folder,
                next.event_ids.as_ref(),
            ));
        }
        if next.links.meta != base.links.meta {
            let live = next.links.meta.as_ref();
            removed = removed.and(links_files::remove_others(self.folder, live));
        }
        if self.day.is_some() {
            // The old folder has the segments that are gone, and indexing removes their columns.
            return removed;
        }
        let live: HashSet<*const Segment> = next.segments.iter().map(Arc::as_ptr).collect();
        let mut expired = base.segments.clone();
        expired.retain(|segment| !live.contains(&Arc::as_ptr(segment)));
        if expired.is_empty() {
            return removed;
        }
        for segment in &expired {
            // The base and this list hold it. A damaged one is of no use to readers.
            if has_readers || Arc::strong_count(segment) > 2 {
                let _ = segment.keep();
                columns::keep(segment);
            }
        }
        removed = removed.and(segment::remove_days(self.folder, &expired));
        let live = Manifest::of(next).segments;
        removed.and(columns::remove_others(self.folder, &live))
    }

    /// Removes the files that were prepared and not committed. The dictionary may have been
    /// extended in place: the manifest says how much of it holds, and the next extension overwrites
    /// the rest.
    fn remove_prepared(&self) -> Result<()> {
        let mut removed = Ok(());
        if let Some((day, _)) = &self.day {
            removed = removed.and(day.remove());
        }
        if let Some(number) = self.lake_number {
            let live = Manifest::of(&self.base).segments;
            removed = removed.and(segment::remove_uncommitted(self.folder, number, &live));
        }
        if self.has_written_states {
            removed = removed.and(states::remove_others(self.folder, &self.base.state_paths()));
        }
        if self.next.dictionary.generation != self.base.dictionary.generation {
            removed = removed.and(dictionary::remove_others(self.folder, self.base.dictionary));
        }
        if self.has_written_ids {
            let live = self.base.event_ids.as_ref();
            removed = removed.and(event_ids::remove_others(self.folder, live));
        }
        if self.has_written_links {
            let live = self.base.links.meta.as_ref();
            removed = removed.and(links_files::remove_others(self.folder, live));
        }
        removed
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // A restart may find either manifest after a commit whose outcome is unknown.
        if self.is_settled || self.control.poisoned.get().is_some() {
            return;
        }
        if let Err(error) = self.remove_prepared() {
            warn!(
                "Files that are not live are still there, and the next start removes them: {error}"
            );
        }
    }
}

impl VersionControl {
    /// Rejects all further transactions.
    fn poison(&self, error: &Error) {
        error!("Nothing is sealed, compacted or expired until a restart: {error}");
        self.poisoned.get_or_init(|| error.to_string());
    }
}

/// The error for segments that changed between reading and replacing them.
pub fn changed_meanwhile() -> Error {
    Error::Busy("segments changed while they were replaced; it goes on by itself")
}
