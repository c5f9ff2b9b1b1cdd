//! Days that are copies of days of a table: a store that reads events from there has no log, and
//! replaces a day as a whole, with its states, in one commit.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use chrono_tz::Tz;
use polars::prelude::DataFrame;
use roaring::RoaringBitmap;
use tracing::warn;

use super::links::statements_of;
use crate::daily::{DailyState, Day, date};
use crate::dictionary::Lookup;
use crate::error::{Error, Result};
use crate::schema;
use crate::store::files::segment::{self, ALL_ROWS, Sorted};
use crate::store::files::states::ZoneDay;
use crate::store::files::{day_folder, dictionary};
use crate::store::ingest::dedup::Origin;
use crate::store::version::{DayChange, Transaction, Unpublished, Version};
use crate::store::{JoinedDay, Store};
use crate::window;

impl Store {
    /// The days that are copies of days of a table, each with a digest of the files that it is made
    /// of.
    pub fn followed_days(&self) -> BTreeMap<NaiveDate, String> {
        self.versions.version().followed.clone()
    }

    /// True if the store is a copy of a table.
    pub fn is_copy(&self) -> bool {
        !self.versions.published().version().followed.is_empty()
    }

    /// True if it has events that are not from a table.
    pub fn has_own_events(&self) -> bool {
        let published = self.versions.published();
        let version = published.version();
        let mut days = version.segments.iter().map(|segment| date(segment.day()));
        published.tail.len() > 0 || days.any(|day| !version.followed.contains_key(&day))
    }

    /// The sealed events of a day, in the order of its segments.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment is.
    pub fn sealed_events(&self, day: NaiveDate) -> Result<Vec<DataFrame>> {
        let segments = self.versions.version().segments_of(day.to_epoch_days());
        segments
            .iter()
            .map(|segment| segment::read_alone(segment, None, ALL_ROWS))
            .collect()
    }

    /// Makes these the events of a day, and its states those of these events, in one commit.
    /// `files` is a digest of the files that they are from, empty without any.
    ///
    /// # Errors
    /// [`Error::Busy`] while an erasure or another change of the day goes on, and if a file cannot
    /// be written; then the day is what it was.
    pub fn replace_day(&self, day: NaiveDate, events: &JoinedDay, files: String) -> Result<()> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Err(Error::Busy("an erasure is in progress"));
        };
        self.add_names(events.events())?;
        // Erasures are those of the servers of the table.
        let statements = statements_of(events.events(), &self.names().users, |_, _| false)?;
        let mut transaction = self.begin()?;
        let is_changed = self.put_events(&mut transaction, day.to_epoch_days(), events)?;
        // Those of the day before that are gone end when nothing is left of their ids.
        let linked = self.add_links(&mut transaction, &statements, Origin::Load)?;
        let mut returned = RoaringBitmap::new();
        if is_changed {
            returned = self.count_again(&mut transaction, day.to_epoch_days(), &linked)?;
        }
        transaction.next.followed.insert(day, files);
        // There is no log whose events could be sent again.
        let ids = self.add_event_ids(&mut transaction, BTreeMap::new(), Origin::Load)?;
        let next = &mut transaction.next;
        self.ingest.clock.save(&mut next.clock, &mut next.expiry);
        let committed = transaction.commit(|_| {})?;
        let old_ids = self.ingest.recent.lock().seal(None, ids);
        drop(old_ids);
        self.note_restored(&returned);
        self.refresh_links_table();
        if let Some(old) = committed.old_day {
            self.jobs.retired.lock().push(old);
        }
        if let Err(error) = committed.removed {
            warn!("A file that was replaced is still there and will be removed later: {error}");
        }
        Ok(())
    }

    /// Removes the ids of users of whom nothing is left from the dictionary.
    ///
    /// # Errors
    /// If a file cannot be written; the next expiry continues.
    pub fn forget_unused_ids(&self) -> Result<()> {
        self.expire_ids(1).map(drop)
    }

    /// Gives the users of some events codes.
    fn add_names(&self, events: &DataFrame) -> Result<()> {
        let users = &self.names().users;
        for found in users.lookup(events.column(schema::USER_ID)?.str()?) {
            if let Lookup::Unknown(id) = found {
                users.number(id)?;
            }
        }
        Ok(())
    }

    /// Puts events in the place of the segments of a day. False if it has none before and after.
    fn put_events(
        &self,
        transaction: &mut Transaction<'_>,
        day: Day,
        events: &JoinedDay,
    ) -> Result<bool> {
        let old = transaction.base().segments_of(day);
        let Some(first) = old.first() else {
            if events.rows() == 0 {
                return Ok(false);
            }
            let number = transaction.reserve_numbers(1)?;
            transaction.prepare_segments(number);
            let sorted = Sorted::new(events.events().clone())?;
            let name = format!("{number:08}-0000");
            transaction.add_segments(segment::write_days(&self.folder, &name, &sorted)?);
            return Ok(true);
        };
        let meta = old.iter().map(|segment| &segment.meta);
        if !day_folder::is_clean(&self.folder, day, meta)? {
            return Err(Error::Busy("a folder of the lake has files of others"));
        }
        let number = transaction.reserve_numbers(1)?;
        let mut new = Unpublished::default();
        let mut written = None;
        if events.rows() > 0 {
            let name = segment::name_in_place_of(&first.meta, number);
            let temp = self.folder.temp(&format!("{}-{name}.parquet", date(day)))?;
            let path = segment::path_of(day, &name);
            let meta = segment::write_day(&temp, path, events.events().clone())?;
            new.push(temp, meta.clone());
            written = Some(meta);
        }
        let places = std::iter::once(written).chain(std::iter::repeat(None));
        let replaced = old.into_iter().zip(places).collect();
        transaction.exchange_day(DayChange {
            day,
            number,
            new,
            replaced,
        })?;
        Ok(true)
    }

    /// Makes the states of a day of UTC, and those of the days of other zones that it overlaps,
    /// again from the segments of the next version. Returns the codes of returning users, among
    /// whom those that are `linked` may be.
    fn count_again(
        &self,
        transaction: &mut Transaction<'_>,
        utc_day: Day,
        linked: &RoaringBitmap,
    ) -> Result<RoaringBitmap> {
        let next = transaction.next.clone();
        let days = days_of(&next, utc_day);
        let mut days = days.into_iter();
        let mut of_utc = BTreeMap::new();
        transaction.write_states(self.names(), |_| {
            let Some(day) = days.next() else {
                return Ok(None);
            };
            let state = match day.tz {
                Tz::UTC if !next.has_segments_of(day.day) => DailyState::default(),
                _ => self.day_state(&next, day, &[])?,
            };
            if day.tz == Tz::UTC {
                of_utc.insert(day.day, state.clone());
            }
            Ok(Some((day, state)))
        })?;
        let next = &mut transaction.next;
        // A day without events has no state.
        next.states.retain(|_, state| state.meta.events > 0);
        for zone in &mut next.zones {
            zone.states.retain(|_, state| state.meta.events > 0);
        }
        let until = self.names().users.len();
        next.dictionary = dictionary::extend(
            &self.folder,
            next.dictionary,
            &self.names().users,
            &self.ingest.maker.gate.ended(),
            u32::try_from(until).unwrap_or(u32::MAX),
        )?;
        self.restore_ids(&of_utc, linked, &mut next.dictionary)
    }
}

/// The days whose states have events of a day of UTC: itself, and those of other zones, of which
/// all events are kept.
fn days_of(version: &Version, utc_day: Day) -> Vec<ZoneDay> {
    let mut days = vec![ZoneDay::utc(utc_day)];
    for zone in &version.zones {
        let near = utc_day - 1..=utc_day + 1;
        let overlapping = near.filter(|&day| {
            zone.includes(utc_day) && window::utc_days_of(date(day), zone.tz).contains(&utc_day)
        });
        days.extend(overlapping.map(|day| ZoneDay { tz: zone.tz, day }));
    }
    days
}
