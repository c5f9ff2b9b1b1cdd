//! `POST /api/analytics/rollup`.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::described::{Errors, KeyErrors, WriteErrors};
use super::extract::Keyed;
use super::json_response::JsonResponse;
use super::query_string::parameters;
use crate::engine::{RollupAnswer, RollupScope};
use crate::error::ErrorCode;
use crate::window::named_day;

/// Writes the rollups that are missing or outdated, or that of a day.
#[utoipa::path(
    post,
    path = "/api/analytics/rollup",
    operation_id = "rollup",
    tag = "operation",
    params(("day" = Option<NaiveDate>, Query, description = "A day that is over.")),
    responses(
        (status = 200, description = "The days with a new or changed line.", body = RollupAnswer),
        Errors, KeyErrors, WriteErrors
    )
)]
pub async fn rollup(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<RollupAnswer>> {
    let mut scope = RollupScope::Closed;
    for (field, value) in parameters(&query.unwrap_or_default(), &["day"])? {
        if field == "day" {
            scope = RollupScope::Day(named_day("day", ErrorCode::BadDay, &value)?);
        }
    }
    app.run_job(move |engine| engine.rollup(scope, Utc::now()))
        .await
        .map(JsonResponse)
}
