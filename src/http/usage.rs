//! `GET /api/analytics/usage`.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::extract::Keyed;
use super::json_response::JsonResponse;
use super::query_string::{parameters, window_of};
use crate::engine::UsageAnswer;
use crate::error::{Error, shown};
use crate::metrics::usage::MAX_FEATURES;

/// `GET /api/analytics/usage?days=&end=&tz=&limit=`
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
            Error::bad_input("bad_limit", message)
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
