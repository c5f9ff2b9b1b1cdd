//! Slices: states of the events that lie in one day of UTC and in one day of each reporting zone.
//!
//! The days of UTC and those of the zones overlap. Events are counted once, by slice, and the state
//! of a day of any zone is the union of its slices: those of Berlin's days in summer are 22:00 to
//! 24:00 UTC and 00:00 to 22:00 UTC.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;

use super::{DailyState, Day};

/// Reporting zones other than UTC. Their order is that of the days of a slice.
pub type OtherZones = Arc<[Tz]>;

/// The day of UTC of some events, and then their day in each zone.
pub(super) type SliceDays = Vec<Day>;

/// The states of some events by slice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slices(BTreeMap<SliceDays, Arc<DailyState>>);

impl FromIterator<(SliceDays, DailyState)> for Slices {
    fn from_iter<I: IntoIterator<Item = (SliceDays, DailyState)>>(slices: I) -> Self {
        let slices = slices.into_iter();
        Self(
            slices
                .map(|(days, state)| (days, Arc::new(state)))
                .collect(),
        )
    }
}

impl Slices {
    /// Merges the slices of other events.
    pub fn merge(&mut self, others: &Self) {
        for (days, other) in &others.0 {
            match self.0.get_mut(days) {
                Some(mine) => Arc::make_mut(mine).merge(other),
                None => drop(self.0.insert(days.clone(), other.clone())),
            }
        }
    }

    /// True if there are no events.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The slices with their days in a zone. Several may be of one day.
    pub fn parts(&self, zone: Place) -> impl Iterator<Item = (Day, &Arc<DailyState>)> {
        let slices = self.0.iter();
        slices.filter_map(move |(days, state)| Some((*days.get(zone.0)?, state)))
    }

    /// The states of the days of UTC.
    pub fn of_utc(&self) -> BTreeMap<Day, DailyState> {
        self.of_zone(Place::UTC, |_| true)
    }

    /// The states of the days of a zone, of events whose day of UTC is included.
    pub fn of_zone(
        &self,
        zone: Place,
        is_included: impl Fn(Day) -> bool,
    ) -> BTreeMap<Day, DailyState> {
        let mut merged: BTreeMap<Day, DailyState> = BTreeMap::new();
        for (days, state) in &self.0 {
            if let (Some(&utc), Some(&day)) = (days.first(), days.get(zone.0))
                && is_included(utc)
            {
                merged.entry(day).or_default().merge(state);
            }
        }
        merged
    }
}

/// The place of a zone among the days of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

impl Place {
    /// The place of UTC.
    pub const UTC: Self = Self(0);

    /// The place of a zone; none if it is neither UTC nor one of these.
    pub fn of(tz: Tz, zones: &[Tz]) -> Option<Self> {
        if tz == Tz::UTC {
            return Some(Self::UTC);
        }
        let place = zones.iter().position(|zone| *zone == tz)?;
        Some(Self(place + 1))
    }
}
