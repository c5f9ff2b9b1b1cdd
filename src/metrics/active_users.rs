//! Active users over time.
//!
//! - By day: `dau` = distinct users of the day; `wau` and `mau` = distinct users of the 7 and the 30 days that end with
//!   it, which may begin before the window (rolling, as PostHog and Mixpanel do); `stickiness` = `dau` / `mau`.
//! - By ISO week or calendar month: `users` = distinct users of the period's days that lie in the window.
//!
//! Every period of the window has a row. `partial` says that the window or the present cuts the period. Late events count in
//! the day they happened, duplicates and anonymous events never. Definitions: `docs/metrics.md`, "Active users, stickiness, lifecycle".

use std::collections::VecDeque;

use chrono::{DateTime, NaiveDate, Utc};
use roaring::RoaringBitmap;
use serde::Deserialize;

use super::presence::Presence;
use super::table::Table;
use crate::daily::Day;
use crate::window::{Grain, Window};

/// Days of a rolling week.
const WEEK_DAYS: usize = 7;
/// Days of a rolling month.
const MONTH_DAYS: usize = 30;

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveUsers {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
}

impl ActiveUsers {
    /// Days before the window that are counted in it.
    pub fn days_before(&self) -> u16 {
        match self.grain {
            Grain::Day => MONTH_DAYS as u16 - 1,
            Grain::Week | Grain::Month => 0,
        }
    }

    /// The answer, from the presence of the window and of the days before it.
    pub fn answer(&self, presence: &Presence, window: &Window, now: DateTime<Utc>) -> Table {
        let periods = window.periods(self.grain);
        let names = periods.iter().map(|period| period.first_day.to_string());
        let names: Vec<String> = names.collect();
        let partial: Vec<bool> = periods
            .iter()
            .map(|period| window.cuts(period, now))
            .collect();
        if self.grain != Grain::Day {
            let inside = window.days_in_epoch();
            let users = periods.iter().map(|period| {
                let first = period.first_day.to_epoch_days().max(inside.start);
                let end = (period.last_day.to_epoch_days() + 1).min(inside.end);
                presence.of_days(first..end).len()
            });
            return Table::default()
                .with("period", names)
                .with("users", users.collect::<Vec<_>>())
                .with("partial", partial);
        }
        let days: Vec<NaiveDate> = periods.iter().map(|period| period.first_day).collect();
        let dau: Vec<u64> = days
            .iter()
            .map(|day| presence.of_day(*day).map_or(0, RoaringBitmap::len))
            .collect();
        let wau = rolling(presence, &days, WEEK_DAYS);
        let mau = rolling(presence, &days, MONTH_DAYS);
        let stickiness = dau.iter().zip(&mau).map(|(&dau, &mau)| match mau {
            0 => 0.0,
            mau => dau as f64 / mau as f64,
        });
        let stickiness: Vec<f64> = stickiness.collect();
        Table::default()
            .with("period", names)
            .with("dau", dau)
            .with("wau", wau)
            .with("mau", mau)
            .with("stickiness", stickiness)
            .with("partial", partial)
    }
}

/// Distinct users of the `length` days that end with each of `days`, which follow each other.
///
/// Blocks of `length` days: the days that end with one are the end of the block before and the start of its own, so that
/// each day is united twice, whatever the length (van Herk, Gil and Werman).
fn rolling(presence: &Presence, days: &[NaiveDate], length: usize) -> Vec<u64> {
    let empty = RoaringBitmap::new();
    let users = |day: Day| {
        NaiveDate::from_epoch_days(day)
            .and_then(|day| presence.of_day(day))
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
            let last = ends.front().unwrap_or(&empty);
            ends.push_front(last | users(day));
        }
        let mut start = RoaringBitmap::new();
        for day in (first..).take(block.len()) {
            start |= users(day);
            counts.push(match ends.pop_front() {
                Some(end) => end.union_len(&start),
                None => start.len(),
            });
        }
    }
    counts
}
