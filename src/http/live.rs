//! `GET /api/analytics/live`: events as they are accepted, as server-sent events.
//!
//! Each message has the number of events that were accepted since the one before, and the newest hundred of them as they are
//! in the event log. A browser's own `EventSource` sends no headers; the page reads the stream with fetch.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::Answer;
use super::extract::Keyed;
use crate::store::{Commit, Watch};

/// Least time between two messages: as fast as an eye follows.
const PACE: Duration = Duration::from_millis(250);
/// Silence after which a sign of life is sent, so that proxies keep the connection and its end is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Messages that wait for the network.
const QUEUE: usize = 2;

/// Answers with a stream that ends with the server.
pub async fn live(Keyed(app): Keyed) -> Answer<Response> {
    let (before, watch) = app.engine.store().watch()?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(tell(before, watch, sender));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (
            header::CACHE_CONTROL,
            // A proxy that compresses would wait for more to compress.
            HeaderValue::from_static("no-store, no-transform"),
        ),
        // nginx would wait for a full buffer.
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    Ok((headers, Body::new(Stream(receiver))).into_response())
}

/// Sends what is accepted until the watcher is gone or the server stops.
async fn tell(before: Commit, mut watch: Watch, to: Sender<Bytes>) {
    if to.send(message("before", &before)).await.is_err() {
        return;
    }
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(HEARTBEAT, watch.next()) => next,
            () = to.closed() => return,
        };
        let sent = match next {
            Err(_) => to.send(Bytes::from_static(b": still there\n\n")).await,
            Ok(None) => return,
            Ok(Some(first)) => {
                tokio::time::sleep(PACE).await;
                to.send(message("events", &watch.gather(first))).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// One message: lines of the log are JSON objects without a line break.
fn message(name: &str, commit: &Commit) -> Bytes {
    let accepted = commit.accepted;
    let mut text =
        format!("event: {name}\ndata: {{\"accepted\":{accepted},\"events\":[").into_bytes();
    for (place, line) in crate::event::lines(&commit.lines).enumerate() {
        if place > 0 {
            text.push(b',');
        }
        text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
    }
    text.extend_from_slice(b"]}\n\n");
    text.into()
}

/// A body that is made of what comes out of a channel.
struct Stream(Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
