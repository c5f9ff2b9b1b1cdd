//! The rollup: writes lines for closed days that lack one, and rewrites lines whose period has
//! changed.

use std::collections::BTreeSet;
use std::time::Instant;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use tracing::{info, warn};

use super::{Engine, RollupAnswer};
use crate::error::{Error, ErrorCode, Result};
use crate::rollup::{self, RollupLine, RollupLog, Sources};
use crate::window::Window;

/// The days without a line that get one. In each case existing lines are brought up to date with
/// the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollupScope {
    /// Every day that is due, as the scheduler does it.
    Due,
    /// Every closed day, as on request.
    Closed,
    /// One closed day.
    Day(NaiveDate),
    /// None.
    None,
}

impl Engine {
    /// Writes the rollups that are missing, and rewrites those whose period has changed since: by
    /// late events or an erasure. A line whose period includes expired days stays as it is.
    ///
    /// # Errors
    /// `bad_day` for a day that is not over, and if a file cannot be read or written.
    pub fn rollup(&self, scope: RollupScope, now: DateTime<Utc>) -> Result<RollupAnswer> {
        // One at a time: two would find the same days missing.
        let _one = self.lock_rollup_log();
        let started = Instant::now();
        let folder = self.store.folder();
        let mut log = RollupLog::load(folder)?;
        // A clock that is ahead must not close the current day.
        let now = now.min(last_microsecond(self.store.last_trusted_day(now)));
        let closed = rollup::last_closed_day(now);
        // A day whose period includes expired days can no longer be counted.
        let first_whole = self
            .store
            .expiry()
            .states_from
            .map(|kept_from| kept_from + Days::new(u64::from(rollup::PERIOD_DAYS) - 1));
        let mut days = self.missing_days(scope, &log, first_whole, closed, now)?;
        // Before anything is counted: events that arrive meanwhile make the line outdated again.
        let first = log.first_day().into_iter().chain(days.first().copied());
        let sources = match first.min() {
            None => {
                return Ok(RollupAnswer {
                    ok: true,
                    days: Vec::new(),
                });
            }
            Some(first) => {
                let first = rollup::first_of_period(first).to_epoch_days();
                Sources(self.store.revisions(&(first..closed.to_epoch_days() + 1))?)
            }
        };
        let mut outdated = log.outdated_days(&sources, closed);
        outdated.retain(|day| first_whole.is_none_or(|first| *day >= first));
        days.extend(outdated);
        let had_line = log.days();
        let mut failed = None;
        let changed = log.write(folder, &days, &sources, |day| {
            let window = Window::utc(day, rollup::PERIOD_DAYS);
            match self.count_usage(window, rollup::MAX_FEATURES) {
                Ok(counted) => {
                    let numbers = counted.numbers();
                    Some(RollupLine::new(day, self.config.rollup_at, numbers))
                }
                // A damaged segment costs the days that need it, and no others.
                Err(error) => {
                    failed = failed.take().or(Some(error));
                    None
                }
            }
        })?;
        if !changed.is_empty() {
            self.monitoring().count_rollup(started.elapsed());
        }
        let corrected = changed.iter().filter(|day| had_line.contains(day)).count();
        let added = changed.len() - corrected;
        if added > 0 {
            info!(days = added, "Rolled up {added} days");
        }
        if corrected > 0 {
            info!(
                days = corrected,
                "Corrected the rollups of {corrected} days whose periods got late events or lost erased ones"
            );
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(RollupAnswer {
                ok: true,
                days: changed,
            }),
        }
    }

    /// The days of a scope that have no line and get one.
    fn missing_days(
        &self,
        scope: RollupScope,
        log: &RollupLog,
        first_whole: Option<NaiveDate>,
        closed: NaiveDate,
        now: DateTime<Utc>,
    ) -> Result<BTreeSet<NaiveDate>> {
        let keep_days = self.config.rollup_retention_days;
        let done = log.days();
        let first = first_whole.or_else(|| self.store.first_day());
        let until = |last| {
            let days = rollup::missing_days(first, last, keep_days, &done);
            Ok(days.into_iter().collect())
        };
        let bad_day = |message: String| Err(Error::bad_input(ErrorCode::BadDay, message));
        match scope {
            RollupScope::None => Ok(BTreeSet::new()),
            RollupScope::Due => until(rollup::last_due_day(now, self.config.rollup_at)),
            RollupScope::Closed => until(closed),
            RollupScope::Day(day) if day > closed => bad_day(format!(
                "day is {day}; allowed is a day that is over, up to {closed}"
            )),
            RollupScope::Day(day) if day + Days::new(u64::from(keep_days)) <= closed => bad_day(
                format!("day is {day}; rollups are kept for {keep_days} days up to {closed}"),
            ),
            RollupScope::Day(day) if done.contains(&day) => Ok(BTreeSet::new()),
            RollupScope::Day(day) if first_whole.is_some_and(|first| day < first) => {
                bad_day(format!("day is {day}; its period includes expired days"))
            }
            RollupScope::Day(day) => Ok(BTreeSet::from([day])),
        }
    }

    /// Brings existing lines up to date with the events where possible, and traces a failure.
    pub(super) fn correct_rollups(&self, now: DateTime<Utc>) {
        if let Err(error) = self.rollup(RollupScope::None, now) {
            warn!("Rollups are not corrected, and the next rollup tries again: {error}");
        }
    }
}

/// The last microsecond of a day.
fn last_microsecond(day: NaiveDate) -> DateTime<Utc> {
    (day + Days::new(1)).and_time(NaiveTime::MIN).and_utc() - TimeDelta::microseconds(1)
}
