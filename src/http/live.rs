//! `GET /api/analytics/live`: events as they are accepted, as server-sent events.
//!
//! Each message has the number of events that were accepted since the message before, and the
//! newest hundred of them as they are in the event log. A browser's `EventSource` cannot send
//! headers; the page reads the stream with `fetch`.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::HandlerResult;
use super::described::{DashKeyErrors, Errors};
use super::extract::Keyed;
use crate::store::{Commit, Subscription};

/// Shortest time between two messages: faster ones cannot be read.
const PACE: Duration = Duration::from_millis(250);
/// Silence after which a comment is sent, so that proxies keep the connection and its end is
/// noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Accepted events as server-sent events, until the server stops.
#[utoipa::path(
    get,
    path = "/api/analytics/live",
    operation_id = "live",
    tag = "operation",
    responses(
        (
            status = 200,
            description = "Messages `before` and `events`: `{\"accepted\":1,\"events\":[…]}`.",
            body = String,
            content_type = "text/event-stream"
        ),
        Errors, DashKeyErrors
    )
)]
pub async fn live(Keyed(app): Keyed) -> HandlerResult<Response> {
    let (before, watch) = app.run_short(|engine| engine.store().subscribe()).await?;
    let messages = stream::unfold((Some(before), watch), next_message);
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("still there");
    let headers = [
        (
            header::CACHE_CONTROL,
            // A proxy that compresses would wait for more bytes to compress.
            HeaderValue::from_static("no-store, no-transform"),
        ),
        // nginx would wait for a full buffer.
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    Ok((headers, Sse::new(messages).keep_alive(heartbeat)).into_response())
}

type State = (Option<Commit>, Subscription);

/// The next message: at first the newest events of the log, then those that are accepted.
async fn next_message((before, mut watch): State) -> Option<(Result<Event, Infallible>, State)> {
    let event = match before {
        Some(before) => message("before", &before),
        None => {
            let first = watch.next().await?;
            tokio::time::sleep(PACE).await;
            message("events", &watch.gather(first))
        }
    };
    Some((Ok(event), (None, watch)))
}

/// One message. Lines of the log are JSON objects without a line break.
fn message(name: &str, commit: &Commit) -> Event {
    let events: Vec<_> = crate::event::lines(&commit.lines)
        .map(|line| String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)))
        .collect();
    let (accepted, events) = (commit.accepted, events.join(","));
    let data = format!("{{\"accepted\":{accepted},\"events\":[{events}]}}");
    Event::default().event(name).data(data)
}
