//! The socket of a connection. It adds what hyper's HTTP/1 lacks: a write timeout, and bodies for
//! the responses that hyper itself sends to invalid heads.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::connection_state::ConnectionState;
use super::error_response::ErrorResponse;
use crate::error::ErrorCode;

/// A socket with a write timeout.
pub struct Socket {
    tcp: TcpStream,
    state: Arc<ConnectionState>,
    write_timeout: Duration,
    /// Runs while the socket's send buffer is full.
    deadline: Option<Pin<Box<Sleep>>>,
    /// True if a line of the next head was received.
    has_line: bool,
    /// Bytes of our response, which replaces that of hyper.
    own: Vec<u8>,
}

impl Socket {
    /// The socket of a connection that waits for its first request.
    pub fn new(tcp: TcpStream, state: Arc<ConnectionState>, write_timeout: Duration) -> Self {
        Self {
            tcp,
            state,
            write_timeout,
            deadline: None,
            has_line: false,
            own: Vec::new(),
        }
    }

    /// The TCP stream.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// Fails if the socket has taken nothing for too long.
    fn check_progress<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            self.state.set_blocked(false);
            return written;
        }
        self.state.set_blocked(true);
        let timeout = self.write_timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(context));
        // The system would keep its part of the response in memory for minutes. If this fails, it
        // is only freed later.
        let _ = self.tcp.set_zero_linger();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its response",
        )))
    }

    /// Writes the rest of our response.
    fn poll_own(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let written = Pin::new(&mut self.tcp).poll_write(context, &self.own);
            let written = ready!(self.check_progress(context, written))?;
            self.own.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Drops bytes that hyper writes while no request is served, which are its response to an
    /// invalid head, without a body, and queues our response. Returns the number of bytes that were
    /// dropped.
    fn replace_own_response(&mut self, start: &[u8], bytes: usize) -> Option<usize> {
        if !self.state.is_waiting() {
            return None;
        }
        let rejection = match start.strip_prefix(b"HTTP/1.1 ")?.get(..3)? {
            b"431" if !self.has_line => uri_too_long(),
            b"431" => head_too_large(),
            b"414" => uri_too_long(),
            b"400" => bad_request("the head of the request is not HTTP/1"),
            _ => return None,
        };
        self.own.extend(rejection.raw());
        Some(bytes)
    }
}

/// The response to a request that cannot be parsed.
pub fn bad_request(message: &str) -> ErrorResponse {
    ErrorResponse::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
}

/// The response to a request whose path is too long.
pub fn uri_too_long() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::URI_TOO_LONG,
        ErrorCode::UriTooLong,
        format!(
            "the path and query string are longer than {} bytes",
            super::MAX_URI_BYTES
        ),
    )
}

/// The response to a request whose head is too large.
pub fn head_too_large() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ErrorCode::HeadTooLarge,
        format!(
            "the head of the request has more than {} bytes or {} header lines",
            super::MAX_HEAD_BYTES,
            super::MAX_HEADERS
        ),
    )
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if !self.state.has_ended() {
            ready!(Pin::new(&mut self.tcp).poll_read(context, buffer))?;
            let read = buffer.filled().get(before..).unwrap_or_default();
            if !read.is_empty() || buffer.remaining() == 0 {
                self.has_line |= memchr::memchr(b'\n', read).is_some();
                return Poll::Ready(Ok(()));
            }
        }
        self.state.poll_end(context).map(Ok)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(context))?;
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        let start = pieces.first().map_or(&[][..], |piece| piece);
        if let Some(taken) = self.replace_own_response(start, bytes) {
            return Poll::Ready(Ok(taken));
        }
        let written = Pin::new(&mut self.tcp).poll_write_vectored(context, pieces);
        self.check_progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when its own buffer is empty.
        ready!(self.poll_own(context))?;
        if self.state.flushed() {
            self.has_line = false;
        }
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(context))?;
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
