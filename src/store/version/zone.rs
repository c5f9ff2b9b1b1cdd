//! The daily states of a reporting zone other than UTC, as part of a version.
//!
//! A zone that is new gets its states from the events that are kept, in the background, from the
//! newest day of UTC to the oldest ([`crate::store::jobs`]). Each event is counted once: until all
//! are included, a seal adds those of included days of UTC only, and the others are found in the
//! segments.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::state_files;
use crate::daily::{Day, date};
use crate::store::files::states::{StateFile, StateMeta};
use crate::window;

/// The states of a zone, as the manifest has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneMeta {
    /// IANA name.
    pub zone: String,
    /// See [`ZoneStates::included_from`].
    pub included_from: Option<NaiveDate>,
    /// See [`ZoneStates::covered_from`].
    pub covered_from: Option<NaiveDate>,
    /// The live states, by day.
    pub states: Vec<StateMeta>,
}

/// The states of a zone.
#[derive(Debug, Clone)]
pub struct ZoneStates {
    /// The zone.
    pub tz: Tz,
    /// First day of UTC whose sealed events are included, while older ones are still added; absent
    /// once all are.
    pub included_from: Option<NaiveDate>,
    /// First day of the zone whose state is complete; absent if all are.
    pub covered_from: Option<NaiveDate>,
    /// The live states by day of the zone.
    pub states: BTreeMap<Day, Arc<StateFile>>,
}

impl ZoneStates {
    /// The states that a manifest of the data folder `root` lists; none for a zone that is unknown.
    pub fn of(root: &Path, meta: ZoneMeta) -> Option<Self> {
        Some(Self {
            tz: meta.zone.parse().ok()?,
            included_from: meta.included_from,
            covered_from: meta.covered_from,
            states: state_files(root, meta.states).collect(),
        })
    }

    /// Their entry in the manifest.
    pub fn meta(&self) -> ZoneMeta {
        let states = self.states.values();
        ZoneMeta {
            zone: self.tz.name().into(),
            included_from: self.included_from,
            covered_from: self.covered_from,
            states: states.map(|state| state.meta.clone()).collect(),
        }
    }

    /// A zone without states, in a store with events up to a day.
    pub fn new(tz: Tz, last_day: Option<Day>) -> Self {
        Self {
            tz,
            included_from: last_day.map(|day| date(day + 1)),
            covered_from: None,
            states: BTreeMap::new(),
        }
    }

    /// True if the sealed events of a day of UTC are included.
    pub fn includes(&self, utc_day: Day) -> bool {
        self.included_from.is_none_or(|from| date(utc_day) >= from)
    }

    /// First day of the zone whose state is complete; none if all are.
    pub fn first_complete_day(&self) -> Option<NaiveDate> {
        let included = self.included_from;
        let included = included.map(|from| window::first_day_from(from, self.tz));
        included.max(self.covered_from)
    }

    /// True if a state was made by other rules of the zone than those of the zone database of this
    /// program, and the events from which it can be made again are kept: from `raw_from` on.
    pub fn has_outdated(&self, raw_from: Option<NaiveDate>) -> bool {
        let states = self.states.values().map(|state| &state.meta);
        let mut outdated = states.filter(|meta| {
            let span_us = window::day_us(meta.day, self.tz);
            meta.span_us.as_ref().is_some_and(|was| *was != span_us)
        });
        outdated.any(|meta| raw_from.is_none_or(|raw_from| meta.day > raw_from))
    }

    /// Days before the first whose events are all kept, `raw_from`, will never be complete.
    pub fn end_coverage(&mut self, raw_from: Option<NaiveDate>) {
        if self.covered_from.is_none()
            && let Some(raw_from) = raw_from
        {
            let from = self.included_from.map_or(raw_from, |day| day.min(raw_from));
            self.covered_from = Some(window::first_day_from(from, self.tz));
        }
    }
}
