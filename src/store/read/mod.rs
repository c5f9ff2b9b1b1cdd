//! Reading: everything is read from a snapshot of version and tail, and no lock is held meanwhile.

mod days;
mod events;
mod export;
mod gauges;
mod join;
mod size;
mod states;
mod system;
mod user;
mod values;
mod week_cache;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use chrono::NaiveDate;
use chrono_tz::Tz;
use polars::prelude::*;

use super::Store;
use super::version::{ExpiryMeta, VersionControl};
use crate::columns::Table;
use crate::daily::{Activities, Day, date, day_of};
use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::window;
use week_cache::WeekCache;

pub use days::DayOfEvents;
pub use events::{Batch, Columns, LogOrder, Tables};
pub use export::{
    ExportPartMeta, SealedDay, SealedSegment, SealedVersion, count_of, rewrite, rewrite_without,
};
pub use join::{DayPart, JoinedDay, read_day};
pub use size::StoreSize;
pub use states::DayParts;
pub use system::SystemEvents;
pub use values::{PartKey, ValuePart, ValuesOf};

/// Reads published events and states.
pub(super) struct Reader {
    versions: Arc<VersionControl>,
    names: Dictionaries,
    weeks: WeekCache,
}

impl Reader {
    /// Reads what is published here.
    pub fn new(versions: Arc<VersionControl>, names: Dictionaries) -> Self {
        Self {
            versions,
            names,
            weeks: WeekCache::default(),
        }
    }
}

impl Store {
    /// The events of a time range, in µs, in batches, see [`Columns`]: users are codes, event types
    /// and features are strings unless codes are asked for. Each user's events of a day are in the
    /// order of the log. Every acknowledged event is in one of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment that is needed, or the log, is.
    pub fn batches(&self, range_us: Range<i64>, columns: Columns) -> Result<Vec<Batch>> {
        let system = SystemEvents::Included;
        Ok(self.reader.batches(range_us, columns, system, None)?.1)
    }

    /// The events of a time range, in µs, as far as possible as tables of codes, and the others in
    /// batches as [`Store::batches`]. Each acknowledged event is in one of them, except `system`
    /// events if these are hidden.
    ///
    /// # Errors
    /// As [`Store::batches`], and the first error of `tables.check`.
    pub fn tables_and_batches(
        &self,
        range_us: Range<i64>,
        columns: Columns,
        system: SystemEvents,
        tables: Option<&Tables<'_>>,
    ) -> Result<(Vec<Table>, Vec<Batch>)> {
        self.reader.batches(range_us, columns, system, tables)
    }

    /// The events of a time range, in µs, with the columns of [`crate::schema::lake`], by day, each
    /// frame of about one segment. All events that were accepted before are in one of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment that is needed, or the log, is.
    pub fn whole(
        &self,
        range_us: Range<i64>,
    ) -> Result<impl Iterator<Item = Result<LazyFrame>> + use<>> {
        self.reader.whole_range(range_us)
    }

    /// The days of UTC with events of a time range, in µs, the newest first.
    ///
    /// # Errors
    /// If the engine cannot build the events that are not sealed.
    pub fn days_backwards(
        &self,
        range_us: Range<i64>,
        system: SystemEvents,
    ) -> Result<Vec<DayOfEvents>> {
        self.reader.days_backwards(range_us, system)
    }

    /// The parts of the events of a range of days of UTC, in µs, in which values are counted, the
    /// newest first. Every acknowledged event except `system` events is in one of them.
    ///
    /// # Errors
    /// If the engine cannot build the events that are not sealed.
    pub fn value_parts(&self, range_us: Range<i64>) -> Result<Vec<ValuePart>> {
        self.reader.value_parts(range_us)
    }

    /// True if daily states are enough for a range of days of a zone.
    pub fn has_states(&self, tz: Tz, days: &Range<Day>) -> bool {
        self.reader.has_states(tz, days)
    }

    /// First day of a reporting zone whose state is complete; none if all are.
    pub fn first_complete_day(&self, tz: Tz) -> Option<NaiveDate> {
        let version = self.versions.version();
        version.zone(tz)?.first_complete_day()
    }

    /// The day of UTC with whose events the states of a reporting zone begin; none if with all.
    pub fn states_begin(&self, tz: Tz) -> Option<NaiveDate> {
        let first = self.first_complete_day(tz)?;
        let start_us = window::day_us(first, tz).start;
        Some(date(day_of(start_us)))
    }

    /// The states of each day of a zone of a range that has events, those that were just accepted
    /// included.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn days(&self, tz: Tz, days: &Range<Day>) -> Result<Vec<DayParts>> {
        self.reader.days(tz, days)
    }

    /// The revision of each day of UTC of a range that has events: a string that changes when they
    /// do. No file is read.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn revisions(&self, days: &Range<Day>) -> Result<BTreeMap<Day, String>> {
        self.reader.revisions(days)
    }

    /// Users and events of a range of days of a zone, read from states and not from events. All
    /// events that were accepted before are counted.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a state that is needed is.
    pub fn activities(&self, tz: Tz, days: Range<Day>) -> Result<Activities> {
        self.reader.activities(tz, days)
    }

    /// The day of the oldest known event.
    pub fn first_day(&self) -> Option<NaiveDate> {
        let published = self.versions.published();
        let sealed = published.version().states.keys().next().copied();
        let unsealed = published.tail.first_ts_us().map(day_of);
        sealed.into_iter().chain(unsealed).min().map(date)
    }

    /// The day of the newest event.
    pub fn last_day(&self) -> Option<NaiveDate> {
        let published = self.versions.published();
        let sealed = published.version().states.keys().next_back().copied();
        let unsealed = published.tail.last_ts_us().map(day_of);
        sealed.into_iter().chain(unsealed).max().map(date)
    }

    /// Progress of expiry.
    pub fn expiry(&self) -> ExpiryMeta {
        self.versions.version().expiry
    }
}

impl From<PolarsError> for Error {
    fn from(error: PolarsError) -> Self {
        Self::query(error)
    }
}
