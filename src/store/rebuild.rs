//! Making daily states from segments: the same bytes as when the events were sealed, because states merge.

use std::sync::Arc;

use polars::prelude::*;
use roaring::RoaringBitmap;

use serde::Serialize;
use tracing::info;

use super::dictionary;
use super::folder::Folder;
use super::manifest::Manifest;
use super::segment::{self, Segment};
use super::states::{self, StateFacts, StateFile, date};
use crate::daily::{self, DailyState, Day};
use crate::error::{Error, Result};
use crate::names::Names;

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
    Ok(Some(all(folder, manifest, segments, names, &none)?.0))
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
            let state = state_of(&of_day, day, names)?;
            greatest = greatest.max(state.greatest_user());
            rebuilt.days += 1;
            let known = manifest.states.iter().find(|facts| facts.day == date(day));
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
        .is_ok_and(|bytes| bytes == daily::encode(state, names))
}

/// The state of a day, from its segments.
///
/// # Errors
/// [`Error::Damaged`] if one of them is.
pub fn state_of(segments: &[Arc<Segment>], day: Day, names: &Names) -> Result<DailyState> {
    let numbered = segment::scan(segments)?.select(names.counted());
    let counted = daily::plan(numbered).collect_with_engine(Engine::Streaming)?;
    let mut states = daily::read(&counted.unwrap_single())?;
    let state = states.remove(&day).unwrap_or_default();
    let rows: u64 = segments.iter().map(|segment| segment.facts.rows).sum();
    if state.activity.events != rows {
        return Err(Error::Damaged {
            file: segments
                .first()
                .map(|segment| segment.facts.path.clone().into())
                .unwrap_or_default(),
            message: format!(
                "{} events of {rows} are of {}",
                state.activity.events,
                date(day)
            ),
        });
    }
    Ok(state)
}
