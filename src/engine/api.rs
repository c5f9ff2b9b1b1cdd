//! The answers of the engine, in the shape of the interface's JSON.

use chrono::NaiveDate;
use serde::Serialize;

use crate::cohorts::Cohorts;
use crate::event::Refusal;
use crate::metrics::usage::UsageNumbers;
use crate::store::{Erased, Expired, RestCounts};
use crate::window::WindowFacts;

/// The answer to a batch of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IngestAnswer {
    /// Whether the batch was well formed and not every event was refused.
    pub ok: bool,
    /// Events stored now and durable.
    pub logged: usize,
    /// Events stored before, known by their id.
    pub duplicates: usize,
    /// Events older than any window, and those of erased users.
    pub ignored: usize,
    /// Events refused.
    pub rejected: usize,
    /// Why, for each refused event.
    pub errors: Vec<Refusal>,
    /// What was cut or left out of events that were not refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Refusal>,
    /// Events stored now whose name is beyond a daily limit: they are counted under *rest*.
    #[serde(skip_serializing_if = "RestCounts::is_empty")]
    pub rest: RestCounts,
}

/// The answer to the question of usage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsageAnswer {
    /// Always true.
    pub ok: bool,
    /// When it was computed.
    pub ts: String,
    /// Length of the window in days.
    pub period_days: u16,
    /// The numbers.
    #[serde(flatten)]
    pub numbers: UsageNumbers,
    /// Days with data.
    pub unique_days: u64,
    /// ISO weeks with data.
    pub unique_weeks: u64,
    /// The window.
    pub window: WindowFacts,
    /// Days of the window that are not over.
    pub partial_days: Vec<NaiveDate>,
    /// Mondays of the ISO weeks that the window or the present cuts; `wau` counts the part of them that lies in the window.
    pub partial_weeks: Vec<NaiveDate>,
    /// First day of the window that is still known in full.
    pub covered_from: NaiveDate,
    /// Sum over days of the day's distinct users; `dau` is this divided by `unique_days`.
    pub users_per_day: u64,
    /// Sum over weeks of the week's distinct users; `wau` is this divided by `unique_weeks`.
    pub users_per_week: u64,
}

/// What an expiry removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExpireAnswer {
    /// Always true.
    pub ok: bool,
    /// Of the store.
    #[serde(flatten)]
    pub expired: Expired,
    /// Lines of the rollup log.
    pub rollup_lines: usize,
}

/// The receipt of an erasure: what was found and removed where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EraseAnswer {
    /// Always true: all of it is gone.
    pub ok: bool,
    /// When it was asked for.
    pub asked_at: String,
    /// In the store.
    #[serde(flatten)]
    pub erased: Erased,
    /// Cohorts that named one of them.
    pub cohorts: usize,
    /// Exports in the data folder that were brought up to date.
    pub exports: usize,
}

/// The answer to a confirmation of the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClockAnswer {
    /// Always true: events are accepted by this clock.
    pub ok: bool,
    /// What the clock says.
    pub clock: String,
}

/// The cohorts there are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CohortsAnswer {
    /// Always true.
    pub ok: bool,
    /// By name.
    pub cohorts: Cohorts,
}

impl From<Cohorts> for CohortsAnswer {
    fn from(cohorts: Cohorts) -> Self {
        Self { ok: true, cohorts }
    }
}
