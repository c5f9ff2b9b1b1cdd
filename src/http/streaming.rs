//! Responses that are produced on a blocking thread as fast as the client reads them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::warn;

use super::HandlerResult;
use super::error_response::ErrorResponse;
use super::json_response::NO_STORE;
use crate::engine::Cancel;
use crate::error::{Error, Result};

/// Most bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that are buffered for a slow client.
const CHUNKS_BUFFERED: usize = 8;
/// Time without progress after which the client counts as disconnected.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Cancels the work when the response is dropped: its client has disconnected, does not read, or
/// has all of it.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A chunk, or the end.
enum Chunk {
    Bytes(Bytes),
    End,
}

/// Streams the bytes that `produce` passes to its sink. The sink fails when the client has
/// disconnected, and `produce` is cancelled. The permit is returned when `produce` has ended. An
/// error before the first chunk is an error response; a later one aborts the response, so that it
/// never looks complete.
pub(super) async fn streamed(
    media_type: HeaderValue,
    permit: OwnedSemaphorePermit,
    produce: impl FnOnce(&mut dyn FnMut(Vec<u8>) -> Result<()>, &Cancel) -> Result<()> + Send + 'static,
) -> HandlerResult<Response> {
    let (sender, mut chunks) = mpsc::channel::<Result<Chunk>>(CHUNKS_BUFFERED);
    let runtime = Handle::current();
    let guard = CancelOnDrop(Cancel::default());
    let cancel = guard.0.clone();
    tokio::task::spawn_blocking(move || {
        let send = |chunk| {
            let sent = runtime.block_on(sender.send_timeout(chunk, STALL_TIMEOUT));
            sent.map_err(|_| Error::Cancelled("the client disconnected or does not read"))
        };
        let mut sink = |bytes| {
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() {
                let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                send(Ok(Chunk::Bytes(chunk)))?;
            }
            Ok(())
        };
        let done = produce(&mut sink, &cancel);
        if let Err(error) = &done {
            warn!("A response was aborted: {error}");
        }
        // The client may have disconnected.
        let _ = send(done.map(|()| Chunk::End));
        drop(permit);
    });
    let first = match chunks.recv().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(first)) => first,
        None => return Err(ErrorResponse::internal()),
    };
    let rest = stream::unfold(Some((Some(first), chunks, guard)), async |state| {
        let (first, mut chunks, guard) = state?;
        let next = match first {
            Some(first) => Some(Ok(first)),
            None => chunks.recv().await,
        };
        match next {
            Some(Ok(Chunk::Bytes(bytes))) => Some((Ok(bytes), Some((None, chunks, guard)))),
            Some(Ok(Chunk::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // A response without its end must not look complete.
            None => Some((Err(Error::Cancelled("the response stopped")), None)),
        }
    });
    let body = Body::from_stream(rest);
    Ok((NO_STORE, [(header::CONTENT_TYPE, media_type)], body).into_response())
}
