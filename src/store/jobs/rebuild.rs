//! Rebuild: makes daily states again from segments.

use std::collections::BTreeSet;
use std::sync::Arc;

use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;
use tracing::info;

use super::day_state::DayState;
use crate::daily::{self, DailyState, Day, date};
use crate::dictionary::{Dictionaries, Lookup, UserDictionary};
use crate::error::Result;
use crate::schema;
use crate::store::Store;
use crate::store::files::dictionary;
use crate::store::files::folder::Folder;
use crate::store::files::segment::{self, Segment};
use crate::store::files::states::StateFile;
use crate::store::version::{Transaction, Version, VersionControl};

/// Result of a rebuild.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Days whose state was made from segments.
    pub days: usize,
    /// Days whose state was missing, damaged or different.
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
    /// Users whose ids are not written to the dictionary.
    pub erased: &'a RoaringBitmap,
    /// Features that a day may name.
    pub max_features: u32,
}

impl Rebuild<'_> {
    /// Writes the states that differ from those of the segments, and the users whom they name.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a segment is.
    fn prepare(&self, transaction: &mut Transaction<'_>, folder: &Folder) -> Result<Rebuilt> {
        let Plan { kept, days } = plan(transaction.base());
        let mut rebuilt = Rebuilt {
            kept,
            days: days.len(),
            changed: 0,
        };
        let mut greatest = None;
        let mut days = days.into_iter();
        transaction.next.sequence += 1;
        rebuilt.changed = transaction.write_states(self.names, |version| {
            for day in days.by_ref() {
                let state = DayState {
                    segments: &version.segments_of(day),
                    day,
                    names: self.names,
                    named: version.named_features(day, self.names),
                    max_features: self.max_features,
                    without: &[],
                };
                let state = state.compute()?;
                greatest = greatest.max(state.greatest_user());
                let known = version.states.get(&day);
                if !known.is_some_and(|known| is_same(known, &state, self.names)) {
                    return Ok(Some((day, state)));
                }
            }
            Ok(None)
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
        // Users who are erased have no events in the segments.
        erased: &RoaringBitmap::new(),
        max_features,
    };
    let mut transaction = versions.begin(folder)?;
    rebuild.prepare(&mut transaction, folder)?;
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
    /// Days whose events expired keep theirs.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a segment is.
    pub fn rebuild(&self) -> Result<Rebuilt> {
        let mut transaction = self.begin()?;
        let rebuild = Rebuild {
            names: self.names(),
            erased: &self.ingest.maker.gate.ended(),
            max_features: self.ingest.admission.limits().features,
        };
        let rebuilt = rebuild.prepare(&mut transaction, &self.folder)?;
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
