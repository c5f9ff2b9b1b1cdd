//! Stickiness: in how many periods of the window users were active.
//!
//! For n = 1 to the number of periods: `users` = users active in exactly n periods, `cumulative` =
//! in at least n. A calendar week or month counts with its days that lie in the window. As a row
//! belongs to no single period, the note `partial_periods` lists those that the window or the
//! present cuts. Definitions: `docs/metrics.md`, "Active users, stickiness, lifecycle"; the ratio
//! of the same name is in [`super::active_users`].

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::filter::Filter;
use super::source::Source;
use super::table::Table;
use super::{Answer, Measure};
use crate::error::Result;
use crate::window::Grain;

/// The parameters.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stickiness {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
}

impl Measure for Stickiness {
    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        let window = source.window();
        let active = source.active_days(window.days_in_epoch(), &Filter::default())?;
        let periods = window.periods(self.grain);
        // Codes of users are dense: an array is the smallest map there is.
        let mut periods_of_user: Vec<u16> = Vec::new();
        for &period in &periods {
            source.check_cancelled()?;
            let users = active.of_period(period);
            if let Some(greatest) = users.max() {
                let needed = greatest as usize + 1;
                periods_of_user.resize(periods_of_user.len().max(needed), 0);
            }
            for user in users {
                if let Some(periods) = periods_of_user.get_mut(user as usize) {
                    *periods += 1;
                }
            }
        }
        let mut users = vec![0_u64; periods.len() + 1];
        for active in periods_of_user {
            if let Some(users) = users.get_mut(usize::from(active)) {
                *users += 1;
            }
        }
        // Codes that were in no period.
        users.remove(0);
        let mut cumulative = users.clone();
        for place in (1..cumulative.len()).rev() {
            let above = cumulative.get(place).copied().unwrap_or(0);
            if let Some(users) = cumulative.get_mut(place - 1) {
                *users += above;
            }
        }
        let table = Table::default()
            .with("periods", (1..).take(users.len()).collect::<Vec<u64>>())
            .with("users", users)
            .with("cumulative", cumulative);
        let cut = window.cut_periods(self.grain, now);
        Ok(Answer::from(table).with_note("partial_periods", json!(cut)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::metrics::frame::FrameSource;

    #[test]
    fn users_are_counted_by_their_periods() {
        let day = |day: u32, user| (format!("2024-03-0{day} 10:00"), user);
        let events = [
            day(1, "ann"),
            day(2, "ann"),
            day(3, "ann"),
            day(1, "bob"),
            day(1, "bob"),
            day(3, "cyd"),
            day(2, ""),
        ];
        let events: Vec<_> = events
            .iter()
            .map(|(time, user)| (time.as_str(), "action", *user, ""))
            .collect();
        let rows = FrameSource::new("2024-03-03", 3, &events).rows(json!({"metric":"stickiness"}));
        let expected = json!([
            {"periods":1,"users":2,"cumulative":3},
            {"periods":2,"users":0,"cumulative":1},
            {"periods":3,"users":1,"cumulative":1},
        ]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_note_lists_the_periods_that_are_cut() {
        let mut source = FrameSource::new("2024-03-03", 7, &[]);
        let query = json!({"metric":"stickiness","grain":"month"});
        let answer = source.query(query, "2024-03-20 00:00").expect("a result");
        let cut = answer.notes.get("partial_periods");
        assert_eq!(cut, Some(&json!(["2024-02-01", "2024-03-01"])));
    }
}
