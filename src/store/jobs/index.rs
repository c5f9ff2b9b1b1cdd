//! Indexing: writes the columns of segments that stay as they are.
//!
//! They are derived and no manifest names them; a transaction makes sure that their segment is
//! live when they get their place.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compact::{self, CompactionScope};
use super::published::SharedTableMeta;
use super::seal::LATE_BYTES;
use crate::daily::{Day, day_of};
use crate::error::{Error, Result};
use crate::links::canonical::Canonical;
use crate::store::files::columns;
use crate::store::files::segment::Segment;
use crate::store::version::{Manifest, Version};
use crate::store::{Store, files};

/// The segments of days that are over and have nothing to compact.
fn plan(version: &Version, shared: &SharedTableMeta, now_us: i64) -> Vec<Arc<Segment>> {
    let waiting = compact::due_days(version, shared, now_us, CompactionScope::Full);
    let waiting: BTreeSet<Day> = waiting.into_iter().collect();
    let is_final = |segment: &&Arc<Segment>| {
        let day = segment.day();
        day < day_of(now_us) && !waiting.contains(&day)
    };
    let segments = version.segments.iter();
    segments.filter(is_final).cloned().collect()
}

impl Store {
    /// Writes missing columns, and removes those of segments that are gone. With all that is due,
    /// columns in which users are not in the place of their aliases are written again.
    pub(super) fn index(&self, now_us: i64, scope: CompactionScope) -> Result<()> {
        self.remove_other_columns()?;
        let mut indexed = Ok(());
        if self.jobs.column_share == 0 {
            return indexed;
        }
        let shared = self.shared_table()?;
        let version = self.versions.version();
        // Not what events in memory say: a power cut may lose them.
        let links = Some(&version.links.links).filter(|links| !links.is_empty());
        let canonical = links.map(|links| Canonical::new(links, &[]));
        let canonical = canonical.as_ref();
        for segment in plan(&version, &shared, now_us) {
            let is_due = match scope {
                CompactionScope::Full => columns::is_due(&segment, canonical),
                CompactionScope::Urgent => !columns::path_of(&segment).exists(),
            };
            if !is_due {
                continue;
            }
            // The segments of a full log have precedence.
            if !self.folder.has_free_bytes(LATE_BYTES) {
                break;
            }
            match self.index_segment(&segment, canonical) {
                // It has been reported already.
                Ok(()) | Err(Error::Damaged { .. }) => {}
                error => indexed = indexed.and(error),
            }
        }
        indexed
    }

    fn index_segment(&self, segment: &Arc<Segment>, canonical: Option<&Canonical>) -> Result<()> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Ok(());
        };
        let path = segment.meta.path.as_str();
        if !self.begin()?.base().has_segment(path) {
            return Ok(());
        }
        let share = self.jobs.column_share;
        let temp = columns::write(&self.folder, segment, self.names(), share, canonical)?;
        files::or_remove(&temp, || {
            // It may have expired meanwhile.
            let transaction = self.begin()?;
            if transaction.base().has_segment(path) {
                // The version, this transaction and this job have it; others may read its columns.
                if Arc::strong_count(segment) > 3 {
                    columns::keep(segment);
                }
                columns::publish(&self.folder, &temp, segment)
            } else {
                files::remove(&temp)
            }
        })
    }

    /// Removes the columns of segments that are not live.
    pub(super) fn remove_other_columns(&self) -> Result<()> {
        let transaction = self.begin()?;
        let live = Manifest::of(transaction.base()).segments;
        columns::remove_others(&self.folder, &live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::DAY_US;

    #[test]
    fn only_segments_that_stay_are_indexed() {
        // Day 2 has segments to join, and day 4 is not over.
        let version = Version::with(&[1, 2, 2, 3, 4], &[]);
        let days = |now_us| -> Vec<Day> {
            let segments = plan(&version, &SharedTableMeta::default(), now_us);
            segments.iter().map(|segment| segment.day()).collect()
        };
        assert_eq!(days(4 * DAY_US + DAY_US / 2), [1, 3]);
        assert_eq!(days(5 * DAY_US), [1, 3, 4]);
    }
}
