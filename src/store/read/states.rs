//! Reading daily states: those of sealed events from files, those of the tail from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use chrono_tz::Tz;

use super::Reader;
use crate::daily::{
    Activities, Activity, DailyState, Day, Members, MembersOf, Place, Week, date, days_of, week_of,
};
use crate::dictionary::Dictionaries;
use crate::error::Result;
use crate::links::canonical::Canonical;
use crate::store::files::states::{StateFile, StateMeta};
use crate::store::version::tail::Chunk;
use crate::window::DAY_US;

/// The states of a day, in parts that may share users.
pub struct DayParts {
    /// The day.
    pub day: Day,
    sealed: Option<Arc<StateFile>>,
    unsealed: Vec<Arc<DailyState>>,
    canonical: Option<Arc<Canonical>>,
}

impl DayParts {
    fn of(day: Day, canonical: &Option<Arc<Canonical>>) -> Self {
        Self {
            day,
            sealed: None,
            unsealed: Vec::new(),
            canonical: canonical.clone(),
        }
    }

    /// Users and events, with users in the place of their aliases. The part of a file that is read
    /// is kept in memory.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if the state is.
    pub fn activities(&self, names: &Dictionaries) -> Result<Vec<Arc<Activity>>> {
        let canonical = self.canonical.as_deref();
        let sealed = self.sealed.iter();
        let sealed = sealed.map(|state| activity_of(state, names, canonical));
        let unsealed = self.unsealed.iter();
        let unsealed = unsealed.map(|state| Ok(linked(&state.activity, canonical)));
        sealed.chain(unsealed).collect()
    }

    /// The event types or features that are wanted, with their users in the place of aliases; one
    /// that is in several parts is several times among them.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if the state is.
    pub fn members(
        &self,
        names: &Dictionaries,
        of: MembersOf,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<Vec<Members>> {
        let mut found = match &self.sealed {
            Some(state) => state.members(names, of, &is_wanted)?,
            None => Vec::new(),
        };
        let unsealed = self.unsealed.iter();
        found.extend(unsealed.flat_map(|state| state.members(of, &is_wanted)));
        if let Some(canonical) = &self.canonical {
            for members in &mut found {
                canonical.apply_sorted(&mut members.users);
            }
        }
        Ok(found)
    }
}

/// Users and events of a sealed day, with users in the place of their aliases.
fn activity_of(
    state: &StateFile,
    names: &Dictionaries,
    canonical: Option<&Canonical>,
) -> Result<Arc<Activity>> {
    match canonical {
        Some(canonical) => Ok(state.linked(names, canonical)?.activity),
        None => state.activity(names),
    }
}

/// The same of events in memory.
fn linked(activity: &Arc<Activity>, canonical: Option<&Canonical>) -> Arc<Activity> {
    match canonical {
        Some(canonical) => canonical.activity(activity).activity,
        None => activity.clone(),
    }
}

/// A time range with all events of some days of a zone, in µs.
fn range_of(days: &Range<Day>) -> Range<i64> {
    // Days of a zone reach into the days of UTC before and after.
    utc_range_of(&(days.start.saturating_sub(1)..days.end.saturating_add(1)))
}

/// The range of time of days of UTC.
fn utc_range_of(days: &Range<Day>) -> Range<i64> {
    let start_us = |day: Day| i64::from(day).saturating_mul(DAY_US);
    start_us(days.start)..start_us(days.end)
}

impl Reader {
    /// True if daily states are enough for a range of days of a zone. Those of a zone that was
    /// added later are enough for all that can be known once they include all sealed events.
    pub fn has_states(&self, tz: Tz, days: &Range<Day>) -> bool {
        let version = self.versions.version();
        tz == Tz::UTC
            || version.zone(tz).is_some_and(|zone| {
                let from = zone.first_complete_day();
                zone.included_from.is_none() || from.is_some_and(|from| date(days.start) >= from)
            })
    }

    /// The daily states of a range of days of a zone, each in parts: those of sealed events and
    /// those of each chunk of the tail. No file is read yet.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn days(&self, tz: Tz, days: &Range<Day>) -> Result<Vec<DayParts>> {
        let snapshot = self.versions.snapshot(&range_of(days))?;
        let canonical = &snapshot.canonical;
        let mut found: BTreeMap<Day, DayParts> = BTreeMap::new();
        let sealed = snapshot.version.states_of(tz).into_iter();
        for (&day, state) in sealed.flat_map(|states| states.range(days.clone())) {
            let parts = found
                .entry(day)
                .or_insert_with(|| DayParts::of(day, canonical));
            parts.sealed = Some(state.clone());
        }
        for chunk in &snapshot.tail {
            for (day, state) in self.unsealed(chunk, tz, days)? {
                let parts = found
                    .entry(day)
                    .or_insert_with(|| DayParts::of(day, canonical));
                parts.unsealed.push(state.clone());
            }
        }
        Ok(found.into_values().collect())
    }

    /// The states of the events of a chunk in a range of days of a zone. Several may be of one day.
    fn unsealed<'a>(
        &self,
        chunk: &'a Chunk,
        tz: Tz,
        days: &Range<Day>,
    ) -> Result<impl Iterator<Item = (Day, &'a Arc<DailyState>)> + use<'a>> {
        let slices = chunk.slices()?;
        let zone = Place::of(tz, self.versions.zones());
        let parts = zone.into_iter().flat_map(|zone| slices.parts(zone));
        let days = days.clone();
        Ok(parts.filter(move |(day, _)| days.contains(day)))
    }

    /// The revision of each day of UTC of a range that has events: a string that changes when they
    /// do, or links of their users. No file is read without links. Events that move from the log to
    /// segments get a new revision; a compaction changes none.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn revisions(&self, days: &Range<Day>) -> Result<BTreeMap<Day, String>> {
        // Not the events of the days after: monitoring calls this every few seconds.
        let snapshot = self.versions.snapshot(&utc_range_of(days))?;
        let mut revisions: BTreeMap<Day, String> = BTreeMap::new();
        for (&day, state) in snapshot.version.states.range(days.clone()) {
            // Equal states of one day have equal bytes.
            let StateMeta {
                events,
                bytes,
                crc32c,
                ..
            } = state.meta;
            let mut revision = format!("{events}-{bytes}-{crc32c:08x}");
            if let Some(canonical) = &snapshot.canonical {
                revision += &state.linked(&self.names, canonical)?.digest;
            }
            revisions.insert(day, revision);
        }
        let mut unsealed: BTreeMap<Day, (u64, String)> = BTreeMap::new();
        for chunk in &snapshot.tail {
            for (day, state) in self.unsealed(chunk, Tz::UTC, days)? {
                let (events, links) = unsealed.entry(day).or_default();
                *events += state.activity.stored_events();
                if let Some(canonical) = &snapshot.canonical {
                    *links += &canonical.activity(&state.activity).digest;
                }
            }
        }
        for (day, (events, links)) in unsealed {
            revisions
                .entry(day)
                .or_default()
                .push_str(&format!("+{events}{links}"));
        }
        Ok(revisions)
    }

    /// Users and events of a range of days of a zone.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a state that is needed is.
    pub fn activities(&self, tz: Tz, days: Range<Day>) -> Result<Activities> {
        let names = &self.names;
        let snapshot = self.versions.snapshot(&range_of(&days))?;
        let canonical = snapshot.canonical.as_deref();
        let states = snapshot.version.states_of(tz).into_iter();
        let states = states.flat_map(|states| states.range(days.clone()));
        let states: Vec<_> = states.map(|(&day, state)| (day, state.clone())).collect();
        let mut activities = Activities::default();
        for chunk in &snapshot.tail {
            for (day, state) in self.unsealed(chunk, tz, &days)? {
                if state.activity.events > 0 {
                    let parts = activities.days.entry(day).or_default();
                    parts.push(linked(&state.activity, canonical));
                }
            }
        }
        let unsealed: BTreeSet<Week> = activities.days.keys().copied().map(week_of).collect();
        let mut complete_weeks = Vec::new();
        for of_week in states.chunk_by(|(a, _), (b, _)| week_of(*a) == week_of(*b)) {
            let Some(week) = of_week.first().map(|(day, _)| week_of(*day)) else {
                continue;
            };
            let reach = days_of(week);
            if days.start <= reach.start && reach.end <= days.end && !unsealed.contains(&week) {
                complete_weeks.push((week, of_week));
                continue;
            }
            for (day, state) in of_week {
                let activity = activity_of(state, names, canonical)?;
                // There may be `system` events alone.
                if activity.events > 0 {
                    activities.days.entry(*day).or_default().push(activity);
                }
            }
        }
        activities.weeks = self.weeks.activity(tz, &complete_weeks, names, canonical)?;
        activities.weeks.retain(|_, week| week.days > 0);
        Ok(activities)
    }
}
