//! The body of a request on the wire.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::caller::BodyQuota;
use super::connection_state::ConnectionState;

/// Most bytes of a body on the wire: a hundred events with as much metadata as is allowed.
pub const MAX_WIRE_BYTES: usize = 2 << 20;

/// The body of a request, which takes from its client's quota as it arrives.
pub struct RequestBody {
    pub body: Incoming,
    /// Most bytes that count.
    pub max_bytes: usize,
    pub quota: BodyQuota,
    pub state: Arc<ConnectionState>,
}

/// A failure to receive a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The client is sending too much at once.
    TooManyBytes,
    /// It ended before its announced length.
    EndedEarly,
}

impl BodyError {
    /// The reason among the causes of an error.
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
            Self::TooManyBytes => "the client is sending too much at once",
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
            // Everything before the end was passed on already.
            ready!(self.state.poll_ended(context));
            return Poll::Ready(Some(Err(BodyError::EndedEarly.into())));
        };
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|_| BodyError::EndedEarly)?;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        // Bytes beyond the limit of a body are dropped later and do not count.
        let max_bytes = self.max_bytes;
        if !self.quota.take(bytes, max_bytes) {
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
