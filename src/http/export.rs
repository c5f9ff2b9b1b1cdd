//! `GET /api/analytics/export?days=&end=&tz=&format=`: the events of a window as a stream.

use axum::extract::RawQuery;
use axum::http::HeaderValue;
use axum::response::Response;
use chrono::Utc;

use super::Answer;
use super::extract::Keyed;
use super::reports::{parameters, window_of};
use super::streamed::streamed;
use crate::error::Error;
use crate::export::events::EventFormat;

/// Streams the events. What goes wrong before the first part is a refusal; later it cuts the answer off.
pub async fn export(Keyed(app): Keyed, RawQuery(query): RawQuery) -> Answer<Response> {
    let mut fields = parameters(&query.unwrap_or_default(), &["days", "end", "tz", "format"])?;
    let mut format = EventFormat::Parquet;
    for (_, name) in fields.extract_if(.., |(field, _)| field == "format") {
        format = name.parse()?;
    }
    let request = window_of(fields)?;
    let Some(turn) = app.exports.try_take(1) else {
        return Err(Error::Busy("too many exports at once").into());
    };
    let engine = app.engine.clone();
    let media_type = HeaderValue::from_static(format.media_type());
    streamed(media_type, turn, move |sink, cancel| {
        engine.export_events(&request, format, Utc::now(), cancel, sink)
    })
    .await
}
