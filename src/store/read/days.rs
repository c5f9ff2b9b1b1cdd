//! Events day by day, from the newest day on.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use polars::prelude::*;

use super::events::{inside, segments_in};
use super::{Reader, SystemEvents};
use crate::daily::{Day, day_of};
use crate::dictionary::UserDictionary;
use crate::error::{Error, Result};
use crate::links::canonical::Canonical;
use crate::schema;
use crate::store::erased::Visible;
use crate::store::files::segment::{self, Segment};
use crate::store::version::tail::Chunk;
use crate::window::DAY_US;

/// Chunks of the tail, the newest ones, whose events stay in memory once they were read from the
/// log: some 100 MB. A seal is due before there are more.
const MAX_KEPT_CHUNKS: usize = 8;

/// The events of a day of UTC in a time range, in parts, in the order of the log.
pub struct DayOfEvents {
    parts: Vec<Part>,
    range_us: Range<i64>,
    system: SystemEvents,
    visible: Option<Visible>,
    /// The users of ids, and their dictionary.
    canonical: Option<(Arc<Canonical>, UserDictionary)>,
}

enum Part {
    Segment(Arc<Segment>),
    Chunk(Arc<UnsealedPart>),
}

/// A chunk of the tail, which may have events of several days.
struct UnsealedPart {
    chunk: Arc<Chunk>,
    /// Its events, if they stay in memory.
    events: Option<OnceLock<DataFrame>>,
}

impl DayOfEvents {
    /// Number of parts: segments, then chunks of the tail.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// True if some of its events are in segments.
    pub fn reads_segments(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| matches!(part, Part::Segment(_)))
    }

    /// The events of a part, with the columns of [`crate::schema::lake`], and users in the place of
    /// their aliases.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the segment or the log is.
    pub fn part(&self, at: usize) -> Result<LazyFrame> {
        let (events, has_system) = match self.parts.get(at) {
            Some(Part::Segment(segment)) => {
                let events = segment::scan(std::slice::from_ref(segment))?;
                (events, segment.meta.system > 0)
            }
            Some(Part::Chunk(part)) => (part.events()?.lazy(), part.chunk.has_system),
            None => return Err(Error::Busy("a part of a day does not exist")),
        };
        let visible = self.system.of_visible(has_system, self.visible.clone());
        let events = events.filter(inside(&self.range_us, visible));
        Ok(match &self.canonical {
            Some((canonical, users)) => {
                events.with_columns([canonical.ids(users, col(schema::USER_ID))])
            }
            None => events,
        })
    }
}

impl UnsealedPart {
    fn events(&self) -> Result<DataFrame> {
        let Some(kept) = &self.events else {
            return self.chunk.whole();
        };
        if let Some(events) = kept.get() {
            return Ok(events.clone());
        }
        let events = self.chunk.whole()?;
        Ok(kept.get_or_init(|| events).clone())
    }
}

impl Reader {
    /// The days of UTC with events of a time range, the newest first, of one snapshot.
    ///
    /// # Errors
    /// If the open chunk of the tail cannot be built.
    pub fn days_backwards(
        &self,
        range_us: Range<i64>,
        system: SystemEvents,
    ) -> Result<Vec<DayOfEvents>> {
        let snapshot = self.versions.snapshot(&range_us)?;
        let mut days: BTreeMap<Reverse<Day>, Vec<Part>> = BTreeMap::new();
        for segment in segments_in(&snapshot, &range_us) {
            let day = days.entry(Reverse(segment.day())).or_default();
            day.push(Part::Segment(segment));
        }
        let is_kept_from = snapshot.tail.len().saturating_sub(MAX_KEPT_CHUNKS);
        for (number, chunk) in snapshot.tail.into_iter().enumerate() {
            let (first_us, last_us) = chunk.span_us();
            let part = Arc::new(UnsealedPart {
                chunk,
                events: (number >= is_kept_from).then(OnceLock::new),
            });
            let first = day_of(first_us.max(range_us.start));
            let last = day_of(last_us.min(range_us.end.saturating_sub(1)));
            for day in first..=last {
                let day = days.entry(Reverse(day)).or_default();
                day.push(Part::Chunk(part.clone()));
            }
        }
        Ok(days
            .into_iter()
            .map(|(Reverse(day), parts)| {
                let start_us = i64::from(day) * DAY_US;
                DayOfEvents {
                    parts,
                    range_us: start_us.max(range_us.start)..(start_us + DAY_US).min(range_us.end),
                    system,
                    visible: snapshot.visible.clone(),
                    canonical: snapshot
                        .canonical
                        .clone()
                        .map(|canonical| (canonical, self.names.users.clone())),
                }
            })
            .collect())
    }
}
