//! Usage of a window.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::query::StoreSource;
use super::{Cancel, Cost, Engine, UsageAnswer, check_limit};
use crate::error::Result;
use crate::metrics::query::Query;
use crate::metrics::source::Source;
use crate::metrics::usage::{MAX_FEATURES, Usage, UsageCounts};
use crate::monitoring::QuerySource;
use crate::window::{self, Window, WindowRequest};

impl Engine {
    /// Usage of a window.
    ///
    /// # Errors
    /// As [`Engine::usage_of`].
    pub fn usage(&self, request: &WindowRequest, now: DateTime<Utc>) -> Result<UsageAnswer> {
        self.usage_of(request, MAX_FEATURES, now, &Cancel::default())
    }

    /// Usage of a window, with the `features` most used features.
    ///
    /// # Errors
    /// `bad_limit` for a wrong number of features; if the window is wrong, stored data that is
    /// needed is damaged, or the query is cancelled.
    pub fn usage_of(
        &self,
        request: &WindowRequest,
        features: usize,
        now: DateTime<Utc>,
        cancel: &Cancel,
    ) -> Result<UsageAnswer> {
        Self::check_features(features)?;
        self.counted("usage", || match request.resolve(now) {
            Ok(window) => {
                let source = StoreSource::new(self, window, cancel);
                let answer = usage_from(&source, features, now);
                (source.read(), answer)
            }
            Err(error) => (QuerySource::States, Err(error)),
        })
    }

    /// Checks the number of features of a usage.
    ///
    /// # Errors
    /// `bad_limit` for a wrong one.
    pub fn check_features(features: usize) -> Result<()> {
        check_limit(features, MAX_FEATURES)
    }

    /// Reads into memory what the first queries after a start would wait for: the weeks of a year,
    /// and the days of a month, in each reporting zone.
    ///
    /// # Errors
    /// If a segment or state that is needed is damaged.
    pub fn warm_up(&self, now: DateTime<Utc>) -> Result<()> {
        let mut month = Query::parse(br#"{"metric":"active_users"}"#)?;
        let others = self.config.zones.others();
        for tz in [Tz::UTC].into_iter().chain(others) {
            let year = WindowRequest {
                days: Some(i64::from(window::MAX_DAYS)),
                tz: Some(tz.name().into()),
                ..WindowRequest::default()
            };
            // Not a zone whose states are still being made.
            if self.cost_of_usage(&year, now) == Cost::States {
                // Not counted as queries: no client waits for these.
                let cancel = Cancel::default();
                let source = StoreSource::new(self, year.resolve(now)?, &cancel);
                usage_from(&source, MAX_FEATURES, now)?;
                month.window.tz = year.tz;
                let mut source = StoreSource::new(self, month.window.resolve(now)?, &cancel);
                self.answer(&month, &mut source, now)?;
            }
        }
        Ok(())
    }

    /// Usage of a window, before anything is divided: for the rollup.
    pub(super) fn count_usage(&self, window: Window, features: usize) -> Result<UsageCounts> {
        let cancel = Cancel::default();
        let source = StoreSource::new(self, window, &cancel);
        Usage { features }.run(&source)
    }

    /// Gives codes to the features that the states of a window name: those of a day have one once
    /// its state was read.
    pub(super) fn load_features(&self, window: &Window) -> Result<()> {
        let days = window.days_in_epoch();
        // Days of a zone reach into the days of UTC before and after.
        let days = days.start - 1..days.end + 1;
        self.store.activities(Tz::UTC, days).map(drop)
    }
}

fn usage_from(
    source: &StoreSource<'_>,
    features: usize,
    now: DateTime<Utc>,
) -> Result<UsageAnswer> {
    let window = *source.window();
    let counted = Usage { features }.run(source)?;
    let (covered_from, visitors) = (source.covered_from(0), source.visitors(0)?);
    Ok(UsageAnswer::of(
        counted,
        &window,
        now,
        covered_from,
        visitors,
    ))
}
