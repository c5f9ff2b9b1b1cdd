//! Stickiness: on how many periods of the window users were active.
//!
//! For n = 1 to the number of periods: `users` = users active in exactly n periods, `cumulative` = in at least n. A
//! calendar week or month counts with its days that lie in the window. A row is of no period: those that the window or the
//! present cuts are in the note `partial_periods`. Definitions: `docs/metrics.md`, "Active users, stickiness, lifecycle"; the ratio of
//! the same name is in [`super::active_users`].

use serde::Deserialize;

use super::presence::Presence;
use super::table::Table;
use crate::window::{Grain, Window};

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stickiness {
    /// Length of a period.
    #[serde(default)]
    pub grain: Grain,
}

impl Stickiness {
    /// The answer, from the presence of the window.
    pub fn answer(&self, presence: &Presence, window: &Window) -> Table {
        let periods = window.periods(self.grain);
        // Numbers of users are dense: an array is the smallest map there is.
        let mut periods_of_user: Vec<u16> = Vec::new();
        for &period in &periods {
            let users = presence.of_period(period);
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
        // Numbers that were in no period.
        users.remove(0);
        let mut cumulative = users.clone();
        for place in (1..cumulative.len()).rev() {
            let above = cumulative.get(place).copied().unwrap_or(0);
            if let Some(users) = cumulative.get_mut(place - 1) {
                *users += above;
            }
        }
        Table::default()
            .with("periods", (1..).take(users.len()).collect::<Vec<u64>>())
            .with("users", users)
            .with("cumulative", cumulative)
    }
}
