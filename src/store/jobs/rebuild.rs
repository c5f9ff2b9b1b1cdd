//! Rebuild: makes daily states again from segments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chrono_tz::Tz;
use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;
use tracing::info;

use super::day_state::DayEvents;
use crate::daily::{self, DailyState, Day, OtherZones, Place, Slices, date};
use crate::dictionary::{Dictionaries, Lookup, UserDictionary};
use crate::error::Result;
use crate::progress::Progress;
use crate::schema;
use crate::store::Store;
use crate::store::files::dictionary;
use crate::store::files::folder::Folder;
use crate::store::files::segment::{self, Segment};
use crate::store::files::states::{StateFile, ZoneDay};
use crate::store::version::{Transaction, Version, VersionControl};
use crate::window;

/// Result of a rebuild.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Days whose state was made from segments.
    pub days: usize,
    /// States of these days, in all zones, that were missing, damaged or different.
    pub changed: usize,
    /// Days whose events expired: their states were kept.
    pub kept: usize,
}

/// Days whose states are kept, and days whose states are made from segments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    kept: usize,
    days: Vec<Day>,
}

fn plan(version: &Version) -> Plan {
    let with_segments: BTreeSet<Day> = version.segments.iter().map(|s| s.day()).collect();
    let without_segments = version
        .states
        .keys()
        .filter(|day| !with_segments.contains(day));
    let raw_from = version.expiry.raw_from;
    let (expired, days): (Vec<Day>, Vec<Day>) = with_segments
        .iter()
        .partition(|&&day| raw_from.is_some_and(|raw_from| date(day) < raw_from));
    Plan {
        kept: without_segments.count() + expired.len(),
        days,
    }
}

/// Limits and names that states are made with.
pub struct Rebuild<'a> {
    /// The names of the store.
    pub names: &'a Dictionaries,
    /// The zones that events are counted for.
    pub zones: &'a OtherZones,
    /// Users whose ids are not written to the dictionary.
    pub erased: &'a RoaringBitmap,
    /// Features that a day may name.
    pub max_features: u32,
}

impl Rebuild<'_> {
    /// Writes the states that differ from those of the segments, and the users whom they name.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a segment is, and if it is cancelled.
    fn prepare(
        &self,
        transaction: &mut Transaction<'_>,
        folder: &Folder,
        progress: &Progress,
    ) -> Result<Rebuilt> {
        let Plan { kept, days } = plan(transaction.base());
        let mut rebuilt = Rebuilt {
            kept,
            days: days.len(),
            changed: 0,
        };
        let mut greatest = None;
        let mut of_zones: Vec<ZoneRebuild> = transaction
            .base()
            .zones
            .iter()
            .filter_map(|zone| ZoneRebuild::new(zone.tz, self.zones))
            .collect();
        let counted: BTreeSet<Day> = days.iter().copied().collect();
        progress.set_total(days.len() as u64);
        let mut days = days.into_iter();
        let mut ready: VecDeque<(ZoneDay, DailyState)> = VecDeque::new();
        transaction.next.sequence += 1;
        rebuilt.changed = transaction.write_states(self.names, |version| {
            loop {
                while let Some((day, state)) = ready.pop_front() {
                    let known = version.state(day);
                    if !known.is_some_and(|known| is_same(known, &state, self.names)) {
                        return Ok(Some((day, state)));
                    }
                }
                let Some(day) = days.next() else {
                    // The days of the zones that were waiting for a later day of UTC.
                    for zone in &mut of_zones {
                        ready.extend(zone.take_until(Day::MAX, &counted, version));
                    }
                    if ready.is_empty() {
                        return Ok(None);
                    }
                    continue;
                };
                progress.check()?;
                let slices = DayEvents {
                    segments: &version.segments_of(day),
                    day,
                    zones: self.zones,
                    names: self.names,
                    named: version.named_features(day, self.names),
                    max_features: self.max_features,
                    without: &[],
                };
                let slices = slices.compute()?;
                let state = slices.of_utc().remove(&day).unwrap_or_default();
                greatest = greatest.max(state.greatest_user());
                ready.push_back((ZoneDay::utc(day), state));
                for zone in &mut of_zones {
                    zone.add(&slices, version);
                    ready.extend(zone.take_until(day, &counted, version));
                }
                progress.add(1);
            }
        })?;
        transaction.next.dictionary = dictionary::extend(
            folder,
            transaction.base().dictionary,
            &self.names.users,
            self.erased,
            greatest.map_or(0, |user| user + 1),
        )?;
        Ok(rebuilt)
    }
}

/// The states of a reporting zone that are made again. A day needs up to three days of UTC.
struct ZoneRebuild {
    tz: Tz,
    place: Place,
    /// Days of the zone that may get more events.
    partial: BTreeMap<Day, DailyState>,
}

impl ZoneRebuild {
    fn new(tz: Tz, zones: &OtherZones) -> Option<Self> {
        Some(Self {
            tz,
            place: Place::of(tz, zones)?,
            partial: BTreeMap::new(),
        })
    }

    /// Adds the events of a day of UTC.
    fn add(&mut self, slices: &Slices, version: &Version) {
        let zone = version.zone(self.tz);
        let is_included = |utc_day| zone.is_some_and(|zone| zone.includes(utc_day));
        for (day, state) in slices.of_zone(self.place, is_included) {
            self.partial.entry(day).or_default().merge(&state);
        }
    }

    /// The days that end by the end of a day of UTC, without those of which events have expired.
    /// `counted` are the days of UTC that are added.
    fn take_until(
        &mut self,
        utc_day: Day,
        counted: &BTreeSet<Day>,
        version: &Version,
    ) -> Vec<(ZoneDay, DailyState)> {
        let raw_from = version.expiry.raw_from;
        let has_all = |day: Day| {
            let is_kept = raw_from.is_none_or(|raw_from| date(day) >= raw_from);
            counted.contains(&day) || (is_kept && !version.states.contains_key(&day))
        };
        let tz = self.tz;
        let is_over =
            |day: Day| window::utc_days_of(date(day), tz).end <= utc_day.saturating_add(1);
        let all = std::mem::take(&mut self.partial).into_iter();
        let (ended, partial): (BTreeMap<_, _>, _) = all.partition(|(day, _)| is_over(*day));
        self.partial = partial;
        ended
            .into_iter()
            .filter(|(day, _)| window::utc_days_of(date(*day), tz).all(has_all))
            .map(|(day, state)| (ZoneDay { tz, day }, state))
            .collect()
    }
}

/// True if the file on disk has the bytes of that state.
fn is_same(known: &StateFile, state: &DailyState, names: &Dictionaries) -> bool {
    known
        .verified_bytes()
        .is_ok_and(|bytes| daily::encode(state, names).is_ok_and(|encoded| encoded == bytes))
}

/// Makes the states of a store that was written before there were any.
///
/// # Errors
/// As [`Store::rebuild`].
pub fn add_missing_states(
    versions: &VersionControl,
    folder: &Folder,
    names: &Dictionaries,
    max_features: u32,
) -> Result<()> {
    let version = versions.version();
    let has_state = |segment: &Arc<Segment>| version.states.contains_key(&segment.day());
    if version.segments.iter().all(has_state) {
        return Ok(());
    }
    info!("Making the daily states that are missing");
    // A store without states has no dictionary either.
    for segment in &version.segments {
        add_users(segment, &names.users)?;
    }
    let rebuild = Rebuild {
        names,
        zones: versions.zones(),
        // Users who are erased have no events in the segments.
        erased: &RoaringBitmap::new(),
        max_features,
    };
    let mut transaction = versions.begin(folder)?;
    rebuild.prepare(&mut transaction, folder, &Progress::default())?;
    transaction.commit(|_| {})?.removed
}

/// Gives the users of a segment codes.
fn add_users(segment: &Arc<Segment>, users: &UserDictionary) -> Result<()> {
    let ids = segment::scan(std::slice::from_ref(segment))?
        .select([col(schema::USER_ID)])
        .collect()?;
    for found in users.lookup(ids.column(schema::USER_ID)?.str()?) {
        if let Lookup::Unknown(id) = found {
            users.number(id)?;
        }
    }
    Ok(())
}

impl Store {
    /// Makes the daily states of all days again from their segments, which gives identical bytes.
    /// Days whose events expired, all or some, keep theirs.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a segment is, and if it is cancelled.
    pub fn rebuild(&self, progress: &Progress) -> Result<Rebuilt> {
        let mut transaction = self.begin()?;
        let rebuild = Rebuild {
            names: self.names(),
            zones: self.versions.zones(),
            erased: &self.ingest.maker.gate.ended(),
            max_features: self.ingest.admission.limits().features,
        };
        let rebuilt = rebuild.prepare(&mut transaction, &self.folder, progress)?;
        progress.commit()?;
        if rebuilt.changed > 0 {
            transaction.commit(|_| {})?.removed?;
        }
        Ok(rebuilt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_without_all_their_events_keep_their_states() {
        let mut version = Version::with(&[10, 20, 20, 30], &[1, 10, 20]);
        let days = vec![10, 20, 30];
        assert_eq!(plan(&version), Plan { kept: 1, days });
        // A day whose events have expired, and one of whose segments is still in the lake.
        version.expiry.raw_from = Some(date(15));
        let days = vec![20, 30];
        assert_eq!(plan(&version), Plan { kept: 2, days });
    }
}
