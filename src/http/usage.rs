//! `GET /api/analytics/usage`.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::described::{Errors, KeyErrors};
use super::extract::Keyed;
use super::json_response::JsonResponse;
use super::query_string::{parameters, window_of};
use crate::engine::UsageAnswer;
use crate::error::{Error, ErrorCode, shown};
use crate::metrics::usage::MAX_FEATURES;
use crate::window::WindowRequest;

/// Usage of a window: active users, events by feature and by type.
#[utoipa::path(
    get,
    path = "/api/analytics/usage",
    operation_id = "usage",
    tag = "queries",
    params(
        WindowRequest,
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10_000, description = "Most features that are listed."),
    ),
    responses(
        (status = 200, description = "The numbers.", body = UsageAnswer),
        Errors, KeyErrors
    )
)]
pub async fn usage(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<UsageAnswer>> {
    let query = query.unwrap_or_default();
    let mut fields = parameters(&query, &["days", "end", "tz", "limit"])?;
    let mut features = MAX_FEATURES;
    for (_, limit) in fields.extract_if(.., |(field, _)| field == "limit") {
        features = limit.parse().map_err(|_| {
            let limit = shown(&limit);
            let message = format!("limit is {limit:?}; allowed is 1 to {MAX_FEATURES}");
            Error::bad_input(ErrorCode::BadLimit, message)
        })?;
    }
    let request = window_of(fields)?;
    let now = Utc::now();
    let cost = app.engine.cost_of_usage(&request, now);
    app.run_query(cost, move |engine, cancel| {
        engine.usage_of(&request, features, now, cancel)
    })
    .await
    .map(JsonResponse)
}
