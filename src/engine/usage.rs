//! Usage of a window.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use chrono_tz::Tz;
use polars::prelude::{DataFrame, LazyFrame, OptFlags};

use super::{Cancel, Engine, UsageAnswer};
use crate::error::{Error, Result};
use crate::metrics::query::Query;
use crate::metrics::usage::{MAX_FEATURES, UsageCounts, usage};
use crate::window::{self, Grain, Window, WindowRequest};

impl Engine {
    /// Usage of a window.
    ///
    /// # Errors
    /// If the window is wrong or a segment that is needed is damaged.
    pub fn usage(&self, request: &WindowRequest, now: DateTime<Utc>) -> Result<UsageAnswer> {
        self.usage_of(request, MAX_FEATURES, now)
    }

    /// Usage of a window, with the `features` most used features.
    ///
    /// # Errors
    /// `bad_limit` if these are none or too many, and as [`Engine::usage`].
    pub fn usage_of(
        &self,
        request: &WindowRequest,
        features: usize,
        now: DateTime<Utc>,
    ) -> Result<UsageAnswer> {
        if !(1..=MAX_FEATURES).contains(&features) {
            return Err(Error::bad_input(
                "bad_limit",
                format!("limit is {features}; allowed is 1 to {MAX_FEATURES}"),
            ));
        }
        let window = request.resolve(now)?;
        let counted = self.count_usage(&window, features)?;
        Ok(UsageAnswer {
            ok: true,
            ts: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            period_days: window.days(),
            unique_days: counted.days,
            unique_weeks: counted.weeks,
            window: window.describe(now),
            partial_days: window.cut_periods(Grain::Day, now),
            partial_weeks: window.cut_periods(Grain::Week, now),
            covered_from: self.covered_from(&window),
            users_per_day: counted.user_days,
            users_per_week: counted.user_weeks,
            numbers: counted.numbers(),
        })
    }

    /// Reads and keeps what the first questions after a start would wait for: the weeks of a year, and the days of a month.
    ///
    /// # Errors
    /// If a segment or state that is needed is damaged.
    pub fn warm_up(&self, now: DateTime<Utc>) -> Result<()> {
        let year = WindowRequest {
            days: Some(i64::from(window::MAX_DAYS)),
            ..WindowRequest::default()
        };
        self.usage(&year, now)?;
        let month = Query::parse(br#"{"metric":"active_users"}"#)?;
        self.query(&month, now, &Cancel::default()).map(drop)
    }

    /// First day of the window that is known in full: days of UTC by their states, those of a zone by their events.
    pub(super) fn covered_from(&self, window: &Window) -> NaiveDate {
        let expiry = self.store.expiry();
        let kept_from = match window.tz() {
            Tz::UTC => expiry.states_from,
            _ => expiry.raw_from,
        };
        kept_from.map_or(window.first_day(), |day| window.first_whole_day_from(day))
    }

    /// Makes the features that days of a window name known by number: those of a day are once its state was read.
    pub(super) fn name_features(&self, window: &Window) -> Result<()> {
        let days = window.days_in_epoch();
        // Days of a zone reach into the days of UTC before and after.
        let days = days.start - 1..days.end + 1;
        self.store.activities(days).map(drop)
    }

    pub(super) fn count_usage(&self, window: &Window, features: usize) -> Result<UsageCounts> {
        if window.tz() == Tz::UTC {
            let first = window.first_day().to_epoch_days();
            let days = first..window.last_day().to_epoch_days() + 1;
            let activities = self.store.activities(days)?;
            let names = self.store.names();
            return Ok(UsageCounts::of_days(&activities, names, features));
        }
        self.name_features(window)?;
        let events = self.store.scan(window.range_us())?;
        let counted = execute(usage(events, window.tz()).plans())?;
        UsageCounts::read(&counted, self.store.names(), features)
    }
}

/// Executes plans together on the streaming engine: what they share is computed once.
fn execute(plans: Vec<LazyFrame>) -> Result<Vec<DataFrame>> {
    let plans = plans.into_iter().map(|frame| frame.logical_plan).collect();
    let engine = polars::prelude::Engine::Streaming;
    Ok(LazyFrame::collect_all_with_engine(
        plans,
        engine,
        OptFlags::default(),
    )?)
}
