//! The engine's responses, serialized as the JSON of HTTP and command line.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::audit::AuditEntry;
use super::follower::TableReadStatus;
use super::plan::QuarantineStatus;
use super::publication::{PublicationStatus, PublishedErasure};
use super::rejections::RejectionsAnswer;
use super::tables::TableAnswer;
use crate::cohorts::Cohorts;
use crate::event::Rejection;
use crate::export::lake::Exported;
use crate::metrics::cohort::Cohort;
use crate::metrics::usage::{UsageCounts, UsageNumbers};
use crate::monitoring::AlertStatus;
use crate::store::{Accepted, Erased, Expired, RestCounts, StoreSize};
use crate::window::{Grain, Window, WindowMeta, utc_string};

/// Response to a batch of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct IngestAnswer {
    /// The batch was well formed and not every event was rejected.
    pub ok: bool,
    /// Events stored now and durable.
    pub logged: usize,
    /// Events with the id of an event stored before.
    pub duplicates: usize,
    /// Events older than any window, and those of erased users.
    pub ignored: usize,
    /// Events rejected.
    pub rejected: usize,
    /// Events that the tracking plan quarantines, now or before: they are kept, and in no number
    /// until they are replayed. Absent without any.
    #[serde(skip_serializing_if = "is_zero")]
    pub quarantined: usize,
    /// The reason for each rejected event.
    pub errors: Vec<Rejection>,
    /// Fields of accepted events that were cut or left out, and what does not follow the tracking
    /// plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Rejection>,
    /// Events stored now whose name is beyond a daily limit: they count as *rest*.
    #[serde(skip_serializing_if = "RestCounts::is_empty")]
    pub rest: RestCounts,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Response to a query of usage.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct UsageAnswer {
    /// Always true.
    pub ok: bool,
    /// Time of the computation.
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
    pub window: WindowMeta,
    /// Days of the window that are not over.
    pub partial_days: Vec<NaiveDate>,
    /// Mondays of the ISO weeks that the window or the present cuts; `wau` counts the part of them
    /// that lies in the window.
    pub partial_weeks: Vec<NaiveDate>,
    /// First day of the window that is known completely.
    pub covered_from: NaiveDate,
    /// Sum over days of the day's distinct users; `dau` is this divided by `unique_days`.
    pub users_per_day: u64,
    /// Sum over weeks of the week's distinct users; `wau` is this divided by `unique_weeks`.
    pub users_per_week: u64,
    /// `daily` if some users are daily visitors, whose ids are new each day: `wau` and `mau` count
    /// them once a day. Absent if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitors: Option<&'static str>,
}

impl UsageAnswer {
    /// The response with the counts of a window, which is known completely from a day on.
    pub fn of(
        counted: UsageCounts,
        window: &Window,
        now: DateTime<Utc>,
        covered_from: NaiveDate,
        visitors: Option<&'static str>,
    ) -> Self {
        Self {
            ok: true,
            ts: utc_string(now),
            period_days: window.days(),
            unique_days: counted.days,
            unique_weeks: counted.weeks,
            window: window.describe(now),
            partial_days: window.cut_periods(Grain::Day, now),
            partial_weeks: window.cut_periods(Grain::Week, now),
            covered_from,
            users_per_day: counted.user_days,
            users_per_week: counted.user_weeks,
            visitors,
            numbers: counted.numbers(),
        }
    }
}

/// Data removed by an expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExpireAnswer {
    /// Always true.
    pub ok: bool,
    /// In the store.
    #[serde(flatten)]
    pub expired: Expired,
    /// Lines of the rollup log.
    pub rollup_lines: usize,
    /// Quarantined events. Absent without any.
    #[serde(skip_serializing_if = "is_zero")]
    pub held: usize,
}

/// Receipt of an erasure: what was removed where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EraseAnswer {
    /// Always true: everything is removed.
    pub ok: bool,
    /// Time of the request.
    pub asked_at: String,
    /// In the store.
    #[serde(flatten)]
    pub erased: Erased,
    /// Cohorts that listed one of the users.
    pub cohorts: usize,
    /// Saved reports that named one of the users, in their newest version or an earlier one.
    pub reports: usize,
    /// Alerts with a filter that named one of the users.
    pub alerts: usize,
    /// Exports in the data folder that were updated.
    pub exports: usize,
    /// The tables that the server publishes; absent if it publishes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedErasure>,
}

/// Response to a confirmation of the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClockAnswer {
    /// Always true: events are accepted with this clock.
    pub ok: bool,
    /// Time of the clock.
    pub clock: String,
}

/// The defined cohorts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CohortsAnswer {
    /// Always true.
    pub ok: bool,
    /// Sorted by name.
    #[schema(value_type = Vec<Cohort>)]
    pub cohorts: Cohorts,
}

impl From<Cohorts> for CohortsAnswer {
    fn from(cohorts: Cohorts) -> Self {
        Self { ok: true, cohorts }
    }
}

/// Entries of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AuditAnswer {
    /// Always true.
    pub ok: bool,
    /// Newest first.
    pub entries: Vec<AuditEntry>,
}

/// Result of a rollup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RollupAnswer {
    /// Always true.
    pub ok: bool,
    /// Days with a new or changed line, in order.
    pub days: Vec<NaiveDate>,
}

/// Result of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportAnswer {
    /// Always true.
    pub ok: bool,
    /// The events.
    #[serde(flatten)]
    pub exported: Exported,
    /// Daily rollups.
    pub rollups: usize,
    /// The tables, if it wrote some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableAnswer>,
}

/// Content of the demo's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DemoAnswer {
    /// Always true.
    pub ok: bool,
    /// Number of events.
    pub events: u64,
    /// The first day.
    pub first_day: Option<NaiveDate>,
    /// It was generated now, and not before.
    pub made: bool,
}

/// The status of the engine.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StatusAnswer {
    /// Always true.
    pub ok: bool,
    /// Time of the request.
    pub ts: String,
    /// Version of the program.
    pub version: &'static str,
    /// Time at which the engine was opened.
    pub opened_at: String,
    /// Events can be accepted.
    pub writable: bool,
    /// Number of accepted events.
    pub accepted: Accepted,
    /// Events that are not sealed yet.
    pub waiting: Waiting,
    /// The size of the store.
    pub store: StoreSize,
    /// The day of the oldest known event.
    pub first_day: Option<NaiveDate>,
    /// The day of the newest event.
    pub last_day: Option<NaiveDate>,
    /// First day whose events are all kept; absent while none expired.
    pub raw_from: Option<NaiveDate>,
    /// First day whose daily state is kept; absent while none expired.
    pub states_from: Option<NaiveDate>,
    /// The last trusted day of the clock, by which data expires.
    pub looked_on: Option<NaiveDate>,
    /// The reporting zones; the first is the default of the dashboard.
    pub zones: Vec<ZoneStatus>,
    /// The daily rollup.
    pub rollup: RollupStatus,
    /// Subscribers of live events.
    pub watchers: usize,
    /// Every limit with its use, and how often it was reached.
    pub limits: Vec<LimitStatus>,
    /// Requests with a wrong dashboard key since the start.
    pub wrong_keys: u64,
    /// The tables that the server publishes; absent if it publishes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publication: Option<PublicationStatus>,
    /// The table that the server reads its events from; absent if it takes events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<TableReadStatus>,
    /// Events that the tracking plan keeps out of the numbers.
    pub quarantine: QuarantineStatus,
    /// Recently rejected events.
    pub rejections: RejectionsAnswer,
    /// The alerts that the engine evaluates on its own numbers, active or not.
    pub alerts: Vec<AlertStatus>,
}

/// A limit and its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitStatus {
    /// Name of the limit.
    pub name: &'static str,
    /// The limit; 0 means unlimited.
    pub limit: u64,
    /// Current use; for a limit per client, that of the client with the most.
    pub used: u64,
    /// Number of times that it was reached since the start.
    pub reached: u64,
}

/// A reporting zone and its daily states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ZoneStatus {
    /// IANA name.
    pub zone: &'static str,
    /// The states include all sealed events. False while those of a new zone are being made.
    pub complete: bool,
    /// First day of the zone whose state is complete; absent if all that are kept are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_from: Option<NaiveDate>,
}

/// Events that are in the log and not in a segment yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Waiting {
    /// Number of events.
    pub events: usize,
    /// Time of arrival of the oldest.
    pub since: Option<String>,
    /// The same in seconds.
    pub seconds: u64,
}

/// Progress of the daily rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct RollupStatus {
    /// The last day that was rolled up.
    pub last_day: Option<NaiveDate>,
    /// The last day that is due.
    pub due_day: NaiveDate,
}
