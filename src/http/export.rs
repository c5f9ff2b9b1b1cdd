//! `GET /api/analytics/export?days=&end=&tz=&filter=&format=`: streams the events of a window.

use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use chrono::Utc;
use serde_json::{Map, Value};

use super::HandlerResult;
use super::accept::accepted_of;
use super::described::{Binary, DashKeyErrors, Errors, FormatErrors};
use super::extract::Keyed;
use super::query_string::{WINDOW, parameters, window_of};
use super::streaming::streamed;
use crate::error::{Error, ErrorCode, Result};
use crate::export::events::EventFormat;
use crate::metrics::query::Query;
use crate::window::WindowRequest;

/// Streams the events of a window.
///
/// An error before the first part is an error response; a later one aborts the
/// response.
#[utoipa::path(
    get,
    path = "/api/analytics/export",
    operation_id = "export",
    tag = "queries",
    params(
        WindowRequest,
        ("filter" = Option<String>, Query, description = "A filter as JSON, as in a query, with `cohort`."),
        ("format" = inline(Option<EventFormat>), Query, description = "As Accept, or Parquet.")
    ),
    responses(
        (
            status = 200,
            description = "The events.",
            content(
                (String = "application/x-ndjson"),
                (String = "text/csv"),
                (Binary = "application/vnd.apache.arrow.stream"),
                (Binary = "application/vnd.apache.parquet")
            )
        ),
        Errors, DashKeyErrors, FormatErrors
    )
)]
pub async fn export(
    Keyed(app): Keyed,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> HandlerResult<Response> {
    let query = query.unwrap_or_default();
    let mut fields = parameters(&query, &[&WINDOW[..], &["filter", "format"]].concat())?;
    let named = fields.extract_if(.., |(field, _)| field == "format").next();
    let format = match named {
        Some((_, name)) => name.parse()?,
        None => accepted_of(
            &headers,
            &EventFormat::ALL.map(|one| (one, one.media_type())),
        )?,
    };
    let filter = fields.extract_if(.., |(field, _)| field == "filter").next();
    let query = query_of(fields, filter.map(|(_, json)| json))?;
    let Some(permit) = app.permits.exports.try_acquire(1) else {
        return Err(Error::Busy("too many exports at once").into());
    };
    let (engine, operator) = (app.engine.clone(), app.operator());
    let media_type = HeaderValue::from_static(format.media_type());
    streamed(media_type, permit, move |sink, cancel| {
        let by = engine.by(&operator, Utc::now());
        by.export_events(&query, format, cancel, sink)
    })
    .await
}

/// The query of the events of a window.
fn query_of(window: Vec<(String, String)>, filter: Option<String>) -> Result<Query> {
    let filter = filter.map(|json| serde_json::from_str(&json)).transpose();
    let filter: Option<Map<String, Value>> = filter.map_err(|error| {
        let message = format!("filter is not a JSON object: {error}");
        Error::bad_input(ErrorCode::BadQuery, message)
    })?;
    Query::of_events(window_of(window)?, filter.unwrap_or_default())
}
