//! `POST /api/analytics/query`.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use super::accept::accepted;
use super::described::{BodyErrors, Errors, FormatErrors, KeyErrors};
use super::extract::Keyed;
use super::json_response::NO_STORE;
use super::{HandlerResult, body};
use crate::metrics::query::{Query, QueryAnswer};

/// Any metric, in the format that `Accept` prefers.
#[utoipa::path(
    post,
    path = "/api/analytics/query",
    operation_id = "query",
    tag = "queries",
    request_body = Query,
    responses(
        (
            status = 200,
            description = "The rows of the metric.",
            content(
                (QueryAnswer = "application/json"),
                (String = "text/csv"),
                (Vec<u8> = "application/vnd.apache.arrow.stream"),
                (Vec<u8> = "application/vnd.apache.parquet")
            )
        ),
        Errors, KeyErrors, BodyErrors, FormatErrors
    )
)]
pub async fn query(Keyed(app): Keyed, headers: HeaderMap, body: Body) -> HandlerResult<Response> {
    let format = accepted(&headers)?;
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let query = app
        .permits
        .decode(body, |json| Ok(Query::parse(json)?))
        .await?;
    let now = Utc::now();
    let cost = app.engine.cost_of(&query, now);
    let encoded = app
        .run_query(cost, move |engine, cancel| {
            format.encode(&engine.query(&query, now, cancel)?)
        })
        .await?;
    let content_type = [(header::CONTENT_TYPE, format.media_type())];
    Ok((NO_STORE, content_type, encoded).into_response())
}
