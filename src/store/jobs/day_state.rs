//! The states of the events of a day of UTC from its segments: the same bytes as when the events
//! were sealed, because states merge.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use polars::prelude::*;
use roaring::RoaringBitmap;

use crate::daily::{self, Day, OtherZones, Place, Slices, date};
use crate::dictionary::{Dictionaries, Lookup};
use crate::digest::{Digest, DigestMap, Digester};
use crate::error::{Error, Result};
use crate::schema;
use crate::store::erased::{is_about, is_any};
use crate::store::files::segment::{self, Segment};
use crate::store::ingest::admission::MAX_FEATURES;

/// The states of the events of a day of UTC, to be computed from its segments.
pub struct DayEvents<'a> {
    /// All segments of the day.
    pub segments: &'a [Arc<Segment>],
    /// The day.
    pub day: Day,
    /// The zones that the events are counted for.
    pub zones: &'a OtherZones,
    /// The names of the store.
    pub names: &'a Dictionaries,
    /// The features that the day names already.
    pub named: RoaringBitmap,
    /// Features that the day may name. Up to this limit, those that were received first are added.
    pub max_features: u32,
    /// Users whose events do not count, nor the identity calls that name them.
    pub without: &'a [&'a str],
}

impl DayEvents<'_> {
    /// Computes them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment is.
    pub fn compute(mut self) -> Result<Slices> {
        self.name_first_features()?;
        let mut events = segment::scan(self.segments)?;
        if !self.without.is_empty() {
            let has_system = self.segments.iter().any(|segment| segment.meta.system > 0);
            let theirs = if has_system { is_about } else { is_any };
            events = events.filter(theirs(self.without).not());
        }
        let events = events.select(self.names.counted_among(&self.named));
        let counted = daily::plan(events, self.zones).collect_with_engine(Engine::Streaming)?;
        let slices = daily::read(&counted.unwrap_single(), self.zones)?;
        let of_day = slices.parts(Place::UTC).filter(|(day, _)| *day == self.day);
        let counted: u64 = of_day
            .map(|(_, state)| state.activity.stored_events())
            .sum();
        let rows: u64 = self.segments.iter().map(|segment| segment.meta.rows).sum();
        if self.without.is_empty() && counted != rows {
            return Err(Error::Damaged {
                file: self
                    .segments
                    .first()
                    .map(|segment| segment.meta.path.clone().into())
                    .unwrap_or_default(),
                message: format!("{counted} events of {rows} are of {}", date(self.day)),
            });
        }
        Ok(slices)
    }

    /// Adds the features that were received first, up to the limits. Only digests of names are held
    /// meanwhile, because there may be millions.
    fn name_first_features(&mut self) -> Result<()> {
        let of_day = u64::from(self.max_features).saturating_sub(self.named.len());
        let of_all = MAX_FEATURES.saturating_sub(self.names.features.len());
        let free = of_day.min(of_all as u64);
        if free == 0 {
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
        first.truncate(usize::try_from(free).unwrap_or(usize::MAX));
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

    /// Calls `visit` with the features that the day does not name, and the time of receipt of each
    /// of their events, in µs.
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
