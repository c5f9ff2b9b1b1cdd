//! A response that is made piece by piece on a thread of its own, as fast as its client takes it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::warn;

use super::Answer;
use super::refusal::Refusal;
use super::reports::NO_STORE;
use crate::engine::Cancel;
use crate::error::{Error, Result};

/// Bytes that are handed over at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for a slow client.
const PIECES_WAITING: usize = 8;
/// A client that takes nothing for so long is gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Cancels the work when the response is dropped: its client is gone, does not read, or has all of it.
struct Reading(Cancel);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A piece, or the end.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Streams what `produce` hands to the function that it gets, which fails when the client is gone; `produce` is cancelled
/// then. The permit is returned when it has ended. What goes wrong before the first piece is a refusal; later it cuts the response
/// off, so that it never looks whole.
pub(super) async fn streamed(
    media_type: HeaderValue,
    permit: OwnedSemaphorePermit,
    produce: impl FnOnce(&mut dyn FnMut(Vec<u8>) -> Result<()>, &Cancel) -> Result<()> + Send + 'static,
) -> Answer<Response> {
    let (sender, mut pieces) = mpsc::channel::<Result<Piece>>(PIECES_WAITING);
    let runtime = Handle::current();
    let reading = Reading(Cancel::default());
    let cancel = reading.0.clone();
    tokio::task::spawn_blocking(move || {
        let send = |piece| {
            let sent = runtime.block_on(sender.send_timeout(piece, STALL_TIMEOUT));
            sent.map_err(|_| Error::Cancelled("the client disconnected or does not read"))
        };
        let mut sink = |bytes| {
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
                send(Ok(Piece::Bytes(piece)))?;
            }
            Ok(())
        };
        let done = produce(&mut sink, &cancel);
        if let Err(error) = &done {
            warn!("A response ended early: {error}");
        }
        // Nobody may be there to be told.
        let _ = send(done.map(|()| Piece::End));
        drop(permit);
    });
    let first = match pieces.recv().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(first)) => first,
        None => return Err(Refusal::internal()),
    };
    let rest = stream::unfold(Some((Some(first), pieces, reading)), async |state| {
        let (first, mut pieces, reading) = state?;
        let next = match first {
            Some(first) => Some(Ok(first)),
            None => pieces.recv().await,
        };
        match next {
            Some(Ok(Piece::Bytes(bytes))) => Some((Ok(bytes), Some((None, pieces, reading)))),
            Some(Ok(Piece::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // Without its end a response must not look whole.
            None => Some((Err(Error::Cancelled("the response stopped")), None)),
        }
    });
    let body = Body::from_stream(rest);
    Ok((NO_STORE, [(header::CONTENT_TYPE, media_type)], body).into_response())
}
