//! Indexing: writes the postings and columns of segments that stay as they are.
//!
//! They are derived and no manifest names them; a transaction makes sure that their segment is
//! live when they get their place.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::compact::{self, CompactionScope};
use super::seal::LATE_BYTES;
use crate::daily::{Day, day_of};
use crate::error::{Error, Result};
use crate::store::files::segment::Segment;
use crate::store::files::{columns, postings};
use crate::store::version::{Manifest, Version};
use crate::store::{Store, files};

/// The segments of days that are over and have nothing to compact.
fn plan(version: &Version, now_us: i64) -> Vec<Arc<Segment>> {
    let waiting: BTreeSet<Day> = compact::due_days(version, now_us, CompactionScope::Full)
        .into_iter()
        .collect();
    let is_final = |segment: &&Arc<Segment>| {
        let day = segment.day();
        day < day_of(now_us) && !waiting.contains(&day)
    };
    let segments = version.segments.iter();
    segments.filter(is_final).cloned().collect()
}

/// A kind of file that is derived from a segment.
#[derive(Clone, Copy)]
enum Derived {
    Postings,
    Columns,
}

impl Derived {
    fn path_of(self, segment: &Segment) -> PathBuf {
        match self {
            Self::Postings => postings::path_of(segment),
            Self::Columns => columns::path_of(segment),
        }
    }
}

impl Store {
    /// Writes missing postings and columns, and removes those of segments that are gone.
    pub(super) fn index(&self, now_us: i64) -> Result<()> {
        self.remove_other_indexes()?;
        let mut indexed = Ok(());
        for segment in plan(&self.versions.version(), now_us) {
            for kind in [Derived::Postings, Derived::Columns] {
                let is_off = matches!(kind, Derived::Columns) && self.jobs.column_share == 0;
                if is_off || kind.path_of(&segment).exists() {
                    continue;
                }
                // The segments of a full log have precedence.
                if !self.folder.has_free_bytes(LATE_BYTES) {
                    return indexed;
                }
                match self.index_segment(&segment, kind) {
                    // It has been reported already.
                    Ok(()) | Err(Error::Damaged { .. }) => {}
                    error => indexed = indexed.and(error),
                }
            }
        }
        indexed
    }

    fn index_segment(&self, segment: &Arc<Segment>, kind: Derived) -> Result<()> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Ok(());
        };
        let path = segment.meta.path.as_str();
        if !self.begin()?.base().has_segment(path) {
            return Ok(());
        }
        let temp = match kind {
            Derived::Postings => postings::write(&self.folder, segment, self.names())?,
            Derived::Columns => {
                let share = self.jobs.column_share;
                columns::write(&self.folder, segment, self.names(), share)?
            }
        };
        files::or_remove(&temp, || {
            // It may have expired meanwhile.
            let transaction = self.begin()?;
            if !transaction.base().has_segment(path) {
                return files::remove(&temp);
            }
            match kind {
                Derived::Postings => postings::publish(&self.folder, &temp, segment),
                Derived::Columns => columns::publish(&self.folder, &temp, segment),
            }
        })
    }

    /// Removes the postings and columns of segments that are not live.
    pub(super) fn remove_other_indexes(&self) -> Result<()> {
        let transaction = self.begin()?;
        let live = Manifest::of(transaction.base()).segments;
        postings::remove_others(&self.folder, &live)?;
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
            let segments = plan(&version, now_us);
            segments.iter().map(|segment| segment.day()).collect()
        };
        assert_eq!(days(4 * DAY_US + DAY_US / 2), [1, 3]);
        assert_eq!(days(5 * DAY_US), [1, 3, 4]);
    }
}
