//! `GET /api/analytics/export?days=&end=&tz=&format=`: the events of a window as a stream.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use futures_util::stream;
use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::warn;

use super::refusal::Refusal;
use super::reports::{NO_STORE, parameters, window_of};
use super::{Answer, App};
use crate::engine::Cancel;
use crate::error::{Error, Result};
use crate::export::events::EventFormat;

/// Bytes that are handed over at once: a slow client takes as many in seconds.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that wait for a slow client.
const PIECES_WAITING: usize = 8;

/// A client that takes nothing for so long has given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends the export when the response is dropped: its client is gone, does not read, or has all of it.
struct Reading(Cancel);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A part of an export, or its end.
enum Part {
    Bytes(Bytes),
    End,
}

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
    let Some(turn) = app.exports.try_take(1) else {
        return Err(Error::Busy("too many exports at once").into());
    };
    let (sender, mut parts) = mpsc::channel::<Result<Part>>(PIECES_WAITING);
    let engine = app.engine.clone();
    let runtime = Handle::current();
    let reading = Reading(Cancel::default());
    let cancel = reading.0.clone();
    tokio::task::spawn_blocking(move || {
        let send = |part| {
            let sent = runtime.block_on(sender.send_timeout(part, STALL_TIMEOUT));
            sent.map_err(|_| Error::Busy("the client is gone or does not read"))
        };
        let done = engine.export_events(&request, format, Utc::now(), &cancel, |part| {
            let mut part = Bytes::from(part);
            while !part.is_empty() {
                let piece = part.split_to(part.len().min(PIECE_BYTES));
                send(Ok(Part::Bytes(piece)))?;
            }
            Ok(())
        });
        if let Err(error) = &done {
            warn!("An export ended early: {error}");
        }
        // Nobody may be there to be told.
        let _ = send(done.map(|()| Part::End));
        drop(turn);
    });
    let first = match parts.recv().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(Part::Bytes(part))) => part,
        Some(Ok(Part::End)) => Bytes::new(),
        None => return Err(Refusal::internal()),
    };
    let rest = stream::unfold(Some((parts, reading)), async |open| {
        let (mut parts, reading) = open?;
        match parts.recv().await {
            Some(Ok(Part::Bytes(part))) => Some((Ok(part), Some((parts, reading)))),
            Some(Ok(Part::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // Without its end an answer must not look whole.
            None => Some((Err(Error::Busy("the export stopped")), None)),
        }
    });
    let first = stream::once(async { Ok(first) });
    let body = Body::from_stream(stream::StreamExt::chain(first, rest));
    Ok((
        NO_STORE,
        [(header::CONTENT_TYPE, format.media_type())],
        body,
    )
        .into_response())
}
