//! `GET /api/analytics/export?days=&end=&tz=&format=`: streams the events of a window.

use axum::extract::RawQuery;
use axum::http::HeaderValue;
use axum::response::Response;
use chrono::Utc;

use super::HandlerResult;
use super::described::{Errors, KeyErrors};
use super::extract::Keyed;
use super::query_string::{parameters, window_of};
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
    params(WindowRequest, ("format" = Option<EventFormat>, Query, description = "Parquet if absent.")),
    responses(
        (
            status = 200,
            description = "The events.",
            content(
                (String = "application/x-ndjson"),
                (String = "text/csv"),
                (Vec<u8> = "application/vnd.apache.arrow.stream"),
                (Vec<u8> = "application/vnd.apache.parquet")
            )
        ),
        Errors, KeyErrors
    )
)]
pub async fn export(Keyed(app): Keyed, RawQuery(query): RawQuery) -> HandlerResult<Response> {
    let mut fields = parameters(&query.unwrap_or_default(), &["days", "end", "tz", "format"])?;
    let mut format = EventFormat::Parquet;
    for (_, name) in fields.extract_if(.., |(field, _)| field == "format") {
        format = name.parse()?;
    }
    let request = window_of(fields)?;
    let Some(permit) = app.permits.exports.try_acquire(1) else {
        return Err(Error::Busy("too many exports at once").into());
    };
    let engine = app.engine.clone();
    let media_type = HeaderValue::from_static(format.media_type());
    streamed(media_type, permit, move |sink, cancel| {
        engine.export_events(&request, format, Utc::now(), cancel, sink)
    })
    .await
}
