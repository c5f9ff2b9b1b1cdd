//! Samples for monitoring, which the scheduler takes in the background.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, NaiveDate, Utc};
use parking_lot::Mutex;
use tracing::debug;

use super::{Engine, LimitStatus};
use crate::error::Result;
use crate::metrics::usage::UsageCounts;
use crate::monitoring::{
    ClosedDay, Gauges, Limit, Monitoring, Process, QueryKind, QuerySource, Resources, WINDOW_DAYS,
};
use crate::rollup::{self, Sources};
use crate::window::Window;

/// The numbers of the last closed day, and what they were counted from.
#[derive(Default)]
pub(super) struct CountedDay(Mutex<Option<(Option<String>, ClosedDay)>>);

impl From<LimitStatus> for Limit {
    fn from(limit: LimitStatus) -> Self {
        Self {
            name: limit.name,
            limit: limit.limit,
            used: limit.used,
            reached: limit.reached,
        }
    }
}

impl Engine {
    /// The counters of the process.
    pub fn monitoring(&self) -> &Arc<Monitoring> {
        self.store.monitoring()
    }

    /// Samples what needs no file.
    pub fn sample_gauges(&self, now: DateTime<Utc>) {
        // A full disk is not probed here, which would write a file.
        let is_accepting = self.store.check_accepting().is_ok();
        self.monitoring().set_gauges(Gauges {
            at: seconds(now),
            opened_at: seconds(self.opened_at),
            is_writable: is_accepting && self.store.is_clock_trusted(now),
            limits: self.limits().into_iter().map(Limit::from).collect(),
            tables: self.table_gauges(),
            ..self.store.gauges()
        });
    }

    /// Samples what needs files or more time: disk, memory, process, rollup, and the numbers of the
    /// last closed day, which are counted again only when its events or those of the days before
    /// have changed.
    pub fn sample_resources(&self, now: DateTime<Utc>) {
        // What cannot be read is left out of the page; the jobs that need it trace why.
        let due_since = self.rollup_due_since(now).unwrap_or_else(|error| {
            debug!("It is not known whether a rollup is due: {error}");
            None
        });
        let day = self.count_closed_day(now).unwrap_or_else(|error| {
            debug!("The numbers of the last closed day are not known: {error}");
            None
        });
        self.monitoring().set_resources(Resources {
            disk_free: self.store.folder().free_bytes(),
            rollup_due_since: due_since.map_or(0.0, seconds),
            memory: self.store.memory(),
            process: Process::now(),
            day,
        });
    }

    /// Time since which the oldest missing rollup is due, but not before the start; `None` if none
    /// is missing.
    fn rollup_due_since(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let rollup_at = self.config.rollup_at;
        let after_last = self.last_rollup_day()?.and_then(|day| day.succ_opt());
        let oldest = after_last.or_else(|| self.store.first_day());
        let missing = oldest.filter(|day| *day <= rollup::last_due_day(now, rollup_at));
        Ok(missing.map(|day| rollup::due_at(day, rollup_at).max(self.opened_at)))
    }

    /// The numbers of the last day of UTC that is over.
    fn count_closed_day(&self, now: DateTime<Utc>) -> Result<Option<ClosedDay>> {
        // A clock that is ahead must not close the current day.
        let today = now.date_naive().min(self.store.last_trusted_day(now));
        let Some(day) = today.pred_opt() else {
            return Ok(None);
        };
        let period = rollup::first_of_period(day).to_epoch_days()..today.to_epoch_days();
        // Before anything is counted: with events that arrive meanwhile it is counted again.
        let sources = Sources(self.store.revisions(&period)?).of(day);
        let mut counted = self.counted_day.0.lock();
        if let Some((known, numbers)) = &*counted
            && (known, numbers.day) == (&sources, day)
        {
            return Ok(Some(numbers.clone()));
        }
        let numbers = self.numbers_of(day)?;
        *counted = Some((sources, numbers.clone()));
        Ok(Some(numbers))
    }

    fn numbers_of(&self, day: NaiveDate) -> Result<ClosedDay> {
        let count = |days: u16| self.count_usage(Window::utc(day, days), 1);
        let windows: Vec<UsageCounts> =
            WINDOW_DAYS.into_iter().map(count).collect::<Result<_>>()?;
        let mut active_users = [0; WINDOW_DAYS.len()];
        for (users, window) in active_users.iter_mut().zip(&windows) {
            *users = window.users;
        }
        // The first window is the day alone.
        let of_day = windows.into_iter().next();
        Ok(ClosedDay {
            day,
            active_users,
            events: of_day.map(|of_day| of_day.event_types).unwrap_or_default(),
        })
    }

    /// Runs a query, and counts it. `run` returns what was read in addition to the result.
    pub(super) fn counted<T>(
        &self,
        name: &str,
        run: impl FnOnce() -> (QuerySource, Result<T>),
    ) -> Result<T> {
        let started = Instant::now();
        let (source, result) = run();
        if let Some(kind) = QueryKind::named(name) {
            self.monitoring()
                .count_query(kind, source, &result, started.elapsed());
        }
        result
    }
}

fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NAMES;

    #[test]
    fn every_metric_is_counted_under_its_own_name() {
        let kinds: Vec<QueryKind> = NAMES
            .iter()
            .map(|name| QueryKind::named(name).expect(name))
            .chain([QueryKind::USAGE])
            .collect();
        assert_eq!(QueryKind::named("usage"), Some(QueryKind::USAGE));
        assert_eq!(kinds.len(), QueryKind::COUNT, "a kind is not a metric");
    }
}
