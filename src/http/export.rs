//! `GET /api/analytics/export?days=&end=&tz=&format=`: streams the events of a window.

use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use chrono::Utc;

use super::HandlerResult;
use super::accept::accepted_of;
use super::described::{Binary, DashKeyErrors, Errors, FormatErrors};
use super::extract::Keyed;
use super::query_string::{WINDOW, parameters, window_of};
use super::streaming::streamed;
use crate::error::Error;
use crate::export::events::EventFormat;
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
    params(WindowRequest, ("format" = inline(Option<EventFormat>), Query, description = "As Accept, or Parquet.")),
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
    let mut fields = parameters(&query, &[&WINDOW[..], &["format"]].concat())?;
    let named = fields.extract_if(.., |(field, _)| field == "format").next();
    let format = match named {
        Some((_, name)) => name.parse()?,
        None => accepted_of(
            &headers,
            &EventFormat::ALL.map(|one| (one, one.media_type())),
        )?,
    };
    let request = window_of(fields)?;
    let Some(permit) = app.permits.exports.try_acquire(1) else {
        return Err(Error::Busy("too many exports at once").into());
    };
    let (engine, operator) = (app.engine.clone(), app.operator());
    let media_type = HeaderValue::from_static(format.media_type());
    streamed(media_type, permit, move |sink, cancel| {
        let by = engine.by(&operator, Utc::now());
        by.export_events(&request, format, cancel, sink)
    })
    .await
}
