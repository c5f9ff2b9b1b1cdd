//! Retention: how many users of a cohort come back in later periods.
//!
//! - Cohort `first`: users by the period of their first start event in the window, or, with `ever`,
//!   of the first ever seen. Cohort `recurring`: every period in which they have a start event.
//!   Cell 0 is the cohort's size.
//! - Cell k: users of the cohort with a return event k calendar periods later: `on` that period, or
//!   `on_or_after` it, up to the end of the window.
//! - A cell whose period is not over at the end of the window, or now, is null, never 0. The row
//!   `average` divides the sum of the complete cells k by the sum of the sizes of their cohorts;
//!   zeros are kept.
//!
//! Events outside of the window are not counted. `partial` says that the window or the present cuts
//! the period of a cohort, which then has fewer users than a complete one; it is null in the row
//! `average`. Definitions: `docs/metrics.md`, "Retention".

use chrono::{DateTime, NaiveDate, Utc};
use roaring::RoaringBitmap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::active_days::ActiveDays;
use super::filter::Filter;
use super::source::Source;
use super::table::{Table, Values};
use super::{Answer, Measure};
use crate::daily::Day;
use crate::error::Result;
use crate::window::{Grain, Period, Window};

/// The parameters.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
    /// Cells of a row after the first; up to the window's end if absent.
    pub periods: Option<u16>,
    /// The users of a cohort.
    #[serde(default)]
    pub cohort: CohortOf,
    /// The period in which a return event counts.
    #[serde(default)]
    pub returning: Returning,
    /// The filter of start events; any event if absent.
    #[serde(default)]
    pub start: Filter,
    /// The filter of return events; any event if absent.
    #[serde(rename = "return", default)]
    pub return_: Filter,
    /// A cohort is of the first start event ever seen, and not of the first in the window.
    #[serde(default)]
    pub ever: bool,
}

/// The users of the cohort of a period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CohortOf {
    /// Those whose first start event is in it.
    #[default]
    First,
    /// Those with a start event in it.
    Recurring,
}

/// The period in which a return event counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Returning {
    /// With a return event in its period.
    #[default]
    On,
    /// With a return event in its period or a later one.
    OnOrAfter,
}

/// Active users of the two events of a retention.
struct Events {
    /// Those with a start event, up to the end of the window.
    starts: ActiveDays,
    /// Those with a return event in the window; `None` if start and return events are the same.
    returns: Option<ActiveDays>,
}

impl Measure for Retention {
    fn filters_mut(&mut self) -> Vec<&mut Filter> {
        vec![&mut self.start, &mut self.return_]
    }

    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        let events = self.events(source)?;
        Ok(self.table(&events, source, now)?.into())
    }
}

/// The users of each period of the window.
struct Users {
    /// Those of its cohort.
    cohorts: Vec<RoaringBitmap>,
    /// Those who returned in it.
    returned: Vec<RoaringBitmap>,
}

impl Retention {
    /// The users of a cell: those of the cohort of a period who returned so many periods later, or
    /// those who did not. `None` if the window has no such cell.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    pub fn users(
        &self,
        source: &dyn Source,
        (cohort, later): (NaiveDate, u16),
        returned: bool,
    ) -> Result<Option<RoaringBitmap>> {
        let periods = source.window().periods(self.grain);
        let place = periods.iter().position(|period| period.first_day == cohort);
        let Some(place) = place else { return Ok(None) };
        let users = self.by_period(&self.events(source)?, source, &periods)?;
        let cell = users.cohorts.get(place);
        let cell = cell.zip(users.returned.get(place + usize::from(later)));
        Ok(cell.map(|(cohort, later_users)| match (later, returned) {
            (0, true) => cohort.clone(),
            (0, false) => RoaringBitmap::new(),
            (_, true) => cohort & later_users,
            (_, false) => cohort - later_users,
        }))
    }

    fn events(&self, source: &dyn Source) -> Result<Events> {
        let inside = source.window().days_in_epoch();
        let starts = if self.needs_history() {
            Day::MIN..inside.end
        } else {
            inside.clone()
        };
        Ok(Events {
            starts: source.active_days(starts, &self.start)?,
            returns: if self.start == self.return_ {
                None
            } else {
                Some(source.active_days(inside, &self.return_)?)
            },
        })
    }

    /// True if events before the window matter.
    fn needs_history(&self) -> bool {
        self.ever && self.cohort == CohortOf::First
    }

    fn by_period(&self, events: &Events, source: &dyn Source, periods: &[Period]) -> Result<Users> {
        let inside = source.window().days_in_epoch();
        let by_period = |active: &ActiveDays| {
            let users = periods.iter().map(|period| {
                source.check_cancelled()?;
                let first = period.first_day.to_epoch_days().max(inside.start);
                let end = (period.last_day.to_epoch_days() + 1).min(inside.end);
                Ok(active.of_days(first..end))
            });
            users.collect::<Result<Vec<RoaringBitmap>>>()
        };
        let mut cohorts = by_period(&events.starts)?;
        if self.cohort == CohortOf::First {
            let mut seen = if self.needs_history() {
                events.starts.of_days(Day::MIN..inside.start)
            } else {
                RoaringBitmap::new()
            };
            for started in &mut cohorts {
                let first = &*started - &seen;
                seen |= std::mem::replace(started, first);
            }
        }
        let mut returned = by_period(events.returns.as_ref().unwrap_or(&events.starts))?;
        if self.returning == Returning::OnOrAfter {
            let mut later = RoaringBitmap::new();
            for users in returned.iter_mut().rev() {
                later |= &*users;
                users.clone_from(&later);
            }
        }
        Ok(Users { cohorts, returned })
    }

    fn table(&self, events: &Events, source: &dyn Source, now: DateTime<Utc>) -> Result<Table> {
        let window = source.window();
        let periods = window.periods(self.grain);
        let Users { cohorts, returned } = self.by_period(events, source, &periods)?;
        self.table_of(window, now, &|cohort, back| {
            source.check_cancelled()?;
            let users = cohorts.get(cohort).zip(returned.get(back));
            Ok(users.map_or(0, |(users, returned)| match cohort == back {
                true => users.len(),
                false => users.intersection_len(returned),
            }))
        })
    }

    /// The rows of a window from the users of each cell: those of the cohort of one period who
    /// returned in another, or all of the cohort if both are the same.
    ///
    /// # Errors
    /// The first one of `count`.
    pub fn table_of(
        &self,
        window: &Window,
        now: DateTime<Utc>,
        count: &dyn Fn(usize, usize) -> Result<u64>,
    ) -> Result<Table> {
        let periods = window.periods(self.grain);
        // In a period that the window cuts off, or that is not over, users may still come back.
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
        for place in 0..periods.len() {
            let cell = |later: usize| {
                let is_known = later == 0 || place + later < complete;
                let users = is_known.then(|| count(place, place + later)).transpose()?;
                Ok(users.map(|users| users as f64))
            };
            sizes.push(count(place, place)?);
            cells.push((0..width).map(cell).collect::<Result<_>>()?);
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
        Ok(Table::default()
            .with("cohort", names)
            .with("size", sizes)
            .with("cells", cells)
            .with("partial", Values::Flag(partial)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::metrics::frame::{FrameSource, Row};

    const EVENTS: [Row<'_>; 7] = [
        ("2024-02-01 10:00", "action", "dan", "cart"),
        ("2024-03-01 10:00", "action", "ann", "cart"),
        ("2024-03-01 10:00", "action", "bob", "cart"),
        ("2024-03-02 10:00", "action", "bob", "docs"),
        ("2024-03-02 10:00", "action", "cyd", "cart"),
        ("2024-03-02 10:00", "action", "dan", "cart"),
        ("2024-03-03 10:00", "action", "ann", "docs"),
    ];

    /// Sizes and cells of the rows, the average last.
    fn cells(parameters: Value, now: &str) -> Vec<(u64, Value)> {
        let mut query = json!({"metric":"retention"});
        let fields = query.as_object_mut().expect("an object");
        fields.extend(parameters.as_object().expect("an object").clone());
        let mut source = FrameSource::new("2024-03-03", 3, &EVENTS);
        let rows = json!(source.query(query, now).expect("a result").rows);
        let rows = rows.as_array().expect("rows").iter();
        rows.map(|row| (row["size"].as_u64().expect("a size"), row["cells"].clone()))
            .collect()
    }

    #[test]
    fn a_cohort_is_of_the_first_period_and_cells_after_the_window_are_null() {
        let rows = cells(json!({}), "2038-01-01 00:00");
        let expected = [
            (2, json!([2, 1, 1])),
            (2, json!([2, 0, null])),
            (0, json!([0, null, null])),
            (4, json!([1, 0.25, 0.5])),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn with_ever_users_seen_before_the_window_are_in_no_cohort() {
        let rows = cells(json!({"ever":true}), "2038-01-01 00:00");
        assert_eq!(rows[1], (1, json!([1, 0, null])));
    }

    #[test]
    fn a_user_can_return_on_or_after_a_period() {
        let rows = cells(json!({"returning":"on_or_after"}), "2038-01-01 00:00");
        assert_eq!(rows[0], (2, json!([2, 2, 1])));
    }

    #[test]
    fn a_recurring_cohort_has_all_users_of_its_period() {
        let rows = cells(json!({"cohort":"recurring"}), "2038-01-01 00:00");
        assert_eq!(rows[1], (3, json!([3, 0, null])));
    }

    #[test]
    fn start_and_return_events_have_their_filters() {
        let filters = json!({"start":{"feature":"cart"},"return":{"feature":"docs"}});
        let rows = cells(filters, "2038-01-01 00:00");
        assert_eq!(rows[0], (2, json!([2, 1, 1])));
        assert_eq!(rows[2], (0, json!([0, null, null])));
    }

    #[test]
    fn a_period_that_is_not_over_is_null() {
        let rows = cells(json!({}), "2024-03-03 23:00");
        assert_eq!(rows[0], (2, json!([2, 1, null])));
    }
}
