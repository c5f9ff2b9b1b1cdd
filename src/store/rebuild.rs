//! Making daily states from segments: the same bytes as when the events were sealed, because states merge.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use polars::prelude::*;
use roaring::RoaringBitmap;

use serde::Serialize;
use tracing::info;

use super::admission::MAX_FEATURES;
use super::dictionary;
use super::erased::is_any;
use super::folder::Folder;
use super::manifest::Manifest;
use super::segment::{self, Segment};
use super::states::{self, StateFacts, StateFile};
use crate::daily::{self, DailyState, Day, date};
use crate::digest::{Digest, DigestMap, Digester};
use crate::error::{Error, Result};
use crate::names::{Lookup, Names, Numbering};
use crate::schema;

/// What a rebuild did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Days whose state was made from segments.
    pub days: usize,
    /// Days whose state was missing, damaged or another.
    pub changed: usize,
    /// Days whose events expired: their states were kept.
    pub kept: usize,
}

/// The manifest with the states of days that have segments and no state, if there are any: of a store that was written
/// before states were kept.
///
/// # Errors
/// As [`all`].
pub fn missing(
    folder: &Folder,
    manifest: &Manifest,
    segments: &[Arc<Segment>],
    names: &Names,
    max_features: u32,
) -> Result<Option<Manifest>> {
    // Written before users were erased, or erased ones are not in them any more.
    let none = RoaringBitmap::new();
    let has_state = |segment: &&Arc<Segment>| {
        let day = date(segment.day());
        manifest.states.iter().any(|facts| facts.day == day)
    };
    if segments.iter().all(|segment| has_state(&segment)) {
        return Ok(None);
    }
    info!("Making the daily states that are missing");
    // A store without states has no dictionary either.
    for segment in segments {
        number_users(segment, &names.users)?;
    }
    Ok(Some(
        all(folder, manifest, segments, names, &none, max_features)?.0,
    ))
}

/// Gives the users of a segment numbers.
fn number_users(segment: &Arc<Segment>, users: &Numbering) -> Result<()> {
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

/// The manifest with all states made anew, and how they differ.
///
/// # Errors
/// [`Error::Damaged`] if a segment is.
pub fn all(
    folder: &Folder,
    manifest: &Manifest,
    segments: &[Arc<Segment>],
    names: &Names,
    erased: &RoaringBitmap,
    max_features: u32,
) -> Result<(Manifest, Rebuilt)> {
    let mut next = manifest.clone();
    next.sequence += 1;
    let mut days: Vec<Day> = segments.iter().map(|segment| segment.day()).collect();
    days.sort_unstable();
    days.dedup();
    let mut rebuilt = Rebuilt {
        kept: manifest
            .states
            .iter()
            .filter(|facts| !days.contains(&facts.day.to_epoch_days()))
            .count(),
        ..Rebuilt::default()
    };
    let mut greatest = None;
    let mut days = days.into_iter();
    let states = states::write(folder, next.sequence, names, || {
        for day in days.by_ref() {
            let expired = manifest.expiry.raw_from;
            if expired.is_some_and(|raw_from| date(day) < raw_from) {
                rebuilt.kept += 1;
                continue;
            }
            let of_day: Vec<Arc<Segment>> = segments
                .iter()
                .filter(|segment| segment.day() == day)
                .cloned()
                .collect();
            let known = manifest.states.iter().find(|facts| facts.day == date(day));
            let named = known.map_or_else(RoaringBitmap::new, |known| {
                StateFile::new(folder.path(), known.clone()).named_features(names)
            });
            let state = StateOf {
                segments: &of_day,
                day,
                names,
                named,
                max_features,
                without: &[],
            };
            let state = state.compute()?;
            greatest = greatest.max(state.greatest_user());
            rebuilt.days += 1;
            if !known.is_some_and(|known| is_same(folder, known, &state, names)) {
                rebuilt.changed += 1;
                return Ok(Some((day, state)));
            }
        }
        Ok(None)
    })?;
    next.dictionary = dictionary::extend(
        folder,
        manifest.dictionary,
        &names.users,
        erased,
        greatest.map_or(0, |user| user + 1),
    )?;
    next.replace_states(states);
    Ok((next, rebuilt))
}

/// Whether the file on disk is that state, byte for byte.
fn is_same(folder: &Folder, known: &StateFacts, state: &DailyState, names: &Names) -> bool {
    StateFile::new(folder.path(), known.clone())
        .verified_bytes()
        .is_ok_and(|bytes| daily::encode(state, names).is_ok_and(|encoded| encoded == bytes))
}

/// The state of a day, to be computed from its segments.
pub struct StateOf<'a> {
    /// All segments of the day.
    pub segments: &'a [Arc<Segment>],
    /// The day.
    pub day: Day,
    /// The names of the store.
    pub names: &'a Names,
    /// The features that the day names already.
    pub named: RoaringBitmap,
    /// Features that the day may name. Where there is room, those that were received first are added.
    pub max_features: u32,
    /// Users whose events do not count.
    pub without: &'a [&'a str],
}

impl StateOf<'_> {
    /// Computes it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment is.
    pub fn compute(mut self) -> Result<DailyState> {
        self.name_first_features()?;
        let mut events = segment::scan(self.segments)?;
        if !self.without.is_empty() {
            events = events.filter(is_any(self.without).not());
        }
        let counted = daily::plan(events.select(self.names.counted_among(&self.named)))
            .collect_with_engine(Engine::Streaming)?;
        let mut states = daily::read(&counted.unwrap_single())?;
        let state = states.remove(&self.day).unwrap_or_default();
        let rows: u64 = self.segments.iter().map(|segment| segment.facts.rows).sum();
        if self.without.is_empty() && state.activity.events != rows {
            return Err(Error::Damaged {
                file: self
                    .segments
                    .first()
                    .map(|segment| segment.facts.path.clone().into())
                    .unwrap_or_default(),
                message: format!(
                    "{} events of {rows} are of {}",
                    state.activity.events,
                    date(self.day)
                ),
            });
        }
        Ok(state)
    }

    /// Adds the features that were received first, as long as there is room. Only digests of names are held meanwhile, because
    /// there may be millions.
    fn name_first_features(&mut self) -> Result<()> {
        let of_day = u64::from(self.max_features).saturating_sub(self.named.len());
        let of_all = MAX_FEATURES.saturating_sub(self.names.features.len());
        let room = of_day.min(of_all as u64);
        if room == 0 {
            return Ok(());
        }
        let digester = Digester::fixed();
        let mut received_at_us: DigestMap<i64> = DigestMap::default();
        self.each_other_feature(|name, received| {
            let first = received_at_us
                .entry(digester.digest(name))
                .or_insert(received);
            *first = received.min(*first);
        })?;
        if received_at_us.is_empty() {
            return Ok(());
        }
        let mut first: Vec<(i64, Digest)> = received_at_us
            .into_iter()
            .map(|(digest, received)| (received, digest))
            .collect();
        first.sort_unstable();
        first.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        let first: HashSet<Digest> = first.into_iter().map(|(_, digest)| digest).collect();
        let mut chosen: BTreeSet<String> = BTreeSet::new();
        self.each_other_feature(|name, _| {
            if first.contains(&digester.digest(name)) && !chosen.contains(name) {
                chosen.insert(name.to_owned());
            }
        })?;
        for name in chosen {
            self.named.insert(self.names.features.number(&name)?);
        }
        Ok(())
    }

    /// Calls `visit` with the features that the day does not name, and when each event of one was received, in µs.
    fn each_other_feature(&self, mut visit: impl FnMut(&str, i64)) -> Result<()> {
        for segment in self.segments {
            let events = segment::scan(std::slice::from_ref(segment))?
                .select([
                    col(schema::FEATURE),
                    col(schema::RECEIVED_AT).cast(DataType::Int64),
                ])
                .collect()?;
            let features = events.column(schema::FEATURE)?.str()?;
            let received = events.column(schema::RECEIVED_AT)?.i64()?;
            let found = self.names.features.lookup(features);
            for ((found, name), received) in found.zip(features.iter()).zip(received.iter()) {
                let is_named =
                    matches!(found, Lookup::Known(number) if self.named.contains(number));
                if let (false, Some(name), Some(received)) = (is_named, name, received) {
                    visit(name, received);
                }
            }
        }
        Ok(())
    }
}
