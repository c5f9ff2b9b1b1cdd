//! Active users over time.
//!
//! - By day: `dau` = distinct users of the day; `wau` and `mau` = distinct users of the 7 and the
//!   30 days that end with it, which may begin before the window (rolling, as PostHog and Mixpanel
//!   do); `stickiness` = `dau` / `mau`.
//! - By ISO week or calendar month: `users` = distinct users of the period's days that lie in the
//!   window.
//!
//! Every period of the window has a row. `partial` says that the window or the present cuts the
//! period. Late events count in the day they happened, duplicates and anonymous events never.
//! Definitions: `docs/metrics.md`, "Active users, stickiness, lifecycle".

use std::collections::VecDeque;

use chrono::{DateTime, NaiveDate, Utc};
use roaring::RoaringBitmap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::active_days::ActiveDays;
use super::filter::Filter;
use super::source::Source;
use super::table::Table;
use super::{Answer, Measure};
use crate::daily::Day;
use crate::error::Result;
use crate::window::{Grain, Period};

/// Days of a rolling week.
const WEEK_DAYS: usize = 7;
/// Days of a rolling month.
const MONTH_DAYS: usize = 30;

/// The parameters.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActiveUsers {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
}

impl Measure for ActiveUsers {
    fn days_before(&self) -> u16 {
        match self.grain {
            Grain::Day => MONTH_DAYS as u16 - 1,
            Grain::Week | Grain::Month => 0,
        }
    }

    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        let window = source.window();
        let mut days = window.days_in_epoch();
        days.start -= Day::from(self.days_before());
        let active = source.active_days(days, &Filter::default())?;
        let periods = window.periods(self.grain);
        let names = periods.iter().map(|period| period.first_day.to_string());
        let partial = periods.iter().map(|period| window.cuts(period, now));
        let table = Table::default().with("period", names.collect::<Vec<_>>());
        let table = match self.grain {
            Grain::Day => by_day(table, &active, &periods, source)?,
            Grain::Week | Grain::Month => by_period(table, &active, &periods, source)?,
        };
        Ok(table.with("partial", partial.collect::<Vec<_>>()).into())
    }
}

fn by_day(
    table: Table,
    active: &ActiveDays,
    periods: &[Period],
    source: &dyn Source,
) -> Result<Table> {
    let days: Vec<NaiveDate> = periods.iter().map(|period| period.first_day).collect();
    let dau: Vec<u64> = days
        .iter()
        .map(|day| active.of_day(*day).map_or(0, RoaringBitmap::len))
        .collect();
    let wau = rolling(active, &days, WEEK_DAYS, source)?;
    let mau = rolling(active, &days, MONTH_DAYS, source)?;
    let stickiness = dau.iter().zip(&mau).map(|(&dau, &mau)| match mau {
        0 => 0.0,
        mau => dau as f64 / mau as f64,
    });
    let stickiness: Vec<f64> = stickiness.collect();
    Ok(table
        .with("dau", dau)
        .with("wau", wau)
        .with("mau", mau)
        .with("stickiness", stickiness))
}

fn by_period(
    table: Table,
    active: &ActiveDays,
    periods: &[Period],
    source: &dyn Source,
) -> Result<Table> {
    let inside = source.window().days_in_epoch();
    let mut users = Vec::new();
    for period in periods {
        source.check_cancelled()?;
        let first = period.first_day.to_epoch_days().max(inside.start);
        let end = (period.last_day.to_epoch_days() + 1).min(inside.end);
        users.push(active.of_days(first..end).len());
    }
    Ok(table.with("users", users))
}

/// Distinct users of the `length` days that end with each of `days`, which are consecutive.
///
/// In blocks of `length` days: the days that end with one are the end of the block before and the
/// start of its own, so that each day is part of two unions whatever the length (van Herk, Gil and
/// Werman).
fn rolling(
    active: &ActiveDays,
    days: &[NaiveDate],
    length: usize,
    source: &dyn Source,
) -> Result<Vec<u64>> {
    let empty = RoaringBitmap::new();
    let users = |day: Day| {
        NaiveDate::from_epoch_days(day)
            .and_then(|day| active.of_day(day))
            .unwrap_or(&empty)
    };
    let mut counts = Vec::with_capacity(days.len());
    for block in days.chunks(length) {
        let Some(first) = block.first().map(NaiveDate::to_epoch_days) else {
            continue;
        };
        // Of the block before: its last day, its last two days, and so on.
        let mut ends: VecDeque<RoaringBitmap> = VecDeque::with_capacity(length);
        for day in (first + 1 - length as Day..first).rev() {
            source.check_cancelled()?;
            let last = ends.front().unwrap_or(&empty);
            ends.push_front(last | users(day));
        }
        let mut start = RoaringBitmap::new();
        for day in (first..).take(block.len()) {
            source.check_cancelled()?;
            start |= users(day);
            counts.push(match ends.pop_front() {
                Some(end) => end.union_len(&start),
                None => start.len(),
            });
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metrics::frame::{FrameSource, Row};

    const EVENTS: [Row<'_>; 6] = [
        // The first of the 30 days that end with 03-02, and of the 7 days that end with 03-01.
        ("2024-02-02 10:00", "action", "cyd", ""),
        ("2024-02-24 10:00", "action", "bob", ""),
        ("2024-03-01 10:00", "action", "ann", ""),
        ("2024-03-01 11:00", "action", "ann", ""),
        ("2024-03-02 10:00", "action", "", ""),
        ("2024-03-03 10:00", "action", "ann", ""),
    ];

    #[test]
    fn rolling_weeks_and_months_begin_before_the_window() {
        let rows =
            FrameSource::new("2024-03-03", 3, &EVENTS).rows(json!({"metric":"active_users"}));
        let row = |day: &str, dau: u64, wau: u64, mau: u64| {
            let stickiness = dau as f64 / mau as f64;
            let stickiness = if dau == 0 {
                json!(0)
            } else {
                json!(stickiness)
            };
            json!({"period":day,"dau":dau,"wau":wau,"mau":mau,"stickiness":stickiness,"partial":false})
        };
        let expected = [
            row("2024-03-01", 1, 2, 3),
            row("2024-03-02", 0, 1, 3),
            row("2024-03-03", 1, 1, 2),
        ];
        assert_eq!(rows, json!(expected));
    }

    #[test]
    fn a_period_counts_its_days_in_the_window() {
        let mut source = FrameSource::new("2024-03-03", 9, &EVENTS);
        let rows = source.rows(json!({"metric":"active_users","grain":"month"}));
        let expected = json!([
            {"period":"2024-02-01","users":1,"partial":true},
            {"period":"2024-03-01","users":1,"partial":true},
        ]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn blocks_of_days_give_the_unions_of_single_days() {
        let source = FrameSource::new("2024-03-03", 1, &[]);
        let first: NaiveDate = "2024-01-01".parse().expect("a day");
        let start = first.to_epoch_days();
        let mut active = ActiveDays::default();
        // Days without users, users on some days, a user on all of them.
        for day in (start - 40..start + 100).filter(|day| day % 11 != 0) {
            let users = [0, (day % 13) as u32 + 1, (day % 29) as u32 + 20];
            active.add(day, &users.into_iter().collect());
        }
        for days in [1, 6, 7, 8, 29, 30, 31, 100] {
            let days: Vec<NaiveDate> = first.iter_days().take(days).collect();
            for length in [1, 7, 30] {
                let expected = days.iter().map(|day| {
                    let end = day.to_epoch_days() + 1;
                    active.of_days(end - length as Day..end).len()
                });
                let found = rolling(&active, &days, length, &source).expect("counts");
                assert_eq!(found, expected.collect::<Vec<_>>(), "{length}");
            }
        }
    }
}
