//! Exchange of a day's segments for others of the same place in the log, by one commit: what compactions and erasures do.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::info;

use super::Store;
use super::compaction::{self, Staged};
use super::manifest::Manifest;
use super::segment::{self, Segment, SegmentFacts};
use crate::daily::{Day, date};
use crate::error::{Error, Result};

/// A segment that goes, and what takes its place; of several that become one, it is that of the first.
pub(super) type Replaced = (Arc<Segment>, Option<SegmentFacts>);

impl Store {
    /// Puts new segments of a day, each with the unfinished file it lies at, in the place of others. Returns the folder that has
    /// left the lake.
    ///
    /// # Errors
    /// [`Error::Busy`] if one of the others is not live any more, and if something cannot be read or written; then the day is as
    /// it was and the unfinished files are gone.
    pub(super) fn replace_in_day(
        &self,
        manifest: &mut Manifest,
        day: Day,
        number: u64,
        new: &[(PathBuf, SegmentFacts)],
        replaced: &[Replaced],
    ) -> Result<Staged> {
        let exchanged = self.try_replace_in_day(manifest, day, number, new, replaced);
        exchanged.inspect_err(|_| {
            for (temp, _) in new {
                // It is cleared at the next start if it cannot be removed now.
                let _ = std::fs::remove_file(temp);
            }
        })
    }

    fn try_replace_in_day(
        &self,
        manifest: &mut Manifest,
        day: Day,
        number: u64,
        new: &[(PathBuf, SegmentFacts)],
        replaced: &[Replaced],
    ) -> Result<Staged> {
        let new_of = |facts: &SegmentFacts| {
            let pair = replaced
                .iter()
                .find(|(old, _)| old.facts.path == facts.path);
            pair.map(|(_, new)| new.clone())
        };
        let of_day = compaction::by_day(&manifest.segments)
            .remove(&day)
            .unwrap_or_default();
        // Compaction or expiry came in between: the next attempt finds what they made.
        if of_day.iter().filter_map(|facts| new_of(facts)).count() < replaced.len() {
            return Err(changed_meanwhile());
        }
        // Whoever reads them now, or sees them until the new ones are live, goes on reading when their names are gone.
        replaced.iter().try_for_each(|(old, _)| old.keep())?;
        let stay = of_day
            .iter()
            .copied()
            .filter(|facts| new_of(facts).is_none());
        let staged = Staged::prepare(&self.folder, day, number, new, stay)?;
        let mut next = manifest.clone();
        next.sequence = next.sequence.max(number);
        next.segments = manifest
            .segments
            .iter()
            .filter_map(|facts| new_of(facts).unwrap_or_else(|| Some(facts.clone())))
            .collect();
        self.commit_day(&staged, manifest, &next)?;
        let mut view = self.view.lock();
        view.segments = std::mem::take(&mut view.segments)
            .into_iter()
            .filter_map(|segment| match new_of(&segment.facts) {
                None => Some(segment),
                Some(new) => new.map(|facts| Arc::new(Segment::new(self.folder.path(), facts))),
            })
            .collect();
        drop(view);
        *manifest = next;
        Ok(staged)
    }

    /// Gives the segments of a day names in the order of the log, where an earlier version gave them others.
    ///
    /// # Errors
    /// If something cannot be written; then the day stays as it is.
    pub(super) fn rename_in_order(&self, day: Day) -> Result<()> {
        // An erasure knows its segments by their names.
        let Some(_no_erasure) = self.unless_erasing() else {
            return Ok(());
        };
        let mut manifest = self.lock_manifest()?;
        let mut segments = self.view.lock().segments.clone();
        segments.retain(|segment| segment.day() == day);
        let of_day: Vec<&SegmentFacts> = segments.iter().map(|segment| &segment.facts).collect();
        if !compaction::is_clean(&self.folder, day, &of_day)? {
            // A file of somebody else, or a damaged segment that was set aside.
            return Ok(());
        }
        let number = self.reserve_numbers(&mut manifest, 1)?;
        let mut new = Vec::new();
        let mut replaced = Vec::new();
        for (place, segment) in segments.into_iter().enumerate() {
            let name = format!("{number:08}-{place:04}");
            let temp = self.folder.temp(&format!("{}-{name}.parquet", date(day)))?;
            let path = segment.path();
            std::fs::hard_link(&path, &temp).map_err(Error::io("link", &path))?;
            let facts = SegmentFacts {
                path: segment::path_of(day, &name),
                ..segment.facts.clone()
            };
            new.push((temp, facts.clone()));
            replaced.push((segment, Some(facts)));
        }
        let staged = self.replace_in_day(&mut manifest, day, number, &new, &replaced)?;
        self.lock_retired().push(staged);
        info!(
            "Gave the segments of {} names in the order of the log",
            date(day)
        );
        Ok(())
    }
}

/// Something came in between: the next attempt finds what is left.
pub(super) fn changed_meanwhile() -> Error {
    Error::Busy("segments changed while they were replaced; it goes on by itself")
}
