//! `POST /api/analytics/rollup`.

use axum::extract::RawQuery;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use super::HandlerResult;
use super::described::{DashKeyErrors, Errors, WriteErrors};
use super::extract::Keyed;
use super::jobs::{JobKind, JobResponse, prefers_job};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use crate::engine::{RollupAnswer, RollupScope};
use crate::error::ErrorCode;
use crate::window::named_day;

/// Writes the rollups that are missing or outdated, or that of a day; as a job if the client
/// prefers that.
#[utoipa::path(
    post,
    path = "/api/analytics/rollup",
    operation_id = "rollup",
    tag = "operation",
    params(("day" = Option<NaiveDate>, Query, description = "A day that is over.")),
    responses(
        (status = 200, description = "The days with a new or changed line.", body = RollupAnswer),
        JobResponse,
        Errors, DashKeyErrors, WriteErrors
    )
)]
pub async fn rollup(
    Keyed(app): Keyed,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> HandlerResult<Response> {
    let mut scope = RollupScope::Closed;
    for (field, value) in parameters(&query.unwrap_or_default(), &["day"])? {
        if field == "day" {
            scope = RollupScope::Day(named_day("day", ErrorCode::BadDay, &value)?);
        }
    }
    if prefers_job(&headers) {
        return app.start_job(JobKind::Rollup, move |engine, progress| {
            progress.commit()?;
            engine.rollup(scope, Utc::now())
        });
    }
    let rolled_up = app.run_job(move |engine| engine.rollup(scope, Utc::now()));
    Ok(JsonResponse(rolled_up.await?).into_response())
}
