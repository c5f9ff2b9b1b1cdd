//! `POST /api/analytics/rollup`.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::extract::Keyed;
use super::json_response::JsonResponse;
use super::query_string::{day, parameters};
use crate::engine::{RollupAnswer, RollupScope};

/// `POST /api/analytics/rollup?day=`
pub async fn rollup(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<RollupAnswer>> {
    let mut scope = RollupScope::Closed;
    for (field, value) in parameters(&query.unwrap_or_default(), &["day"])? {
        if field == "day" {
            scope = RollupScope::Day(day("day", "bad_day", &value)?);
        }
    }
    app.run_job(move |engine| engine.rollup(scope, Utc::now()))
        .await
        .map(JsonResponse)
}
