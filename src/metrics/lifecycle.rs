//! Lifecycle: where the active users of each period come from, and how many fell silent.
//!
//! - `new`: the first event ever seen lies in the period. `returning`: active in it and in the one
//!   before.
//! - `resurrecting`: active in it, not in the one before, seen before that.
//! - `dormant`: active in the period before and not in it, counted in that period only, shown
//!   negative.
//!
//! Always new + returning + resurrecting = active users of the period. Every period that the window
//! touches has a row, with all its days up to the end of the window, those before the window
//! included. With a filter only the events that meet it exist, so that `new` is the first such
//! event. `partial` says that the window or the present cuts the period. Definitions:
//! `docs/metrics.md`, "Active users, stickiness, lifecycle".

use chrono::{DateTime, Days, Utc};
use serde::Deserialize;
use utoipa::ToSchema;

use super::filter::Filter;
use super::source::Source;
use super::table::Table;
use super::{Answer, Measure};
use crate::daily::Day;
use crate::error::Result;
use crate::window::Grain;

/// The parameters.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
}

impl Measure for Lifecycle {
    /// Days of the period that the window cuts, and of the one before.
    fn days_before(&self) -> u16 {
        match self.grain {
            Grain::Day => 1,
            Grain::Week => 13,
            Grain::Month => 61,
        }
    }

    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        let window = source.window();
        let periods = window.periods(self.grain);
        let Some(first) = periods.first() else {
            return Ok(Table::default().into());
        };
        let ever = Day::MIN..window.days_in_epoch().end;
        let mut active_days = source.active_days(ever, &Filter::default())?;
        let before = self.grain.period_of(first.first_day - Days::new(1));
        let mut previous = active_days.of_period(before);
        let mut seen = active_days.take_before(first.first_day).users();
        let mut names = Vec::new();
        let (mut new, mut returning) = (Vec::new(), Vec::new());
        let (mut resurrecting, mut dormant) = (Vec::new(), Vec::new());
        let mut partial = Vec::new();
        for period in periods {
            source.check_cancelled()?;
            let active = active_days.of_period(period);
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
        Ok(Table::default()
            .with("period", names)
            .with("new", new)
            .with("returning", returning)
            .with("resurrecting", resurrecting)
            .with("dormant", dormant)
            .with("partial", partial)
            .into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::metrics::frame::FrameSource;

    #[test]
    fn an_active_user_is_new_returning_or_resurrecting() {
        let rows = FrameSource::new(
            "2024-03-03",
            3,
            &[
                ("2024-02-01 10:00", "action", "ann", ""),
                ("2024-03-01 10:00", "action", "bob", ""),
                ("2024-03-02 10:00", "action", "ann", ""),
                ("2024-03-02 10:00", "action", "bob", ""),
                ("2024-03-02 10:00", "action", "cyd", ""),
                ("2024-03-02 10:00", "action", "", ""),
                // After the window.
                ("2024-03-04 10:00", "action", "dan", ""),
            ],
        )
        .rows(json!({"metric":"lifecycle"}));
        let row = |day: &str, [new, returning, resurrecting, dormant]: [i64; 4]| {
            json!({"period":day,"new":new,"returning":returning,"resurrecting":resurrecting,
                   "dormant":dormant,"partial":false})
        };
        let expected = [
            row("2024-03-01", [1, 0, 0, 0]),
            row("2024-03-02", [1, 1, 1, 0]),
            row("2024-03-03", [0, 0, 0, -3]),
        ];
        assert_eq!(rows, json!(expected));
    }
}
