//! `GET /api/analytics/export?days=&end=&tz=&format=`: the events of a window as a stream.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use futures_util::stream;
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tracing::warn;

use super::refusal::Refusal;
use super::reports::{NO_STORE, parameters, window_of};
use super::{Answer, App};
use crate::engine::Cancel;
use crate::error::{Error, Result};
use crate::export::events::EventFormat;

/// Parts that wait for a slow client: each is some MB.
const PARTS_WAITING: usize = 2;

/// Streams the events. What goes wrong before the first part is a refusal; later it cuts the answer off.
pub async fn export(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Answer<Response> {
    app.keys.check(&headers)?;
    let mut fields = parameters(&query.unwrap_or_default(), &["days", "end", "tz", "format"])?;
    let mut format = EventFormat::Parquet;
    for (_, name) in fields.extract_if(.., |(field, _)| field == "format") {
        format = name.parse()?;
    }
    let request = window_of(fields)?;
    let Ok(turn) = app.exports.clone().try_acquire_owned() else {
        return Err(Error::Busy("too many exports at once").into());
    };
    let (sender, mut parts) = mpsc::channel::<Result<Bytes>>(PARTS_WAITING);
    let engine = app.engine.clone();
    tokio::task::spawn_blocking(move || {
        let done = engine.export_events(&request, format, Utc::now(), &Cancel::default(), |part| {
            // Nobody reads any more.
            sender
                .blocking_send(Ok(part.into()))
                .map_err(|_| Error::Busy("the client is gone"))
        });
        if let Err(error) = done {
            warn!("An export ended early: {error}");
            // Nobody may be there to be told.
            let _ = sender.blocking_send(Err(error));
        }
        drop(turn);
    });
    let first = match parts.recv().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(part)) => part,
        None => {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the server stops",
            ));
        }
    };
    let rest = stream::unfold(parts, async |mut parts| Some((parts.recv().await?, parts)));
    let first = stream::once(async { Ok(first) });
    let body = Body::from_stream(stream::StreamExt::chain(first, rest));
    Ok((
        NO_STORE,
        [(header::CONTENT_TYPE, format.media_type())],
        body,
    )
        .into_response())
}
