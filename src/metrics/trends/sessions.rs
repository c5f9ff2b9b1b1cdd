//! Sessions of series: a session is in the piece of time of its first event, and in its group.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::cell::Cell;
use super::scan::{Finder, Found, MAX_CELLS, Reading, full};
use crate::error::Result;
use crate::metrics::budget::Charge;
use crate::metrics::sharded::table_bytes;
use crate::metrics::source::CancelChecks;
use crate::metrics::visits::{Visit, Visits, Which, is_one_session};

/// Sessions by the place of the series, the code of the group and the piece.
type Counts = HashMap<(u32, u32, u32), u64>;

/// The sessions of a range of users, or of all.
struct OfRange<'a> {
    counts: Counts,
    finder: Finder<'a>,
    checks: CancelChecks<'a>,
    charge: Charge<'a>,
}

impl Reading<'_> {
    /// Adds the sessions of each series that began in a wanted piece.
    ///
    /// # Errors
    /// As [`Reading::run`].
    pub(super) fn read_sessions(&self, found: &Mutex<Found<'_>>) -> Result<()> {
        let new = || OfRange {
            counts: Counts::new(),
            finder: Finder::new(self.bounds),
            checks: CancelChecks::new(self.source),
            charge: self.source.budget().charge(),
        };
        for days in self.days() {
            let visits = Visits {
                // Events of the day before show which sessions began before.
                days: days.start - 1..days.end,
                property: self.breakdown,
                filters: self
                    .series
                    .iter()
                    .map(|(_, series)| &series.filter)
                    .collect(),
                which: Which::Met,
            };
            let all = Mutex::new(new());
            let is_limited = found.lock().is_limited;
            let values = visits.for_each_user(
                self.source,
                new,
                |_, visits, of_range| self.add_sessions(visits, of_range),
                |of_range| {
                    let all = &mut *all.lock();
                    all.merge(of_range)?;
                    if is_limited && all.counts.len() > MAX_CELLS {
                        found.lock().is_full = true;
                        return Err(full());
                    }
                    Ok(())
                },
            )?;
            let OfRange {
                counts, mut charge, ..
            } = all.into_inner();
            charge.set(charge.bytes() + values.bytes())?;
            let mut counted = vec![Vec::new(); self.series.len()];
            let mut keys = Vec::with_capacity(counts.len());
            for ((series, value, piece), sessions) in counts {
                if let Some(counted) = counted.get_mut(series as usize) {
                    counted.push((keys.len() as u32, Cell::Events(sessions)));
                    keys.push((piece, value));
                }
            }
            let group = |value: usize| values.string(value as u32).map(str::to_owned);
            self.merge(counted, &keys, &group, &mut found.lock())?;
        }
        Ok(())
    }

    fn add_sessions(&self, visits: &[Visit], into: &mut OfRange<'_>) -> Result<()> {
        for at in 0..self.series.len() as u32 {
            let mut before_us: Option<i64> = None;
            for visit in visits.iter().filter(|visit| visit.met >> at & 1 == 1) {
                into.checks.step()?;
                let goes_on = before_us.is_some_and(|before| is_one_session(before, visit.ts_us));
                before_us = Some(visit.ts_us);
                if goes_on {
                    continue;
                }
                if let Some(piece) = self.piece(&mut into.finder, visit.ts_us) {
                    let key = (at, visit.value, piece as u32);
                    *into.counts.entry(key).or_default() += 1;
                }
            }
        }
        into.charge()
    }
}

impl OfRange<'_> {
    fn charge(&mut self) -> Result<()> {
        let bytes = table_bytes::<((u32, u32, u32), u64)>(self.counts.capacity());
        if bytes == self.charge.bytes() {
            return Ok(());
        }
        self.charge.set(bytes)
    }

    fn merge(&mut self, others: Self) -> Result<()> {
        for (key, sessions) in others.counts {
            self.checks.step()?;
            *self.counts.entry(key).or_default() += sessions;
        }
        self.charge()
    }
}
