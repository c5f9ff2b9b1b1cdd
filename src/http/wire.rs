//! The body of a request as it comes over the wire.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::caller::Room;
use super::progress::Progress;

/// Bytes of a body on the wire: a hundred events with all the metadata they may have.
pub const MAX_WIRE_BYTES: usize = 2 << 20;

/// The body of a request, which takes room of its client as it arrives.
pub struct RequestBody {
    pub body: Incoming,
    pub room: Room,
    pub progress: Arc<Progress>,
}

/// Why a body was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The client sends too much at once.
    TooManyBytes,
    /// It ended before it was whole.
    EndedEarly,
}

impl BodyError {
    /// The reason, if it is one of ours.
    pub fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut error = Some(error);
        while let Some(one) = error {
            if let Some(reason) = one.downcast_ref() {
                return Some(*reason);
            }
            error = one.source();
        }
        None
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyBytes => "the client sends too much at once",
            Self::EndedEarly => "the body ended early",
        })
    }
}

impl StdError for BodyError {}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            // Whatever came before the end was passed on already.
            ready!(self.progress.poll_ended(context));
            return Poll::Ready(Some(Err(BodyError::EndedEarly.into())));
        };
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|_| BodyError::EndedEarly)?;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        // What is beyond the limit of a body is thrown away.
        if !self.room.take(bytes, MAX_WIRE_BYTES) {
            return Poll::Ready(Some(Err(BodyError::TooManyBytes.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
