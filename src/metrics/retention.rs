//! Retention: how many users of a cohort come back in later periods.
//!
//! - Cohort `first`: users by the period of their first start event in the window, or, with `ever`, of the first ever
//!   seen. Cohort `recurring`: every period in which they have a start event. Cell 0 is the cohort's size.
//! - Cell k: users of the cohort with a return event k calendar periods later: `on` that period, or `on_or_after` it, up to
//!   the end of the window.
//! - A cell whose period is not over at the end of the window, or now, is null, never 0. The row `average` divides the sum of the
//!   complete cells k by the sum of the sizes of their cohorts; zeros are kept.
//!
//! Events outside of the window are not counted. `partial` says that the window or the present cuts the period of a cohort,
//! which then has fewer users than a whole one; the row `average` is of no period, and has none. Definitions:
//! `docs/metrics.md`, "Retention".

use chrono::{DateTime, Utc};
use roaring::RoaringBitmap;
use serde::Deserialize;

use super::filter::Filter;
use super::presence::Presence;
use super::table::{Table, Values};
use crate::window::{Grain, Window};

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Length of a period.
    pub grain: Grain,
    /// Cells of a row after the first; up to the window's end if absent.
    pub periods: Option<u16>,
    /// Who is in a cohort.
    pub cohort: CohortOf,
    /// When a user counts as come back.
    pub returning: Returning,
    /// What puts a user into a cohort; any event if absent.
    pub start: Filter,
    /// What counts as coming back; any event if absent.
    #[serde(rename = "return")]
    pub return_: Filter,
    /// Whether a cohort is of the first start event ever seen, and not of the first in the window.
    pub ever: bool,
}

/// Who is in the cohort of a period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CohortOf {
    /// Those whose first start event is in it.
    #[default]
    First,
    /// Those with a start event in it.
    Recurring,
}

/// When a user counts in a cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Returning {
    /// With a return event in its period.
    #[default]
    On,
    /// With a return event in its period or a later one.
    OnOrAfter,
}

/// Who did what when: the two sides of a retention.
pub struct Sides<'a> {
    /// Start events, up to the end of the window.
    pub starts: &'a Presence,
    /// Return events of the window.
    pub returns: &'a Presence,
}

impl Retention {
    /// Whether events before the window matter.
    pub fn needs_history(&self) -> bool {
        self.ever && self.cohort == CohortOf::First
    }

    /// The answer.
    pub fn answer(&self, sides: &Sides<'_>, window: &Window, now: DateTime<Utc>) -> Table {
        let inside = window.days_in_epoch();
        let mut seen = match self.needs_history() {
            true => sides.starts.of_days(i32::MIN..inside.start),
            false => RoaringBitmap::new(),
        };
        let periods = window.periods(self.grain);
        let of_period = |presence: &Presence, place: usize| match periods.get(place) {
            Some(period) => {
                let first = period.first_day.to_epoch_days().max(inside.start);
                let end = (period.last_day.to_epoch_days() + 1).min(inside.end);
                presence.of_days(first..end)
            }
            None => RoaringBitmap::new(),
        };
        let cohorts = (0..periods.len()).map(|place| {
            let started = of_period(sides.starts, place);
            match self.cohort {
                CohortOf::Recurring => started,
                CohortOf::First => {
                    let first = &started - &seen;
                    seen |= started;
                    first
                }
            }
        });
        let cohorts: Vec<RoaringBitmap> = cohorts.collect();
        let mut returned: Vec<RoaringBitmap> = (0..periods.len())
            .map(|place| of_period(sides.returns, place))
            .collect();
        if self.returning == Returning::OnOrAfter {
            let mut later = RoaringBitmap::new();
            for users in returned.iter_mut().rev() {
                later |= &*users;
                users.clone_from(&later);
            }
        }
        // A period that the window cuts off, or that is running, says nothing yet about who did not come.
        let complete = periods
            .iter()
            .take_while(|period| {
                period.last_day <= window.last_day() && !window.is_running(period.last_day, now)
            })
            .count();
        let wanted = self
            .periods
            .map_or(periods.len(), |periods| usize::from(periods) + 1);
        let width = wanted.min(periods.len());
        let mut sizes: Vec<u64> = Vec::new();
        let mut cells: Vec<Vec<Option<f64>>> = Vec::new();
        for (place, cohort) in cohorts.iter().enumerate() {
            let cell = |later: usize| match returned.get(place + later) {
                _ if later == 0 => Some(cohort.len() as f64),
                Some(users) if place + later < complete => {
                    Some(cohort.intersection_len(users) as f64)
                }
                _ => None,
            };
            sizes.push(cohort.len());
            cells.push((0..width).map(cell).collect());
        }
        let average = (0..width).map(|later| {
            let known = cells.iter().zip(&sizes).filter_map(|(row, &size)| {
                let users = row.get(later).copied().flatten()?;
                Some((users, size as f64))
            });
            let (users, size) = known.fold((0.0, 0.0), |(users, of), (more, size)| {
                (users + more, of + size)
            });
            (size > 0.0).then_some(users / size)
        });
        let average = average.collect();
        let mut names: Vec<String> = periods
            .iter()
            .map(|period| period.first_day.to_string())
            .collect();
        names.push("average".into());
        let cut = periods.iter().map(|period| Some(window.cuts(period, now)));
        let partial = cut.chain([None]).collect();
        let total = sizes.iter().sum();
        sizes.push(total);
        cells.push(average);
        Table::default()
            .with("cohort", names)
            .with("size", sizes)
            .with("cells", cells)
            .with("partial", Values::Flag(partial))
    }
}
