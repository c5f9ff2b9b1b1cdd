//! `GET /api/analytics/usage`.

use axum::extract::RawQuery;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::Utc;

use super::HandlerResult;
use super::accept::accepted;
use super::described::{Binary, Errors, FormatErrors, KeyErrors};
use super::entity_tag::{self, EntityTag};
use super::extract::Reader;
use super::query_string::{WINDOW, parameters, window_of};
use crate::engine::{Cancel, Cost, Engine, UsageAnswer};
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
        (
            status = 200,
            description = "The numbers; other formats than JSON have a row for each.",
            content(
                (UsageAnswer = "application/json"),
                (String = "text/csv"),
                (Binary = "application/vnd.apache.arrow.stream"),
                (Binary = "application/vnd.apache.parquet")
            )
        ),
        Errors, KeyErrors, FormatErrors
    )
)]
pub async fn usage(
    Reader(app): Reader,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> HandlerResult<Response> {
    let format = accepted(&headers)?;
    let query = query.unwrap_or_default();
    let mut fields = parameters(&query, &[&WINDOW[..], &["limit"]].concat())?;
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
    if let Some(spark) = app.spark.clone() {
        let usage = move |_: &Engine, cancel: &Cancel| {
            let found = spark.usage(&request, features, now, &|| cancel.check())?;
            format.encode(&found, &found.answer.numbers.rows())
        };
        let encoded = app.run_query(Cost::Events, usage).await?;
        return Ok(entity_tag::respond(format, encoded));
    }
    let closed = EntityTag::of(&app, &request, &[], &query, format).await?;
    if let Some(known) = closed.as_ref().and_then(|closed| closed.if_known(&headers)) {
        return Ok(known);
    }
    let cost = app.engine.cost_of_usage(&request, now);
    let encoded = app
        .run_query(cost, move |engine, cancel| {
            let answer = engine.usage_of(&request, features, now, cancel)?;
            format.encode(&answer, &answer.numbers.rows())
        })
        .await?;
    Ok(entity_tag::respond_tagged(format, encoded, closed))
}
