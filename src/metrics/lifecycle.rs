//! Lifecycle: where the active users of each period come from, and how many fell silent.
//!
//! - `new`: the first event ever seen lies in the period. `returning`: active in it and in the one before.
//! - `resurrecting`: active in it, not in the one before, seen before that.
//! - `dormant`: active in the period before and not in it, counted in that period only, shown negative.
//!
//! Always new + returning + resurrecting = active users of the period. Every period that the window touches has a row,
//! counted as a whole: the days before the window are read, those after it are not there. With a filter only the events
//! that meet it exist, so that `new` is the first such event. `partial` says that the window or the
//! present cuts the period. Definitions: `docs/metrics.md`, "Active users, stickiness, lifecycle".

use chrono::{DateTime, Days, Utc};
use serde::Deserialize;

use super::presence::Presence;
use super::table::Table;
use crate::window::{Grain, Window};

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
}

impl Lifecycle {
    /// Days before the window that are counted in it: of the period that it cuts, and of the one before.
    pub fn days_before(&self) -> u16 {
        match self.grain {
            Grain::Day => 1,
            Grain::Week => 13,
            Grain::Month => 61,
        }
    }

    /// The answer, from the presence up to the end of the window.
    pub fn answer(&self, mut presence: Presence, window: &Window, now: DateTime<Utc>) -> Table {
        let periods = window.periods(self.grain);
        let Some(first) = periods.first() else {
            return Table::default();
        };
        let before = self.grain.period_of(first.first_day - Days::new(1));
        let mut previous = presence.of_period(before);
        let mut seen = presence.take_before(first.first_day).users();
        let mut names = Vec::new();
        let (mut new, mut returning) = (Vec::new(), Vec::new());
        let (mut resurrecting, mut dormant) = (Vec::new(), Vec::new());
        let mut partial = Vec::new();
        for period in periods {
            let active = presence.of_period(period);
            let stayed = active.intersection_len(&previous);
            let known = active.intersection_len(&seen);
            names.push(period.first_day.to_string());
            new.push(active.len() - known);
            returning.push(stayed);
            resurrecting.push(known - stayed);
            dormant.push(-i64::try_from(previous.len() - stayed).unwrap_or(i64::MAX));
            partial.push(window.cuts(&period, now));
            seen |= &active;
            previous = active;
        }
        Table::default()
            .with("period", names)
            .with("new", new)
            .with("returning", returning)
            .with("resurrecting", resurrecting)
            .with("dormant", dormant)
            .with("partial", partial)
    }
}
