//! Work on the store that the command line asks for next to a running server: `POST
//! /api/analytics/seal`, `rebuild` and `verify` start jobs, `POST /api/analytics/expire` responds
//! when it is done.

use axum::extract::RawQuery;
use axum::response::Response;
use chrono::Utc;

use super::HandlerResult;
use super::described::{DashKeyErrors, Errors, WriteErrors};
use super::extract::Keyed;
use super::jobs::{JobKind, JobResponse};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use crate::engine::ExpireAnswer;
use crate::error::ErrorCode;
use crate::store::Clock;
use crate::window::named_day;

/// Starts a job that seals the event log and joins small segments.
#[utoipa::path(
    post,
    path = "/api/analytics/seal",
    operation_id = "seal",
    tag = "operation",
    responses(JobResponse, Errors, DashKeyErrors)
)]
pub async fn seal(Keyed(app): Keyed) -> HandlerResult<Response> {
    app.start_job(JobKind::Seal, |engine, progress| {
        engine.seal_with(Utc::now(), progress)
    })
}

/// Starts a job that makes the daily states again.
#[utoipa::path(
    post,
    path = "/api/analytics/rebuild",
    operation_id = "rebuild",
    tag = "operation",
    responses(JobResponse, Errors, DashKeyErrors)
)]
pub async fn rebuild(Keyed(app): Keyed) -> HandlerResult<Response> {
    app.start_job(JobKind::Rebuild, |engine, progress| {
        engine.rebuild_with(progress)
    })
}

/// Starts a job that verifies every checksum.
#[utoipa::path(
    post,
    path = "/api/analytics/verify",
    operation_id = "verify",
    tag = "operation",
    responses(JobResponse, Errors, DashKeyErrors)
)]
pub async fn verify(Keyed(app): Keyed) -> HandlerResult<Response> {
    app.start_job(JobKind::Verify, |engine, progress| engine.verify(progress))
}

/// Removes expired data, with today's date also after a jump of the clock.
#[utoipa::path(
    post,
    path = "/api/analytics/expire",
    operation_id = "expire",
    tag = "operation",
    params(("confirm" = Option<NaiveDate>, Query, description = "Today's date in UTC.")),
    responses(
        (status = 200, description = "What was removed.", body = ExpireAnswer),
        Errors, DashKeyErrors, WriteErrors
    )
)]
pub async fn expire(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<ExpireAnswer>> {
    let fields = parameters(&query.unwrap_or_default(), &["confirm"])?;
    let confirmed = fields
        .first()
        .map(|(_, date)| named_day("confirm", ErrorCode::BadDate, date))
        .transpose()?;
    let operator = app.operator();
    app.run_job(move |engine| {
        let now = Utc::now();
        let clock = match confirmed {
            None => Clock::Doubted,
            Some(date) => {
                engine.by(&operator, now).confirm_clock(date)?;
                Clock::Confirmed
            }
        };
        engine.expire(now.date_naive(), clock)
    })
    .await
    .map(JsonResponse)
}
